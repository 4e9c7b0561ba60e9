"""A random model of each family with a few hundred thousand parameters, saved as a hub's folder would be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import transformers

from nutridet_core.families import FAMILIES, QWEN2_5_VL, QWEN2_VL, QWEN3_VL, Family
from nutridet_core.profiles import TINY, Profile
from nutridet_core.tiny.architecture import CHAT_TEMPLATE, VOCABULARY, build_generation_config, build_tokenizer

_HIDDEN = 64
_ROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]}
_TOWERS: dict[str, dict[str, Any]] = {
    QWEN2_VL.name: {"embed_dim": _HIDDEN, "hidden_size": _HIDDEN},
    QWEN2_5_VL.name: {
        "hidden_size": _HIDDEN, "out_hidden_size": _HIDDEN, "intermediate_size": 96, "window_size": 56,
        "fullatt_block_indexes": [1],
    },
    QWEN3_VL.name: {
        "hidden_size": _HIDDEN, "out_hidden_size": _HIDDEN, "intermediate_size": 96, "num_position_embeddings": 64,
        "deepstack_visual_indexes": [0, 1],
    },
}  # fmt: skip
_VIDEO = {QWEN3_VL.name: "Qwen3VLVideoProcessor"}


def profile_of(family: Family, folder: Path, *, min_pixels: int = 96 * 96, max_pixels: int = 160 * 160) -> Profile:
    """The profile `tiny`, but of another family, for weights in `folder`, and with gradient checkpointing as for 7B."""
    return replace(
        TINY, name=family.name, family=family.name, base_model=str(folder), min_pixels=min_pixels,
        max_pixels=max_pixels, train_batch_size=4, max_epochs=1, max_new_tokens=12, gradient_checkpointing=True,
    )  # fmt: skip


def write_models(root: Path) -> dict[str, Path]:
    """A folder per family, by its name."""
    tokenizer = build_tokenizer()
    folders = {}
    for family in FAMILIES:
        folder = folders[family.name] = root / family.name
        torch.manual_seed(0)
        model = getattr(transformers, family.model_class)(_config(family, tokenizer))
        model.generation_config = build_generation_config(tokenizer)
        model.save_pretrained(folder)
        _processor(family, tokenizer).save_pretrained(folder)
    return folders


def _config(family: Family, tokenizer: Any) -> Any:
    token = tokenizer.convert_tokens_to_ids
    text = {
        "vocab_size": VOCABULARY, "hidden_size": _HIDDEN, "intermediate_size": 128, "num_hidden_layers": 3,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32, "max_position_embeddings": 1024,
        "rope_parameters": dict(_ROPE), "bos_token_id": None, "eos_token_id": token("<|im_end|>"),
        "pad_token_id": token("<|endoftext|>"),
    }  # fmt: skip
    return getattr(transformers, family.model_class.replace("ForConditionalGeneration", "Config"))(
        text_config=text,
        vision_config={"depth": 2, "num_heads": 2, **_TOWERS[family.name]},
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
        tie_word_embeddings=False,
        architectures=[family.model_class],
    )


def _processor(family: Family, tokenizer: Any) -> Any:
    patch = family.cell_px // 2
    return getattr(transformers, family.processor_class)(
        image_processor=transformers.Qwen2VLImageProcessor(patch_size=patch),
        tokenizer=tokenizer,
        video_processor=getattr(transformers, _VIDEO.get(family.name, "Qwen2VLVideoProcessor"))(),
        chat_template=CHAT_TEMPLATE,
    )
