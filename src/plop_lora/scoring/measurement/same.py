"""Restore a model after scoring, even if its forward changes its own attributes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import nn

_PLAIN = (bool, int, float, str, type(None))


@contextlib.contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Restore the modes, plain attributes and submodules that change inside the `with` block.

    BigBird, for example, permanently replaces its sparse attention when it runs on a short text.
    """
    before = [(module, _plain(module), dict(module._modules)) for module in model.modules()]
    try:
        yield
    finally:
        for module, plain, inner in before:
            for name in _plain(module).keys() - plain.keys():
                del vars(module)[name]
            vars(module).update(plain)
            module._modules.clear()
            module._modules.update(inner)


def _plain(module: nn.Module) -> dict[str, object]:
    return {name: value for name, value in vars(module).items() if isinstance(value, _PLAIN)}
