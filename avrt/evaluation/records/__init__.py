"""What an evaluation run leaves on disk: one JSON line per item, appended as it happens.

Layout of a run folder, one sub-folder per benchmark::

    <run>/<benchmark>/run.json              what was run: `RunInfo`
    <run>/<benchmark>/records.rank0.jsonl   appended by process 0, one fsynced line per item; likewise rank1, ...
    <run>/<benchmark>/records.jsonl         all items once, in the benchmark's order, written when the run is complete
    <run>/<benchmark>/metrics.json          every number, see `avrt.evaluation.scoring`

The rank files are the log and are never rewritten, except that the torn last line of a killed process is cut off when
its file is opened again. ``records.jsonl`` is made from them and can be made again. A reader takes the union of all of
them, so a run may be resumed with another number of processes, and a folder with ``records.jsonl`` alone is a whole
run too.

A record has a raw part (the question, the reply, what it cost) and a derived part (`DERIVED_FIELDS`: what scoring made
of the reply). The derived part follows from the raw part alone and can be computed again at any time.

Only the standard library is imported here.
"""
