"""Questions as prompts, and replies as answers.

`prompts.py` builds chat messages and fine-tuning targets. `answers.py` parses replies for rewards, traces and
evaluation; it finds the answer in a reply, and `option_reader.py` finds the option that the answer names, with
`line_reader.py`, `options.py`, `phrases.py` and `normalize.py` below it.
"""
