"""The embedded model: a real Qwen2-VL of 11 million parameters that trains and answers on a laptop.

Belongs here: its tokenizer, its architecture, the recipes that made it, and its weights (`base/`, and the
adapter `tuned/`). Does not belong here: anything that also runs with other models.

In order: `pretrain` (drawn pages), `tune` (LoRA on drawn product photos), `divide` (the vision half into
the base).
"""
