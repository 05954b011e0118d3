"""The rows and scores of a pair of the study, and the description that its records belong to.

Imports torch only where a network is scored or its weights are read.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

from arms import BUDGET_RANK, aliases, all_arms, distinct
from further import BY_WEIGHTS, random_words
from networks import BUNDLED, PRETRAINED
from pairs import DATA, SCORED_TEXTS, Pair, StudyError, general_text, text_of

import plop_lora as plop
from plop_lora.demo import MODEL
from plop_lora.files import atomic_file
from plop_lora.placement import groups_of
from plop_lora.records import Placement, Scores

SCORES, ROWS = "scores.json", ("train.jsonl", "eval.jsonl", "general.jsonl")
WORDS = "random-words.json"
"""Scores on random words, from which some further arms follow."""


def prepare(
    pair: Pair, folder: Path, models: Path, gsm8k: Path | None, *, further: bool = False
) -> None:
    """Write the rows and the scores of a pair; what is complete stays.

    Args:
        pair: pair of the study.
        folder: where they are written.
        models: folder of the networks.
        gsm8k: folder of the two files of GSM8K.
        further: write also the scores that the further arms need.

    Raises:
        StudyError: the network is not there.
    """
    network = checked_network(pair.network, models)
    train, judged = DATA[pair.data](gsm8k, pair.training_rows, pair.evaluation_rows)
    general = general_text() if pair.task != "classify" else []
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in zip(ROWS, (train, judged, general), strict=True):
        with atomic_file(folder / name) as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    options = {"max_length": pair.max_length, "stop": "fixed", "progress": False}
    texts = [text_of(row) for row in train[:SCORED_TEXTS]]
    plop.score(str(network), texts=texts, **options).save(folder / SCORES)
    if further:
        words = random_words(train[:SCORED_TEXTS])
        scores = plop.score(str(network), texts=words, indicators=[BY_WEIGHTS], **options)
        scores.save(folder / WORDS)


def checked_network(name: str, models: Path) -> Path:
    """Return the folder of a network by its name.

    Raises:
        StudyError: there is none.
    """
    if name == BUNDLED:
        return MODEL.resolve()
    network = (models / name).resolve()
    if not (network / "config.json").is_file():
        raise StudyError(
            f"The network {name} is not in {models}. Make it with: python {recipe_of(name, models)}"
        )
    return network


def recipe_of(network: str, models: Path) -> str:
    """Return the script that makes a network, with its options."""
    if network in PRETRAINED:
        return f"scripts/demo_model/pretrain.py {PRETRAINED[network]} --output {models / network}"
    return f"scripts/experiments/models.py {network} --output {models}"


def describe(pair: Pair, folder: Path, network: Path) -> dict[str, Any]:
    """Return what decides the outcome of a pair's trials, and so must not change between them."""
    scores = Scores.load(folder / SCORES)
    made = all_arms(pair, scores)
    described = dataclasses.asdict(pair) | {
        "rates": list(pair.rates),
        "budget_rank": BUDGET_RANK,
        "arms": {name: types_of(arm) for name, arm in distinct(made).items()},
        "aliases": aliases(made),
        "nfn": nfn_of(scores),
        "rows": {name: digest(folder / name) for name in ROWS},
        "weights": weights_digest(network),
    }
    described.pop("order")
    return described


def nfn_of(scores: Scores) -> dict[str, float]:
    """Return the NFN of every type that is an arm; that of a fused weight is its projections'."""
    return {group.type: round(group.value, 3) for group in groups_of(scores) if group.eligible}


def types_of(placement: Placement) -> list[str]:
    """Return the module types of a placement, by name."""
    return sorted({site.type for site in placement.sites})


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def weights_digest(network: Path) -> str:
    """Return a digest of a network's weights that does not depend on how they are laid out."""
    import torch
    from safetensors import safe_open

    total = hashlib.sha256()
    for path in sorted(network.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in sorted(file.keys()):
                tensor = file.get_tensor(name).contiguous()
                total.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
                total.update(tensor.view(torch.uint8).numpy().tobytes())
    return total.hexdigest()
