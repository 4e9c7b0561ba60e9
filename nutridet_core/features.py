"""Cached vision features: a tower that does not learn sees each photo once per process.

Belongs here: the store and its place in a model. Does not belong here: deciding which models may use it
(`training.train`, `pipeline.training`).

In a fine-tuning of the language model alone, the vision tower gives the same features for a photo in every
epoch, in every such experiment and for every checkpoint. They are kept in host memory under a key of the
tower's weights and the photo's patches, so neither another pixel budget nor another tower can meet them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from transformers.models.qwen3_vl.modeling_qwen3_vl import BaseModelOutputWithDeepstackFeatures

from nutridet_core.artifacts.store import digest
from nutridet_core.families import Family
from nutridet_core.models import base_of


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
    tower = base_of(model).get_submodule(family.vision_module)
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
    return digest([[name, fingerprint(tensor)] for name, tensor in sorted(tower.state_dict().items())])


def fingerprint(tensor: torch.Tensor) -> str:
    """128-bit hash of a tensor's bytes, computed where they lie: a batch of eight photos at 7B is 86 MB, which would
    take longer to bring to a CPU and hash there (100 ms) than the vision tower takes for them.
    """
    data = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    if data.device.type == "cpu":
        return hashlib.blake2b(data.numpy().data, digest_size=16).hexdigest()
    return _multilinear(data)


_ROW = 1024
"""Words of four bytes."""


def _multilinear(data: torch.Tensor) -> str:
    """Multilinear hash, twice, of rows of words and then of the rows' hashes (arXiv 1202.4961).

    It tells photos and weights apart; unlike blake2b it would not withstand someone who makes collisions.
    """
    words = torch.nn.functional.pad(data, (0, -len(data) % (4 * _ROW))).view(torch.int32).view(-1, _ROW)
    across, down = _coefficients(_ROW, data.device), _coefficients(1 << len(words).bit_length(), data.device)
    rows = [(words * factors).sum(-1) for factors in across]
    hashes = torch.stack([(row * factors[: len(row)]).sum() for row, factors in zip(rows, down, strict=True)])
    return ":".join(f"{value:x}" for value in hashes.tolist())


@lru_cache(maxsize=64)
def _coefficients(count: int, device: torch.device) -> torch.Tensor:
    """Shape `(2, count)`: the same random numbers in every process."""
    generator = torch.Generator().manual_seed(count)
    return torch.randint(-(2**63), 2**63 - 1, (2, count), generator=generator).to(device)


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
    return f"{tower}:{grid}:{patches.dtype}:{fingerprint(patches)}"
