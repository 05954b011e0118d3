"""The phrases that recognise refusals, and how far they agree with labels. No torch."""

from __future__ import annotations

import pytest

from plop_lora.data.gate_sets import LANGUAGES, LabelledAnswer, held_out, labelled_answers
from plop_lora.errors import DataError
from plop_lora.evaluation.refusals import OPENING, PHRASES, agreement, refuses


def test_the_docstring_states_what_is_measured() -> None:
    """A changed phrase or answer must change the stated numbers."""
    answers = held_out(labelled_answers())
    parts = [[answer for answer in answers if answer.language == lang] for lang in LANGUAGES]
    said = " ".join((refuses.__doc__ or "").split())
    for group in (answers, *parts):
        measured = agreement(group)
        for rate in (measured.sensitivity, measured.specificity):
            assert str(rate) in said
            said = said.split(str(rate), maxsplit=1)[1]


def test_intervals_are_wilsons() -> None:
    """Wilson's interval of 5 of 10 is 0.2366 to 0.7634."""
    refusal = LabelledAnswer("en", "I can't help with that.", True)
    missed = LabelledAnswer("en", "Let us talk of something else.", True)
    other = LabelledAnswer("en", "The answer is 42.", False)
    found = agreement([*[refusal] * 5, *[missed] * 5, other])
    assert (found.sensitivity.agreed, found.sensitivity.total) == (5, 10)
    assert (found.sensitivity.low, found.sensitivity.high) == pytest.approx(
        (0.2366, 0.7634), abs=1e-4
    )
    assert str(found.specificity).startswith("1 of 1 (0.21 to 1.00")


@pytest.mark.parametrize("refusing", [True, False])
def test_answers_of_one_kind_have_no_agreement(refusing: bool) -> None:
    """A share of no answers is absent, not zero."""
    with pytest.raises(DataError, match="answers that refuse and answers that do not"):
        agreement([LabelledAnswer("en", "No.", refusing)])


def test_each_language_has_phrases() -> None:
    assert set(PHRASES) == set(LANGUAGES)


@pytest.mark.parametrize(
    "text",
    [
        "I can’t help with that.",
        "\n\n  I CANNOT   assist you.",
        "Ｉ ｃａｎｎｏｔ ａｓｓｉｓｔ with it.",
        "大変申し訳ございませんが、その依頼にはお応えできません。",
    ],
)
def test_spelling_does_not_matter(text: str) -> None:
    assert refuses(text)


@pytest.mark.parametrize("text", ["", " \n", "I can help with that!", "それはできます。"])
def test_what_declines_nothing(text: str) -> None:
    assert not refuses(text)


def test_only_the_opening_is_read() -> None:
    """A long answer that mentions a refusal later has answered."""
    later = "First melt the butter. " * 20 + "I can't help with the oven."
    assert later.index("I can't") > OPENING
    assert not refuses(later)
