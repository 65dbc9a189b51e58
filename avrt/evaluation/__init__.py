"""Evaluation on the benchmarks: questions, records of the replies, scores, comparison and report.

Start in `benchmarks` (the questions) and `scoring.py` (from replies to numbers). `records` keeps one line per question,
`server_runner.py` evaluates a model behind a server, `predictions.py` imports replies, `comparison.py` compares two
runs, `report` writes the HTML page. Students are evaluated by `lightning_modules.evaluate`.
"""
