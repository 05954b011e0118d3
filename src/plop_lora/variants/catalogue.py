"""The variants by name: what each changes, and what it is for. Data only; no torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from plop_lora.errors import UsageError, nearest
from plop_lora.records import Family


@dataclass(frozen=True, slots=True)
class Variant:
    """One variant.

    Attributes:
        name: Name that `--variants` takes.
        family: What it changes.
        what: What is done, in one sentence.
        forward: Whether it runs the model; the others are computed from what is measured already.
        needs: What has to be given for it, in the words of an error; empty if nothing has.
    """

    name: str
    family: Family
    what: str
    forward: bool = False
    needs: str = ""


VARIANTS = {
    row.name: row
    for row in (
        Variant("bootstrap", Family.SAMPLE, "As many texts, drawn again with replacement."),
        Variant("half-splits", Family.SAMPLE, "One random half of the texts against the other."),
        Variant("fewer-texts", Family.SAMPLE, "8, 16, 32, … of the texts."),
        Variant(
            "imbalance",
            Family.MIXTURE,
            "Texts weighted so that one group has 90 % of the weight, or all groups the same.",
        ),
        Variant(
            "general-mixture",
            Family.MIXTURE,
            "10, 25 and 50 % of the weight on the bundled general English text.",
        ),
        Variant("typos", Family.TEXTS, "A typing error in one word of ten.", forward=True),
        Variant(
            "noise", Family.TEXTS, "One character of twenty replaced by another.", forward=True
        ),
        Variant("half-length", Family.TEXTS, "The first half of every text.", forward=True),
        Variant("short", Family.TEXTS, "The first 16 tokens of every text.", forward=True),
        Variant(
            "chat-template",
            Family.TEXTS,
            "Every text as a message of the user in the chat template, or without its special "
            "tokens where a template has written the texts.",
            forward=True,
        ),
        Variant(
            "prompt",
            Family.TEXTS,
            "The prompt of --prompt around every text.",
            forward=True,
            needs="--prompt TEXT, with {text} where the text goes",
        ),
        Variant(
            "8-bit",
            Family.WEIGHTS,
            "Every scored weight rounded to the nearest of 255 levels per row (simulated).",
            forward=True,
        ),
        Variant(
            "4-bit",
            Family.WEIGHTS,
            "Every scored weight rounded to the nearest of 15 levels per row (simulated).",
            forward=True,
        ),
        Variant(
            "pruned",
            Family.WEIGHTS,
            "The smaller half of the entries of every scored weight set to zero.",
            forward=True,
        ),
        Variant(
            "merged",
            Family.CHECKPOINT,
            "The adapter of --adapter merged into the weights.",
            forward=True,
            needs="--adapter DIR, the folder of a trained LoRA adapter",
        ),
        Variant(
            "against",
            Family.CHECKPOINT,
            "The checkpoints or saved scores of --against.",
            forward=True,
            needs="--against MODEL, another checkpoint of the family, or --against scores.json, "
            "its saved scores",
        ),
        Variant(
            "random-words",
            Family.UNRELATED,
            "English words drawn at random, as many as every text has.",
            forward=True,
        ),
        Variant(
            "other-language",
            Family.UNRELATED,
            "The bundled Japanese text, or the English one for texts in Japanese.",
            forward=True,
        ),
        Variant("general-text", Family.UNRELATED, "The bundled general English text."),
    )
}


def chosen_variants(names: Iterable[str] | None, also: Iterable[str] = ()) -> list[Variant]:
    """Return the variants of some names, in the order of the catalogue; None stands for all.

    Args:
        names: Names of variants.
        also: Names that other options ask for.

    Raises:
        UsageError: A name is unknown; the text suggests the nearest. Or no name is given, or only
            those of variants for which something else has to be given that is not.
    """
    if names is None:
        return list(VARIANTS.values())
    asked = list(names)
    unknown = next((name for name in asked if name not in VARIANTS), None)
    if unknown is not None:
        raise UsageError(
            f"There is no variant {unknown!r}.{nearest(unknown, VARIANTS)} Variants: "
            f"{', '.join(VARIANTS)}."
        )
    if not asked:
        raise UsageError(f"--variants names none. Variants: {', '.join(VARIANTS)}.")
    rows = [row for row in VARIANTS.values() if row.name in {*asked, *also}]
    lacking = [row for row in rows if row.needs and row.name not in {*also}]
    if lacking == rows:
        needs = "; ".join(f"{row.name} needs {row.needs}" for row in rows)
        raise UsageError(f"There is nothing to run: {needs}.")
    return rows
