"""The model of a trial and its adapters: names, seeds, initialisations, what is saved."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import peft
import pytest
import torch
import transformers
from placements import placed
from trials import LABELS, NO_DATA, checkpoint, rows, spec_of

from plop_lora.demo import MODEL
from plop_lora.errors import ExportError, ModelError, UsageError
from plop_lora.evaluation.judged import Prepared, Row
from plop_lora.exports.dryrun import adapters_of
from plop_lora.models.loading import load_tokenizer
from plop_lora.placement.inits import moves_base
from plop_lora.records import Host, Placement, TrialSpec
from plop_lora.training import adapters, eva
from plop_lora.training.tasks import task_named

TEXTS = ["a fine day", "dull rain and a bleak night with rain", "sun"]
QUERY = "encoder.layer.{}.attention.self.query"


def on_encoder(rank: int = 4, **settings: object) -> Placement:
    return placed("bert", {"output.dense": rank, "attention.self.query": rank}, **settings)


def on_decoder(**settings: object) -> Placement:
    ranks = {"self_attn.o_proj": (2, 4, 6), "mlp.down_proj": 4}
    return placed("llama", ranks, **settings)


def language(spec: TrialSpec) -> TrialSpec:
    return replace(spec, task="sft", labels=())


def factors(prepared: Prepared, side: str) -> dict[str, torch.Tensor]:
    named = prepared.model.base_model.model.named_parameters()
    return {name: tensor.detach() for name, tensor in named if f"lora_{side}" in name}


def test_retarget_adds_the_prefix_of_the_classifier(encoder: str) -> None:
    """A placement scored on the bare encoder fits the classifier, in all that names weights."""
    placement = on_encoder()
    host = Host("encoder.layer.0.output.dense", "output.dense", 0, 48, 32)
    placement = replace(placement, hosts=(host,))
    model = transformers.AutoModelForSequenceClassification.from_pretrained(encoder)
    found = adapters.retarget(placement, model)
    assert {site.name for site in found.sites} == {f"bert.{s.name}" for s in placement.sites}
    assert found.hosts[0].name == f"bert.{host.name}"
    assert {f"bert.{name}" for name in placement.untouched} <= set(found.untouched)
    assert "classifier" in found.untouched
    assert found.model.task_type == "SEQ_CLS"
    back = adapters.retarget(found, model.bert)
    assert [site.name for site in back.sites] == [site.name for site in placement.sites]
    assert "classifier" not in back.untouched


def test_retarget_names_the_missing_weight(decoder: str) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(decoder)
    with pytest.raises(ModelError, match=r"no weight encoder\.layer\.0\.\S+, .*for BertModel"):
        adapters.retarget(on_encoder(), model)


def test_only_adapters_and_head_train(encoder: str) -> None:
    prepared = adapters.prepare(spec_of(encoder, on_encoder(), NO_DATA, dtype="bfloat16"))
    placement = on_encoder()
    training = {n: p for n, p in prepared.model.named_parameters() if p.requires_grad}
    assert all("lora_" in name or "classifier" in name for name in training)
    assert any("classifier" in name for name in training)
    assert {p.dtype for p in training.values()} == {torch.float32}
    frozen = {p.dtype for p in prepared.model.parameters() if not p.requires_grad}
    assert frozen == {torch.bfloat16}
    assert adapters.adapter_parameters(prepared.model) == placement.trainable_parameters
    assert prepared.model.config.id2label == dict(enumerate(LABELS))
    assert prepared.model.config.pad_token_id == prepared.tokenizer.pad_token_id


@pytest.mark.slow
@pytest.mark.parametrize("init", ["default", "gaussian", "orthogonal"])
def test_arms_share_what_they_have_in_common(encoder: str, init: str) -> None:
    """Arms start from one head, and from the same A where both adapt a weight."""
    both = on_encoder(init=init)
    one = placed("bert", {"attention.self.query": 4}, init=init)
    first, second, other = (
        adapters.prepare(spec_of(encoder, placement, NO_DATA, seed=seed))
        for placement, seed in ((both, 3), (one, 3), (one, 4))
    )
    many, few, fresh = factors(first, "A"), factors(second, "A"), factors(other, "A")
    assert few.keys() < many.keys()
    for name, tensor in few.items():
        torch.testing.assert_close(many[name], tensor, rtol=0, atol=0)
        assert not torch.equal(fresh[name], tensor)
    heads = [p.model.base_model.model.classifier.weight for p in (first, second, other)]
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])
    layers = list(few.values())
    assert not torch.equal(layers[0], layers[1]), "every weight has a draw of its own"


@pytest.mark.slow
def test_eva_sees_the_features(encoder: str) -> None:
    """EVA is not PEFT's silent Kaiming: orthonormal directions of the features, ranks as placed."""
    spec = spec_of(encoder, on_encoder(init="eva"), NO_DATA)
    prepared = adapters.prepare(spec, rows(32))
    plain = adapters.prepare(spec_of(encoder, on_encoder(), NO_DATA))
    usual = factors(plain, "A")
    for name, tensor in factors(prepared, "A").items():
        assert not torch.allclose(tensor, usual[name])
        torch.testing.assert_close(tensor @ tensor.T, torch.eye(4), rtol=0, atol=1e-4)
    assert all(not tensor.any() for tensor in factors(prepared, "B").values())
    ranks = {rank for rank, _ in adapters_of(prepared.model.base_model.model).values()}
    assert ranks == {4}


@pytest.mark.slow
def test_eva_needs_tokens(encoder: str) -> None:
    """Too few tokens would let PEFT's loop turn for ever."""
    spec = spec_of(encoder, on_encoder(rank=16, init="eva"), NO_DATA)
    with pytest.raises(ValueError, match="EVA needs 32 tokens"):
        adapters.prepare(spec, rows(4))


def test_eva_that_never_settles_ends(encoder: str, monkeypatch) -> None:
    monkeypatch.setattr(eva, "BATCHES", 2)
    spec = spec_of(encoder, on_encoder(init="eva"), NO_DATA)
    with pytest.raises(ModelError, match="EVA did not converge in 2 batches"):
        adapters.prepare(spec, rows(32))


def test_texts_of_every_task() -> None:
    """EVA sees what the model will: prompt and completion with its end, prompts that stay open."""
    tokenizer = load_tokenizer(str(MODEL))

    def tokens(task: str, row: Row) -> list[int]:
        return list(task_named(task).tokens(row, tokenizer))

    assert tokens("classify", {"text": "sun"}) == tokenizer("sun")["input_ids"]
    row = {"prompt": "a", "completion": " day"}
    assert tokens("sft", row) == tokenizer("a day</s>")["input_ids"]
    assert tokens("grpo", row) == tokenizer("a")["input_ids"]


def move(model: torch.nn.Module) -> None:
    """Change everything that trains, as training does."""
    torch.manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn_like(parameter)


@pytest.mark.slow
@pytest.mark.parametrize("init", ["default", "orthogonal", "pissa", "olora"])
@pytest.mark.parametrize("rslora", [False, True], ids=["alpha", "rslora"])
def test_saved_adapter_works_on_the_untouched_base(
    decoder: str, tmp_path: Path, init: str, rslora: bool
) -> None:
    """What was trained is what anyone computes who loads the folder onto the original model."""
    placement = on_decoder(init=init, rslora=rslora)
    prepared = adapters.prepare(language(spec_of(decoder, placement, NO_DATA)))
    initial = adapters.initial_factors(prepared.model, init)
    move(prepared.model)
    adapters.save_adapter(prepared.model, tmp_path / "adapter", initial)
    base = transformers.AutoModelForCausalLM.from_pretrained(decoder)
    loaded = peft.PeftModel.from_pretrained(base, tmp_path / "adapter")
    batch = encoded(prepared)
    prepared.model.eval()
    with torch.inference_mode():
        ours, theirs = (model(**batch).logits for model in (prepared.model, loaded))
        with loaded.disable_adapter():
            before = loaded(**batch).logits
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert (ours - before).abs().max() > 1e-2
    factor = 2 if moves_base(init) else 1
    ranks = {rank for rank, _ in adapters_of(loaded.base_model.model).values()}
    assert ranks == {2 * factor, 4 * factor, 6 * factor}


def encoded(prepared: Prepared) -> dict[str, torch.Tensor]:
    batch = prepared.tokenizer(TEXTS, return_tensors="pt", padding=True)
    return {name: batch[name] for name in ("input_ids", "attention_mask")}


def test_saved_head_goes_along(encoder: str, tmp_path: Path) -> None:
    """A converted adapter of a classifier keeps the head that was trained with it."""
    spec = spec_of(encoder, on_encoder(init="pissa"), NO_DATA)
    prepared = adapters.prepare(spec)
    initial = adapters.initial_factors(prepared.model, "pissa")
    move(prepared.model)
    adapters.save_adapter(prepared.model, tmp_path / "adapter", initial)
    base = transformers.AutoModelForSequenceClassification.from_pretrained(encoder, num_labels=2)
    loaded = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    batch = encoded(prepared)
    prepared.model.eval()
    with torch.inference_mode():
        ours, theirs = (model(**batch).logits for model in (prepared.model, loaded))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("init", ["corda", "loftq", "lora_ga", "mica", "pissa_niter_0", "evil"])
def test_other_inits_are_refused_before_loading(init: str) -> None:
    spec = spec_of("/no/such/model", on_encoder(init=init), NO_DATA)
    with pytest.raises(UsageError, match="Allowed: default, gaussian, orthogonal, eva, pissa"):
        adapters.prepare(spec)


def test_orthogonal_needs_even_ranks() -> None:
    spec = spec_of("/no/such/model", on_encoder(rank=3, init="orthogonal"), NO_DATA)
    with pytest.raises(UsageError, match=r"even ranks, and encoder.* has rank 3"):
        adapters.prepare(spec)


def test_stacked_experts_take_drawn_inits_only() -> None:
    placement = placed("mixtral", {"mlp.experts.down_proj": 4}, init="pissa")
    with pytest.raises(UsageError, match="adapted as a parameter"):
        adapters.check_adapters(language(spec_of("/no", placement, NO_DATA)))


def test_a_classifier_needs_labels(encoder: str) -> None:
    spec = spec_of(encoder, on_encoder(), NO_DATA, labels=("good",))
    with pytest.raises(UsageError, match="two or more labels"):
        adapters.prepare(spec)


def test_loraplus_trains_b_faster(encoder: str) -> None:
    spec = spec_of(encoder, on_encoder(loraplus_ratio=16.0), NO_DATA)
    model = adapters.prepare(spec).model
    optimizer = adapters.optimizer_of(spec, model)
    names = {id(p): name for name, p in model.named_parameters()}
    rates = {names[id(p)]: group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert rates.keys() == {name for name, p in model.named_parameters() if p.requires_grad}
    for name, rate in rates.items():
        faster = "lora_B" in name or name.endswith("bias")
        assert rate == pytest.approx(spec.learning_rate * (16 if faster else 1)), name
    for ratio in (None, 1.0):
        plain = spec_of(encoder, on_encoder(loraplus_ratio=ratio), NO_DATA)
        assert adapters.optimizer_of(plain, model) is None


def test_other_shapes_are_an_error(tmp_path: Path) -> None:
    """Names that fit a wider model would train another budget than the one that was planned."""
    wide = checkpoint(tmp_path, "BertModel", intermediate_size=64)
    with pytest.raises(ExportError, match="other shapes"):
        adapters.prepare(spec_of(wide, on_encoder(), NO_DATA))


def test_models_that_write_no_text(encoder: str, tmp_path: Path) -> None:
    masked = checkpoint(tmp_path / "masked", "BertForMaskedLM")
    with pytest.raises(UsageError, match="BertForMaskedLM, which writes no text"):
        adapters.prepare(language(spec_of(masked, on_encoder(), NO_DATA)))
    headless = checkpoint(tmp_path / "headless", "LlamaModel")
    with pytest.raises(ModelError, match=r"it lacks lm_head\.weight"):
        adapters.prepare(language(spec_of(headless, on_decoder(), NO_DATA)))
    t5 = transformers.T5Config(d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2)
    t5.save_pretrained(tmp_path / "headless")
    spec = replace(spec_of(headless, on_decoder(), NO_DATA), task="grpo", labels=())
    for task in ("grpo", "sft"):
        with pytest.raises(UsageError, match=rf"the task {task} needs a causal.*Seq2SeqTrainer"):
            adapters.prepare(replace(spec, task=task))


def test_pad_token_of_last_resort(decoder: str) -> None:
    prepared = adapters.prepare(language(spec_of(decoder, on_decoder(), NO_DATA)))
    assert prepared.tokenizer.pad_token == prepared.tokenizer.eos_token
