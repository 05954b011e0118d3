"""Every error that plop-lora raises on purpose, and the helper that names a missing extra.

    PlopError
    ├── UsageError          (ValueError)    an option or argument that cannot work; exit code 2
    │   └── UnknownNameError  (KeyError)    a name that a record does not hold
    ├── DataError           (ValueError)    the data set, its fields or its rows
    ├── ModelError          (ValueError)    the model, its tokenizer or its sites
    ├── MeasurementError    (ArithmeticError)  NaN, infinity, or nothing measured
    ├── RecordError         (ValueError)    a saved record that is damaged, foreign or too new
    ├── ExportError         (RuntimeError)  an export that the real library reads differently
    ├── ProcessError        (RuntimeError)  another process or worker of the same run was lost
    ├── MachineError        (RuntimeError)  memory, disk or a library that a trial lacks here
    ├── AdapterError        (ValueError)    an adapter that is absent, damaged or cannot be folded
    ├── OutputError         (OSError)       a file that cannot be written
    ├── StoreError          (RuntimeError)  a database that cannot be reached, read or written
    └── MissingExtraError   (ImportError)   an optional dependency that is not installed

Imports the standard library only.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
from collections.abc import Iterable
from types import ModuleType

EXTRAS: dict[str, str] = {
    "aiohttp": "serve", "alembic": "ab", "detect_secrets": "data", "gguf": "gguf",
    "lm_eval": "eval", "openai": "judge", "optuna": "tune", "phonenumbers": "data",
    "prometheus_client": "serve", "psycopg": "ab", "ray": "ray", "sklearn": "learn",
    "sqlalchemy": "ab", "starlette": "serve", "trl": "train", "uvicorn": "serve",
    "zipfile_zstd": "inspect",
}  # fmt: skip
"""Import name of an optional dependency → the extra of plop-lora that installs it."""


class PlopError(Exception):
    """Base class: the text says what is wrong, where, what is allowed, and what to do next."""

    exit_code: int = 1


class UsageError(PlopError, ValueError):
    """An option or argument that cannot work as given."""

    exit_code = 2


class UnknownNameError(UsageError, KeyError):
    """A name that a record does not hold."""

    def __str__(self) -> str:
        """Return the text; a KeyError would show it in quotes."""
        return str(self.args[0])


class DataError(PlopError, ValueError):
    """The data cannot be found, read, or turned into text."""


class ModelError(PlopError, ValueError):
    """The model cannot be found or loaded, or has nothing that can be measured."""


class MeasurementError(PlopError, ArithmeticError):
    """A forward pass produced NaN, infinity, or no measurement at all."""


class RecordError(PlopError, ValueError):
    """A record file is damaged, of another kind, or of a newer schema."""


class ExportError(PlopError, RuntimeError):
    """The target library does not adapt exactly the modules of the placement."""


class ProcessError(PlopError, RuntimeError):
    """Another process or worker of the same run failed, was killed, or cannot be reached."""


class MachineError(PlopError, RuntimeError):
    """The machine lacks what a trial needs, such as memory; later or elsewhere it may succeed."""


class AdapterError(PlopError, ValueError):
    """The folder of a trained adapter is damaged or not one, or the adapter cannot be folded."""


class OutputError(PlopError, OSError):
    """An output file cannot be written."""


class StoreError(PlopError, RuntimeError):
    """A database cannot be reached, read or written; later it may succeed."""


class MissingExtraError(PlopError, ImportError):
    """An optional dependency is not installed."""


def require(module_name: str) -> ModuleType:
    """Import an optional dependency.

    Args:
        module_name: Import name, a key of `EXTRAS`.

    Raises:
        MissingExtraError: It is not installed. The text names the extra to install.
    """
    try:
        return importlib.import_module(module_name)
    except ImportError as error:
        raise _missing(module_name) from error


def check_installed(module_name: str) -> None:
    """Check that an optional dependency is installed, without importing it.

    Args:
        module_name: Import name; if it is a key of `EXTRAS`, the error names the extra.

    Raises:
        MissingExtraError: It is not installed.
    """
    if importlib.util.find_spec(module_name) is None:
        raise _missing(module_name)


def _missing(module_name: str) -> MissingExtraError:
    extra = EXTRAS.get(module_name)
    what = module_name if extra is None else f"'plop-lora[{extra}]'"
    return MissingExtraError(
        f"This step needs {module_name!r}, which is not installed. "
        f"Install it with: pip install {what}"
    )


def nearest(word: str, allowed: Iterable[str]) -> str:
    """Return `" Did you mean 'x'?"` for the closest of `allowed`, or an empty string.

    >>> nearest("atention", ["attention", "mlp"])
    " Did you mean 'attention'?"
    >>> nearest("zzz", ["attention"])
    ''
    """
    close = difflib.get_close_matches(word, list(allowed), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""
