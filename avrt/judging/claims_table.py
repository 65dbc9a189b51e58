"""The shares of replies that claim something, as a table."""

from __future__ import annotations

from collections.abc import Sequence

from avrt.evaluation.number_format import interval, percent
from avrt.evaluation.text_tables import Row, TextTable
from avrt.judging.claims_run import ClaimsShare


def claims_table(shares: Sequence[ClaimsShare]) -> TextTable:
    """A row for each evaluation: replies that report something seen, and something heard.

    Args:
        shares: two for each evaluation, as `avrt.judging.claims_run.run_claims` returns them.
    """
    rows = []
    for seen, heard in zip(shares[::2], shares[1::2], strict=True):
        cells = [str(seen.judged)]
        for share in (seen, heard):
            mark = " (not given)" if share.withheld else ""
            cells += [f"{percent(share.claiming / share.judged if share.judged else None)}{mark}"]
            cells += [interval(share.interval) if share.judged else ""]
        rows.append(Row(f"{seen.run} {seen.benchmark} {seen.modalities}", tuple(cells)))
    return TextTable(
        "Replies that claim to have seen or heard something",
        "evaluation",
        ("replies", "seen %", "95 %", "heard %", "95 %"),
        (tuple(rows),),
        ("A: black frames; V: silent audio. Shares of the replies with a verdict; intervals by clip",),
    )
