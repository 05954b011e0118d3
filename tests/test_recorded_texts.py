"""Names and reasons that plop-lora writes into records, in a report of another language."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from plop_lora.cost import full_search
from plop_lora.data.general_text import BUNDLED
from plop_lora.gating.items import item_name
from plop_lora.records import PipelineRun
from plop_lora.records.run import OPEN
from plop_lora.records.trial import CONFIRM, LADDER
from plop_lora.records.verification import ArmVerdict
from plop_lora.reports.page import read_records, results_of
from plop_lora.reports.page.blocks import DataTable
from plop_lora.reports.text import recorded, text
from plop_lora.scoring.reference import NAME
from plop_lora.statistics import Components, Interval, SeedVariance
from plop_lora.study.compare import Paired
from plop_lora.verification.course import follow
from plop_lora.verification.decide import ArmComparison, decision_of
from plop_lora.verification.design import UNTRAINED_MODEL
from plop_lora.verification.looks import planned_looks
from plop_lora.verification.references import MAJORITY
from plop_lora.verification.screening import _HOPELESS

EXAMPLE = Path(__file__).parents[1] / "docs" / "example" / "run"
JAPANESE = re.compile(r"[\u3040-\u30ff\u4e00-\u9fff]")


def paired(value: float, seed_sd: float) -> Paired:
    own = SeedVariance(seed_sd**2, 1.0)
    interval = Interval(value, seed_sd**2 / 2, 1e-6, 8.0, 159.0)
    return Paired(interval, interval, Components(seed_sd, 0.01, 0.0), 2, 160, own)


def endings(*rivals: ArmComparison, seeds: int = 4) -> set[str]:
    """Return why arms are trained no further, at the first of several looks."""

    def decide_at(look, ended):
        first = ArmComparison("plop", 1.0, look.seeds, verdict=ArmVerdict.SHORTLIST)
        return decision_of([first, *rivals]) if look.seeds == 2 or seeds == 2 else None

    course = follow(planned_looks(seeds, 2, sequential=seeds > 2), 0.02, decide_at)
    return set(course.endings.values())


def rival(verdict: ArmVerdict, value: float = 0.0, seed_sd: float = 0.5) -> ArmComparison:
    return ArmComparison("rival", 1.0, 2, verdict=verdict, paired=paired(value, seed_sd))


def written() -> dict[str, set[str]]:
    """Return what the code writes into records, by what it is there."""
    worse = ArmComparison("other", 1.0, 2, verdict=ArmVerdict.UNSETTLED, paired=paired(0.0, 0.5))
    ended = {
        *endings(rival(ArmVerdict.NON_INFERIOR)),
        *endings(rival(ArmVerdict.UNSETTLED)),
        *endings(rival(ArmVerdict.FAILED)),
        *endings(rival(ArmVerdict.UNSEPARATED)),
        *endings(rival(ArmVerdict.UNSEPARATED), seeds=2),
        *endings(worse, rival(ArmVerdict.UNSEPARATED, 0.5, 0.001)),
        _HOPELESS.format(gain=0.123, shortlist="plop", best=0.5),
    }
    return {
        "reference": {UNTRAINED_MODEL, f"{MAJORITY} (positive)"},
        "general": {BUNDLED},
        "inputs": {NAME, "random tokens"},
        "cost": {str(LADDER), str(CONFIRM), UNTRAINED_MODEL},
        "plan": {full_search(rates=3, seeds=5).text},
        "ended": ended,
        "item": {item_name(None, 21)},
    }


def test_what_is_written_into_records_has_a_translation() -> None:
    """A reason that is worded anew would be in English on a Japanese page."""
    words = text("ja")
    found = written()
    assert len(found["ended"]) == sum(key.startswith("recorded.ended.") for key in recorded.EN)
    for what, values in found.items():
        for value in values:
            assert JAPANESE.search(words.recorded(what, value)), value
            assert text("en").recorded(what, value) == value


def test_values_are_kept() -> None:
    words = text("ja")
    plan = words.recorded("plan", full_search(arms=6, rates=3, seeds=5).text)
    assert re.findall(r"\d+", plan) == ["6", "3", "5"]
    assert "<b>" in words.recorded("reference", f"{MAJORITY} (<b>)")
    assert re.findall(r"\d+", words.recorded("item", "row 21")) == ["21"]


@pytest.mark.parametrize(
    ("what", "value"),
    [("item", "search"), ("general", "ladder"), ("ended", "row 3"), ("ended", ""),
     ("reference", "my untrained model"), ("ended", "settled at {seeds} seeds {"),
     ("reference", "majority class (a (b))")],
)  # fmt: skip
def test_names_of_the_user_stay_as_they_are(what: str, value: str) -> None:
    """A row whose id is `search` is no part of a cost."""
    assert text("ja").recorded(what, value) == value


def test_a_long_text_of_a_hostile_record_is_not_compared() -> None:
    """Templates with several values would be tried at every place of it."""
    start = "screened out on the selection rows: at its best rate it learned "
    hostile = start + ", where a learned b" * 100_000
    assert text("ja").recorded("ended", hostile) == hostile
    short = f"{start}0.1, where a learned 0.5 in trials of the same length"
    assert text("ja").recorded("ended", short) != short
    long = short.replace("where a", f"where {'a' * recorded.LONGEST}")
    assert text("ja").recorded("ended", long) == long


# --------------------------------------------------------------------------- the bundled example


def tables() -> dict[str, DataTable]:
    page = results_of(read_records([EXAMPLE]), "ja")
    found = [table for section in page.sections for table in section.tables]
    found += [figure.table for section in page.sections for figure in section.figures]
    return {table.columns[0] + table.caption: table for table in found}


def test_the_example_leaves_no_name_of_ours_in_english() -> None:
    page = tables()
    words = text("ja")
    (cost,) = [table for key, table in page.items() if key.startswith(words("column.part"))]
    assert all(JAPANESE.search(row[0]) for row in cost.rows)
    (seeds,) = [table for table in page.values() if words("column.ended") in table.columns]
    place = seeds.columns.index(words("column.ended"))
    assert [bool(JAPANESE.search(row[place])) for row in seeds.rows] == [False, True, True]
    assert not any("untrained" in cell or "bundled" in cell for table in page.values()
                   for row in (*table.rows, (table.caption,)) for cell in row)  # fmt: skip


def test_a_stage_that_decides_nothing_has_no_verdict() -> None:
    """The word for a stage that was not run stood beside stages that were done."""
    (run,) = [record for record in read_records([EXAMPLE]) if isinstance(record, PipelineRun)]
    words = text("ja")
    (stages,) = [table for table in tables().values() if words("column.says") in table.columns]
    place = stages.columns.index(words("column.verdict"))
    for stage, row in zip(run.stages, stages.rows, strict=True):
        assert stage.outcome is not None
        assert bool(row[place]) == (stage.outcome.verdict is not OPEN)
    assert any(row[place] for row in stages.rows)
