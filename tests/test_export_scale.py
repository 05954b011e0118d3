"""Export grows with the number of sites, not with its square: counted in calls, not in seconds."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import builders
import pytest

from plop_lora.exports import TARGETS, lint
from plop_lora.exports.names import exact_endings
from plop_lora.exports.trainers.nemo_automodel import _exact, matches
from plop_lora.records import Host, PlacedSite, Placement

LEAVES = ("self_attn.q_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.up_proj",
          "mlp.down_proj")  # fmt: skip


def _placement(layers: int, case: str) -> Placement:
    """Return a placement of a deep model: everything, every second layer, ranks by layer, MoE."""
    sites, hosts, untouched = [], [], []
    for layer in range(layers):
        for leaf in LEAVES:
            name = f"model.layers.{layer}.{leaf}"
            hosts.append(Host(name, leaf, layer, 64, 64))
            if case == "half" and layer % 2:
                untouched.append(name)
                continue
            rank = 4 + layer % 40 if case == "ranks" else 8
            sites.append(PlacedSite(name, leaf, layer, rank, 2.0 * rank, rank * 128))
        if case == "experts":
            untouched.append(f"model.layers.{layer}.mlp.experts.weights")
    return builders.placement(
        model=builders.model_reference("m", config={"model_type": "llama"}), sites=tuple(sites),
        scaling=2.0, hosts=tuple(hosts), untouched=tuple(untouched),
    )  # fmt: skip


def _calls(step: Callable[[], object]) -> int:
    count = 0

    def note(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(note)
    try:
        step()
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.slow
@pytest.mark.parametrize("case", ["all", "half", "ranks", "experts"])
@pytest.mark.parametrize("to", [*TARGETS, "vllm", "sglang"])
def test_eight_times_the_sites_are_no_more_than_ten_times_the_work(to: str, case: str) -> None:
    """Whether the model has experts was asked anew, over all names, for every site."""

    def step(layers: int) -> Callable[[], object]:
        placement = _placement(layers, case)
        if to in TARGETS:
            return lambda: TARGETS[to].render(placement)
        return lambda: lint(placement, to)

    step(2)()  # what is imported and compiled once
    few, many = _calls(step(50)), _calls(step(400))
    assert many <= 10 * few


@pytest.mark.parametrize(
    ("named", "others", "wanted"),
    [
        ([("q", "a.0.q"), ("q", "a.1.q")], ["a.0.k"], ["q"]),
        ([("q", "a.0.x.q"), ("q", "a.1.x.q")], ["a.0.y.q"], ["x.q"]),
        ([("q", "a.0.q")], ["a.1.q"], ["0.q"]),
        ([("q", "a.0.q"), ("q", "a.2.q")], ["a.1.q"], None),
        ([("q", "q")], [], ["q"]),
        ([("q", "q")], ["b.q"], None),
    ],
)
def test_endings_are_exact(
    named: list[tuple[str, str]], others: list[str], wanted: list[str] | None
) -> None:
    assert exact_endings(named, others) == wanted


@pytest.mark.parametrize(
    ("targets", "wanted", "others", "exact"),
    [
        (["a.b.c"], ["a.b.c"], ["a.b.d"], True),
        (["a.b.c"], ["a.b.c"], ["axb.c"], False),
        (["a.b.c", "a.b.d"], ["a.b.c", "a.b.d"], ["a.bxd"], False),
        (["*.q"], ["a.q", "b.q"], ["a.k"], True),
        (["*.q"], ["a.q"], ["b.xq"], False),
        (["a.q"], ["a.q", "b.q"], [], False),
    ],
)
def test_fast_exactness_is_that_of_the_matching_rule(
    targets: list[str], wanted: list[str], others: list[str], exact: bool
) -> None:
    """Names are compared by where their dots stand; the answer is that of the slow rule."""

    def hit(name: str) -> bool:
        return any(matches(target, name) for target in targets)

    slow = all(map(hit, wanted)) and not any(map(hit, others))
    assert _exact(targets, wanted, others) == slow == exact
