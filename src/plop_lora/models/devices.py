"""Where a model runs, and when its weights are there.

accelerate places modules on several devices and keeps the weights of some on the CPU or on disk:
outside its own forward such a module holds empty tensors on the meta device. What must see a
weight therefore runs in the module's window, between accelerate's loading and its unloading.
"""

from __future__ import annotations

import contextlib
import functools
import os
import platform
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

Record = Callable[[nn.Module, tuple[Any, ...], Any], None]
_X86 = ("x86_64", "amd64")
_NATIVE = {
    torch.bfloat16: "_is_mkldnn_bf16_supported",
    torch.float16: "_is_mkldnn_fp16_supported",
}
"""Half precision → torch's question whether oneDNN has products for it here."""


def home_of(model: nn.Module) -> torch.device:
    """Return the device that a model's inputs go to.

    That of its first weight that is anywhere; where all are offloaded, the device that
    accelerate computes on.
    """
    for parameter in model.parameters():
        if parameter.device.type != "meta":
            return parameter.device
    for module in model.modules():
        device = getattr(getattr(module, "_hf_hook", None), "execution_device", None)
        if device is not None:
            return torch.device(device)
    return torch.device("cpu")


def own_device(wanted: str, count: int) -> str:
    """Return the GPU of this process where `auto` or `cuda` would give all `count` the same one."""
    if wanted not in ("auto", "cuda") or count == 1 or not torch.cuda.is_available():
        return wanted
    return f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % torch.cuda.device_count()}"


def is_slow(dtype: torch.dtype) -> bool:
    """Whether the CPU has no instructions for products of a dtype.

    Such a processor multiplies bfloat16 and float16 several times slower than float32
    (`benchmarks/dtypes.py`). Only x86 is judged, by what oneDNN finds there; for bfloat16 AVX-512
    is enough for oneDNN, which then converts to float32 and back.
    """
    question = _NATIVE.get(dtype)
    if question is None or platform.machine().lower() not in _X86:
        return False
    converts = dtype == torch.bfloat16 and _only_converts_bfloat16()
    return converts or not getattr(torch.ops.mkldnn, question)()


def _only_converts_bfloat16() -> bool:
    cpu: Any = torch.cpu
    native = cpu._is_avx512_bf16_supported() or cpu._is_amx_tile_supported()
    return bool(cpu._is_avx512_supported() and not native)


def slow_dtype(model: nn.Module) -> torch.dtype | None:
    """Return the dtype of a model's weights that its device, a CPU, is slow in; else None."""
    if home_of(model).type != "cpu":
        return None
    found = {parameter.dtype for parameter in model.parameters()}
    return next((dtype for dtype in _NATIVE if dtype in found and is_slow(dtype)), None)


def sent(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return a tensor on a device; a GPU fetches it from pinned memory while the host goes on.

    Nothing else may be fetched without waiting: what arrives on the CPU is read at once.
    """
    if device.type != "cuda":
        return tensor.to(device)
    if tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def forward_attribute(module: nn.Module) -> str:
    """Return the attribute that holds the forward of a module with its weights at hand.

    accelerate keeps it under `_old_forward` and puts its own loading and unloading around it.
    """
    return "_old_forward" if hasattr(module, "_hf_hook") else "forward"


@contextlib.contextmanager
def replaced_forward(module: nn.Module, forward: Callable[..., object]) -> Iterator[None]:
    """Replace the forward of a module for the length of the block."""
    name = forward_attribute(module)
    before = module.__dict__.get(name)
    setattr(module, name, forward)
    try:
        yield
    finally:
        if before is None:
            delattr(module, name)
        else:
            setattr(module, name, before)


@contextlib.contextmanager
def recorded_calls(module: nn.Module, record: Record) -> Iterator[None]:
    """Call `record(module, arguments, output)` after each forward, with the weights at hand.

    Runs before hooks of others, which may replace a module's output.
    """
    if forward_attribute(module) == "forward":
        handle = module.register_forward_hook(record, prepend=True)
        try:
            yield
        finally:
            handle.remove()
        return
    inner = getattr(module, forward_attribute(module))
    recording = False

    @functools.wraps(inner)
    def forward(*arguments: object, **options: object) -> Any:
        nonlocal recording
        output = inner(*arguments, **options)
        if not recording:  # a quantised layer is measured by calling it
            recording = True
            try:
                record(module, arguments, output)
            finally:
                recording = False
        return output

    with replaced_forward(module, forward):
        yield
