"""An adapter that lies beside a model gets one answer, whatever would load the model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import families
import pytest
from trials import NO_DATA, checkpoint, spec_of

import plop_lora as plop
from plop_lora.errors import ModelError
from plop_lora.training.kept_base import base_of

BOTH = "holds a model and an adapter, which transformers puts on it"
ADAPTER = {"peft_type": "LORA", "r": 2, "target_modules": ["q_proj"]}


@pytest.fixture
def on_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Return what makes a hub id whose files lie in the cache of this machine."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("transformers.utils.hub.constants.HF_HUB_CACHE", str(tmp_path))

    def make(name: str) -> Path:
        home = tmp_path / f"models--{name.replace('/', '--')}"
        files = home / "snapshots" / "0123456789abcdef0123456789abcdef01234567"
        files.mkdir(parents=True)
        (home / "refs").mkdir()
        (home / "refs" / "main").write_text(files.name)
        (files / "adapter_config.json").write_text(json.dumps(ADAPTER))
        return files

    return make


def _score(name: str, **options: Any) -> plop.Scores:
    batch = families.batch_of("llama")
    return plop.score(name, batches=[batch], device="cpu", progress=False, **options)


@pytest.mark.parametrize("engine", ["memory", "stream", "auto"])
def test_a_hub_id_with_an_adapter_is_refused_by_every_engine(on_hub, engine: str) -> None:
    """In memory the adapter was put on the model; streamed, it was passed over without a word."""
    families.build("llama").save_pretrained(on_hub("me/both"))
    with pytest.raises(ModelError, match=f"me/both {BOTH}"):
        _score("me/both", engine=engine)


def test_a_hub_id_that_holds_an_adapter_alone(on_hub) -> None:
    """The error spoke of a config.json that is missing, not of what is there."""
    folder = on_hub("me/adapter")
    config = ADAPTER | {"base_model_name_or_path": "me/base"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"holds an adapter and not a model\. .* me/base"):
        _score("me/adapter")


def test_a_trial_refuses_it_as_well(on_hub, scores) -> None:
    """A trial would have trained on top of an adapter that no score had seen."""
    checkpoint(on_hub("me/both"), "LlamaForCausalLM")
    with pytest.raises(ModelError, match=BOTH):
        base_of(spec_of("me/both", plop.place(scores), NO_DATA))
