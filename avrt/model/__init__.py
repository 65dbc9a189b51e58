"""The student model: an omni model's thinker with frozen encoders; `avrt.families` says what differs between models.

Start in `student.py` (`Student`, `StudentConfig`). `encoding.py` turns a sample into a prompt, `encoders.py` runs the
frozen encoders, `token_logprobs.py` computes log-probabilities of responses with the shared-prompt attention of
`shared_prompt.py`. `checkpoints.py` finds and reads checkpoints, `export.py` writes a folder for transformers and vLLM.
"""
