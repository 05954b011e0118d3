"""Personal data and secrets in rows: what is found, what is not taken for them, what never leaks.

The values are made up or published as examples; none belongs to a person or an account.
"""

from __future__ import annotations

import json
import logging
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from plop_lora.acquisition import EVAL_FILE, TRAIN_FILE, acquire
from plop_lora.acquisition.personal import Detection, scan
from plop_lora.cli import app
from plop_lora.data.reading import read_rows
from plop_lora.demo import DATA
from plop_lora.errors import PlopError, UsageError
from plop_lora.recipe.acquire import PERSONAL_KINDS, PersonalSettings
from plop_lora.records import Acquisition, Reason
from plop_lora.reports.acquisition import acquisition_markdown

GENERAL = Path(scan.__file__).parents[2] / "data"
PLANTED = {
    "email": ("maren.holt@quayside-tools.net", "k_ito+work@denki.co.jp"),
    "phone": ("+81 3-3210-4567", "090-1234-5678", "(212) 736-5000", "+442079460018"),
    "card": ("4111 1111 1111 1111", "378282246310005", "5555-5555-5555-4444"),
    "iban": ("DE89 3704 0044 0532 0130 00", "GB29NWBK60161331926819"),
    "my-number": ("1234-5678-9018", "マイナンバーは123456789018"),
    "ip-address": ("81.2.69.142", "2a02:cf40:add:4002:91f2:a9b2:e09a:6fc6"),
    "api-key": (
        "hf_" + "aBcDeFgHiJ" * 3 + "kLmN", "sk-ant-api03-" + "aB3d_" * 12,
        "sk-proj-" + "Zx9Yw8" * 8, "AKIA" + "IOSFODNN7ABCDEFG", "ghp_" + "a1B2c3" * 6,
    ),
    "password": ("postgres://app:plum-cart-71@db.internal/x",),
    "private-key": ("-----BEGIN OPENSSH PRIVATE KEY-----",),
}  # fmt: skip
NOT_PERSONAL = (
    "12 + 345 = 357 and 100-200-3000 is negative", "<<48/2=24>>24 #### 72", "1,234,567 - 89 = 7",
    "version 1.2.3.4 of 2026-03-02 12:30:45", "order 4111 1111 1111 1112", "123456789018 items",
    "4111111111111111.5 metres", "10.0.0.1 and 192.168.1.20 and 127.0.0.1", "555123456789012",
    "@app.route decorates", "a::b::c in C++", "sk-learn and hf_hub are names", "3 +12 345 678",
    "DE88 3704 0044 0532 0130 00", "ISBN 978-3-16-148410-0", "0.0712-3456", "2125551234",
)  # fmt: skip


def kinds(text: str, **settings: Any) -> Counter[str]:
    """Return the kinds that are found in a text."""
    with Detection.opened(PersonalSettings.model_validate(settings)) as detection:
        return Counter(kind for kind, _ in detection.find(text))


@pytest.fixture(params=["with the extra", "without"])
def extra(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both environments, as if nothing of the extra were installed in the second."""
    if request.param == "without":
        monkeypatch.setattr(scan, "_is_installed", lambda _: False)
    return str(request.param)


@pytest.mark.parametrize("kind", PLANTED)
@pytest.mark.usefixtures("extra")
def test_what_is_planted_is_found(kind: str) -> None:
    """Each stands in a sentence, at its end and in quotes; a kind is found once and as itself."""
    for value in PLANTED[kind]:
        for text in (f"It is {value} today.", f"write to {value}", f'{{"x": "{value}"}}'):
            assert kinds(text) == {kind: 1}, text


@pytest.mark.usefixtures("extra")
def test_numbers_are_not_taken_for_personal_data() -> None:
    """Sums, versions, private addresses and wrong check digits made a report that nobody reads."""
    texts, draw = list(NOT_PERSONAL), random.Random(0)
    for _ in range(500):
        a, b = (draw.randrange(10 ** draw.randrange(1, 9)) for _ in range(2))
        texts.append(f"{a} + {b} = {a + b}; {a:,} x {b / 100:.2f}; <<{a}-{b}={a - b}>>; (${a}) {b}")
    with Detection.opened(PersonalSettings.model_validate({})) as detection:
        assert [text for text in texts if list(detection.find(text))] == []


@pytest.mark.usefixtures("extra")
def test_the_bundled_texts_hold_none() -> None:
    """440 texts in English, Japanese and code, and 480 rows of the demo, 240 of them arithmetic."""
    files = [*DATA.glob("*.jsonl"), *(GENERAL / "general").glob("*.jsonl")]
    with Detection.opened(PersonalSettings.model_validate({})) as detection:
        rows = [row for file in files for row in read_rows(str(file))]
        found = scan.places_in("train", rows, range(len(rows)), detection.find)
    assert len(rows) == 780
    assert found == []


def test_what_the_library_adds() -> None:
    """Passwords beside a word for them, telephone numbers of more countries, more tokens."""
    assert kinds("password = 'plumcart71x'") == {"password": 1}
    assert kinds("slack: xoxb-1234567890-abcdEFGH1234abcdEFGH1234") == {"api-key": 1}
    assert kinds("Tel. 030 901820 00", regions=["DE"]) == {"phone": 1}
    assert kinds("password = 'plumcart71x'  # pragma: allowlist secret") == {"password": 1}
    assert not kinds("maren.holt@quayside-tools.net", kinds=["card"])
    assert kinds("x" * 20_000 + " ghp_" + "a1B2c3" * 6) == {"api-key": 1}
    assert kinds("ｍａｒｅｎ＠ｑｕａｙ．ｎｅｔ")["email"] == 0  # widths are dealt with in rows


def test_texts_that_are_made_to_take_long() -> None:
    """A pattern that backtracks takes minutes for a text of some hundred kilobytes."""
    parts = ("a@", "1234 ", "a.", "1:", "0", "-----BEGIN ", "://", "+1 2", "AB12 ", "0-1", "a:b@")
    with Detection.opened(PersonalSettings.model_validate({})) as detection:
        for part in parts:
            list(detection.find(part * (100_000 // len(part)) + "@"))


# --------------------------------------------------------------------------- rows


def rows_with_values() -> list[dict[str, Any]]:
    """Return rows with every value somewhere: in texts, lists, objects, numbers and names."""
    rows: list[dict[str, Any]] = [
        {"text": f"row {n} of apples and pears {n * 7}"} for n in range(40)
    ]
    values = [value for kind in PLANTED.values() for value in kind]
    for place, value in enumerate(values):
        rows[place]["text"] += f" {value}"
    rows[30]["extra"] = {"deep": [{"er": "card 4111111111111111"}], values[0]: 1}
    rows[31]["number"] = 4111111111111111
    rows[32][values[1]] = "named after somebody"
    rows[33]["wide"] = "０９０－１２３４－５６７８"
    rows[34]["e\x1b[2J\nvil"] = values[0]
    return rows


def secret_values() -> list[str]:
    return [value for kind in PLANTED.values() for value in kind if "BEGIN" not in value]


def test_values_never_leave_the_rows(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A report that quotes what it found is one more place where it stands."""
    monkeypatch.chdir(tmp_path)
    caplog.set_level(logging.DEBUG)
    Path("rows.jsonl").write_text("\n".join(map(json.dumps, rows_with_values())), encoding="utf-8")
    shown = []
    for action in ("count", "remove", "refuse"):
        words = ["acquire", "--train", "rows.jsonl", "--folder", action, "-o", f"{action}.md"]
        words += ["--set", f"acquire.personal.action={action}"]
        done = CliRunner().invoke(app, words)
        assert done.exit_code == (3 if action == "refuse" else 0), done.output
        shown += [done.output, Path(f"{action}.md").read_text()]
    record = Acquisition.load("count/acquisition.json")
    shown += [record.to_json(), repr(record), str(record), record._repr_html_(), caplog.text]
    shown += [acquisition_markdown(record), Path("count/acquisition.json").read_text()]
    for value in secret_values():
        assert not [text for text in shown if value in text], value
    assert not [text for text in shown if "\x1b" in text]
    assert {place.kind for place in record.personal} == set(PERSONAL_KINDS)
    by_row = {place.row: (place.field, place.kind) for place in record.personal}
    assert by_row[31] == ("extra", "email")
    assert by_row[32] == ("number", "card")
    assert by_row[33] == ("field 2", "email")
    assert by_row[34] == ("wide", "phone")
    assert by_row[35] == ("e\\x1b[2J\\nvil", "email")


def test_removed_rows_hold_none_afterwards(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows_with_values())), encoding="utf-8")
    settings = {"personal": {"action": "remove"}}
    record = acquire(train=str(path), folder=tmp_path / "out", acquire=settings)
    removed = {row for one in record.findings if one.reason is Reason.PERSONAL for row in one.rows}
    assert removed == {place.row for place in record.personal}
    left = "".join((tmp_path / "out" / name).read_text() for name in (TRAIN_FILE, EVAL_FILE))
    assert not [value for value in secret_values() if value in left]
    assert record.train_rows + record.eval_rows == 40 - len(removed) - sum(
        len(one.rows) for one in record.findings if one.reason is not Reason.PERSONAL
    )


@pytest.mark.parametrize(
    "keys",
    [
        {"task": "classify", "label": "nothing"},
        {"text": "text", "acquire": {"split": {"by": "time", "column": "text"}}},
        {"text": "number"},
        {"text": "extra"},
        {"text": "chat"},
        {"text": "tooled"},
        {"prompt": "{extra}", "completion": "{number}"},
        {"acquire": {"split": {"by": "group", "column": "same"}}},
    ],
)
def test_errors_do_not_quote_the_rows(keys: dict[str, Any], tmp_path: Path) -> None:
    """An error goes to logs and to bug reports, with the value that it was about."""
    nested = {"deep": secret_values()}
    message = {"role": "user", "content": nested}
    more = {"extra": nested, "number": 4111111111111111, "same": secret_values()[0],
            "chat": [message], "tooled": [message | {"content": [nested]}]}  # fmt: skip
    rows = [row | more for row in rows_with_values()[:20]]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    with pytest.raises(PlopError) as raised:
        acquire(keys, tmp_path / "out", train=str(path))
    for value in (*secret_values(), "4111111111111111"):
        assert value not in str(raised.value)


def test_the_record_says_what_looked(tmp_path: Path, extra: str) -> None:
    """A report of an environment without the libraries looked like one with them."""
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows_with_values())), encoding="utf-8")
    record = acquire(train=str(path), folder=tmp_path / "out")
    whole = extra == "with the extra"
    assert record.detectors[0] == "own patterns"
    assert len(record.detectors) == (3 if whole else 1)
    assert any("plop-lora[data]" in note for note in record.notes) is not whole
    with pytest.raises(UsageError, match="two letters"):
        acquire(train=str(path), acquire={"personal": {"regions": ["Japan"]}})
