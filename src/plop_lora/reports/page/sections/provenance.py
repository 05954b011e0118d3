"""The last section: the records that the page shows, their makers, and the commands."""

from __future__ import annotations

import shlex

from plop_lora.records import Provenance, Record, Scores
from plop_lora.reports.page.blocks import DataTable, Section
from plop_lora.reports.page.reading import Held
from plop_lora.reports.page.sections.placement import place_command
from plop_lora.reports.text import Text


def provenance_section(found: Held, words: Text) -> Section:
    """Return the records with their digests, the conditions of the scores, and the commands."""
    records: list[Record | None] = [
        found.scores, found.placement, found.robustness, found.verification, found.tuning,
        *found.gates, found.walk, found.analysis, found.finetune, found.run,
    ]  # fmt: skip
    held = [record for record in records if record is not None]
    tables = [
        DataTable(
            caption=words("provenance.records"),
            columns=tuple(words(f"column.{name}") for name in ("record", "version", "digest")),
            rows=tuple(
                (record.kind, getattr(record, "plop_version", ""), record.digest())
                for record in held
            ),
            numeric=(False, False, False),
        )
    ]
    if found.scores is not None:
        tables.append(_conditions(found.scores, words))
    placement = found.shown_placement
    commands = [] if found.scores is None else [score_command(found.scores)]
    commands += [] if placement is None else [place_command(placement)]
    return Section(
        name="provenance",
        title=words("provenance.title"),
        lines=(words("provenance.read"),) if commands else (),
        tables=tuple(tables),
        commands=tuple(commands),
    )


def _conditions(scores: Scores, words: Text) -> DataTable:
    made, model = scores.provenance, scores.model
    rows = {
        "model": model.name, "revision": model.revision or "", "architecture": model.architecture,
        "data": made.data, "fingerprint": made.data_fingerprint, "dtype": made.dtype,
        "device": made.device, "seed": str(made.seed), "denominator": made.denominator,
        "created": made.created, "elapsed": words.duration(made.elapsed_seconds),
    }  # fmt: skip
    settings = {key: str(value) for key, value in made.settings.items()}
    return DataTable(
        caption=words("provenance.conditions"),
        columns=(words("column.key"), words("column.value")),
        rows=(
            *((words(f"made.{key}"), value) for key, value in rows.items() if value),
            *made.versions.items(), *settings.items(),
        ),
        numeric=(False, False),
    )  # fmt: skip


def score_command(scores: Scores) -> str:
    """Return the command of the scores as far as the record knows it, quoted for the shell.

    That code of the model may run is not repeated: whoever types the command decides it anew.
    """
    made = scores.provenance
    words = ["plop", "score", scores.model.name, "--data", made.data]
    if scores.model.revision:
        words += ["--revision", scores.model.revision]
    words += [*_reading(made), "--seed", str(made.seed), "--dtype", made.dtype]
    if made.denominator != "analytic":
        words += ["--denominator", made.denominator.replace("_", "-")]
    for indicator in scores.indicators:
        words += ["--indicator", indicator.indicator]
    return shlex.join([*words, *_stopping(scores), "-o", "scores.json"])


def _reading(made: Provenance) -> list[str]:
    """Return the options by which the texts were read and the weights were chosen."""
    settings = made.settings
    field = str(settings.get("field") or "")
    words = ["--template" if "{" in field else "--text", field] if field else []
    if "max_length" in settings:
        words += ["--max-length", str(settings["max_length"])]
    if settings.get("special_tokens"):
        words.append("--special-tokens")
    for option in ("include", "exclude"):
        for pattern in settings.get(option) or ():
            words += [f"--{option}", str(pattern)]
    return words


def _stopping(scores: Scores) -> list[str]:
    """Return the options by which scoring ended."""
    held = scores.stopping
    if held is None or held.mode == "fixed":
        drawn = scores.sequences if held is None else held.available
        return ["--samples", str(drawn), "--stop", "fixed"]
    return ["--samples", str(held.available), "--top", str(held.top), "--tolerance",
            f"{held.tolerance:g}"]  # fmt: skip
