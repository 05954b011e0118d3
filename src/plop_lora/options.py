"""Checks of options that need no heavy import, so that errors are reported at once.

Imports the standard library and the errors only.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterable

from plop_lora.errors import MissingExtraError, UsageError, nearest

DENOMINATORS = ("analytic", "monte_carlo")
DTYPES = ("auto", "float32", "bfloat16", "float16")
ENGINES = ("auto", "memory", "stream", "ray")
ADAPTIVE, FIXED = "adaptive", "fixed"
MODES = (ADAPTIVE, FIXED)
DEVICES = ("auto", "cpu", "cuda", "cuda:1", "mps")
"""Devices that messages and shell completion suggest; torch may know others."""
TRACKERS = {
    "trackio": "trackio", "mlflow": "mlflow", "wandb": "wandb", "tensorboard": "tensorboard",
    "clearml": "clearml", "codecarbon": "codecarbon", "comet_ml": "comet_ml",
    "dvclive": "dvclive", "swanlab": "swanlab",
}  # fmt: skip
"""Tracker that transformers supports → the package that it needs."""
_DEVICE = re.compile(r"[a-z]+(:\d+)?")


def check_choices(*, denominator: str, dtype: str, stop: str, engine: str, device: str) -> None:
    """Check every option with a fixed set of values.

    Raises:
        UsageError: A value is not allowed. The text lists the allowed ones.
    """
    check_word("denominator", denominator, DENOMINATORS)
    check_dtype(dtype)
    check_word("stop", stop, MODES)
    check_word("engine", engine, ENGINES)
    if not _DEVICE.fullmatch(device):
        raise UsageError(
            f"--device {device!r} is not the name of a device.{nearest(device, DEVICES)} "
            "Give auto, cpu, cuda, cuda:1 or mps."
        )


def check_dtype(dtype: str) -> None:
    """Check that models can be loaded in a dtype.

    Raises:
        UsageError: It is not one of `DTYPES`.
    """
    check_word("dtype", dtype, DTYPES)


def check_word(what: str, word: str, allowed: Iterable[str]) -> None:
    """Check that a word is allowed.

    Args:
        what: Kind of thing that the word names, such as `engine`.
        word: Word that was given.
        allowed: Allowed words.

    Raises:
        UsageError: It is not among `allowed`. The text suggests the nearest.
    """
    allowed = tuple(allowed)
    if word not in allowed:
        raise UsageError(
            f"There is no {what} {word!r}.{nearest(word, allowed)} Allowed: {', '.join(allowed)}."
        )


def check_trackers(names: Iterable[str]) -> None:
    """Check that transformers supports the trackers and that their packages are installed.

    Raises:
        UsageError: A name is unknown.
        MissingExtraError: The package of a tracker is not installed.
    """
    for name in names:
        check_word("tracker", name, TRACKERS)
        if importlib.util.find_spec(TRACKERS[name]) is None:
            raise MissingExtraError(
                f"--report-to {name} needs the package {TRACKERS[name]!r}, which is not "
                f"installed. Install it with: pip install {TRACKERS[name]}"
            )


def words_of(text: str | None) -> tuple[str, ...] | None:
    """Return the words between commas, or None if nothing was given."""
    return None if text is None else tuple(w.strip() for w in text.split(",") if w.strip())
