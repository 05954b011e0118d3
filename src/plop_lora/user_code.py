"""User-defined functions and objects, given as `module:name`. Imports the standard library only."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from plop_lora.errors import UsageError, nearest


def find_function(name: str, what: str, known: Sequence[str]) -> Callable[..., Any]:
    """Import a function given as `module:function`.

    The working directory is searched before the installed packages.

    Args:
        name: Name that the user gave.
        what: Kind of function, for the text of errors.
        known: Built-in names, for the text of errors.

    Raises:
        UsageError: There is no such name, module or function, or the function is asynchronous.
    """
    function = find_object(name, what, known, callable)
    assert callable(function), "find_object has looked"
    if inspect.iscoroutinefunction(function):
        raise UsageError(f"The {what} {name!r} is asynchronous; give a plain function.")
    return function


def find_object(
    name: str, what: str, known: Sequence[str], is_one: Callable[[object], bool]
) -> object:
    """Import an object given as `module:name`; the working directory is searched first.

    Args:
        name: Name that the user gave.
        what: Kind of object, for the text of errors.
        known: Built-in names, for the text of errors.
        is_one: Function that tells whether an object is of this kind.

    Raises:
        UsageError: There is no such name, module or object.
    """
    module_name, own_name = parts_of(name, what, known)
    module = _import(module_name, what, name)
    found = getattr(module, own_name, None)
    if is_one(found):
        return found
    own = [key for key, value in vars(module).items() if is_one(value) and key[0] != "_"]
    kind = "function" if is_one is callable else what
    raise UsageError(
        f"The {what} {name!r}: {module_name} has no {kind} {own_name!r}."
        f"{nearest(own_name, own)} It has: {', '.join(own) or 'none'}."
    )


def parts_of(name: str, what: str, known: Sequence[str]) -> tuple[str, str]:
    """Return the two parts of `module:name`; nothing is imported.

    Raises:
        UsageError: The name does not have this form.
    """
    module_name, _, function_name = name.partition(":")
    if not (module_name and function_name.isidentifier()):
        raise UsageError(
            f"There is no {what} {name!r}.{nearest(name, known)} Allowed: {', '.join(known)}, "
            "or a function of your own, written as module:function."
        )
    return module_name, function_name


def _import(module_name: str, what: str, name: str) -> ModuleType:
    here = os.getcwd()
    sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not (module_name + ".").startswith(error.name + "."):
            raise UsageError(_import_failure(what, name, error)) from error
        hint = ""
        if module_name.endswith(".py"):
            hint = " Write it without .py and with dots between folders."
        raise UsageError(
            f"The {what} {name!r}: there is no module {module_name!r} in {here} nor among the "
            f"installed packages.{hint}"
        ) from error
    except Exception as error:
        raise UsageError(_import_failure(what, name, error)) from error
    finally:
        sys.path.remove(here)


def _import_failure(what: str, name: str, error: Exception) -> str:
    reason = f"{type(error).__name__}: {error}".rstrip(".")
    return f"The {what} {name!r} cannot be imported; its module fails with {reason}."
