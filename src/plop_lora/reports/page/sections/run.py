"""The sections of a run and of the final finetune: what each stage says, and what ships."""

from __future__ import annotations

from plop_lora.records import Finetune, PipelineRun
from plop_lora.records.run import OPEN, StageRun
from plop_lora.reports.page.blocks import DataTable, Section
from plop_lora.reports.page.sections.curves import finetune_curve
from plop_lora.reports.text import Text, number


def run_section(record: PipelineRun, words: Text) -> Section:
    """Return the stages with their states, times and verdicts; what they say is quoted."""
    done = [stage for stage in record.stages if stage.seconds is not None]
    lines = [
        words(
            "run.line", stages=words.count(len(done)),
            time=words.duration(sum(stage.seconds or 0.0 for stage in done)),
        )
    ]  # fmt: skip
    lines += [words("run.waiting", what=record.waiting)] if record.waiting else []
    columns = ("stage", "state", "time", "verdict", "says")
    return Section(
        name="run",
        title=words("run.title"),
        lines=tuple(lines),
        tables=(
            DataTable(
                caption=words("run.stages"),
                columns=tuple(words(f"column.{name}") for name in columns),
                rows=tuple(
                    (
                        stage.stage,
                        words.word(stage.state),
                        "" if stage.seconds is None else words.duration(stage.seconds),
                        _verdict(stage, words),
                        stage.reason if stage.outcome is None else stage.outcome.words,
                    )
                    for stage in record.stages
                ),
                numeric=(False, False, True, False, False),
            ),
        ),
        quotes=record.notes,
    )


def _verdict(stage: StageRun, words: Text) -> str:
    """Return the word for the verdict of a stage; nothing for one that decides nothing."""
    outcome = stage.outcome
    return "" if outcome is None or outcome.verdict is OPEN else words.word(outcome.verdict)


def finetune_section(record: Finetune, words: Text) -> Section:
    """Return what the adapter that ships reached on rows that it was not trained on."""
    columns = ("metric", "base", "adapter", "difference", "interval")
    curve = finetune_curve(record, words)
    best = record.best_step
    return Section(
        name="finetune",
        title=words("finetune.title"),
        lines=(
            words(
                "finetune.line", parameters=words.count(record.placement.trainable_parameters),
                rate=f"{record.choice.learning_rate:.2g}", steps=words.count(record.steps),
                planned=words.count(record.planned_steps), rows=words.count(record.train_rows),
            ),
            *(() if best is None else (words("finetune.best", step=words.count(best)),)),
            *(() if curve else (words("curves.none"),)),
        ),
        figures=(curve,) if curve else (),
        tables=(
            DataTable(
                caption=words("finetune.outcomes"),
                columns=tuple(words(f"column.{name}") for name in columns),
                rows=tuple(
                    (
                        row.metric,
                        number(row.base, 4),
                        number(row.adapter, 4),
                        number(row.difference, 4, signed=True),
                        words.interval(row.low, row.high, digits=4, signed=True),
                    )
                    for row in record.outcomes
                ),
                numeric=(False, True, True, True, True),
            ),
        ),
        quotes=record.notes,
    )  # fmt: skip
