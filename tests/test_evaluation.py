from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from finetunes import CHATS, PROBLEMS, ROWS, prepared, spec
from harness_task import local_task
from torch.nn import functional

from plop_lora.errors import DataError, MeasurementError, ModelError, UsageError
from plop_lora.evaluation.chats import prompt_tokens
from plop_lora.evaluation.generation import generate
from plop_lora.evaluation.judged import Judged, Prepared, Row
from plop_lora.evaluation.losses import judgeable, row_losses
from plop_lora.evaluation.metrics import is_numeric, prompt_of, reference_of
from plop_lora.records import TrialSpec
from plop_lora.training.tasks import TASKS, check_metric, task_named
from plop_lora.user_code import find_function

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning:torch.*")


def evaluate(spec: TrialSpec, prepared: Prepared, rows: list[Row]) -> Judged:
    return task_named(spec.task).judge(spec, prepared, rows, general=())


@pytest.fixture(scope="module")
def ready() -> Prepared:
    """Adapters that do something: B is zero in a fresh one."""
    made = prepared("q_proj", "down_proj")
    torch.manual_seed(5)
    with torch.no_grad():
        for name, parameter in made.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.02)
    return made


# --------------------------------------------------------------------------- loss


def _by_hand(ready: Prepared, prompt: str, rest: str) -> float:
    """Mean nats of the tokens of `rest` and the end, each row alone, in float64."""
    model = ready.model.double()
    try:
        start = len(ready.tokenizer(prompt)["input_ids"])
        tokens = torch.tensor([ready.tokenizer(prompt + rest + "</s>")["input_ids"]])
        with torch.no_grad():
            logits = model(input_ids=tokens).logits.double()[0]
        kept = slice(max(start, 1) - 1, tokens.shape[1] - 1)
        wanted = tokens[0, max(start, 1) :]
        chosen = functional.log_softmax(logits[kept], dim=-1)[range(len(wanted)), wanted]
        return float(-chosen.mean())
    finally:
        ready.model.float()


def test_loss_is_the_definition_in_float64(ready: Prepared) -> None:
    """Completion and end-of-sequence only for prompts, every predicted token for texts."""
    found = row_losses(ready, ROWS[:2], max_length=512, batch_size=2)
    wanted = [_by_hand(ready, row["prompt"], row["completion"]) for row in ROWS[:2]]
    assert found == pytest.approx(wanted, abs=2e-5)
    texts = [{"text": row["prompt"]} for row in ROWS[:2]]
    wanted = [_by_hand(ready, "", row["text"]) for row in texts]
    assert row_losses(ready, texts, max_length=512, batch_size=2) == pytest.approx(wanted, abs=2e-5)


@pytest.mark.slow
def test_loss_counts_what_the_trainer_counts(tmp_path: Path) -> None:
    """The same tokens and labels as TRL's own preparation of the rows, chats included."""
    sft = pytest.importorskip("trl")
    from datasets import Dataset

    ready = prepared()
    chats = [{"prompt": c["messages"][:-1], "completion": c["messages"][-1:]} for c in CHATS[:4]]
    for rows in (ROWS[:4], CHATS[:4], chats, [{"text": row["prompt"]} for row in ROWS[:4]]):
        trainer = sft.SFTTrainer(
            model=ready.model,
            args=sft.SFTConfig(
                str(tmp_path), use_cpu=True, bf16=False, max_length=512, report_to="none"
            ),
            train_dataset=Dataset.from_list(rows),
            processing_class=ready.tokenizer,
        )
        for row, theirs in zip(rows, trainer.train_dataset, strict=True):
            ours = judgeable(row, ready.tokenizer, 512)
            assert list(ours.tokens) == theirs["input_ids"]
            counted = [place for place, label in enumerate(theirs["labels"]) if label != -100]
            assert counted[-1] == len(ours.tokens) - 1
            assert max(1, counted[0]) == ours.start


@pytest.mark.slow
@pytest.mark.parametrize("rows", [ROWS[:7], CHATS[:7]])
def test_loss_does_not_depend_on_the_batch(ready: Prepared, rows: list[Any]) -> None:
    """Ragged rows in one batch are padded; padding must neither count nor be looked at."""
    alone = row_losses(ready, rows, max_length=512, batch_size=1)
    for size in (2, 7):
        together = row_losses(ready, rows, max_length=512, batch_size=size)
        assert together == pytest.approx(alone, abs=2e-5)


def test_long_rows_keep_their_completion(ready: Prepared) -> None:
    """Cutting the end, as training does, would leave nothing of the answer to judge by."""
    row = {"prompt": "word " * 200, "completion": "five"}
    cut = judgeable(row, ready.tokenizer, 32)
    whole = judgeable(row, ready.tokenizer, 10_000)
    assert len(cut.tokens) == 32
    assert cut.tokens == whole.tokens[-32:]
    assert len(cut.tokens) - cut.start == len(whole.tokens) - whole.start
    longer = {"prompt": "a b", "completion": " word" * 200}
    assert len(judgeable(longer, ready.tokenizer, 32).tokens) == 32


def test_rows_without_a_token_and_losses_that_are_not_finite(ready: Prepared) -> None:
    with pytest.raises(DataError, match="Row 2 of the evaluation rows"):
        row_losses(ready, [{"text": "a b"}, {"text": ""}], max_length=64, batch_size=2)
    broken = prepared()
    with torch.no_grad():
        next(p for n, p in broken.model.named_parameters() if "lora_B" in n).fill_(torch.nan)
    with pytest.raises(MeasurementError, match="evaluation row"):
        row_losses(broken, ROWS[:2], max_length=64, batch_size=2)


# --------------------------------------------------------------------------- generation


@pytest.mark.slow
def test_generation_does_not_depend_on_the_batch(ready: Prepared) -> None:
    """Left padding and sorting change neither an answer nor its place."""
    prompts = [row["prompt"] for row in ROWS[:9]]
    alone = generate(ready, prompts, batch_size=1, max_new_tokens=12)
    assert len({answer.text for answer in alone}) > 1
    for size in (4, 9):
        assert generate(ready, prompts, batch_size=size, max_new_tokens=12) == alone
    turned = generate(ready, prompts[::-1], batch_size=4, max_new_tokens=12)
    assert turned[::-1] == alone


@pytest.mark.slow
def test_generation_is_greedy_ends_and_leaves_no_trace(
    ready: Prepared, caplog: pytest.LogCaptureFixture
) -> None:
    """A checkpoint that samples by default would judge every seed by other answers."""
    base = ready.model.get_base_model()
    before = base.generation_config
    sampling = type(before)(do_sample=True, temperature=0.6, top_p=0.9, eos_token_id=1)
    base.generation_config = sampling
    ready.model.train()
    transformers.utils.logging.enable_propagation()
    try:
        first, second = (
            generate(ready, [ROWS[0]["prompt"]], batch_size=1, max_new_tokens=60) for _ in range(2)
        )
        assert base.generation_config is sampling
        assert ready.model.training
    finally:
        transformers.utils.logging.disable_propagation()
        base.generation_config = before
        ready.model.eval()
    assert first == second
    assert 1 not in first[0].tokens
    assert "</s>" not in first[0].text
    assert not caplog.records


def test_answers_stop_at_the_end_of_the_sequence(ready: Prepared) -> None:
    """A model that only ever says the end gives empty answers, not the longest ones."""
    head = ready.model.get_output_embeddings()
    handle = head.register_forward_hook(
        lambda _m, _i, out: functional.one_hot(
            torch.ones(out.shape[:-1], dtype=torch.long), out.shape[-1]
        ).to(out.dtype)
    )
    try:
        answers = generate(ready, ["a", "longer prompt"], batch_size=2, max_new_tokens=5)
    finally:
        handle.remove()
    assert [answer.tokens for answer in answers] == [(), ()]


def test_prompts_that_are_long_empty_or_chats(ready: Prepared) -> None:
    long = "word " * 600
    answers = generate(ready, [long, "one"], batch_size=2, max_new_tokens=4)
    assert len(answers) == 2
    with pytest.raises(DataError, match="row 2 has no tokens"):
        generate(ready, ["a", ""], batch_size=2, max_new_tokens=4)
    with pytest.raises(ModelError, match="max_new_tokens 512"):
        generate(ready, ["a"], batch_size=1, max_new_tokens=512)
    chat = prompt_tokens(CHATS[0]["messages"][:1], ready.tokenizer)
    assert ready.tokenizer.decode(chat).endswith("Assistant:") or ready.tokenizer.decode(
        chat
    ).endswith("Assistant: ")


# --------------------------------------------------------------------------- metrics


def _stubbed(ready: Prepared, monkeypatch: pytest.MonkeyPatch, answers: list[str]) -> None:
    """Let the model give known answers, so that a metric's rule is what is tested."""
    from plop_lora.evaluation import generation

    made = [generation.Completion(answer, (5,), True) for answer in answers]
    monkeypatch.setattr(generation, "generate", lambda *args, **settings: made)


def test_rules_of_the_metrics(ready: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        {"prompt": "?", "completion": " so\n#### 5"},
        {"prompt": "?", "completion": " so\n#### 6"},
        {"prompt": "?", "completion": " it is 7"},
    ]
    _stubbed(ready, monkeypatch, ["so\n#### 5", "#### 6.0", "7, I say"])
    exact = evaluate(spec(metric="exact"), ready, rows)
    assert exact.items["exact"] == (1.0, 0.0, 0.0)
    assert exact.metrics["exact"] == pytest.approx(1 / 3)
    assert len(exact.items["loss"]) == 3
    assert exact.metrics["loss"] == pytest.approx(sum(exact.items["loss"]) / 3)
    assert evaluate(spec(metric="numeric"), ready, rows).items["numeric"] == (1.0, 1.0, 1.0)
    passed = evaluate(spec("grpo", rewards=("number",)), ready, rows)
    assert passed.items == {"pass@1": (1.0, 1.0, 0.0)}


def test_numbers_that_match() -> None:
    assert is_numeric("#### 1,000", "x\n#### 1000")
    assert not is_numeric("1000", "#### 1000")
    assert is_numeric("so 3 and 4", "4.0")
    with pytest.raises(DataError, match="no number in the reference 'four'"):
        is_numeric("4", "four")


USER = """
def share(prompts, completions, rows):
    assert len(prompts) == len(completions) == len(rows)
    return [float(row["weight"]) for row in rows]
def absent(prompts, completions, rows):
    return [None for _ in rows]
def fails(prompts, completions, rows):
    raise IndexError("list index")
"""


def test_a_metric_of_the_user(
    ready: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "plop_test_metric.py").write_text(USER)
    monkeypatch.chdir(tmp_path)
    rows = [{**row, "weight": number} for number, row in enumerate(ROWS[:3])]
    judged = evaluate(spec(metric="plop_test_metric:share", max_new_tokens=2), ready, rows)
    assert judged.items["plop_test_metric:share"] == (0.0, 1.0, 2.0)
    assert judged.metrics["plop_test_metric:share"] == 1.0
    for name, text in (("absent", "returned None"), ("fails", "raised IndexError: list index")):
        with pytest.raises(DataError, match=text):
            evaluate(spec(metric=f"plop_test_metric:{name}", max_new_tokens=2), ready, rows)


def test_rows_as_prompt_and_reference() -> None:
    assert prompt_of(ROWS[0]) == ROWS[0]["prompt"]
    assert reference_of(ROWS[0]) == ROWS[0]["completion"]
    assert prompt_of(CHATS[0]) == CHATS[0]["messages"][:1]
    assert reference_of(CHATS[0]) == PROBLEMS[0]["answer"]
    assert reference_of({"prompt": "?", "answer": 5}) == "5"
    with pytest.raises(DataError, match="no reference answer"):
        reference_of({"prompt": "?"})
    for row in ({"text": "a"}, {"messages": CHATS[0]["messages"][:1]}):
        with pytest.raises(DataError, match="no prompt to answer"):
            prompt_of(row)


def test_pass_needs_a_reward_that_applies(
    ready: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "plop_test_absent.py").write_text("def none(**given): return [None]")
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": "one", "answer": "1"}]
    with pytest.raises(DataError, match="None for evaluation row 1"):
        evaluate(spec("grpo", rewards=("plop_test_absent:none",), max_new_tokens=2), ready, rows)
    with pytest.raises(UsageError, match="names no reward function"):
        evaluate(spec("grpo", max_new_tokens=2), ready, rows)
    with pytest.raises(DataError, match="no rows to train on or to judge by"):
        evaluate(spec(), ready, [])


@pytest.mark.parametrize(
    ("task", "metric", "text"),
    [
        ("sft", "accuracy", "is for the task classify, not for sft"),
        ("sft", "pass@1", "is for the task grpo"),
        ("grpo", "loss", "is for the task sft"),
        ("classify", "exact", "is for the task sft, grpo"),
        ("classify", "lm-eval:arc", "Allowed for classify: accuracy, macro-f1"),
        ("sft", "numerc", "Did you mean 'numeric'"),
        ("sft", "lm-eval:", "must be followed by a task"),
        ("sft", "plop_no_such_module:f", "there is no module"),
        ("dpo", "loss", "There is no task 'dpo'"),
    ],
)
def test_metrics_that_a_task_has_not(task: str, metric: str, text: str) -> None:
    """A function is looked for only when something runs: `check_metric` imports none."""

    def check() -> None:
        found = task_named(task)
        check_metric(found, metric)
        if metric.startswith("plop_no"):
            find_function(metric, "metric", found.metrics)

    with pytest.raises(UsageError, match=text):
        check()


def test_metrics_that_a_task_has() -> None:
    for task in TASKS.values():
        for metric in task.metrics:
            check_metric(task, metric)


@pytest.mark.slow
def test_refusing_a_metric_needs_no_torch() -> None:
    code = (
        "import sys; from plop_lora.training.tasks import check_metric, task_named; "
        "check_metric(task_named('sft'), 'exact'); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# --------------------------------------------------------------------------- lm-eval


@pytest.fixture
def harness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return local_task(tmp_path, monkeypatch)


def test_a_local_task_of_the_harness(ready: Prepared, harness: Path, capsys: Any) -> None:
    """Offline, on the model in memory; every item's outcome in the order of the file."""
    made = spec("grpo", metric="lm-eval:plop_choice", include_path=str(harness / "tasks"))
    judged = evaluate(made, ready, ROWS[:2])
    items = judged.items["lm-eval:plop_choice"]
    assert items in ((1.0, 0.0) * 3, (0.0, 1.0) * 3)
    assert judged.metrics == {"lm-eval:plop_choice": 0.5}
    assert capsys.readouterr().out == ""
    with pytest.raises(UsageError, match="Did you mean 'plop_choice'"):
        evaluate(
            spec("grpo", metric="lm-eval:plop_choise", include_path=str(harness / "tasks")),
            ready,
            ROWS[:2],
        )
    (harness / "items.jsonl").unlink()
    with pytest.raises(DataError, match="cannot be loaded"):
        evaluate(made, ready, ROWS[:2])
