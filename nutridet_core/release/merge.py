"""Merging: an adapter's weights into its base, always pristine and never in 4 bits.

Belongs here: the merge, for good or for as long as a checkpoint is scored. Does not belong here: whether the result
answers alike (`audits.audit_merge`).

A LoRA trained over NF4 weights learnt against their rounding errors; merging into the dequantised
weights would bake those errors in, merging into 4-bit weights would round the adapter away.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import torch
from peft.tuners.lora import LoraLayer

from nutridet_core.artifacts.disk import require_space
from nutridet_core.artifacts.store import Manifest, read_manifest, reusable, seal, writing
from nutridet_core.errors import ArtifactError
from nutridet_core.evaluation.audits import audit_merged_base
from nutridet_core.models import attach_adapter, base_source, load_model, load_processor, weight_bytes
from nutridet_core.profiles import Profile

MAX_SHARD_SIZE = "4GB"
_SPARE_SHARE = 0.5
"""Of the memory that is free; batches of answers need the rest."""


def merge(profile: Profile, adapter: Path, folder: Path, *, name: str) -> Manifest:
    """Merge `adapter` into the profile's base and write bf16 weights with their processor to `folder`,
    or keep those that are there.

    Raises:
        ArtifactError: when there is not enough disk space for the weights.
        AuditError: when the adapter does not fit the base, or the result is quantised.
        ContractError: when the adapter was trained under another contract.
    """
    trained = read_manifest(adapter)
    config = {"adapter": trained.digest, "base_model": profile.base_identity}
    if kept := reusable(folder, "model", config):
        return kept
    source, family, contract = base_source(profile), profile.architecture, profile.contract
    model = load_model(source, family, profile.scoring_precision, contract)
    merged = merge_into(attach_adapter(model, adapter, contract)).to(torch.bfloat16)
    require_space(folder, weight_bytes(merged), "the merged model")
    with writing(folder) as draft:
        merged.save_pretrained(draft, max_shard_size=MAX_SHARD_SIZE)
        load_processor(source, family, contract).save_pretrained(draft)
        audit = audit_merged_base(draft).require()
        manifest = Manifest(
            kind="model",
            name=name,
            contract=contract.hash,
            data_fingerprint=trained.data_fingerprint,
            config=config,
            facts={"audits": {audit.name: audit.to_dict()}, "adapter": trained.name},
        )
        return seal(draft, manifest)


def merge_into(model: Any) -> Any:
    """The base of a PEFT model with the adapter added to its weights.

    Raises:
        ArtifactError: when a weight of the base is in 4 bits.
    """
    quantised = [name for name, module in model.named_modules() if type(module).__name__ == "Linear4bit"]
    if quantised:
        raise ArtifactError(
            "is in 4 bits; a merge would round the adapter away",
            where=quantised[0],
            remedy="Load the base in bf16 or float32 before merging.",
        )
    return model.merge_and_unload()


class TemporaryMerge:
    """Adds the adapter that a model wears to the weights of its base, and takes it out again without a trace.

    Beside its base an adapter takes as long as the base itself, so merged checkpoints are scored in half the time. The
    weights are those that `merge` would write of the checkpoint. Those of the base are kept, since taking an adapter
    off by subtraction, as PEFT's `disable_adapter` does, leaves rounding behind for the next checkpoint.
    """

    def __init__(self) -> None:
        self._kept: dict[torch.nn.Parameter, torch.Tensor] = {}
        self._is_in = False

    def put_in(self, model: Any) -> bool:
        """Merge where there is memory for a second copy of the weights concerned; whether it was done."""
        layers = list(_lora_layers(model))
        new = [weight for weight in map(_weight, layers) if weight not in self._kept]
        if sum(weight.nbytes for weight in new) > _SPARE_SHARE * _free_bytes(model.device):
            return False
        self._kept |= {weight: weight.detach().clone() for weight in new}
        self._is_in = True
        for layer in layers:
            layer.merge()
        return True

    def take_out(self, model: Any) -> None:
        """The base's weights are what they were, bit by bit; the adapter is beside them again."""
        if self._is_in:
            for layer in _lora_layers(model):
                _weight(layer).data.copy_(self._kept[_weight(layer)])
                layer.merged_adapters.clear()
        self._is_in = False


def _lora_layers(model: Any) -> Iterator[Any]:
    return (module for module in model.modules() if isinstance(module, LoraLayer))


def _weight(layer: Any) -> torch.nn.Parameter:
    weight: torch.nn.Parameter = layer.get_base_layer().weight
    return weight


def _free_bytes(device: torch.device) -> int:
    return int(torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available)
