"""What the untrained models do on these tasks: is there room to learn, and something to learn from?

    python scripts/experiments/baseline.py arithmetic build/arithmetic
    python scripts/experiments/baseline.py docstrings build/docstrings MODEL

`arithmetic`: the bundled model's loss on the answers, the share of right numbers by greedy
decoding, and by 8 samples a prompt at temperature 1 how often they are right. `docstrings`: a
logistic regression on the frozen mean embeddings of MODEL, and always the largest class.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

PROMPTS = {"sft": "Question: {question}\nAnswer:", "grpo": "Question: {question}\nAnswer: {start}"}
NEW_TOKENS = {"sft": 48, "grpo": 24}
SAMPLES = 8
_RESULT = re.compile(r"#### (\d+)")

Row = dict[str, str]


def read(path: Path) -> list[Row]:
    """Return the rows of a JSON-lines file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def result_of(text: str) -> str | None:
    """Return the number after `####`."""
    found = _RESULT.search(text)
    return found.group(1) if found else None


# --------------------------------------------------------------------------- arithmetic


def loss(model: Any, tokenizer: Any, prompt: str, answer: str) -> tuple[float, int]:
    """Return the summed nats of an answer with its end of text, and how many tokens it has."""
    before = tokenizer(prompt)["input_ids"]
    after = tokenizer(f" {answer}{tokenizer.eos_token}", add_special_tokens=False)["input_ids"]
    ids_BT = torch.tensor([before + after])
    with torch.inference_mode():
        logits_BTV = model(ids_BT).logits.float()
    nats = torch.nn.functional.cross_entropy(
        logits_BTV[0, len(before) - 1 : -1], ids_BT[0, len(before) :], reduction="sum"
    )
    return float(nats), len(after)


def right(model: Any, tokenizer: Any, row: Row, task: str, samples: int) -> list[bool]:
    """Return whether each completion has the right number; one greedy, more are sampled."""
    inputs = tokenizer(PROMPTS[task].format(**row), return_tensors="pt")
    inputs.pop("token_type_ids", None)
    with torch.inference_mode():
        ids_BT = model.generate(
            **inputs,
            max_new_tokens=NEW_TOKENS[task],
            num_return_sequences=samples,
            **({"do_sample": True, "top_k": 0} if samples > 1 else {"do_sample": False}),
            pad_token_id=tokenizer.eos_token_id,
        )
    new = tokenizer.batch_decode(ids_BT[:, inputs["input_ids"].shape[1] :])
    return [result_of(text) == result_of(row["answer"]) for text in new]


def arithmetic(folder: Path, rows: int) -> None:
    """Print the numbers of both tasks."""
    from plop_lora.demo import MODEL

    torch.manual_seed(0)
    tokenizer = transformers.AutoTokenizer.from_pretrained(MODEL)
    model = transformers.AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32).eval()
    for task, prompt in PROMPTS.items():
        chosen = read(folder / f"{task}-eval.jsonl")[:rows]
        nats, tokens = zip(
            *(loss(model, tokenizer, prompt.format(**row), row["answer"]) for row in chosen),
            strict=True,
        )
        greedy = [right(model, tokenizer, row, task, 1)[0] for row in chosen]
        passes = [np.mean(right(model, tokenizer, row, task, SAMPLES)) for row in chosen]
        mixed = np.mean([0 < share < 1 for share in passes])
        print(
            f"{task}: {len(chosen)} rows, {sum(nats) / sum(tokens):.3f} nats a token, answers of "
            f"up to {max(tokens)} tokens, right: greedy {np.mean(greedy):.3f}, sampled "
            f"{np.mean(passes):.3f}; prompts with both outcomes {mixed:.3f}"
        )


# --------------------------------------------------------------------------- docstrings


def embeddings(model: Any, tokenizer: Any, texts: list[str]) -> np.ndarray:
    """Return the mean of the last hidden states of each text, of length 1."""
    pieces = []
    for start in range(0, len(texts), 32):
        batch = tokenizer(
            texts[start : start + 32],
            padding=True,
            truncation=True,
            max_length=128,
            return_tensors="pt",
        )
        with torch.inference_mode():
            hidden_BTH = model(**batch).last_hidden_state.float()
        mask_BT1 = batch["attention_mask"].unsqueeze(-1)
        mean_BH = (hidden_BTH * mask_BT1).sum(1) / mask_BT1.sum(1)
        pieces.append(torch.nn.functional.normalize(mean_BH, dim=-1).numpy())
    return np.concatenate(pieces)


def docstrings(folder: Path, name: str) -> None:
    """Print the accuracy of the frozen embeddings and of the largest class."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import f1_score

    tokenizer = transformers.AutoTokenizer.from_pretrained(name)
    model = transformers.AutoModel.from_pretrained(name).eval()
    train, evaluation = (read(folder / f"{part}.jsonl") for part in ("train", "eval"))
    features = [
        embeddings(model, tokenizer, [row["text"] for row in rows]) for rows in (train, evaluation)
    ]
    labels = [np.array([row["label"] for row in rows]) for rows in (train, evaluation)]
    regression = LogisticRegression(C=10, max_iter=1000).fit(features[0], labels[0])
    guesses = regression.predict(features[1])
    largest = Counter(labels[0]).most_common(1)[0][0]
    print(
        f"{len(train)} + {len(evaluation)} rows, {len(set(labels[0]))} classes: logistic "
        f"regression on frozen embeddings {np.mean(guesses == labels[1]):.3f} (macro F1 "
        f"{f1_score(labels[1], guesses, average='macro'):.3f}, on its training rows "
        f"{regression.score(features[0], labels[0]):.3f}), largest class "
        f"{np.mean(labels[1] == largest):.3f}"
    )


def main() -> None:
    """Measure one of the two."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", choices=("arithmetic", "docstrings"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("model", nargs="?", help="for docstrings: a folder or hub id")
    parser.add_argument("--rows", type=int, default=200, help="for arithmetic: of each eval file")
    options = parser.parse_args()
    if options.data == "arithmetic":
        arithmetic(options.folder, options.rows)
    elif options.model is None:
        parser.error("docstrings needs a model")
    else:
        docstrings(options.folder, options.model)


if __name__ == "__main__":
    main()
