"""What an export would adapt is read back from the model's skeleton, whatever the record lists."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import families
import pytest
import torch
import transformers
from conftest import HEADS, SMALL, make_batch
from torch import nn
from typer.testing import CliRunner

import plop_lora as plop
from plop_lora.cli import app
from plop_lora.errors import ExportError, UsageError
from plop_lora.exports import TARGETS, export
from plop_lora.exports.dryrun import with_every_module
from plop_lora.records import Placement, whole_weight

NATIVE = ("litgpt", "mlx-lm", "nemo-automodel", "torchtune")
SWITCHED = ("litgpt", "torchtune")
FUSED = ["qkv_proj", "gate_up_proj"]


def _place(model: nn.Module, types: list[str], **options: Any) -> Placement:
    scores = plop.score(model, batches=[make_batch("llama")], progress=False, **options)
    return plop.place(scores, strategy="custom", types=types, rank=4)


@pytest.fixture(scope="module")
def without_gate_up() -> Placement:
    return _place(
        families.build("phi3"), ["qkv_proj", "o_proj", "down_proj"], exclude=["gate_up_proj"]
    )


# ------------------------------------------------------------------- what was left out and is fused


@pytest.mark.parametrize("options", [{"exclude": FUSED[1:]}, {"include": ["o_proj", "down_proj"]}])
def test_untouched_names_weights_and_not_slices(options: dict[str, list[str]]) -> None:
    """An export asks whether it may touch `gate_up_proj`; `gate_up_proj[gate]` is no answer."""
    placement = _place(families.build("phi3"), ["o_proj", "down_proj"], **options)
    assert {name for name in placement.untouched if "gate_up" in name} == {
        f"model.layers.{layer}.mlp.gate_up_proj" for layer in (0, 1)
    }
    assert not any("[" in name for name in placement.untouched)


def test_a_weight_of_which_one_slice_is_left_out_is_not_untouched() -> None:
    """It takes the adapter all the same, for the slices that were scored."""
    placement = _place(families.build("phi3"), ["qkv_proj"], exclude=["qkv_proj[q]"])
    assert {site.name.rpartition(".")[2] for site in placement.sites} == {"qkv_proj"}
    assert not any("qkv_proj" in name for name in placement.untouched)


@pytest.mark.parametrize("to", SWITCHED)
@pytest.mark.parametrize("dry_run", [True, False])
def test_a_switch_does_not_turn_on_what_was_left_out(
    to: str, dry_run: bool, without_gate_up: Placement, tmp_path: Path
) -> None:
    """The MLP is one switch: with `down_proj` alone it trained `gate_up_proj` without a word."""
    with pytest.raises(ExportError, match=r"gate_up_proj"):
        export(without_gate_up, tmp_path, to=to, dry_run=dry_run, allow_loss=True)
    older = tuple(f"{name}[up]" if "gate" in name else name for name in without_gate_up.untouched)
    record = dataclasses.replace(without_gate_up, untouched=older)
    with pytest.raises(ExportError, match=r"gate_up_proj"):
        export(record, tmp_path, to=to, dry_run=dry_run, allow_loss=True)


@pytest.mark.parametrize("to", ["mlx-lm", "nemo-automodel", "peft", "trl"])
def test_others_say_it_without_a_loss(to: str, without_gate_up: Placement, tmp_path: Path) -> None:
    done = export(without_gate_up, tmp_path, to=to)
    assert done.checked
    assert "gate_up" not in done.text


# ------------------------------------------------------------------- the read-back of native files


def _forgetful(placement: Placement, word: str) -> Placement:
    """Return a record that knows nothing of the weights with a word in their names."""
    return dataclasses.replace(
        placement,
        hosts=tuple(host for host in placement.hosts if word not in host.name),
        untouched=tuple(name for name in placement.untouched if word not in name),
    )


@pytest.mark.parametrize("to", SWITCHED)
def test_a_weight_that_no_record_lists_is_found(
    to: str, without_gate_up: Placement, tmp_path: Path
) -> None:
    """The rules of the trainer run over the model, so that a gap in the record cannot hide it."""
    placement = _forgetful(without_gate_up, "gate_up")
    rendered = TARGETS[to].render(placement)
    with pytest.raises(ExportError, match=r"gate_up_proj gets an adapter it should not have"):
        TARGETS[to].check(placement, rendered)


@pytest.mark.parametrize("fault", ["name", "rank"])
@pytest.mark.parametrize("to", NATIVE)
def test_the_check_sees_a_wrong_file(to: str, fault: str, scores) -> None:
    """A check that cannot fail would make the words "read back" empty."""
    placement = plop.place(scores, strategy="custom", types=["q_proj", "o_proj"], rank=4)
    rendered = TARGETS[to].render(placement)
    TARGETS[to].check(placement, rendered)
    wrong = _wrong_name(to, rendered.text) if fault == "name" else _wrong_rank(rendered.text)
    with pytest.raises(ExportError, match="adapter" if fault == "name" else "parameters"):
        TARGETS[to].check(placement, dataclasses.replace(rendered, text=wrong))


def _wrong_name(to: str, text: str) -> str:
    if to == "litgpt":
        return text.replace("lora_key: false", "lora_key: true")
    return text.replace("output_proj" if to == "torchtune" else "o_proj", "k_proj")


def _wrong_rank(text: str) -> str:
    return re.sub(r"(rank|dim|lora_r): 4", r"\1: 5", text)


@pytest.mark.slow
@pytest.mark.parametrize("to", NATIVE)
def test_the_command_says_by_what_a_file_was_read_back(to: str, scores, tmp_path: Path) -> None:
    path = plop.place(scores, strategy="custom", types=["q_proj", "o_proj"]).save(tmp_path / "p")
    done = CliRunner().invoke(app, ["export", str(path), "--to", to, "-o", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert f"read back by the rules of {to.removeprefix('nemo-').replace('auto', 'Auto')}" in (
        " ".join(done.output.split())
    )


# ------------------------------------------------------------------- endings of containers


def _gemma4() -> nn.Module:
    sides = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 8,
             "num_attention_heads": 4, "num_key_value_heads": 2}  # fmt: skip
    config = transformers.Gemma4Config(
        text_config={**sides, "vocab_size": 64}, vision_config=sides, audio_config=None
    )
    with torch.device("meta"):
        return transformers.Gemma4ForConditionalGeneration(config)


@pytest.fixture(scope="module")
def gemma4(tmp_path_factory: pytest.TempPathFactory) -> Placement:
    """The language model's `q_proj` and `down_proj`, named by a pattern, as a placement."""
    pattern = r"model\.language_model\.layers\.\d+\.(self_attn\.q_proj|mlp\.down_proj)"
    folder = tmp_path_factory.mktemp("gemma4")
    path = folder / "adapter_config.json"
    path.write_text(
        '{"peft_type": "LORA", "r": 4, "lora_alpha": 8, "task_type": "CAUSAL_LM", '
        f'"target_modules": "{pattern}"}}'.replace("\\", "\\\\")
    )
    return plop.import_adapter(path, _gemma4())


@pytest.mark.slow
@pytest.mark.parametrize("to", TARGETS)
def test_an_ending_hits_no_container(to: str, gemma4: Placement, tmp_path: Path) -> None:
    """A tower's `q_proj` may be a container around `q_proj.linear`, which PEFT refuses whole."""
    if to in SWITCHED or to == "mlx-lm":
        pytest.skip("it has no such model")
    done = export(gemma4, tmp_path, to=to)
    assert (done.checked, done.losses) == (True, ())


def test_a_configuration_that_cannot_be_built_is_one_line(scores, tmp_path: Path) -> None:
    """A family's own check of its configuration came out as a fault of this library."""
    placement = plop.place(scores)
    config = {**placement.model.config, "num_attention_heads": 0}
    model = dataclasses.replace(placement.model, config=config)
    for to in ("peft", "mlx-lm"):
        with pytest.raises(ExportError, match=r"^transformers cannot build (?!.*\n).*no-dry-run"):
            export(dataclasses.replace(placement, model=model), tmp_path, to=to)


def test_every_module_joins_the_untouched_names(scores, models) -> None:
    placement = plop.place(scores)
    every = with_every_module(placement)
    placed = {site.name for site in placement.sites}
    modules = {name for name, _ in models("llama").named_modules() if name}
    assert set(every.untouched) == modules - placed
    assert set(placement.untouched) <= set(every.untouched)


def test_a_slice_stands_for_its_weight() -> None:
    names = {
        "a.qkv_proj[q]": "a.qkv_proj",
        "a.o_proj": "a.o_proj",
        "a.experts.w[up]": "a.experts.w",
    }
    assert {name: whole_weight(name) for name in names} == names


# ------------------------------------------------------------------- embeddings and heads


@pytest.fixture
def with_tables(models, tmp_path: Path) -> Placement:
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "task_type": "CAUSAL_LM",
              "target_modules": ["embed_tokens", "lm_head", "q_proj"]}  # fmt: skip
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(config))
    return plop.import_adapter(path, models("llama"))


EFFECTS = {
    "unsloth": {"the adapters on embed_tokens, lm_head": "train the whole matrix"},
    "nemo-automodel": {"embed_tokens": "nn.Linear only"},
    "mlx-lm": {"embed_tokens": "outside the blocks", "lm_head": "outside the blocks"},
    "torchtune": {"embed_tokens": "no switch", "lm_head": "no switch"},
    "litgpt": {"embed_tokens": "no switch", "lm_head": "no switch"},
}


@pytest.mark.parametrize("to", TARGETS)
def test_an_embedding_without_lora_there_is_a_loss(
    to: str, with_tables: Placement, tmp_path: Path
) -> None:
    """Unsloth takes `embed_tokens` and trains the whole matrix; Automodel passes over it."""
    done = export(with_tables, tmp_path / "out", to=to, allow_loss=True)
    found = {loss.what: loss.effect for loss in done.losses}
    wanted = EFFECTS.get(to, {})
    assert found.keys() == wanted.keys()
    assert all(effect in found[what] for what, effect in wanted.items())
    assert done.checked
    if to == "unsloth":
        assert "'embed_tokens'" not in done.text
        assert "'lm_head'" not in done.text


def test_unsloth_refuses_what_it_would_train_whole(with_tables: Placement, tmp_path: Path) -> None:
    sites = tuple(site for site in with_tables.sites if site.type == "embed_tokens")
    placement = dataclasses.replace(with_tables, sites=sites)
    with pytest.raises(ExportError, match=r"trains embed_tokens in full"):
        export(placement, tmp_path / "out", to="unsloth", allow_loss=True)


def test_including_a_tied_head_is_refused_by_name() -> None:
    """It was called a pattern that matches no module, although the module is there."""
    config = transformers.LlamaConfig(
        **SMALL, **HEADS, num_key_value_heads=2, tie_word_embeddings=True
    )
    model = transformers.LlamaForCausalLM(config).eval()
    with pytest.raises(UsageError) as error:
        plop.score(model, batches=[make_batch("llama")], include=["lm_head"], progress=False)
    assert "lm_head shares its weight with model.embed_tokens" in str(error.value)
    scores = plop.score(model, batches=[make_batch("llama")], include=["*"], progress=False)
    assert not any("lm_head" in site.name for site in scores.sites)
