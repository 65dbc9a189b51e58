"""Quality of traces by a judge: a model that sees and hears the clip reads a trace and says which claims are false.

`python -m avrt judge` asks, `avrt.traces.verdicts` describes the records that it writes.
"""
