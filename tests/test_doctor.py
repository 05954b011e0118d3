"""`plop doctor`: what it finds, what it calls a problem, and what it never shows."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from importlib import metadata

import pytest

from plop_lora.installation import BUNDLES, NAME, examine
from plop_lora.records import Finding, Installation

Run = Callable[..., tuple[int, str, str]]


def found(record: Installation, name: str) -> Finding:
    (one,) = (finding for finding in record.findings if finding.name == name)
    return one


@pytest.fixture
def versions(monkeypatch: pytest.MonkeyPatch) -> dict[str, str | None]:
    """Versions that a test pretends to have installed; None is for not installed."""
    pretended: dict[str, str | None] = {}
    real = metadata.version

    def version(name: str) -> str:
        if name not in pretended:
            return real(name)
        value = pretended[name]
        if value is None:
            raise metadata.PackageNotFoundError(name)
        return value

    monkeypatch.setattr(metadata, "version", version)
    return pretended


def test_every_requirement_and_extra_has_its_line(run: Run) -> None:
    code, output, errors = run("doctor")
    assert code == 0, errors
    record = examine()
    extras = set(metadata.metadata(NAME).get_all("Provides-Extra") or ()) - set(BUNDLES)
    names = [finding.name for finding in record.findings]
    assert len(names) == len(set(names))
    assert extras < set(names)
    for name in ("torch", "transformers", "peft", "device", "dtype", "cpu", "hub"):
        assert name in names
        assert name in output


@pytest.mark.parametrize(("version", "shown"), [("0.1", "0.1"), (None, "not installed")])
def test_a_requirement_that_is_missing_or_too_old(
    run: Run, versions: dict[str, str | None], version: str | None, shown: str
) -> None:
    """A verb would fail later, with an error of the other library."""
    versions["peft"] = version
    finding = found(examine(), "peft")
    assert (finding.value, finding.sound) == (shown, False)
    assert finding.advice.startswith("pip install 'peft>=")
    code, output, _ = run("doctor")
    assert code == 1
    assert "missing or too old" in output


def test_an_extra_that_lacks_something_is_no_problem(versions: dict[str, str | None]) -> None:
    versions["optuna"] = None
    record = examine()
    assert record.sound
    assert found(record, "tune").value == "lacks optuna"
    assert found(record, "tune").advice == "pip install 'plop-lora[tune]'"


def test_a_cache_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLOP_CACHE", "1")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    record = examine()
    assert not found(record, "expected norms").sound
    assert record.exit_code == 1
    monkeypatch.setenv("PLOP_CACHE", "0")
    assert found(examine(), "expected norms").sound


def test_nothing_secret_is_shown(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The output is made to be pasted into a public report of a problem."""
    for name in ("HF_TOKEN", "OPENAI_API_KEY", "PLOP_DATABASE", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "a-secret-word")
    code, output, errors = run("doctor", "--format", "json")
    assert code == 0
    assert "a-secret-word" not in output + errors
    again = Installation.from_dict(json.loads(output))
    assert json.loads(again.to_json()) == json.loads(output)
    assert {one.name for one in again.findings} == {one.name for one in examine().findings}
