"""The notebook of the examples runs from top to bottom, and shows what its cells show today."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "examples" / "placement.ipynb"
NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")


def runner() -> ModuleType:
    """Return the script that runs notebooks."""
    spec = importlib.util.spec_from_file_location("notebook", ROOT / "scripts" / "notebook.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def texts(notebook: dict[str, Any]) -> list[str]:
    """Return what the cells show, as text."""
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", ())]
    return ["".join(each.get("text") or each["data"]["text/plain"]) for each in outputs]


@pytest.fixture(scope="module")
def stored() -> dict[str, Any]:
    return json.loads(NOTEBOOK.read_text(encoding="utf-8"))


def test_it_is_a_notebook_that_every_viewer_opens(stored) -> None:
    """The format is that of nbformat 4.5, which asks for an id of each cell."""
    assert (stored["nbformat"], stored["nbformat_minor"]) == (4, 5)
    ids = [cell["id"] for cell in stored["cells"]]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"[\w-]{1,64}", name) for name in ids)
    keys = {"markdown": {"cell_type", "id", "metadata", "source"}}
    keys["code"] = keys["markdown"] | {"execution_count", "outputs"}
    for cell in stored["cells"]:
        assert set(cell) == keys[cell["cell_type"]]
    counts = [cell["execution_count"] for cell in stored["cells"] if cell["cell_type"] == "code"]
    assert counts == list(range(1, len(counts) + 1)), "run: python scripts/notebook.py NOTEBOOK"


def test_it_names_no_place_of_a_machine_and_loads_nothing(stored) -> None:
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert not re.search(r"/(home|tmp|root|Users|work)/", text)
    assert "<script" not in text
    assert "http" not in "".join(texts(stored))


def test_it_goes_from_scores_to_a_configuration(stored) -> None:
    source = "\n".join("".join(cell["source"]) for cell in stored["cells"])
    for step in ("plop.score(", "scores.plot()", "plop.place(", "to_peft()", "get_peft_model("):
        assert step in source


@pytest.mark.slow
def test_its_outputs_are_those_of_today(stored, tmp_path, monkeypatch) -> None:
    """Words are the same, and numbers but for the last digits, which differ between machines."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    before, now = texts(stored), texts(runner().run(stored))
    assert [NUMBER.sub("#", text) for text in before] == [NUMBER.sub("#", text) for text in now]
    for old, new in zip(before, now, strict=True):
        pairs = zip(NUMBER.findall(old), NUMBER.findall(new), strict=True)
        for one, other in pairs:
            values = [float(number.replace(",", "")) for number in (one, other)]
            assert values[0] == pytest.approx(values[1], abs=5e-3), (old, new)


def test_a_cell_shows_its_last_value_and_an_error_is_raised() -> None:
    """The controls: what is shown is what was computed, and a broken cell ends the run."""
    module = runner()
    names: dict[str, Any] = {}
    (shown,) = module.outputs_of("a = 20\na + 1", names, 1)
    assert shown["data"]["text/plain"] == ["21"]
    (printed,) = module.outputs_of("print(a)", names, 2)
    assert printed["text"] == ["20\n"]
    assert module.outputs_of("b = a", names, 3) == []
    with pytest.raises(ZeroDivisionError):
        module.outputs_of("a / 0", names, 4)
