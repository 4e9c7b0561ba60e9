"""Adapters trained elsewhere: rewritten under today's module names and merged under this project's contract.

Belongs here: what a foreign adapter needs before `merge` takes it. Does not belong here: adapters of this
project, which are sealed where they are trained (`training.watch`) and refused when their names do not fit (`models`).

Until transformers 4.52 the layers of a Qwen2-VL were called `model.layers` and its tower `visual`; since then
`model.language_model.layers` and `model.visual`. PEFT only warns about keys that it cannot place.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from nutridet_core.artifacts.layout import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from nutridet_core.artifacts.store import Manifest, seal, write_json
from nutridet_core.errors import ArtifactError
from nutridet_core.profiles import Profile
from nutridet_core.release.merge import merge

_PREFIX = "base_model.model."
_RENAMED = (
    (re.compile(r"^visual\."), "model.visual."),
    (re.compile(r"^model\.(?!language_model\.|visual\.)"), "model.language_model."),
)


def merge_foreign(profile: Profile, adapter: Path, folder: Path) -> Manifest:
    """Merge an adapter without a manifest into the profile's base and write bf16 weights to `folder`.

    What it was asked in training is not recorded anywhere, so it is taken to be the profile's contract.

    Raises:
        ArtifactError: when the folder holds no LoRA adapter in safetensors.
        AuditError: when its keys do not fit the base model.
    """
    with TemporaryDirectory(prefix="nutridet-") as draft:
        adopted = Path(draft) / "adapter"
        adopt(profile, adapter, adopted)
        return merge(profile, adopted, folder, name=f"{adapter.name}/merged")


def adopt(profile: Profile, adapter: Path, folder: Path) -> Manifest:
    """Write a copy under today's names to `folder` and seal it under the profile's contract.

    Raises:
        ArtifactError: when the folder holds no LoRA adapter in safetensors, or more than one.
    """
    from safetensors.torch import load_file, save_file

    config = _read_config(adapter)
    weights = adapter / ADAPTER_WEIGHTS
    if not weights.is_file():
        raise ArtifactError("file is missing", where=weights, remedy="Only safetensors are read, pickles are not.")
    tensors = {current_key(key): tensor for key, tensor in load_file(weights).items()}
    if foreign := [key for key in tensors if ".lora_" not in key]:
        raise ArtifactError(
            "is no LoRA tensor", where=weights, field=foreign[0], remedy="Merge it where it was trained."
        )
    folder.mkdir(parents=True)
    save_file(tensors, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    write_json(folder / ADAPTER_CONFIG, config | _targets(profile, tensors))
    facts = {"adopted_from": str(adapter)}
    return seal(folder, Manifest(kind="adapter", name=adapter.name, contract=profile.contract.hash, facts=facts))


def current_key(key: str) -> str:
    """Today's name of an adapter's tensor; today's names stay."""
    name = key.removeprefix(_PREFIX)
    for pattern, replacement in _RENAMED:
        name = pattern.sub(replacement, name)
    return _PREFIX + name


def _targets(profile: Profile, tensors: dict[str, Any]) -> dict[str, Any]:
    """Exactly the modules that have tensors: a pattern over old names would match nothing now, a bare name too much."""
    modules = {key.removeprefix(_PREFIX).split(".lora_")[0] for key in tensors}
    unset = dict.fromkeys(("exclude_modules", "layers_to_transform", "layers_pattern", "revision"))
    return {"target_modules": sorted(modules), "base_model_name_or_path": profile.base_model, **unset}


def _read_config(adapter: Path) -> dict[str, Any]:
    path = adapter / ADAPTER_CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtifactError(f"cannot be read ({error})", where=path, remedy="Name a folder that PEFT wrote.") from error
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise ArtifactError("is no LoRA", where=path, field="peft_type", remedy="Only LoRA adapters can be adopted.")
    return config
