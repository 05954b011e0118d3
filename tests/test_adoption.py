"""The guide for adoption: every number stands on a page that measured it, and commands exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml

from plop_lora.cli import COMMANDS, command_of

DOCS = Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "adoption.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE))
STAGES = {title: text for title, text in SECTIONS.items() if title[0].isdigit()}
PHRASES = yaml.safe_load((DOCS / "phrases.yaml").read_text(encoding="utf-8"))
NUMBER = re.compile(r"[+−]?\d[\d,]*(?:\.\d+)?")


def prose(text: str) -> str:
    """Return a section without code, links, and the part that is written from data."""
    text = re.sub(r"```.*?```|<!-- study -->.*?<!-- end of study -->", "", text, flags=re.DOTALL)
    return re.sub(r"\]\([^)]*\)|!\[[^]]*", "", text)


def numbers(text: str) -> set[str]:
    """Return the numbers of a text that are more than a digit, without signs."""
    found = (number.strip("+−,") for number in NUMBER.findall(text))
    return {number for number in found if len(number) > 1}


def linked(text: str) -> str:
    """Return the text of the pages that a section links to."""
    names = set(re.findall(r"\]\(([\w/-]+\.md)", text))
    return " ".join((DOCS / name).read_text(encoding="utf-8") for name in names)


@pytest.mark.parametrize("title", SECTIONS)
def test_a_number_stands_on_a_page_that_the_section_links_to(title: str) -> None:
    """No number of the guide is made up: a run of ours has it, on a page that is named."""
    text = re.sub(r"SmolLM2-135M|GSM8K|all-MiniLM-L6-v2|H200|A/B", "", prose(SECTIONS[title]))
    assert numbers(text) <= numbers(linked(SECTIONS[title]))


def test_a_number_that_no_page_has_is_found() -> None:
    """The control of the test above."""
    text = "It took 123.45 s ([example](example.md))."
    assert numbers(prose(text)) - numbers(linked(text)) == {"123.45"}


@pytest.mark.parametrize("title", STAGES)
def test_a_stage_says_who_what_it_costs_what_to_show_and_when_to_stop(title: str) -> None:
    for part in (
        "**Who.**",
        "```sh\nplop ",
        "**What it costs.**",
        "**What to show.**",
        "**Stop if**",
    ):
        assert part in STAGES[title], part


def test_the_table_names_the_stages() -> None:
    assert len(STAGES) == 5
    table = PAGE.partition("## 1.")[0]
    anchors = re.findall(r"\(#([\w-]+)\)", table)
    made = [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in STAGES]
    assert anchors == made


@pytest.mark.parametrize("page", ["adoption.md", "comparison.md", "phrases.md", "questions.md"])
def test_commands_are_commands_with_options_that_exist(page: str) -> None:
    """What a manager copies from a page has to start."""
    blocks = re.findall(r"```sh\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL)
    for line in "".join(blocks).replace("\\\n", "").splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] != ["plop"]:
            continue
        name = next(n for n in sorted(COMMANDS, key=len, reverse=True)
                    if words[1 : 1 + len(n.split())] == n.split())  # fmt: skip
        known = {option for p in command_of(name).params for option in p.opts + p.secondary_opts}
        assert {word for word in words if word.startswith("-")} - {"-o"} <= known, line


@pytest.mark.parametrize("row", PHRASES, ids=lambda row: row["say"])
def test_a_phrase_has_its_limit_and_its_source_in_both_languages(row: dict) -> None:
    assert (DOCS / row["source"]).is_file()
    for words in (row, row["ja"]):
        assert all(words[key].strip() for key in ("say", "follow", "never"))
        assert len(words["follow"]) > len(words["say"])
    holes = [
        re.findall(r"\{\w+\}|\[", words["follow"] + words["never"]) for words in (row, row["ja"])
    ]
    assert sorted(holes[0]) == sorted(holes[1])
