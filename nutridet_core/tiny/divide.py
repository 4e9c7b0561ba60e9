"""Divides a tuned adapter: its vision half goes into the base, its language half stays an adapter.

    python -m nutridet_core.tiny.divide --base PRETRAINED --tuned ADAPTER --out nutridet_core/tiny

Belongs here: making the two folders that ship, `base` and `tuned`. The base then sees product photos as the
tuned model does, but its language model has never been asked about one: it is mediocre zero-shot, and a few
hundred photos are enough to tune it. Base and adapter together are the tuned model, as before.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from nutridet_core.families import QWEN2_VL
from nutridet_core.models import Source, load_model
from nutridet_core.profiles import TINY
from nutridet_core.store import Manifest, read_manifest, seal, writing

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
_PREFIX = "base_model.model."


def divide(base: Path, tuned: Path, out: Path) -> None:
    """Write `out/base` and `out/tuned`.

    Raises:
        ArtifactError: when one of the two is not what its manifest says.
    """
    origin, trained = read_manifest(base, kind="model"), read_manifest(tuned, kind="adapter")
    tensors, config = load_file(tuned / WEIGHTS), json.loads((tuned / CONFIG).read_text(encoding="utf-8"))
    model = load_model(Source(str(base)), QWEN2_VL, "float32", TINY.contract)
    add_vision(model, tensors, config["lora_alpha"] / config["r"])
    divided = _write_base(model, base, out / "base", origin, trained)
    _write_adapter(tensors, config, out / "tuned", trained, divided)


def is_vision(key: str) -> bool:
    """Whether an adapter's tensor belongs to the vision tower."""
    return key.startswith(f"{_PREFIX}{QWEN2_VL.vision_module}.")


@torch.no_grad()
def add_vision(model: Any, tensors: dict[str, torch.Tensor], scale: float) -> None:
    """Add `scale * B @ A` to every weight of the vision tower that the adapter changes."""
    for key in tensors:
        if is_vision(key) and ".lora_A." in key:
            module = model.get_submodule(key.removeprefix(_PREFIX).split(".lora_A.")[0])
            change = tensors[key.replace(".lora_A.", ".lora_B.")].float() @ tensors[key].float()
            module.weight += scale * change


def _write_base(model: Any, base: Path, folder: Path, origin: Manifest, trained: Manifest) -> Manifest:
    with writing(folder) as draft:
        for path in base.iterdir():
            if path.suffix in (".json", ".jinja") and path.name not in (
                "nutridet.json",
                "model.safetensors.index.json",
            ):
                shutil.copy(path, draft / path.name)
        model.to(torch.bfloat16).save_pretrained(draft, max_shard_size="12MB")
        config = {"pretrained": origin.digest, "vision_half_of": trained.digest, "recipe": origin.config}
        return seal(draft, origin.model_copy(update={"config": config, "facts": {"vision_tuning": trained.facts}}))


def _write_adapter(
    tensors: dict[str, torch.Tensor], config: dict[str, Any], folder: Path, trained: Manifest, base: Manifest
) -> None:
    language = {key: tensor for key, tensor in tensors.items() if not is_vision(key)}
    with writing(folder) as draft:
        save_file(language, draft / WEIGHTS, metadata={"format": "pt"})
        targets = {**config, "target_modules": QWEN2_VL.lora_targets["language"]}
        (draft / CONFIG).write_text(json.dumps(targets, indent=2), encoding="utf-8")
        seal(draft, trained.model_copy(update={"config": trained.config | {"base": base.digest}}))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("base", "tuned", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    given = parser.parse_args()
    divide(given.base, given.tuned, given.out)


if __name__ == "__main__":
    main()
