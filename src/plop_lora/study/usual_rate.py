"""The learning rate at which a ladder begins, by a published fit. No torch.

Over fourteen models the best LoRA rate was about ten times that of a full finetune, and fifteen
times in runs of under a hundred steps. The rate of a full finetune was 5e-5 at a width of 2,000
features, times a power of 2,000 / width that differs by family. Sources: Schulman et al., "LoRA
Without Regret", Thinking Machines, 2025; the powers are those of `get_lr` in that company's
tinker-cookbook.
"""

from __future__ import annotations

from collections.abc import Mapping

from plop_lora.records import ModelReference

LORA_OVER_FULL = 10.0
SHORT_OVER_FULL = 15.0
SHORT_STEPS = 100
"""Steps under which a run counts as short."""
WIDTH = 2000
"""Features of the model that the rates of full finetunes are given for."""
POWERS = {"qwen": 0.0775}
"""The power of `WIDTH` / width, by how the name of a family begins."""
USUAL_POWER = 0.781
"""That of Llama, which other families take as well.

In the study of this project, arms of three networks of 384 to 640 features had their best rates
between a third and eight times what follows from it, most between one and three times; that is 3
to 80 times a constant 2e-4 (`scripts/experiments/results`).
"""
WIDTHS = ("hidden_size", "d_model", "n_embd", "dim")
"""The keys under which configurations give the width."""


def usual_rate(
    full_rate: float, steps: int, model: ModelReference, own: float | None = None
) -> float:
    """Return the LoRA rate to start from, in two digits.

    Args:
        full_rate: that of a full finetune of the task in a model of `WIDTH` features.
        steps: optimizer steps of a deciding trial.
        model: whose width and family count.
        own: the rate of a full finetune of this very model, where the user knows it; then neither
            width nor family counts.
    """
    factor = SHORT_OVER_FULL if steps < SHORT_STEPS else LORA_OVER_FULL
    return rounded(factor * (own or full_rate * width_factor(model)), 2)


def rounded(rate: float, digits: int = 3) -> float:
    """Return a rate in some digits: no trial can tell more of them apart.

    >>> rounded(0.000123456)
    0.000123
    """
    return float(f"{rate:.{digits}g}")


def width_factor(model: ModelReference) -> float:
    """Return what the width of a model makes of a rate; 1 where the width is not known."""
    config = model.config or {}
    width = _width(config) or _width(config.get("text_config"))
    if width is None:
        return 1.0
    family = str(config.get("model_type", ""))
    powers = (power for name, power in POWERS.items() if family.startswith(name))
    return float((WIDTH / width) ** next(powers, USUAL_POWER))


def _width(config: object) -> int | None:
    if not isinstance(config, Mapping):
        return None
    found = (config.get(key) for key in WIDTHS)
    return next((value for value in found if isinstance(value, int) and value > 0), None)
