"""The files of an evaluation run: one JSON line per item, appended as soon as the item is answered.

Layout of a run folder, one sub-folder per benchmark::

    <run>/<benchmark>/run.json              settings of the run: `RunInfo`
    <run>/<benchmark>/records.rank0.jsonl   appended by process 0, one fsynced line per item; likewise rank1, ...
    <run>/<benchmark>/records.jsonl         all items once, in the benchmark's order, written when the run is complete
    <run>/<benchmark>/metrics.json          every number, see `avrt.evaluation.scoring`

The rank files are the log and are never rewritten, except that an incomplete last line of a killed process is removed
when its file is opened again. ``records.jsonl`` is created from them and can be created again. A reader uses the union
of all of them, so a run may be resumed with another number of processes, and a folder with ``records.jsonl`` alone is a
complete run too.

A record has a raw part (the question, the reply, its tokens and time) and a derived part (`DERIVED_FIELDS`: the
scores). The derived part depends only on the raw part and can be computed again at any time.

Only the standard library is imported here.
"""
