"""The device of a model, and access to weights that accelerate offloads.

accelerate places modules on several devices and keeps the weights of some on the CPU or on disk:
outside its own forward such a module holds empty tensors on the meta device. Code that reads a
weight therefore runs inside the forward, after accelerate has loaded the weight and before it
unloads it.
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
"""Half-precision dtype → function of torch that returns whether oneDNN supports it here."""


def home_of(model: nn.Module) -> torch.device:
    """Return the device for the inputs of a model.

    It is the device of the first weight that is not offloaded or, if all are, the device on which
    accelerate computes.
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
    """Return the device of this process among `count`, a GPU of its own for `auto` or `cuda`."""
    if wanted not in ("auto", "cuda") or count == 1 or not torch.cuda.is_available():
        return wanted
    return f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % torch.cuda.device_count()}"


def is_slow(dtype: torch.dtype) -> bool:
    """Return whether the CPU lacks instructions for matrix products in a dtype.

    Such a processor multiplies bfloat16 and float16 several times slower than float32
    (`benchmarks/dtypes.py`). Only x86 is checked, by asking oneDNN. For bfloat16, oneDNN reports
    support with AVX-512 alone, although it then converts to float32 and back.
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
    """Return the dtype of a model's weights in which its CPU is slow, or None."""
    if home_of(model).type != "cpu":
        return None
    found = {parameter.dtype for parameter in model.parameters()}
    return next((dtype for dtype in _NATIVE if dtype in found and is_slow(dtype)), None)


def sent(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return a tensor on a device; the copy from the CPU to a GPU is asynchronous.

    Only this direction may be asynchronous: a tensor that is copied to the CPU is read at once.
    """
    if device.type != "cuda":
        return tensor.to(device)
    if tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def forward_attribute(module: nn.Module) -> str:
    """Return the name of the attribute with the forward that runs while the weights are loaded.

    accelerate keeps the original forward under `_old_forward`, and wraps it with the loading and
    unloading of the weights.
    """
    return "_old_forward" if hasattr(module, "_hf_hook") else "forward"


@contextlib.contextmanager
def replaced_forward(module: nn.Module, forward: Callable[..., object]) -> Iterator[None]:
    """Replace the forward of a module inside the `with` block."""
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
    """Call `record(module, arguments, output)` after each forward, while the weights are loaded.

    It is called before other hooks, which may replace the output of the module.
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
        if not recording:  # measuring a quantised layer calls it again
            recording = True
            try:
                record(module, arguments, output)
            finally:
                recording = False
        return output

    with replaced_forward(module, forward):
        yield
