"""The indicators of the pairs of the study, as small records beside the pairs' trials.

    python scripts/experiments/indicators.py all --gsm8k DIR [--models build/models]
    python scripts/experiments/indicators.py smollm2-gsm8k --gsm8k DIR

`results/PAIR/indicators.json` has, for every module type of the network, its shape and the value of
each indicator of the registry: of those that `plop score` records, on the training rows from which
the pair's NFN was computed, and of those that are measured on the model to be trained. That of EVA,
which gives single weights ranks, is the mean rank of the type's weights. For every block it has NFN
and what layers.py measures, and it says how far the ranking is the same on general text.

The trials are not run again, and no value depends on them. Rows and weights that are not those of
the trials are refused. Numbers have five digits, since further ones differ between machines.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from layers import measured_layers
from pairs import DATA, PAIRS, SCORED_TEXTS, Pair, Row, StudyError, text_of
from preparing import ROWS, checked_network, weights_digest

import plop_lora as plop
from plop_lora.errors import MeasurementError, ModelError, PlopError
from plop_lora.files import atomic_file
from plop_lora.indicators import INDICATORS, NFN, OfModels
from plop_lora.indicators.signal import measure_signal
from plop_lora.placement import Group, groups_of
from plop_lora.records import Scores, TrainingSettings
from plop_lora.verification.signals import ROWS as SIGNAL_ROWS

FILE = "indicators.json"
MODELS, RESULTS = Path("build/models"), Path(__file__).resolve().parent / "results"
DIGITS = 5

Values = dict[str, float]


def record(pair: Pair, results: Path, models: Path, gsm8k: Path | None) -> dict[str, Any]:
    """Return the record of a pair.

    Raises:
        StudyError: the rows or the weights are not those of the pair's trials.
    """
    network = checked_network(pair.network, models)
    rows, _ = DATA[pair.data](gsm8k, pair.training_rows, pair.evaluation_rows)
    described = json.loads((results / pair.name / "pair.json").read_text(encoding="utf-8"))
    weights = weights_digest(network)
    for what, found, known in (
        ("rows", rows_digest(rows), described["rows"][ROWS[0]]),
        ("weights", weights, described["weights"]),
    ):
        if found != known:
            raise StudyError(
                f"The {what} of {pair.name} are not those of its trials ({found[:8]}, and the "
                f"trials have {known[:8]}). Rows depend on the version of Python, weights on "
                "models.py; use those that the pair was prepared with."
            )
    recorded = [row for row in INDICATORS.values() if row.is_recorded and row.name != NFN]
    scores = plop.score(
        str(network),
        texts=[text_of(row) for row in rows[:SCORED_TEXTS]],
        max_length=pair.max_length,
        stop="fixed",
        indicators=[row.name for row in recorded],
        progress=False,
    )
    found = {row.name: of_groups(groups_of(scores, row)) for row in (INDICATORS[NFN], *recorded)}
    further, refused, layers = measured(pair, network, rows, scores)
    found |= further
    return {
        "pair": pair.name,
        "command": f"python scripts/experiments/indicators.py {pair.name}"
        + " --gsm8k DIR" * (pair.data == "gsm8k"),
        "rows": rows_digest(rows),
        "weights": weights,
        "texts": scores.sequences,
        "tokens": scores.tokens,
        "versions": scores.provenance.versions | {"plop-lora": plop.__version__},
        "types": {group.type: shape(group) for group in eligible(groups_of(scores))},
        "indicators": {
            name: {"lower_first": INDICATORS[name].lower_first, "values": values}
            for name, values in found.items()
        },
        "not_measured": refused,
        "reference": reference_of(scores),
        "layers": {
            name: {str(layer): rounded(value) for layer, value in sorted(by_layer.items())}
            for name, by_layer in ({NFN: nfn_of_layers(scores)} | layers).items()
        },
    }


def reference_of(scores: Scores) -> dict[str, Any]:
    """Return how much of the ranking the texts explain, compared with general text."""
    (reference,) = scores.references
    agreement = reference.agreement
    if agreement is None:
        raise StudyError(f"The scores could not be compared with {reference.name}.")
    low, high = agreement.share_interval
    return {
        "name": reference.name,
        "same_choice": reference.same_choice,
        "chosen": list(reference.chosen),
        "share": rounded(agreement.share),
        "low": None if low is None else rounded(low),
        "high": None if high is None else rounded(high),
        "of_types": None if agreement.of_types is None else rounded(agreement.of_types),
    }


def nfn_of_layers(scores: Scores) -> dict[int, float]:
    """Return the mean NFN of the weights of every block."""
    layers: dict[int, list[float]] = {}
    for site in scores.sites:
        if site.layer is not None:
            layers.setdefault(site.layer, []).append(site.nfn)
    return {layer: fmean(values) for layer, values in layers.items()}


def rows_digest(rows: Sequence[Row]) -> str:
    """Return the SHA-256 of the file that `preparing.prepare` writes of these rows."""
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def eligible(groups: Sequence[Group]) -> list[Group]:
    """Return the types that a placement may choose, by name."""
    return sorted((group for group in groups if group.eligible), key=lambda group: group.type)


def of_groups(groups: Sequence[Group]) -> Values:
    """Return the value of every type."""
    return {group.type: rounded(group.value) for group in eligible(groups)}


def shape(group: Group) -> dict[str, Any]:
    """Return what a type is without any data: its role, its number of modules and their size."""
    return {
        "role": group.role,
        "modules": len(group.hosts),
        "in_features": fmean(host.in_features for host in group.hosts),
        "out_features": fmean(host.out_features for host in group.hosts),
        "parameters": sum(member.parameters for member in group.members),
    }


def measured(
    pair: Pair, network: Path, rows: Sequence[Row], scores: Scores
) -> tuple[dict[str, Values], dict[str, str], dict[str, dict[int, float]]]:
    """Return what needs the model to be trained: indicators, why some have no value, and layers."""
    from plop_lora.models.loading import quietly
    from plop_lora.training.base import load_base
    from plop_lora.training.tasks import TASKS
    from plop_lora.verification.batches import batches_of

    labels = sorted({row["label"] for row in rows}) if pair.task == "classify" else []
    settings = TrainingSettings(batch_size=pair.batch_size, max_length=pair.max_length)
    with quietly():
        model, tokenizer, *_ = load_base(
            TASKS[pair.task], str(network), labels=labels, settings=settings
        )
    batches = batches_of(
        rows[:SIGNAL_ROWS],
        tokenizer,
        labels=labels,
        batch_size=pair.batch_size,
        max_length=pair.max_length,
        device=next(model.parameters()).device,
    )
    groups = eligible(groups_of(scores))
    hosts = [host for group in groups for host in group.hosts]
    found: dict[str, Values] = {}
    refused: dict[str, str] = {}
    for row in INDICATORS.values():
        if not isinstance(row.measure, OfModels):
            continue
        try:
            seen = measure_signal(row.name, model, batches, hosts).values
            if row.measure.are_ranks:  # A weight without a rank has none of the budget.
                seen = {host.name: 0.0 for host in hosts if host.copies == 1} | seen
            found[row.name] = {group.type: mean_of(seen, group) for group in groups}
        except (MeasurementError, ModelError) as error:
            refused[row.name] = str(error)
    return found, refused, measured_layers(model, batches, scores)


def mean_of(values: Mapping[str, float], group: Group) -> float:
    """Return the mean over the weights of a type.

    Raises:
        MeasurementError: the indicator could not read one of them.
    """
    missing = [host.name for host in group.hosts if host.name not in values]
    if missing:
        raise MeasurementError(f"The weight {missing[0]} has no value.")
    return rounded(fmean(values[host.name] for host in group.hosts))


def rounded(value: float) -> float:
    """Return a number with as many digits as do not differ between machines.

    >>> rounded(0.123456789)
    0.12346
    """
    return float(f"{value:.{DIGITS}g}")


def main() -> int:
    """Write the records that the command line names; return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pairs", nargs="+", metavar="PAIR", choices=["all", *PAIRS])
    parser.add_argument("--gsm8k", type=Path, help="folder of its two files")
    parser.add_argument("--models", type=Path, default=MODELS)
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    try:
        for name in PAIRS if "all" in given.pairs else dict.fromkeys(given.pairs):
            made = record(PAIRS[name], given.results, given.models, given.gsm8k)
            with atomic_file(given.results / name / FILE) as file:
                file.write(json.dumps(made, indent=1) + "\n")
            print(f"{given.results / name / FILE}")
    except (StudyError, PlopError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
