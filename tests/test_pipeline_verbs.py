"""`plop init`, `plop run`, `plop status` and `plop ci init` as a user types them, without training.

The chain itself runs in test_pipeline_chain.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from plop_lora.demo import DATA, MODEL
from plop_lora.pipeline import RunRecipe, plan
from plop_lora.pipeline.reading import content
from plop_lora.recipe.schema import recipe_schema

ROOT = Path(__file__).parents[1]
ROWS = DATA / "problems.jsonl"
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def drafted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run) -> Path:
    """A recipe that plop init has written for the bundled model and its word problems."""
    monkeypatch.chdir(tmp_path)
    code, _, errors = run("init", str(MODEL), str(ROWS), "--yes")
    assert code == 0, errors
    return tmp_path / "recipe.yaml"


def test_a_draft_runs_as_it_stands(drafted: Path, run: Run) -> None:
    """A first recipe that does not run is worse than none."""
    text = drafted.read_text()
    recipe = yaml.safe_load(text)
    assert recipe["task"] == "sft"
    assert text.count("# ") > len(recipe)
    code, output, errors = run("run", "recipe.yaml", "--dry-run")
    assert code == 0, errors
    stages = ["acquire", "score", "place", "verify", "finetune", "gate", "export"]
    assert [name for name in stages if name in output] == stages
    assert not Path("plop-run").exists()
    code, _, errors = run("init", str(MODEL), str(ROWS), "--yes")
    assert code == 2
    assert "is there already" in errors


def test_a_scored_run_knows_how_long_its_trials_take(drafted: Path, run: Run) -> None:
    """Hours of training are not begun by who asked only what they would take."""
    before = run("run", "recipe.yaml", "--dry-run")[1]
    assert "about" not in before
    code, _, errors = run("run", "recipe.yaml", "--until", "score")
    assert code == 0, errors
    output = run("run", "recipe.yaml", "--dry-run")[1]
    assert output.count("the plan of its trials") == 1
    assert "To come: about" in output
    assert not Path("plop-run/scratch").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("none", str(ROWS)), "none"),
        ((str(MODEL), "none.jsonl"), "none.jsonl"),
        ((str(MODEL), str(ROWS), "--prompt", "{qestion}"), "--prompt names 'qestion'"),
        ((str(MODEL), "odd.jsonl"), "do not tell how a row is read"),
        ((str(MODEL), "empty.jsonl"), "holds no rows"),
        ((str(MODEL), "few.jsonl"), "A fifth of few.jsonl has 12 rows; at least 16"),
        ((str(MODEL), str(ROWS), "--eval", "one.jsonl"), "one.jsonl has 1 rows"),
        ((str(MODEL), "one.jsonl", "--eval", str(ROWS)), "one.jsonl leaves 1 rows to train on"),
        ((str(MODEL), str(ROWS), "--trainer", "axolotle"), "axolotl"),
        ((str(MODEL), str(ROWS), "--task", "stf"), "stf"),
    ],
)
def test_what_does_not_fit_is_told_before_a_recipe_is_written(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    run: Run,
    words: tuple[str, ...],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("odd.jsonl").write_text('{"a": "x", "b": "y"}\n')
    Path("empty.jsonl").write_text("")
    lines = ROWS.read_text().splitlines(keepends=True)
    Path("few.jsonl").write_text("".join(lines[:60]))
    Path("one.jsonl").write_text(lines[0])
    code, _, errors = run("init", *words, "--yes")
    assert code in (1, 2)
    assert said in errors
    assert not Path("recipe.yaml").exists()


def test_the_task_follows_from_the_fields(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [{"text": f"text number {n}", "label": "ab"[n % 2]} for n in range(200)]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run("init", str(MODEL), "rows.jsonl", "--yes")[0] == 0
    assert yaml.safe_load(Path("recipe.yaml").read_text())["task"] == "classify"


def test_a_recipe_that_cannot_work_is_told_before_anything_runs(drafted: Path, run: Run) -> None:
    """A gate that cannot start would be told after hours of training."""
    for setting, said in (
        ("gate.checks=[tsak]", "tsak"),
        ("run.proof=veriyf", "veriyf"),
        ("training.stepps=3", "stepps"),
        ("train=gone.jsonl", "gone.jsonl"),
        ("run.arm=next", "ab"),
        ("model=null", "model is needed"),
        ("finetune.patience=-1", "finetune.patience"),
        ("acquire.split.share=2", "acquire.split.share"),
    ):
        code, _, errors = run("run", "recipe.yaml", "--dry-run", "--set", setting)
        assert code in (1, 2), setting
        assert said in errors, (setting, errors)
    code, _, errors = run("run", "recipe.yaml", "--until", "veriyf")
    assert code == 2
    assert "Did you mean 'verify'" in errors
    assert not Path("plop-run").exists()
    code, _, errors = run("status", "nowhere")
    assert code == 2
    assert "There is no run in nowhere" in errors


def test_what_a_change_reruns(drafted: Path) -> None:
    """The key of a stage holds what its result depends on, and nothing else."""

    def keys(**values: Any) -> dict[str, str]:
        document = {**yaml.safe_load(drafted.read_text()), **values}
        recipe = RunRecipe(document, "r")
        return {stage.stage: stage.key for stage in plan(recipe, "nowhere").stages}

    before = keys()

    def changed(**values: Any) -> list[str]:
        return [name for name, key in keys(**values).items() if key != before[name]]

    assert changed(runner={"workers": 1}) == []
    assert changed(report_to=["tensorboard"]) == []
    assert changed(gate={"task": {"margin": 0.2}, "checks": ["task"]}) == ["gate", "export"]
    assert changed(run={"export": ["trl"]}) == ["export"]
    assert changed(finetune={"epochs": 1}) == ["finetune", "gate", "export"]
    assert changed(seeds=3) == ["verify", "finetune", "gate", "export"]
    assert changed(place={"top": 2}) == ["place"]
    assert changed(score={"max_length": 99}) == [
        "score", "place", "verify", "finetune", "gate", "export",
    ]  # fmt: skip
    assert len(changed(acquire={"split": {"share": 0.3}})) == 7
    tuned = keys(run={"proof": "tune"})
    assert list(tuned)[3] == "tune"


def test_a_data_file_that_changes_reruns_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("rows.jsonl").write_bytes(ROWS.read_bytes())
    assert run("init", str(MODEL), "rows.jsonl", "--yes")[0] == 0
    before = [stage.key for stage in plan("recipe.yaml").stages]
    assert [stage.key for stage in plan("recipe.yaml").stages] == before
    with Path("rows.jsonl").open("a") as file:
        file.write('{"question": "One more?", "answer": "Yes."}\n')
    assert not set(before) & {stage.key for stage in plan("recipe.yaml").stages}


def test_a_folder_of_data_is_known_by_its_files(tmp_path: Path) -> None:
    """Rows of a saved data set would change and the old answer stay."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_text("1")
    before = content(str(tmp_path))
    (tmp_path / "a" / "x").write_text("2")
    assert content(str(tmp_path)) != before
    (tmp_path / "a" / "x").rename(tmp_path / "y")
    assert content(str(tmp_path)) not in (before, None)
    assert content("owner/name:config:split") == "owner/name:config:split"


def test_the_schema_of_a_recipe(drafted: Path) -> None:
    """An editor would call a right key wrong, or a wrong one right."""
    schema = recipe_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    written = (ROOT / "scripts" / "experiments").glob("*.yaml")
    recipes = [drafted, *(path for path in written if path.name != "external.yaml")]
    for path in recipes:
        jsonschema.validate(yaml.safe_load(path.read_text()), schema)
    for wrong in ({"taks": "sft"}, {"finetune": {"patience": -1}}, {"gate": {"chekcs": []}}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, schema)
    published = json.loads((ROOT / "docs" / "reference" / "recipe.schema.json").read_text())
    assert published == schema, "run docs/generate.py"


def test_a_workflow_for_pull_requests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("ci", "init", "r.yaml", "adapters/n x")[0] == 0
    text = Path(".github/workflows/plop.yml").read_text()
    document = yaml.safe_load(text)
    assert document["on"]["pull_request"]["paths"] == ["adapters/n x/**", "r.yaml"]
    (job,) = document["jobs"].values()
    commands = [step["run"] for step in job["steps"] if "run" in step]
    assert "plop gate 'adapters/n x' --recipe r.yaml -o verdict.json" in commands
    assert "plop gate 'adapters/n x' --recipe r.yaml --plan" in commands
    assert any("plop report verdict.json -o report.md" in command for command in commands)
    assert run("ci", "init", "r.yaml", "a")[0] == 2
    for path in ("/etc", "../x", "~/x", ""):
        code, _, errors = run("ci", "init", "r.yaml", path, "-o", "-")
        assert code == 2
        assert "within the repository" in errors
