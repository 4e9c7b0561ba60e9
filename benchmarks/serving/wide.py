"""A model with the shapes of Qwen2-VL-7B that answers as the embedded model does.

Belongs here: widening weights. Does not belong here: serving them.

Weights of Qwen2-VL-7B cannot be had without the model hub, and random ones write nonsense, which says nothing
about equal boxes, right drafts or answers that end. So every tensor of the embedded model is repeated into the
larger shape such that the function stays the same: activations are copies of the small model's, weights that add
over the copies are split among them. Norms see the same mean and variance. Layers beyond the small model's add zero:
their last matrices hold every block twice, with opposite signs. No large block is zero, because zeros would need
less power.

Rotary frequencies: index j of 32 is index 2 j of 64, and the sections (8, 12, 12) are half of (16, 24, 24). Only the
vision heads differ from Qwen2-VL's, 20 of 64 and not 16 of 80, of equal cost.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Shape:
    """What to widen to."""

    hidden: int = 3584
    intermediate: int = 18944
    layers: int = 28
    heads: int = 28
    vocabulary: int = 152064
    vision_hidden: int = 1280
    vision_layers: int = 32


QWEN2_VL_7B = Shape()
HEAD = 128


class Widener:
    """Widens the tensors of one small checkpoint.

    Args:
        small: tensors by name.
        config: the small model's.
        shape: to widen to; whole multiples of the small one, except for the intermediate size.
    """

    def __init__(self, small: Tensors, config: dict[str, Any], shape: Shape, device: str) -> None:
        self.small = {name: tensor.to(device, torch.float32) for name, tensor in small.items()}
        self.text, self.vision, self.shape, self.device = config["text_config"], config["vision_config"], shape, device

    def layer(self, index: int) -> Tensors:
        """One layer of the language model; those that the small model lacks add nothing."""
        real = index < self.text["num_hidden_layers"]
        small = self._below(f"model.layers.{index if real else 0}.")
        norms = ("input_layernorm.weight", "post_attention_layernorm.weight")
        wide = {name: _copies(small[name], self.shape.hidden) for name in norms}
        return _named(f"model.layers.{index}.", wide | self._attention(small, real) | self._mlp(small, real))

    def _attention(self, small: Tensors, real: bool) -> Tensors:
        wide = {"self_attn.o_proj.weight": self._heads_out(small["self_attn.o_proj.weight"], real)}
        for part in ("q", "k", "v"):
            name = f"self_attn.{part}_proj"
            wide[f"{name}.weight"] = self._head_rows(part, _split(small[f"{name}.weight"], self.shape.hidden))
            wide[f"{name}.bias"] = self._head_rows(part, small[f"{name}.bias"])
        return wide

    def _mlp(self, small: Tensors, real: bool) -> Tensors:
        wide = {"mlp.down_proj.weight": self._down(small["mlp.down_proj.weight"], real)}
        for name in ("mlp.gate_proj.weight", "mlp.up_proj.weight"):
            wide[name] = _copies(_split(small[name], self.shape.hidden), self.shape.intermediate)
        return wide

    def block(self, index: int) -> Tensors:
        """One block of the vision tower."""
        real, hidden = index < self.vision["depth"], self.shape.vision_hidden
        small = self._below(f"visual.blocks.{index if real else 0}.")
        inner = hidden * self.vision["mlp_ratio"]
        wide = {name: _copies(small[name], hidden) for name in _VISION_NORMS}
        wide["attn.qkv.weight"] = _three_copies(_split(small["attn.qkv.weight"], hidden), hidden)
        wide["attn.qkv.bias"] = _three_copies(small["attn.qkv.bias"], hidden)
        wide["mlp.fc1.weight"] = _copies(_split(small["mlp.fc1.weight"], hidden), inner)
        wide["mlp.fc1.bias"] = _copies(small["mlp.fc1.bias"], inner)
        for name, size in (("attn.proj", hidden), ("mlp.fc2", inner)):
            narrow = _split if real else _cancelling
            wide[f"{name}.weight"] = _copies(narrow(small[f"{name}.weight"], size), hidden)
            wide[f"{name}.bias"] = _copies(small[f"{name}.bias"], hidden) * real
        return _named(f"visual.blocks.{index}.", wide)

    def ends(self) -> Tensors:
        """Embeddings, patch embedding, merger, last norm and head."""
        small, shape = self.small, self.shape
        merged, hidden = shape.vision_hidden * self.vision["spatial_merge_size"] ** 2, shape.vision_hidden
        first = small["visual.merger.mlp.0.weight"]
        groups = first.unflatten(1, (self.vision["spatial_merge_size"] ** 2, -1))
        first = torch.cat([_split(groups[:, group], hidden) for group in range(groups.shape[1])], dim=1)
        wide = {
            "visual.patch_embed.proj.weight": _copies(small["visual.patch_embed.proj.weight"], hidden),
            "visual.merger.ln_q.weight": _copies(small["visual.merger.ln_q.weight"], hidden),
            "visual.merger.ln_q.bias": _copies(small["visual.merger.ln_q.bias"], hidden),
            "visual.merger.mlp.0.weight": _copies(first, merged),
            "visual.merger.mlp.0.bias": _copies(small["visual.merger.mlp.0.bias"], merged),
            "visual.merger.mlp.2.weight": _copies(_split(small["visual.merger.mlp.2.weight"], merged), shape.hidden),
            "visual.merger.mlp.2.bias": _copies(small["visual.merger.mlp.2.bias"], shape.hidden),
            "model.norm.weight": _copies(small["model.norm.weight"], shape.hidden),
            "model.embed_tokens.weight": self._vocabulary(
                _copies(small["model.embed_tokens.weight"].T, shape.hidden).T
            ),
            "lm_head.weight": self._vocabulary(_split(small["lm_head.weight"], shape.hidden)),
        }
        return _named("", wide)

    def _below(self, prefix: str) -> Tensors:
        """The small tensors whose names begin so, without the beginning."""
        return {key.removeprefix(prefix): tensor for key, tensor in self.small.items() if key.startswith(prefix)}

    def _vocabulary(self, weight: torch.Tensor) -> torch.Tensor:
        """Further rows repeat the last one, of a token that is never written: as unlikely as that."""
        return torch.cat([weight, weight[-1:].expand(self.shape.vocabulary - len(weight), -1)])

    def _head_rows(self, part: str, rows: torch.Tensor) -> torch.Tensor:
        """Rows of each head where the larger head has them, and every query head as often as its key serves."""
        heads = self.text["num_key_value_heads"]
        small = rows.unflatten(0, (heads, -1))
        if part == "v":
            return torch.cat([small, small], dim=1).flatten(0, 1)
        wide = torch.zeros(heads, HEAD, *rows.shape[1:], device=rows.device)
        wide[:, 0 : HEAD // 2 : 2], wide[:, HEAD // 2 :: 2] = small.chunk(2, dim=1)
        if part == "k":
            return wide.flatten(0, 1)
        wide[:, 1::2] = wide[:, 0::2]  # keys are zero there, so that any query will do
        return (2**0.5 * wide).repeat_interleave(self.shape.heads // heads, dim=0).flatten(0, 1)

    def _heads_out(self, weight: torch.Tensor, real: bool) -> torch.Tensor:
        """Columns for the copies of every head, each of them twice in its 128 values."""
        heads = self.text["num_key_value_heads"]
        copies = self.shape.heads // heads * 2
        shares = _shares(copies) if real else _signs(copies)
        columns = [part * share for part in weight.unflatten(1, (heads, -1)).unbind(1) for share in shares]
        return _copies(torch.cat(columns, dim=1), self.shape.hidden)

    def _down(self, weight: torch.Tensor, real: bool) -> torch.Tensor:
        """Columns for the copies of the intermediate values; the last, incomplete copy takes no part."""
        size = weight.shape[1]
        copies, left = divmod(self.shape.intermediate, size)
        shares = _shares(copies) if real else _signs(copies)
        rest = torch.zeros(weight.shape[0], left, device=weight.device)
        wide = torch.cat([*(weight * share for share in shares), rest], dim=1)
        return _copies(wide, self.shape.hidden)


_VISION_NORMS = ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias")


def widen(source: Path, folder: Path, shape: Shape = QWEN2_VL_7B, device: str = "cpu") -> None:
    """Write the widened model beside the small one's tokenizer and processor."""
    config = json.loads((source / "config.json").read_text())
    small = load_file(source / "model.safetensors")
    widener = Widener(small, config, shape, device)
    folder.mkdir(parents=True, exist_ok=True)
    for path in source.iterdir():
        if path.suffix in (".json", ".jinja") and path.name not in ("config.json", "nutridet.json"):
            shutil.copy(path, folder / path.name)
    (folder / "config.json").write_text(json.dumps(wide_config(config, shape), indent=1))
    _write_shards(widener, folder, shape)


def wide_config(config: dict[str, Any], shape: Shape) -> dict[str, Any]:
    """The small model's configuration with the larger sizes."""
    text = {
        **config["text_config"], "hidden_size": shape.hidden, "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers, "num_attention_heads": shape.heads, "vocab_size": shape.vocabulary,
        "layer_types": ["full_attention"] * shape.layers,
    }  # fmt: skip
    rope = text["rope_parameters"]
    text["rope_parameters"] = {**rope, "mrope_section": [2 * each for each in rope["mrope_section"]]}
    head = config["vision_config"]["embed_dim"] // config["vision_config"]["num_heads"]
    vision = {
        **config["vision_config"], "depth": shape.vision_layers, "embed_dim": shape.vision_hidden,
        "hidden_size": shape.hidden, "num_heads": shape.vision_hidden // head,
    }  # fmt: skip
    return {**config, "text_config": text, "vision_config": vision}


def _write_shards(widener: Widener, folder: Path, shape: Shape) -> None:
    """One file for a few layers, and the index that loaders read."""
    index: dict[str, str] = {}
    groups = [lambda: widener.ends()]
    groups += [_merged(widener.block, range(shape.vision_layers))]
    groups += [
        _merged(widener.layer, range(first, min(first + 4, shape.layers))) for first in range(0, shape.layers, 4)
    ]
    for number, make in enumerate(groups):
        name, tensors = f"model-{number:05d}.safetensors", make()
        save_file({key: tensor.cpu() for key, tensor in tensors.items()}, folder / name, metadata={"format": "pt"})
        index |= dict.fromkeys(tensors, name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))


def _merged(make: Any, indices: range) -> Any:
    return lambda: {name: tensor for index in indices for name, tensor in make(index).items()}


def _named(prefix: str, wide: Tensors) -> Tensors:
    return {prefix + name: tensor.to(torch.bfloat16).contiguous() for name, tensor in wide.items()}


def _three_copies(rows: torch.Tensor, size: int) -> torch.Tensor:
    """Query, key and value lie in one matrix."""
    return torch.cat([_copies(part, size) for part in rows.chunk(3)])


def _copies(rows: torch.Tensor, size: int) -> torch.Tensor:
    """The rows over and over, `size` in all."""
    repeats = -(-size // rows.shape[0])
    return torch.cat([rows] * repeats)[:size]


def _split(weight: torch.Tensor, size: int) -> torch.Tensor:
    """Columns for `size` inputs that are copies of the small model's: each copy brings its share."""
    return torch.cat([weight * share for share in _shares(size // weight.shape[1])], dim=1)


def _cancelling(weight: torch.Tensor, size: int) -> torch.Tensor:
    """Columns whose sum over the copies is zero."""
    return torch.cat([weight * sign for sign in _signs(size // weight.shape[1])], dim=1)


def _shares(copies: int) -> list[float]:
    """Powers of two that add up to 1: exact in bf16, and with the same rounding in FP8."""
    small = 2.0 ** -copies.bit_length()
    doubled = round(1 / small) - copies
    return [2 * small] * doubled + [small] * (copies - doubled)


def _signs(copies: int) -> list[float]:
    """Equal numbers of 1 and -1; of three left over, two and a half of each other."""
    return [1.0, -1.0] * (copies // 2) if copies % 2 == 0 else [1.0, -1.0] * (copies // 2 - 1) + [1.0, -0.5, -0.5]
