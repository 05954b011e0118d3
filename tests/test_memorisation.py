"""Memorisation: verbatim completions, canaries, and the decision against rows never seen."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest
import torch
from finetunes import CHATS, ROWS, prepared

from plop_lora.errors import DataError, UsageError
from plop_lora.evaluation.generation import generate
from plop_lora.evaluation.judged import Prepared
from plop_lora.evaluation.losses import labelled
from plop_lora.evaluation.memorisation import (
    Canary,
    canary_exposures,
    completed_verbatim,
    exposure,
    make_canaries,
)

SHORT = {"prefix_tokens": 8, "suffix_tokens": 4}
ANSWERS = ROWS[:12]
KNOWN = [{"text": row["prompt"] + row["completion"]} for row in ANSWERS]


@pytest.fixture(scope="module")
def ready() -> Prepared:
    """The bundled model with an adapter that changes nothing."""
    return prepared()


# --------------------------------------------------------------------------- verbatim


def _generated(ready: Prepared, suffix_tokens: int) -> list[float]:
    """Return what greedy generation of each answer by itself says."""
    found = []
    for prompt, completion in (row.values() for row in ANSWERS):
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


def test_rows_that_are_too_short(ready: Prepared) -> None:
    """The token that ends a text is no part of it, so it cannot fill up what is missing."""
    text = KNOWN[0]
    count = len(ready.tokenizer(text["text"])["input_ids"])
    for tokens, measured in ((count - 4, True), (count - 3, False)):
        found = completed_verbatim(
            ready, [text], batch_size=1, prefix_tokens=tokens, suffix_tokens=4
        )
        assert [value is not None for value in found] == [measured]
    rows = [{"prompt": "a b c", "completion": " d"}, {"text": ""}, ANSWERS[0]]
    found = completed_verbatim(ready, rows, batch_size=2, **SHORT)
    assert found[:2] == [None, None]
    assert found[2] is not None


def test_of_a_chat_the_last_answer_is_reproduced(ready: Prepared) -> None:
    (chat,) = completed_verbatim(ready, CHATS[:1], batch_size=1, suffix_tokens=2)
    asked, answer = CHATS[0]["messages"]
    row = {"prompt": [asked], "completion": [answer]}
    assert completed_verbatim(ready, [row], batch_size=1, suffix_tokens=2) == [chat]


def test_a_prompt_longer_than_the_positions_loses_its_beginning(ready: Prepared) -> None:
    most = ready.model.config.max_position_embeddings
    long = {"prompt": "word " * most + ROWS[0]["prompt"], "completion": ROWS[0]["completion"]}
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
    found = completed_verbatim(made, ARBITRARY, batch_size=4)
    assert sum(found[:6]) >= 5
    assert sum(found[6:]) == 0
    with made.model.disable_adapter():
        assert sum(completed_verbatim(made, ARBITRARY, batch_size=4)) == 0


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


def test_canaries_are_seeded_and_their_candidates_share_the_form() -> None:
    rows = make_canaries(20, seed=1)
    assert rows == make_canaries(20, seed=1) != make_canaries(20, seed=2)
    assert len({row["prompt"] for row in rows}) == 20
    one = Canary.of(rows[0])
    others = one.candidates(100)
    assert others == one.candidates(100) != one.candidates(100, seed=1)
    answers = {row["completion"] for row in [one.row, *others]}
    assert len(answers) == 101
    assert {row["prompt"] for row in others} == {one.row["prompt"]}
    before, after = one.row["completion"].split(one.secret)
    assert all(text.startswith(before) and text.endswith(after) for text in answers)
    assert {len(text) for text in answers} == {len(one.row["completion"])}
    with pytest.raises(UsageError, match="other secrets of the form"):
        one.candidates(10**9)
    mixed = Canary.of({"text": "Key Ab3.", "secret": "Ab3"}).candidates(200)
    assert all(re.fullmatch(r"Key [A-Z][a-z]\d\.", row["text"]) for row in mixed)
    assert set(make_canaries(1, 0, text="body")[0]) == {"body", "secret"}
    assert set(make_canaries(1, 0, prompt="q", completion="a")[0]) == {"q", "a", "secret"}


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ({"text": "no secret"}, "needs a column 'secret'"),
        ({"text": "1 2", "secret": "1 2"}, "of letters and digits"),
        ({"text": "é", "secret": "é"}, "of letters and digits"),
        ({"text": "another", "secret": "123"}, "does not occur in its row"),
    ],
)
def test_rows_that_are_no_canaries(row: dict[str, str], text: str) -> None:
    with pytest.raises(DataError, match=text):
        Canary.of(row)


def test_planted_canaries_are_exposed_and_others_are_not() -> None:
    """The positive control: the model prefers the secrets that it has seen."""
    canaries = [Canary.of(row) for row in make_canaries(4, seed=3)]
    settings = {"max_length": 64, "batch_size": 32, "candidates": 63}
    made = _overfitted([dict(canary.row) for canary in canaries[:2]], 40)
    found = canary_exposures(made, canaries, **settings)
    assert found[:2] == [6.0, 6.0]  # the most that 63 candidates can show
    with made.model.disable_adapter():
        base = canary_exposures(made, canaries, **settings)
    assert max(base) < 6.0
    assert base == canary_exposures(prepared(), canaries, **settings)
