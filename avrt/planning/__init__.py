"""What a run needs before it is started: memory, arithmetic, time. Nothing is loaded; shapes are enough."""
