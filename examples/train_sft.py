"""Train with TRL's SFTTrainer, with adapters on the module types that score lowest."""

from datasets import load_dataset
from transformers import AutoTokenizer
from trl import SFTConfig, SFTTrainer

import plop_lora as plop
from plop_lora.demo import DATA, MODEL

rows = load_dataset("json", data_files=str(DATA / "problems.jsonl"), split="train")
rows = rows.map(
    lambda row: {
        "prompt": f"Task: {row['question']}\nSolution:",
        "completion": f" {row['answer']}",
    },
    remove_columns=rows.column_names,
)
texts = [row["prompt"] + row["completion"] for row in rows]

trainer = SFTTrainer(
    model=str(MODEL),
    processing_class=AutoTokenizer.from_pretrained(MODEL),
    args=SFTConfig("out/sft", max_steps=4, max_length=128, report_to="none", use_cpu=True),
    train_dataset=rows,
    peft_config=plop.lora_config(MODEL, texts=texts, r=8),
)
trainer.train()
trainer.save_model("out/sft/adapter")
