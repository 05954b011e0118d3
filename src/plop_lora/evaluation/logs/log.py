"""The record of a log: one task, measured on one model, sample by sample.

All names in it are escaped, because a log may come from anybody. Imports the standard library and
the modules of errors and escapes only.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from plop_lora.escapes import escaped

_SHOWN = 5
"""Most names that an error lists."""
_LONGEST = 60
"""Most characters of a name that an error shows."""
_WORDS = {"true": 1.0, "yes": 1.0, "false": 0.0, "no": 0.0}
"""Both suites write what JSON has no form for as text, NumPy's booleans among it."""


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One sample of a log.

    Attributes:
        id: Name of the sample in its task.
        epoch: Number of the repetition, from 1.
        document: Hash of what is asked and of the target.
        prompt: Hash of the prompt as the model received it; None where the log does not hold it.
        values: Value of every metric that the log has for this sample.
    """

    id: str
    epoch: int
    document: str
    prompt: str | None
    values: Mapping[str, float]

    @property
    def name(self) -> str:
        """The name of the sample in errors."""
        return self.id if self.epoch == 1 else f"{self.id} (epoch {self.epoch})"


@dataclass(frozen=True, slots=True, eq=False)
class Log:
    """What one run of a suite found for one task.

    Attributes:
        format: Name of the suite, `lm-eval` or `inspect`.
        path: Path of the file.
        digest: Hash of the bytes of the file. Samples of lm-eval do not name the model, so that
            runs with equal answers have equal files.
        task: Name of the task.
        model: Name of the model as the suite logged it; None where the log does not tell it.
        model_arguments: Arguments of the model that say which weights answered.
        date: Date of the run as the suite logged it.
        samples: Samples in the order of the file.
        unusable: Reason for every metric that is not one finite number for each sample.
        reported: Values that the suite reports over all samples, by metric.
        higher_is_better: Direction of every metric whose direction the log tells.
        limited: What restricted the run to a part of the task; None where nothing did, or where
            the log does not tell.
        notes: What could not be read, as full sentences.
    """

    format: str
    path: str
    digest: str
    task: str
    model: str | None
    model_arguments: Mapping[str, object]
    date: str
    samples: tuple[Sample, ...]
    unusable: Mapping[str, str]
    reported: Mapping[str, float] = field(default_factory=dict)
    higher_is_better: Mapping[str, bool] = field(default_factory=dict)
    limited: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics that are one finite number for each sample, sorted."""
        names = {name for sample in self.samples for name in sample.values}
        return tuple(sorted(names - self.unusable.keys()))


def number(raw: object, words: Mapping[str, float] = _WORDS) -> float | None:
    """Return a logged value as a number, None where it is not one; it may be infinite or NaN.

    Args:
        raw: Value as JSON holds it.
        words: Numbers of words, with the words in lower case.

    >>> number(True), number("0.5"), number("False"), number([1, 2])
    (1.0, 0.5, 0.0, None)
    """
    if isinstance(raw, str) and raw.lower() in words:
        return words[raw.lower()]
    if not isinstance(raw, (bool, int, float, str)):
        return None
    try:
        return float(raw)
    except OverflowError:
        return math.inf
    except ValueError:
        return None


def unusable_metrics(samples: Sequence[Sample], refused: Mapping[str, str]) -> dict[str, str]:
    """Return the reason for every metric that is not one finite number for each sample.

    Args:
        samples: Samples with the numbers that were found.
        refused: Reasons for the metrics whose values are no numbers.
    """
    reasons = dict(refused)
    for name in sorted({name for sample in samples for name in sample.values} - reasons.keys()):
        absent = [sample.name for sample in samples if name not in sample.values]
        endless = [s.name for s in samples if not math.isfinite(s.values.get(name, 0.0))]
        if absent:
            reasons[name] = f"has no value for {len(absent)} samples: {listed(absent)}"
        elif endless:
            reasons[name] = f"is NaN or infinite for {len(endless)} samples: {listed(endless)}"
    return reasons


def hash_of(content: object) -> str:
    """Return a hash of a JSON value that does not depend on the order of its keys."""
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def clean(text: object) -> str:
    """Return a name of the log with the characters that act as escapes."""
    return escaped(str(text))


def listed(names: Iterable[str]) -> str:
    """Return the first names of a list for an error, each cut to a length that can be read.

    >>> listed(["a", "b"]), listed([])
    ('a, b', 'none')
    """
    every = list(names)
    cut = [name if len(name) <= _LONGEST else f"{name[:_LONGEST]}…" for name in every[:_SHOWN]]
    return (", ".join(cut) or "none") + (", …" if len(every) > _SHOWN else "")
