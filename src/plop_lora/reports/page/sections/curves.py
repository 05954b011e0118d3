"""The learning curves of trials: the arms of a verification side by side, and a final finetune."""

from __future__ import annotations

from plop_lora.records import ArmResult, Finetune, Verification
from plop_lora.records.trial import LearningCurve
from plop_lora.reports.page import figures
from plop_lora.reports.page.blocks import DataTable, Figure
from plop_lora.reports.text import Text, number

Held = list[tuple[ArmResult, int, LearningCurve]]


def arm_curves(record: Verification, words: Text) -> Figure | None:
    """Return a small drawing for each arm with a line for each seed; None without curves."""
    held: Held = [
        (arm, seed, curve)
        for arm in record.arms
        for seed, curve in zip(record.seeds, arm.curves, strict=False)
        if curve is not None and curve.points
    ]
    if not held:
        return None
    names = list(dict.fromkeys(arm.arm for arm, _, _ in held))
    quantity = held[0][2].quantity
    title = words("curves.title", quantity=_named(quantity, words))
    lines = [
        {"panel": names.index(arm.arm), "name": str(seed), "points": curve.points}
        for arm, seed, curve in held
    ]
    return Figure(
        name="curves",
        title=title,
        alt=words("curves.alt", quantity=_named(quantity, words), arms=words.listed(names)),
        spec=figures.panels(
            {"panels": names, "lines": lines},
            titles={
                "at": words("column.step"), "value": _named(quantity, words),
                "panel": words("column.arm"), "name": words("column.seed"),
            },
        ),
        table=_arms_table(title, held, words),
    )  # fmt: skip


def _arms_table(title: str, held: Held, words: Text) -> DataTable:
    columns = ("arm", "seed", "first", "middle", "last")
    return DataTable(
        caption=title,
        columns=tuple(words(f"column.{name}") for name in columns),
        rows=tuple((arm.arm, str(seed), *_samples(curve, words)) for arm, seed, curve in held),
        numeric=(False, True, True, True, True),
    )


def _samples(curve: LearningCurve, words: Text) -> list[str]:
    """Return the first, the middle and the last point, each after its step."""
    points = curve.points
    return [_point(points[place], words) for place in (0, len(points) // 2, -1)]


def _point(point: tuple[int, float], words: Text) -> str:
    step, value = point
    return f"{words.count(step)}: {number(value, 4)}"


def finetune_curve(record: Finetune, words: Text) -> Figure | None:
    """Return the losses of the final training; None without a curve."""
    curve = record.curve
    if curve is None:
        return None
    name = _named(curve.quantity, words)
    parts = {
        words("curves.training", quantity=name): curve.points,
        words("curves.selection"): curve.evaluations,
    }
    points = [(group, *point) for group, found in parts.items() for point in found]
    title = words("curves.final.title")
    if not points:
        return None
    return Figure(
        name="curve",
        title=title,
        alt=words(
            "curves.final.alt", steps=words.count(record.steps), points=words.count(len(points))
        ),
        spec=figures.training(
            [{"group": group, "at": step, "value": value} for group, step, value in points],
            groups=[group for group, found in parts.items() if found],
            titles={
                "at": words("column.step"), "value": name, "group": words("column.value"),
            },
            best=record.best_step,
        ),
        table=DataTable(
            caption=title,
            columns=(words("column.value"), words("column.step"), name),
            rows=tuple(
                (group, words.count(step), number(value, 4)) for group, step, value in points
            ),
            numeric=(False, True, True),
        ),
    )  # fmt: skip


def _named(quantity: str, words: Text) -> str:
    """Return the name of a quantity; one that this version does not know stands as it is."""
    known = {"loss": "quantity.loss", "reward": "quantity.reward"}
    return words(known[quantity]) if quantity in known else quantity
