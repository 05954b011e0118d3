"""The pairs of network and task of the study, and their data.

A pair is one row of `PAIRS`: what is trained on what, how long, at which learning rates. Its rows
come from files or from the standard library of the running Python, by a seed, so that one Python
version gives the same rows; `docs/study-protocol.md` says why they are what they are. Imports no
torch.

- `gsm8k`: grade-school problems and their solutions (Cobbe et al., arXiv 2110.14168; MIT), from
  `train.jsonl` and `test.jsonl` of a folder.
- `docstrings`: which area of the standard library a docstring comes from (docstrings.py).
- `exceptions`: which class of exception a message of the standard library belongs to.
- `summaries`, `signatures`: a function of the standard library in one sentence, and its parameters
  as JSON (functions.py).
- `arithmetic`: generated word problems and their solutions in equations alone (arithmetic.py).
- general text: prose and source of the standard library, none of it in a task's rows.
"""

from __future__ import annotations

import ast
import json
import random
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import arithmetic
import docstrings
import functions

Row = dict[str, str]


class StudyError(Exception):
    """What the user of these scripts can put right, in one line."""


SEED = 0
GENERAL_ROWS, GENERAL_CHARACTERS = 64, 400
"""Rows of general text, half prose and half source, and the length of each."""
SCORED_TEXTS = 128
"""Training rows that the scores of a pair are made from."""
FEWEST_WORDS = 3
"""Of a message of an exception."""
FEWEST_OF_A_CLASS, MOST_OF_A_CLASS = 100, 420
GRPO, GENERATIONS, COMPLETION_LENGTH = "grpo", 8, 16
"""The task of reinforcement learning, completions of a prompt, and most tokens of each."""
_CONCRETE = re.compile(r"[A-Za-z]*(Error|Exception)\b")


@dataclass(frozen=True)
class Pair:
    """A network, a task, and how its trials run.

    Attributes:
        name: of the pair; its results lie in a folder of that name.
        network: of networks.py, or a folder.
        task: sft, classify or grpo.
        data: a key of `DATA`.
        rates: rungs of the learning rate, a factor of three apart, the same for every arm.
        steps: optimizer steps of a trial.
        batch_size: rows a step; for grpo, completions.
        max_length: tokens of a row.
        evaluation_rows: the first half chooses each arm's rate, the second half is reported.
        roles: module types by the letters that the constant arms are named by; where a weight is
            fused, the one that holds the projection.
        order: pairs with a lower number have shorter trials and run first.
    """

    name: str
    network: str
    task: str
    data: str
    rates: tuple[float, ...]
    steps: int
    batch_size: int
    max_length: int
    evaluation_rows: int
    roles: Mapping[str, str] = field(repr=False)
    order: int = 0

    @property
    def training_rows(self) -> int:
        """Return how many rows are trained on: each once, or the whole file where it is smaller."""
        completions = GENERATIONS if self.task == GRPO else 1
        return self.steps * self.batch_size // completions


LLAMA = {
    "v": "v_proj",
    "o": "o_proj",
    "up": "up_proj",
    "down": "down_proj",
}
BERT = {
    "v": "value",
    "o": "attention.output.dense",
    "up": "intermediate.dense",
    "down": "output.dense",
}
GPT2 = {
    "v": "c_attn",
    "o": "attn.c_proj",
    "up": "c_fc",
    "down": "mlp.c_proj",
}
MIXTRAL = LLAMA | {
    "up": "experts.gate_up_proj",
    "down": "experts.down_proj",
}
LFM2 = LLAMA | {
    "o": "self_attn.out_proj",
    "up": "w3",
    "down": "w2",
}
DECODER_RATES = (2e-4, 6e-4, 1.8e-3, 5.4e-3, 1.62e-2)
ENCODER_RATES = (5e-4, 1.5e-3, 4.5e-3, 1.35e-2, 4.05e-2)
SMALL_RATES = (1.8e-3, 5.4e-3, 1.62e-2, 4.86e-2, 1.458e-1)
"""Of networks of width 192."""
GRPO_RATES = (6e-4, 1.8e-3, 5.4e-3, 1.62e-2)
"""Of the same, trained by rewards."""
PAIRS = {
    pair.name: pair
    for pair in (
        Pair("minilm-docstrings", "minilm", "classify", "docstrings", ENCODER_RATES,
             120, 16, 48, 500, BERT, order=0),
        Pair("minilm-exceptions", "minilm", "classify", "exceptions", ENCODER_RATES,
             120, 16, 48, 500, BERT, order=1),
        Pair("smollm2-gsm8k", "smollm2", "sft", "gsm8k", DECODER_RATES,
             32, 8, 256, 160, LLAMA, order=2),
        Pair("gemma3-gsm8k", "gemma3", "sft", "gsm8k", DECODER_RATES,
             32, 8, 256, 160, LLAMA, order=3),
        Pair("smollm2-summaries", "smollm2", "sft", "summaries", DECODER_RATES,
             32, 8, 256, 160, LLAMA, order=4),
        Pair("smollm2-signatures", "smollm2", "sft", "signatures", DECODER_RATES,
             32, 8, 256, 160, LLAMA, order=5),
        Pair("gemma3-summaries", "gemma3", "sft", "summaries", DECODER_RATES,
             32, 8, 256, 160, LLAMA, order=6),
        Pair("gemma3-signatures", "gemma3", "sft", "signatures", DECODER_RATES,
             32, 8, 256, 160, LLAMA, order=7),
        Pair("bundled-arithmetic", "bundled", "sft", "arithmetic", (6e-4, *SMALL_RATES[:-1]),
             32, 8, 256, 160, LLAMA, order=8),
        Pair("bundled-summaries", "bundled", "sft", "summaries", SMALL_RATES,
             32, 8, 256, 160, LLAMA, order=9),
        Pair("gpt2-arithmetic", "small-gpt2", "sft", "arithmetic", SMALL_RATES,
             32, 8, 256, 160, GPT2, order=10),
        Pair("gpt2-summaries", "small-gpt2", "sft", "summaries", SMALL_RATES,
             32, 8, 256, 160, GPT2, order=11),
        Pair("mixtral-arithmetic", "small-mixtral", "sft", "arithmetic", SMALL_RATES,
             32, 8, 256, 160, MIXTRAL, order=12),
        Pair("mixtral-summaries", "small-mixtral", "sft", "summaries", SMALL_RATES,
             32, 8, 256, 160, MIXTRAL, order=13),
        Pair("lfm2-arithmetic", "small-lfm2", "sft", "arithmetic", SMALL_RATES,
             32, 8, 256, 160, LFM2, order=14),
        Pair("lfm2-summaries", "small-lfm2", "sft", "summaries", SMALL_RATES,
             32, 8, 256, 160, LFM2, order=15),
        Pair("bundled-grpo", "bundled", GRPO, "summaries", GRPO_RATES,
             32, 32, 256, 160, LLAMA, order=16),
    )
}  # fmt: skip


# --------------------------------------------------------------------------- data


def gsm8k(folder: Path | None, rows: int, judged: int) -> tuple[list[Row], list[Row]]:
    """Return rows of prompt and completion to train on and to judge by."""
    counts = {"train.jsonl": rows, "test.jsonl": judged}
    drawn = [
        random.Random(f"{SEED} {name}").sample(problems(folder, name), count)
        for name, count in counts.items()
    ]
    return drawn[0], drawn[1]


def problems(folder: Path | None, name: str) -> list[Row]:
    """Return the problems of one of the two files of GSM8K as prompt and completion.

    Raises:
        StudyError: the folder does not have the files.
    """
    if folder is None or not (folder / "train.jsonl").is_file():
        raise StudyError(
            f"The task gsm8k needs a folder with its train.jsonl and test.jsonl, and "
            f"{folder or 'none'} is given. They are at github.com/openai/grade-school-math; give "
            "the folder with --gsm8k DIR, or GSM8K=DIR to make."
        )
    found = map(json.loads, (folder / name).read_text("utf-8").splitlines())
    return [
        {"prompt": f"Question: {row['question']}\nAnswer:", "completion": f" {row['answer']}"}
        for row in found
    ]


def labelled_docstrings(folder: Path | None, rows: int, judged: int) -> tuple[list[Row], list[Row]]:
    """Return docstrings with their area."""
    train, evaluation = docstrings.build(docstrings.library(), SEED)
    return (
        [{"text": row.text, "label": row.area} for row in train[:rows]],
        [{"text": row.text, "label": row.area} for row in evaluation[:judged]],
    )


def messages(source: str) -> Iterator[tuple[str, str]]:
    """Yield the class and the message of every exception that a source raises with a literal.

    The holes of a formatted message become dots, as a reader without the values sees it.

    >>> list(messages("raise ValueError(f'no such key: {key!r} here')"))
    [('ValueError', 'no such key: ... here')]
    """
    for node in ast.walk(ast.parse(source)):
        call = node.exc if isinstance(node, ast.Raise) else None
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.args:
            text = _literal(call.args[0])
            if text is not None:
                yield call.func.id, " ".join(text.split())


def _literal(node: ast.expr) -> str | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return re.sub(r"%[-#0 +]*[\d.]*[srdxifeg]|\{[^}]*\}", "...", node.value)
    if isinstance(node, ast.BinOp):
        return _literal(node.left)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        return _literal(node.func.value)
    if isinstance(node, ast.JoinedStr):
        parts = (
            str(part.value) if isinstance(part, ast.Constant) else "..." for part in node.values
        )
        return "".join(parts)
    return None


def labelled_exceptions(folder: Path | None, rows: int, judged: int) -> tuple[list[Row], list[Row]]:
    """Return messages of exceptions with their class; a message of two classes belongs to none."""
    classes: dict[str, set[str]] = {}
    for source in _sources():
        for name, text in messages(source):
            if len(text.split()) >= FEWEST_WORDS:
                classes.setdefault(_CONCRETE.sub("...", text), set()).add(name)
    by_class: dict[str, list[str]] = {}
    for text, names in sorted(classes.items()):
        if len(names) == 1:
            by_class.setdefault(next(iter(names)), []).append(text)
    rng = random.Random(f"{SEED} exceptions")
    pool: list[Row] = []
    for name, texts in sorted(by_class.items()):
        if len(texts) >= FEWEST_OF_A_CLASS:
            chosen = rng.sample(texts, min(len(texts), MOST_OF_A_CLASS))
            pool += [{"text": text, "label": name} for text in chosen]
    rng.shuffle(pool)
    cut = min(judged, len(pool) // 3)
    return pool[cut : cut + rows], pool[:cut]


def summaries(folder: Path | None, rows: int, judged: int) -> tuple[list[Row], list[Row]]:
    """Return signatures of functions with the first sentence of their docstrings."""
    return _of_functions(functions.summary, "completion", rows, judged)


def signatures(folder: Path | None, rows: int, judged: int) -> tuple[list[Row], list[Row]]:
    """Return signatures of functions with their parameters as JSON."""
    return _of_functions(functions.signature, "prompt", rows, judged)


def terse_solutions(folder: Path | None, rows: int, judged: int) -> tuple[list[Row], list[Row]]:
    """Return generated word problems with their equations."""
    files = arithmetic.build(SEED)
    train, evaluation = (
        [
            {"prompt": f"Question: {row['question']}\nAnswer:", "completion": f" {row['answer']}"}
            for row in files[f"sft-{part}.jsonl"][:count]
        ]
        for part, count in (("train", rows), ("eval", judged))
    )
    return train, evaluation


def _of_functions(
    read: Callable[[functions.Found], Row | None], unique: str, rows: int, judged: int
) -> tuple[list[Row], list[Row]]:
    avoided = "\n".join(row["text"] for row in general_text())
    seed = f"{SEED} {read.__name__}"
    return functions.split(_sources(), read, unique, avoided, seed, rows, judged)


@cache
def _sources() -> tuple[str, ...]:
    """Return the sources of the standard library, without its tests and what is installed in it."""
    return tuple(_read_sources(docstrings.library()))


def _read_sources(root: Path) -> Iterator[str]:
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).parts
        if {"site-packages", "dist-packages"} & set(parts) or docstrings.SKIPPED & set(parts):
            continue
        try:
            text = path.read_text(encoding="utf-8")
            ast.parse(text)
        except (SyntaxError, UnicodeDecodeError, ValueError):
            continue
        yield text


def general_text() -> list[Row]:
    """Return prose and source that are no task's: what a finetune may spoil."""
    prose, code = [], []
    for text in _sources():
        documentation = ast.get_docstring(ast.parse(text)) or ""
        if len(documentation) >= GENERAL_CHARACTERS:
            prose.append(" ".join(documentation.split())[:GENERAL_CHARACTERS])
        body = text[len(text) // 2 :].partition("\n")[2]
        if len(body) >= GENERAL_CHARACTERS:
            code.append(body[:GENERAL_CHARACTERS])
    rng = random.Random(f"{SEED} general")
    half = GENERAL_ROWS // 2
    return [{"text": text} for kind in (prose, code) for text in rng.sample(kind, half)]


Build = Callable[[Path | None, int, int], tuple[list[Row], list[Row]]]
DATA: dict[str, Build] = {
    "gsm8k": gsm8k,
    "docstrings": labelled_docstrings,
    "exceptions": labelled_exceptions,
    "summaries": summaries,
    "signatures": signatures,
    "arithmetic": terse_solutions,
}


def text_of(row: Mapping[str, Any]) -> str:
    """Return the text of a row as the scores read it: with its answer, where it has one."""
    return row["prompt"] + row["completion"] if "prompt" in row else row["text"]
