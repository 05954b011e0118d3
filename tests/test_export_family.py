"""Exports to trainers that stand on PEFT, applied by PEFT to skeletons of real architectures.

TRL is installed and parses its own file. The other trainers' rules stand in `trainer_rules`;
where a trainer's own schema can be imported, the last tests use it.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
import torch
import transformers
import yaml
from peft import get_peft_model
from placements import CASES, placed
from trainer_rules import RULES, run_unsloth, trl_rule

import plop_lora as plop
from plop_lora.errors import ExportError
from plop_lora.exports import TARGETS, export
from plop_lora.exports.dryrun import adapters_of, skeleton
from plop_lora.records import Placement

pytestmark = pytest.mark.filterwarnings("ignore")
FAMILY = ("axolotl", "llama-factory", "ms-swift", "trl", "unsloth")
ONE_RANK = ("llama-factory", "ms-swift", "trl")


# ------------------------------------------------------------------------------- what PEFT does


def _train(name: str, text: str, placement: Placement) -> tuple[dict[str, tuple[int, float]], int]:
    """Return (rank, scaling) of every adapter that the file makes, and what they train."""
    model = skeleton(placement.model)
    config = RULES[name](text, model)
    config.init_lora_weights = True
    with torch.device("meta"):
        adapted = get_peft_model(model, config, autocast_adapter_dtype=False)
    trained = sum(p.numel() for key, p in adapted.named_parameters() if "lora_" in key)
    return adapters_of(adapted.base_model.model), trained


def _lost(rendered: Any, word: str) -> bool:
    return any(loss.what.startswith(f"the {word}") for loss in rendered.losses)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", RULES)
def test_a_file_trains_what_it_claims(name: str, case: str) -> None:
    """Names that hit too much or too little, lost ranks and miscounts pass trainers silently.

    The number of parameters is counted in the adapted model, not taken from any record.
    """
    placement = CASES[case]()
    try:
        rendered = TARGETS[name].render(placement)
    except ExportError:
        assert name == "llama-factory"
        assert all(site.is_parameter for site in placement.sites)
        return
    found, trained = _train(name, rendered.text, placement)
    assert trained == rendered.trainable_parameters <= placement.trainable_parameters
    sites = {site.name: site for site in placement.sites}
    if not _lost(rendered, "adapters"):
        assert found.keys() == sites.keys()
    if _lost(rendered, "ranks"):
        assert len({rank for rank, _ in found.values()}) == 1
    else:
        assert all(rank == sites[key].rank for key, (rank, _) in found.items())
    if not _lost(rendered, "scaling"):
        wanted = pytest.approx(placement.scaling)
        assert all(scaling == wanted for _, scaling in found.values())
    if not rendered.losses:
        assert trained == placement.trainable_parameters


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", FAMILY)
def test_export_checks_itself(name: str, case: str, tmp_path) -> None:
    """A check that refuses a good file, or a render that cannot be checked, blocks the user."""
    placement = CASES[case]()
    try:
        done = export(placement, tmp_path, to=name, allow_loss=True)
    except ExportError as error:
        assert name == "llama-factory"
        assert "Nothing of this placement" in str(error)  # noqa: PT017
        return
    assert done.checked
    assert placement.model.name in done.path.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"budget": "5%"}, {"top": 1}], ids=str)
@pytest.mark.parametrize("name", FAMILY)
def test_a_scored_placement_is_exported(name: str, options: dict, scores, tmp_path) -> None:
    """What `place` makes must fit what the exports expect, not only placements made by hand."""
    placement = plop.place(scores, **options)
    done = export(placement, tmp_path, to=name, allow_loss=True)
    assert done.rendered.trainable_parameters <= placement.trainable_parameters
    assert bool(done.losses) == (name in ONE_RANK and "budget" in options)
    assert done.target.read_by == (None if name == "trl" else "from peft")


@pytest.mark.parametrize("name", FAMILY)
def test_the_check_sees_a_wrong_name(name: str) -> None:
    """A check that cannot fail would make every promise about names empty."""
    placement = placed("llama", {"self_attn.o_proj": 8, "mlp.down_proj": 8})
    target = TARGETS[name]
    rendered = target.render(placement)
    wrong = dataclasses.replace(rendered, text=rendered.text.replace("down_proj", "up_proj"))
    with pytest.raises(ExportError, match=r"mlp\.down_proj gets no adapter"):
        target.check(placement, wrong)


# ------------------------------------------------------------------------- losses and settings


@pytest.mark.parametrize("name", ONE_RANK)
def test_one_rank_is_the_largest_that_costs_no_more(name: str) -> None:
    """A rank too low wastes budget, one too high breaks it, and the count must be the true one."""
    placement = CASES["llama-mixed-ranks"]()
    rendered = TARGETS[name].render(placement)
    found, trained = _train(name, rendered.text, placement)
    (rank,) = {rank for rank, _ in found.values()}
    assert trained <= placement.trainable_parameters < trained // rank * (rank + 1)
    assert [loss.what for loss in rendered.losses] == ["the ranks 4 to 7"]


def test_a_loss_stops_the_export_and_says_how_much_is_left(tmp_path) -> None:
    """Ranks must not vanish on the way to a trainer unless the user agrees."""
    placement = CASES["llama-mixed-ranks"]()
    with pytest.raises(ExportError, match=r"2,304 parameters instead of 2,848.*--allow-loss"):
        export(placement, tmp_path, to="trl")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("name", RULES)
def test_dropout_is_zero_beside_parameters_and_kept_elsewhere(name: str) -> None:
    """PEFT refuses dropout on a parameter; TRL and ms-swift default to 0.05 if nothing is said."""
    model = skeleton(CASES["llama"]().model)
    kept = TARGETS[name].render(CASES["llama-dropout"]())
    assert RULES[name](kept.text, model).lora_dropout == 0.1
    assert not kept.losses
    none = TARGETS[name].render(CASES["llama"]())
    assert RULES[name](none.text, model).lora_dropout == 0.0
    if name != "llama-factory":
        experts = CASES["qwen3_moe-everything"]()
        rendered = TARGETS[name].render(experts)
        assert _lost(rendered, "dropout 0.1")
        assert RULES[name](rendered.text, skeleton(experts.model)).lora_dropout == 0.0


LORAPLUS = {"axolotl": "loraplus_lr_ratio", "llama-factory": "loraplus_lr_ratio",
            "ms-swift": "lorap_lr_ratio"}  # fmt: skip


@pytest.mark.parametrize("name", FAMILY)
def test_loraplus_is_said_or_lost(name: str) -> None:
    """A ratio that is dropped in silence changes the training without a trace."""
    placement = placed("llama", {"self_attn.o_proj": 8}, loraplus_ratio=16.0)
    rendered = TARGETS[name].render(placement)
    if name in LORAPLUS:
        assert yaml.safe_load(rendered.text)[LORAPLUS[name]] == 16.0
        assert not rendered.losses
    else:
        assert _lost(rendered, "LoRA+ ratio 16")


INITS = {
    "pissa": {"peft": "pissa", "axolotl": "pissa", "ms-swift": "pissa", "llama-factory": -1},
    "pissa_niter_4": {"peft": "pissa_niter_4", "axolotl": "pissa_niter_4",
                      "ms-swift": "pissa_niter_4", "llama-factory": 4},
    "gaussian": {"peft": "gaussian", "axolotl": "gaussian", "ms-swift": "gaussian",
                 "unsloth": "gaussian"},
    "loftq": {"peft": "loftq", "axolotl": "loftq", "unsloth": "loftq"},
    "lora_ga": {"peft": "lora_ga", "ms-swift": "lora-ga"},
    "eva": {"peft": "eva"},
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("name", RULES)
def test_an_initialisation_is_said_or_lost(name: str, init: str) -> None:
    """A trainer that lacks an initialisation, or its data pass, falls back without a word."""
    placement = placed("llama", {"self_attn.o_proj": 8}, init=init)
    rendered = TARGETS[name].render(placement)
    TARGETS[name].check(placement, rendered)
    said = INITS[init].get(name)
    assert _lost(rendered, f"initialisation {init}") == (said is None)
    if name == "unsloth":
        written = run_unsloth(rendered.text)[1]["init_lora_weights"]
    elif name == "trl":
        written = True
    else:
        fields = json.loads(rendered.text) if name == "peft" else yaml.safe_load(rendered.text)
        keys = {"peft": "init_lora_weights", "axolotl": "peft_init_lora_weights",
                "ms-swift": "init_weights", "llama-factory": "pissa_iter"}  # fmt: skip
        written = fields.get(keys[name], True)
    assert written == ((True if name != "ms-swift" else "true") if said is None else said)


def test_axolotl_says_rslora_as_plain_scaling_where_alpha_is_not_whole() -> None:
    """Its schema refuses a broken alpha; the factor in front of B·A is the same both ways."""
    rendered = TARGETS["axolotl"].render(CASES["llama-rslora"]())
    assert not rendered.losses
    assert yaml.safe_load(rendered.text)["peft_use_rslora"] is False
    whole = TARGETS["axolotl"].render(placed("llama", {"self_attn.o_proj": 16}, rslora=True))
    assert yaml.safe_load(whole.text)["peft_use_rslora"] is True


def test_axolotl_takes_the_nearest_scaling_with_whole_alphas() -> None:
    """Rounding each alpha by itself would scale modules of different rank differently."""
    placement = CASES["llama-odd-scaling"]()
    rendered = TARGETS["axolotl"].render(placement)
    found, _ = _train("axolotl", rendered.text, placement)
    assert {scaling for _, scaling in found.values()} == {1.0}
    assert "it is 1" in rendered.losses[0].effect


def test_llama_factory_says_that_a_head_is_not_trained() -> None:
    """It wraps every model as a language model, so that a classifier's head would not train."""
    assert _lost(TARGETS["llama-factory"].render(CASES["classifier"]()), "task SEQ_CLS")


def test_llama_factory_targets_are_in_no_other_name_of_a_model_with_a_tower() -> None:
    """It looks for a target anywhere in a name: `mlp.up_proj` is in `gated_mlp.up_proj` too."""
    placement = placed("gemma3", {"lm.mlp.up_proj": 8})
    other = "model.vision_tower.head.gated_mlp.up_proj"
    placement = dataclasses.replace(placement, untouched=(*placement.untouched, other))
    fields = yaml.safe_load(TARGETS["llama-factory"].render(placement).text)
    assert not any(target in other for target in fields["lora_target"].split(","))


def test_llama_factory_freezes_towers_only_where_nothing_is_placed_there() -> None:
    """Frozen parts are taken out of the targets, so that a placement there would vanish."""
    language = yaml.safe_load(TARGETS["llama-factory"].render(CASES["gemma3"]()).text)
    assert language["freeze_vision_tower"]
    vision = yaml.safe_load(TARGETS["llama-factory"].render(CASES["qwen2_5_vl-vision"]()).text)
    assert not vision["freeze_vision_tower"]


@pytest.mark.parametrize(
    ("case", "loader"),
    [
        ("llama", "FastLanguageModel"),
        ("gemma3", "FastModel"),
        ("bert-attention-dense", "FastModel"),
    ],
)
def test_unsloth_uses_the_class_that_loads_the_model(case: str, loader: str) -> None:
    """The other class ignores the arguments of its sibling, or dies on them."""
    name, options = run_unsloth(TARGETS["unsloth"].render(CASES[case]()).text)
    assert name == loader
    assert ("finetune_mlp_modules" in options) == (loader == "FastModel")


def test_ms_swift_has_a_target_that_matches_nothing() -> None:
    """An empty list cannot be an argument, and without one ms-swift adapts all linears."""
    text = TARGETS["ms-swift"].render(CASES["qwen3_moe-experts"]()).text
    assert yaml.safe_load(text)["target_modules"] == ["no_module"]


# ------------------------------------------------------------------------ the trainers themselves


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_trl_parses_the_file_among_all_its_options(case: str, tmp_path) -> None:
    """A key of ours that another of TRL's classes owns would be refused by `trl sft`."""
    trl = pytest.importorskip("trl")
    path = tmp_path / "trl.yaml"
    path.write_text(TARGETS["trl"].render(CASES[case]()).text + "output_dir: out\nbf16: false\n")
    classes = (trl.ScriptArguments, trl.SFTConfig, trl.ModelConfig, trl.DatasetMixtureConfig)
    *_, model_config, _ = trl.TrlParser(classes).parse_args_and_config(["--config", str(path)])
    made = trl.get_peft_config(model_config)
    expected = trl_rule(path.read_text(), None)
    for field in ("r", "lora_alpha", "lora_dropout", "use_rslora", "target_modules",
                  "target_parameters", "task_type"):  # fmt: skip
        assert getattr(made, field) == getattr(expected, field), field


@pytest.mark.parametrize("case", CASES)
def test_axolotl_accepts_the_file(case: str) -> None:
    """Axolotl's own schema drops nothing of ours and refuses nothing; skipped where absent."""
    schema = pytest.importorskip("axolotl.utils.schemas.config")
    fields = yaml.safe_load(TARGETS["axolotl"].render(CASES[case]()).text)
    config = schema.AxolotlInputConfig(
        **fields, datasets=[{"path": "x", "type": "alpaca"}], micro_batch_size=1,
        gradient_accumulation_steps=1, learning_rate=1e-4, output_dir="x",
    )  # fmt: skip
    kept = config.model_dump()
    assert {key: kept[key] for key in fields} == fields


@pytest.mark.parametrize("case", CASES)
def test_llama_factory_accepts_the_file(case: str) -> None:
    """LLaMA-Factory's own argument classes know every key; skipped where absent."""
    hparams = pytest.importorskip("llamafactory.hparams")
    try:
        fields = yaml.safe_load(TARGETS["llama-factory"].render(CASES[case]()).text)
    except ExportError:
        return
    classes = [hparams.ModelArguments, hparams.FinetuningArguments]
    _, made = transformers.HfArgumentParser(classes).parse_dict(dict(fields))
    assert made.lora_target == fields["lora_target"].split(",")
    assert (made.lora_rank, made.lora_alpha) == (fields["lora_rank"], fields["lora_alpha"])


@pytest.mark.parametrize("case", CASES)
def test_ms_swift_accepts_the_file(case: str, tmp_path, monkeypatch) -> None:
    """ms-swift's own way from YAML to arguments knows every key; skipped where absent.

    What follows parsing loads the model, so it is left out.
    """
    main = pytest.importorskip("swift.cli.main")
    arguments = pytest.importorskip("swift.arguments")
    parse_args = pytest.importorskip("swift.utils.utils").parse_args
    path = tmp_path / "ms_swift.yaml"
    path.write_text(TARGETS["ms-swift"].render(CASES[case]()).text)
    words = [str(path)]
    monkeypatch.setenv("SWIFT_CONFIG_FILE", "")
    main.parse_yaml_args(words)
    monkeypatch.setattr(arguments.SftArguments, "__post_init__", lambda self: None)
    made, unknown = parse_args(arguments.SftArguments, [*words, "--dataset", "x"])
    assert not unknown
    fields = yaml.safe_load(path.read_text())
    assert {key: getattr(made, key) for key in fields} == fields
