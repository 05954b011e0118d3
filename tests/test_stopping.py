"""Stopping when the choice is known: rarely wrong, however often one looks, and said in words."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import torch
from conftest import WordTokenizer
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from typer.testing import CliRunner

import plop_lora as plop
from plop_lora.cli import app
from plop_lora.data.sampling import LEAST_OF_GROUP, scoring_order, shares
from plop_lora.demo import DATA, MODEL
from plop_lora.errors import DataError, UsageError
from plop_lora.placement.stopping import LEAST, StopDecision, StopSettings, examine
from plop_lora.records import DECIDED, TIE
from plop_lora.scoring.stopping import chunk_ends
from plop_lora.statistics import Estimate, sequential_margin

TOLERANCE = 0.03
SEQUENCES = 200
STREAMS = 1000

# --------------------------------------------------------------------------- simulation


def _normal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.standard_normal(shape)


def _student(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.standard_t(3, shape) / 3**0.5


def _lognormal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return (rng.lognormal(0, 1, shape) - np.e**0.5) / (np.e * (np.e - 1)) ** 0.5


def _two_kinds(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Three texts of ten are of another kind, which turns the two halves of the types around."""
    share, (streams, sequences, types) = 0.3, shape
    kind = rng.random((streams, sequences, 1)) < share
    direction = np.where(np.arange(types) < types // 2, -1, 1)
    effect = (kind - share) / (share * (1 - share)) ** 0.5 * direction
    return 0.9 * effect + 0.4 * rng.standard_normal(shape)


AT_THE_BOUNDARY = (0.0, 0.0, 0.0, 0.0301, 0.0301, 0.0301)
"""Exact ties on both sides of a gap just wider than tolerated: every exchange is an error."""

ONE_OF_FOUR = (0.0, 0.0301, 0.0301, 0.0301)
AS_MEASURED = (0.96, 0.98, 1.18, 1.2101, 1.28, 1.33)
"""As all-MiniLM-L6-v2, with its closest two as far apart as makes an exchange an error."""


def _estimates(values_SK: np.ndarray) -> dict[str, Estimate]:
    means_K = values_SK.mean(axis=0)
    return {
        f"type{order}": Estimate(float(mean), values_SK[:, order] - mean)
        for order, mean in enumerate(means_K)
    }


def _wrong_share(
    decide: Callable[[np.ndarray, StopSettings], tuple[str, ...] | None],
    noise: Callable[[np.random.Generator, tuple[int, ...]], np.ndarray],
    means: tuple[float, ...],
    top: int,
    spread: float,
) -> float:
    """Return the share of streams that stop on a choice that is worse than tolerated."""
    rng = np.random.default_rng(0)
    rule = StopSettings(top, TOLERANCE)
    streams = np.array(means) + spread * noise(rng, (STREAMS, SEQUENCES, len(means)))
    truth = {f"type{order}": mean for order, mean in enumerate(means)}
    wrong = 0
    for stream_SK in streams:
        for end in chunk_ends(SEQUENCES):
            chosen = decide(stream_SK[:end], rule)
            if chosen is not None:
                left_out = min(truth[name] for name in truth if name not in chosen)
                wrong += left_out < max(truth[name] for name in chosen) - TOLERANCE
                break
    return wrong / STREAMS


def _ours(values_SK: np.ndarray, rule: StopSettings) -> tuple[str, ...] | None:
    look = examine(_estimates(values_SK), rule)
    return look.chosen if look.decided else None


def _naive(values_SK: np.ndarray, rule: StopSettings) -> tuple[str, ...] | None:
    """Stop as soon as an ordinary 95 % interval of the boundary says so."""
    order = values_SK.mean(axis=0).argsort()
    first, second = (values_SK[:, order[place]] for place in (rule.top - 1, rule.top))
    difference = second - first
    low = difference.mean() - 1.7 * difference.std(ddof=1) / len(difference) ** 0.5
    return tuple(f"type{i}" for i in order[: rule.top]) if low > -rule.tolerance else None


@pytest.mark.slow
@pytest.mark.parametrize("noise", [_normal, _student, _lognormal, _two_kinds])
@pytest.mark.parametrize(
    ("means", "top", "spread"),
    [(AT_THE_BOUNDARY, 3, 0.06), (ONE_OF_FOUR, 1, 0.06), (AS_MEASURED, 3, 0.06)],
    ids=["ties at the boundary", "one of four", "as measured"],
)
def test_wrong_decisions_are_at_most_5_of_100(noise, means, top, spread) -> None:
    """The promise: 0.95, with looks after every chunk, for ties, heavy tails and two kinds."""
    assert _wrong_share(_ours, noise, means, top, spread) <= 0.05


def test_an_ordinary_interval_would_be_wrong_more_often() -> None:
    """The control: the simulation can fail, and does for a rule that ignores looking."""
    assert _wrong_share(_naive, _normal, ONE_OF_FOUR, 1, 0.06) > 0.1


def test_margin_holds_at_every_time_and_wastes_little() -> None:
    """One-sided 5 % over all numbers of sequences from 2 to 400; an ordinary bound is at 20 %."""
    rng = np.random.default_rng(1)
    values = rng.standard_normal((4000, 400))
    sizes = np.arange(1, 401)
    means = values.cumsum(axis=1) / sizes
    squares = (values**2).cumsum(axis=1) - sizes * means**2
    spreads = np.sqrt(squares[:, 1:] / (sizes[1:] - 1))
    margins = np.array([sequential_margin(n, 0.05, expected=40) for n in sizes[1:]])
    missed = (means[:, 1:] - np.where(np.isinf(margins), 1e9, margins) * spreads > 0).any(axis=1)
    assert 0.02 < missed.mean() <= 0.05
    ordinary = (means[:, 15:] > 1.645 * spreads[:, 14:] / sizes[15:] ** 0.5).any(axis=1)
    assert ordinary.mean() > 0.15


def test_margin_becomes_the_published_one() -> None:
    """With many sequences the small-sample form and the asymptotic one are the same."""
    level, expected, size = 0.01, 40, 100_000
    width = -2 * np.log(2 * level)
    growth = size * (width + np.log(width) + 1) / expected + 1
    published = (2 * growth * np.log(1 + growth**0.5 / (2 * level)) / (growth - 1) / size) ** 0.5
    assert sequential_margin(size, level, expected=expected) == pytest.approx(published, rel=1e-3)
    assert sequential_margin(4, level, expected=expected) == np.inf


# --------------------------------------------------------------------------- the rule


def _look(*means: float, spread: float = 0.0, size: int = 40, **options: float) -> StopDecision:
    rng = np.random.default_rng(2)
    values = np.array(means) + spread * rng.standard_normal((size, len(means)))
    return examine(_estimates(values), StopSettings(**{"top": 2, "tolerance": TOLERANCE} | options))


def test_rule_needs_enough_sequences_and_something_to_leave_out() -> None:
    assert not _look(1.0, 1.1, 1.5, size=LEAST - 1).decided
    assert _look(1.0, 1.1, 1.5, size=LEAST).decided
    assert not _look(1.0, 1.1, size=100).decided


def test_pairs_are_ties_or_undecided_by_their_bounds() -> None:
    tie = _look(1.0, 1.2, 1.2, 1.5)
    assert tie.decided
    assert [(pair.chosen, pair.left_out) for pair in tie.ties] == [("type1", "type2")]
    assert not _look(1.0, 1.2, 1.2, 1.5, tolerance=0.0).decided
    noisy = _look(1.0, 1.2, 1.2, 1.9, spread=0.2)
    assert not noisy.decided
    assert {pair.chosen for pair in noisy.undecided} <= set(noisy.chosen)
    assert all(pair.low <= -TOLERANCE < pair.high for pair in noisy.undecided)


def test_names_do_not_matter() -> None:
    """The same numbers under other names in another order give the same decision."""
    values = 1 + 0.1 * np.random.default_rng(3).standard_normal((60, 5))
    estimates = _estimates(values)
    renamed = {f"z{name}": estimates[name] for name in reversed(estimates)}
    one, two = (examine(given, StopSettings(2, 0.05)) for given in (estimates, renamed))
    assert [f"z{name}" for name in one.chosen] == list(two.chosen)
    assert one.decided == two.decided
    assert len(one.ties) == len(two.ties)


# --------------------------------------------------------------------------- the order


@given(st.permutations(range(30)), st.integers(0, 5))
def test_order_of_scoring_follows_the_texts_not_the_file(order: list[int], seed: int) -> None:
    """Two models, or two files with the same rows, must see the same texts first."""
    names = [f"text{n % 25}" for n in range(30)]
    groups: list[str | None] = [None] * 30
    plain = [names[i] for i in scoring_order(names, groups, seed)]
    shuffled = [names[i] for i in order]
    assert [shuffled[i] for i in scoring_order(shuffled, groups, seed)] == plain
    assert Counter(plain) == Counter(names)
    assert plain != [names[i] for i in scoring_order(names, groups, seed + 1)]


def test_groups_are_interleaved() -> None:
    """Every beginning of the order has the groups in proportion, so that any stop is fair."""
    groups = ["big"] * 75 + ["small"] * 25
    order = scoring_order([f"text{n}" for n in range(100)], groups, 0)
    for end in range(8, 101, 4):
        small = sum(groups[i] == "small" for i in order[:end])
        assert abs(small - end / 4) <= 1


@pytest.mark.slow
@given(
    st.dictionaries(st.text(max_size=3), st.integers(1, 400), min_size=1, max_size=9),
    st.integers(9, 300),
)
def test_shares_lose_no_group(sizes: dict[str, int], samples: int) -> None:
    quotas = shares(sizes, samples)
    assert sum(quotas.values()) == min(samples, sum(sizes.values()))
    least = min(LEAST_OF_GROUP, samples // len(sizes))
    for group, quota in quotas.items():
        assert min(sizes[group], least) <= quota <= sizes[group]


# --------------------------------------------------------------------------- scoring

ROWS = [
    {"text": f"{'word ' * (n % 5 + 1)}number {n}", "kind": "rare" if n % 20 == 0 else "common"}
    for n in range(400)
]


@pytest.fixture
def rows(tmp_path) -> str:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, ROWS)))
    return str(path)


@pytest.mark.slow
def test_a_clear_choice_stops_early(tmp_path) -> None:
    """The bundled model's gap is wide: a few texts are enough, and their sums are those of all."""
    documents = plop.load_documents(DATA / "problems.jsonl", text="question")
    early = plop.score(str(MODEL), texts=documents, progress=False)
    stopping = early.stopping
    assert (stopping.decided, stopping.reason) == (True, "the choice is decided")
    assert early.sequences == stopping.used == LEAST
    assert stopping.available == 200
    assert f"Stopped after {LEAST} of 200 sequences" in str(early)
    every = plop.score(str(MODEL), texts=documents, stop="fixed", progress=False)
    assert every.sequences == 200
    assert not every.stopping.decided
    columns = [every.measurements.sequence_ids.index(n) for n in early.measurements.sequence_ids]
    for few, many in zip(early.measurements.sums, every.measurements.sums, strict=True):
        assert few == pytest.approx([many[column] for column in columns], rel=0.02)
    assert plop.place(early).verdict == plop.place(every).verdict == DECIDED


def test_a_tie_is_called_a_tie(models, tokenizer) -> None:
    """Random weights score about 1 everywhere: more data would never separate the types."""
    texts = [row["text"] for row in ROWS[:200]]
    scores = plop.score(models("llama"), tokenizer, texts, tolerance=0.2, top=1, progress=False)
    assert scores.stopping.decided
    pair = scores.stopping.ties[0]
    assert -0.2 < pair.low <= 0 < pair.high
    assert f"Tie in practice: {pair.chosen} was chosen and {pair.left_out} was not" in str(scores)
    placement = plop.place(scores, top=1)
    assert (placement.verdict, placement.tolerance) == (TIE, 0.2)
    assert "Against what was left out: a tie within 0.2." in str(placement)
    loaded = plop.Scores.from_dict(json.loads(scores.to_json()))
    assert loaded == scores


def test_what_cannot_be_decided_uses_everything(models, tokenizer) -> None:
    """Keys that are a copy of the queries: no number of texts can separate the two."""
    texts = [row["text"] for row in ROWS[:40]]
    model = copy.deepcopy(models("bert"))
    for layer in model.base_model.encoder.layer:
        layer.attention.self.key.weight = nn.Parameter(layer.attention.self.query.weight.clone())
    ranking = plop.score(model, tokenizer, texts, stop="fixed", progress=False).type_names()
    options = {"top": 1 + min(ranking.index("key"), ranking.index("query")), "progress": False}
    strict = plop.score(model, tokenizer, texts, tolerance=0, **options)
    assert (strict.sequences, strict.stopping.decided) == (40, False)
    assert strict.stopping.reason == "all sequences are used"
    (pair,) = (p for p in strict.stopping.undecided if {p.chosen, p.left_out} == {"query", "key"})
    assert abs(pair.difference) < 1e-6
    assert "Undecided: " in str(strict)
    tolerant = plop.score(model, tokenizer, texts, tolerance=0.1, **options)
    assert {"key", "query"} in [{p.chosen, p.left_out} for p in tolerant.stopping.ties]
    assert tolerant.stopping.decided


def test_reasons_without_a_decision(models, tokenizer) -> None:
    texts = [row["text"] for row in ROWS[:40]]
    few = plop.score(models("llama"), tokenizer, texts[:5], progress=False)
    assert few.stopping.reason == "too few sequences to decide"
    alone = plop.score(models("llama"), tokenizer, texts, include=["q_proj"], progress=False)
    assert (alone.sequences, alone.stopping.reason) == (40, "no type to leave out")
    assert "Not decided within 0.03 NFN: no type to leave out." in str(alone)


def test_old_records_still_load(scores) -> None:
    """A file from before there was a stopping rule has no such key."""
    document = scores.to_dict()
    del document["stopping"]
    old = plop.Scores.from_dict(document)
    assert old == dataclasses.replace(scores, stopping=None)
    assert str(old)
    assert plop.place(old).verdict == plop.place(scores).verdict


def test_longest_text_is_tried_first_and_not_counted(models) -> None:
    """Out of memory must show at once, and the first look must stay a random sample."""
    texts = [f"short {n}" for n in range(60)] + ["long " * 40]
    widths: list[int] = []

    def watch(module: nn.Module, arguments: object, options: dict[str, torch.Tensor]) -> None:
        widths.append(options["input_ids"].shape[1])

    model = models("llama")
    handle = model.model.register_forward_pre_hook(watch, with_kwargs=True)
    try:
        scores = plop.score(
            model, WordTokenizer(), texts, tolerance=9, progress=False, reference=False
        )
    finally:
        handle.remove()
    # One short row is looked at before.
    assert widths[:2] == [2, 40]
    assert max(widths[2:]) == 2
    assert scores.sequences == LEAST
    assert scores.tokens == 2 * LEAST


def test_ready_batches_are_looked_at_one_by_one(models) -> None:
    generator = torch.Generator().manual_seed(0)
    batches = [{"input_ids": torch.randint(3, 60, (6, 9), generator=generator)} for _ in range(20)]
    scores = plop.score(models("llama"), batches=batches, tolerance=9, progress=False)
    assert (scores.sequences, scores.stopping.available) == (18, 120)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stop": "soon"}, "There is no stop 'soon'. Allowed: adaptive, fixed"),
        ({"top": 0}, "top is 0"),
        ({"tolerance": -1}, "tolerance is -1"),
        ({"tolerance": float("nan")}, "tolerance is nan"),
    ],
)
def test_options_that_cannot_work(models, tokenizer, options: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        plop.score(models("llama"), tokenizer, ["a b"], progress=False, **options)


# --------------------------------------------------------------------------- groups


def test_small_groups_keep_their_place(rows: str, models, tokenizer) -> None:
    """One row of twenty is rare: a plain sample of 40 would have two of them."""
    documents = plop.load_documents(rows, text="text", group="kind", samples=40)
    counts = Counter(document.group for document in documents.items)
    assert counts == {"common": 32, "rare": LEAST_OF_GROUP}
    scores = plop.score(models("llama"), tokenizer, documents, tolerance=9, progress=False)
    found = {row.group: (row.used, row.available) for row in scores.stopping.groups}
    assert found == {"common": (13, 32), "rare": (3, 8)}
    assert "Sequences by group: common 13 of 32, rare 3 of 8." in str(scores)


def test_groups_that_cannot_be_used(rows: str, tmp_path) -> None:
    with pytest.raises(UsageError, match="400 groups, more than --samples 200"):
        plop.load_documents(rows, text="text", group="text")
    with pytest.raises(DataError, match=r"no field 'knd'\. Did you mean 'kind'"):
        plop.load_documents(rows, text="text", group="knd")
    (tmp_path / "some.jsonl").write_text('{"text": "a b", "kind": null}\n{"text": "c"}')
    documents = plop.load_documents(tmp_path / "some.jsonl", text="text", group="kind")
    assert {document.group for document in documents.items} == {"(none)"}


def test_command_line(rows: str) -> None:
    words = ["score", str(MODEL), "--data", rows, "--text", "text", "--format", "json"]
    adaptive = ("--top", "2", "--tolerance", "5", "--group", "kind")
    for options, used in ((("--stop", "fixed", "--samples", "24"), 24), (adaptive, LEAST)):
        done = CliRunner().invoke(app, [*words, *options])
        assert done.exit_code == 0, done.output
        record = json.loads(done.stdout)
        assert record["stopping"]["used"] == record["sequences"] == used
    assert record["stopping"]["top"] == 2
    assert [row["group"] for row in record["stopping"]["groups"]] == ["common", "rare"]
