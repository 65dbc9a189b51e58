"""Numbers as text for tables: shares in percent, differences in percentage points, intervals and p-values."""

from __future__ import annotations

from collections.abc import Callable, Sequence

ABSENT = "–"


def percent(share: float | None) -> str:
    """A share in percent with one decimal; `ABSENT` for None."""
    return ABSENT if share is None else f"{100 * share:.1f}"


def signed(difference: float) -> str:
    """A difference of shares in percentage points, with its sign."""
    text = f"{100 * difference:+.1f}"
    return "0.0" if float(text) == 0 else text.replace("-", "−")


def interval(limits: Sequence[float], form: Callable[[float], str] = percent) -> str:
    """The two limits of an interval, each written by `form`. In a narrow column it breaks after the comma."""
    low, high = limits
    return f"[{form(low)}, {form(high)}]"


def p_value(p: float) -> str:
    """A p-value with three decimals."""
    return "<0.001" if p < 0.001 else f"{p:.3f}"
