"""What only a GPU can show: equal scores there, streaming to it, memory that ends, trials on it.

No continuous integration runs these; `scripts/gpu/run.sh` does, on a machine that has one.
"""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import families
import numpy as np
import pytest
import torch
import transformers
from placements import placed
from torch import nn
from trials import checkpoint, spec_of, write_data

import plop_lora as plop
from plop_lora.data.batches import Batch, ready_batches
from plop_lora.recipe import Runner
from plop_lora.records import TrialResult, TrialSpec
from plop_lora.scoring.engines import in_memory as memory
from plop_lora.scoring.engines.streaming.checkpoint import Checkpoint
from plop_lora.scoring.engines.streaming.engine import measure as measure_streamed
from plop_lora.scoring.measurement.collect import Measured
from plop_lora.scoring.measurement.expected_norm_cache import ExpectedNormCache
from plop_lora.scoring.sites.find import find_sites
from plop_lora.training.runners.run import run_trials
from plop_lora.training.runners.warm import ForkServer
from plop_lora.training.trial import run_trial
from plop_lora.training.weights import weights_key

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]
DENSE = ["llama", "gemma3", "gpt2", "phi3", "gpt_neox", "t5", "bert", "vit", "qwen3_next", "mamba2"]
ROUTED = ["qwen3_moe", "gpt_oss", "deepseek_v3", "llama4"]


def _moved(batch: dict[str, torch.Tensor], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    return {k: v.to(dtype) if v.is_floating_point() else v for k, v in batch.items()}


def _nfn(model: nn.Module, batch: dict[str, torch.Tensor]) -> dict[str, float]:
    scores = plop.score(model, batches=[batch], stop="fixed", progress=False)
    return {site.name: site.nfn for site in scores.sites}


# --------------------------------------------------------------------------- scores


@pytest.mark.parametrize("name", DENSE + ROUTED)
def test_scores_are_those_of_the_cpu(name: str) -> None:
    """A mask or a sum on the wrong device, or another kernel's idea of the product."""
    model, batch = families.build(name), families.batch_of(name)
    here = _nfn(model, batch)
    there = _nfn(copy.deepcopy(model).cuda(), batch)
    assert there.keys() == here.keys()
    assert there == pytest.approx(here, rel=1e-3)


@pytest.mark.parametrize("name", ["llama", "gpt2", "bert", "t5", "qwen3_moe"])
def test_scores_in_half_precision(name: str) -> None:
    """Sums stay in float32 on a GPU too: bfloat16 alone would be off in the second digit."""
    model, batch = families.build(name), families.batch_of(name)
    exact = _nfn(model, batch)
    half = copy.deepcopy(model).to("cuda", torch.bfloat16)
    found = _nfn(half, _moved(batch, torch.bfloat16))
    assert np.mean([abs(found[key] / nfn - 1) for key, nfn in exact.items()]) < 0.02
    assert found == pytest.approx(exact, rel=0.1)


def test_monte_carlo_draws_are_those_of_the_cpu() -> None:
    """The draws come from the host's generator, so that a device changes no record."""
    model, batch = families.build("llama"), families.batch_of("llama")
    options = {"batches": [batch], "denominator": "monte_carlo", "progress": False}
    here = plop.score(model, **options)
    there = plop.score(copy.deepcopy(model).cuda(), **options)
    expected = [site.nfn for site in here.sites]
    assert [site.nfn for site in there.sites] == pytest.approx(expected, rel=1e-3)


# --------------------------------------------------------------------------- streaming


def _ready(name: str) -> list[Batch]:
    return list(ready_batches([families.batch_of(name, rows=3, seed=seed) for seed in (1, 2, 3)]))


def _streamed(
    folder: Path, batches: list[Batch], expected_norms: ExpectedNormCache | None = None
) -> Measured:
    opened = Checkpoint(str(folder), device=torch.device("cuda"), dtype="auto")
    return measure_streamed(
        opened, find_sites(opened.model).sites, batches, expected_norms=expected_norms
    )


@pytest.mark.parametrize("name", ["llama", "gpt2", "t5", "bert", "qwen3_moe", "deepseek_v3"])
def test_streamed_sums_are_those_in_memory(name: str, tmp_path: Path) -> None:
    """A block that is used before its copy has come would give other sums."""
    model = families.build(name)
    model.save_pretrained(tmp_path, max_shard_size="40KB")
    batches = _ready(name)
    model = model.cuda()
    whole = memory.measure(model, find_sites(model).sites, batches)
    expected_norms = ExpectedNormCache()
    for _ in range(3):
        parts = _streamed(tmp_path, batches, expected_norms)
        assert parts.engine == "stream"
        assert parts.names == whole.names
        assert np.array_equal(parts.counts_RN, whole.counts_RN)
        np.testing.assert_allclose(parts.sums_RN, whole.sums_RN, rtol=1e-5)


def _wide(layers: int) -> nn.Module:
    """Return a model whose blocks take milliseconds to copy, so that reading runs ahead."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=1024, intermediate_size=4096, num_hidden_layers=layers, num_attention_heads=16,
        num_key_value_heads=4, vocab_size=256, dtype="bfloat16",
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).to(torch.bfloat16).eval()


def _long(rows: int, tokens: int) -> Batch:
    ids = torch.randint(0, 256, (rows, tokens), generator=torch.Generator().manual_seed(0))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return Batch(inputs, tuple(f"row {number:03}" for number in range(rows)))


def test_blocks_fetched_ahead_are_whole(tmp_path: Path) -> None:
    """Wide blocks are copied while the one before computes; the sums must not notice."""
    model = _wide(8)
    model.save_pretrained(tmp_path, max_shard_size="40MB")
    batches = [_long(4, 128), _long(2, 512)]
    model = model.cuda()
    whole = memory.measure(model, find_sites(model).sites, batches)
    del model
    for _ in range(3):
        parts = _streamed(tmp_path, batches)
        np.testing.assert_allclose(parts.sums_RN, whole.sums_RN, rtol=2e-3)


def test_streaming_holds_few_blocks(tmp_path: Path) -> None:
    """What streams must not end up with all of the model on the card."""
    model = _wide(12)
    model.save_pretrained(tmp_path, max_shard_size="40MB")
    weights = sum(parameter.nbytes for parameter in model.parameters())
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    _streamed(tmp_path, [_long(1, 64)])
    assert torch.cuda.max_memory_allocated() - before < 0.5 * weights


# --------------------------------------------------------------------------- memory


@contextlib.contextmanager
def _allowed(bytes_: int) -> Iterator[None]:
    """Let torch take so many bytes of the card beyond what it holds now."""
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + bytes_) / total)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()


def test_a_batch_that_does_not_fit_is_halved() -> None:
    """A real out-of-memory error of the card; the sums are those of smaller batches."""
    model = _wide(2).cuda()
    sites = find_sites(model).sites
    batch = _long(64, 512)
    whole = memory.measure(model, sites, [batch])
    assert whole.halvings == 0
    with _allowed(400 << 20):
        found = memory.measure(model, sites, [batch])
    assert found.halvings > 0
    assert found.names == whole.names
    np.testing.assert_allclose(found.sums_RN, whole.sums_RN, rtol=2e-3)


# --------------------------------------------------------------------------- trials


def _classify(folder: Path) -> TrialSpec:
    model = checkpoint(folder / "model", "BertModel")
    placement = placed("bert", {"attention.self.value": 4, "output.dense": 4})
    return _there(spec_of(model, placement, write_data(folder), steps=8))


def _sft(folder: Path) -> TrialSpec:
    model = checkpoint(folder / "model", "LlamaForCausalLM")
    placement = placed("llama", {"self_attn.v_proj": 4, "mlp.down_proj": 4})
    data = write_data(folder)
    return _there(spec_of(model, placement, data, task="sft", labels=(), steps=8))


def _there(spec: TrialSpec) -> TrialSpec:
    return replace(spec, training=replace(spec.training, device="cuda"))


TASKS = {"classify": _classify, "sft": _sft}


def _losses(folder: Path) -> list[float]:
    rows = [json.loads(line) for line in (folder / "curve.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


@pytest.mark.parametrize("task", TASKS)
def test_a_trial_trains_and_counts_what_it_took(task: str, tmp_path: Path) -> None:
    """A trainer that quietly stays on the processor, or memory that is not the card's."""
    if task == "sft":
        pytest.importorskip("trl")
    spec = TASKS[task](tmp_path)
    result = run_trial(spec, tmp_path / "trial", root=tmp_path)
    assert result.done, result.cause
    assert result.cost.accelerator
    assert result.cost.device == torch.cuda.get_device_name(0)
    assert 2**16 < result.cost.peak_memory < torch.cuda.get_device_properties(0).total_memory
    losses = _losses(tmp_path / "trial")
    assert len(losses) >= 2
    assert losses[-1] < losses[0]
    assert (tmp_path / "trial" / "adapter" / "adapter_model.safetensors").exists()


@pytest.mark.parametrize("task", TASKS)
def test_a_trial_is_a_function_of_its_seed(task: str, tmp_path: Path) -> None:
    """Adapters, dropout and the order of the rows; a card's sums may differ in late digits."""
    if task == "sft":
        pytest.importorskip("trl")
    spec = TASKS[task](tmp_path)
    first, second, other = (
        _done(tmp_path, name, replace(spec, seed=seed))
        for name, seed in (("a", 3), ("b", 3), ("c", 4))
    )
    assert second.items["loss"] == pytest.approx(first.items["loss"], rel=2e-2, abs=1e-3)
    assert other.items["loss"] != pytest.approx(first.items["loss"], rel=2e-2, abs=1e-3)


@pytest.mark.parametrize("task", TASKS)
def test_forks_use_the_card_and_have_the_numbers_of_fresh_processes(
    task: str, tmp_path: Path
) -> None:
    """A server that has started CUDA, whose forks cannot use the card and are started afresh."""
    if task == "sft":
        pytest.importorskip("trl")
    spec = TASKS[task](tmp_path)
    there = {name: str(tmp_path / getattr(spec.data, name)) for name in ("train", "evaluation")}
    data = replace(spec.data, **there)
    spec = replace(spec, data=data, weights=weights_key(Path(spec.model)))
    specs = [replace(spec, seed=seed) for seed in range(3)]
    with ForkServer() as server:
        forked = run_trials(specs, tmp_path / "forked", Runner(workers=2), server=server)
        assert (server._starts, server._refuses) == (1, False)
    fresh = run_trials(specs, tmp_path / "fresh", Runner(workers=2, warm_workers=False))
    for one, other in zip(forked, fresh, strict=True):
        assert one.done, one.cause
        assert one.cost.accelerator
        assert one.cost.device == torch.cuda.get_device_name(0)
        assert one.items["loss"] == pytest.approx(other.items["loss"], rel=2e-2, abs=1e-3)


def _done(root: Path, name: str, spec: TrialSpec) -> TrialResult:
    result = run_trial(spec, root / name, root=root)
    assert result.done, result.cause
    return result
