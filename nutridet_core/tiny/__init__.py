"""The embedded model: a real Qwen2-VL of 11 million parameters that trains and answers on a laptop.

Belongs here: its tokenizer, its architecture, the recipe that pretrained it, and its weights
(`base/`). Does not belong here: anything that also runs with other models.
"""
