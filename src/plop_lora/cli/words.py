"""What the help pages share: the panels of options, the examples and the shell completions.

A list of completions is made when the shell asks for it, so that help and parsing import nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

Verb = TypeVar("Verb", bound=Callable[..., Any])

DATA = "Data"
MODEL = "Model"
PLACEMENT = "Placement"
STOPPING = "Stopping"
TRAINING = "Training and judging"
ENGINE = "Engine"
RUN = "Run"
TARGET = "Target"
ADAPTERS = "Adapters"
OUTPUT = "Output"


def among(words: Callable[[], Iterable[str]]) -> Callable[[str], list[str]]:
    """Return a function that completes a word from a list.

    Args:
        words: Function that returns the allowed words; it is called when the shell asks.
    """

    def complete(incomplete: str) -> list[str]:
        return _last_of_list(incomplete, words())

    return complete


def strategies() -> Iterable[str]:
    """Return the names of the strategies."""
    from plop_lora.placement import STRATEGIES

    return STRATEGIES


def indicators() -> Iterable[str]:
    """Return the names of the indicators."""
    from plop_lora.indicators import INDICATORS

    return INDICATORS


def arms() -> Iterable[str]:
    """Return the names of the arms."""
    from plop_lora.verification.arm_rules import ARMS

    return ARMS


def tasks() -> Iterable[str]:
    """Return the names of the tasks."""
    from plop_lora.training.tasks import TASKS

    return TASKS


def checks() -> Iterable[str]:
    """Return the names of the checks of a gate."""
    from plop_lora.gating.checks import NAMES

    return NAMES


def servers() -> Iterable[str]:
    """Return the names of the inference servers."""
    from plop_lora.exports import SERVERS

    return SERVERS


def inits() -> Iterable[str]:
    """Return the initialisations that PEFT knows."""
    from plop_lora.placement.inits import INITS

    return INITS


def targets(incomplete: str) -> list[str]:
    """Complete the value of `plop export --to`: a trainer, or vllm for an adapter's folder."""
    from plop_lora.exports import TARGETS
    from plop_lora.exports.serving.vllm import NAME

    return _last_of_list(incomplete, (*TARGETS, NAME))


def metrics(incomplete: str) -> list[str]:
    """Complete the name of a built-in metric; user-defined ones and lm-eval are not listed."""
    from plop_lora.training.tasks import TASKS

    names = dict.fromkeys(name for task in TASKS.values() for name in task.metrics)
    return [name for name in names if name.startswith(incomplete)]


def _last_of_list(incomplete: str, words: Iterable[str]) -> list[str]:
    """Complete the word after the last comma and keep the words before it."""
    before, comma, last = incomplete.rpartition(",")
    return [f"{before}{comma}{word}" for word in words if word.startswith(last)]


def with_examples(*examples: tuple[str, str]) -> Callable[[Verb], Verb]:
    """Attach the examples that are printed at the end of a verb's help.

    Args:
        examples: Pairs of what the example does and the command line.
    """

    def attach(verb: Verb) -> Verb:
        verb.examples = examples  # type: ignore[attr-defined]
        return verb

    return attach


def examples_of(verb: Callable[..., object]) -> tuple[tuple[str, str], ...]:
    """Return the examples that `with_examples` gave to a verb."""
    found: tuple[tuple[str, str], ...] = getattr(verb, "examples", ())
    return found


def epilog(verb: Callable[..., object]) -> str:
    """Return the examples of a verb as Markdown, a list of one item each."""
    items = (f"- {what}: `{line}`" for what, line in examples_of(verb))
    return "\n\n".join(("**Examples**", *items))
