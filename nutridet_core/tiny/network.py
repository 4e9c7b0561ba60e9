"""The network in pretraining: Qwen2-VL's own weights and arithmetic, on shorter ways.

Belongs here: what makes a step fast (one attention call for all views, every view seen once, no waiting for the
GPU) and the two losses. Does not belong here: the loop (`pretrain`) and how the network is built (`architecture`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers.models.qwen2_vl.modeling_qwen2_vl import PatchEmbed, VisionAttention, apply_rotary_pos_emb_vision
from transformers.vision_utils import get_vision_position_ids

from nutridet_core.data.generated import LABELS
from nutridet_core.tiny.dense import DenseHead


class Trainee(nn.Module):
    """The model with the head that teaches its vision tower; its forward pass gives the losses."""

    def __init__(self, model: Any, photo_at: int) -> None:
        super().__init__()
        self.model, self.photo_at = model, photo_at
        self.dense = DenseHead(model.config.text_config.hidden_size, len(LABELS))

    def forward(self, inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean loss over the answers' tokens, and the dense head's."""
        features = visual_features(self.model, inputs)
        logits = answer_logits(self.model, inputs, features, self.photo_at)
        labels = inputs["labels"][:, -logits.shape[1] :]
        answers = functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten())
        _, height, width = inputs["image_grid_thw"][0].tolist()
        merge = self.model.model.visual.spatial_merge_size
        return answers, self.dense(features, inputs["objects"], (height // merge, width // merge))


def take_short_ways() -> None:
    """Replace the two methods of Qwen2-VL's vision tower that are slow on many equal views."""
    VisionAttention.forward, PatchEmbed.forward = batched_vision_attention, linear_patch_embedding


def batched_vision_attention(
    self: VisionAttention,
    hidden_states: torch.Tensor,
    cu_seqlens: torch.Tensor,
    position_embeddings: tuple[torch.Tensor, torch.Tensor],
    **_: Any,
) -> torch.Tensor:
    """Attention over photos of equal size in one call, where the original loops over photos."""
    count = cu_seqlens.numel() - 1
    query, key, value = self.qkv(hidden_states).reshape(len(hidden_states), 3, self.num_heads, -1).unbind(1)
    query, key = apply_rotary_pos_emb_vision(query, key, *position_embeddings)
    shape = (count, -1, self.num_heads, query.shape[-1])
    query, key, value = (part.reshape(shape).transpose(1, 2).to(value.dtype) for part in (query, key, value))
    mixed = functional.scaled_dot_product_attention(query, key, value)
    projected: torch.Tensor = self.proj(mixed.transpose(1, 2).reshape(len(hidden_states), -1))
    return projected


def linear_patch_embedding(self: PatchEmbed, hidden_states: torch.Tensor) -> torch.Tensor:
    """The original convolves patches with kernels of their own size: a product, and faster as one."""
    weight = self.proj.weight
    embedded: torch.Tensor = functional.linear(hidden_states.to(weight.dtype), weight.flatten(1))
    return embedded


def visual_features(model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """The vision tower's tokens, `(views, cells, hidden)`."""
    grid, visual = inputs["image_grid_thw"], model.model.visual
    patches = inputs["pixel_values"]
    each = len(patches) // len(grid)
    one = get_vision_position_ids(grid[:1], visual.spatial_merge_size)
    features: torch.Tensor = visual(
        patches,
        grid_thw=grid,
        position_ids=one.repeat(len(grid), 1).to(patches.device, non_blocking=True),
        cu_seqlens=torch.arange(len(grid) + 1) * each,
    ).pooler_output
    return features.reshape(len(grid), each // visual.spatial_merge_size**2, -1)


def answer_logits(model: Any, inputs: dict[str, torch.Tensor], features: torch.Tensor, photo_at: int) -> torch.Tensor:
    """`model(**inputs).logits` from the end of the photo on; as many questions in a row are about each view."""
    cells = features.shape[1]
    photos = features.repeat_interleave(len(inputs["input_ids"]) // len(features), dim=0)
    words = model.get_input_embeddings()(inputs["input_ids"])
    embeddings = torch.cat([words[:, :photo_at], photos.to(words.dtype), words[:, photo_at + cells :]], dim=1)
    hidden = model.model.language_model(
        inputs_embeds=embeddings,
        position_ids=inputs["position_ids"],
        attention_mask={"full_attention": None},  # causal; padding is on the right
        use_cache=False,
    ).last_hidden_state
    logits: torch.Tensor = model.lm_head(hidden[:, photo_at + cells :])
    return logits
