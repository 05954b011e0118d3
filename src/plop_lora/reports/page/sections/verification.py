"""The section of a verification: the arms against the shortlist, their rates and their seeds."""

from __future__ import annotations

from plop_lora.records import ArmResult, Verification
from plop_lora.records.verification import ArmVerdict, Verdict
from plop_lora.reports.page import figures
from plop_lora.reports.page.blocks import DataTable, Figure, Section
from plop_lora.reports.page.sections.costs import cost_table
from plop_lora.reports.page.sections.curves import arm_curves
from plop_lora.reports.text import Text, number

_ANSWERS = {
    Verdict.CONFIRMED: "confirmed",
    Verdict.BEATEN: "beaten",
    Verdict.INCONCLUSIVE: "inconclusive",
}


def verification_section(record: Verification, words: Text) -> Section:
    """Return the forest of the arms, the seeds, the rates, the references and the cost."""
    curves = arm_curves(record, words)
    drawn = [_forest(record, words), _seeds(record, words), _rates(record, words), curves]
    tables = [_arms(record, words), cost_table(record.cost, words)]
    tables[1:1] = [table for table in (_forgetting(record, words),) if table is not None]
    return Section(
        name="verification",
        title=words("verification.title"),
        lines=(*_lines(record, words), *(() if curves else (words("curves.none"),))),
        figures=tuple(figure for figure in drawn if figure is not None),
        tables=tuple(tables),
        quotes=(*((record.more,) if record.more else ()), *record.notes),
    )


def verdict_sentence(record: Verification, words: Text) -> str:
    """Return the verdict of a verification as one sentence."""
    return words(
        f"verification.{_ANSWERS[record.verdict]}",
        shortlist=record.shortlist,
        better=record.better or "",
        margin=f"{record.margin:.3g}",
        metric=record.metric,
    )


def _lines(record: Verification, words: Text) -> list[str]:
    lines = [words("verification.quick")] if record.quick else []
    better = "higher" if record.higher_is_better else "lower"
    lines += [
        verdict_sentence(record, words),
        words(
            "verification.design",
            metric=record.metric,
            rows=words.count(record.report_rows),
            direction=words(f"direction.{better}"),
            budget=words.count(record.budget),
            train=words.count(record.train_rows),
            seeds=len(record.seeds),
        ),
        words("verification.bounds", margin=f"{record.margin:.3g}", shortlist=record.shortlist),
    ]
    found = record.predictive
    if found.rho is not None:
        lines.append(words("verification.predictive", rho=f"{found.rho:+.2f}", arms=found.arms))
    return lines


def _forest(record: Verification, words: Text) -> Figure | None:
    arms = [arm for arm in record.arms if arm.difference is not None]
    if not arms:
        return None
    groups = [words.word(arm.verdict) for arm in arms]
    titles = {
        "name": words("column.arm"), "value": words("column.difference"),
        "low": words("column.low"), "high": words("column.high"), "group": words("column.verdict"),
    }  # fmt: skip
    return Figure(
        name="forest",
        title=words("verification.forest.title", shortlist=record.shortlist),
        alt=words(
            "verification.forest.alt", arms=words.listed([arm.arm for arm in arms]),
            margin=f"{record.margin:.3g}",
        ),
        spec=figures.intervals(
            [
                {"name": arm.arm, "value": arm.difference, "low": arm.low, "high": arm.high,
                 "group": words.word(arm.verdict)}
                for arm in arms
            ],
            names=[arm.arm for arm in arms],
            groups=list(dict.fromkeys(groups)),
            titles=titles,
            rules=(0.0, -record.margin),
            zero=True,
        ),
        table=DataTable(
            caption=words("verification.forest.title", shortlist=record.shortlist),
            columns=tuple(
                words(f"column.{name}") for name in ("arm", "difference", "bounds", "p", "verdict")
            ),
            rows=tuple(
                (arm.arm, number(arm.difference, 4, signed=True),
                 words.interval(arm.low, arm.high, digits=4, signed=True), number(arm.p),
                 words.word(arm.verdict))
                for arm in arms
            ),
            numeric=(False, True, True, True, False),
        ),
    )  # fmt: skip


def _seeds(record: Verification, words: Text) -> Figure | None:
    arms = [arm for arm in record.arms if any(value is not None for value in arm.values)]
    if not arms:
        return None
    groups = {True: words("group.shortlist"), False: words("group.rival")}
    rows = [
        {"name": arm.arm, "value": value, "seed": seed,
         "group": groups[arm.verdict is ArmVerdict.SHORTLIST]}
        for arm in arms
        for seed, value in zip(record.seeds, arm.values, strict=False)
        if value is not None
    ]  # fmt: skip
    return Figure(
        name="seeds",
        title=words("verification.seeds.title"),
        alt=words("verification.seeds.alt", metric=record.metric, arms=len(arms)),
        spec=figures.points(
            rows,
            names=[arm.arm for arm in arms],
            groups=list(groups.values()),
            titles={
                "name": words("column.arm"), "value": record.metric, "seed": words("column.seed"),
                "group": words("column.arm"),
            },
        ),
        table=DataTable(
            caption=words("verification.seeds.title"),
            columns=tuple(words(f"column.{name}") for name in ("arm", "values", "ended")),
            rows=tuple(
                (arm.arm, _values(arm, words), words.recorded("ended", arm.ended)) for arm in arms
            ),
            numeric=(False, False, False),
        ),
    )  # fmt: skip


def _values(arm: ArmResult, words: Text) -> str:
    return words.listed(
        [words("failed") if value is None else f"{value:.4f}" for value in arm.values]
    )


def _rates(record: Verification, words: Text) -> Figure | None:
    steps = [step for step in record.ladder if step.value is not None]
    if not steps:
        return None
    lines = [words("group.full", arm=step.arm) if step.full else step.arm for step in steps]
    groups = list(dict.fromkeys(lines))
    rows = [
        {"group": line, "at": step.learning_rate, "value": step.value}
        for line, step in zip(lines, steps, strict=True)
    ]
    return Figure(
        name="rates",
        title=words("verification.rates.title"),
        alt=words("verification.rates.alt", lines=len(groups), metric=record.metric),
        spec=figures.curves(
            sorted(rows, key=lambda row: (str(row["group"]), row["at"])),
            groups=groups,
            titles={
                "at": words("column.rate"), "value": record.metric, "group": words("column.arm"),
            },
        ),
        table=DataTable(
            caption=words("verification.rates.title"),
            columns=(words("column.arm"), words("column.rate"), record.metric),
            rows=tuple(
                (line, f"{step.learning_rate:g}", number(step.value, 4))
                for line, step in zip(lines, steps, strict=True)
            ),
            numeric=(False, True, True),
        ),
    )  # fmt: skip


def _arms(record: Verification, words: Text) -> DataTable:
    columns = ("arm", "parameters", "off_budget", "rate")
    rows = [
        (
            arm.arm,
            words.count(arm.parameters),
            words("percent", number=number(100 * arm.mismatch, 1, signed=True)),
            "" if arm.learning_rate is None else f"{arm.learning_rate:g}",
            number(arm.mean, 4),
            words.word(arm.verdict),
            number(arm.nfn),
            "; ".join(arm.causes),
        )
        for arm in record.arms
    ]
    rows += [
        (
            words.recorded("reference", one.name),
            "",
            "",
            "",
            number(one.value, 4),
            words("untrained"),
            "",
            one.cause or "",
        )
        for one in record.references
    ]
    return DataTable(
        caption=words("verification.arms"),
        columns=(
            *(words(f"column.{name}") for name in columns), record.metric,
            words("column.verdict"), words("column.nfn"), words("column.causes"),
        ),
        rows=tuple(rows),
        numeric=(False, True, True, True, True, False, True, False),
    )  # fmt: skip


def _forgetting(record: Verification, words: Text) -> DataTable | None:
    arms = [(arm.arm, arm.forgetting) for arm in record.arms if arm.forgetting is not None]
    if not arms or record.general is None:
        return None
    return DataTable(
        caption=words(
            "verification.forgetting", source=words.recorded("general", record.general.source)
        ),
        columns=(words("column.arm"), words("column.rise"), words("column.interval")),
        rows=tuple(
            (arm, number(held.rise, signed=True), words.interval(held.low, held.high, signed=True))
            for arm, held in arms
        ),
        numeric=(False, True, True),
    )
