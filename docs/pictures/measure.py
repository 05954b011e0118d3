"""Measure what the pictures show of the bundled model: `python docs/pictures/measure.py`.

Writes the records beside this file. `generate.py` draws from them and measures nothing, so that the
files of the pictures do not depend on the machine. A test measures the scores and the responses
again, and runs the commands of the tutorial.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from plop_lora.records import Scores

ROOT = Path(__file__).resolve().parents[2]
RECORDS = Path(__file__).parent / "records"
SCORES, VERIFICATION, RESPONSES = (
    RECORDS / name for name in ("problems.json", "verification.json", "responses.json")
)
DEMO = Path("src", "plop_lora", "demo")
LAYER = 1
MODULES = ("v_proj", "k_proj")
"""Two weights that read the same features, those of attention in one layer."""
TEXTS, SHOWN = 8, 120
"""Texts whose tokens are measured, and how many of these tokens are drawn."""


def scores() -> Scores:
    """Return the scores of the bundled model on its word problems, as `plop demo` makes them."""
    import plop_lora as plop
    from plop_lora.demo import TASKS

    documents = plop.load_documents(DEMO / "data" / "problems.jsonl", **TASKS["problems"])
    return plop.score(str(DEMO / "model"), texts=documents, stop="fixed", progress=False)


def responses() -> dict[str, dict[str, list[float]]]:
    """Return ‖W z‖ / (‖z‖ · E‖W u‖) of some tokens and of as many random vectors, by weight."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from plop_lora.demo import DATA, MODEL, TASKS
    from plop_lora.indicators.expected_norms import expected_norm

    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    attention = model.model.layers[LAYER].self_attn
    features: list[torch.Tensor] = []
    hook = attention.v_proj.register_forward_pre_hook(lambda _, given: features.append(given[0][0]))
    lines = (DATA / "problems.jsonl").read_text(encoding="utf-8").splitlines()[:TEXTS]
    with torch.no_grad():
        for line in lines:
            text = TASKS["problems"]["template"].format(**json.loads(line))
            ids = [tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"]]
            model(input_ids=torch.tensor([ids]))
    hook.remove()
    # The first token of each text is special, and does not count in a score.
    rows_NI = torch.cat([each[1:] for each in features])
    chosen_NI = rows_NI[:: len(rows_NI) // SHOWN][:SHOWN]
    random_NI = torch.randn(chosen_NI.shape, generator=torch.Generator().manual_seed(0))
    found = {}
    for name in MODULES:
        weight_OI = getattr(attention, name).weight.detach()
        expected = expected_norm(weight_OI, denominator="analytic", seed=0)
        found[name] = {
            kind: [
                round(float(value), 4)
                for value in (rows @ weight_OI.T).norm(dim=1) / (rows.norm(dim=1) * expected)
            ]
            for kind, rows in (("features", chosen_NI), ("randoms", random_NI))
        }
    return found


def verify() -> None:
    """Run the commands of the tutorial on the scores, and keep the record of the verification."""
    work = Path("build", "tutorial")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    named = {
        '"$ROWS"': str(DEMO / "data" / "problems.jsonl"),
        "plop-demo/problems.json": str(SCORES),
        "-o verification.json": f"-o {VERIFICATION} --force --folder {work / 'run'}",
        "acquired": str(work / "acquired"),
    }
    for command in tutorial_commands("acquire", "verify"):
        for name, path in named.items():
            command = command.replace(name, path)
        words = [sys.executable, "-m", "plop_lora", *shlex.split(command)[1:]]
        code = subprocess.run(words, check=False).returncode
        if code not in (0, 3, 4):
            sys.exit(f"{shlex.join(words)} ended with {code}.")


def tutorial_commands(*verbs: str) -> list[str]:
    """Return the commands of some verbs in the tutorial, each on one line."""
    page = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
    blocks = "".join(re.findall(r"```sh\n(.*?)```", page, re.DOTALL)).replace("\\\n", " ")
    wanted = tuple(f"plop {verb} " for verb in verbs)
    return [line for line in blocks.splitlines() if line.startswith(wanted)]


if __name__ == "__main__":
    os.chdir(ROOT)
    RECORDS.mkdir(exist_ok=True)
    scores().save(SCORES)
    RESPONSES.write_text(json.dumps(responses(), indent=1) + "\n", encoding="utf-8")
    verify()
