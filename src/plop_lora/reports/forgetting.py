"""What a verification says of forgetting, time and memory by arm. Rendering only."""

from __future__ import annotations

from collections.abc import Callable

from plop_lora.records import ArmResult, Verification
from plop_lora.records.verification import BEATEN, ArmVerdict, Forgetting
from plop_lora.reports.costs import ABSENT, duration, memory
from plop_lora.reports.rows import Column, Table

_UNSURE = (ArmVerdict.FAILED, ArmVerdict.UNSETTLED, ArmVerdict.SHORTLIST)


def forgetting_sentence(record: Verification) -> str:
    """Return how the shortlist and the deciding rival differ in forgetting, empty if unmeasured."""
    rival = deciding_rival(record)
    found = None if rival is None else rival.forgetting
    if rival is None or found is None or found.difference is None:
        return ""
    low, high = found.difference_low, found.difference_high
    text = forgetting_words(record.shortlist, rival.arm, found.difference, low, high)
    if not _is_shown(low, high) or rival.learning_rate == _rate_of_shortlist(record):
        return text
    return f"{text} Their learning rates differ, which moves forgetting as well."


def forgetting_words(
    first: str, second: str, difference: float, low: float | None, high: float | None
) -> str:
    """Return in words how two arms differ in forgetting.

    Args:
        first: Name of the arm that the sentence is about.
        second: Name of the other.
        difference: Rise of the second minus that of the first, positive if the first forgets less.
        low: Lower end of its interval.
        high: Upper end of its interval.

    >>> forgetting_words("plop", "mlp", -0.04, -0.061, -0.02)
    'On general text plop forgets 0.04 nats a token more than mlp (95 % interval 0.02 to 0.061).'
    >>> forgetting_words("plop", "mlp", 0.01, -0.01, 0.03)
    'No difference in forgetting between plop and mlp was shown.'
    """
    if low is None or high is None or not _is_shown(low, high):
        return f"No difference in forgetting between {first} and {second} was shown."
    less = "less" if difference > 0 else "more"
    ends = sorted((abs(low), abs(high)))
    return (
        f"On general text {first} forgets {abs(difference):.2g} nats a token {less} than {second} "
        f"(95 % interval {ends[0]:.2g} to {ends[1]:.2g})."
    )


def _is_shown(low: float | None, high: float | None) -> bool:
    """Whether an interval excludes 0."""
    return low is not None and high is not None and not low <= 0 <= high


def _rate_of_shortlist(record: Verification) -> float | None:
    return next((a.learning_rate for a in record.arms if a.arm == record.shortlist), None)


def deciding_rival(record: Verification) -> ArmResult | None:
    """Return the rival that the verdict turns on.

    It is the one that beats the shortlist, or else the one whose bound is closest to the margin,
    or else the one of the best outcome.
    """
    if record.verdict == BEATEN:
        return next((arm for arm in record.arms if arm.arm == record.better), None)
    rivals = [arm for arm in record.arms if arm.verdict not in _UNSURE]
    close = [arm for arm in rivals if arm.verdict == ArmVerdict.NON_INFERIOR]
    bounded = [arm for arm in close if arm.low is not None]
    if bounded:
        return min(bounded, key=lambda arm: arm.low or 0.0)
    return next(iter(rivals), None)


def collateral_table(record: Verification) -> Table | None:
    """Return forgetting, time and memory by arm, in the order of the arms; None without any."""
    columns = [column for column in _COLUMNS if any(column[1](arm) for arm in record.arms)]
    if not columns:
        return None
    rows = tuple((arm.arm, *(cell(arm) or ABSENT for _, cell in columns)) for arm in record.arms)
    heads = (Column("arm"), *(column for column, _ in columns))
    return Table("Forgetting, time and memory by arm", heads, rows, _lines(record))


def _lines(record: Verification) -> tuple[str, ...]:
    lines = ["Time and peak memory: means over the trials that decide."]
    if others := _at_other_rates(record):
        lines = [others, *lines]
    if (general := record.general) is not None:
        lines = [
            f"Forgetting: rise of the loss, in nats a token, on {general.texts:,} texts "
            f"({general.tokens:,} tokens) of {general.source}; untrained {general.loss:.3f}. A "
            f"difference above 0 says that {record.shortlist} forgets less.",
            *lines,
        ]
    return tuple(lines)


def _at_other_rates(record: Verification) -> str:
    """Say which arms forget by another learning rate too, empty if there are none."""
    rate = _rate_of_shortlist(record)
    if rate is None:
        return ""
    others = [
        f"{arm.arm} ({arm.learning_rate:g})"
        for arm in record.arms
        if arm.forgetting is not None and arm.learning_rate not in (None, rate)
    ]
    if not others:
        return ""
    return (
        f"Trained at another rate than {record.shortlist} ({rate:g}): "
        f"{', '.join(others)}. A larger rate forgets more wherever the adapters are, so these "
        "differences are not those of the placement alone."
    )


def _of_forgetting(draw: Callable[[Forgetting], str]) -> Callable[[ArmResult], str]:
    return lambda arm: "" if arm.forgetting is None else draw(arm.forgetting)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:+.4f}"


def _interval(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{low:+.4f} to {high:+.4f}"


_COLUMNS: tuple[tuple[Column, Callable[[ArmResult], str]], ...] = (
    (Column("forgetting", right=True), _of_forgetting(lambda f: _number(f.rise))),
    (Column("95 % interval"), _of_forgetting(lambda f: _interval(f.low, f.high))),
    (Column("difference", right=True, starts=True),
     _of_forgetting(lambda f: _number(f.difference))),
    (Column("95 % interval"),
     _of_forgetting(lambda f: _interval(f.difference_low, f.difference_high))),
    (Column("time", right=True, starts=True),
     lambda arm: "" if arm.seconds is None else duration(arm.seconds)),
    (Column("peak memory", right=True),
     lambda arm: "" if not arm.peak_memory else memory(arm.peak_memory)),
)  # fmt: skip
