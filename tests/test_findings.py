"""What a report shows of the project's study: the nearest network, or that there is none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from builders import model_reference, placement
from transformers.models.auto import modeling_auto

from plop_lora.records import GateVerdict, ModelReference
from plop_lora.reports.page import markdown_page, results_of
from plop_lora.reports.page.blocks import Section
from plop_lora.reports.page.sections import study
from plop_lora.reports.text import LANGUAGES, text
from plop_lora.study.findings import (
    FAMILIES,
    Findings,
    PooledFinding,
    StudiedNetwork,
    family_of,
    findings,
)


def section(model: ModelReference, language: str = "en") -> Section:
    """Return what the page of a placement says of the study."""
    page = results_of([placement(model=model)], language)
    (found,) = [section for section in page.sections if section.name == "study"]
    return found


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize(
    ("architecture", "network"),
    [
        ("LlamaForCausalLM", "smollm2"), ("Qwen3ForCausalLM", "smollm2"),
        ("Gemma2ForCausalLM", "gemma3"), ("Gemma3ForConditionalGeneration", "gemma3"),
        ("BertForSequenceClassification", "minilm"), ("XLMRobertaModel", "minilm"),
    ],
)  # fmt: skip
def test_the_pairs_of_the_nearest_network_are_shown(architecture, network, language) -> None:
    found = section(model_reference(architecture=architecture, parameters=8_000_000_000), language)
    (table,) = found.tables
    pairs = [pair for pair in findings().pairs if pair.network == network]
    assert len(pairs) >= 2
    assert [row[0] for row in table.rows] == [pair.name for pair in pairs]
    assert [row[2] for row in table.rows] == [f"{pair.correlation:+.2f}" for pair in pairs]
    regret = f"{100 * pairs[0].regrets['plop']:+.1f}"
    assert table.rows[0][3] == text(language)("percent", number=regret)
    title = next(one.title for one in findings().networks if one.name == network)
    assert title in found.lines[1]
    assert "8,000,000,000" in found.lines[1]


@pytest.mark.parametrize(
    "architecture", ["MambaForCausalLM", "RwkvForCausalLM", "T5ForConditionalGeneration", ""]
)
def test_without_one_like_it_the_page_says_so(architecture: str) -> None:
    """Rows of another family would be read as rows for this model."""
    found = section(model_reference(architecture=architecture))
    assert found.tables == ()
    assert found.lines[1].startswith(f"None of its networks is like this model ({architecture})")
    assert all(one.title in found.lines[1] for one in findings().networks)


def test_what_all_pairs_say_is_there_in_any_case() -> None:
    """A mean without its interval would pass for a proof."""
    together = findings().pooled
    for architecture in ("LlamaForCausalLM", "MambaForCausalLM"):
        lines = section(model_reference(architecture=architecture)).lines
        assert f"is {together.rho:+.2f} (95 % interval {together.low:+.2f} to" in lines[2]
        assert lines[3].startswith("The interval holds 0") == (not together.shown)


def test_an_interval_beside_0_is_not_called_open(monkeypatch) -> None:
    shown = replace(findings(), pooled=PooledFinding(-0.5, -0.7, -0.3, 0.01))
    monkeypatch.setattr(study, "findings", lambda: shown)
    assert section(model_reference()).lines[3] == text("en")("study.shown")
    assert not PooledFinding(-0.5, None, None, 0.5).shown
    one = replace(findings(), pooled=PooledFinding(-0.5, None, None, 0.5))
    monkeypatch.setattr(study, "findings", lambda: one)
    assert "not known, with one network" in section(model_reference()).lines[2]


def test_of_a_family_the_nearest_in_size() -> None:
    networks = tuple(
        StudiedNetwork(f"{size}", f"{size}", "LlamaForCausalLM", size) for size in (10, 100, 1000)
    )
    found = Findings(networks, (), PooledFinding(0.0, None, None, 1.0))
    nearest = [found.nearest("LlamaForCausalLM", size).parameters for size in (1, 40, 300, 9999)]
    assert nearest == [10, 100, 100, 1000]
    assert found.nearest("LlamaForCausalLM", 0).parameters == 10
    assert "is not known" in section(model_reference(parameters=0)).lines[1]


def test_families_are_of_classes_that_there_are() -> None:
    """A name that no class begins with matches nothing, and nobody notices."""
    known = {*modeling_auto.MODEL_MAPPING_NAMES.values()}
    known |= {*modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()}
    names = {name for value in known for name in ((value,) if isinstance(value, str) else value)}
    stems = [stem for stems in FAMILIES.values() for stem in stems]
    assert len(set(stems)) == len(stems)
    assert {stem for stem in stems if not {f"{stem}Model", f"{stem}ForCausalLM"} & names} == set()
    assert {family_of(network.architecture) for network in findings().networks} == set(FAMILIES)


def test_the_section_is_in_markdown_and_not_in_a_notebook() -> None:
    page = results_of([placement()])
    assert "| bundled\\-" in markdown_page(page) or "| bundled-" in markdown_page(page)
    drawn = [section.name for section in placement().plot().page.sections]
    assert drawn == ["placement"]


def test_a_gate_alone_names_no_network() -> None:
    """A verdict does not say what its base is built like."""
    verdict = GateVerdict.load(Path(__file__).parent / "golden" / "gate-verdict-1.json")
    assert "study" not in [section.name for section in results_of([verdict]).sections]
