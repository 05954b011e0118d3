"""Adapter configurations that exist already, read through real PEFT into placements."""

from __future__ import annotations

import functools
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from conftest import HEADS, SMALL, build, score_model
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import plop_lora as plop
from plop_lora.errors import AdapterError, ModelError, UsageError
from plop_lora.records import AdapterSettings, Placement

pytestmark = pytest.mark.filterwarnings("ignore")


_scores = functools.cache(score_model)


def _write(folder: Path, **fields: Any) -> Path:
    """Write a configuration as PEFT saves it."""
    document = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, **fields}
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(document))
    return path


def _same(found: Placement, wanted: Placement) -> None:
    assert {site.name: site for site in found.sites} == {s.name: s for s in wanted.sites}
    assert found.scaling == pytest.approx(wanted.scaling)
    assert found.settings == wanted.settings
    assert found.trainable_parameters == wanted.trainable_parameters
    assert found.model == wanted.model
    assert set(found.hosts) == set(wanted.hosts)
    assert set(found.untouched) == set(wanted.untouched)


# --------------------------------------------------------------------------- round trip


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama", "gpt2", "bert", "t5"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"budget": "7%"},
        {"strategy": "all-linear", "rank": 3},
        {"settings": AdapterSettings(rslora=True, init="pissa", dropout=0.1), "scaling": 1.5},
    ],
    ids=str,
)
def test_export_and_import_are_inverse(name, options, tmp_path) -> None:
    """What PEFT reads from our file must be the placement that wrote it, type names included."""
    placement = plop.place(_scores(name), **options)
    path = placement.export(tmp_path)
    found = plop.import_adapter(path, build(name))
    assert found.strategy == "imported"
    _same(found, placement)
    assert found.export(tmp_path / "again").read_text() == path.read_text()


@pytest.mark.slow
@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    types=st.sets(st.sampled_from(["q_proj", "k_proj", "o_proj", "down_proj"]), min_size=1),
    budget=st.integers(4000, 12000),
    scaling=st.sampled_from([0.5, 1.0, 2.0, 3.0]),
    rslora=st.booleans(),
)  # fmt: skip
def test_any_placement_survives_the_round_trip(
    scores, models, tmp_path, types, budget, scaling, rslora
) -> None:
    """Patterns for ranks are where names collide; any mix of types and ranks must come back."""
    placement = plop.place(
        scores, strategy="custom", types=sorted(types), budget=budget, scaling=scaling,
        settings=AdapterSettings(rslora=rslora),
    )  # fmt: skip
    _same(plop.import_adapter(placement.export(tmp_path), models("llama")), placement)


# --------------------------------------------------------------------------- ways to name targets


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({}, {"q_proj", "v_proj"}),
        ({"target_modules": ["o_proj"]}, {"o_proj"}),
        ({"target_modules": r".*\.(q|k)_proj"}, {"q_proj", "k_proj"}),
        ({"target_modules": "all-linear", "exclude_modules": ["down_proj"]},
         {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj"}),
        ({"target_modules": ["o_proj"], "layers_to_transform": [1]}, {"o_proj"}),
    ],
    ids=lambda value: str(sorted(value) if isinstance(value, set) else value),
)  # fmt: skip
def test_targets_mean_what_peft_makes_of_them(fields, names, models, tmp_path) -> None:
    """A reading of our own would differ for the default targets, regexes and exclusions."""
    placement = plop.import_adapter(_write(tmp_path, **fields), models("llama"))
    layers = {1} if "layers_to_transform" in fields else {0, 1}
    assert {(site.type, site.layer) for site in placement.sites} == {
        (name, layer) for name in names for layer in layers
    }
    assert {site.rank for site in placement.sites} == {4}
    noted = any("o_proj is adapted in 1 of 2 weights" in note for note in placement.notes)
    assert noted == (layers == {1})


def test_rank_patterns_with_one_factor(models, tmp_path) -> None:
    path = _write(
        tmp_path, target_modules=["q_proj", "v_proj"], rank_pattern={"v_proj": 2},
        alpha_pattern={"v_proj": 4},
    )  # fmt: skip
    placement = plop.import_adapter(path, models("llama"))
    assert {(site.type, site.rank, site.alpha) for site in placement.sites} == {
        ("q_proj", 4, 8.0),
        ("v_proj", 2, 4.0),
    }
    assert [(c.type, c.lowest_rank, c.nfn) for c in placement.choices] == [
        ("q_proj", 4, None),
        ("v_proj", 2, None),
    ]


def test_experts_are_parameters(tmp_path) -> None:
    """A stack of experts is one parameter whose adapter has a rank for each expert."""
    config = transformers.MixtralConfig(
        **SMALL, **HEADS, num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2
    )
    with torch.device("meta"):
        model = transformers.MixtralForCausalLM(config)
    path = _write(tmp_path, target_modules=["q_proj"], target_parameters=["mlp.experts.down_proj"])
    placement = plop.import_adapter(path, model)
    stacks = [site for site in placement.sites if site.is_parameter]
    assert [site.name for site in stacks] == [
        f"model.layers.{layer}.mlp.experts.down_proj" for layer in (0, 1)
    ]
    assert {(site.copies, site.parameters) for site in stacks} == {(4, 4 * 4 * (32 + 48))}
    again = plop.import_adapter(placement.export(tmp_path / "again"), model)
    assert again.sites == placement.sites


def test_an_embedding_comes_with_its_type(models, tmp_path) -> None:
    path = _write(tmp_path, target_modules=["embed_tokens", "q_proj"])
    placement = plop.import_adapter(path, models("llama"))
    embedding = next(site for site in placement.sites if "embed" in site.name)
    assert (embedding.type, embedding.layer) == ("embed_tokens", None)
    assert embedding.parameters == 4 * (96 + 32)


# --------------------------------------------------------------------------- what does not fit


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"peft_type": "IA3"}, "method IA3"),
        ({"use_dora": True, "target_modules": ["q_proj"]}, "use_dora"),
        ({"rank_pattern": {"v_proj": 2}}, "alpha_pattern"),
        ({"task_type": "POETRY"}, "Invalid task type: 'POETRY'"),
        ({"init_lora_weights": "wishful"}, "no init 'wishful'"),
    ],
    ids=str,
)
def test_other_adapters_are_refused_by_name(fields, match, models, tmp_path) -> None:
    """Importing a DoRA or a factor by module as plain LoRA would train something else."""
    with pytest.raises(UsageError, match=match):
        plop.import_adapter(_write(tmp_path, **fields), models("llama"))


def test_what_trains_beside_the_adapters_is_noted(models, tmp_path) -> None:
    path = _write(
        tmp_path, modules_to_save=["lm_head"], bias="all", from_the_future=1, task_type="SEQ_CLS",
        inference_mode=True,
    )  # fmt: skip
    placement = plop.import_adapter(path, models("llama"))
    text = "; ".join(placement.notes)
    assert "modules_to_save ['lm_head']" in text
    assert "bias 'all'" in text
    assert "from_the_future" in text
    assert placement.model.task_type == "SEQ_CLS"
    assert placement.trainable_parameters == 2 * 4 * (32 + 32 + 32 + 16)


def test_bad_files(models, tmp_path) -> None:
    with pytest.raises(AdapterError, match="No such file"):
        plop.import_adapter(tmp_path / "nope.json", models("llama"))
    with pytest.raises(AdapterError, match="No such file"):
        plop.import_adapter(tmp_path, models("llama"))
    bad = tmp_path / "bad.json"
    bad.write_text("{")
    with pytest.raises(AdapterError, match="as JSON"):
        plop.import_adapter(bad, models("llama"))
    bad.write_text("[1]")
    with pytest.raises(AdapterError, match="not a PEFT adapter configuration"):
        plop.import_adapter(bad, models("llama"))
    with pytest.raises(UsageError, match="--model"):
        plop.import_adapter(_write(tmp_path))


def test_wrong_model(models, tmp_path) -> None:
    path = _write(tmp_path, target_modules=["q_proj"])
    with pytest.raises(ModelError, match="--model"):
        plop.import_adapter(path, models("bert"))
    with pytest.raises(ModelError, match="No model"):
        plop.import_adapter(path, "no-such-model")


# --------------------------------------------------------------------------- scores and folders


def test_scores_give_nfn_and_gaps(scores, models, tmp_path) -> None:
    path = _write(tmp_path, target_modules=["q_proj", "lm_head"])
    placement = plop.import_adapter(path, models("llama"), scores)
    by_type = {choice.type: choice for choice in placement.choices}
    row = next(row for row in scores.types if row.type == "q_proj")
    assert by_type["q_proj"].nfn == pytest.approx(row.nfn)
    assert by_type["q_proj"].left_out is not None
    assert by_type["lm_head"].nfn is None
    assert placement.scores_digest == scores.digest()
    assert "no score" in str(placement)


def test_scores_of_another_model_are_refused(models, tmp_path) -> None:
    path = _write(tmp_path, target_modules=["q_proj"])
    with pytest.raises(UsageError, match="other shapes than"):
        plop.import_adapter(path, models("llama"), _scores("gpt2"))


def test_model_is_not_touched(models, tmp_path) -> None:
    model = models("llama")
    plop.import_adapter(_write(tmp_path), model)
    assert not any("lora" in name for name, _ in model.named_modules())


@pytest.mark.slow
def test_a_folder_needs_no_weights(models, tmp_path) -> None:
    """Only config.json is read: an import must not cost the download of a model."""
    models("llama").config.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["architectures"] = ["LlamaForCausalLM"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    path = _write(tmp_path, base_model_name_or_path=str(tmp_path))
    placement = plop.import_adapter(path)
    loaded = plop.import_adapter(path, models("llama"))
    assert placement.sites == loaded.sites
    assert placement.model.parameters == loaded.model.parameters
    words = ("import", str(path), "--model", str(tmp_path), "-o", str(tmp_path / "p.json"))
    done = subprocess.run(
        [sys.executable, "-m", "plop_lora", *words], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "strategy imported" in done.stdout
    assert Placement.load(tmp_path / "p.json").sites == placement.sites
    missing = subprocess.run(
        [sys.executable, "-m", "plop_lora", "import", "none.json"], capture_output=True, text=True
    )
    assert missing.returncode == 1
    assert "No such file: none.json" in missing.stderr


# --------------------------------------------------------------------------- dead entries


DEAD: list[tuple[dict[str, Any], str]] = [
    ({"target_modules": ["q_proj", "query"]}, "target_modules 'query' adapts nothing"),
    ({"rank_pattern": {"k_proj": 2}}, "rank_pattern 'k_proj' sets no rank"),
    ({"alpha_pattern": {"layers.7.q_proj": 2}}, "alpha_pattern 'layers.7.q_proj' sets no alpha"),
    ({"exclude_modules": ["vision", "k_proj"]}, "exclude_modules 'vision' excludes nothing"),
    ({"exclude_modules": r".*visual.*"}, "exclude_modules '.*visual.*' excludes nothing"),
    ({"layers_to_transform": [0, 7]}, "layers_to_transform '7' adapts nothing"),
    (
        {"layers_to_transform": [0, 1], "layers_pattern": ["layers", "h"]},
        "layers_pattern 'h' matches no blocks",
    ),
    (
        {"target_parameters": ["mlp.up_proj.weight", "mlp.experts.down_proj"]},
        "target_parameters 'mlp.experts.down_proj' adapts nothing",
    ),
    ({"modules_to_save": ["lm_head", "score"]}, "modules_to_save 'score' matches no module"),
    (
        {"target_modules": ["q_proj", *(f"gate_up_projs.{expert}" for expert in range(32))]},
        "target_modules 'gate_up_projs.0' to 'gate_up_projs.31' (32 names) adapts nothing",
    ),
]


@pytest.mark.parametrize(("fields", "note"), DEAD, ids=[note for _, note in DEAD])
def test_every_entry_that_does_nothing_is_named(fields, note, models, tmp_path) -> None:
    """PEFT drops it without a word, and the placement looked as if it had been meant."""
    path = _write(tmp_path, **{"target_modules": ["q_proj"], **fields})
    notes = plop.import_adapter(path, models("llama")).notes
    assert [text for text in notes if re.search("nothing|no (rank|alpha|blocks|module)", text)] == [
        note
    ]


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"target_modules": "all-linear"},
        {"target_modules": r".*\.(q|k)_proj", "exclude_modules": r".*\.1\..*"},
        {"target_modules": ["layers.0.self_attn.q_proj", "o_proj"], "layers_to_transform": 0},
        {"target_modules": ["q_proj"], "rank_pattern": {r"^model\.layers\.\d+\..*q_proj": 4}},
        {"target_modules": ["q_proj"], "target_parameters": ["up_proj.weight"],
         "rank_pattern": {"up_proj.weight": 4}, "layers_pattern": "layers",
         "layers_to_transform": [0, 1]},
    ],
    ids=str,
)  # fmt: skip
def test_entries_that_do_something_are_not_named(fields, models, tmp_path) -> None:
    """The control: a note that always comes is not read."""
    notes = plop.import_adapter(_write(tmp_path, **fields), models("llama")).notes
    assert not [text for text in notes if "nothing" in text or " no " in text]


def test_names_that_peft_turns_into_experts_are_alive(tmp_path) -> None:
    config = transformers.Qwen3MoeConfig(
        **SMALL, **HEADS, num_key_value_heads=2, num_experts=4, num_experts_per_tok=2,
        moe_intermediate_size=24, head_dim=8,
    )  # fmt: skip
    with torch.device("meta"):
        model = transformers.Qwen3MoeForCausalLM(config)
    path = _write(tmp_path, target_modules=["q_proj", "gate_proj", "up_proj", "down_proj"])
    placement = plop.import_adapter(path, model)
    assert sum(site.is_parameter for site in placement.sites) == 4
    assert not [note for note in placement.notes if "nothing" in note]


@pytest.mark.parametrize(
    ("target", "match"),
    [
        (["mlp", "q_proj"], r"model\.layers\.0\.mlp, which is a LlamaMLP .* \(gate_proj, up_proj"),
        ([r"layers.1"], r"model\.layers\.1, which is a LlamaDecoderLayer .*\(self_attn, mlp"),
        (r".*self_attn", r"is a LlamaAttention"),
    ],
)
def test_a_container_as_target_gets_one_line(target, match, models, tmp_path) -> None:
    """PEFT prints the whole module, and the name of the entry is not in it."""
    with pytest.raises(UsageError, match=match) as error:
        plop.import_adapter(_write(tmp_path, target_modules=target), models("llama"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("wrapper", ["_orig_mod.", "_fsdp_wrapped_module.", "module."])
def test_names_of_a_wrapped_model_are_read_without_the_wrapper(wrapper, models, tmp_path) -> None:
    """An adapter of a compiled model lists names that no other model has."""
    names = [f"{wrapper}model.layers.{layer}.self_attn.q_proj" for layer in (0, 1)]
    escaped = re.escape(wrapper)
    path = _write(
        tmp_path, target_modules=names,
        rank_pattern={rf"{escaped}model\.layers\.0\.self_attn\.q_proj": 2},
        alpha_pattern={rf"{escaped}model\.layers\.0\.self_attn\.q_proj": 4},
    )  # fmt: skip
    placement = plop.import_adapter(path, models("llama"))
    assert [site.rank for site in placement.sites] == [2, 4]
    assert any(wrapper.rstrip(".") in note for note in placement.notes)
    assert not [note for note in placement.notes if "nothing" in note]


def test_a_tower_that_is_adapted_in_part_is_told(tmp_path) -> None:
    """The scorer does not measure towers, so that their other weights were not counted."""
    sides = {**SMALL, **HEADS, "num_hidden_layers": 2}
    config = transformers.Qwen2_5_VLConfig(
        text_config={**sides, "num_key_value_heads": 2},
        vision_config={"depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 4,
                       "out_hidden_size": 32},
    )  # fmt: skip
    with torch.device("meta"):
        model = transformers.Qwen2_5_VLForConditionalGeneration(config)
    path = _write(tmp_path, target_modules=["visual.blocks.0.attn.qkv", "o_proj"])
    placement = plop.import_adapter(path, model)
    qkv = next(site for site in placement.sites if site.name.endswith("qkv"))
    assert f"{qkv.type} is adapted in 1 of 2 weights" in placement.notes
    assert "vision" in qkv.type
    assert not any("[" in name for name in placement.untouched)


@pytest.mark.parametrize("tied", [True, False])
def test_a_tied_head_is_told(tied, tmp_path) -> None:
    """PEFT adapts the output alone; merging it changes the embedding as well."""
    config = transformers.LlamaConfig(
        **SMALL, **HEADS, num_key_value_heads=2, tie_word_embeddings=tied
    )
    path = _write(tmp_path, target_modules=["q_proj", "lm_head"])
    for device in ("meta", "cpu"):
        with torch.device(device):
            model = transformers.LlamaForCausalLM(config)
        notes = plop.import_adapter(path, model).notes
        assert any("lm_head shares its weight with model.embed_tokens" in n for n in notes) == tied
