"""The student: its encoders, prompt sharing, log-probabilities, checkpoints and export."""
