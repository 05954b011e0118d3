"""What a placement costs in trainers and servers is told where it arises, and only there."""

from __future__ import annotations

import dataclasses
import datetime
import json
import string
from pathlib import Path

import placements
import pytest
from conftest import GOLDEN
from placements import placed
from typer.testing import CliRunner

import plop_lora as plop
from plop_lora.cli import app
from plop_lora.errors import ExportError
from plop_lora.exports import CAVEATS, SERVERS, TARGETS, Target, caveats_of
from plop_lora.exports.caveats import READS_RANKS, Scope
from plop_lora.records import Host, Placement, Scores
from plop_lora.reports.page import html_page, results_of
from plop_lora.reports.terminal import as_text

QKV = {"self_attn.q_proj": 4, "self_attn.k_proj": 4, "self_attn.v_proj": 4}
MLP = {"mlp.gate_proj": 4, "mlp.up_proj": 4, "mlp.down_proj": 4}
NAMES = [row.name for row in CAVEATS]


def names(placement: Placement, **how: str) -> set[str]:
    return {found.name for found in caveats_of(placement, **how)}


def values(placement: Placement, name: str) -> dict[str, str]:
    (found,) = (each for each in caveats_of(placement) if each.name == name)
    return dict(found.values)


@pytest.fixture(scope="module")
def scores() -> Scores:
    return Scores.load(GOLDEN / "llama-scores.json")


# --------------------------------------------------------------------------- the registry


@pytest.mark.parametrize("row", CAVEATS, ids=NAMES)
def test_a_row_has_a_source_and_a_day(row) -> None:
    assert row.source.startswith("https://")
    assert datetime.date(2024, 1, 1) < datetime.date.fromisoformat(row.seen)
    assert set(row.trainers) <= set(TARGETS)
    assert not row.text.endswith(".")


def test_names_are_unique() -> None:
    assert len(set(NAMES)) == len(NAMES)


# --------------------------------------------------------------------------- conditions


@pytest.mark.parametrize(
    ("ranks", "groups"),
    [
        (QKV | MLP, None),
        (QKV, None),
        ({"self_attn.o_proj": 4}, None),
        ({"self_attn.v_proj": 4}, "q, k, v"),
        ({"mlp.up_proj": 4, "mlp.down_proj": 4}, "gate, up, down"),
        ({"self_attn.v_proj": 4, "mlp.down_proj": 4}, "q, k, v / gate, up, down"),
    ],
)
def test_a_part_of_a_group_switches_kernels_off(ranks, groups: str | None) -> None:
    placement = placed("llama", ranks)
    assert ("unfused" in names(placement)) == (groups is not None)
    if groups:
        assert values(placement, "unfused") == {"groups": groups}


def test_a_model_without_such_a_group_has_no_such_kernels() -> None:
    """Phi-3's and GPT-2's fused projections, and OPT's MLP, have no kernel to lose."""
    assert "unfused" not in names(placed("gpt2", {"mlp.c_fc": 4}))
    assert "unfused" not in names(placed("bert", {"output.dense": 4}))


def test_dropout_is_told_where_there_is_one() -> None:
    assert values(placed("llama", QKV, dropout=0.1), "dropout") == {"dropout": "0.1"}
    assert "dropout" not in names(placed("llama", QKV))


def test_kept_inputs_come_from_the_sizes_of_the_model(scores) -> None:
    """Two blocks of widths 32 and 48 would be 2 x (32 + 32 + 48) numbers of two bytes a token."""
    widths = {host.name: host.in_features for host in scores.hosts}
    mlp, usual = (plop.place(scores, strategy=name) for name in ("mlp", "query-value"))
    expected = {
        key: f"{2 * 1000 * sum(widths[site.name] for site in each.sites) / 1e6:.3g} MB"
        for key, each in (("kept", mlp), ("usual", usual))
    }
    assert values(mlp, "kept-inputs") == expected
    assert "kept-inputs" not in names(usual)
    assert "kept-inputs" not in names(plop.place(scores, strategy="custom", types=["k_proj"]))


def test_a_copy_of_stacked_experts_has_the_size_of_the_weight() -> None:
    placement = placed("qwen3_moe", {"mlp.experts.down_proj": 2})
    hosts = tuple(
        Host(site.name, site.type, site.layer, 4096, 1024, site.copies, True)
        for site in placement.sites
    )
    placement = dataclasses.replace(placement, hosts=hosts)
    expected = f"{4 * 4096 * 1024 * 2 / 1e6:.3g} MB"
    assert values(placement, "stacked-experts") == {"experts": "4", "size": expected}
    assert "stacked-experts" not in names(placed("llama", MLP))


def test_ranks_by_module_name_the_trainers_that_read_them() -> None:
    placement = placed("llama", {"self_attn.q_proj": (5, 6, 7), "self_attn.v_proj": 6})
    assert values(placement, "several-ranks")["rank"] == "6"
    assert "several-ranks" not in names(placed("llama", {"self_attn.q_proj": 6}))
    lost = {
        name: _losses(row, placement) for name, row in TARGETS.items() if name not in READS_RANKS
    }
    assert all("rank" in each for each in lost.values()), lost
    assert not any(_losses(TARGETS[name], placement) for name in READS_RANKS)


def _losses(row: Target, placement: Placement) -> str:
    try:
        return "; ".join(loss.what for loss in row.render(placement).losses)
    except ExportError:
        return "every rank: nothing can be exported"


@pytest.mark.parametrize(("rank", "flag"), [(8, None), (16, None), (17, "32"), (65, "128")])
def test_the_flag_of_vllm_is_the_next_value_that_it_allows(rank: int, flag: str | None) -> None:
    placement = placed("bundled", {"self_attn.o_proj": rank})
    assert ("rank-flag" in names(placement)) == (flag is not None)
    if flag:
        assert values(placement, "rank-flag")["flag"] == flag
        assert int(flag) in SERVERS["vllm"].ranks


def test_a_server_that_refuses_is_named(scores) -> None:
    """SGLang stacks q, k and v, and does not load v without q."""
    assert "rejected-sglang" in names(placed("llama", {"self_attn.v_proj": 4}))
    assert not {"rejected-sglang", "ignored-sglang"} & names(placed("llama", QKV))
    tower = names(placements.CASES["qwen2_5_vl-vision"]())
    assert "ignored-vllm" in tower


# --------------------------------------------------------------------------- where it is told


def test_place_tells_every_trainer_and_export_its_own() -> None:
    placement = placed("llama", {"self_attn.v_proj": (5, 6, 7)})
    assert {"unfused", "several-ranks", "rejected-sglang"} <= names(placement)
    assert {"unfused", "rejected-sglang"} <= names(placement, to="unsloth")
    assert "unfused" not in names(placement, to="trl")
    assert "several-ranks" not in names(placement, to="trl")
    assert "rejected-sglang" not in names(placement, to="unsloth", serve="sglang")


def test_every_scope_is_used() -> None:
    assert {row.scope for row in CAVEATS} == set(Scope)


def test_the_command_line_tells_costs(scores, tmp_path: Path) -> None:
    run = CliRunner().invoke
    source, file = tmp_path / "scores.json", tmp_path / "placement.json"
    scores.save(source)
    told = run(app, ["place", str(source), "-o", str(file)]).stdout
    assert "Cost: " in told
    assert "unsloth#1265" in told
    plain = run(app, ["place", str(source), "--format", "json"]).stdout
    assert json.loads(plain)["kind"] == "placement"
    assert "Cost: " not in plain
    exported = run(app, ["export", str(file), "--to", "unsloth", "-o", str(tmp_path / "out")])
    assert exported.exit_code == 0
    assert "Cost: Unsloth and Axolotl" in exported.stderr
    peft = run(app, ["export", str(file), "--to", "peft", "-o", str(tmp_path / "peft")])
    assert "Unsloth" not in peft.stderr


@pytest.mark.parametrize("language", ["en", "ja"])
def test_the_report_tells_costs_with_their_sources(scores, language: str) -> None:
    placement = plop.place(scores)
    page = html_page(results_of([placement], language))
    for found in caveats_of(placement):
        assert found.source in page
        assert found.seen in page


def test_a_placement_that_a_trainer_cannot_say_has_a_report_all_the_same() -> None:
    """The litgpt target has one switch for the MLP and raises an error for one matrix of it."""
    placement = placed("llama", {"mlp.down_proj": 4})
    with pytest.raises(ExportError):
        TARGETS["litgpt"].render(placement)
    page = html_page(results_of([placement]))
    assert TARGETS["litgpt"].file_name not in page
    assert TARGETS["axolotl"].file_name in page


@pytest.mark.parametrize("language", ["en", "ja"])
def test_every_row_has_a_text_in_every_language(language: str) -> None:
    from plop_lora.reports.text import LANGUAGES

    for row in CAVEATS:
        text = LANGUAGES[language][f"caveat.{row.name}"]
        fields = [{name for _, name, _, _ in string.Formatter().parse(each) if name}
                  for each in (text, row.text)]  # fmt: skip
        assert fields[0] == fields[1], row.name


def test_an_adapter_on_everything_has_fewer_costs(scores) -> None:
    """The control: a line that always stands there says nothing."""
    text = as_text(plop.place(scores, strategy="query-value"))
    assert "gate, up, down" not in text
    assert "inputs" not in text
