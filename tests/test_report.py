"""Tables fit where they are shown, and never break a name or a number."""

from __future__ import annotations

import dataclasses

import pytest
from conftest import make_batch

import plop_lora as plop
from plop_lora.reports.rows import short_name
from plop_lora.reports.terminal import as_html, as_text


@pytest.fixture(scope="module", params=["llama", "bert", "t5"])
def records(request, models) -> list[plop.Scores]:
    scores = plop.score(models(request.param), batches=[make_batch(request.param)], progress=False)
    return [scores, plop.place(scores), plop.compare(scores, scores)]


@pytest.mark.parametrize("width", [80, 100, 120])
def test_tables_fit_the_width(records, width: int) -> None:
    """At 80 columns a folded table cut `down_proj` into three lines."""
    names = set(records[0].type_names())
    chosen = {choice.type for choice in records[1].choices}
    for record in records:
        lines = as_text(record, width).splitlines()
        assert max(map(len, lines)) <= width
        first_words = {line.split(" ")[0] for line in lines if line}
        assert (chosen if record is records[1] else names) <= first_words


def test_a_wide_place_keeps_one_table(records) -> None:
    for record in records:
        heads = [line for line in as_text(record, 200).splitlines() if line.startswith("type ")]
        assert len(heads) == 1


def test_cells_are_the_same_in_every_form(records) -> None:
    """A notebook and a terminal must not disagree."""
    row = records[0].types[0]
    for form in (as_text(records[0], 200), as_html(records[0])):
        assert row.type in form
        assert f"{row.nfn:.3f}" in form
        assert f"{row.low:.3f}–{row.high:.3f}" in form


def test_html_is_escaped(scores) -> None:
    """A model's name may hold anything; a notebook must not run it."""
    model = dataclasses.replace(scores.model, name="<script>alert(1)</script>")
    html = as_html(dataclasses.replace(scores, model=model))
    assert "<script>" not in html
    assert "&lt;script&gt;" in html


def test_undecided_is_explained_once(records) -> None:
    text = as_text(records[2], 120)
    assert text.count("undecided") == len(records[2].types)
    assert text.count("the interval contains 0") == 1


def test_short_names() -> None:
    assert short_name("Qwen/Qwen3-0.6B") == "Qwen/Qwen3-0.6B"
    assert short_name("openai/gsm8k:main:train") == "openai/gsm8k:main:train"
    assert short_name("/a/very/long/path/model/") == "…/path/model"
    assert short_name("scores.json") == "scores.json"


def test_columns_that_hold_nothing_are_left_out(records) -> None:
    """Without scores there is no next type to differ from, and four empty columns say nothing."""
    everything = plop.place(records[0], top=len(records[0].types))
    assert "next type" in as_text(everything, 200)
    bare = tuple(dataclasses.replace(choice, next=None) for choice in everything.choices)
    text = as_text(dataclasses.replace(everything, choices=bare), 200)
    assert "next type" not in text
    assert "verdict" not in text


def _renamed(scores, prefix: str):
    """Return scores whose types have a longer name."""

    def longer(row):
        names = {"type": prefix + row.type} | (
            {"host_type": prefix + row.host_type} if hasattr(row, "host_type") else {}
        )
        return dataclasses.replace(row, **names)

    return dataclasses.replace(
        scores,
        types=tuple(map(longer, scores.types)),
        sites=tuple(map(longer, scores.sites)),
        hosts=tuple(map(longer, scores.hosts)),
    )


def test_a_shared_beginning_is_said_once(scores) -> None:
    """Names of a tower were folded in the middle of a word at 80 columns."""
    prefix = "language_model.decoder.transformer.layers.block.shared_experts."
    long = _renamed(scores, prefix)
    text = as_text(long, 80)
    assert max(map(len, text.splitlines())) <= 80
    assert f"… stands for {prefix}" in text
    for name in scores.type_names():
        assert any(line.startswith(f"…{name} ") for line in text.splitlines())
    assert prefix not in as_text(scores, 80)
    assert as_text(long, 200).count(prefix) == len(scores.types)


def test_rows_are_stacked_where_names_share_nothing(scores) -> None:
    """A name is never cut in two, however narrow the place."""
    text = as_text(scores, 20)
    table = text[: text.index("Coverage")]
    for row in scores.types:
        assert row.type in table.splitlines()
        assert f"  NFN: {row.nfn:.3f}" in table


def test_a_tie_says_which_type_was_chosen(scores) -> None:
    from plop_lora.records import BoundaryPair, Stopping

    first, last = scores.type_names()[0], scores.type_names()[-1]
    pair = BoundaryPair(first, last, 0.01, -0.02, 0.04)
    stopping = Stopping("adaptive", "decided", True, 24, 24, 3, 0.03, 0.95, ties=(pair,))
    text = as_text(dataclasses.replace(scores, stopping=stopping), 120)
    assert f"Tie in practice: {first} was chosen and {last} was not" in text
    assert f"{last} minus {first} is +0.010" in text
