"""The verification on GSM8K: its rows are not the study's, and its recipe parts them as it says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from plop_lora.recipe import VerifyRecipe
from plop_lora.study.splits import prepare_splits

SCRIPTS = Path(__file__).parents[1] / "scripts" / "experiments"
ROWS = {"train.jsonl": 1000, "test.jsonl": 700}


def draw(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPTS / "gsm8k.py"), "source"],
        cwd=folder,
        capture_output=True,
        text=True,
    )


def write_source(folder: Path, rows: dict[str, int]) -> None:
    (folder / "source").mkdir()
    for name, count in rows.items():
        lines = [
            json.dumps({"question": f"{name} {n}?", "answer": f"#### {n}"}) for n in range(count)
        ]
        (folder / "source" / name).write_text("\n".join(lines), encoding="utf-8")


def test_no_row_is_one_of_the_study(tmp_path: Path, monkeypatch) -> None:
    """The rates of the recipe were chosen on rows of the study, which must not judge them again."""
    monkeypatch.syspath_prepend(SCRIPTS)
    import pairs

    write_source(tmp_path, ROWS)
    done = draw(tmp_path)
    assert done.returncode == 0, done.stderr
    studied = [row["prompt"] for part in pairs.gsm8k(tmp_path / "source", 256, 160) for row in part]
    found = [
        json.loads(line)["prompt"]
        for name in ("train.jsonl", "eval.jsonl")
        for line in (tmp_path / "build" / "gsm8k" / name).read_text("utf-8").splitlines()
    ]
    assert len(set(found)) == 672 + 480
    assert not set(found) & set(studied)


def test_the_recipe_trains_on_512_rows_of_its_own(tmp_path: Path, monkeypatch) -> None:
    """64 steps of 8 rows see each row once; another share held out would repeat or drop some."""
    write_source(tmp_path, ROWS)
    draw(tmp_path)
    monkeypatch.chdir(tmp_path)
    recipe = VerifyRecipe.read(SCRIPTS / "gsm8k.yaml", {})
    splits = prepare_splits(recipe)
    assert len(splits.train) == recipe.training.steps * recipe.training.batch_size
    assert (len(splits.selection), len(splits.report)) == (160, 480)


def test_too_few_rows_are_told(tmp_path: Path) -> None:
    write_source(tmp_path, {"train.jsonl": 300, "test.jsonl": 400})
    done = draw(tmp_path)
    assert done.returncode == 1
    assert "train.jsonl has 44 rows beside the study's 256" in done.stderr
