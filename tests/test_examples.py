"""The examples that train, each run as a user runs it, in a folder of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from peft import PeftConfig

ROOT = Path(__file__).parents[1]
LOWEST = {"v_proj", "up_proj", "down_proj"}
"""The types of the bundled model with the lowest NFN, on all of its bundled texts."""
EXAMPLES = {"train_sft": "sft", "train_grpo": "grpo", "train_classifier": "classifier"}


def test_every_example_that_trains_is_run() -> None:
    assert {path.stem for path in (ROOT / "examples").glob("train_*.py")} == set(EXAMPLES)


@pytest.mark.slow
@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_trains_the_adapters_that_were_placed(name: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / f"{name}.py")],
        cwd=tmp_path,
        env={**os.environ, "PLOP_CACHE": "0", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    folder = tmp_path / "out" / EXAMPLES[name] / "adapter"
    config = PeftConfig.from_pretrained(folder)
    assert config.r == 8
    assert {name.rpartition(".")[2] for name in config.target_modules} == LOWEST
    assert (folder / "adapter_model.safetensors").stat().st_size > 0
