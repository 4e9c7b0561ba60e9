"""Cached vision features: a tower that does not learn sees each photo once per process.

Belongs here: the store and its place in a model. Does not belong here: deciding which models may use it
(`train`, `pipeline.training`).

In a fine-tuning of the language model alone, the vision tower gives the same features for a photo in every
epoch, in every such experiment and for every checkpoint. They are kept in host memory under a key of the
tower's weights and the photo's patches, so neither another pixel budget nor another tower can meet them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers.models.qwen3_vl.modeling_qwen3_vl import BaseModelOutputWithDeepstackFeatures

from nutridet_core.families import Family


@dataclass
class FeatureStore:
    """Features by key, up to a number of bytes; beyond it photos are computed every time."""

    limit_bytes: int = 8 * 2**30
    """600 tokens of 3,584 bf16 values are 4.3 MB a photo: about 1,900 photos."""
    kept: dict[str, torch.Tensor] = field(default_factory=dict)
    size_bytes: int = 0
    computed: int = 0
    """Photos that went through a tower."""
    reused: int = 0

    def keep(self, key: str, features: torch.Tensor) -> None:
        """Remember the features of a photo, shape `(tokens, hidden)`, if there is room."""
        self.computed += 1
        features = features.detach().to("cpu", copy=True)
        if self.size_bytes + features.nbytes <= self.limit_bytes:
            self.kept[key] = features
            self.size_bytes += features.nbytes


def cache_features(model: Any, family: Family, store: FeatureStore) -> None:
    """Let the vision tower of a model look into `store` first. The model's modules and names stay as they are.

    A tower that wears an adapter computes every time: what it answers depends on which adapter is active.

    Raises:
        ValueError: when a weight of the tower is trainable: its features would be out of date after one step.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    tower = base.get_submodule(family.vision_module)
    if any(parameter.requires_grad for parameter in tower.parameters()):
        raise ValueError(f"{family.vision_module} is trained, so its features cannot be kept")
    vars(tower).pop("forward", None)  # an earlier call's, for the weights of then
    if any(".lora_" in name for name, _ in tower.named_parameters()):
        return
    compute = tower.forward
    layers = 1 + len(getattr(tower, "deepstack_visual_indexes", ()))
    tower.forward = _cached_forward(compute, digest_of(tower), tower.spatial_merge_size**2, layers, store)


def digest_of(tower: torch.nn.Module) -> str:
    """Hash of a module's weights and their names."""
    hashed = hashlib.sha256()
    for name, tensor in sorted(tower.state_dict().items()):
        hashed.update(name.encode())
        hashed.update(_bytes(tensor))
    return hashed.hexdigest()


def _cached_forward(
    compute: Callable[..., Any], tower: str, patches_per_token: int, layers: int, store: FeatureStore
) -> Callable[..., BaseModelOutputWithDeepstackFeatures]:
    @torch.no_grad()
    def forward(patches: torch.Tensor, grid_thw: torch.Tensor, **options: Any) -> BaseModelOutputWithDeepstackFeatures:
        lengths = grid_thw.prod(-1).tolist()
        photos = patches.split(lengths)
        keys = [_key(tower, photo, grid) for photo, grid in zip(photos, grid_thw.tolist(), strict=True)]
        new = [number for number, key in enumerate(keys) if key not in store.kept]
        found = {number: store.kept[key] for number, key in enumerate(keys) if key in store.kept}
        store.reused += len(found)
        if new:
            output = compute(torch.cat([photos[number] for number in new]), grid_thw=grid_thw[new], **options)
            tokens = [lengths[number] // patches_per_token for number in new]
            for number, features in zip(new, _side_by_side(output).split(tokens), strict=True):
                found[number] = features
                store.keep(keys[number], features)
        features = [found[number].to(patches.device, non_blocking=True) for number in range(len(keys))]
        last, *deepstack = torch.cat(features).chunk(layers, dim=-1)
        return BaseModelOutputWithDeepstackFeatures(pooler_output=last, deepstack_features=deepstack)

    return forward


def _side_by_side(output: Any) -> torch.Tensor:
    """What the language model gets of each token: the last layer's features, in Qwen3-VL also earlier layers'."""
    return torch.cat([output.pooler_output, *(getattr(output, "deepstack_features", None) or ())], dim=-1)


def _key(tower: str, patches: torch.Tensor, grid: list[int]) -> str:
    hashed = hashlib.blake2b(f"{tower}:{grid}:{patches.dtype}".encode(), digest_size=16)
    hashed.update(_bytes(patches))
    return hashed.hexdigest()


def _bytes(tensor: torch.Tensor) -> Any:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
