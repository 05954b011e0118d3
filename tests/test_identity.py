"""Weights are part of a trial: other weights under the same name are another trial."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from builders import trial_spec

import plop_lora as plop
from plop_lora.errors import ModelError, UsageError
from plop_lora.recipe import TuneRecipe, VerifyRecipe
from plop_lora.records import Scores, TrainingSettings, TrialSpec
from plop_lora.study.folder import check_owner, keep, mark
from plop_lora.study.model import check_config, check_weights_fit, model_of
from plop_lora.study.study import Study
from plop_lora.training.runners.events import ignore
from plop_lora.training.weights import TrainedModel, check_weights, trained_model, weights_key
from plop_lora.tuning.search import Search
from plop_lora.tuning.space import build_space
from plop_lora.verification import run as step
from plop_lora.verification.design import make_design
from plop_lora.verification.ladder import Ladder, ladder_specs


@pytest.fixture
def here(tmp_path: Path, scores: Scores, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a checkpoint `net`, rows and a recipe."""
    checkpoint(tmp_path / "net", scores, b"first")
    for name, start in (("train", 0), ("eval", 900)):
        rows = ({"text": f"text {n}", "label": n % 2} for n in range(start, start + 80))
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def checkpoint(folder: Path, scores: Scores, weights: bytes) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(scores.model.config))
    (folder / "model.safetensors").write_bytes(weights)


def recipe(**values: object) -> VerifyRecipe:
    given = {"task": "classify", "train": "train.jsonl", "eval": "eval.jsonl", "model": "net"}
    return VerifyRecipe.model_validate({**given, "arms": ("mlp",), "seeds": 2, **values})


def specs(scores: Scores, wanted: VerifyRecipe) -> tuple[TrialSpec, ...]:
    return ladder_specs(Ladder(make_design(Study.open(scores, wanted, Path("run")), wanted)))


def test_other_weights_at_the_same_path_are_other_trials(scores, here: Path) -> None:
    """Losses of two networks under one name were averaged, and confirmed the shortlist."""
    before = specs(scores, recipe())
    assert before == specs(scores, recipe())
    checkpoint(here / "net", scores, b"other")
    after = specs(scores, recipe())
    assert not {s.digest() for s in before} & {s.digest() for s in after}


def test_the_same_name_from_another_directory_is_another_trial(
    scores, here: Path, monkeypatch
) -> None:
    before = specs(scores, recipe())
    other = here / "other"
    other.mkdir()
    checkpoint(other / "net", scores, b"other")
    for name in ("train.jsonl", "eval.jsonl"):
        shutil.copy(here / name, other / name)
    monkeypatch.chdir(other)
    after = specs(scores, recipe())
    assert before[0].model != after[0].model
    assert before[0].weights != after[0].weights


def test_a_folder_of_other_weights_is_refused(scores, here: Path) -> None:
    """Its signals were measured on them, and its trials are not to be compared."""
    mark(here / "run", "verify", model_of(scores, "net"))
    specs(scores, recipe())
    checkpoint(here / "net", scores, b"other")
    with pytest.raises(UsageError, match=r"belongs to other weights of .*net"):
        plop.verify(scores, recipe(), folder=here / "run", run=_no_trial)


def _no_trial(*parts: object, **others: object) -> None:
    raise AssertionError("a trial was started")


def test_a_copy_of_a_checkpoint_has_its_key(scores, here: Path) -> None:
    """A run must go on after the model was copied to another disk, or its times changed."""
    key = weights_key(here / "net")
    shutil.copytree(here / "net", here / "copy")
    (here / "copy" / "README.md").write_text("notes")
    assert weights_key(here / "copy") == key
    (here / "copy" / "tokenizer.json").write_text("{}")
    assert weights_key(here / "copy") != key


def test_contents_are_remembered_and_a_change_is_seen(scores, here: Path, monkeypatch) -> None:
    """Dozens of trials must not each read 100 GB; a stale memory must not hide new weights."""
    monkeypatch.setenv("PLOP_CACHE", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(here / "cache"))
    key = weights_key(here / "net")
    memory = here / "cache" / "plop-lora" / "files.json"
    assert len(json.loads(memory.read_text())) == 2
    checkpoint(here / "net", scores, b"FIRST")
    assert weights_key(here / "net") != key
    memory.write_text("[1")
    checkpoint(here / "net", scores, b"first")
    assert weights_key(here / "net") == key


def test_a_trial_refuses_weights_that_have_changed(scores, here: Path) -> None:
    planned = dataclasses.replace(
        trial_spec(), model=str(here / "net"), weights=weights_key(here / "net")
    )
    check_weights(planned)
    checkpoint(here / "net", scores, b"other")
    with pytest.raises(ModelError, match="have changed since the trial was planned"):
        check_weights(planned)
    check_weights(dataclasses.replace(planned, weights=None))


def test_old_specs_keep_their_digest() -> None:
    """A field that old documents lack must not make another trial of each."""
    document = trial_spec().to_dict()
    assert "weights" not in document
    assert "revision" not in document
    assert TrialSpec.from_dict(document).digest() == trial_spec().digest()
    told = dataclasses.replace(trial_spec(), revision="abc")
    assert told.digest() != trial_spec().digest()
    assert TrialSpec.from_dict(told.to_dict()) == told


def test_the_scored_revision_of_a_hub_id_is_trained(scores, here: Path, monkeypatch) -> None:
    """Trials of a hub id would follow its main branch, whatever was scored."""
    scored = dataclasses.replace(scores.model, name="org/net", revision="a" * 40)
    assert model_of(dataclasses.replace(scores, model=scored)).revision == "a" * 40
    snapshot = here / "hub" / "models--org--net" / "snapshots" / ("b" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    found = str(snapshot / "config.json")
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *a, **k: found)
    assert trained_model("org/net").revision == "b" * 40
    assert model_of(scores, "org/net").revision == "b" * 40


def test_a_recipe_names_the_revision_of_another_model(scores, here: Path, monkeypatch) -> None:
    """Another hub model could be trained at its main branch only."""
    known = dataclasses.replace(scores, model=dataclasses.replace(
        scores.model, name="some/model", revision="a" * 40))  # fmt: skip
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *a, **k: None)
    assert model_of(known, "some/other").revision is None
    assert model_of(known, "some/other", "v2").revision == "v2"
    assert model_of(known, "some/model", "v2").revision == "v2"
    assert model_of(known, "some/model").revision == "a" * 40
    assert "revision" not in recipe().model_dump(mode="json")


def test_a_folder_has_no_revision(scores, here: Path) -> None:
    checkpoint(here / "model", scores, b"one")
    with pytest.raises(UsageError, match="is a local folder, which has no revisions"):
        model_of(scores, str(here / "model"), "main")


def test_a_run_at_another_revision_is_another_recipe(scores, here: Path) -> None:
    before = recipe(model="some/other")
    mark(here / "run", "verify", TrainedModel("some/other"))
    keep(here / "run", before, scores)
    now = recipe(model="some/other", revision="v2")
    with pytest.raises(UsageError, match="its revision is None, now 'v2' is asked"):
        check_owner(here / "run", now, scores)


def test_the_revision_reaches_the_loaders(here: Path, monkeypatch) -> None:
    from plop_lora.training.kept_base import base_of

    asked = {}

    def tokenizer(name: str, *, revision: str | None, **others: Any) -> SimpleNamespace:
        asked["tokenizer"] = revision
        return SimpleNamespace(pad_token="[PAD]", pad_token_id=0, chat_template=None)

    def config(name: str, *, revision: str | None, **others: Any) -> None:
        asked["config"] = revision
        raise OSError("seen")

    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", tokenizer)
    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", config)
    settings = TrainingSettings(dtype="float32", device="cpu")
    with pytest.raises(ModelError):
        base_of(trial_spec(model="org/net", revision="abc", training=settings))
    assert asked == {"tokenizer": "abc", "config": "abc"}


def test_a_search_of_other_weights_is_another_search(scores, here: Path) -> None:
    given = {"task": "classify", "train": "train.jsonl", "eval": "eval.jsonl", "model": "net"}
    wanted = TuneRecipe.model_validate(given)
    before = _search(scores, wanted, here / "tune").identity()
    checkpoint(here / "net", scores, b"other")
    assert _search(scores, wanted, here / "tune").identity() != before


def _search(scores: Scores, wanted: TuneRecipe, folder: Path) -> Search:
    study = Study.open(scores, wanted, folder)
    return Search(study, build_space(study, wanted), wanted, _no_trial, ignore)


# --------------------------------------------------------------------------- the right model


def test_a_model_that_is_missing_is_told_before_any_trial(scores, here: Path) -> None:
    """It was found by every trial, one after the other, each after its imports."""
    with pytest.raises(ModelError, match=r"The model folder \./nett is not there"):
        plop.verify(scores, recipe(model="./nett"), folder=here / "run", run=_no_trial)
    with pytest.raises(ModelError, match="no model 'nett' to train"):
        plop.verify(scores, recipe(model="nett"), folder=here / "run", run=_no_trial)
    assert not (here / "run").exists()


def test_a_model_of_another_type_is_refused(scores, here: Path) -> None:
    (here / "net" / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    with pytest.raises(ModelError, match=r"is a gpt2 model, but the scores are of .*llama model"):
        plop.verify(scores, recipe(), folder=here / "run", run=_no_trial)
    with pytest.raises(ModelError, match="gpt2"):
        step.plan(scores, recipe(), folder=here / "run")


def test_a_model_of_another_size_is_refused(scores, here: Path) -> None:
    config = dict(scores.model.config, hidden_size=64, head_dim=16)
    (here / "net" / "config.json").write_text(json.dumps(config))
    model = model_of(scores, "net")
    check_config(model, scores, download=False)
    with pytest.raises(ModelError, match="it is another model"):
        check_weights_fit(model, [plop.place(scores)])
