"""Learning curves: what a trial records of its log, and the drawings of arms and of the adapter."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from builders import (
    arm_result,
    cost_ledger,
    model_reference,
    placement,
    trial_result,
    trial_spec,
    verification,
)
from hypothesis import given
from hypothesis import strategies as st

from plop_lora.errors import RecordError
from plop_lora.records import (
    Finetune,
    FinetuneChoice,
    HeldOut,
    PipelineRun,
    TrialResult,
    Verification,
)
from plop_lora.records.finetune import FinetuneVerdict
from plop_lora.records.trial import MOST_POINTS, LearningCurve
from plop_lora.reports.page import html_page, markdown_page, results_of
from plop_lora.reports.page.blocks import Figure, Page, Tone
from plop_lora.reports.text import LANGUAGES, text
from plop_lora.training.curve import learning_curve, thinned

RESULTS = Path(__file__).parents[1] / "scripts" / "experiments" / "results"


def curve(start: float = 2.0, steps: int = 20, **values: object) -> LearningCurve:
    points = tuple((5 * n, start * 0.9**n) for n in range(1, steps + 1))
    return LearningCurve(**{"quantity": "loss", "points": points} | values)


def with_curves(arms: int = 3, seeds: int = 3, **values: object) -> Verification:
    """Return a verification whose arms have a curve for each seed."""
    return verification(
        *(
            arm_result("plop" if arm == 0 else f"arm-{arm}", [0.5 + seed for seed in range(seeds)],
                       curves=tuple(curve(2 + arm / 10 + seed / 30) for seed in range(seeds)))
            for arm in range(arms)
        ),
        **values,
    )  # fmt: skip


def finetune(**values: object) -> Finetune:
    """Return a final finetune that was evaluated at three checkpoints."""
    fields = {
        "model": model_reference(), "task": "sft", "criterion": "loss",
        "verdict": FinetuneVerdict.IMPROVED,
        "choice": FinetuneChoice(source="placement", source_digest="0" * 64, arm="plop", why="best",
                                 learning_rate=1e-3, rate_from="the record"),
        "placement": placement(), "seed": 0, "train_rows": 100, "selection_rows": 10,
        "report_rows": 10, "steps": 90, "planned_steps": 120, "best_step": 60,
        "outcomes": (HeldOut(metric="loss", base=2.0, adapter=1.5, difference=0.5, low=0.4,
                             high=0.6),),
        "adapter_digest": "a" * 64, "cost": cost_ledger(), "versions": {}, "plop_version": "0",
        "curve": curve(evaluations=((30, 1.9), (60, 1.7), (90, 1.8))),
    }  # fmt: skip
    return Finetune(**fields | values)


def figures(page: Page) -> dict[str, Figure]:
    return {figure.name: figure for section in page.sections for figure in section.figures}


# --------------------------------------------------------------------------- what is recorded


def test_a_curve_is_what_the_trainer_logged() -> None:
    rows = [
        {"step": 1, "loss": 2.0, "grad_norm": 1.0}, {"step": 2, "loss": 1.123456789},
        {"step": 2, "eval_loss": 1.5}, {"step": 3, "loss": None}, {"step": 3, "loss": math.inf},
        {"step": None, "loss": 1.0}, {"step": 3, "train_loss": 9.0},
    ]  # fmt: skip
    found = learning_curve(rows)
    assert found == LearningCurve(
        quantity="loss", points=((1, 2.0), (2, 1.12346)), evaluations=((2, 1.5),)
    )
    assert learning_curve([{"step": 1, "train_runtime": 2.0}]) is None
    grpo = learning_curve([{"step": 1, "loss": 0.0, "reward": 0.25}])
    assert (grpo.quantity, grpo.points) == ("reward", ((1, 0.25),))


@given(
    st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=400), st.integers(1, MOST_POINTS)
)  # fmt: skip
def test_a_long_curve_is_thinned(values: list[float], most: int) -> None:
    """No more points than asked, in order, ending where the curve does, within its values."""
    points = list(enumerate(values, start=1))
    found = thinned(points, most)
    assert 1 <= len(found) <= most
    assert found[-1][0] == len(values)
    assert all(first[0] < second[0] for first, second in pairwise(found))
    slack = 1e-5 * max(map(abs, values))
    assert all(min(values) - slack <= value <= max(values) + slack for _, value in found)
    if len(values) <= most:
        assert [step for step, _ in found] == [step for step, _ in points]


def test_many_evaluations_are_thinned_and_the_last_is_kept() -> None:
    rows = [{"step": n, "eval_loss": float(n)} for n in range(1, 502)]
    found = learning_curve(rows).evaluations
    assert len(found) <= MOST_POINTS
    assert found[-1] == (501, 501.0)
    assert {value == step for step, value in found} == {True}


def test_records_without_curves_read_and_keep_their_digest() -> None:
    """An older record says that there are none, and is the same record as before."""
    path = RESULTS / "sft.json"
    old = Verification.load(path)
    assert all(arm.curves == () for arm in old.arms)
    assert old.digest() == json.loads(path.read_text()).get("digest", old.digest())
    assert "curve" not in old.to_json()
    assert text("en")("curves.none") in results_of([old]).sections[1].lines
    assert "curves" not in figures(results_of([old]))
    result = trial_result(trial_spec())
    assert result.curve is None
    assert '"curve"' not in result.to_json()
    kept = replace(result, curve=curve())
    assert TrialResult.from_dict(json.loads(kept.to_json())) == kept


def test_a_record_with_too_many_points_is_refused() -> None:
    """A record of somebody else would make a page that no browser opens."""
    document = json.loads(finetune().to_json())
    document["curve"]["points"] = [[n, 1.0] for n in range(MOST_POINTS + 1)]
    document.pop("sha256", None)
    document = {key: value for key, value in document.items() if key != "digest"}
    with pytest.raises(RecordError, match=r"curve\.points has 61 entries"):
        Finetune.from_dict(document)


# --------------------------------------------------------------------------- what is drawn


@pytest.mark.parametrize("language", LANGUAGES)
def test_an_arm_is_a_drawing_and_a_seed_a_line(language) -> None:
    record = with_curves(arms=4, seeds=3)
    figure = figures(results_of([record], language))["curves"]
    drawn = figure.spec["data"]["lines"]
    assert drawn["panels"] == [arm.arm for arm in record.arms]
    assert len(drawn["lines"]) == 12
    assert drawn["lines"][4] == {"panel": 1, "name": "1", "points": record.arms[1].curves[1].points}
    assert len(figure.table.rows) == 12
    first, last = record.arms[0].curves[0].points[0], record.arms[0].curves[0].points[-1]
    assert figure.table.rows[0] == (
        "plop", "0", f"{first[0]}: {first[1]:.4f}", "55: 0.6276", f"{last[0]}: {last[1]:.4f}",
    )  # fmt: skip


def test_a_seed_without_a_curve_is_left_out() -> None:
    """A trial that failed in its first step has logged nothing; the others keep their seeds."""
    record = with_curves(arms=2)
    first = replace(record.arms[0], curves=(None, *record.arms[0].curves[1:]))
    figure = figures(results_of([replace(record, arms=(first, record.arms[1]))]))["curves"]
    assert [row[:2] for row in figure.table.rows[:3]] == [
        ("plop", "1"), ("plop", "2"), ("arm-1", "0"),
    ]  # fmt: skip


def test_the_final_finetune_has_both_losses_and_its_best_step() -> None:
    page = results_of([finetune()])
    figure = figures(page)["curve"]
    rows = figure.spec["data"]["values"]
    assert [row["value"] for row in rows[-3:]] == [1.9, 1.7, 1.8]
    assert len({row["group"] for row in rows}) == 2
    assert figure.spec["layer"][0]["data"]["values"] == [{"at": 60}]
    assert "The adapter is that of step 60" in page.sections[0].lines[1]
    old = results_of([finetune(curve=None, best_step=None)]).sections[0]
    assert old.figures == ()
    assert text("en")("curves.none") in old.lines
    plain = figures(results_of([finetune(best_step=None)]))["curve"]
    assert "layer" not in plain.spec


def test_rewards_are_named() -> None:
    arms = (arm_result("plop", [0.5], curves=(curve(quantity="reward"),)),)
    assert "reward by step" in figures(results_of([verification(*arms)]))["curves"].title


def test_a_record_draws_its_curves() -> None:
    """The same figures by `plot`, and the table in Markdown."""
    assert "Learning curves: loss by step" in repr(with_curves().plot())
    assert "Learning curve" in repr(finetune().plot())
    document = markdown_page(results_of([with_curves()]))
    assert re.search(r"\| arm-2 \| 2 \| 5: ", document.replace("\\", ""))


def test_many_curves_stay_within_the_page() -> None:
    """Twelve arms with eight seeds of sixty points, the most that there may be."""
    record = verification(*(
        arm_result(f"arm-{arm}", [0.5] * 8,
                   curves=tuple(curve(steps=MOST_POINTS) for _ in range(8)))
        for arm in range(12)
    ))  # fmt: skip
    assert len(html_page(results_of([record])).encode()) < 1_400_000


@pytest.mark.parametrize("verdict", FinetuneVerdict)
@pytest.mark.parametrize("language", LANGUAGES)
def test_a_final_finetune_alone_has_an_answer(verdict, language) -> None:
    """A report of it alone ended in a failed assertion."""
    page = results_of([finetune(verdict=verdict)], language)
    tones = {FinetuneVerdict.IMPROVED: Tone.GOOD, FinetuneVerdict.WORSE: Tone.BAD}
    assert page.tone is tones.get(verdict, Tone.OPEN)
    key = f"answer.finetune.{verdict.name.lower()}"
    assert page.answer == text(language)(key, metric="loss")
    assert "toy" in page.question


def test_a_run_that_has_only_begun_has_a_page() -> None:
    run = PipelineRun(folder="r", model="toy", recipe_digest="0", stages=(), plop_version="0")
    page = results_of([run])
    assert page.answer == text("en")("answer.run")
    assert [section.name for section in page.sections] == ["run", "provenance"]
