"""The contract of every score; equality with the definition stands in `test_families.py`."""

from __future__ import annotations

import copy
import math

import families
import pytest
import torch
from conftest import MODELS, build, make_batch
from reference import exact_norm
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import plop_lora as plop
from plop_lora.errors import MeasurementError
from plop_lora.indicators.expected_norms import expected_norm, sum_of_fourth_powers
from plop_lora.models import devices

TEXT_MODELS = [name for name in MODELS if name != "vit"]


def _score(model: nn.Module, *batches: dict[str, torch.Tensor], **options: object):
    return plop.score(model, batches=list(batches), progress=False, **options)


def _nfn(scores) -> dict[str, float]:
    return {site.name: site.nfn for site in scores.sites}


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_splitting_and_order_do_not_matter(models, name: str) -> None:
    """One batch, single rows and reversed rows must agree, sequence by sequence."""
    batch = make_batch(name)
    rows = len(next(iter(batch.values())))
    single = [{k: v[i : i + 1] for k, v in batch.items()} for i in range(rows)]
    whole, split = _score(models(name), batch), _score(models(name), *reversed(single))
    assert whole.measurements.sequence_ids == split.measurements.sequence_ids
    assert whole.provenance.data_fingerprint == split.provenance.data_fingerprint
    for a, b in zip(whole.measurements.sums, split.measurements.sums, strict=True):
        assert a == pytest.approx(b, rel=1e-4)
    assert whole.measurements.counts == split.measurements.counts


@pytest.mark.slow
@pytest.mark.parametrize("name", TEXT_MODELS)
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_never_counts(models, name: str, side: str) -> None:
    """Five more pads on either side change nothing, also with learned positions."""
    batch = make_batch(name)
    pad = (5, 0) if side == "left" else (0, 5)
    padded = dict(batch)
    for key in ("input_ids", "attention_mask"):
        padded[key] = nn.functional.pad(batch[key], pad)
    assert _nfn(_score(models(name), padded)) == pytest.approx(
        _nfn(_score(models(name), batch)), rel=1e-4
    )


def test_bfloat16_within_tolerance(models) -> None:
    """Sums are float32 whatever the model's dtype; only the features are rounded."""
    batch = make_batch("llama")
    low = _nfn(_score(copy.deepcopy(models("llama")).bfloat16(), batch))
    assert low == pytest.approx(_nfn(_score(models("llama"), batch)), rel=0.03)


@pytest.mark.parametrize("denominator", ["analytic", "monte_carlo"])
def test_seeded_repeat_is_identical(models, denominator: str) -> None:
    batch = make_batch("llama")
    first, second = (_score(models("llama"), batch, denominator=denominator) for _ in range(2))
    assert _nfn(first) == _nfn(second)


def test_monte_carlo_agrees(models) -> None:
    batch = make_batch("llama")
    drawn = _nfn(_score(models("llama"), batch, denominator="monte_carlo"))
    assert drawn == pytest.approx(_nfn(_score(models("llama"), batch)), rel=0.01)


@pytest.mark.parametrize("shape", [(48, 32), (32, 48), (300, 300), (4, 300), (600, 300)])
def test_denominator_against_integration(shape: tuple[int, int]) -> None:
    """The expected norm of narrow and of wide weights, against an exact integral."""
    torch.manual_seed(3)
    weight = torch.randn(shape) * torch.logspace(-1, 0, shape[1])
    value = float(expected_norm(weight, denominator="analytic", seed=0))
    uncorrected = float(weight.norm() / shape[1] ** 0.5)
    exact = exact_norm(weight)
    assert value == pytest.approx(exact, rel=5e-4)
    assert abs(value - exact) < abs(uncorrected - exact)


def test_random_signs_are_unbiased() -> None:
    """Singular values that fall as fast as those of trained weights; the pairs share vectors."""
    left, _ = torch.linalg.qr(torch.randn(400, 300, generator=torch.Generator().manual_seed(0)))
    weight = left * torch.arange(1, 301) ** -0.3
    exact = float((torch.arange(1.0, 301) ** -1.2).sum())
    found = torch.tensor([float(sum_of_fourth_powers(weight, seed)) for seed in range(200)])
    assert float(found.mean()) == pytest.approx(exact, abs=4 * float(found.std()) / 200**0.5)
    assert float(found.std()) < 0.2 * exact


def test_positive_control() -> None:
    """Features along the top singular direction score σ_max / E||Wu||; noise scores 1."""
    torch.manual_seed(0)
    layer = nn.Linear(256, 256)
    left, sigma, right = torch.linalg.svd(layer.weight.detach())
    model = nn.Sequential(layer)
    aligned = right[:1].repeat(8, 1)[:, None, :]
    noise = torch.randn(64, 16, 256)
    top = _score(model, {"input": aligned}).sites[0].nfn
    assert top == pytest.approx(float(sigma[0]) / exact_norm(layer.weight.detach()), rel=1e-3)
    assert _score(model, {"input": noise}).sites[0].nfn == pytest.approx(1.0, abs=0.01)
    assert left.shape == (256, 256)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nan_names_the_module(bad: float) -> None:
    """NaN must raise with the first module's name, never become a score."""
    model = build("llama")
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[0, 0] = bad
    with pytest.raises(MeasurementError, match=r"layers\.1\.mlp\.up_proj .*--dtype float32"):
        _score(model, make_batch("llama"))


def test_nothing_is_left_behind() -> None:
    """Hooks go and modes return, also when the forward fails."""
    model = build("llama").train()
    _score(model, make_batch("llama"))
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0, 0] = math.nan
    with pytest.raises(MeasurementError):
        _score(model, make_batch("llama"))
    assert model.training
    assert all(not module._forward_hooks for module in model.modules())
    assert all(not module._forward_pre_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_head_and_cache_do_not_run(models) -> None:
    """The output head is waste: it must not be called, in decoders and in T5."""
    for name in ("llama", "t5"):
        calls = []
        head = models(name).get_output_embeddings()
        handle = head.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        _score(models(name), make_batch(name))
        handle.remove()
        assert not calls


def test_out_of_memory_halves_the_batch(models) -> None:
    """A batch that does not fit is halved until it does; the result is the same, with a note."""
    model = models("llama")
    batch = make_batch("llama")

    def refuse(module: nn.Module, arguments: object, options: dict[str, torch.Tensor]) -> None:
        if len(options["input_ids"]) > 2:
            raise torch.OutOfMemoryError("out of memory")

    handle = model.model.register_forward_pre_hook(refuse, with_kwargs=True)
    try:
        halved = _score(model, batch)
    finally:
        handle.remove()
    assert _nfn(halved) == pytest.approx(_nfn(_score(model, batch)), rel=1e-4)
    assert any("halved" in note for note in halved.notes)


def test_shared_and_tied_modules_count_once() -> None:
    """A module used twice is one site with twice the tokens; a tied weight is one site."""
    torch.manual_seed(0)

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8)])
            self.again = self.layers[0]
            self.layers[1].weight = self.layers[0].weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.again(self.layers[0](x))

    scores = _score(Twice(), {"x": torch.randn(3, 5, 8)})
    assert [site.name for site in scores.sites] == ["layers.0"]
    assert scores.sites[0].tokens == 30
    assert scores.coverage.block_parameters == 64


def test_modules_that_never_run_are_missing_not_zero() -> None:
    class Partly(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(
                [nn.ModuleDict({"used": nn.Linear(8, 8), "idle": nn.Linear(8, 8)})]
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layers[0]["used"](x)

    scores = _score(Partly(), {"x": torch.randn(3, 5, 8)})
    assert scores.type_names() == ["used"]
    assert [entry.name for entry in scores.coverage.not_measured] == ["layers.0.idle"]
    assert scores.coverage.share == 0.5


class _Waits(TorchDispatchMode):
    """Counts what would make the host wait for a GPU: reading a tensor as a number."""

    WAITS = ("aten._local_scalar_dense", "aten.is_nonzero", "aten.item", "aten.nonzero")
    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += str(function).removesuffix(".default") in self.WAITS
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["llama", "qwen3_moe", "gpt2"])
def test_hooks_never_wait_for_the_device(name: str) -> None:
    """One number read inside a forward drains the queue of a GPU, once a layer and batch.

    The first measured forward is excepted: the expected norm of every weight is computed there.
    """
    model, batch = families.build(name), families.batch_of(name)
    body = model.base_model
    waits: list[int] = []

    def enter(*_: object) -> None:
        body.mode = _Waits()
        body.mode.__enter__()

    def leave(*_: object) -> None:
        body.mode.__exit__(None, None, None)
        waits.append(body.mode.count)

    handles = body.register_forward_pre_hook(enter), body.register_forward_hook(leave)
    with torch.inference_mode():
        body(**batch, use_cache=False)
    _score(model, batch, batch)
    for handle in handles:
        handle.remove()
    plain, *ours = waits
    assert len(ours) > 2
    assert sorted(ours)[-2] <= plain


def test_waiting_is_counted() -> None:
    """The control of the test above: what makes the host wait is seen, in inference mode too."""
    values = torch.ones(2)
    with torch.inference_mode(), _Waits() as mode:
        bool(values.any())
        values[0].item()
        values.tolist()
    assert mode.count >= 2


def _processor(monkeypatch, *, native: bool, machine: str, wide: bool = False) -> None:
    """Pretend to run on a processor with or without products in half precision.

    `wide` has AVX-512 without bfloat16, where oneDNN says yes and converts.
    """
    monkeypatch.setattr(devices.platform, "machine", lambda: machine)
    monkeypatch.setattr(torch.cpu, "_is_avx512_supported", lambda: wide)
    for instructions in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, instructions, lambda: False)
    for question in devices._NATIVE.values():
        monkeypatch.setattr(torch.ops.mkldnn, question, lambda: native)


def test_avx512_alone_converts_bfloat16(monkeypatch) -> None:
    """There oneDNN takes bfloat16, three times as slowly as float32."""
    _processor(monkeypatch, native=True, machine="x86_64", wide=True)
    assert devices.is_slow(torch.bfloat16)
    assert not devices.is_slow(torch.float16)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    assert not devices.is_slow(torch.bfloat16)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("native", "machine", "dtype", "slow"),
    [
        (False, "x86_64", torch.bfloat16, True),
        (False, "AMD64", torch.float16, True),
        (False, "x86_64", torch.float32, False),
        (True, "x86_64", torch.bfloat16, False),
        (False, "arm64", torch.bfloat16, False),
    ],
)
def test_a_dtype_that_is_slow_here_is_left_or_noted(
    tmp_path, monkeypatch, native: bool, machine: str, dtype: torch.dtype, slow: bool
) -> None:
    """A model by name is scored in float32 instead; that of a loaded one is the user's choice."""
    _processor(monkeypatch, native=native, machine=machine)
    model, batch = build("llama").to(dtype), make_batch("llama")
    model.save_pretrained(tmp_path)
    name = str(dtype).removeprefix("torch.")
    advice = f"{name} is slow on this processor; --dtype float32 is faster"
    assert (advice in _score(model, batch).notes) == slow
    for engine in ("memory", "stream"):
        named = _score(str(tmp_path), batch, engine=engine)
        assert named.provenance.dtype == ("float32" if slow else name)
        assert advice not in named.notes
    asked = _score(str(tmp_path), batch, dtype=name)
    assert asked.provenance.dtype == name
    assert (advice in asked.notes) == slow
