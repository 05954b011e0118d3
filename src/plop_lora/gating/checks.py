"""The registry of checks: what each compares, what it needs, and how it decides.

A new check needs only a row here and a section of its limits in `recipe.gate`; what it reads is
measured by a suite. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from plop_lora.errors import UsageError
from plop_lora.evaluation import lm_eval
from plop_lora.evaluation.judged import Row
from plop_lora.evaluation.metrics import GENERATED
from plop_lora.gating.check import Check, Rule
from plop_lora.gating.decide import decide_difference, plan_difference
from plop_lora.gating.suites import DEGENERATE, GENERAL, LOSS, PROMPTS, REFUSED, TASK, UNENDED
from plop_lora.options import check_word
from plop_lora.recipe import GateRecipe
from plop_lora.recipe.gate import IMPROVE
from plop_lora.recipe.margin import usual_margin
from plop_lora.records.trial import GENERAL_LOSS
from plop_lora.training.task import Task
from plop_lora.training.tasks import check_metric, task_named

_LOSS_SPREAD, _METRIC_SPREAD = 0.1, 0.3
_IMPROVEMENT = 0.05
"""Improvement beyond the margin that a plan assumes, in the unit of the metric."""
COHERENCE, SAFETY = "coherence", "safety"
"""The check that has to pass before answers are judged, and the name of all that read answers."""


def gated_task(name: str) -> Task:
    """Return the task of a recipe.

    Raises:
        UsageError: There is no such task, or its model writes no text, so that the base has no
            answers to compare with.
    """
    task = task_named(name)
    if not (task.by_answers and task.reads_text):
        raise UsageError(
            f"plop gate cannot judge an adapter of the task {name}: the base model has no head of "
            "that task to compare with. It judges adapters of the tasks sft and grpo."
        )
    return task


# --------------------------------------------------------------------------- the task


def _task_rule(recipe: GateRecipe, task: Task) -> Rule:
    metric = task.metric_of(recipe.evaluation)
    check_metric(task, metric)
    if metric.startswith(lm_eval.PREFIX):
        raise UsageError(
            f"The metric {metric} brings its own rows, which plop gate cannot resume. Give a "
            f"metric on the rows of eval: {', '.join(task.metrics)}."
        )
    limits, is_loss = recipe.gate.task, metric == LOSS
    improve = limits.mode == IMPROVE
    usual = 0.0 if improve else usual_margin(metric)
    margin = usual if limits.margin is None else limits.margin
    binary = metric in GENERATED
    if binary and margin >= 1:
        raise UsageError(
            f"gate.task.margin is {margin:g}, which no outcome of {metric} can reach or miss: it "
            "lies between 0 and 1. Give a smaller number."
        )
    return Rule(
        mode=limits.mode,
        metric=metric,
        higher_is_better=not is_loss,
        limit=margin if improve else -margin,
        binary=binary,
        spread=limits.spread or (_LOSS_SPREAD if is_loss else _METRIC_SPREAD),
        assumed_gain=margin + _IMPROVEMENT if improve else 0.0,
    )


# --------------------------------------------------------------------------- forgetting


def _forgetting_rule(recipe: GateRecipe, task: Task) -> Rule:
    limits = recipe.gate.forgetting
    return Rule(
        mode="rise",
        metric=GENERAL_LOSS,
        higher_is_better=False,
        limit=-limits.fail,
        warn=-limits.warn,
        spread=limits.spread,
    )


# --------------------------------------------------------------------------- safety


def _answer_rule(mode: str, metric: str, *, higher_is_better: bool) -> Callable[..., Rule]:
    """Return the function that makes the rule of a quantity of answers, of 0 or 1 each."""

    def rule(recipe: GateRecipe, task: Task) -> Rule:
        limits = recipe.gate.safety
        return Rule(
            mode=mode,
            metric=metric,
            higher_is_better=higher_is_better,
            limit=-limits.margin,
            binary=True,
            spread=limits.spread,
        )

    return rule


def _is_harmful(row: Row) -> bool:
    return bool(row["harmful"])


def _is_harmless(row: Row) -> bool:
    return not row["harmful"]


_HOT = (
    "train with a smaller learning rate, or for fewer steps: unsafe answers of a finetune often "
    "come from its optimisation"
)
_EARLIER = "try an earlier checkpoint"
_ANSWERS = (
    "arXiv 2606.03648, by which judgements of incoherent answers mean nothing, "
    "https://arxiv.org/abs/2606.03648"
)
_SAFETY = (
    "arXiv 2506.17209, by which finetuning on harmless rows can lower safety, "
    "https://arxiv.org/abs/2506.17209"
)


# --------------------------------------------------------------------------- the registry


CHECKS: dict[str, Check] = {
    row.name: row
    for row in (
        Check(
            name="task",
            suite=TASK,
            description="the loss or the metric on the user's evaluation rows",
            source="paired differences with clustered errors, arXiv 2411.00640, "
            "https://arxiv.org/abs/2411.00640",
            needs="evaluation rows that the adapter was not trained on",
            rule=_task_rule,
            decide=decide_difference,
            plan=plan_difference,
            advice=(
                "train longer, or with a larger learning rate, if the training loss still falls",
                "try an earlier checkpoint or a smaller learning rate if it had long stopped",
                "see that the rows are written as in training: the same prompt and template",
            ),
        ),
        Check(
            name="forgetting",
            suite=GENERAL,
            description="the rise of the loss on general text, in nats per token",
            source="the anchors of PEFT's benchmark of methods: LoRA of rank 32 +0.050, rank 64 "
            "with rsLoRA +0.111, https://github.com/huggingface/peft/tree/main/method_comparison",
            needs="general text; the bundled texts are the default",
            rule=_forgetting_rule,
            decide=decide_difference,
            plan=plan_difference,
            advice=(
                _EARLIER,
                "train with a smaller learning rate",
                "choose an arm that forgets less: plop verify reports forgetting by arm",
            ),
        ),
        Check(
            name=COHERENCE,
            suite=PROMPTS,
            description="the share of answers that are empty, loop, leave the prompt's script, or "
            "that the base finds less likely than random tokens",
            source=_ANSWERS,
            needs="prompts; the bundled ones are the default",
            rule=_answer_rule("not higher", DEGENERATE, higher_is_better=False),
            decide=decide_difference,
            plan=plan_difference,
            advice=(_HOT, _EARLIER),
        ),
        Check(
            name="endings",
            suite=PROMPTS,
            description="the share of answers that do not end within the tokens they may take",
            source=_ANSWERS,
            needs="prompts; the bundled ones are the default",
            rule=_answer_rule("not higher", UNENDED, higher_is_better=False),
            decide=decide_difference,
            plan=plan_difference,
            advice=(
                "see that the rows of the training end with the token that ends an answer",
                _EARLIER,
            ),
        ),
        Check(
            name="refusals",
            suite=PROMPTS,
            description="the share of harmful prompts that are refused",
            source=_SAFETY,
            needs="harmful prompts; the bundled ones are the default",
            rule=_answer_rule("not lower", REFUSED, higher_is_better=True),
            decide=decide_difference,
            plan=plan_difference,
            advice=(_HOT, "mix rows with refusals of harmful requests into the training", _EARLIER),
            reads=_is_harmful,
            after=COHERENCE,
        ),
        Check(
            name="over-refusals",
            suite=PROMPTS,
            description="the share of harmless prompts that are refused",
            source="XSTest, arXiv 2308.01263, https://arxiv.org/abs/2308.01263",
            needs="harmless prompts; the bundled ones are the default",
            rule=_answer_rule("not higher", REFUSED, higher_is_better=False),
            decide=decide_difference,
            plan=plan_difference,
            advice=("look for refusals in the rows of the training", _EARLIER),
            reads=_is_harmless,
            after=COHERENCE,
        ),
    )
}
"""Name → row."""
GROUPS = {SAFETY: tuple(name for name, check in CHECKS.items() if check.suite == PROMPTS)}
"""Names that stand for several checks."""


def find_checks(names: Sequence[str]) -> list[Check]:
    """Return the checks of the names, in the order of the registry.

    Raises:
        UsageError: There is no such check; the message suggests the nearest name.
    """
    for name in names:
        check_word("check", name, (*CHECKS, *GROUPS))
    wanted = {one for name in names for one in GROUPS.get(name, (name,))}
    return [check for name, check in CHECKS.items() if name in wanted]
