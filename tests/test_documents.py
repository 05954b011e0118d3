"""README blocks and examples run as they stand."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import plop_lora as plop
from plop_lora.demo import DATA, MODEL, TASKS

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted(
    path for path in (ROOT / "examples").glob("*.py") if not path.stem.startswith("train_")
)
"""Examples that do not train; test_examples.py runs the others."""
README = (ROOT / "README.md").read_text()


@pytest.fixture(scope="module")
def problems() -> plop.Scores:
    """What `plop demo` scores first."""
    documents = plop.load_documents(DATA / "problems.jsonl", **TASKS["problems"])
    return plop.score(str(MODEL), texts=documents, stop="fixed", progress=False)


def test_readme_starts_with_the_two_commands() -> None:
    first = re.search(r"```sh\n(.*?)```", README, re.DOTALL)[1]
    assert [line.split()[:2] for line in first.splitlines()] == [["make", "demo"], ["make", "test"]]


@pytest.mark.slow
def test_readme_python_block(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL):
        exec(compile(block, "README", "exec"), {})


@pytest.mark.slow
def test_readme_shell_block(tmp_path) -> None:
    """The commands of the README, with the bundled model and data in place of the user's."""
    block = re.search(r"```sh\n(plop score.*?)```", README, re.DOTALL)[1]
    block = block.replace("MODEL", str(MODEL)).replace("DATA.jsonl", str(DATA / "snippets.jsonl"))
    for line in block.replace("\\\n", " ").splitlines():
        words = line.split(" #")[0].split()
        done = subprocess.run(
            [sys.executable, "-m", "plop_lora", *words[1:]],
            capture_output=True, text=True, cwd=tmp_path,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("page", ["README.md", "docs/tutorial.md", "docs/explanation.md"])
def test_printed_scores_are_the_bundled_models(page: str, problems) -> None:
    """A table in the documentation that no longer comes out of the program misleads."""
    text = (ROOT / page).read_text()
    for row in problems.types:
        if page == "docs/explanation.md":
            printed = re.search(rf"^\| `{row.type}` \| ([\d.]+) \|", text, re.MULTILINE)
        else:
            printed = re.search(rf"^{row.type} .*? [kM]  ([\d.]+) ", text, re.MULTILINE)
        assert float(printed[1]) == pytest.approx(row.nfn, abs=2e-3)


def test_losses_of_the_bundled_model_are_those_of_its_training() -> None:
    page = (ROOT / "docs" / "demo-model.md").read_text()
    training = json.loads((MODEL / "training.json").read_text())
    for name, losses in training["held_out_nats_per_token"].items():
        cells = " | ".join(f"{loss:.2f}" for loss in losses.values())
        assert f"| {name} | {cells} |" in page
    assert f"{training['steps']} steps" in page
    for entry in (training["curve"][0], training["curve"][-1]):
        row = [entry["minutes"], entry["step"], f"{entry['train']:.2f}", f"{entry['held_out']:.2f}"]
        assert "| " + " | ".join(map(str, row)) + " |" in page


@pytest.mark.slow
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples(path: Path, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(path), run_name="__main__")


@pytest.mark.parametrize("adapter", ["plop", "all-linear"])
def test_the_page_of_the_real_gate_has_its_numbers(adapter: str) -> None:
    page = (ROOT / "docs" / "gate.md").read_text()
    results = ROOT / "scripts" / "experiments" / "results" / "gate-gsm8k.json"
    table = page.partition(f"| `{adapter}` | difference |")[2].partition("\n\n")[0]
    rows = [line for line in table.splitlines() if line.startswith("| `")]
    for check, row in zip(json.loads(results.read_text())[adapter], rows, strict=True):
        name, items, base, own, difference, _, verdict = row.strip("| ").split(" | ")
        found = check["difference"]
        ends = " to ".join(f"{found[end]:+.3f}" for end in ("low", "high"))
        assert (name, int(items)) == (f"`{check['check']}`", check["items"])
        assert (float(base), float(own)) == (
            round(check["base"]["value"], 3), round(check["adapter"]["value"], 3),
        )  # fmt: skip
        assert difference.replace("−", "-") in (
            f"{found['value']:+.3f} ({ends})", f"{found['value']:.3f} ({ends})",
        )  # fmt: skip
        assert verdict.startswith(check["verdict"])
