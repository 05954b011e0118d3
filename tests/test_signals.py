"""Signals say what they claim about the right weights, and leave the model as it was."""

from __future__ import annotations

import pytest
import torch
import transformers
from conftest import TEXTS, WordTokenizer, build
from families import DECODER, ENCODER

from plop_lora.errors import DataError, MeasurementError, ModelError, UsageError
from plop_lora.indicators import INDICATORS, OfModels
from plop_lora.indicators.eva import eva_ranks
from plop_lora.indicators.signal import measure_signal
from plop_lora.scoring.sites.find import find_sites
from plop_lora.verification.batches import batches_of

ROWS = [{"text": text} for text in TEXTS]
ON_MODELS = [name for name, row in INDICATORS.items() if isinstance(row.measure, OfModels)]


class _Tokenizer(WordTokenizer):
    """Builds two special tokens in front, so that a completion can be seen to have none."""

    def __call__(self, text: str, **options: object) -> dict[str, list[int]]:
        front = [1, 2] if options.get("add_special_tokens") else []
        return {"input_ids": front + super().__call__(text)["input_ids"]}


def _hosts(model: torch.nn.Module) -> list:
    hosts = {site.host.name: site.host for site in find_sites(model).sites if site.eligible}
    return list(hosts.values())


@pytest.fixture(scope="module")
def llama() -> torch.nn.Module:
    return build("llama")


@pytest.fixture(scope="module")
def batches() -> list:
    return batches_of(ROWS, WordTokenizer(), batch_size=8)


def test_gradient_norms_are_those_of_a_backward_pass(llama, batches) -> None:
    signal = measure_signal("gradient", llama, batches, _hosts(llama))
    model = build("llama")
    model(**batches[0]).loss.backward()
    for host in _hosts(model):
        expected = model.get_submodule(host.name).weight.grad.norm()
        assert signal.values[host.name] == pytest.approx(float(expected), rel=1e-5)
    assert signal.seconds > 0
    assert signal.peak_memory > 0


@pytest.mark.parametrize("name", ON_MODELS)
def test_the_model_comes_back_as_it_was(name: str, batches) -> None:
    model = build("llama")
    model.train()
    frozen = next(iter(model.parameters()))
    frozen.requires_grad_(False)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    measure_signal(name, model, batches, _hosts(model), rank=2)
    assert model.training
    assert not frozen.requires_grad
    assert sum(p.requires_grad for p in model.parameters()) == len(list(model.parameters())) - 1
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(m._forward_hooks for m in model.modules())


@pytest.mark.parametrize("name", ON_MODELS)
def test_the_same_twice(name: str, llama, batches) -> None:
    first, second = (
        measure_signal(name, llama, batches, _hosts(llama), rank=2).values for _ in range(2)
    )
    assert first == second


def test_gradient_of_a_classifier(batches) -> None:
    config = transformers.BertConfig(**ENCODER, num_labels=3)
    torch.manual_seed(0)
    model = transformers.BertForSequenceClassification(config)
    rows = [{"text": text, "label": "abc"[n % 3]} for n, text in enumerate(TEXTS)]
    labelled = batches_of(rows, WordTokenizer(), labels=("a", "b", "c"), batch_size=8)
    assert labelled[0]["labels"].tolist() == [0, 1, 2, 0, 1, 2, 0, 1]
    signal = measure_signal("gradient", model, labelled, _hosts(model))
    assert set(signal.values) == {host.name for host in _hosts(model)}
    assert min(signal.values.values()) > 0
    measure_signal("eva", model, labelled, _hosts(model), rank=2)


def test_names_of_a_scored_body_are_found_under_its_head(llama, batches) -> None:
    """Scored as LlamaModel, trained as LlamaForCausalLM: the same weights, another prefix."""
    inside = _hosts(llama.model)
    assert not inside[0].name.startswith("model.")
    signal = measure_signal("gradient", llama, batches, inside)
    whole = measure_signal("gradient", llama, batches, _hosts(llama))
    assert {f"model.{name}": value for name, value in signal.values.items()} == whole.values


def test_kappa_takes_the_lowest_condition_number_first(llama) -> None:
    signal = measure_signal("kappa", llama, [], _hosts(llama))

    def condition(name: str) -> float:
        values = torch.linalg.svdvals(llama.get_submodule(name).weight.detach())
        return float(values[0] / values[-1])

    order = sorted(signal.values, key=lambda name: -signal.values[name])
    assert order == sorted(signal.values, key=condition)
    assert signal.values[order[0]] == 0
    assert len(order) == len(_hosts(llama))


def test_kappa_reads_stacks_of_experts() -> None:
    config = transformers.Qwen3MoeConfig(
        **DECODER, moe_intermediate_size=24, num_experts=4, num_experts_per_tok=2, head_dim=8
    )
    torch.manual_seed(0)
    model = transformers.Qwen3MoeForCausalLM(config)
    hosts = _hosts(model)
    stacks = {host.name for host in hosts if host.is_parameter}
    assert stacks
    assert set(measure_signal("kappa", model, [], hosts).values) == {h.name for h in hosts}


def test_gradient_reads_stacks_of_experts(batches) -> None:
    config = transformers.Qwen3MoeConfig(
        **DECODER, moe_intermediate_size=24, num_experts=4, num_experts_per_tok=2, head_dim=8
    )
    torch.manual_seed(0)
    model = transformers.Qwen3MoeForCausalLM(config)
    hosts = _hosts(model)
    assert set(measure_signal("gradient", model, batches, hosts).values) == {h.name for h in hosts}


@pytest.mark.slow
def test_eva_shares_out_the_mean_rank(llama, batches) -> None:
    """Ranks differ, none is above twice the mean, and they add up to it."""
    hosts = _hosts(llama)
    signal = measure_signal("eva", llama, batches, hosts, rank=4)
    assert INDICATORS["eva"].measure.are_ranks
    assert signal.are_ranks
    assert sum(signal.values.values()) == 4 * len(hosts)
    assert len(set(signal.values.values())) > 1
    assert max(signal.values.values()) <= 8


def test_eva_gives_up_instead_of_going_round_for_ever(llama) -> None:
    """Two components of noise never settle in batches of a few tokens."""
    batches = batches_of(ROWS, WordTokenizer(), batch_size=2)
    with pytest.raises(MeasurementError, match="has not converged after 3"):
        eva_ranks(llama, batches, _hosts(llama), rank=8, max_forwards=3)
    assert not any(module._forward_hooks for module in llama.modules())


def test_what_a_signal_cannot_see_is_absent(batches) -> None:
    """PEFT's KappaTune reads no Conv1D: GPT-2 has no signal at all, and that is an error."""
    with pytest.raises(ModelError, match="Leave out the arm 'kappa'"):
        measure_signal("kappa", build("gpt2"), [], _hosts(build("gpt2")))
    model = build("llama")
    hosts = _hosts(model)
    model.model.layers[0].mlp.down_proj = torch.nn.Identity()
    signal = measure_signal("kappa", model, [], hosts)
    assert "model.layers.0.mlp.down_proj" not in signal.values
    assert "kappa: no signal for 1 weights (down_proj)" in signal.notes[0]


def test_requests_that_cannot_work(llama, batches) -> None:
    with pytest.raises(UsageError, match="Did you mean 'gradient'"):
        measure_signal("gradint", llama, batches, _hosts(llama))
    with pytest.raises(DataError, match="there is no batch"):
        measure_signal("eva", llama, [], _hosts(llama))
    unlabelled = [{key: batches[0][key] for key in ("input_ids", "attention_mask")}]
    with pytest.raises(ModelError, match="gives no loss"):
        measure_signal("gradient", llama, unlabelled, _hosts(llama))
    broken = build("llama")
    with torch.no_grad():
        broken.model.norm.weight.fill_(float("nan"))
    with pytest.raises(MeasurementError, match="the value nan"):
        measure_signal("gradient", broken, batches, _hosts(broken))


def test_rows_become_labelled_batches() -> None:
    rows = [{"prompt": "one two", "completion": " three"}, {"prompt": "four"}]
    (batch,) = batches_of(rows, _Tokenizer())
    assert batch["attention_mask"].sum(dim=1).tolist() == [5, 3]
    assert (batch["labels"][0, :4] == -100).all()
    assert batch["labels"][0, 4] == batch["input_ids"][0, 4]
    assert (batch["labels"][1, :3] == batch["input_ids"][1, :3]).all()
    assert (batch["labels"][1, 3:] == -100).all()


@pytest.mark.parametrize(
    ("rows", "labels", "message"),
    [
        ([], (), "no row"),
        ([{"answer": "x"}], (), "no text"),
        ([{"text": "x", "label": "z"}], ("a",), "'z' is none of: a"),
        ([{"prompt": "one two three", "completion": "four"}], (), "no token|No row"),
    ],
)
def test_rows_that_cannot_be_measured_on(rows, labels, message) -> None:
    with pytest.raises(DataError, match=message):
        batches_of(rows, WordTokenizer(), labels=labels, max_length=3)
