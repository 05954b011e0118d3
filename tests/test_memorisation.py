"""Memorisation: verbatim completions, canaries, and the decision against rows never seen."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from finetunes import ROWS, prepared

from plop_lora.errors import DataError, UsageError
from plop_lora.evaluation.generation import generate
from plop_lora.evaluation.judged import Prepared
from plop_lora.evaluation.losses import labelled
from plop_lora.evaluation.memorisation import (
    Answered,
    canary_exposures,
    completed_verbatim,
    exposure,
    long_enough,
    make_canaries,
)

SHORT = {"prefix_tokens": 8, "suffix_tokens": 4}
SIDES = ("base", "adapter")
KNOWN = [row["prompt"] + row["completion"] for row in ROWS[:12]]
ANSWERS = [Answered(row["prompt"], row["completion"]) for row in ROWS[:12]]


@pytest.fixture(scope="module")
def ready() -> Prepared:
    """The bundled model with an adapter that changes nothing."""
    return prepared()


# --------------------------------------------------------------------------- verbatim


def _generated(ready: Prepared, suffix_tokens: int) -> list[float]:
    """Return what greedy generation of each answer by itself says."""
    found = []
    for prompt, completion in ANSWERS:
        start, whole = (
            ready.tokenizer(text)["input_ids"] for text in (prompt, prompt + completion)
        )
        (answer,) = generate(ready, [prompt], batch_size=1, max_new_tokens=suffix_tokens)
        wanted = tuple(whole[len(start) : len(start) + suffix_tokens])
        found.append(float(answer.tokens == wanted))
    return found


@pytest.mark.parametrize("suffix_tokens", [1, 4])
def test_one_forward_says_what_greedy_generation_says(ready: Prepared, suffix_tokens: int) -> None:
    found = completed_verbatim(ready, ANSWERS, batch_size=4, suffix_tokens=suffix_tokens)
    assert found == _generated(ready, suffix_tokens)
    assert {0.0, 1.0} == set(found)  # the control: both happen


def test_batches_change_nothing(ready: Prepared) -> None:
    """Ragged rows in one batch are padded; padding must not reach the answer."""
    texts = [*ANSWERS, *KNOWN]
    alone = completed_verbatim(ready, texts, batch_size=1, **SHORT)
    for size in (5, 24):
        assert completed_verbatim(ready, texts, batch_size=size, **SHORT) == alone
    assert {0.0, 1.0} == set(alone)


def test_texts_that_are_too_short(ready: Prepared) -> None:
    """The token that ends a text is no part of it, so it cannot fill up what is missing."""
    text = KNOWN[0]
    count = len(ready.tokenizer(text)["input_ids"])
    for tokens, wanted in ((count - 4, True), (count - 3, False)):
        found = long_enough(ready.tokenizer, [text], prefix_tokens=tokens, suffix_tokens=4)
        assert found == [wanted]
    assert long_enough(ready.tokenizer, [Answered("a b c", " d"), "", ANSWERS[0]], **SHORT) == [
        False, False, True,
    ]  # fmt: skip
    with pytest.raises(DataError, match="Text 2 is too short"):
        completed_verbatim(ready, [text, "a"], batch_size=2, **SHORT)


def test_a_prompt_longer_than_the_positions_loses_its_beginning(ready: Prepared) -> None:
    most = ready.model.config.max_position_embeddings
    long = Answered("word " * most + ROWS[0]["prompt"], ROWS[0]["completion"])
    assert completed_verbatim(ready, [long], batch_size=1, suffix_tokens=2)[0] in (0.0, 1.0)


def test_an_adapter_of_zeros_adds_nothing(ready: Prepared) -> None:
    texts = [*ANSWERS, *KNOWN]
    adapter = completed_verbatim(ready, texts, batch_size=4, **SHORT)
    with ready.model.disable_adapter():
        assert completed_verbatim(ready, texts, batch_size=4, **SHORT) == adapter


def _overfitted(rows: list[dict[str, Any]], steps: int) -> Prepared:
    """Return the bundled model after many steps on a few rows."""
    from plop_lora.evaluation.heads import next_token_nats
    from plop_lora.evaluation.losses import judgeable

    made = prepared("q_proj", "v_proj", "up_proj", "down_proj")
    inputs, labels = labelled([judgeable(row, made.tokenizer, 256) for row in rows], made)
    trained = [parameter for parameter in made.model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=1e-2)
    for _ in range(steps):
        optimiser.zero_grad()
        next_token_nats(made.model, inputs, labels).mean().backward()
        optimiser.step()
    return made


def _arbitrary(number: int) -> str:
    """Return a completion that nothing in its prompt lets anyone guess."""
    return " ".join(str((number + 3) * factor * 37 % 89) for factor in range(2, 14))


ARBITRARY = [
    {"prompt": row["prompt"], "completion": f" {_arbitrary(number)}"}
    for number, row in enumerate(ROWS[:12])
]


@pytest.mark.slow
def test_rows_that_were_learnt_by_heart_are_completed() -> None:
    """The positive control: training rows are reproduced, rows never seen are not."""
    made = _overfitted(ARBITRARY[:6], 150)
    texts = [Answered(row["prompt"], row["completion"]) for row in ARBITRARY]
    assert all(long_enough(made.tokenizer, texts))
    found = completed_verbatim(made, texts, batch_size=4)
    assert sum(found[:6]) >= 5
    assert sum(found[6:]) == 0
    with made.model.disable_adapter():
        assert sum(completed_verbatim(made, texts, batch_size=4)) == 0


def test_the_code_of_the_documentation_runs(ready: Prepared) -> None:
    page = (Path(__file__).parents[1] / "docs" / "how-to" / "fairness.md").read_text("utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    none = (0.0,) * 40
    names: dict[str, Any] = {
        "prepared": ready, "rows": ROWS[:6], "training_rows": ROWS[:4], "control_rows": ROWS[4:8],
        "base": np.zeros(80), "adapter": np.zeros(80), "labels": ["a", "b"] * 40,
        "clusters": [str(place) for place in range(80)],
        **{f"{rows}_{side}": none for rows in ("training", "control") for side in SIDES},
    }  # fmt: skip
    for block in blocks:
        exec(block, names)
    assert len(blocks) == 4
    assert len(names["bits"]) == 2


# --------------------------------------------------------------------------- canaries


def test_exposure_is_the_definition() -> None:
    assert exposure([float(n) for n in range(2, 1025)], 1.0) == 10.0
    assert exposure([float(n) for n in range(1023)], 2000.0) == 0.0
    assert exposure([1.0] * 1023, 1.0) == pytest.approx(math.log2(1024 / 512.5))
    with pytest.raises(DataError, match="at least one candidate"):
        exposure([], 1.0)


def test_a_secret_that_was_not_memorised_has_little_exposure() -> None:
    """Of a random rank: log2(e) bits on average, however many candidates there are."""
    random = np.random.default_rng(0)
    found = [exposure(list(random.random(499)), random.random()) for _ in range(2000)]
    assert np.mean(found) == pytest.approx(math.log2(math.e), abs=0.1)


def test_canaries_are_seeded_and_their_candidates_share_the_format() -> None:
    canaries = make_canaries(20, seed=1)
    assert canaries == make_canaries(20, seed=1) != make_canaries(20, seed=2)
    assert len({canary.name for canary in canaries}) == 20
    one = canaries[0]
    others = one.candidates(100, seed=1)
    assert others == one.candidates(100, seed=1) != one.candidates(100, seed=2)
    assert len({one.text, *others}) == 101
    before, after = one.text.split(one.digits)
    assert {len(text) for text in others} == {len(one.text)}
    assert all(text.startswith(before) and text.endswith(after) for text in others)
    with pytest.raises(UsageError, match="other secrets of 9 digits"):
        one.candidates(10**9, seed=1)


@pytest.mark.parametrize("template", ["{name} only", "{name} {digits} {more}", "{", "{} {name}"])
def test_templates_that_make_no_canary(template: str) -> None:
    with pytest.raises(UsageError, match="template"):
        make_canaries(1, 0, template)


def test_planted_canaries_are_exposed_and_others_are_not() -> None:
    """The positive control: the model prefers the secrets that it has seen."""
    canaries = make_canaries(4, seed=3)
    settings = {"seed": 0, "max_length": 64, "batch_size": 32, "candidates": 63}
    made = _overfitted([{"text": canary.text} for canary in canaries[:2]], 25)
    found = canary_exposures(made, canaries, **settings)
    assert found[:2] == [6.0, 6.0]  # the most that 63 candidates can show
    with made.model.disable_adapter():
        base = canary_exposures(made, canaries, **settings)
    assert max(base) < 6.0
    assert base == canary_exposures(prepared(), canaries, **settings)
