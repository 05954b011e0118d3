"""Regular expressions of an adapter's configuration: those that hang, and those that are none."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from test_serving import _train
from waiting import PATIENCE

from plop_lora.errors import AdapterError
from plop_lora.exports import fold, lint, patterns
from plop_lora.exports.imported import import_adapter
from plop_lora.exports.patterns import check_patterns

NAMES = [f"model.layers.{layer}.self_attn.q_proj" for layer in range(40)]
HANGING = "(([a-z.0-9_])+)+!"
CONFIG = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]}

FIELDS: list[tuple[str, Any]] = [
    ("target_modules", HANGING),
    ("exclude_modules", HANGING),
    ("rank_pattern", {"q_proj": 2, HANGING: 8}),
    ("alpha_pattern", {HANGING: 8}),
    ("layers_pattern", [HANGING]),
    ("layers_pattern", HANGING),
    ("modules_to_save", [HANGING]),
]


@pytest.mark.slow
@pytest.mark.parametrize(("field", "value"), FIELDS, ids=[field for field, _ in FIELDS])
def test_a_hanging_pattern_is_named_within_seconds(field: str, value: Any) -> None:
    """A pattern of a foreign configuration held the program for ever; Ctrl-C did not help."""
    with pytest.raises(AdapterError) as caught:
        check_patterns({**CONFIG, field: value}, NAMES, "adapter_config.json")
    assert f"{field} holds {HANGING!r}" in str(caught.value)
    assert "takes more than 1 second" in str(caught.value)


def test_a_busy_machine_makes_no_pattern_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that waited for its turn for a second was taken for a pattern that hangs."""
    waits = f"import time; time.sleep({1.5 * patterns.SECONDS})\n"
    monkeypatch.setattr(patterns, "_TRIAL", waits + patterns._TRIAL)
    check_patterns({**CONFIG, "target_modules": r".*\.(q|k)_proj"}, NAMES, "adapter_config.json")


@pytest.mark.parametrize("bad", ["[", "(", "*x", "(?P<n>a)(?P<n>b)"])
def test_what_is_no_pattern_is_named(bad: str) -> None:
    """A bad regular expression came up as a fault of plop-lora."""
    for field, value in (("target_modules", bad), ("rank_pattern", {bad: 1})):
        with pytest.raises(AdapterError) as caught:
            check_patterns({**CONFIG, field: value}, NAMES, "adapter_config.json")
        assert f"{field} holds {bad!r}, which is not a regular expression" in str(caught.value)


def test_real_patterns_pass() -> None:
    """Lists of names need no trial, patterns as PEFT and this library write them pass one."""
    patterns = {r"layers\.(?:0|2)\.self_attn\.q_proj": 8, "q_proj": 4, r"self_attn\.o_proj": 2}
    real = {**CONFIG, "target_modules": r"(?:.*\.)?(?:q|v)_proj", "rank_pattern": patterns}
    check_patterns(real, NAMES, "here")
    check_patterns({**CONFIG, "target_modules": None, "rank_pattern": None}, NAMES, "here")
    check_patterns({**CONFIG, "modules_to_save": "all-linear"}, NAMES, "here")


def test_lists_of_names_start_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("a process was started"))
    check_patterns({**CONFIG, "rank_pattern": {r"self_attn\.q_proj": 8}}, NAMES, "here")


@pytest.mark.slow
def test_every_reader_of_a_configuration_tries_first(tmp_path: Path, models: Any) -> None:
    """Import, fold and lint all match foreign patterns."""
    adapter = _train(tmp_path / "adapter", "llama", target_modules=["q_proj"])
    file = adapter / "adapter_config.json"
    config = json.loads(file.read_text())
    config["rank_pattern"] = {HANGING: 4}
    file.write_text(json.dumps(config))
    with pytest.raises(AdapterError, match="rank_pattern holds"):
        fold(adapter, tmp_path / "out")
    with pytest.raises(AdapterError, match="rank_pattern holds"):
        import_adapter(file, models("llama"))
    with pytest.raises(AdapterError, match="rank_pattern holds"):
        lint(config, "vllm", modules=NAMES)


@pytest.mark.slow
def test_the_command_answers(tmp_path: Path) -> None:
    """One line, no traceback, exit code 1."""
    adapter = _train(tmp_path / "adapter", "llama", target_modules=["q_proj"])
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"rank_pattern": {HANGING: 4}}))
    done = subprocess.run(
        [sys.executable, "-m", "plop_lora", "export", str(adapter), "--to", "vllm", "-o", "out"],
        capture_output=True, text=True, cwd=tmp_path, check=False, timeout=PATIENCE,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("Error: ")
    assert "rank_pattern holds" in done.stderr
