"""What can be said of an option before anything heavy is loaded, so that it is said at once.

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
"""Devices that messages and the shell's completion offer; torch may know more."""
TRACKERS = {
    "trackio": "trackio", "mlflow": "mlflow", "wandb": "wandb", "tensorboard": "tensorboard",
    "clearml": "clearml", "codecarbon": "codecarbon", "comet_ml": "comet_ml",
    "dvclive": "dvclive", "swanlab": "swanlab",
}  # fmt: skip
"""Trackers that transformers reports to → the package that each one needs."""
_DEVICE = re.compile(r"[a-z]+(:\d+)?")


def check_choices(*, denominator: str, dtype: str, stop: str, engine: str, device: str) -> None:
    """Check every option that is one word of a few.

    Raises:
        UsageError: a word that is not among those allowed, which are named.
    """
    check_word("denominator", denominator, DENOMINATORS)
    check_dtype(dtype)
    check_word("stop", stop, MODES)
    check_word("engine", engine, ENGINES)
    if not _DEVICE.fullmatch(device):
        raise UsageError(
            f"--device {device!r} cannot be a device.{nearest(device, DEVICES)} "
            "Give auto, cpu, cuda, cuda:1 or mps."
        )


def check_dtype(dtype: str) -> None:
    """Refuse a dtype that models cannot be loaded in.

    Raises:
        UsageError: it is none of `DTYPES`.
    """
    check_word("dtype", dtype, DTYPES)


def check_word(what: str, word: str, allowed: Iterable[str]) -> None:
    """Refuse a word that is not among a few; the nearest is offered.

    Args:
        what: what the word should name, such as `engine`.
        word: what was given.
        allowed: the words that are known.

    Raises:
        UsageError: it is not among `allowed`.
    """
    allowed = tuple(allowed)
    if word not in allowed:
        raise UsageError(
            f"There is no {what} {word!r}.{nearest(word, allowed)} Allowed: {', '.join(allowed)}."
        )


def check_trackers(names: Iterable[str]) -> None:
    """Refuse trackers that trainers do not know, or whose package is missing.

    Raises:
        UsageError: an unknown name.
        MissingExtraError: the package of a tracker is not installed.
    """
    for name in names:
        check_word("tracker", name, TRACKERS)
        if importlib.util.find_spec(TRACKERS[name]) is None:
            raise MissingExtraError(
                f"--report-to {name} needs the package {TRACKERS[name]!r}, which is not "
                f"installed. Install it with: pip install {TRACKERS[name]}"
            )


def words_of(text: str | None) -> tuple[str, ...] | None:
    """Return the words between commas, None where nothing was given."""
    return None if text is None else tuple(w.strip() for w in text.split(",") if w.strip())
