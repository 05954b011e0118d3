"""Train a classifier with transformers' Trainer; its head trains beside the adapters."""

from datasets import Dataset
from peft import TaskType, get_peft_model
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)

import plop_lora as plop
from plop_lora.demo import DATA, MODEL

SOURCES = ("problems", "snippets")
tokenizer = AutoTokenizer.from_pretrained(MODEL)
texts, labels = [], []
for label, source in enumerate(SOURCES):
    for document in plop.load_documents(DATA / f"{source}.jsonl", samples=64).items:
        texts.append(document.text)
        labels.append(label)

model = AutoModelForSequenceClassification.from_pretrained(MODEL, num_labels=len(SOURCES))
config = plop.lora_config(model, tokenizer, texts, r=8)
config.task_type = TaskType.SEQ_CLS  # PEFT then trains and saves the new head as well
adapted = get_peft_model(model, config)

rows = Dataset.from_dict({**tokenizer(texts, truncation=True, max_length=128), "labels": labels})
trainer = Trainer(
    model=adapted,
    args=TrainingArguments("out/classifier", max_steps=4, report_to="none", use_cpu=True),
    train_dataset=rows,
    data_collator=DataCollatorWithPadding(tokenizer),
)
trainer.train()
adapted.save_pretrained("out/classifier/adapter")
