"""Memory, FLOPs and time of a run before it starts. No weights are loaded; shapes are enough."""
