"""Whether a decision that ends an experiment agrees with its analysis.

Computes nothing.
"""

from __future__ import annotations

from plop_lora.records import Analysis
from plop_lora.records.analysis import SHIP


def objection(ships: str | None, analysis: Analysis | None) -> str:
    """Return what speaks against an end of the experiment, or an empty text.

    To keep the control is the safe end, which only an arm that may ship speaks against.

    Args:
        ships: Name of the arm that is to ship, or None to keep the control.
        analysis: What the observations show; None where there are none.
    """
    if ships is None:
        winner = None if analysis is None else analysis.winner
        return "" if winner is None else f"The analysis says that {winner!r} may ship."
    if analysis is None:
        return f"There are no observations by which {ships!r} could be judged."
    decision = next(one for one in analysis.decisions if one.arm == ships)
    if decision.action is SHIP:
        return ""
    return f"The analysis says {str(decision.action)!r} of {ships!r}: {decision.reason}"
