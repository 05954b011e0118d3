"""Logs of Inspect: `.eval`, a zip archive with one member per sample, and `.json`, one document.

A scorer gives each sample a grade (`C`, `I`, `P`, `N`), a number, or several numbers by name, which
are metrics `SCORER/NAME` here. Does not import Inspect.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plop_lora.errors import DataError
from plop_lora.evaluation.logs.documents import digest_of, open_archive, read_document
from plop_lora.evaluation.logs.log import (
    Log,
    Sample,
    clean,
    hash_of,
    number,
    unusable_metrics,
)

FORMAT = "inspect"
GRADES = {"c": 1.0, "i": 0.0, "p": 0.5, "n": 0.0}
"""Numbers of Inspect's grades: correct, incorrect, partially correct, no answer."""
_WORDS = {"true": 1.0, "yes": 1.0, "false": 0.0, "no": 0.0} | GRADES
_NEWEST = 2
"""Newest version of the format that is known here. Version 3 splits long samples into parts."""
_HEADER = "header.json"
_AGAIN = "Finish it with inspect eval-retry, or run the task again."

Found = tuple[str, Mapping[str, Any]]
"""Place of a sample for errors, and the sample."""


def read_inspect(path: Path) -> Log:
    """Read a log in either form.

    Args:
        path: Path of the `.eval` archive or the `.json` document.

    Raises:
        DataError: The log is damaged, did not end with success, is of a newer version, or repeats
            a sample.
        MissingExtraError: The archive is compressed with Zstandard, which this version of Python
            reads with a package only.
    """
    if path.suffix.lower() == ".json":
        document = read_document(path)
        _check(document, path)
        return _log(path, document, _listed(document, path))
    with open_archive(path) as archive:
        if _HEADER not in archive.names:
            raise DataError(f"{path} has no {_HEADER}: the run has not ended. {_AGAIN}")
        header = archive.document(_HEADER)
        _check(header, path)
        members = [name for name in archive.names if _is_sample(name)]
        return _log(
            path,
            header,
            ((f"{path}, member {clean(name)},", archive.document(name)) for name in members),
        )


def _is_sample(name: str) -> bool:
    folder, _, rest = name.partition("/")
    return folder == "samples" and rest.endswith(".json")


def _listed(document: Mapping[str, Any], path: Path) -> Iterator[Found]:
    samples = document.get("samples")
    for index, sample in enumerate(samples if isinstance(samples, list) else []):
        where = f"{path}, sample {index + 1},"
        if not isinstance(sample, dict):
            raise DataError(f"{where} is a JSON {type(sample).__name__} and not an object.")
        yield where, sample


def _check(header: Mapping[str, Any], path: Path) -> None:
    """Refuse a log of another kind or version, and one that did not end with success."""
    if not isinstance(header.get("eval"), dict) or "status" not in header:
        other = " It is the results file of lm-eval: give the samples_TASK_DATE.jsonl beside it."
        raise DataError(
            f"{path} is no log of Inspect: it has no eval and status."
            + (other if "higher_is_better" in header else " Logs lie in the folder of --log-dir.")
        )
    version = header.get("version")
    if not isinstance(version, int) or version > _NEWEST:
        raise DataError(
            f"{path} is of version {clean(version)} of Inspect's format; up to {_NEWEST} can be "
            "read. Convert it with the Inspect that wrote it: inspect log convert --to json."
        )
    if header["status"] != "success":
        raise DataError(f"{path} ended with status {clean(header['status'])!r}. {_AGAIN}")
    if header.get("invalidated"):
        raise DataError(f"{path} has samples that were marked as invalid. {_AGAIN}")


def _log(path: Path, header: Mapping[str, Any], found: Iterator[Found]) -> Log:
    evaluation = header["eval"]
    config = evaluation.get("config")
    scores = _Scores({}, set(), set())
    samples = _samples(found, scores)
    if not samples:
        raise DataError(f"{path} holds no samples. Run inspect eval without --no-log-samples.")
    return Log(
        format=FORMAT,
        path=str(path),
        digest=digest_of(path),
        task=clean(evaluation.get("task", "")),
        model=clean(evaluation.get("model", "")),
        model_arguments={
            "model_args": evaluation.get("model_args") or {},
            "model_base_url": evaluation.get("model_base_url"),
        },
        date=clean(evaluation.get("created", "")),
        samples=samples,
        unusable=unusable_metrics(samples, scores.refused),
        higher_is_better=dict.fromkeys(scores.graded - scores.ungraded, True),
        limited=_limited(config if isinstance(config, dict) else {}),
    )


def _limited(config: Mapping[str, Any]) -> str | None:
    """Return the option that restricted the run to a part of the samples."""
    for key in ("limit", "sample_id"):
        if config.get(key) is not None:
            return f"--{key.replace('_', '-')} {clean(config[key])}"
    return None


# --------------------------------------------------------------------------- samples


@dataclass(slots=True, eq=False)
class _Scores:
    """What the values of all samples say of the metrics.

    Attributes:
        refused: Reasons for metrics whose values are no numbers.
        graded: Metrics that have given a grade, of which C is the best by definition.
        ungraded: Metrics that have given anything else.
    """

    refused: dict[str, str]
    graded: set[str]
    ungraded: set[str]

    def numbers(self, sample: Mapping[str, Any]) -> dict[str, float]:
        """Return the numbers of a sample by metric; what is no number is noted as refused."""
        numbers: dict[str, float] = {}
        for name, raw in _values(sample):
            value = number(raw, _WORDS)
            if value is None:
                self.refused.setdefault(name, f"is {_short(raw)!r} and not one number")
                continue
            numbers[name] = value
            if isinstance(raw, str) and raw.lower() in GRADES:
                self.graded.add(name)
            else:
                self.ungraded.add(name)
        return numbers


def _short(raw: object) -> str:
    text = clean(raw)
    return text if len(text) <= 40 else f"{text[:40]}…"


def _values(sample: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    """Yield the metrics of a sample with their values as JSON holds them; null is no value."""
    scores = sample.get("scores")
    for scorer, score in (scores if isinstance(scores, dict) else {}).items():
        value = score.get("value") if isinstance(score, dict) else score
        named = value if isinstance(value, dict) else {"": value}
        for name, raw in named.items():
            if raw is not None:
                yield clean(f"{scorer}/{name}" if name else scorer), raw


def _samples(found: Iterator[Found], scores: _Scores) -> tuple[Sample, ...]:
    samples: dict[tuple[str, int], Sample] = {}
    for where, sample in found:
        epoch = sample.get("epoch", 1)
        if "id" not in sample or not isinstance(epoch, int):
            raise DataError(f"{where} has no id and epoch: it is no sample of an Inspect log.")
        key = (clean(sample["id"]), epoch)
        if key in samples:
            raise DataError(
                f"{where} has sample {key[0]}, epoch {epoch}, once more. Give every sample of the "
                "task an id of its own and run it again."
            )
        samples[key] = Sample(*key, _hash(sample), None, scores.numbers(sample))
    return tuple(samples.values())


def _hash(sample: Mapping[str, Any]) -> str:
    """Return the hash of what is asked, its choices and its target.

    Inspect gives every message of every run an id of its own, which is left out.
    """
    asked = sample.get("input")
    if isinstance(asked, list):
        asked = [_without_id(message) for message in asked]
    return hash_of([asked, sample.get("choices"), sample.get("target")])


def _without_id(message: object) -> object:
    if not isinstance(message, dict):
        return message
    return {key: value for key, value in message.items() if key != "id"}
