"""Qwen2-VL-7B's shape with random weights: memory, speed, names and formats are the real model's, answers are not.

    python -m benchmarks.seven FOLDER [--shape 7b|small]

The vocabulary has the published size; the tokenizer is the embedded model's, whose 512 tokens include Qwen's special
ones. The shape `small` is for trying a benchmark where there is no GPU.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

from nutridet_core.models import compute_dtype, device
from nutridet_core.profiles import QWEN2_VL_7B, Profile
from nutridet_core.tiny.architecture import (
    build_generation_config,
    build_processor,
    build_tokenizer,
    ends_of,
    placeholders_of,
)

SHAPES: dict[str, dict[str, Any]] = {
    "7b": {
        "text": {
            "vocab_size": 152064, "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
            "num_attention_heads": 28, "num_key_value_heads": 4, "max_position_embeddings": 32768,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
        },
        "vision": {"depth": 32, "embed_dim": 1280, "hidden_size": 3584, "num_heads": 16},
        "cells": 576,
    },
    "small": {
        "text": {
            "vocab_size": 2048, "hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 3,
            "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 4096,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [4, 6, 6]},
        },
        "vision": {"depth": 2, "embed_dim": 128, "hidden_size": 128, "num_heads": 4},
        "cells": 36,
    },
}  # fmt: skip
"""`cells`: image tokens of a photo."""


def profile_of(shape: str, base: Path, **changes: Any) -> Profile:
    """The profile `qwen2-vl-7b` on these weights; every photo has about as many image tokens as the shape says."""
    cells = SHAPES[shape]["cells"]
    budget = {"min_pixels": cells * 28 * 28, "max_pixels": (cells + 24) * 28 * 28}
    return replace(QWEN2_VL_7B, base_model=str(base), revision=None, **{**budget, **changes})


def build(shape: str) -> Any:
    """The model in evaluation mode, made on the device: 8.3 billion random weights take a few seconds."""
    torch.manual_seed(0)
    with torch.device(device()):
        model = Qwen2VLForConditionalGeneration._from_config(config_of(shape), dtype=compute_dtype("bf16"))
    model.generation_config = build_generation_config(build_tokenizer())
    return model.eval()


def config_of(shape: str) -> Qwen2VLConfig:
    """The published configuration, with the token ids of the embedded tokenizer."""
    tokenizer = build_tokenizer()
    return Qwen2VLConfig(
        text_config=SHAPES[shape]["text"] | ends_of(tokenizer),
        vision_config=SHAPES[shape]["vision"],
        **placeholders_of(tokenizer),
        tie_word_embeddings=False,
        architectures=["Qwen2VLForConditionalGeneration"],
    )


def write_base(shape: str, folder: Path) -> Path:
    """Weights in bf16 and processor, as a hub download would lie there."""
    if not (folder / "preprocessor_config.json").is_file() and not (folder / "processor_config.json").is_file():
        build(shape).to(torch.bfloat16).save_pretrained(folder, max_shard_size="4GB")
        build_processor(profile_of(shape, folder).contract).save_pretrained(folder)
    return folder


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shape", choices=list(SHAPES), default="7b")
    given = parser.parse_args()
    print(write_base(given.shape, given.folder))
