"""Wrapped models: unwrapped if the weights are unchanged, otherwise refused with advice."""

from __future__ import annotations

from torch import nn

from plop_lora.errors import ModelError


def unwrap(model: nn.Module) -> nn.Module:
    """Return the model inside `torch.compile`, `DataParallel` or `DistributedDataParallel`.

    For a `SentenceTransformer`, return its transformer, which would carry the adapters. The wrapper
    is not changed; scoring runs the inner model.

    Raises:
        ModelError: A wrapper has flattened the weights of the model (FSDP), or the model carries
            adapters, whose layers would be scored as its own.
    """
    while True:
        inner = _inside(model)
        if inner is None:
            break
        model = inner
    if any(type(module).__name__ == "FullyShardedDataParallel" for module in model.modules()):
        raise ModelError(
            "The model is wrapped in FSDP, which holds its weights in flat pieces. Score it before "
            "wrapping, or gather it first: with FSDP.summon_full_params(model): plop.score(...)."
        )
    adapter = next((name for name, module in model.named_modules() if _adapts(module)), None)
    if adapter is not None:
        raise ModelError(
            f"The model already carries adapters (such as {adapter}), which would be scored as its "
            "own layers. Score the model with them merged, model = model.merge_and_unload(), or "
            "without them, model = model.unload()."
        )
    return model


def _inside(model: nn.Module) -> nn.Module | None:
    compiled = getattr(model, "_orig_mod", None)
    if isinstance(compiled, nn.Module):
        return compiled
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return model.module  # type: ignore[no-any-return]
    if isinstance(model, nn.Sequential) and len(model):
        transformer = getattr(model[0], "auto_model", None)
        return transformer if isinstance(transformer, nn.Module) else None
    return None


def _adapts(module: nn.Module) -> bool:
    """Return whether a module is an adapter layer of PEFT, without importing PEFT."""
    return any(base.__name__ == "BaseTunerLayer" for base in type(module).__mro__)
