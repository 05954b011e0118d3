"""Tables of a verification: what it would run, and what came of it. Rendering only."""

from __future__ import annotations

from collections.abc import Sequence

from plop_lora.records import ArmPlan, ArmResult, Reference, Verification, VerificationPlan
from plop_lora.records.verification import BEATEN, CONFIRMED
from plop_lora.reports.costs import duration, ledger_table
from plop_lora.reports.forgetting import collateral_table, forgetting_sentence
from plop_lora.reports.rows import Column, Table, count, plural, short_name

ARM = Column("arm")
PARAMETERS = Column("parameters", right=True)
MISMATCH = Column("off budget", right=True)
NFN = Column("NFN", right=True)
RANDOM, NON_INFERIOR = "random", "non-inferior"
"""The arm of types drawn by lot, and the verdict on a rival that is no better."""
SMOKE_TEST = (
    "SMOKE TEST: two seeds show that it runs, not which placement is better. Exit code 0 says that "
    "every arm trained."
)


def plan_table(plan: VerificationPlan) -> Table:
    """Arms with their share of the budget, then trials, time, money and what could be told."""
    rows = tuple(
        (
            arm.arm,
            count(arm.parameters),
            f"{arm.mismatch:+.1%}",
            _ranks(arm),
            _nfn(arm.nfn),
            ", ".join(arm.types) or arm.note,
        )
        for arm in plan.arms
    )
    rates = ", ".join(f"{rate:g}" for rate in plan.learning_rates)
    seeds = plural(len(plan.seeds), "seed")
    trials = plan.ladder_trials + plan.confirm_trials + plan.untrained_trials
    untrained = plan.untrained_trials
    as_it_was = f", {untrained} judge the model as it was" if untrained else ""
    lines = [SMOKE_TEST] if plan.quick else []
    lines += [
        f"Task {plan.task}, metric {plan.metric}, margin {plan.margin:g}, budget "
        f"{plan.budget:,} parameters an arm.",
        f"{trials} trials: {plan.ladder_trials} choose each arm's learning rate ({rates}; "
        f"{plan.ladder_rows:,} rows, judged on {plan.selection_rows:,}), {plan.confirm_trials} "
        f"decide ({seeds}; {plan.train_rows:,} rows, judged on {plan.report_rows:,}){as_it_was}.",
        *_longest_ladder(plan),
        _time(plan),
        _detectable(plan),
    ]
    lines += [f"Note: {arm.arm}: {arm.note}." for arm in plan.arms if arm.note and arm.types]
    lines += [f"Note: {note.rstrip('.')}." for note in plan.notes]
    columns = (
        ARM, PARAMETERS, MISMATCH, Column("rank", right=True), NFN, Column("types", starts=True),
    )  # fmt: skip
    title = f"Plan of a verification of {short_name(plan.model.name)}; nothing was run"
    return Table(title, columns, rows, tuple(lines))


def _longest_ladder(plan: VerificationPlan) -> list[str]:
    if plan.ladder_trials_at_most is None or plan.ladder_trials_at_most <= plan.ladder_trials:
        return []
    return [
        f"The ladder grows by itself, to {plan.ladder_trials_at_most} trials at most: by a rate "
        "for all arms where the best of one stands at an end, and by trials on all rows where "
        "short ones cannot choose."
    ]


def _ranks(arm: ArmPlan) -> str:
    low, high = arm.ranks
    return "" if not high else str(low) if low == high else f"{low}–{high}"


def _nfn(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _detectable(plan: VerificationPlan) -> str:
    if plan.detectable is None:
        return (
            "Detectable: nothing. One seed has no spread to compare with; take two at least, such "
            "as --seeds 5."
        )
    return (
        f"Detectable with power 0.8: a difference of {plan.detectable:.3g} in {plan.metric}, "
        f"assuming standard deviations of {plan.seed_sd:g} over seeds and {plan.item_sd:g} over "
        "rows; these are assumptions until a run has measured them."
    )


def _time(plan: VerificationPlan) -> str:
    if plan.seconds is None:
        return "Time: not known."
    money = "" if plan.money is None else f", {plan.money:,.2f} at the price given"
    return f"Device time: about {duration(plan.seconds)}{money}."


# --------------------------------------------------------------------------- the outcome


def verification_table(record: Verification) -> Table:
    """Arms from the best, with the difference to the shortlist, then the verdict and its cost."""
    columns = (
        ARM, PARAMETERS, MISMATCH, Column("rate", right=True), Column(record.metric, right=True),
        Column("by seed", starts=True), Column("difference", starts=True),
        Column("95 % interval"), Column("one-sided bound", right=True),
        Column("p (Holm)", right=True), Column("verdict"), NFN,
    )  # fmt: skip
    lines = [SMOKE_TEST] if record.quick else []
    lines += [f"{_verdict(record)} {forgetting_sentence(record)}".rstrip()]
    lines += _chance(record)
    lines += [f"More: {record.more.rstrip('.')}."] if record.more else []
    better = "higher" if record.higher_is_better else "lower"
    lines += [
        f"{record.metric} on {record.report_rows:,} rows that were neither trained nor selected "
        f"on, {better} is better; a difference above 0 favours {record.shortlist}. Margin "
        f"{record.margin:g}. Every arm: {record.budget:,} parameters, {record.train_rows:,} rows, "
        f"{plural(len(record.seeds), 'seed')}.",
        _predictive(record),
    ]
    lines += _seed_variances(record)
    lines += _failures(record.arms)
    lines += [f"Note: {note.rstrip('.')}." for note in record.notes]
    title = f"Verification of {record.shortlist} on {short_name(record.model.name)}"
    if record.quick:
        title += " (smoke test)"
    rows = (*map(_row, record.arms), *map(_reference_row, record.references))
    more = [table for table in (collateral_table(record),) if table is not None]
    return Table(title, columns, rows, tuple(lines), (*more, ledger_table(record.cost)))


def _row(arm: ArmResult) -> tuple[str, ...]:
    digits = _digits(arm)
    by_seed = "  ".join("failed" if v is None else f"{v:.{digits}f}" for v in arm.values)
    bounds = arm.low is not None and arm.high is not None
    return (
        arm.arm,
        f"{arm.parameters:,}",
        f"{arm.mismatch:+.1%}",
        "" if arm.learning_rate is None else f"{arm.learning_rate:g}",
        "failed" if arm.mean is None else f"{arm.mean:.{digits}f}",
        by_seed,
        "" if arm.difference is None else f"{arm.difference:+.{digits}f}",
        f"{arm.low:+.{digits}f} to {arm.high:+.{digits}f}" if bounds else "",
        "" if arm.bound is None else f"{arm.bound:+.{digits}f}",
        "" if arm.p is None else f"{arm.p:.3f}" if arm.p >= 0.001 else "<0.001",
        arm.verdict,
        _nfn(arm.nfn),
    )


def _reference_row(reference: Reference) -> tuple[str, ...]:
    value = "failed" if reference.value is None else f"{reference.value:.3f}"
    return (reference.name, "", "", "", value, "", "", "", "", "", "not trained", "")


def _chance(record: Verification) -> list[str]:
    """Say where types drawn at random do as well: then the place hardly matters."""
    drawn = [arm for arm in record.arms if arm.arm.partition("-")[0] == RANDOM]
    alike = any(arm.verdict == NON_INFERIOR for arm in drawn)
    if record.verdict != CONFIRMED or not alike:
        return []
    return [
        f"What that shows: {record.shortlist} is not worse. Types drawn at {RANDOM} do as well "
        "within the margin, so on these rows it matters little where the adapters are."
    ]


def _digits(arm: ArmResult) -> int:
    """Three digits, more where the interval is narrower than they show."""
    digits = 3
    if arm.low is not None and arm.high is not None:
        while digits < 6 and arm.high - arm.low < 2 * 10.0**-digits:
            digits += 1
    return digits


def _verdict(record: Verification) -> str:
    """Say in plain words what the finetunes say of the shortlist."""
    margin = f"{record.margin:g} {record.metric}"
    if record.verdict == CONFIRMED:
        return (
            f"CONFIRMED: {record.shortlist} is best, or no more than {margin} behind any rival, "
            f"at the same number of parameters.{_deciding(record)}"
        )
    if record.verdict == BEATEN:
        return (
            f"BEATEN: {record.better} is better than {record.shortlist} by more than {margin}, at "
            "the same number of parameters. Its placement is in the record: better_placement."
        )
    return (
        f"CANNOT SEPARATE: these trials neither show that {record.shortlist} is within {margin} "
        "of every rival nor that one of them is better by more."
    )


def _deciding(record: Verification) -> str:
    """Say which bound decided: intervals are two-sided and may reach beyond the margin."""
    closest = min(
        (arm for arm in record.arms if arm.bound is not None and arm.verdict == NON_INFERIOR),
        key=lambda arm: arm.bound or 0.0,
        default=None,
    )
    if closest is None:
        return ""
    return (
        f" The one-sided 95 % bound decides: against {closest.arm}, the closest rival, it is "
        f"{closest.bound:+.{_digits(closest)}f}, above the margin of -{record.margin:g}."
    )


def _seed_variances(record: Verification) -> list[str]:
    """Say how far the arms' seed variances were moderated; nothing where none was."""
    most = max((arm.freedom for arm in record.arms if arm.freedom is not None), default=0.0)
    if most <= len(record.seeds) - 1:
        return []
    return [
        f"Seed variances are moderated over the arms: {most:.1f} degrees of freedom each in the "
        f"intervals and in p, where the seeds of an arm alone give {len(record.seeds) - 1}. The "
        "one-sided bound uses the seeds of its two arms alone."
    ]


def _predictive(record: Verification) -> str:
    found = record.predictive
    if found.rho is None:
        return f"NFN and outcome over {plural(found.arms, 'arm')}: too few to say how they go."
    p = "" if found.p is None else f", p {found.p:.2f} by permuting the types"
    return (
        f"NFN and outcome over {plural(found.arms, 'arm')}: Spearman's rho {found.rho:+.2f}{p}; "
        "below 0 a lower NFN went with a better outcome."
    )


def _failures(arms: Sequence[ArmResult]) -> list[str]:
    return [
        f"{'Failed' if arm.mean is None else 'Failed in part'}: {arm.arm}: "
        f"{'; '.join(cause.rstrip('.') for cause in arm.causes)}."
        for arm in arms
        if arm.causes
    ]
