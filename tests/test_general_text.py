"""The bundled general text, the user's own, and when a study has none. No torch."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from plop_lora.data.general_text import LANGUAGES, bundled_texts
from plop_lora.errors import DataError, UsageError
from plop_lora.recipe import GeneralRecipe
from plop_lora.study.general import general_text, read_texts
from plop_lora.study.splits import FOLDER, GENERAL, REPORT
from plop_lora.training.tasks import task_named

ROOT = Path(__file__).parents[1] / "src" / "plop_lora" / "data" / "general"
COUNTS = {"english": 120, "japanese": 100, "code": 80}
KANA = re.compile("[\u3041-\u30ff]")


def _rows(language: str) -> list[dict[str, str]]:
    lines = (ROOT / f"{language}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize("language", LANGUAGES)
def test_each_language_has_its_texts(language: str) -> None:
    texts = [row["text"] for row in _rows(language)]
    assert len(texts) == COUNTS[language]
    assert all(180 <= len(text) <= 500 for text in texts)
    shares = [len(KANA.findall(text)) / len(text) for text in texts]
    assert all(share > 0.3 if language == "japanese" else share == 0 for share in shares)


def test_the_programs_are_of_many_languages() -> None:
    assert len({row["language"] for row in _rows("code")}) >= 20


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_text_nearly_repeats_another(language: str) -> None:
    """Fifty variants of one sentence would count as fifty texts and be one."""
    grams = []
    for row in _rows(language):
        units = list(row["text"]) if language == "japanese" else row["text"].split()
        grams.append({tuple(units[at : at + 8]) for at in range(len(units) - 7)})
    for one, other in itertools.combinations(grams, 2):
        assert len(one & other) <= 0.1 * min(len(one), len(other))


def test_every_beginning_has_its_share_of_each_language() -> None:
    assert len(bundled_texts()) == len(set(bundled_texts())) == 300
    japanese = sum(bool(KANA.search(text)) for text in bundled_texts(30))
    assert japanese == 10
    assert bundled_texts(30) == bundled_texts(120)[:30]


def test_the_licence_stands_beside_the_texts() -> None:
    assert "Apache License 2.0" in (ROOT / "LICENSE.md").read_text(encoding="utf-8")


def test_the_texts_load_without_torch() -> None:
    code = (
        "import sys; from plop_lora.data.general_text import bundled_texts; bundled_texts(); "
        "assert not {'torch', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# --------------------------------------------------------------------------- a recipe's texts


def test_a_file_of_the_user(tmp_path: Path) -> None:
    lines, table = tmp_path / "lines.txt", tmp_path / "table.csv"
    lines.write_text("one sentence\nanother sentence\n")
    table.write_text("id,body\n1,first body\n2,second body\n")
    assert read_texts(GeneralRecipe(data=str(lines))) == ["one sentence", "another sentence"]
    bodies = read_texts(GeneralRecipe(data=str(table), text="body"))
    assert bodies == ["first body", "second body"]
    assert len(read_texts(GeneralRecipe(data=str(lines), most=1))) == 1


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.jsonl", None, "No data at"),
        ("empty.jsonl", "", "holds no rows"),
        ("numbers.csv", "a,b\n1,2\n3,4\n", "Cannot tell which field"),
    ],
)
def test_a_file_that_cannot_be_read(
    tmp_path: Path, name: str, content: str | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message) as caught:
        read_texts(GeneralRecipe(data=str(tmp_path / name)))
    assert "The general text cannot be read" in str(caught.value)
    assert "general.data and general.text" in str(caught.value)


def test_a_task_without_a_loss_on_text_has_none_and_says_why(tmp_path: Path) -> None:
    found = general_text(GeneralRecipe(), task_named("classify"), tmp_path)
    assert not found.texts
    assert "the task classify has no loss on text" in found.notes[0]


def test_a_folder_goes_on_as_it_was_begun(tmp_path: Path) -> None:
    """Trials of a run of a release without general text must not all train anew."""
    sft, data = task_named("sft"), tmp_path / FOLDER
    assert len(general_text(GeneralRecipe(), sft, tmp_path).texts) == 60
    assert general_text(GeneralRecipe(most=0), sft, tmp_path) == ((), ())
    data.mkdir()
    (data / REPORT).write_text("")
    found = general_text(GeneralRecipe(), sft, tmp_path)
    assert not found.texts
    assert "begun without general text" in found.notes[0]
    with pytest.raises(UsageError, match="begun without general text"):
        general_text(GeneralRecipe(most=20), sft, tmp_path)
    (data / GENERAL).write_text("")
    assert len(general_text(GeneralRecipe(), sft, tmp_path).texts) == 60
    with pytest.raises(UsageError, match=r"general\.most is 0 now"):
        general_text(GeneralRecipe(most=0), sft, tmp_path)
