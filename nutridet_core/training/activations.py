"""Activations of a training step: how much memory they take, and keeping those of as many layers as fit.

Belongs here: the one formula, and gradient checkpointing layer by layer. Does not belong here: weights and what
else a run takes (`plan`).

A layer that forgets its activations computes them again in the backward pass, a third of its work. On an H100,
Qwen2-VL-7B in bf16 trains 16 photos a second when all layers forget, 23 when none does
(`benchmarks/results/training.json`, to whose peaks the constants were fitted).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import TrainerCallback

from nutridet_core.models import gpu_bytes, language_layers
from nutridet_core.profiles import Profile

_FORGOTTEN = 5
"""Bytes of a token, a layer and a unit of its width: its input, and a share of the layer at work."""
_KEPT = {True: 57, False: 134}
"""The same on top where a layer keeps its activations: compiled, and not."""
_VISION = 3
"""Bytes of a patch, a block and a unit of its width, where the vision tower is trained too."""


def step_bytes(profile: Profile, width: int, layers: int, kept: int) -> int:
    """Activations of a step through the language model when `kept` of its layers keep theirs."""
    per_unit = _FORGOTTEN * layers + _KEPT[profile.compile_layers] * kept
    return profile.train_batch_size * profile.tokens * width * per_unit


def vision_bytes(profile: Profile, tower: Any) -> int:
    """Activations of a step through a vision tower that is trained, all blocks forgetting theirs.

    Args:
        tower: its configuration; Qwen2-VL calls its width `embed_dim`, and by `hidden_size` means the language model's.
    """
    width: int = getattr(tower, "embed_dim", tower.hidden_size)
    blocks: int = tower.depth
    patches = 4 * profile.max_pixels // profile.architecture.cell_px**2
    return profile.train_batch_size * patches * width * blocks * _VISION


class KeepWhatFits(TrainerCallback):
    """Lets as many layers keep their activations as the GPU has room for, where the profile asks for checkpointing.

    Args:
        log: told how many.
    """

    def __init__(self, profile: Profile, log: Callable[[str], None]) -> None:
        self.profile, self.log = profile, log

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """After the trainer has switched checkpointing on, and before the first step."""
        if not self.profile.gradient_checkpointing or not torch.cuda.is_available():
            return
        layers = language_layers(model)
        kept = layers_that_fit(gpu_bytes() - torch.cuda.memory_allocated(), model, self.profile)
        for layer in layers[len(layers) - kept :]:
            layer.gradient_checkpointing = False
        self.log(f"{kept} of {len(layers)} layers keep their activations, the others compute them twice")


def layers_that_fit(free_bytes: int, model: Any, profile: Profile) -> int:
    """Layers that can keep their activations in this memory, beside the rest of a step and AdamW's averages."""
    base = model.get_base_model()
    text = base.config.get_text_config()
    layers, width = text.num_hidden_layers, text.hidden_size
    trained = [(name, p.nbytes) for name, p in model.named_parameters() if p.requires_grad]
    needed = 3 * sum(size for _, size in trained) + step_bytes(profile, width, layers, 0)
    if any(f"{profile.architecture.vision_module}." in name for name, _ in trained):
        needed += vision_bytes(profile, base.config.vision_config)
    layer = step_bytes(profile, width, 0, 1)
    return int(max(0, min(layers, (free_bytes - needed) // layer)))
