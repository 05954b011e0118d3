"""Train with TRL's GRPOTrainer, with adapters on the module types that score lowest."""

from datasets import load_dataset
from transformers import AutoTokenizer
from trl import GRPOConfig, GRPOTrainer

import plop_lora as plop
from plop_lora.demo import DATA, MODEL

rows = load_dataset("json", data_files=str(DATA / "problems.jsonl"), split="train")
rows = rows.map(lambda row: {"prompt": f"Task: {row['question']}\nSolution:"})


def right_number(completions: list[str], answer: list[str], **_: object) -> list[float]:
    """Give 1 to a completion with the right number behind its mark, and less to one with a mark."""
    found = []
    for text, right in zip(completions, answer, strict=True):
        _, mark, number = text.partition("####")
        is_right = number.split()[:1] == right.split()[-1:]
        found.append(1.0 if is_right else 0.2 * bool(mark))
    return found


trainer = GRPOTrainer(
    model=str(MODEL),
    processing_class=AutoTokenizer.from_pretrained(MODEL),
    reward_funcs=right_number,
    args=GRPOConfig(
        "out/grpo", max_steps=2, per_device_train_batch_size=8, num_generations=4,
        max_completion_length=64, report_to="none", use_cpu=True,
    ),
    train_dataset=rows,
    peft_config=plop.lora_config(MODEL, texts=rows.select_columns("prompt"), r=8),
)  # fmt: skip
trainer.train()
trainer.save_model("out/grpo/adapter")
