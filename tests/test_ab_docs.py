"""The how-to of A/B tests: every command and every block of it is run."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from experiments import SALT, adapter_folder, verdict

from plop_lora import ab
from plop_lora.records import Experiment

PAGE = Path(__file__).parents[1] / "docs" / "how-to" / "ab.md"
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the page begins with; the current one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PLOP_EXPERIMENT", "experiment.json")
    # A salt that is drawn would draw the arms, and with them a decision that is rarely another.
    monkeypatch.setattr("plop_lora.ab.design.new_salt", lambda: SALT)
    for name in ("now", "next"):
        adapter_folder(Path("adapters", name))
    verdict(ab.adapter_arm("next", 0.5, "adapters/next").adapter_digest).save("verdict.json")
    rows = "".join(f"account-{n % 400},{int(n % 10 == 0)}\n" for n in range(1000))
    Path("past.csv").write_text(f"account,resolved\n{rows}")
    return tmp_path


def blocks(language: str) -> list[str]:
    """Return the blocks of a language."""
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


def write_events(design: Experiment) -> None:
    """Write the events of a candidate that resolves more and is as fast."""
    lines = ["unit,at,arm,resolved,latency_last"]
    for number in range(40_000):
        unit = f"account-{number}"
        arm = design.assign(unit)
        if arm is not None:
            resolved = int(number % 3 == 0 or (arm == "next" and number % 2 == 0))
            lines.append(f"{unit},2036-03-02T09:00:00Z,{arm},{resolved},1.{number % 7}")
    Path("events.csv").write_text("\n".join(lines))


def run_gateway(block: str) -> None:
    """Run the block of a gateway, whose server answers at once."""
    exec(block, {"ask": lambda model: SimpleNamespace(seconds=0.5, model=model)})


@pytest.mark.slow
def test_every_command_of_the_page_runs(folder: Path, run: Run) -> None:
    """A page whose commands no longer fit each other teaches errors."""
    (recipe,) = blocks("yaml")
    (gateway,) = blocks("python")
    Path("ab.yaml").write_text(recipe)
    lines = "".join(blocks("sh")).replace("\\\n", " ").splitlines()
    commands = [shlex.split(line)[1:] for line in lines if line.startswith("plop ab")]
    assert {words[1] for words in commands} == {
        "plan", "init", "assign", "serve", "log", "import", "status", "analyze", "ramp", "switch",
        "stop",
    }  # fmt: skip
    for words in commands:
        if words[1] == "serve":  # it ends with a signal; test_ab_serve.py runs it
            continue
        code, output, errors = run(*words)
        assert code == 0, (words, output, errors)
        if words[1] == "init":
            write_events(Experiment.load("experiment.json"))
            run_gateway(gateway)
    code, output, _ = run("ab", "status")
    assert "Ended: ship next" in output
