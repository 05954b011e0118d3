"""From records to the page: which sections there are, and in which order. Pure.

Reports render and never compute: every number stands in a record, or comes from a function of the
step that made it. What a record does not hold is left out.
"""

from __future__ import annotations

from collections.abc import Sequence

from plop_lora.records import Record
from plop_lora.reports.page.answers import Answers
from plop_lora.reports.page.blocks import Page, Section
from plop_lora.reports.page.reading import Held, held, strangers
from plop_lora.reports.page.sections.analysis import analysis_section
from plop_lora.reports.page.sections.gate import gate_section, walk_section
from plop_lora.reports.page.sections.placement import placement_section
from plop_lora.reports.page.sections.provenance import provenance_section
from plop_lora.reports.page.sections.robustness import mismatches, robustness_section
from plop_lora.reports.page.sections.run import finetune_section, run_section
from plop_lora.reports.page.sections.scores import scores_section
from plop_lora.reports.page.sections.study import study_section
from plop_lora.reports.page.sections.summary import (
    answer_of,
    facts_of,
    model_of,
    question_of,
)
from plop_lora.reports.page.sections.tuning import tuning_section
from plop_lora.reports.page.sections.verification import verification_section
from plop_lora.reports.rows import short_name
from plop_lora.reports.text import Text, text


def results_of(
    records: Sequence[Record], language: str = "en", *, answers: Answers | None = None
) -> Page:
    """Return the report of some records.

    Args:
        records: Records of one project, in any order, at most one of a kind; verdicts of a gate
            may be several. Scores, placements, records of robustness, verifications, tunings,
            final finetunes, verdicts of a gate, walks over checkpoints, analyses of experiments
            and runs are shown.
        language: Language of the page, `en` or `ja`.
        answers: What `read_answers` has read, to be shown beside the items of a gate; by default no
            answers are shown.

    Raises:
        UsageError: There is no record, two of a kind, one without a part in a report, or the
            language is unknown.
    """
    words, found = text(language), held(records)
    answer, tone = answer_of(found, words)
    others = strangers(found)
    name = short_name(model_of(found))
    return Page(
        language=language,
        title=words("page.title", name=name) if name else words("page.title.plain"),
        question=question_of(found, words),
        answer=answer,
        tone=tone,
        facts=tuple(facts_of(found, words)),
        warnings=(
            *(words("warning.stranger", kind=record.kind) for record in others),
            *mismatches(found, words),
        ),
        sections=tuple(_sections(found, words, answers, marked=not others)),
    )


def _sections(found: Held, words: Text, answers: Answers | None, *, marked: bool) -> list[Section]:
    """Return the sections; `marked` says whether the placement is one of these scores."""
    sections: list[Section] = []
    placement = found.shown_placement
    if found.scores is not None:
        sections.append(scores_section(found.scores, placement if marked else None, words))
    if placement is not None:
        sections.append(placement_section(placement, words))
    if found.robustness is not None:
        sections.append(robustness_section(found.robustness, words))
    if found.verification is not None:
        sections.append(verification_section(found.verification, words))
    if found.tuning is not None:
        sections.append(tuning_section(found.tuning, words))
    if found.finetune is not None:
        sections.append(finetune_section(found.finetune, words))
    sections += [
        gate_section(verdict, words, number, answers)
        for number, verdict in enumerate(found.shown_gates, 1)
    ]
    if found.walk is not None:
        sections.append(walk_section(found.walk, words))
    if found.analysis is not None:
        sections.append(analysis_section(found.analysis, words))
    if found.run is not None:
        sections.append(run_section(found.run, words))
    sections += [] if found.model is None else [study_section(found.model, words)]
    return [*sections, provenance_section(found, words)]
