"""Published placements against the indicators: how many contrasts agree, and how many say nothing.

    python scripts/experiments/external.py [--page FILE]

`external.yaml` has results that others published. They are a hold-out: no rule, weight or
threshold is fitted to them. Two arms of a study are a contrast. An indicator agrees with it where
the arm that it puts first is better by more than 1.96 standard errors of the difference, and
disagrees where the other one is; within them the contrast is a tie. Errors count as independent, as
pairs of answers are not published; they are too wide where arms answered the same items. A contrast
cannot be judged where the arms are not of one budget, where no error is known, or where the
indicator has no value for the model or the same one for both arms.
The value of an arm is the mean over its module types, as in `plop verify`.
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import yaml
from pages import put, table
from pydantic import BaseModel, ConfigDict, model_validator

FILE = Path(__file__).with_name("external.yaml")
MARK, END = "<!-- external -->", "<!-- end of external -->"
SURE = 1.96
CONSTANT = "Llama-3.2-1B-Instruct"
"""The model whose published order is tried as a constant on every other decoder."""
AGREES, DISAGREES, TIE, UNJUDGED = "agree", "disagree", "tie", "cannot be judged"
_STRICT = ConfigDict(extra="forbid", frozen=True)

Values = Mapping[str, float]


class Arm(BaseModel):
    """What an arm reached, and the module types that it adapts where they are known."""

    model_config = _STRICT

    value: float
    types: tuple[str, ...] = ()


class Study(BaseModel):
    """A published table; external.yaml says what the keys mean."""

    model_config = _STRICT

    name: str
    source: str
    model: str
    task: str
    budget: str
    arms: dict[str, Arm]
    sibling: str | None = None
    decoder: bool = False
    error: float | None = None
    items: int | None = None
    unequal: str | None = None
    lower: tuple[tuple[str, str], ...] = ()

    @model_validator(mode="after")
    def _known_arms(self) -> Study:
        unknown = {arm for pair in self.lower for arm in pair} - self.arms.keys()
        if unknown:
            raise ValueError(f"{self.name}: `lower` names {sorted(unknown)}, which is no arm")
        if self.error is None and self.items is not None:
            wrong = [name for name, arm in self.arms.items() if not 0 <= arm.value <= 1]
            if wrong:
                raise ValueError(f"{self.name}: {wrong[0]} is no share of the items")
        return self

    def error_of(self, arm: str) -> float | None:
        """Return the standard error of an arm's value, None where it is not known."""
        if self.error is not None or self.items is None:
            return self.error
        share = self.arms[arm].value
        return math.sqrt(share * (1 - share) / self.items)


class Published(BaseModel):
    """The NFN of a model by module type, and where it stands."""

    model_config = _STRICT

    source: str
    nfn: dict[str, float]


class External(BaseModel):
    """The whole file."""

    model_config = _STRICT

    values: dict[str, Published]
    shapes: dict[str, dict[str, tuple[int, int]]]
    studies: tuple[Study, ...]


@dataclass(frozen=True)
class Contrast:
    """Two arms of a study, the better one first."""

    study: Study
    better: str
    worse: str

    def open_because(self) -> str | None:
        """Return why no indicator can be judged by this contrast, None where one can."""
        if self.study.unequal is not None:
            return self.study.unequal
        if None in (self.study.error_of(self.better), self.study.error_of(self.worse)):
            return "one run of each arm, and no error is stated"
        return None

    def is_tie(self) -> bool:
        """Whether the arms differ by less than their errors allow to tell."""
        errors = (self.study.error_of(arm) or 0.0 for arm in (self.better, self.worse))
        arms = self.study.arms
        return arms[self.better].value - arms[self.worse].value <= SURE * math.hypot(*errors)


@dataclass(frozen=True)
class Judgement:
    """What an indicator says of a contrast; `why` where it cannot be judged."""

    verdict: str
    why: str = ""


Predict = Callable[[Study, str, str], float | str]
"""The lead of the first arm over the second, above 0 where it is put first; or why none is known"""


@dataclass(frozen=True)
class Opinion:
    """An indicator as it can be had from published figures."""

    name: str
    predict: Predict


def opinions(external: External) -> list[Opinion]:
    """Return the indicators that can be had for at least some of the models."""

    def nfn(study: Study, first: str, second: str) -> float | str:
        if (first, second) in study.lower or (second, first) in study.lower:
            return 1.0 if (first, second) in study.lower else -1.0
        return lower_mean(study, first, second, study.model)

    def sibling(study: Study, first: str, second: str) -> float | str:
        if study.sibling is None:
            return "no sibling of the model has a published NFN"
        return lower_mean(study, first, second, study.sibling)

    def constant(study: Study, first: str, second: str) -> float | str:
        if not study.decoder:
            return f"the module types are not those of {CONSTANT}"
        return lower_mean(study, first, second, CONSTANT)

    def lower_mean(study: Study, first: str, second: str, model: str) -> float | str:
        if model not in external.values:
            return "no NFN of the model is published"
        return lead(study, first, second, external.values[model].nfn, sign=-1)

    def share(study: Study, first: str, second: str) -> float | str:
        if study.model not in external.shapes:
            return "the shapes of the model are not in the file"
        shapes = external.shapes[study.model]
        sizes = {name: float(rows * columns) for name, (rows, columns) in shapes.items()}
        return lead(study, first, second, sizes, sign=1)

    return [
        Opinion("NFN of the model itself", nfn),
        Opinion("NFN of its instruction-tuned sibling", sibling),
        Opinion(f"order of {CONSTANT}, as a constant", constant),
        Opinion("parameter-share", share),
    ]


def lead(study: Study, first: str, second: str, values: Values, *, sign: int) -> float | str:
    """Return the difference of two arms' mean values, or why there is none."""
    means = []
    for arm in (first, second):
        types = study.arms[arm].types
        if not types or any(name not in values for name in types):
            return "the module types of an arm are not known"
        means.append(fmean(values[name] for name in types))
    return sign * (means[0] - means[1])


def judge(contrast: Contrast, opinion: Opinion) -> Judgement:
    """Return whether an indicator agrees with a contrast."""
    why = contrast.open_because()
    if why is not None:
        return Judgement(UNJUDGED, why)
    found = opinion.predict(contrast.study, contrast.better, contrast.worse)
    if isinstance(found, str):
        return Judgement(UNJUDGED, found)
    if found == 0:
        return Judgement(UNJUDGED, "the indicator is the same for both arms")
    if contrast.is_tie():
        return Judgement(TIE)
    return Judgement(AGREES if found > 0 else DISAGREES)


def contrasts(external: External) -> Iterator[Contrast]:
    """Yield every pair of arms of every study."""
    for study in external.studies:
        for one, other in itertools.combinations(study.arms, 2):
            ordered = sorted((one, other), key=lambda arm: -study.arms[arm].value)
            yield Contrast(study, *ordered)


def read(path: Path = FILE) -> External:
    """Return the published results.

    Raises:
        ValueError: the file has another form.
    """
    return External.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))


# --------------------------------------------------------------------------- tables


def text_of(external: External) -> str:
    """Return the section of the page."""
    every = list(contrasts(external))
    judged = {
        opinion.name: [(contrast, judge(contrast, opinion)) for contrast in every]
        for opinion in opinions(external)
    }
    return (
        "\n\n".join(
            (
                studies_table(external),
                f"Two arms of a study make a contrast, {len(every)} in all. Those of one study "
                "share their arms, so they are not independent.",
                verdict_table(judged),
                "Why contrasts cannot be judged:",
                reasons(judged),
                sources(external),
            )
        )
        + "\n"
    )


def studies_table(external: External) -> str:
    """Return what was published, one row a study."""
    rows = []
    for study in external.studies:
        arms = "; ".join(f"{name} {arm.value:g}" for name, arm in study.arms.items())
        pairs = math.comb(len(study.arms), 2)
        of_study = [contrast for contrast in contrasts(external) if contrast.study is study]
        comparable = [one for one in of_study if one.open_because() is None]
        told = sum(not one.is_tie() for one in comparable)
        usable = f"{told} of {pairs}" if comparable else f"none: {of_study[0].open_because()}"
        rows.append((study.name, study.model, study.task, study.budget, arms, usable))
    head = ("study", "model", "task", "budget", "arms", "contrasts beyond their error")
    return table(head, rows)


def verdict_table(judged: Mapping[str, Sequence[tuple[Contrast, Judgement]]]) -> str:
    """Return how many contrasts agree and disagree with each indicator, and in which studies."""
    rows = []
    for name, found in judged.items():
        counts = Counter(judgement.verdict for _, judgement in found)
        where = {
            verdict: dict.fromkeys(
                contrast.study.name for contrast, one in found if one.verdict == verdict
            )
            for verdict in (AGREES, DISAGREES)
        }
        cells = [
            f"{counts[verdict]} ({'; '.join(where[verdict])})" if where[verdict] else "0"
            for verdict in (AGREES, DISAGREES)
        ]
        rows.append((name, *cells, str(counts[TIE]), str(counts[UNJUDGED])))
    return table(("indicator", AGREES, DISAGREES, TIE, UNJUDGED), rows)


def reasons(judged: Mapping[str, Sequence[tuple[Contrast, Judgement]]]) -> str:
    """Return the reasons of each indicator with their numbers."""
    lines = []
    for name, found in judged.items():
        counts = Counter(one.why for _, one in found if one.verdict == UNJUDGED)
        listed = "; ".join(f"{why} ({number})" for why, number in counts.most_common())
        lines.append(f"- {name}: {listed or 'none'}.")
    return "\n".join(lines)


def sources(external: External) -> str:
    """Return where the figures stand."""
    named = dict.fromkeys(
        [study.source for study in external.studies]
        + [published.source for published in external.values.values()]
    )
    return "Sources: " + "; ".join(named) + "."


def main() -> int:
    """Print the section, or write it into a page; return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--page", type=Path)
    given = parser.parse_args()
    return put(given.page, MARK, text_of(read()), END)


if __name__ == "__main__":
    raise SystemExit(main())
