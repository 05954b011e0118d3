"""What a replay needs beside its prompts. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from plop_lora.ab.replay.metrics import METRICS, OWN, UNSAFE
from plop_lora.errors import UsageError, nearest
from plop_lora.escapes import acting, escaped
from plop_lora.evaluation.judges import Judge, check_url
from plop_lora.records import Experiment
from plop_lora.user_code import parts_of

KEY = "OPENAI_API_KEY"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplaySettings:
    """Where the arms are served, and how they are asked and compared.

    Attributes:
        url: Address of the endpoint, such as http://localhost:8000/v1.
        models: Arm → its name at the endpoint, in the order of the arms.
        control: Arm with which the others are compared.
        max_tokens: Most tokens of an answer.
        temperature: Temperature of the answers; at 0 the answers of an arm are the same each time.
        seed: Seed of the answers, which servers honour as well as they can; None sends none.
        concurrency: Number of prompts that are asked at the same time.
        timeout: Seconds that each try of a request may take.
        retries: Further tries after a failure that may pass; `Retry-After` is honoured.
        key_variable: Environment variable with the key of the endpoint.
        margins: Metric → by how much an arm may be worse than the control.
        judge: Judge of unsafe answers, if there is one.
        metric: Function of the user's that values answers, as `module:function`, if there is one.
        experiment: The experiment whose arms they are, if there is one.
    """

    url: str
    models: Mapping[str, str]
    control: str
    max_tokens: int = 256
    temperature: float = 0.0
    seed: int | None = None
    concurrency: int = 4
    timeout: float = 120.0
    retries: int = 4
    key_variable: str = KEY
    margins: Mapping[str, float] = field(default_factory=dict)
    judge: Judge | None = None
    metric: str | None = None
    experiment: Experiment | None = None

    def __post_init__(self) -> None:
        check_url(self.url, "the endpoint")
        _check_arms(self.models, self.control)
        _check_numbers(self)
        if self.metric is not None:
            parts_of(self.metric, "metric", ())
        measured = {
            *METRICS,
            *([UNSAFE.name] if self.judge else []),
            *([OWN] if self.metric else []),
        }
        for name, margin in self.margins.items():
            if name not in measured:
                raise UsageError(
                    f"There is no metric {name!r} to give a margin to.{nearest(name, measured)} "
                    f"Measured are: {', '.join(sorted(measured))}."
                )
            if not 0 < margin < float("inf"):
                raise UsageError(f"The margin of {name!r} must be above 0, not {margin:g}.")

    @property
    def candidates(self) -> tuple[str, ...]:
        """Names of the arms that are compared with the control."""
        return tuple(arm for arm in self.models if arm != self.control)

    def digest_of(self, arm: str) -> str | None:
        """Return the digest of an arm's adapter, where the experiment names one."""
        arms = () if self.experiment is None else self.experiment.arms
        return next((one.adapter_digest for one in arms if one.name == arm), None)


def settings_of(
    url: str, models: Mapping[str, str], experiment: Path | Experiment | None, **more: object
) -> ReplaySettings:
    """Return settings whose arms are those of an experiment, or those that are named.

    Args:
        url: Address of the endpoint.
        models: Arm → its name at the endpoint. An arm of an experiment that is left out is served
            under its own name; without an experiment these are all arms, the control first.
        experiment: The experiment or its file, if there is one.
        more: Further fields of `ReplaySettings`.

    Raises:
        RecordError: The file of the experiment cannot be loaded.
        UsageError: There are fewer than two arms, or a name is of no arm.
    """
    if experiment is None:
        control = next(iter(models), "")
        return ReplaySettings(url=url, models=models, control=control, **more)  # type: ignore[arg-type]
    found = Experiment.of(experiment)
    for arm in models:
        if arm not in found.split:
            raise UsageError(
                f"The experiment {found.name!r} has no arm {arm!r}.{nearest(arm, found.split)} "
                f"It has: {', '.join(found.split)}."
            )
    served = {arm: models.get(arm, arm) for arm in found.split}
    return ReplaySettings(
        url=url, models=served, control=found.control, experiment=found, **more  # type: ignore[arg-type]
    )  # fmt: skip


def _check_arms(models: Mapping[str, str], control: str) -> None:
    if len(models) < 2:
        raise UsageError(
            "A replay compares two arms or more. Name the experiment with --experiment FILE, or "
            "the arms with --model now=base --model next=next, the control first."
        )
    if control not in models:
        raise UsageError(f"The control {control!r} is none of the arms {', '.join(models)}.")
    served: dict[str, str] = {}
    for word in (*models, *models.values()):
        if not word or acting(word) is not None:
            raise UsageError(f"{escaped(word)!r} cannot be the name of an arm or of a model.")
    for arm, model in models.items():
        if model in served:
            raise UsageError(
                f"The arms {served[model]!r} and {arm!r} are both served by the model {model!r}. "
                "Name the model of each with --model ARM=NAME."
            )
        served[model] = arm


def _check_numbers(settings: ReplaySettings) -> None:
    if settings.max_tokens < 1 or settings.concurrency < 1 or settings.retries < 0:
        raise UsageError(
            "A replay needs 1 or more tokens, 1 or more prompts at the same time, and 0 or more "
            f"retries, not {settings.max_tokens}, {settings.concurrency} and {settings.retries}."
        )
    if not 0 <= settings.temperature <= 2 or not settings.timeout > 0:
        raise UsageError(
            "A replay needs a temperature from 0 to 2 and a time-out above 0, not "
            f"{settings.temperature:g} and {settings.timeout:g}."
        )
