"""The bundled model has really learnt, and its generators are honest."""

from __future__ import annotations

import importlib
import json
import random
import sys
from pathlib import Path

import pytest
import torch
import transformers

import plop_lora as plop
from plop_lora.demo import DATA, MODEL, TASKS

ROOT = Path(__file__).parents[1]
SCRIPTS = ROOT / "scripts" / "demo_model"


@pytest.fixture(scope="module")
def generators():
    sys.path.insert(0, str(SCRIPTS))
    try:
        yield {name: importlib.import_module(name) for name in ("problems", "stories", "snippets")}
    finally:
        sys.path.remove(str(SCRIPTS))


@pytest.fixture(scope="module")
def pretrain():
    sys.path.insert(0, str(SCRIPTS))
    try:
        yield importlib.import_module("pretrain")
    finally:
        sys.path.remove(str(SCRIPTS))


def test_generators(generators) -> None:
    """Right arithmetic, code that compiles, variety, and the same text for the same seed."""
    problems, stories, snippets = (generators[n] for n in ("problems", "stories", "snippets"))
    makers = {
        "problem": lambda rng: problems.make_problem(rng)["question"],
        "story": stories.make_story,
        "snippet": lambda rng: snippets.make_snippet(rng)["text"],
    }
    for make in makers.values():
        first, second = ([make(random.Random(n)) for n in range(300)] for _ in range(2))
        assert first == second
        assert len(set(first)) > 270
    rng = random.Random(5)
    assert all(problems.check_answer(problems.make_problem(rng)["answer"]) for _ in range(1000))
    assert not problems.check_answer("It is 2 + 2 = 5.\n#### 5")


def test_shipped_data_is_what_the_script_makes(generators) -> None:
    rows = [json.loads(line) for line in (DATA / "problems.jsonl").read_text().splitlines()]
    assert len(rows) == 240
    assert all(generators["problems"].check_answer(row["answer"]) for row in rows)


def test_the_schedule_follows_the_steps_or_the_clock(pretrain) -> None:
    """A run of so many steps must be the same on a slow machine, from warm-up to the last rate."""
    steps = pretrain.Hyperparameters(steps=400, warmup_steps=1)
    assert [steps.progress(step, seconds=9e9) for step in (0, 200, 400)] == [0, 0.5, 1]
    assert pretrain.Hyperparameters(minutes=2).progress(999, seconds=60) == 0.5
    rates = [pretrain.learning_rate(steps.progress(n, 0), n, steps) for n in (0, 200, 400)]
    assert rates == pytest.approx([3e-3, 3e-3 * 0.525, 3e-3 * 0.05])


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "mixtral", "lfm2"])
def test_every_architecture_is_pretrained_and_loaded(pretrain, architecture, tmp_path) -> None:
    """Each step is taken, evaluations are spread evenly, and what is saved is what was trained."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(MODEL)
    stream = torch.arange(2000, dtype=torch.int32) % 50
    streams = dict.fromkeys(pretrain.MIXTURE, stream)
    settings = pretrain.Hyperparameters(steps=6, evaluations=2, batch=2, length=32, warmup_steps=1)
    torch.manual_seed(0)
    model = pretrain.make_model(architecture, tokenizer)
    if architecture != "llama":
        page = (ROOT / "docs" / "demo-model.md").read_text(encoding="utf-8")
        assert f"| `{architecture}` | {model.num_parameters() / 1e6:.1f} M |" in page
    before = pretrain.mixed(pretrain.held_out_loss(model, streams, 32))
    sampler = pretrain.Sampler(streams, settings)
    found = pretrain.train(model, tokenizer, sampler, streams, settings, tmp_path)
    assert found["steps"] == 6
    assert [row["step"] for row in found["curve"]] == [3, 6]
    assert found["best_held_out"] < before - 1
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    again = pretrain.mixed(pretrain.held_out_loss(loaded, streams, 32))
    assert again == pytest.approx(found["best_held_out"], abs=0.02)


def test_model_is_small_and_has_learnt() -> None:
    assert (MODEL / "model.safetensors").stat().st_size <= 6_000_000
    losses = json.loads((MODEL / "training.json").read_text())["held_out_nats_per_token"]
    for source in ("library", "problems", "stories", "snippets"):
        assert losses["model"][source] < 0.5 * losses["unigram"][source]
        assert losses["unigram"][source] < losses["random weights"][source]


@pytest.mark.slow
def test_loss_on_the_shipped_task_again() -> None:
    """The reported loss is measured anew on text that training never saw."""
    model = transformers.AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(MODEL)
    documents = plop.load_documents(str(DATA / "problems.jsonl"), samples=20, **TASKS["problems"])
    losses = []
    for document in documents.items:
        ids = torch.tensor([[tokenizer.bos_token_id, *tokenizer(document.text)["input_ids"]]])
        with torch.no_grad():
            losses.append(model(input_ids=ids, labels=ids).loss.item())
    assert sum(losses) / len(losses) < 0.6


@pytest.mark.slow
def test_types_separate_and_random_weights_do_not() -> None:
    """The positive control of the whole method on one page."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(MODEL)
    documents = plop.load_documents(str(DATA / "problems.jsonl"), samples=64, **TASKS["problems"])
    trained = plop.score(str(MODEL), tokenizer, documents, progress=False)
    assert plop.place(trained).verdict == "decided"
    assert trained.types[-1].nfn - trained.types[0].nfn > 0.5
    torch.manual_seed(0)
    config = transformers.AutoConfig.from_pretrained(MODEL)
    untrained = transformers.LlamaForCausalLM(config)
    random_scores = plop.score(untrained, tokenizer, documents, progress=False)
    assert all(abs(row.nfn - 1) < 0.05 for row in random_scores.types)


TRAINED = sorted((SCRIPTS / "trained").glob("*.json"))


@pytest.mark.parametrize("path", TRAINED, ids=lambda path: path.stem)
def test_the_page_has_what_a_pretraining_reached(path: Path) -> None:
    """The study rests on these networks; the page must not say that they learnt more."""
    record = json.loads(path.read_text(encoding="utf-8"))
    losses = record["held_out_nats_per_token"]
    page = (ROOT / "docs" / "demo-model.md").read_text(encoding="utf-8")
    for name, row in ((f"`{path.stem}`", losses["model"]), ("unigram", losses["unigram"])):
        cells = (f"{row[part]:.2f}" for part in (*record["mixture"], "all"))
        assert f"| {name} | {' | '.join(cells)} |" in page
    assert losses["model"]["all"] < losses["unigram"]["all"]
    assert record["steps"] == record["hyperparameters"]["steps"]
