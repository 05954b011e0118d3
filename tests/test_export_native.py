"""Exports to trainers with a LoRA of their own: torchtune, mlx-lm, NeMo Automodel, litgpt.

The tests named `test_real_…` load the file with the trainer itself, on the CPU and with random
tiny models, and read back which weights it adapts; they run where that package is installed
(torchtune 0.6.1, mlx-lm 0.32.2 with mlx[cpu], nemo-automodel 0.7.0, litgpt 0.5.13 were used) and
are skipped elsewhere. The others check the file's keys and numbers, with the matching rule of the
trainer written again from its source.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import re
from collections.abc import Callable
from typing import Any

import families
import pytest
import torch
import transformers
import yaml
from conftest import build, make_batch
from torch import nn

import plop_lora as plop
from plop_lora.errors import ExportError
from plop_lora.exports import TARGETS, Rendered
from plop_lora.exports.trainers.mlx_lm import FAMILIES
from plop_lora.exports.trainers.nemo_automodel import matches
from plop_lora.exports.trainers.torchtune import FAMILIES as TORCHTUNE_FAMILIES
from plop_lora.records import AdapterSettings, Host, PlacedSite, Placement

NATIVE = ("litgpt", "mlx-lm", "nemo-automodel", "torchtune")
ATTENTION = ["q_proj", "v_proj"]
MLP = ["gate_proj", "up_proj", "down_proj"]


def _scores(name: str) -> plop.Scores:
    model = families.build("phi3") if name == "phi3" else build(name)
    batch = make_batch("llama" if name == "phi3" else name)
    return plop.score(model, batches=[batch], progress=False)


@pytest.fixture(scope="module")
def placed() -> Callable[..., Placement]:
    cache: dict[str, plop.Scores] = {}

    def get(name: str, types: list[str], **options: Any) -> Placement:
        if name not in cache:
            cache[name] = _scores(name)
        options.setdefault("rank", 4)
        if "budget" in options:
            options.pop("rank")
        return plop.place(cache[name], strategy="custom", types=types, **options)

    return get


def _only_layers(placement: Placement, layers: set[int]) -> Placement:
    """Return the placement with fewer layers, as an imported one may be."""
    sites = tuple(site for site in placement.sites if site.layer in layers)
    rest = tuple(site.name for site in placement.sites if site.layer not in layers)
    return dataclasses.replace(
        placement,
        sites=sites,
        untouched=(*placement.untouched, *rest),
        trainable_parameters=sum(site.parameters for site in sites),
    )


def _with_experts(placement: Placement, architecture: str, model_type: str, put: str) -> Placement:
    """Give every layer two stacks of 4 experts, of which `put` (a leaf, or both) is placed."""
    shapes = {"gate_up_proj": (32, 48), "down_proj": (24, 32)}
    hosts = [
        Host(f"model.layers.{layer}.mlp.experts.{leaf}", f"experts.{leaf}", layer, *shape, 4, True)
        for layer in range(2)
        for leaf, shape in shapes.items()
    ]
    sites = [
        PlacedSite(h.name, h.type, h.layer, 4, 8.0, 4 * h.parameters_per_rank, 4, True)
        for h in hosts
        if put in (h.name.rsplit(".", 1)[-1], "both")
    ]
    mlp = [h.name for h in placement.hosts if ".mlp." in h.name]
    names = {site.name for site in sites}
    model = dataclasses.replace(
        placement.model,
        architecture=architecture,
        config={**(placement.model.config or {}), "model_type": model_type},
    )
    every = (*placement.sites, *sites)
    return dataclasses.replace(
        placement,
        model=model,
        sites=every,
        hosts=(*(h for h in placement.hosts if h.name not in mlp), *hosts),
        untouched=(
            *(name for name in placement.untouched if name not in mlp),
            *(h.name for h in hosts if h.name not in names),
        ),
        trainable_parameters=sum(site.parameters for site in every),
    )


def _render(placement: Placement, to: str) -> tuple[dict[str, Any], Rendered]:
    rendered = TARGETS[to].render(placement)
    return yaml.safe_load(rendered.text), rendered


def _lost(rendered: Rendered) -> str:
    return "; ".join(f"{loss.what}: {loss.effect}" for loss in rendered.losses)


# --------------------------------------------------------------------------- what a file says


def test_attention_is_said_exactly(placed) -> None:
    """A plain placement must lose nothing, else every export would need --allow-loss."""
    placement = placed("llama", ATTENTION)
    files = {to: _render(placement, to) for to in NATIVE}
    for to, (_, rendered) in files.items():
        assert rendered.losses == (), to
        assert rendered.trainable_parameters == placement.trainable_parameters
    assert files["torchtune"][0] == {
        "lora_attn_modules": ["q_proj", "v_proj"],
        "apply_lora_to_mlp": False,
        "apply_lora_to_output": False,
        "lora_rank": 4,
        "lora_alpha": 8.0,
        "lora_dropout": 0.0,
    }
    assert files["mlx-lm"][0]["num_layers"] == -1
    assert files["mlx-lm"][0]["lora_parameters"] == {
        "keys": ["self_attn.q_proj", "self_attn.v_proj"],
        "rank": 4,
        "scale": 2.0,
        "dropout": 0.0,
    }
    assert files["nemo-automodel"][0]["peft"]["target_modules"] == ["*.q_proj", "*.v_proj"]
    assert files["nemo-automodel"][0]["peft"]["alpha"] == 8
    assert files["litgpt"][0] == {
        "lora_r": 4,
        "lora_alpha": 8,
        "lora_dropout": 0.0,
        "lora_query": True,
        "lora_key": False,
        "lora_value": True,
        "lora_projection": False,
        "lora_mlp": False,
        "lora_head": False,
    }


@pytest.mark.parametrize("to", NATIVE)
def test_file_is_written_with_its_usage(placed, tmp_path, to) -> None:
    path = placed("llama", ATTENTION).export(tmp_path, to=to)
    assert path.name == TARGETS[to].file_name
    assert path.read_text().startswith("# LoRA placement for ")


@pytest.mark.parametrize("to", NATIVE)
def test_rslora_is_folded_into_the_factor(placed, to) -> None:
    """These trainers divide alpha by the rank; writing rsLoRA's alpha would shrink the factor."""
    settings = AdapterSettings(rslora=True, dropout=0.1)
    document, rendered = _render(placed("llama", ATTENTION, settings=settings), to)
    fields = document.get("peft") or document.get("lora_parameters") or document
    scale = fields.get("scale") or (fields.get("alpha") or fields.get("lora_alpha")) / 4
    assert scale == 2.0
    assert 0.1 in (fields.get("dropout"), fields.get("lora_dropout"))
    assert rendered.losses == ()


@pytest.mark.parametrize("to", NATIVE)
def test_settings_that_cannot_be_said_are_losses(placed, tmp_path, to) -> None:
    settings = AdapterSettings(init="pissa", loraplus_ratio=16.0)
    placement = placed("llama", ATTENTION, settings=settings)
    lost = _lost(_render(placement, to)[1])
    assert "the init pissa" in lost
    assert "LoRA+ ratio 16" in lost
    with pytest.raises(ExportError, match="allow-loss"):
        placement.export(tmp_path, to=to)


@pytest.mark.parametrize("to", NATIVE)
def test_one_rank_stays_within_the_budget(placed, to) -> None:
    """Taking the largest rank of a budget's ranks would train more than the budget."""
    placement = placed("llama", [*ATTENTION, "o_proj"], budget=7000)
    assert len({site.rank for site in placement.sites}) > 1
    _, rendered = _render(placement, to)
    assert "every adapter gets rank" in _lost(rendered)
    assert rendered.trainable_parameters <= placement.trainable_parameters
    per_rank = sum(site.parameters // site.rank for site in placement.sites)
    assert rendered.trainable_parameters > placement.trainable_parameters - per_rank


@pytest.mark.parametrize("to", ["torchtune", "litgpt"])
def test_mlp_in_part_takes_the_nearer_whole(placed, to) -> None:
    """The MLP is one switch: one matrix of three is dropped, two of three bring the third."""
    one, rendered = _render(placed("llama", [*ATTENTION, "down_proj"]), to)
    assert True not in (one.get("apply_lora_to_mlp"), one.get("lora_mlp"))
    assert "(down_proj): not trained" in _lost(rendered)
    attention = placed("llama", ATTENTION).trainable_parameters
    assert rendered.trainable_parameters == attention
    two, rendered = _render(placed("llama", [*ATTENTION, "down_proj", "up_proj"]), to)
    assert True in (two.get("apply_lora_to_mlp"), two.get("lora_mlp"))
    assert "(gate_proj) untouched: trained as well" in _lost(rendered)
    whole = placed("llama", [*ATTENTION, *MLP]).trainable_parameters
    assert rendered.trainable_parameters == whole


@pytest.mark.parametrize("to", ["torchtune", "litgpt"])
def test_layers_in_part_take_all_layers(placed, to) -> None:
    placement = _only_layers(placed("llama", ATTENTION), {1})
    _, rendered = _render(placement, to)
    assert "trained as well" in _lost(rendered)
    assert rendered.trainable_parameters == 2 * placement.trainable_parameters


@pytest.mark.parametrize("to", ["mlx-lm", "nemo-automodel"])
def test_layers_in_part_are_full_names(placed, to) -> None:
    placement = _only_layers(placed("llama", ATTENTION), {1})
    document, rendered = _render(placement, to)
    fields = document.get("peft") or document["lora_parameters"]
    names = fields.get("keys") or fields["target_modules"]
    assert names == ["model.layers.1.self_attn.q_proj", "model.layers.1.self_attn.v_proj"]
    assert rendered.losses == ()


def test_unscored_layers_cannot_be_counted(placed, models) -> None:
    """A switch covers layers whose sizes the record does not know; a guess would be a lie."""
    scores = plop.score(
        models("llama"), batches=[make_batch("llama")], include=["*layers.0*"], progress=False
    )
    placement = plop.place(scores, strategy="custom", types=ATTENTION)
    for to in ("torchtune", "litgpt"):
        with pytest.raises(ExportError, match=r"layers\.1\.self_attn\.q_proj"):
            _render(placement, to)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("to", "name", "match"),
    [
        ("torchtune", "bert", "does not support models of the family 'bert'"),
        ("litgpt", "bert", "does not support models of the family 'bert'"),
        ("mlx-lm", "bert", "causal language models"),
        ("mlx-lm", "t5", "causal language models"),
        ("nemo-automodel", "gpt2", "Conv1D"),
    ],
)
def test_models_without_a_way_are_refused(to, name, match) -> None:
    placement = plop.place(_scores(name))
    with pytest.raises(ExportError, match=match) as caught:
        _render(placement, to)
    assert "--to peft" in str(caught.value)


@pytest.mark.parametrize("to", ["torchtune", "litgpt"])
def test_nothing_left_is_refused(placed, to) -> None:
    """One MLP matrix alone would be an empty file, or three times what was asked for."""
    with pytest.raises(ExportError, match="cannot adapt any weight of this placement"):
        _render(placed("llama", ["down_proj"]), to)


def test_torchtune_needs_attention(placed) -> None:
    """Its builders raise where no attention projection is named, after the model is loaded."""
    with pytest.raises(ExportError, match="at least one of q_proj"):
        _render(placed("llama", MLP), "torchtune")


@pytest.mark.slow
def test_fused_weights_get_an_a_for_each_part(placed) -> None:
    placement = placed("phi3", ["qkv_proj"])
    for to in ("torchtune", "litgpt"):
        _, rendered = _render(placement, to)
        assert "the one A of qkv_proj" in _lost(rendered)
        assert rendered.trainable_parameters == 2 * 4 * (3 * 32 + 64)
    for to in ("mlx-lm", "nemo-automodel"):
        assert _render(placement, to)[1].losses == ()


def test_litgpt_alpha_is_a_whole_number(placed) -> None:
    document, rendered = _render(placed("llama", ATTENTION, scaling=1.6), "litgpt")
    assert document["lora_alpha"] == 6
    assert "the scaling 1.6: it is 1.5" in _lost(rendered)


def test_mlx_unknown_family_is_a_loss(placed) -> None:
    placement = placed("llama", ATTENTION)
    config = {**placement.model.config, "model_type": "brand_new"}
    other = dataclasses.replace(
        placement, model=dataclasses.replace(placement.model, config=config)
    )
    assert "'brand_new'" in _lost(_render(other, "mlx-lm")[1])


# --------------------------------------------------------------------------- experts


def test_mlx_experts_are_keys_of_its_own_names(placed) -> None:
    """Keys in transformers' names would match nothing there, and train attention alone."""
    base = placed("llama", ["q_proj"])
    placement = _with_experts(base, "MixtralForCausalLM", "mixtral", "both")
    document, rendered = _render(placement, "mlx-lm")
    assert document["lora_parameters"]["keys"] == [
        "self_attn.q_proj",
        "block_sparse_moe.switch_mlp.gate_proj",
        "block_sparse_moe.switch_mlp.up_proj",
        "block_sparse_moe.switch_mlp.down_proj",
    ]
    assert "the one A of experts.gate_up_proj" in _lost(rendered)
    extra = 2 * 4 * 4 * 32
    assert rendered.trainable_parameters == placement.trainable_parameters + extra


def test_litgpt_experts_bring_the_routers(placed) -> None:
    base = placed("llama", ["q_proj"])
    placement = _with_experts(base, "MixtralForCausalLM", "mixtral", "both")
    document, rendered = _render(placement, "litgpt")
    assert document["lora_mlp"]
    assert "the routers untouched" in _lost(rendered)
    extra = 2 * 4 * 4 * 32 + 2 * 4 * (32 + 4)
    assert rendered.trainable_parameters == placement.trainable_parameters + extra


def test_nemo_experts_go_together_and_only_in_its_own_models(placed) -> None:
    base = placed("llama", ["q_proj"])
    own = _with_experts(base, "Qwen3MoeForCausalLM", "qwen3_moe", "both")
    document, rendered = _render(own, "nemo-automodel")
    assert document["peft"]["target_modules"] == ["*.experts", "*.q_proj"]
    assert rendered.losses == ()
    part = _with_experts(base, "Qwen3MoeForCausalLM", "qwen3_moe", "down_proj")
    document, rendered = _render(part, "nemo-automodel")
    assert document["peft"]["target_modules"] == ["*.q_proj"]
    assert "experts.down_proj: not trained" in _lost(rendered)
    foreign = _with_experts(base, "MixtralForCausalLM", "mixtral", "both")
    _, rendered = _render(foreign, "nemo-automodel")
    assert rendered.trainable_parameters == base.trainable_parameters


# --------------------------------------------------------------------------- matching rules


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama", "qwen", "neox", "opt", "bert", "t5", "vit"])
def test_nemo_wildcards_hit_exactly_the_placed_modules(name) -> None:
    """Its dots stand for any character, so an ending can hit a neighbour (`*.o` hits `wo`)."""
    for options in ({"top": 1}, {"top": 2}, {"strategy": "plop-inverse", "top": 2}):
        placement = plop.place(_scores(name), **options)
        targets = _render(placement, "nemo-automodel")[0]["peft"]["target_modules"]
        names = [n for n, module in build(name).named_modules() if isinstance(module, nn.Linear)]
        hit = {n for n in names if any(matches(pattern, n) for pattern in targets)}
        assert hit == {site.name for site in placement.sites}


@pytest.mark.slow
@pytest.mark.parametrize("layers", [{0, 1}, {1}])
@pytest.mark.parametrize("name", ["llama", "qwen", "gpt2", "neox"])
def test_mlx_keys_hit_exactly_the_placed_modules(name, layers) -> None:
    """mlx-lm looks keys up in every block, then as full names, by equality (tuner/utils.py)."""
    placement = _only_layers(plop.place(_scores(name), top=2), layers)
    keys = set(_render(placement, "mlx-lm")[0]["lora_parameters"]["keys"])
    hit = set()
    for full, module in build(name).named_modules():
        match = re.fullmatch(r"(.*)\.(\d+)\.(.*)", full)
        if match and isinstance(module, nn.Linear | transformers.pytorch_utils.Conv1D):
            blocks = FAMILIES[build(name).config.model_type].blocks
            if {match[3], f"{blocks}.{match[2]}.{match[3]}"} & keys:
                hit.add(full)
    assert hit == {site.name for site in placement.sites}


# --------------------------------------------------------------------------- the real trainers


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "types", [ATTENTION, [*ATTENTION, *MLP], ["o_proj", "up_proj", "gate_proj"]]
)
def test_real_torchtune(placed, types) -> None:
    """Its builder takes the fields as they are, and has as many adapter weights as we say."""
    builders = pytest.importorskip("torchtune.models.llama3_1")
    peft = pytest.importorskip("torchtune.modules.peft")
    fields, rendered = _render(placed("llama", types), "torchtune")
    with torch.device("meta"):
        model = builders.lora_llama3_1(
            **fields, vocab_size=64, num_layers=2, num_heads=4, num_kv_heads=2, embed_dim=32,
            max_seq_len=64, intermediate_dim=48,
        )  # fmt: skip
    weights = peft.get_adapter_params(model)
    assert sum(w.numel() for w in weights.values()) == rendered.trainable_parameters
    adapted = {name.rsplit(".lora_", 1)[0].rsplit(".", 1)[-1] for name in weights}
    mlp = {"w1", "w2", "w3"} if fields["apply_lora_to_mlp"] else set()
    assert adapted == {*fields["lora_attn_modules"], *mlp}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "types", [ATTENTION, ["k_proj"], [*ATTENTION, *MLP], ["o_proj", "up_proj", "gate_proj"]]
)
def test_real_litgpt(placed, types, tmp_path) -> None:
    """Its parser accepts the file, and its model has as many adapter weights as we say."""
    setup = pytest.importorskip("litgpt.finetune.lora").setup
    lora = pytest.importorskip("litgpt.lora")
    jsonargparse = pytest.importorskip("jsonargparse")
    placement = placed("llama", types)
    path = placement.export(tmp_path, to="litgpt", allow_loss=True)
    parser = jsonargparse.ArgumentParser()
    parser.add_argument("--config", action="config")
    parser.add_function_arguments(setup)
    parsed = parser.parse_args(["--config", str(path), "--checkpoint_dir", "x"])
    fields = {key: value for key, value in vars(parsed).items() if key.startswith("lora_")}
    assert fields == yaml.safe_load(path.read_text())
    with torch.device("meta"):
        config = lora.Config(
            n_layer=2, n_head=4, n_query_groups=2, n_embd=32, intermediate_size=48, bias=False,
            padded_vocab_size=64, vocab_size=64, mlp_class_name="LLaMAMLP", **fields,
        )  # fmt: skip
        model = lora.GPT(config)
    count = sum(w.numel() for name, w in model.named_parameters() if "lora_" in name)
    assert count == _render(placement, "litgpt")[1].trainable_parameters


@pytest.mark.filterwarnings("ignore")
def test_real_litgpt_experts(placed) -> None:
    lora = pytest.importorskip("litgpt.lora")
    base = placed("llama", ["q_proj"])
    placement = _with_experts(base, "MixtralForCausalLM", "mixtral", "both")
    fields, rendered = _render(placement, "litgpt")
    with torch.device("meta"):
        config = lora.Config(
            n_layer=2, n_head=4, n_query_groups=2, n_embd=32, intermediate_size=24, n_expert=4,
            n_expert_per_token=2, bias=False, padded_vocab_size=64, vocab_size=64,
            mlp_class_name="LLaMAMoE", **fields,
        )  # fmt: skip
        model = lora.GPT(config)
    count = sum(w.numel() for name, w in model.named_parameters() if "lora_" in name)
    assert count == rendered.trainable_parameters


def _mlx_adapters(
    placement: Placement, model_type: str, **extra: Any
) -> tuple[dict[str, Any], int]:
    """Return what mlx-lm adapts in its own model of the family, and the number of weights."""
    utils = pytest.importorskip("mlx_lm.tuner.utils", exc_type=ImportError)
    trainer = pytest.importorskip("mlx_lm.lora", exc_type=ImportError)
    module = pytest.importorskip(f"mlx_lm.models.{model_type}", exc_type=ImportError)
    from mlx.utils import tree_flatten

    document = yaml.load(TARGETS["mlx-lm"].render(placement).text, trainer.yaml_loader)
    arguments = {**placement.model.config, "rope_theta": 1e4, "model_type": model_type, **extra}
    model = module.Model(module.ModelArgs.from_dict(arguments))
    model.freeze()
    utils.linear_to_lora_layers(model, document["num_layers"], document["lora_parameters"])
    found = {
        name: (part.lora_a.shape, part.scale)
        for name, part in model.named_modules()
        if hasattr(part, "lora_a")
    }
    trainable = [value.size for name, value in tree_flatten(model.trainable_parameters())]
    return found, sum(trainable)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("layers", [{0, 1}, {1}])
@pytest.mark.parametrize("types", [ATTENTION, ["o_proj", "down_proj"]])
def test_real_mlx_lm(placed, types, layers) -> None:
    """Keys inside the block and full names both reach exactly the placed weights."""
    placement = _only_layers(placed("llama", types), layers)
    found, trainable = _mlx_adapters(placement, "llama")
    assert set(found) == {site.name for site in placement.sites}
    assert {scale for _, scale in found.values()} == {2.0}
    assert trainable == TARGETS["mlx-lm"].render(placement).trainable_parameters


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("layers", [{0, 1}, {1}])
@pytest.mark.parametrize(
    ("name", "model_type", "extra"),
    [
        ("gpt2", "gpt2", {"n_ctx": 64}),
        ("neox", "gpt_neox", {"rotary_emb_base": 1e4, "rotary_pct": 0.25}),
        ("qwen", "qwen3", {"head_dim": 10}),
    ],
)
def test_real_mlx_lm_families(name, model_type, extra, layers) -> None:
    """Where mlx-lm calls the list of blocks by another name, a full name must use it."""
    placement = _only_layers(plop.place(_scores(name), top=2), layers)
    found, trainable = _mlx_adapters(placement, model_type, **extra)
    ours = {re.sub(r"^.*?\.(\d+)\.", r"\1.", site.name) for site in placement.sites}
    assert {re.sub(r"^.*?\.(\d+)\.", r"\1.", name) for name in found} == ours
    if name != "neox":  # mlx-lm takes 4 * hidden_size there, whatever the tiny config says
        assert trainable == TARGETS["mlx-lm"].render(placement).trainable_parameters


@pytest.mark.filterwarnings("ignore")
def test_real_families_exist() -> None:
    """A family that a trainer dropped, or calls otherwise, must not pass as known."""
    remapped = pytest.importorskip("mlx_lm.utils", exc_type=ImportError).MODEL_REMAPPING
    pytest.importorskip("torchtune.models.llama3_1")
    for family in FAMILIES:
        assert importlib.util.find_spec(f"mlx_lm.models.{remapped.get(family, family)}"), family
    for family in TORCHTUNE_FAMILIES:
        home = {"llama": "llama3_1"}.get(family, family)
        assert importlib.util.find_spec(f"torchtune.models.{home}"), family


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("model_type", "extra"),
    [
        ("mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2, "intermediate_size": 24}),
        ("qwen3_moe", {"num_experts": 4, "num_experts_per_tok": 2, "decoder_sparse_step": 1,
                       "mlp_only_layers": [], "moe_intermediate_size": 24, "head_dim": 8,
                       "norm_topk_prob": True}),
    ],
)  # fmt: skip
def test_real_mlx_lm_experts(placed, model_type, extra) -> None:
    base = placed("llama", ["q_proj"])
    placement = _with_experts(base, "AnyForCausalLM", model_type, "both")
    found, trainable = _mlx_adapters(placement, model_type, **extra)
    assert len(found) == 2 * 4
    assert trainable == TARGETS["mlx-lm"].render(placement).trainable_parameters


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["llama", "qwen", "neox", "opt", "bert", "t5", "vit"])
def test_real_nemo_automodel(name) -> None:
    """It patches exactly the placed modules of a transformers model, with our factor."""
    lora = pytest.importorskip("nemo_automodel.components._peft.lora", exc_type=ImportError)
    for options in ({"top": 2, "rank": 4}, {"budget": "6%"}):
        placement = plop.place(_scores(name), **options)
        document, rendered = _render(placement, "nemo-automodel")
        assert document["peft"].pop("_target_").endswith("lora.PeftConfig")
        model = build(name)
        lora.apply_lora_to_linear_modules(model, lora.PeftConfig(**document["peft"]))
        adapted = {n: m.scale for n, m in model.named_modules() if hasattr(m, "lora_A")}
        assert adapted.keys() == {site.name for site in placement.sites}
        assert set(adapted.values()) == {2.0}
        trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
        assert trainable == rendered.trainable_parameters
