"""What a step of a trial costs beside a bare loop, measured in one run, paired and interleaved.

    python benchmarks/trial.py [--model DIR] [--data FILE] [--steps 8] [--rounds 3] [--save]

Four ways to train the same adapters (value, up and down projections, rank 8) on the same rows of
prompt and completion, tokenising included:

- usual: a loop of our own as it is usually written, shuffled rows, logits for every token;
- TRL: its SFTTrainer as it is;
- bare: a loop with what a trial uses, batches by length, logits where tokens are judged, attention
  as a trial has it;
- trial: the landed one.

`bare` and `trial` see the same batches, so that their losses must agree; the table has the largest
difference over the steps. Without --model a network of SmolLM2-135M's shape with random weights is
made, and without --data the bundled word problems are used.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from score import processor
from torch.nn import functional

from plop_lora.demo import DATA, MODEL
from plop_lora.evaluation.heads import next_token_nats
from plop_lora.evaluation.judged import Prepared
from plop_lora.evaluation.losses import judgeable, labelled
from plop_lora.placement import place
from plop_lora.records import Placement, TrainingSettings, TrialData, TrialSpec
from plop_lora.scoring.score import score
from plop_lora.training import adapters
from plop_lora.training.task import Session
from plop_lora.training.tasks import sft
from plop_lora.training.trainers import LengthSampler

RATE, BATCH, LENGTH = 6e-4, 8, 256
TYPES = ("v_proj", "up_proj", "down_proj")

Row = Mapping[str, Any]


@dataclass
class Work:
    """What every way trains: a spec, its rows, and the losses of its steps."""

    spec: TrialSpec
    rows: Sequence[Row]
    losses: dict[str, list[float]] = field(default_factory=dict)

    @property
    def steps(self) -> int:
        """Optimizer steps."""
        return int(self.spec.training.steps or 1)

    def prepared(self) -> Prepared:
        """Return the model with fresh adapters, the same for every way."""
        return adapters.prepare(self.spec, self.rows)


def of_smollm2s_shape(folder: Path) -> str:
    """Save a network with SmolLM2-135M's widths, random weights and the bundled tokenizer."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(MODEL)
    config = transformers.LlamaConfig(
        hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, vocab_size=49152, tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def read_rows(path: Path, model: str, count: int) -> list[Row]:
    """Return rows of prompt and completion from questions and answers, of those that are not cut.

    TRL cuts the end of a long row and our own loops the beginning of its prompt, so that the
    losses of a cut row could not be compared.
    """
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    rows: list[Row] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        given = json.loads(line)
        row = {
            "prompt": f"Question: {given['question']}\nAnswer:",
            "completion": f" {given['answer']}",
        }
        if len(rows) < count and len(judgeable(row, tokenizer, LENGTH + 1).tokens) <= LENGTH:
            rows.append(row)
    return rows


def placement_of(model: str, rows: Sequence[Row]) -> Placement:
    """Return the placement that all ways train."""
    texts = [row["prompt"] for row in rows[:16]]
    scores = score(model, texts=texts, stop="fixed", progress=False)
    return place(scores, strategy="custom", types=TYPES, rank=8)


# --------------------------------------------------------------------------- the ways


def loop(
    work: Work, name: str, batches: Sequence[Sequence[int]], loss_of: Callable[..., Any]
) -> None:
    """Train with a loop of our own over the rows of each batch."""
    prepared = work.prepared()
    model, tokenizer = prepared.model.train(), prepared.tokenizer
    sequences = [judgeable(row, tokenizer, LENGTH) for row in work.rows]
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=RATE, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / work.steps)
    losses = []
    for batch in batches[: work.steps]:
        chosen = [sequences[index] for index in batch]
        inputs, labels_BT = labelled(chosen, prepared)
        loss = loss_of(model, inputs, labels_BT)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    work.losses[name] = losses


def usual(work: Work) -> None:
    """Train on shuffled rows with logits for every token."""

    def loss_of(model: Any, inputs: Any, labels_BT: torch.Tensor) -> torch.Tensor:
        logits = model(**inputs, use_cache=False).logits[:, :-1].float()
        return functional.cross_entropy(logits.flatten(0, 1), labels_BT[:, 1:].flatten())

    torch.manual_seed(work.spec.seed)
    order = torch.randperm(len(work.rows)).tolist()
    batches = [order[n : n + BATCH] for n in range(0, len(order), BATCH)]
    loop(work, "usual", batches, loss_of)


def bare(work: Work) -> None:
    """Train with batches by length and logits where tokens are judged."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(work.spec.model)
    lengths = [len(judgeable(row, tokenizer, LENGTH).tokens) for row in work.rows]
    order = list(LengthSampler(lengths, BATCH, work.spec.seed))
    batches = [order[n : n + BATCH] for n in range(0, len(order), BATCH)]
    loop(work, "bare", batches, lambda *given: next_token_nats(*given).mean())


def trial(work: Work) -> None:
    """Train as a trial does."""
    seen: list[Mapping[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        session = Session(Path(folder), seen.append, BATCH)
        sft.train(work.spec, work.prepared(), work.rows, session)
    work.losses["trial"] = [row["loss"] for row in seen if "loss" in row]


def trl(work: Work) -> None:
    """Train with TRL's own trainer."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    prepared = work.prepared()
    with tempfile.TemporaryDirectory() as folder:
        arguments = SFTConfig(
            output_dir=folder,
            max_steps=work.steps,
            per_device_train_batch_size=BATCH,
            learning_rate=RATE,
            max_length=LENGTH,
            bf16=False,
            use_cpu=not torch.cuda.is_available(),
            gradient_checkpointing=False,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            logging_steps=1,
            seed=work.spec.seed,
        )
        trainer = SFTTrainer(
            model=prepared.model,
            args=arguments,
            train_dataset=Dataset.from_list([dict(row) for row in work.rows]),
            processing_class=prepared.tokenizer,
        )
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()


WAYS: dict[str, Callable[[Work], None]] = {"usual": usual, "TRL": trl, "bare": bare, "trial": trial}


# --------------------------------------------------------------------------- the table


def timings(work: Work, rounds: int) -> dict[str, list[float]]:
    """Return the seconds of every way in every round; the first, unmeasured round warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    for number in range(rounds + 1):
        for name, way in WAYS.items():
            started = time.perf_counter()
            way(work)
            if number:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def report(work: Work, rounds: int) -> str:
    """Measure and return the table as Markdown."""
    seconds = timings(work, rounds)
    dtype = adapters.prepare(work.spec).model.base_model.model.dtype
    pairs = zip(work.losses["bare"], work.losses["trial"], strict=True)
    apart = max(abs(one - two) for one, two in pairs)
    lines = [
        f"# Cost of a trial's training, {datetime.date.today().isoformat()}",
        "",
        f"{Path(work.spec.model).name}, {str(dtype).removeprefix('torch.')}, {work.steps} steps of "
        f"{BATCH} rows of at most {LENGTH} tokens, model loading, tokenising and set-up included. "
        f"{rounds} interleaved rounds, medians of paired ratios (range).",
        f"{processor()} ({torch.backends.cpu.get_cpu_capability()}), {torch.get_num_threads()} "
        f"threads; Python {platform.python_version()}, torch {torch.__version__}, transformers "
        f"{transformers.__version__}.",
        "",
        "| way | seconds | of the bare loop | range |",
        "|---|---|---|---|",
    ]
    for name in WAYS:
        ratios = [one / two for one, two in zip(seconds[name], seconds["bare"], strict=True)]
        lines.append(
            f"| {name} | {statistics.median(seconds[name]):.1f} | {statistics.median(ratios):.2f} "
            f"| {min(ratios):.2f}–{max(ratios):.2f} |"
        )
    lines += ["", f"Losses of `bare` and `trial` differ by at most {apart:.2g} nats at any step."]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Print the table, and keep it where asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="a folder; by default random weights of SmolLM2's shape")
    parser.add_argument("--data", type=Path, default=DATA / "problems.jsonl")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--save", action="store_true", help="under benchmarks/results")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = options.model or of_smollm2s_shape(Path(folder) / "random-135M")
        rows = read_rows(options.data, model, BATCH * options.steps)
        spec = TrialSpec(
            arm="benchmark", seed=0, phase="confirm", task="sft", model=model,
            placement=placement_of(model, rows), learning_rate=RATE, data=TrialData("", "", "", ""),
            training=TrainingSettings(
                steps=options.steps, batch_size=BATCH, max_length=LENGTH, warmup=0.0
            ),
        )  # fmt: skip
        text = report(Work(spec, rows), options.rounds)
    print(text)
    if options.save:
        name = f"trial-{datetime.date.today().isoformat()}.md"
        (Path(__file__).parent / "results" / name).write_text(text)


if __name__ == "__main__":
    sys.exit(main())
