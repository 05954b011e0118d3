"""The final finetune: what is trained, what is refused, and what its record says."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from builders import PlantedTrials, arm_result, planted_accuracy, trial_result, verification
from safetensors.torch import save_file
from torch import zeros

import plop_lora as plop
from plop_lora.errors import DataError, MeasurementError, RecordError, UsageError
from plop_lora.finetuning import plan
from plop_lora.finetuning.outcome import held_out, verdict_of
from plop_lora.finetuning.source import choose, read_source
from plop_lora.recipe import FinalRecipe
from plop_lora.records import Finetune, HeldOut, Placement, TrialResult, TrialSpec
from plop_lora.records.finetune import IMPROVED, INCONCLUSIVE, WORSE
from plop_lora.records.trial import FAILED, FINAL, UNTRAINED, LearningCurve
from plop_lora.records.verification import Verdict
from plop_lora.reports.terminal import as_text
from plop_lora.training.folder import trial_folder

ROWS, REPORT_ROWS = 200, 100


@pytest.fixture
def here(tmp_path: Path, scores, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A placement, labelled rows and a recipe, as a user has them."""
    plop.place(scores, rank=4).save(tmp_path / "placement.json")
    (tmp_path / scores.model.name).mkdir()
    (tmp_path / scores.model.name / "config.json").write_text(json.dumps(scores.model.config))
    for name, start, count in (("train", 0, ROWS), ("eval", 9000, REPORT_ROWS)):
        rows = ({"text": f"text {n}", "label": n % 2} for n in range(start, start + count))
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "recipe.yaml").write_text(
        "task: classify\ntrain: train.jsonl\neval: eval.jsonl\ntraining: {device: cpu}\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("plop_lora.study.study.Finetunes.check", lambda *given: None)
    return tmp_path


def planted(share: float = 0.8, **settings: Any) -> PlantedTrials:
    """Return trials that reach an accuracy, and leave an adapter as a real one does."""
    trials = planted_accuracy({"plop": share}, **settings)
    run = trials._run

    def with_adapter(spec: TrialSpec, root: Path, folder: Path, watch: Any) -> TrialResult:
        result = run(spec, root, folder, watch)
        (folder / "adapter").mkdir(exist_ok=True)
        (folder / "adapter" / "adapter_config.json").write_text("{}")
        save_file({"lora": zeros(1)}, folder / "adapter" / "adapter_model.safetensors")
        return result

    trials._run = with_adapter
    return trials


def finetune(run: PlantedTrials, **settings: Any) -> Finetune:
    source = settings.pop("source", "placement.json")
    return plop.finetune(source, "recipe.yaml", folder="run", run=run, **settings)


# --------------------------------------------------------------------------- what runs


def test_base_and_adapter_are_judged_on_the_same_rows(here: Path) -> None:
    """Losses of other rows, or of a base that was judged otherwise, cannot be compared."""
    run = planted()
    record = finetune(run)
    base, final = run.ran
    assert (base.phase, final.phase) == (UNTRAINED, FINAL)
    assert base.data.evaluation_sha256 == final.data.evaluation_sha256
    assert base.learning_rate == 0
    assert trial_folder(Path("run"), final) == Path("run")
    assert (record.train_rows, record.selection_rows) == (180, 20)
    assert record.report_rows == REPORT_ROWS
    assert (record.verdict, record.exit_code) == (IMPROVED, 0)
    assert Finetune.load("run/finetune.json").digest() == record.digest()


def test_the_curve_of_the_training_is_kept(here: Path) -> None:
    drawn = LearningCurve(quantity="loss", points=((1, 2.0),), evaluations=((1, 1.9),))
    run = planted()
    run.change = lambda spec, result: replace(result, curve=drawn if spec.phase == FINAL else None)
    assert finetune(run).curve == drawn
    assert Finetune.load("run/finetune.json").curve == drawn


def test_with_early_stopping_the_selection_rows_are_not_trained_on(here: Path) -> None:
    """Rows that are trained on choose the checkpoint that has learnt them by heart."""
    run = planted()
    finetune(run)
    files = {name: set(Path(f"run/data/{name}.jsonl").read_text().splitlines())
             for name in ("train", "select", "report")}  # fmt: skip
    assert not files["train"] & files["select"]
    assert not (files["train"] | files["select"]) & files["report"]
    (final,) = run.of_phase(FINAL)
    assert final.data.selection == "data/select.jsonl"
    assert (here / "run" / final.data.train).is_file()


def test_without_early_stopping_all_rows_are_trained_on(here: Path) -> None:
    """Rows that choose nothing would be held out in vain."""
    run = planted()
    record = finetune(run, finetune={"patience": 0})
    assert (record.train_rows, record.selection_rows) == (ROWS, 0)
    (final,) = run.of_phase(FINAL)
    assert final.data.selection is None
    assert not Path("run/data/select.jsonl").exists()
    assert len(Path("run/data/train.jsonl").read_text().splitlines()) == ROWS


def test_a_finished_finetune_is_not_run_again(here: Path) -> None:
    """A pipeline calls every stage again when it is resumed."""
    first = finetune(planted())
    again = planted()
    assert finetune(again).digest() == first.digest()
    assert not again.ran


def test_a_stopped_finetune_goes_on(here: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        finetune(planted(die_after=1))
    assert not Path("run/finetune.json").exists()
    again = planted()
    finetune(again)
    assert [spec.phase for spec in again.ran] == [FINAL]


def test_settings_of_the_recipe_reach_the_training(here: Path) -> None:
    run = planted()
    settings = {"epochs": 3, "learning_rate": 1e-4, "seed": 7, "per_epoch": 2, "keep": 1}
    record = finetune(run, finetune=settings)
    (final,) = run.of_phase(FINAL)
    assert (final.training.epochs, final.learning_rate, final.seed) == (3, 1e-4, 7)
    assert (final.checkpoints.per_epoch, final.checkpoints.keep) == (2, 1)
    assert record.choice.rate_from == "the recipe"


def test_a_failed_training_names_its_last_checkpoint(here: Path) -> None:
    """An error without it leaves the user with a folder of numbers."""

    def diverge(spec: TrialSpec, result: TrialResult) -> TrialResult:
        if spec.phase != FINAL:
            return result
        return replace(result, status=FAILED, cause="loss became NaN at step 7", metrics={})

    with pytest.raises(MeasurementError, match=r"NaN at step 7.*no checkpoint yet.*--learn"):
        finetune(planted(change=diverge))
    assert not Path("run/finetune.json").exists()


# --------------------------------------------------------------------------- which source


def test_a_verification_chooses_by_its_verdict(here: Path) -> None:
    """The shortlist of a verification that it lost would be shipped."""
    other = replace(Placement.load("placement.json"), strategy="attention")
    arms = (
        arm_result("plop", [0.5, 0.5], learning_rate=1e-3),
        arm_result("attention", [0.4, 0.4], learning_rate=2e-3),
        arm_result("mlp", [0.6, 0.6]),
    )
    confirmed = verification(*arms)
    beaten = replace(confirmed, verdict=Verdict.BEATEN, better="attention", better_placement=other)
    assert (choose(confirmed).arm, choose(confirmed).learning_rate) == ("plop", 1e-3)
    assert (choose(beaten).arm, choose(beaten).placement) == ("attention", other)
    assert choose(beaten).learning_rate == 2e-3
    assert choose(beaten, "plop").arm == "plop"
    unclear = choose(replace(confirmed, verdict=Verdict.INCONCLUSIVE))
    assert unclear.why == "the shortlist: the verification could not tell the arms apart"
    with pytest.raises(UsageError, match="keeps the placement of plop alone"):
        choose(confirmed, "mlp")
    with pytest.raises(UsageError, match=r"no arm 'atention'\. Did you mean 'attention'"):
        choose(beaten, "atention")


def test_a_source_of_another_kind_is_named(here: Path, scores) -> None:
    scores.save("scores.json")
    with pytest.raises(RecordError, match="'scores' record, and says neither where adapters go"):
        read_source("scores.json")
    with pytest.raises(RecordError, match="No such file"):
        read_source("none.json")
    with pytest.raises(UsageError, match="class dict"):
        read_source({})
    with pytest.raises(UsageError, match="Leave --arm out"):
        choose(Placement.load("placement.json"), "plop")


def test_a_verification_of_another_task_is_refused(here: Path) -> None:
    """Its learning rate was chosen for another loss."""
    found = replace(
        verification(arm_result("plop", [0.5])), placement=Placement.load("placement.json")
    )
    with pytest.raises(UsageError, match="task sft, and the recipe asks for classify"):
        finetune(planted(), source=found)


# --------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"finetune": {"learning_rate": 2e-4}}, "its learning rate is .*, now 0.0002 is asked"),
        ({"finetune": {"seed": 9}}, "its seed is 0, now 9 is asked"),
        ({"finetune": {"keep": 5}}, "its keep is 2, now 5 is asked"),
        ({"finetune": {"patience": 0}}, "belongs to other data"),
        ({"selection": 0.2}, "belongs to other data"),
    ],
)
def test_the_folder_of_another_finetune(here: Path, settings: dict[str, Any], text: str) -> None:
    """A resumed training with other settings is neither the one nor the other."""
    finetune(planted())
    again = planted()
    with pytest.raises(UsageError, match=text):
        finetune(again, **settings)
    assert not again.ran


def test_a_folder_of_something_else(here: Path) -> None:
    Path("run").mkdir()
    Path("run/thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match="holds something else than a run"):
        finetune(planted())
    assert Path("run/thesis.tex").read_text() == "years of work"


def test_other_versions_are_told(here: Path) -> None:
    """An adapter that two releases trained halves of is not the one of either."""
    with pytest.raises(KeyboardInterrupt):
        finetune(planted(die_after=1))
    versions = json.loads(Path("run/versions.json").read_text())
    Path("run/versions.json").write_text(json.dumps(versions | {"torch": "1.0"}))
    assert any("began with torch 1.0" in note for note in finetune(planted()).notes)


def test_too_few_steps_to_stop_early(here: Path) -> None:
    with pytest.raises(DataError, match="has 1 step and so 1 evaluation"):
        finetune(planted(), finetune={"steps": 1})
    with pytest.raises(UsageError, match=r"finetune\.steps"):
        finetune(planted(), finetune={"steps": 0})


def test_evaluation_rows_among_the_training_rows(here: Path) -> None:
    Path("eval.jsonl").write_text(Path("train.jsonl").read_text())
    with pytest.raises(DataError, match="would measure memory"):
        finetune(planted())


# --------------------------------------------------------------------------- what is said


def outcome(low: float | None, high: float | None) -> HeldOut:
    return HeldOut(metric="loss", base=1.0, adapter=0.9, difference=0.1, low=low, high=high)


def test_the_verdict_follows_the_interval() -> None:
    """An adapter that changed nothing, or is worse, must not look like a success."""
    assert verdict_of(outcome(0.05, 0.15), nothing_learned=False) is IMPROVED
    assert verdict_of(outcome(-0.15, -0.05), nothing_learned=False) is WORSE
    assert verdict_of(outcome(-0.05, 0.25), nothing_learned=False) is INCONCLUSIVE
    assert verdict_of(outcome(None, None), nothing_learned=False) is INCONCLUSIVE
    assert verdict_of(outcome(0.05, 0.15), nothing_learned=True) is INCONCLUSIVE


def test_differences_are_turned_and_paired(here: Path) -> None:
    """A lower loss and a higher accuracy are both better; rows are compared with themselves."""
    run = planted()
    finetune(run)
    base, final = run.ran

    def result(spec: TrialSpec, items: Mapping[str, tuple[float, ...]]) -> TrialResult:
        means = {name: sum(values) / len(values) for name, values in items.items()}
        return trial_result(spec, 0.0, metrics=means | {"macro-f1": 0.5}, items=dict(items))

    first = result(base, {"loss": (1.0, 5.0, 9.0), "accuracy": (0.0, 0.0, 1.0)})
    second = result(final, {"loss": (0.9, 4.8, 8.9), "accuracy": (1.0, 0.0, 1.0)})
    loss, accuracy, f1 = held_out(first, second, "loss", "accuracy")
    assert loss.difference == pytest.approx(0.4 / 3)
    assert loss.high - loss.low < 0.3, "unpaired, it is more than 10 wide"
    assert accuracy.difference == pytest.approx(1 / 3)
    assert (f1.low, f1.high) == (None, None)


def test_the_table_says_aloud_that_an_adapter_is_worse(here: Path) -> None:
    text = as_text(finetune(planted(0.1)), 100)
    assert "THE ADAPTER IS WORSE THAN THE BASE by loss" in text
    assert "none: it is no mean over rows" not in text


def test_a_plan_runs_and_writes_nothing(here: Path) -> None:
    found = plan("placement.json", "recipe.yaml", folder="run")
    assert (found.train_rows, found.selection_rows, found.steps) == (180, 20, 23)
    assert found.every == 6
    assert not Path("run").exists()
    text = as_text(found, 100)
    assert "23, a checkpoint every 6" in text
    assert "after 3 evaluations without a new best one" in text


def test_the_page_names_what_can_be_chosen() -> None:
    """A key that the how-to does not name is one that users will not find."""
    page = (Path(__file__).parents[1] / "docs" / "how-to" / "finetune.md").read_text()
    for name in ("epochs", "per_epoch", "patience", "keep", "learning-rate", "seed"):
        assert name in page, name
    assert FinalRecipe.model_fields["finetune"].description
