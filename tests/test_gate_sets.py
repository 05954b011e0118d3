"""The bundled sets of the gate, and a user's files of the same form. No torch."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
import tomllib
import zipfile
from collections import Counter
from pathlib import Path

import pytest

from plop_lora.data.gate_sets import (
    CATEGORIES,
    LANGUAGES,
    SLOTS,
    gate_prompts,
    held_out,
    labelled_answers,
    pairs,
    read_answers,
    read_prompts,
    read_templates,
    templates,
)
from plop_lora.errors import DataError, UsageError

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "src" / "plop_lora" / "data" / "gate"
KANA = re.compile("[\u3041-\u30ff]")
JAPANESE = re.compile("[\u3041-\u30ff\u4e00-\u9fff]")


def _grams(text: str) -> set[str]:
    """Return what two texts are compared by: pairs of characters, without spaces and signs."""
    plain = re.sub(r"[\W_]", "", text.casefold())
    return {plain[at : at + 2] for at in range(len(plain) - 1)}


def _likeness(one: str, other: str) -> float:
    first, second = _grams(one), _grams(other)
    return len(first & second) / len(first | second) if first | second else float(one == other)


# --------------------------------------------------------------------------- prompts


@pytest.mark.parametrize("language", LANGUAGES)
def test_prompts_are_balanced(language: str) -> None:
    """A rate over an unbalanced set would be the rate of its largest category."""
    prompts = gate_prompts(language)
    assert len(prompts) == 120
    counts = Counter((prompt.category, prompt.harmful) for prompt in prompts)
    assert counts == dict.fromkeys(itertools.product(CATEGORIES, (True, False)), 5)
    assert {prompt.category for prompt in prompts[:24]} == set(CATEGORIES)


@pytest.mark.parametrize("language", LANGUAGES)
def test_prompts_are_in_their_language(language: str) -> None:
    for prompt in gate_prompts(language):
        assert prompt.language == language
        assert 20 <= len(prompt.prompt) * (2 if language == "ja" else 1) <= 140
        assert bool(KANA.search(prompt.prompt)) == (language == "ja")
        assert bool(re.search("[A-Za-z]{2}", prompt.prompt)) == (language == "en")


@pytest.mark.parametrize("language", LANGUAGES)
def test_twins_stand_together_and_share_words(language: str) -> None:
    """A twin of other words would be declined or answered for its topic, not for its wording."""
    prompts = gate_prompts(language)
    for harmful, harmless in zip(prompts[::2], prompts[1::2], strict=True):
        assert (harmful.harmful, harmless.harmful) == (True, False)
        assert (harmful.twin, harmless.twin) == (harmless.id, harmful.id)
        likeness = {_likeness(harmful.prompt, p.prompt): p for p in prompts if p != harmful}
        assert likeness[max(likeness)] == harmless, harmful.prompt


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_prompt_nearly_repeats_another(language: str) -> None:
    """Only twins resemble each other, and they are not the same."""
    for one, other in itertools.combinations(gate_prompts(language), 2):
        most = 0.9 if one.twin == other.id else 0.4
        assert _likeness(one.prompt, other.prompt) < most, (one.prompt, other.prompt)


@pytest.mark.parametrize("language", LANGUAGES)
def test_openings_vary(language: str) -> None:
    """Prompts that all begin alike would measure one wording."""
    size = 4 if language == "ja" else 12
    openings = Counter(prompt.prompt[:size] for prompt in gate_prompts(language) if prompt.harmful)
    assert max(openings.values()) <= 6


# --------------------------------------------------------------------------- answers


def test_answers_are_balanced_and_differ() -> None:
    answers = labelled_answers()
    assert Counter((a.language, a.refuses) for a in answers) == dict.fromkeys(
        itertools.product(LANGUAGES, (True, False)), 52
    )
    for language in LANGUAGES:
        texts = [answer.text for answer in answers if answer.language == language]
        assert len(set(texts)) == len(texts)
        likest = max(
            itertools.combinations(filter(_grams, texts), 2), key=lambda two: _likeness(*two)
        )
        assert _likeness(*likest) < 0.7, likest


def test_answers_are_in_their_language() -> None:
    for answer in labelled_answers():
        if answer.language == "en":
            assert not JAPANESE.search(answer.text)
        elif answer.text.strip("。"):
            assert JAPANESE.search(answer.text)


def test_half_of_the_answers_is_held_out() -> None:
    answers = labelled_answers()
    kept = held_out(answers)
    assert set(Counter((a.language, a.refuses) for a in kept).values()) == {26}
    assert kept == held_out(answers)
    assert kept[0] == answers[1]


# --------------------------------------------------------------------------- templates


@pytest.mark.parametrize("language", LANGUAGES)
def test_templates_are_balanced_and_differ(language: str) -> None:
    rows = templates(language)
    assert Counter(row.slot for row in rows) == dict.fromkeys(SLOTS, 11)
    for one, other in itertools.combinations(rows, 2):
        assert _likeness(one.template, other.template) < 0.5
    for row in rows:
        assert bool(KANA.search(row.template)) == (language == "ja")
        words = [word for group in row.groups.values() for word in group]
        assert len(set(words)) == len(words)


@pytest.mark.parametrize("language", LANGUAGES)
def test_pairs_differ_in_the_slot_alone(language: str) -> None:
    for row in templates(language):
        expanded = pairs(row)
        sizes = len(row.groups), len(next(iter(row.groups.values())))
        assert len(expanded) == sizes[0] * (sizes[0] - 1) // 2 * sizes[1]
        before, after = row.template.split(f"{{{row.slot}}}")
        for pair in expanded:
            assert pair.prompts[0] != pair.prompts[1]
            assert all(p.startswith(before) and p.endswith(after) for p in pair.prompts)
            assert not any("{" in prompt for prompt in pair.prompts)


def test_no_gendered_pronoun_gives_the_group_away() -> None:
    """`her` after a man's name would ask another question than the pair is meant to ask."""
    for row in templates("en"):
        assert not re.search(r"\b(he|she|him|her|his|hers)\b", row.template, re.IGNORECASE), row


# --------------------------------------------------------------------------- files

PROMPT = {
    "id": "a", "twin": "b", "language": "en", "category": "drugs", "harmful": True, "prompt": "Q",
}  # fmt: skip
TWIN = PROMPT | {"id": "b", "twin": "a", "harmful": False}
TEMPLATE = {
    "id": "a", "template": "Ask {name}.", "slot": "name", "groups": {"x": ["Ann"], "y": ["Bob"]},
}  # fmt: skip
ANSWER = {"language": "ja", "text": "", "refuses": False}


def _file(folder: Path, *rows: dict[str, object]) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_files_of_the_user(tmp_path: Path) -> None:
    assert [prompt.id for prompt in read_prompts(_file(tmp_path, PROMPT, TWIN))] == ["a", "b"]
    assert read_answers(_file(tmp_path, ANSWER))[0].text == ""
    (pair,) = pairs(read_templates(_file(tmp_path, TEMPLATE))[0])
    assert pair.prompts == ("Ask Ann.", "Ask Bob.")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([PROMPT], "row 1: no row has the id of the twin, 'b'"),
        ([PROMPT, TWIN | {"harmful": True}], "'a' and 'b' are no twins"),
        ([PROMPT, TWIN | {"category": "fraud"}], "'a' and 'b' are no twins"),
        ([PROMPT, TWIN | {"twin": "b"}], "'a' and 'b' are no twins"),
        ([PROMPT, PROMPT], "row 2: row 1 has the id 'a' too"),
        ([PROMPT | {"harmful": "yes"}], "'harmful' must be true or false, and is 'yes'"),
        ([PROMPT | {"category": "drug"}], "Did you mean 'drugs'"),
        ([PROMPT | {"language": "fr"}], "'language' is 'fr'; allowed are en, ja"),
        ([PROMPT | {"prompt": " "}], "'prompt' is empty"),
        ([{"id": "a"}], "'twin' must be a text, and is None"),
    ],
)
def test_prompts_that_cannot_be_used(
    tmp_path: Path, rows: list[dict[str, object]], message: str
) -> None:
    with pytest.raises(DataError, match=re.escape(message)):
        read_prompts(_file(tmp_path, *rows))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"template": "Ask {region}."}, "must hold {name} once"),
        ({"template": "{name}, ask {name}."}, "must hold {name} once"),
        ({"slot": "town"}, "allowed are name, gender, region"),
        ({"groups": ["Ann"]}, "'groups' must be an object"),
        ({"groups": {"x": ["Ann"]}}, "two or more"),
        ({"groups": {"x": ["Ann"], "y": []}}, "equally long and not empty"),
        ({"groups": {"x": [], "y": []}}, "equally long and not empty"),
        ({"groups": {"x": "Ann", "y": "Bob"}}, "a list of texts"),
        ({"groups": {"x": [""], "y": ["Bob"]}}, "a list of texts"),
    ],
)
def test_templates_that_cannot_be_used(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    with pytest.raises(DataError, match=re.escape(message)):
        read_templates(_file(tmp_path, TEMPLATE | change))


def test_answers_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="row 2: 'refuses' must be true or false"):
        read_answers(_file(tmp_path, ANSWER, ANSWER | {"refuses": 1}))
    with pytest.raises(DataError, match="No data at"):
        read_answers(tmp_path / "absent.jsonl")


@pytest.mark.parametrize("load", [gate_prompts, templates])
def test_a_language_without_a_set(load) -> None:
    with pytest.raises(UsageError, match="no language 'jp', only en and ja"):
        load("jp")


# --------------------------------------------------------------------------- the package


def test_the_licence_names_every_file() -> None:
    note = (FOLDER / "LICENSE.md").read_text(encoding="utf-8")
    assert "Apache License 2.0" in note
    assert set(re.findall(r"`([\w-]+\.jsonl)`", note)) == {p.name for p in FOLDER.glob("*.jsonl")}


def test_the_sets_load_without_torch() -> None:
    code = (
        "import sys; from plop_lora.data.gate_sets import gate_prompts, templates; "
        "gate_prompts('en'); templates('ja'); assert not {'torch', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_sets_are_in_the_wheel(tmp_path: Path) -> None:
    """A wheel of the code alone would fail at a user's first gate."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    targets = project["tool"]["hatch"]["build"]["targets"]
    assert targets["wheel"] == {"packages": ["src/plop_lora"]}
    wheel = pytest.importorskip("hatchling.builders.wheel")
    path = next(wheel.WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"]))
    names = {Path(name).name for name in zipfile.ZipFile(path).namelist() if "data/gate/" in name}
    assert names == {path.name for path in FOLDER.iterdir()}
