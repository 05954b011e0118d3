"""A network of which one module type alone can learn a task, scores that say so or not, and a run.

The task: repeat the first word of a prompt. What stands at another position reaches the last one
through attention only, and in this network whatever attention reads is multiplied by an o_proj
that is nearly nothing, as the MLP is by its down_proj. So adapters on q, k, v, gate and up change
nothing, those on down change what follows from the last word alone, and those on o can learn.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import random
from collections.abc import Sequence
from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import plop_lora as plop
from plop_lora.recipe import Runner
from plop_lora.records import Scores, TrialResult, TrialSpec
from plop_lora.training.runners.events import FINISHED, RUNNING, Event, Watch, ignore
from plop_lora.training.trial import run_trial, trial_folder, write_spec

SIZE = 32
"""All weights are square, so that the same parameters buy every arm its ranks exactly."""
RANK = 28
"""Of one square weight: rank 4 of seven, 14 of two, 9 and a third of three."""
WORDS = ("red", "green", "blue", "white")
FILLERS = ("a", "the", "and", "or", "of", "in", "to", "by")
VOCABULARY = ("[PAD]", "[UNK]", "[END]", "=", *WORDS, *FILLERS)
NOTHING = 1e-6
MIXERS, MLP = ("o_proj", "down_proj"), ("gate_proj", "up_proj", "down_proj")
RECIPE = f"""\
task: sft
prompt: "{{question}} ="
completion: " {{answer}}"
rank: {RANK}
top: 1
seeds: 2
ladder: [1.0]
full_rate: 0.00067
evaluation: {{metric: exact, batch_size: 64, max_new_tokens: 2}}
training: {{steps: 24, batch_size: 16, dtype: float32, device: cpu}}
"""


def write_network(folder: Path, *, dead: bool = False) -> str:
    """Save the network with its tokenizer; in a `dead` one the last norm lets nothing through."""
    config = transformers.LlamaConfig(
        hidden_size=SIZE, intermediate_size=SIZE, num_hidden_layers=1, num_attention_heads=4,
        vocab_size=len(VOCABULARY), bos_token_id=None, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(3)
    network = transformers.LlamaForCausalLM(config)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            leaf = name.split(".")[-2]
            if "embed" in name or leaf == "lm_head":
                weight.normal_(0, 0.2 if "embed" in name else 0.5)
            elif leaf in ("v_proj", *MLP, "o_proj"):
                weight.normal_(0, SIZE**-0.5).mul_(NOTHING if leaf in MIXERS else 1)
        _plant_words(network)
        if dead:
            network.model.norm.weight.zero_()
    network.save_pretrained(folder)
    inner = Tokenizer(models.WordLevel({w: n for n, w in enumerate(VOCABULARY)}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token="[UNK]", eos_token="[END]", pad_token="[PAD]"
    ).save_pretrained(folder)
    return str(folder)


def _plant_words(network: transformers.LlamaForCausalLM) -> None:
    """Let v_proj read the first words only, and the head say [END] after an answer by itself."""
    table, head = network.model.embed_tokens.weight, network.lm_head.weight
    words = [VOCABULARY.index(word) for word in WORDS]
    others = [number for number in range(len(VOCABULARY)) if number not in words]
    half = SIZE // 2
    table[words, :half] = 0
    table[others, half:] = 0
    table[words, -1] = 1
    head[:, -1] = 0
    head[VOCABULARY.index("[END]"), -1] = 4
    read = network.model.layers[0].self_attn.v_proj.weight
    read[:, :half] = 0
    read[:, -1] = 0


def write_rows(folder: Path, *, train: int = 128, judged: int = 32) -> None:
    """Write `train.jsonl` and `eval.jsonl`, no prompt in both."""
    drawn = list(itertools.product(WORDS, FILLERS, FILLERS))
    random.Random(5).shuffle(drawn)
    rows = [{"question": " ".join(words), "answer": words[0]} for words in drawn]
    for name, part in (("train", rows[:train]), ("eval", rows[train : train + judged])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))


def score(model: str, folder: Path) -> Scores:
    """Return the real scores of a network on its training rows."""
    lines = (folder / "train.jsonl").read_text().splitlines()
    texts = [f"{row['question']} =" for row in map(json.loads, lines[:24])]
    return plop.score(model, texts=texts, stop="fixed", device="cpu", cache=False, progress=False)


def lowest(scores: Scores, leaf: str) -> Scores:
    """Return scores in which one module type, and no other, has half the lowest NFN."""
    wanted = next(row for row in scores.types if row.type.endswith(leaf))
    factor = min(row.nfn for row in scores.types) / wanted.nfn / 2

    def scaled(value: float | None, type_name: str) -> float | None:
        return value * factor if value is not None and type_name == wanted.type else value

    types = [
        dataclasses.replace(row, **{f: scaled(getattr(row, f), row.type) for f in _BOUNDS})
        for row in scores.types
    ]
    sums = tuple(
        tuple(scaled(value, site.type) for value in row)
        for site, row in zip(scores.sites, scores.measurements.sums, strict=True)
    )
    return dataclasses.replace(
        scores,
        types=tuple(sorted(types, key=lambda row: row.nfn)),
        sites=tuple(dataclasses.replace(s, nfn=scaled(s.nfn, s.type)) for s in scores.sites),
        measurements=dataclasses.replace(scores.measurements, sums=sums),
    )


_BOUNDS = ("nfn", "low", "high")


class Here:
    """Runs real trials one after the other in this process, which has its imports already.

    `trained` has the specs that were not found finished.
    """

    def __init__(self) -> None:
        self.trained: list[TrialSpec] = []

    def __call__(
        self,
        specs: Sequence[TrialSpec],
        root: Path,
        runner: Runner,
        *,
        report_to: tuple[str, ...] = (),
        watch: Watch = ignore,
    ) -> tuple[TrialResult, ...]:
        return tuple(self._one(spec, root, report_to, watch) for spec in specs)

    def _one(
        self, spec: TrialSpec, root: Path, report_to: tuple[str, ...], watch: Watch
    ) -> TrialResult:
        folder = trial_folder(root, spec)
        if not (folder / "result.json").exists():
            self.trained.append(spec)
        write_spec(root, spec)
        watch(Event(spec, folder, RUNNING))
        result = run_trial(spec, folder, report_to=report_to)
        watch(Event(spec, folder, FINISHED, result))
        return result


def kept(folder: Path) -> dict[str, tuple[int, int]]:
    """Return inode and time of every finished trial's result, by the name of its folder."""
    found = ((path.parent.name, path.stat()) for path in folder.glob("trials/*/result.json"))
    return {name: (stat.st_ino, stat.st_mtime_ns) for name, stat in found}
