"""A log of whichever suite, recognised by the name of its file."""

from __future__ import annotations

from pathlib import Path

from plop_lora.errors import DataError, nearest
from plop_lora.evaluation.logs.harness import read_harness
from plop_lora.evaluation.logs.inspect import read_inspect
from plop_lora.evaluation.logs.log import Log, clean, listed

_READERS = {".jsonl": read_harness, ".eval": read_inspect, ".json": read_inspect}


def read_log(path: Path) -> Log:
    """Read a log of lm-evaluation-harness or of Inspect.

    Args:
        path: Path of `samples_TASK_DATE.jsonl` of lm-eval, or of a `.eval` or `.json` log of
            Inspect.

    Raises:
        DataError: There is no such file, it is no log, it is damaged, or its run did not end with
            success.
        MissingExtraError: A `.eval` archive needs a package that is not installed.
    """
    reader = _READERS.get(path.suffix.lower())
    if path.is_dir():
        logs = sorted(file.name for file in path.iterdir() if file.suffix.lower() in _READERS)
        raise DataError(
            f"{path} is a folder. Give one log of one task in it: {clean(listed(logs))}."
        )
    if not path.exists():
        beside = [file.name for file in path.parent.iterdir()] if path.parent.is_dir() else []
        raise DataError(f"There is no log at {path}.{nearest(path.name, beside)}")
    if reader is None:
        raise DataError(
            f"Cannot read {path} as a log. Allowed are samples_TASK_DATE.jsonl of lm-eval "
            "--log_samples, and the .eval and .json logs of Inspect."
        )
    return reader(path)
