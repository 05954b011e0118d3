"""What the releases of a server make of an adapter: the answers of their own sources, as a table.

The column of SGLang is what its own `lora.py`, `utils.py` and `mem_pool.py` did with such adapters
on a CPU (0.5.10 to 0.5.23); that of vLLM is read in `peft_helper.py` and the files beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from plop_lora.errors import UsageError
from plop_lora.exports import lint
from plop_lora.exports.serving.servers import _BEFORE, FEATURES, SERVERS, server_of

PLAIN = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"]}
QUICK = {"use_dora": True, "kasa_config": {"beta": 1}, "monteclora_config": {"samples": 2}}
SHAPED = {"layer_replication": [[0, 1]], "use_qalora": True, "use_bdlora": {"nblocks": 2}}
BASES = ("pissa", "pissa_niter_4", "olora", "corda", "loftq")
RANKS = {"rank_pattern": {"v_proj": 4}}
ALPHAS = {"alpha_pattern": {"v_proj": 4}}

TABLE: list[tuple[Mapping[str, Any], dict[str, str]]] = [
    ({}, {"vllm": "fine", "vllm==0.24.0": "fine", "sglang": "fine", "sglang==0.5.10": "fine"}),
    (RANKS, {"vllm": "fine", "vllm==0.32.0": "fine", "vllm==0.31.0": "ignored",
             "sglang": "rejected"}),
    (ALPHAS, {"vllm": "fine", "vllm==0.32": "fine", "vllm==0.31.0": "ignored",
              "sglang": "ignored"}),
    ({"use_rslora": True}, {"vllm": "fine", "vllm==0.24.0": "fine", "sglang": "ignored"}),
    *(({key: value}, {"vllm": "rejected", "vllm==0.24.0": "rejected", "sglang": "rejected",
                      "sglang==0.5.10": "rejected"}) for key, value in QUICK.items()),
    *(({key: value}, {"vllm": "rejected", "vllm==0.32.0": "rejected", "vllm==0.31.0": "ignored",
                      "sglang": "rejected"}) for key, value in SHAPED.items()),
    ({"alora_invocation_tokens": [1]}, {"vllm": "rejected", "vllm==0.31.0": "ignored",
                                        "sglang": "ignored"}),
    ({"arrow_config": {"top_k": 2}}, {"vllm": "ignored", "sglang": "ignored"}),
    ({"bias": "lora_only"}, {"vllm": "rejected", "vllm==0.24.0": "rejected", "sglang": "ignored"}),
    ({"lora_bias": True}, {"vllm": "rejected", "vllm==0.24.0": "rejected", "sglang": "ignored"}),
    ({"trainable_token_indices": [3]}, {"vllm": "rejected", "sglang": "ignored"}),
    ({"modules_to_save": ["score"]}, {"vllm": "fine", "vllm==0.31.0": "fine",
                                      "vllm==0.30.0": "rejected", "sglang": "ignored"}),
    ({"modules_to_save": ["lm_head"]}, {"vllm": "rejected", "sglang": "ignored"}),
    ({"modules_to_save": ["input_layernorm"]}, {"vllm": "rejected", "sglang": "rejected"}),
    *(({"init_lora_weights": init}, {"vllm": "rejected", "vllm==0.32.0": "rejected",
                                     "vllm==0.31.0": "ignored", "sglang": "ignored"})
      for init in BASES),
    ({"init_lora_weights": "lora_ga"}, {"vllm": "ignored", "sglang": "ignored"}),
    *(({"init_lora_weights": init}, {"vllm": "fine", "vllm==0.24.0": "fine", "sglang": "fine"})
      for init in (True, False, "gaussian", "eva", "orthogonal", "mica")),
    ({"target_modules": r".*\.(q_proj|v_proj)"}, {"vllm": "fine", "sglang": "rejected"}),
]  # fmt: skip
CASES = [
    pytest.param(changes, server, answer, id=f"{changes}-{server}")
    for changes, answers in TABLE
    for server, answer in answers.items()
]


def _answer(server: str, config: Mapping[str, Any], modules: Iterable[str] = ()) -> str:
    found = {finding.severity for finding in lint(config, server, modules=tuple(modules))}
    return next((severity for severity in ("rejected", "ignored") if severity in found), "fine")


@pytest.mark.parametrize(("changes", "server", "answer"), CASES)
def test_each_setting_by_release(changes: Mapping[str, Any], server: str, answer: str) -> None:
    """From 0.32.0 vLLM reads the patterns and refuses inits; older rules were given for it."""
    assert _answer(server, {**PLAIN, **changes}) == answer


def test_biases_of_modules_without_an_adapter() -> None:
    """SGLang passes over the biases of adapted modules, and fails at those of others."""
    (finding,) = (f for f in lint({**PLAIN, "bias": "all"}, "sglang") if f.severity == "ignored")
    assert "without an adapter" in finding.what


@pytest.mark.parametrize(
    ("leaves", "server", "answer"),
    [
        (("o_proj", "down_proj"), "sglang==0.5.10", "fine"),
        (("out_proj",), "sglang==0.5.11", "fine"),
        (("out_proj",), "sglang==0.5.10", "rejected"),
        (("q_a_proj", "kv_a_proj_with_mqa"), "sglang==0.5.11", "fine"),
        (("q_a_proj", "kv_a_proj_with_mqa"), "sglang==0.5.10.post1", "rejected"),
        (("kv_b_proj",), "sglang==0.5.12", "fine"),
        (("kv_b_proj",), "sglang==0.5.11", "rejected"),
        (("wq_b",), "sglang==0.5.14", "fine"),
        (("wq_b",), "sglang==0.5.13", "rejected"),
        (("in_proj_qkv",), "vllm", "fine"),
        (("in_proj_qkv",), "vllm==0.29.0", "fine"),
        (("in_proj_qkv",), "vllm==0.28.0", "rejected"),
        (("in_proj_qkv", "in_proj_z"), "vllm==0.28.0", "fine"),
        (("in_proj_z",), "vllm", "rejected"),
    ],
)
def test_each_module_by_release(leaves: tuple[str, ...], server: str, answer: str) -> None:
    config = {**PLAIN, "target_modules": list(leaves)}
    assert _answer(server, config, [f"model.layers.0.block.{leaf}" for leaf in leaves]) == answer


# ------------------------------------------------------------------- experts of their own

GATED = ("gate_proj", "up_proj", "down_proj")


def _experts(leaves: Iterable[str], numbers: Iterable[int] = (0, 1)) -> list[str]:
    return [f"model.layers.0.mlp.experts.{n}.{leaf}" for n in numbers for leaf in leaves]


@pytest.mark.parametrize(
    ("names", "changes", "server", "answer"),
    [
        (_experts(GATED), {}, "vllm", "fine"),
        (_experts(("w1", "w2", "w3")), {}, "vllm", "fine"),
        (_experts(GATED[1:]), {}, "vllm", "fine"),
        (_experts(GATED[2:]), {}, "vllm", "rejected"),
        (_experts(GATED[:2]), {}, "vllm", "rejected"),
        (_experts(GATED, (0, 2)), {}, "vllm", "rejected"),
        (_experts(GATED)[:-1], {}, "vllm", "rejected"),
        (_experts(GATED), {"rank_pattern": {r"experts.1.up_proj": 4}}, "vllm", "rejected"),
        (_experts(GATED), {"rank_pattern": {"up_proj": 4}}, "vllm", "fine"),
        (_experts(GATED), {"use_rslora": True}, "vllm", "fine"),
        (_experts(GATED), {"use_rslora": True}, "vllm==0.30.0", "fine"),
        (_experts(GATED), {"use_rslora": True}, "vllm==0.29.0", "ignored"),
        (_experts(GATED), {}, "sglang", "fine"),
        (_experts(GATED[2:]), {}, "sglang", "ignored"),
        (_experts(GATED[:2]), {}, "sglang", "ignored"),
        (_experts(("gate_proj", "down_proj")), {}, "sglang", "fine"),
    ],
)
def test_experts_with_adapters_of_their_own(
    names: list[str], changes: dict[str, Any], server: str, answer: str
) -> None:
    """One projection of one expert is missing: vLLM fails, SGLang may have no layer at all."""
    targets = list(dict.fromkeys(name.rpartition(".")[2] for name in names))
    assert _answer(server, {**PLAIN, "target_modules": targets, **changes}, names) == answer


# ------------------------------------------------------------------- naming a release


def test_releases_are_compared_as_numbers() -> None:
    """0.5.9 is older than 0.5.10, and a release above all that were read has the newest rules."""
    assert server_of("sglang==0.5.9999").leaves == SERVERS["sglang"].leaves
    assert server_of("vllm==0.32").reads_patterns
    assert not server_of("vllm==v0.31.1").reads_patterns
    assert server_of("vllm==1.0").reads_text_names
    assert server_of("vllm") is SERVERS["vllm"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("vlm==0.32.0", "Did you mean 'vllm'"),
        ("vllm==", "is no release of vllm"),
        ("vllm==newest", "Give one such as vllm==0.33.0"),
        ("vllm==0.10.0", "0.24.0 to 0.33.0 were read"),
        ("sglang==0.5.9", "0.5.10 to 0.5.23 were read"),
    ],
)
def test_a_release_whose_rules_are_not_known(given: str, message: str) -> None:
    """Older releases were described by the rules of newer ones."""
    with pytest.raises(UsageError, match=message):
        lint(PLAIN, given)


def test_what_changed_is_known_to_the_table() -> None:
    """A release in the data that the table and the page do not name would be found by nobody."""
    import plop_lora.exports.serving.servers as module

    page = (Path(__file__).parents[1] / "docs" / "how-to" / "serve.md").read_text()
    for changes in _BEFORE.values():
        for since, before in changes:
            assert since in (module.__doc__ or "")
            assert since in page
            assert before
    assert {key for server in SERVERS.values() for key in server.rejects} <= FEATURES.keys()
