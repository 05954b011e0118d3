"""The demonstration of `plop demo`: each step writes the record that the next one reads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from plop_lora.files import check_writable
from plop_lora.records import Placement, Scores

HERE = Path(__file__).parent
MODEL = HERE / "model"
DATA = HERE / "data"
TASKS = {
    "problems": {"template": "Question: {question}\nAnswer: {answer}"},
    "snippets": {"text": "text"},
}


def check(folder: Path) -> None:
    """Check before the run that the records can be written to a folder.

    Raises:
        OutputError: One of the files cannot be written.
    """
    for name in ("problems.json", "snippets.json", "placement.json"):
        check_writable(folder / name)


def run(folder: Path, *, echo: Callable[[str], None] = print) -> Placement:
    """Score both tasks, compare them, place, export, and load the export with PEFT.

    Args:
        folder: Folder for `problems.json`, `snippets.json`, `placement.json` and the adapter's
            configuration.
        echo: Function that is called with each paragraph of the output.

    Returns:
        The placement for the word problems.

    Raises:
        OutputError: The folder cannot be written.
    """
    from plop_lora.comparison import compare
    from plop_lora.placement import place
    from plop_lora.reports.terminal import as_text

    check(folder)
    echo("1. Score: which module types respond to word problems more than to noise?\n")
    scores = {task: _score(task) for task in TASKS}
    for task, record in scores.items():
        record.save(folder / f"{task}.json")
    echo(as_text(scores["problems"]))
    echo("\n2. Compare: does another task, Python snippets, give the same order?\n")
    echo(
        as_text(
            compare(
                scores["problems"],
                scores["snippets"],
                first_name="problems",
                second_name="snippets",
            )
        )
    )
    echo("\n3. Place: the three lowest types, and how certain the choice is.\n")
    placement = place(scores["problems"])
    placement.save(folder / "placement.json")
    echo(as_text(placement))
    echo("\n4. Export: PEFT's configuration, written and loaded back.\n")
    path = placement.export(folder / "adapter")
    echo(f"Wrote {path}")
    echo(_load_back(path.parent))
    echo(f"\nThe records are in {folder}. Next: plop score YOUR_MODEL --data YOUR_DATA.jsonl")
    return placement


def _score(task: str) -> Scores:
    from plop_lora.data.documents import load_documents
    from plop_lora.scoring import score

    documents = load_documents(DATA / f"{task}.jsonl", **TASKS[task])  # type: ignore[arg-type]
    return score(str(MODEL), texts=documents, stop="fixed")


def _load_back(folder: Path) -> str:
    """Load the written configuration with PEFT and apply it to the model."""
    from peft import LoraConfig, get_peft_model

    from plop_lora.models.loading import load_model

    adapted = get_peft_model(load_model(str(MODEL)), LoraConfig.from_pretrained(str(folder)))
    trainable, total = adapted.get_nb_trainable_parameters()
    modules = len(adapted.base_model.targeted_module_names)
    return f"PEFT loads it: {modules} adapted modules, {trainable:,} of {total:,} parameters train."
