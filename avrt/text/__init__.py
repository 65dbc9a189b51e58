"""Questions as prompts, and replies as answers.

`prompts.py` builds chat messages and fine-tuning targets. `answers.py` parses replies for rewards, traces and
evaluation; it finds the answer in a reply, and `option_reader.py` finds the option that the answer names.

Below it, from the sentence down to the character: `announcement_reader.py` (``the answer is B``, by the tables of
`cues.py`), `line_reader.py` (a line that is an answer by itself), `options.py` (an option at the beginning of a text),
`similarity.py` (an option in another notation), `phrases.py` (doubt, denial, correction) and `normalize.py`.
"""
