"""Score a model that is already in memory, and hand the placement to PEFT."""

from peft import get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

import plop_lora as plop
from plop_lora.demo import DATA, MODEL

model = AutoModelForCausalLM.from_pretrained(MODEL)
tokenizer = AutoTokenizer.from_pretrained(MODEL)
documents = plop.load_documents(DATA / "snippets.jsonl")

scores = plop.score(model, tokenizer, documents)
placement = plop.place(scores, budget="1%")
adapted = get_peft_model(model, placement.to_peft())

print(placement)
adapted.print_trainable_parameters()
