"""Packages that have the name of their step and are called as it: `plop.verify(scores, …)`.

Importing a submodule binds its package to the package's name in `plop_lora`, whatever a lazy name
there would give. So the package itself can be called; `help()` and an editor find the step's
signature and docstring in it. Imports the standard library only.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any


class _Step(ModuleType):
    """A package that is called as its step."""

    __wrapped__: Callable[..., Any]

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """Call the step; its signature is that of `__wrapped__`."""
        return self.__wrapped__(*arguments, **options)


def callable_as(package: str, step: Callable[..., Any]) -> None:
    """Let a package be called as one of its functions.

    Args:
        package: `__name__` of the package.
        step: what is called; `inspect.signature` of the package is its signature.
    """
    module = sys.modules[package]
    module.__class__ = _Step
    module.__wrapped__ = step  # type: ignore[attr-defined]
