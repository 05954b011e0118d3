"""Fit the learned placement rule on the study, and write the model that comes with the package.

    python scripts/experiments/learned.py [--output FILE]

`evidence.py` puts what it is worth into the tables of the evidence. The history is what the records
of the complete pairs say: the shape, NFN and gain of every module type, and the gain of every arm.
Only what every record of scores has is learned from, so that any model can be asked about; NFN is
that of `indicators.json`, as `plop score` measures it today.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from by_indicator import FILE as INDICATORS
from outcomes import NATS, RESULTS, TYPE, Outcome, arm_alone, collect
from pages import table, turned

import plop_lora.placement.learned as package
from plop_lora.errors import PlopError
from plop_lora.indicators import NFN
from plop_lora.placement.learned import fit
from plop_lora.placement.learned.advice import FILE, worth
from plop_lora.placement.learned.features import part_named
from plop_lora.placement.learned.fit import ALONE, LEARNED
from plop_lora.records import HistoryArm, HistoryPair, HistoryType, LearnedModel

OUTPUT = Path(package.__file__).with_name(FILE)
DIGITS = 6
FURTHER = (
    ("rank-of-weights", "response-gain"),
    ("rank-of-inputs", "mean-share"),
)
"""Indicators that scores hold only where they are asked for; fitted beside, to see their worth.

The second two are computed from the hidden states of the frozen network: how many directions the
inputs of a type have, and how much of their mean arrives at its outputs.
"""


def history(outcomes: Sequence[Outcome], results: Path = RESULTS) -> tuple[HistoryPair, ...]:
    """Return the pairs as a learned model reads them; excluded ones, too, teach nothing."""
    return tuple(pair_of(outcome, results) for outcome in outcomes if outcome.excluded is None)


def pair_of(outcome: Outcome, results: Path) -> HistoryPair:
    """Return one pair. Arms that are the same go by each of their names.

    Arms whose weights were chosen one by one have no module types to learn from.
    """
    held = json.loads((results / outcome.name / INDICATORS).read_text(encoding="utf-8"))
    names = {arm_alone(name): name for name in held["types"]}
    return HistoryPair(
        name=outcome.name,
        network=outcome.network,
        metric="loss" if outcome.unit == NATS else outcome.unit,
        source="study",
        types=tuple(
            HistoryType(
                type=name,
                part=part_named(name, row["role"]),
                attention=row["role"] == "attention",
                nfn=held["indicators"][NFN]["values"][name],
                in_features=row["in_features"],
                out_features=row["out_features"],
                parameters=row["parameters"],
                further={
                    indicator: (-1 if found["lower_first"] else 1) * found["values"][name]
                    for indicator, found in held["indicators"].items()
                    if indicator != NFN and name in found["values"]
                },
            )
            for name, row in sorted(held["types"].items())
        ),
        arms=tuple(
            HistoryArm(
                arm=ALONE + names[name] if name.startswith(TYPE) else name,
                types=tuple(sorted(names[member] for member in outcome.members[name])),
                gain=float(f"{arm.gain:.{DIGITS}g}"),
            )
            for name, arm in sorted(outcome.arms.items())
            if name in outcome.members
        ),
    )


def learned(results: Path = RESULTS, further: Sequence[str] = ()) -> LearnedModel:
    """Return the model of the study.

    Raises:
        UsageError: there is no complete pair.
    """
    return fit(history(collect(results)[0], results), further)


def learned_parts(used: Sequence[Outcome], results: Path) -> list[str]:
    """Return the table of the learned rule and what it is worth, none without the indicators."""
    if not all((results / pair.name / INDICATORS).is_file() for pair in used):
        return []
    pairs = history(used, results)
    models = {LEARNED: fit(pairs)}
    for names in FURTHER:
        if all({*names} <= row.further.keys() for pair in pairs for row in pair.types):
            models[f"{LEARNED}, with {' and '.join(names)}"] = fit(pairs, names)
    rows = []
    for label, model in models.items():
        choice = {row.pair: row for row in model.left_out}
        if not choice:
            return []
        (own,) = [row for row in model.rules if row.rule == LEARNED]
        cells = (f"{choice[pair.name].chosen}: {choice[pair.name].regret:.1%}" for pair in used)
        rows.append((label, *cells, f"{own.mean:.1%}"))
    head = ("fitted without the network", *(f"`{pair.name}`" for pair in used), "mean")
    return [turned(head, rows), rules_table(models[LEARNED]), told(models[LEARNED])]


def rules_table(model: LearnedModel) -> str:
    """Return the regret of the learned rule beside that of every other one."""
    rows = []
    for row in model.rules:
        bounds = "" if row.low is None else f"{row.low:.1%} to {row.high:.1%}"
        rows.append((f"`{row.rule}`", f"{row.mean:.1%}", bounds))
    return table(("rule", "mean regret", "95 % interval over networks"), rows)


def told(model: LearnedModel) -> str:
    """Say what the learned rule is worth, and so what `plop place --strategy learned` does."""
    weights = ", ".join(
        f"{name} {value:+.3f}"
        for name, value in zip(model.features, model.coefficients, strict=True)
    )
    does = "abstains and keeps the default placement" if model.abstains else "speaks"
    return (
        f"Of the learned rule: {worth(model)}. So `plop place --strategy learned` {does}. "
        f"Fitted on all pairs its coefficients are: {weights}."
    )


def main() -> int:
    """Write the model; return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    try:
        learned(given.results).save(given.output)
    except PlopError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
