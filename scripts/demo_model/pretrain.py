"""Pretrain the bundled demo model on the CPU, from nothing to a folder that transformers loads.

    python scripts/demo_model/pretrain.py --output build/demo_model --minutes 60 --threads 1
    python scripts/demo_model/pretrain.py --architecture gpt2 --output build/models/small-gpt2

Trains a byte-level BPE tokenizer and a small decoder, by default a Llama, on the text of
`corpus.py`, evaluates held-out loss as it goes, keeps the best weights on disk at every evaluation,
and ends with a `training.json` that holds everything the README reports.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import platform
import time
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn import functional
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

import corpus
from architectures import ARCHITECTURES

MIXTURE = {"library": 0.40, "problems": 0.30, "stories": 0.18, "snippets": 0.12}
CHARACTERS = {"problems": 9_000_000, "stories": 7_000_000, "snippets": 4_000_000}
VOCABULARY = 2048
WEIGHTS = "model.safetensors"
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] | capitalize }}: "
    "{{ message['content'] or '' }}\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant: {% endif %}"
)


@dataclass(frozen=True)
class Hyperparameters:
    """Everything that shapes the run besides the data.

    With `steps` the schedule follows them, so that a slower machine trains as much; without, it
    follows the clock for so many `minutes`.
    """

    architecture: str = "llama"
    seed: int = 0
    steps: int | None = None
    minutes: float = 60.0
    threads: int = 1
    batch: int = 16
    length: int = 256
    learning_rate: float = 3e-3
    warmup_steps: int = 100
    weight_decay: float = 0.1
    evaluations: int = 24

    def progress(self, step: int, seconds: float) -> float:
        """Return how much of the training is done, 1 at its end."""
        return step / self.steps if self.steps else seconds / (60 * self.minutes)


def train_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer with single digits and <s>, </s>, <pad>."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<s>", "</s>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    fast.chat_template = CHAT_TEMPLATE
    fast.model_max_length = 512
    return fast


def make_model(architecture: str, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    """Return a network of an architecture with random weights."""
    config = ARCHITECTURES[architecture](
        vocab_size=VOCABULARY,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    # On a CPU the loop over experts takes less than half the time of the grouped product.
    return AutoModelForCausalLM.from_config(config, experts_implementation="eager")


def to_stream(texts: list[str], tokenizer: PreTrainedTokenizerFast) -> torch.Tensor:
    """Return all texts as one line of tokens, each between <s> and </s>."""
    tokens: list[int] = []
    for start in range(0, len(texts), 1000):
        for encoding in tokenizer(texts[start : start + 1000])["input_ids"]:
            tokens += [tokenizer.bos_token_id, *encoding, tokenizer.eos_token_id]
    return torch.tensor(tokens, dtype=torch.int32)


def held_out_loss(
    model: PreTrainedModel, streams: dict[str, torch.Tensor], length: int
) -> dict[str, float]:
    """Return the mean held-out loss of each source, in nats per token."""
    model.eval()
    losses: dict[str, float] = {}
    with torch.inference_mode():
        for name, stream in streams.items():
            rows = stream[: len(stream) // length * length].view(-1, length).long()
            total, count = 0.0, 0
            for piece in rows.split(32):
                logits = model(piece).logits[:, :-1].float()
                loss = functional.cross_entropy(
                    logits.flatten(0, 1), piece[:, 1:].flatten(), reduction="sum"
                )
                total += loss.item()
                count += piece[:, 1:].numel()
            losses[name] = total / count
    model.train()
    return losses


def unigram_loss(train: torch.Tensor, held_out: dict[str, torch.Tensor]) -> dict[str, float]:
    """Return the held-out loss of an add-one smoothed unigram model over the training tokens."""
    counts = torch.bincount(train.long(), minlength=VOCABULARY).double() + 1
    negative_log = -(counts / counts.sum()).log()
    return {name: negative_log[stream.long()].mean().item() for name, stream in held_out.items()}


def mixed(losses: dict[str, float]) -> float:
    """Return the loss over all sources, weighted like the training mixture."""
    return sum(MIXTURE[name] * loss for name, loss in losses.items())


class Sampler:
    """Draws windows of the training streams in the proportions of the mixture."""

    def __init__(self, streams: dict[str, torch.Tensor], settings: Hyperparameters) -> None:
        """Keep the streams and a generator of its own."""
        self.streams = streams
        self.settings = settings
        self.generator = torch.Generator().manual_seed(settings.seed)
        self.names = list(MIXTURE)
        self.weights = torch.tensor([MIXTURE[name] for name in self.names])
        self.seen = dict.fromkeys(self.names, 0)

    def batch(self) -> torch.Tensor:
        """Return token ids of shape [batch, length]."""
        length = self.settings.length
        picks = torch.multinomial(
            self.weights, self.settings.batch, replacement=True, generator=self.generator
        )
        rows = []
        for pick in picks.tolist():
            stream = self.streams[self.names[pick]]
            high = len(stream) - length
            start = int(torch.randint(high, (1,), generator=self.generator))
            rows.append(stream[start : start + length].long())
            self.seen[self.names[pick]] += length
        return torch.stack(rows)


def learning_rate(progress: float, step: int, settings: Hyperparameters) -> float:
    """Return the rate after warm-up and a cosine over the whole training, down to 5 %."""
    warm = min(1.0, (step + 1) / settings.warmup_steps)
    cosine = 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return settings.learning_rate * warm * cosine


def save_best(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write the bf16 weights and the tokenizer."""
    copy = deepcopy(model).to(torch.bfloat16)
    copy.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def train(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    sampler: Sampler,
    held_out: dict[str, torch.Tensor],
    settings: Hyperparameters,
    folder: Path,
) -> dict[str, object]:
    """Train until the steps or the minutes are over and return steps and the loss curve."""
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim == 1]
    optimizer = torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": settings.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ],
        betas=(0.9, 0.95),
    )
    curve: list[dict[str, float]] = []
    best, step, recent = math.inf, 0, []
    start, progress, next_evaluation = time.monotonic(), 0.0, 1
    while progress < 1:
        rate = learning_rate(progress, step, settings)
        for group in optimizer.param_groups:
            group["lr"] = rate
        recent.append(train_step(model, optimizer, sampler.batch()))
        step += 1
        seconds = time.monotonic() - start
        progress = settings.progress(step, seconds)
        if progress * settings.evaluations >= next_evaluation:
            losses = held_out_loss(model, held_out, settings.length)
            curve.append(
                {"minutes": round(seconds / 60, 1), "step": step}
                | {"train": sum(recent) / len(recent), "held_out": mixed(losses)}
                | losses
            )
            print(json.dumps(curve[-1]), flush=True)
            recent, next_evaluation = [], int(progress * settings.evaluations) + 1
            if curve[-1]["held_out"] < best:
                best = curve[-1]["held_out"]
                save_best(model, tokenizer, folder)
    return {"steps": step, "best_held_out": best, "curve": curve}


def train_step(
    model: PreTrainedModel, optimizer: torch.optim.Optimizer, tokens: torch.Tensor
) -> float:
    """Take one optimiser step on a batch and return its loss."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(tokens, use_cache=False).logits[:, :-1]
    loss = functional.cross_entropy(logits.float().flatten(0, 1), tokens[:, 1:].flatten())
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.item()


def hardware(threads: int) -> str:
    """Return the processor's name and the threads used."""
    name = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                name = line.split(":", 1)[1].strip()
                break
    return f"{name}, {threads} of {os.cpu_count()} threads"


def run(settings: Hyperparameters, folder: Path) -> None:
    """Do the whole job and write `training.json` beside the weights."""
    torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.seed)
    splits = corpus.build(settings.seed, CHARACTERS)
    balanced = [text for split in splits.values() for text in split.train[::3]]
    tokenizer = train_tokenizer(balanced)
    streams = {name: to_stream(split.train, tokenizer) for name, split in splits.items()}
    held_out = {name: to_stream(split.held_out, tokenizer) for name, split in splits.items()}
    model = make_model(settings.architecture, tokenizer)
    random_loss = held_out_loss(model, held_out, settings.length)
    sampler = Sampler(streams, settings)
    started = time.monotonic()
    outcome = train(model, tokenizer, sampler, held_out, settings, folder)
    best = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    final = held_out_loss(best, held_out, settings.length)
    unigram = unigram_loss(torch.cat(list(streams.values())), held_out)
    report = {
        "hyperparameters": asdict(settings),
        "mixture": MIXTURE,
        "training_tokens": {name: len(stream) for name, stream in streams.items()},
        "held_out_tokens": {name: len(stream) for name, stream in held_out.items()},
        "tokens_seen": sampler.seen,
        "parameters": model.num_parameters(),
        "weights_sha256": hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest(),
        "wall_minutes": round((time.monotonic() - started) / 60, 1),
        "hardware": hardware(settings.threads),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "held_out_nats_per_token": {
            "model": final | {"all": mixed(final)},
            "unigram": unigram | {"all": mixed(unigram)},
            "random weights": random_loss | {"all": mixed(random_loss)},
        },
    } | outcome
    (folder / "training.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--architecture", choices=ARCHITECTURES, default="llama")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=float, default=60.0)
    length.add_argument("--steps", type=int, help="in place of the minutes")
    parser.add_argument("--evaluations", type=int, default=24, help="of the held-out loss")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    settings = Hyperparameters(
        architecture=options.architecture,
        seed=options.seed,
        steps=options.steps,
        minutes=options.minutes,
        threads=options.threads,
        evaluations=options.evaluations,
    )
    run(settings, options.output)


if __name__ == "__main__":
    main()
