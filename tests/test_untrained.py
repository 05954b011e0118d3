"""The trial that trains nothing, with real models: what it judges is the model as it was."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest
from placements import placed
from safetensors.torch import load_file
from test_trial import PLACEMENT, files, spec, training
from trials import checkpoint, spec_of, write_data

from plop_lora.errors import MachineError
from plop_lora.records import TrialData, TrialSpec
from plop_lora.records.trial import Phase
from plop_lora.training.trial import run_trial

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning:torch.*")
__all__ = ["spec"]
"""Fixtures of the trials of a classifier."""

UNTRAINED = {"learning_rate": 0.0, "steps": 1, "phase": Phase.UNTRAINED, "arm": "untrained model"}


@pytest.mark.slow
def test_one_step_at_no_rate_changes_nothing(encoder: str, tmp_path: Path) -> None:
    """Two placements give the same numbers, since neither does anything yet."""
    data, results = write_data(tmp_path), []
    for number, placement in enumerate((PLACEMENT, placed("bert", {"attention.self.query": 4}))):
        planned = spec_of(encoder, placement, data, **UNTRAINED)
        folder = tmp_path / f"trial {number}"
        results.append(run_trial(planned, folder, root=tmp_path))
        weights = load_file(folder / "adapter" / "adapter_model.safetensors")
        assert all(not value.any() for name, value in weights.items() if "lora_B" in name)
    assert all(result.done for result in results)
    assert results[0].items == results[1].items
    trained = run_trial(spec_of(encoder, PLACEMENT, data), tmp_path / "trained", root=tmp_path)
    assert trained.items["loss"] != results[0].items["loss"]


@pytest.mark.slow
def test_one_step_of_a_language_model_as_well(tmp_path: Path) -> None:
    pytest.importorskip("trl")
    model = checkpoint(tmp_path / "llama", "LlamaForCausalLM")
    data = _texts(tmp_path)
    losses = []
    for number, kind in enumerate(("self_attn.q_proj", "mlp.down_proj")):
        planned = spec_of(
            model, placed("llama", {kind: 4}), data, task="sft", labels=(), **UNTRAINED
        )
        result = run_trial(planned, tmp_path / f"trial {number}", root=tmp_path)
        assert result.done, result.cause
        losses.append(result.items["loss"])
    assert losses[0] == losses[1]


def _texts(folder: Path) -> TrialData:
    import hashlib

    rows = "".join(json.dumps({"text": f"a day and night {n % 3} rain"}) + "\n" for n in range(16))
    (folder / "texts.jsonl").write_text(rows)
    digest = hashlib.sha256(rows.encode()).hexdigest()
    return TrialData("texts.jsonl", digest, "texts.jsonl", digest)


@pytest.mark.slow
@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),
        ModuleNotFoundError("No module named 'triton'"),
    ],
)
def test_a_fault_of_the_machine_leaves_no_result(
    spec: TrialSpec, tmp_path: Path, monkeypatch, error: Exception
) -> None:
    """It was the trial's outcome for ever, and the next start found it finished."""

    def train(*parts: Any) -> Any:
        raise error

    with training(monkeypatch, train), pytest.raises(MachineError):
        run_trial(spec, tmp_path / "trial", root=tmp_path)
    assert "result.json" not in files(tmp_path / "trial")
    assert run_trial(spec, tmp_path / "trial", root=tmp_path).done


@pytest.mark.slow
def test_one_step_of_reinforcement_learning_as_well(tmp_path: Path) -> None:
    """A reward may move nothing: sampling and the step at a rate of 0 leave the adapters."""
    pytest.importorskip("trl")
    from finetunes import PROBLEMS, prepared, session
    from finetunes import spec as spec_of_task

    from plop_lora.training.tasks import grpo

    rows = [{"prompt": row["question"], "answer": row["answer"]} for row in PROBLEMS[:8]]
    settings = {"rewards": ("format",), "generations": 4, "completion_length": 4, "steps": 1}
    ready = prepared()
    before = {name: value.detach().clone() for name, value in ready.model.named_parameters()}
    trained = grpo.train(
        spec_of_task("grpo", rate=0.0, **settings), ready, rows, session(tmp_path)[0]
    )
    assert trained.steps == 1
    for name, value in ready.model.named_parameters():
        assert (value == before[name]).all(), name


@pytest.mark.slow
def test_the_adapter_names_the_revision_of_its_base(encoder: str, tmp_path: Path) -> None:
    """An adapter on the main branch of its base is another model than was judged."""
    planned = spec_of(encoder, PLACEMENT, write_data(tmp_path), revision="main", **UNTRAINED)
    assert run_trial(planned, tmp_path / "trial", root=tmp_path).done
    config = json.loads((tmp_path / "trial" / "adapter" / "adapter_config.json").read_text())
    assert config["revision"] == "main"
