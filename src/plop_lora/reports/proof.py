"""Tables of a verification: what it would run, and what came of it. Rendering only."""

from __future__ import annotations

from collections.abc import Sequence

from plop_lora.records import ArmPlan, ArmResult, Reference, Verification, VerificationPlan
from plop_lora.records.verification import BEATEN, CONFIRMED, ArmVerdict
from plop_lora.reports.costs import duration, ledger_table
from plop_lora.reports.forgetting import collateral_table, forgetting_sentence
from plop_lora.reports.rows import Column, Table, count, plural, short_name

ARM = Column("arm")
PARAMETERS = Column("parameters", right=True)
MISMATCH = Column("off budget", right=True)
NFN = Column("NFN", right=True)
RANDOM, NON_INFERIOR = "random", "non-inferior"
"""The arm of types drawn by lot, and the verdict on a rival that is no better."""
SHORTLIST = "the shortlist"
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
    at_most = "at most " if len(plan.looks) > 1 else ""
    beside = f" with {plan.beside} beside it" if plan.beside else ""
    lines = [SMOKE_TEST] if plan.quick else []
    lines += [
        f"Task {plan.task}, decided by {plan.metric}{beside}, margin {_margin(plan)}, budget "
        f"{plan.budget:,} parameters an arm.",
        f"{trials} trials: {plan.ladder_trials} choose each arm's learning rate ({rates}; "
        f"{plan.ladder_rows:,} rows, judged on {plan.selection_rows:,}), {at_most}"
        f"{plan.confirm_trials} decide ({seeds}; {plan.train_rows:,} rows, judged on "
        f"{plan.report_rows:,}){as_it_was}.",
        *_longest_ladder(plan),
        *_expected(plan),
        _time(plan),
        *_power(plan),
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
    at_an_end = "by a rate for all arms where the best of one stands at an end, and "
    return [
        f"The ladder grows by itself, up to {plan.ladder_trials_at_most} trials of arms: "
        f"{'' if plan.widen == 0 else at_an_end}by trials on all rows where short ones cannot "
        "choose."
    ]


def _ranks(arm: ArmPlan) -> str:
    low, high = arm.ranks
    return "" if not high else str(low) if low == high else f"{low}–{high}"


def _nfn(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _margin(plan: VerificationPlan) -> str:
    parts = [] if plan.margin is None else [f"{plan.margin:g}"]
    if plan.margin_share is not None:
        parts.append(f"{100 * plan.margin_share:.3g} % of the {plan.metric} of plop")
    return f"{' or '.join(parts)}, whichever is smaller" if len(parts) > 1 else parts[0]


def _expected(plan: VerificationPlan) -> list[str]:
    """Say how many deciding trials the looks are expected to leave."""
    if len(plan.looks) < 2 or plan.expected_confirm_trials is None:
        return []
    looks = ", ".join(f"{look.seeds}" for look in plan.looks)
    return [
        f"Sequential: the arms are judged at {looks} seeds, and those that are settled are trained "
        f"no further; if all arms are equal, about {plan.expected_confirm_trials:.0f} of the "
        f"{plan.confirm_trials} deciding trials run."
    ]


def _power(plan: VerificationPlan) -> list[str]:
    """Say what the verdict can be expected to find, and from which spreads that follows."""
    if len(plan.seeds) < 2:
        return [
            "Power: none. One seed has no spread to compare with; take two at least, such as "
            "--seeds 5."
        ]
    spreads = (
        f"by simulation from the spreads of this project's own trials of the task (difference of "
        f"two arms: {plan.seed_sd:g} over seeds, {plan.item_sd:g} over rows, {plan.noise_sd:g} "
        "beside both); yours may differ"
    )
    if plan.confirms is None:
        return [f"Power: not known before the run, since the margin is a share; {spreads}."]
    found = (
        "no difference is found in 80 % of runs"
        if plan.detectable is None
        else f"a rival that is better by {plan.detectable:.2g} is found in 80 % of runs"
    )
    return [
        f"Power of the verdict, all rivals and looks counted: {found}; with all arms equal "
        f"{SHORTLIST} is confirmed in {plan.confirms:.0%}; {spreads}."
    ]


def _time(plan: VerificationPlan) -> str:
    if plan.seconds is None:
        return "Time: not known."
    expected = " is expected" if len(plan.looks) > 1 else ""
    money = "" if plan.money is None else f", {plan.money:,.2f} at the price given"
    return f"Device time: about {duration(plan.seconds)}{expected}{money}."


# --------------------------------------------------------------------------- the outcome


def verification_table(record: Verification) -> Table:
    """Arms from the best, with the difference to the shortlist, then the verdict and its cost."""
    columns = (
        ARM, PARAMETERS, MISMATCH, Column("rate", right=True), Column(record.metric, right=True),
        Column("by seed", starts=True), Column("difference", starts=True),
        Column("lies between"), Column("verdict"), NFN,
    )  # fmt: skip
    lines = [SMOKE_TEST] if record.quick else []
    lines += [f"{_verdict(record)} {forgetting_sentence(record)}".rstrip()]
    lines += _chance(record)
    lines += [f"More: {record.more.rstrip('.')}."] if record.more else []
    better = "higher" if record.higher_is_better else "lower"
    lines += [
        f"{record.metric} on {record.report_rows:,} rows that were neither trained nor selected "
        f"on, {better} is better; a difference above 0 favours {record.shortlist}. Margin "
        f"{record.margin:.3g}. Every arm: {record.budget:,} parameters, {record.train_rows:,} "
        f"rows, {_seeds(record)}.",
        *_how_to_read(record),
        _predictive(record),
    ]
    lines += _endings(record)
    lines += _failures(record.arms)
    lines += [f"Note: {note.rstrip('.')}." for note in record.notes]
    title = f"Verification of {record.shortlist} on {short_name(record.model.name)}"
    if record.quick:
        title += " (smoke test)"
    rows = (*map(_row, record.arms), *map(_reference_row, record.references))
    collateral = collateral_table(record)
    further = [*_beside_table(record), *([collateral] if collateral else [])]
    return Table(title, columns, rows, tuple(lines), (*further, ledger_table(record.cost)))


def _row(arm: ArmResult) -> tuple[str, ...]:
    digits = _digits(arm)
    by_seed = "  ".join("failed" if v is None else f"{v:.{digits}f}" for v in arm.values)
    bounds = arm.low is not None and arm.high is not None
    return (
        arm.arm,
        f"{arm.parameters:,}",
        f"{arm.mismatch:+.1%}",
        "" if arm.learning_rate is None else f"{arm.learning_rate:g}",
        _mean(arm, digits),
        by_seed,
        "" if arm.difference is None else f"{arm.difference:+.{digits}f}",
        f"{arm.low:+.{digits}f} and {arm.high:+.{digits}f}" if bounds else "",
        arm.verdict,
        _nfn(arm.nfn),
    )


def _mean(arm: ArmResult, digits: int) -> str:
    if arm.mean is not None:
        return f"{arm.mean:.{digits}f}"
    return "" if arm.verdict == ArmVerdict.SCREENED else "failed"


def _seeds(record: Verification) -> str:
    if len(record.looks) < 2:
        return plural(len(record.seeds), "seed")
    return (
        f"{record.looks[0].seeds} to {record.looks[-1].seeds} seeds of at most {len(record.seeds)}"
    )


def _how_to_read(record: Verification) -> list[str]:
    """Say how the verdict follows from the two bounds of each arm."""
    if not record.looks:
        return []
    rivals = len(record.arms) - 1
    looks = "" if len(record.looks) < 2 else " over all looks"
    return [
        f"A rival is better where both bounds lie below -{record.margin:.3g}; {record.shortlist} "
        "is confirmed where, for every rival, both lie above it. Each bound errs in 5 % of runs"
        f"{looks}: the upper one is corrected for {plural(rivals, 'rival')}, and so is the lower "
        "one where it is above 0."
    ]


def _endings(record: Verification) -> list[str]:
    """Say when arms were settled, or given up, those alike together."""
    alike: dict[str, list[str]] = {}
    for arm in record.arms:
        if arm.ended and (len(record.looks) > 1 or arm.verdict == ArmVerdict.SCREENED):
            alike.setdefault(arm.ended, []).append(arm.arm)
    return [
        f"{why[:1].upper()}{why[1:]}: {', '.join(arms)}." for why, arms in sorted(alike.items())
    ]


def _beside_table(record: Verification) -> tuple[Table, ...]:
    """Return the outcome that is reported beside the one that decides, if there is one."""
    if record.beside is None:
        return ()
    columns = (
        ARM, Column(record.beside, right=True), Column("difference", right=True),
        Column("95 % interval"), Column("detectable", right=True),
    )  # fmt: skip
    rows = tuple(
        (
            arm.arm,
            "" if found.mean is None else f"{found.mean:.3f}",
            "" if found.difference is None else f"{found.difference:+.3f}",
            ""
            if found.low is None or found.high is None
            else f"{found.low:+.3f} to {found.high:+.3f}",
            "" if found.detectable is None else f"{found.detectable:.3f}",
        )
        for arm in record.arms
        if (found := arm.beside) is not None
    )
    line = (
        f"{record.beside} is reported beside {record.metric} and decides nothing. A difference as "
        "large as in the last column would have been told from none with a power of 0.8."
    )
    return (Table(f"{record.beside} beside it", columns, rows, (line,)),)


def _reference_row(reference: Reference) -> tuple[str, ...]:
    value = "failed" if reference.value is None else f"{reference.value:.3f}"
    return (reference.name, "", "", "", value, "", "", "", "not trained", "")


def random_does_as_well(record: Verification) -> bool:
    """Whether a shortlist was confirmed to which types drawn at random are alike."""
    drawn = [arm for arm in record.arms if arm.arm.partition("-")[0] == RANDOM]
    return record.verdict == CONFIRMED and any(arm.verdict == NON_INFERIOR for arm in drawn)


def _chance(record: Verification) -> list[str]:
    """Say where types drawn at random do as well: then the place hardly matters."""
    if not random_does_as_well(record):
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
    margin = f"{record.margin:.3g} {record.metric}"
    if record.verdict == CONFIRMED:
        return (
            f"CONFIRMED: {record.shortlist} is best, or no more than {margin} behind any rival, "
            "at the same number of parameters."
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
