"""Japanese pages say what the English ones say: same headings, numbers, code, links and pictures.

A page whose English side has changed is found by what is no longer the same. The words themselves
cannot be compared by a program.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from plop_lora.reports.text import LANGUAGES

DOCS = Path(__file__).parents[1] / "docs"
JAPANESE = DOCS / "ja"
PAGES = sorted(path.relative_to(JAPANESE).as_posix() for path in JAPANESE.rglob("*.md"))
WANTED = {"index.md", "tutorial.md", "questions.md", "adoption.md", "phrases.md"}
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")
WORDS = {"ten minutes": "10", "rows in ten": "10", "half an hour": "30", "half a minute": "30",
         "hour and a quarter": "15", "forty families": "40", "of ten placements": "10",
         "million": "M"}  # fmt: skip
"""Numbers that English spells out and Japanese writes in digits."""
SOURCE = re.compile(r"<!-- (study|phrases)(-ja)? -->.*?<!-- end of \1\2? -->", re.DOTALL)
"""Parts that are written from data in both languages; `test_docs_tables.py` tests them."""


def read(page: str) -> tuple[str, str]:
    """Return the English and the Japanese page."""
    return tuple((folder / page).read_text(encoding="utf-8") for folder in (DOCS, JAPANESE))


def prose(page: str) -> str:
    """Return a page without its code blocks and the parts that are written from data."""
    return SOURCE.sub("", BLOCK.sub("", page))


def slug(heading: str) -> str:
    """Return the address that the site gives to an English heading."""
    return re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower())


def headings(page: str) -> list[tuple[str, str]]:
    return re.findall(r"^(#+) (.+)$", prose(page), re.MULTILINE)


def code(page: str) -> list[tuple[str, str]]:
    """Return the code blocks; comments of a shell are words, and are left out."""
    return [
        (
            language,
            re.sub(r"\s+# .*$", "", block, flags=re.MULTILINE) if language == "sh" else block,
        )
        for language, block in BLOCK.findall(page)
    ]


def numbers(page: str) -> Counter[str]:
    """Return the numbers of two signs or more, links and pictures' files apart."""
    text = re.sub(r"\]\([^)]*\)|\{ #[^}]*\}|<[^>]*>", "", prose(page))
    for words, digits in WORDS.items():
        text = text.replace(words, digits)
    return Counter(number for found in NUMBER.findall(text) if len(number := found.strip(",.")) > 1)


def targets(page: str) -> Counter[str]:
    return Counter(re.findall(r"\]\(([^)]+)\)", prose(page)))


def test_the_pages_that_a_first_reader_needs_are_there() -> None:
    assert set(PAGES) >= WANTED
    assert all((DOCS / page).is_file() for page in PAGES)


@pytest.mark.parametrize("page", PAGES)
def test_headings_correspond(page: str) -> None:
    """Their addresses are those of the English page, so that a link holds in both languages."""
    english, japanese = map(headings, read(page))
    assert [level for level, _ in english] == [level for level, _ in japanese]
    for (level, title), (_, translated) in zip(english, japanese, strict=True):
        if level != "#":
            assert translated.endswith(f" {{ #{slug(title)} }}"), title


@pytest.mark.parametrize("page", PAGES)
def test_code_is_the_same(page: str) -> None:
    english, japanese = map(code, read(page))
    assert english == japanese


@pytest.mark.parametrize("page", PAGES)
def test_numbers_are_the_same(page: str) -> None:
    english, japanese = map(numbers, read(page))
    assert english == japanese


@pytest.mark.parametrize("page", PAGES)
def test_links_and_pictures_are_the_same(page: str) -> None:
    english, japanese = map(targets, read(page))
    assert english == japanese


@pytest.mark.parametrize("page", PAGES)
def test_no_paragraph_was_left_in_english(page: str) -> None:
    _, japanese = read(page)
    for paragraph in re.split(r"\n\s*\n", prose(japanese)):
        text = re.sub(r"\]\([^)]*\)|`[^`]*`|<[^>]*>|\{[^}]*\}", "", paragraph)
        if len(re.findall(r"[A-Za-z]{3,}", text)) > 6:
            assert re.search(r"[\u3041-\u30ff]", text), paragraph


@pytest.mark.parametrize("page", PAGES)
def test_sentences_are_polite_and_marks_are_japanese(page: str) -> None:
    """Running text is in the polite form; captions, cells and descriptions of pictures are not."""
    text = re.sub(r"!\[[^]]*\]\([^)]*\)", "", prose(read(page)[1]))
    lines = [line for line in text.splitlines() if not line.startswith(("|", "#", "<", "-"))]
    plain = re.findall(r"[^。]*(?:である|だ|ない|った|する)。", " ".join(lines))
    assert plain == []
    assert not re.search(r"[\u3041-\u9fff][,;!?]", text)
    assert not re.search(r"[\u3041-\u9fff]\.(?:\s|$)", text)


@pytest.mark.parametrize("page", PAGES)
def test_a_paragraph_is_one_line(page: str) -> None:
    """A line break becomes a space, which Japanese has not between sentences."""
    text = prose(read(page)[1])
    broken = re.findall(r"[\u3041-\u9fff。、）]\n[\u3041-\u9fffA-Za-z`\[（]", text)
    assert broken == []


def test_words_are_those_of_the_report() -> None:
    """Whoever reads a page and a report must not meet two words for one thing."""
    report = LANGUAGES["ja"]
    pages = " ".join(read(page)[1] for page in PAGES)
    for key in (
        "group.rival", "group.shortlist", "word.cannot separate", "word.confirmed",
        "word.not enough data", "word.decided", "word.beaten", "column.type",
    ):  # fmt: skip
        assert report[key] in pages, key
    for other in ("アダプタを", "アダプタは", "ライバル", "マージン", "パラメータ数", "サーバが"):
        assert other not in pages


# --------------------------------------------------------------------------- controls


@pytest.mark.parametrize(
    ("changed", "found"),
    [
        (lambda text: text.replace("0.026", "0.027"), numbers),
        (lambda text: text.replace("--budget 0.5%", "--budget 5%"), code),
        (lambda text: text.replace("## ", "### ", 1), lambda text: [h[0] for h in headings(text)]),
        (lambda text: text.replace("(gate.md)", "(evidence.md)"), targets),
    ],
)
def test_a_page_that_falls_behind_is_noticed(changed, found) -> None:
    english, japanese = read("questions.md")
    assert changed(english) != english
    assert found(changed(english)) != found(japanese)
