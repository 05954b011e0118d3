"""A model without a tokenizer: pass ready batches, here of a small vision transformer."""

import torch
from transformers import ViTConfig, ViTModel

import plop_lora as plop

torch.manual_seed(0)
config = ViTConfig(
    hidden_size=64, intermediate_size=128, num_hidden_layers=3, num_attention_heads=4, image_size=32
)
model = ViTModel(config)
batches = [{"pixel_values": torch.randn(8, 3, 32, 32)} for _ in range(4)]

scores = plop.score(model, batches=batches)
print(scores)
print(plop.place(scores, top=2, rank=4).to_peft().target_modules)
