"""FP8: merged weights to W8A8-dynamic in compressed-tensors format, which vLLM and transformers load.

Belongs here: the quantisation. Does not belong here: whether the result answers alike
(`audits.audit_fp8`).

Weights get one scale per output channel, activations one per token at run time, so no calibration
data is needed. compressed-tensors does it alone: llm-compressor cannot share an environment with vLLM.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from nutridet_core.audits import audit_fp8_file
from nutridet_core.disk import require_space
from nutridet_core.families import Family
from nutridet_core.merge import MAX_SHARD_SIZE, weight_bytes
from nutridet_core.models import Source, load_model, load_processor
from nutridet_core.profiles import Profile
from nutridet_core.store import Manifest, read_manifest, reusable, seal, writing

SCHEME = "FP8_DYNAMIC"


def quantize(profile: Profile, merged: Path, folder: Path, *, name: str) -> Manifest:
    """Write an FP8 copy of the merged model to `folder`, or keep the one that is there.

    Raises:
        ArtifactError: when there is not enough disk space for the weights.
        AuditError: when the file has FP8 in a module that must keep full precision, or none at all.
    """
    from compressed_tensors.compressors import ModelCompressor

    origin = read_manifest(merged, kind="model")
    config = {"merged": origin.digest, "scheme": SCHEME, "ignore": list(ignored_modules(profile.architecture))}
    if kept := reusable(folder, "model", config):
        return kept
    family, contract, source = profile.architecture, profile.contract, Source(str(merged))
    model = load_model(source, family, "bf16", contract).to(torch.bfloat16)  # a CPU would have loaded float32
    set_fp8_scales(model, ignored_modules(family))
    compressor = ModelCompressor.from_pretrained_model(model)
    compressor.compress_model(model)
    require_space(folder, weight_bytes(model), "the FP8 model")
    with writing(folder) as draft:
        model.save_pretrained(draft, max_shard_size=MAX_SHARD_SIZE)
        compressor.update_config(draft)
        load_processor(source, family, contract).save_pretrained(draft)
        audit = audit_fp8_file(draft, family).require()
        manifest = Manifest(
            kind="model",
            name=name,
            contract=contract.hash,
            data_fingerprint=origin.data_fingerprint,
            config=config,
            facts={"audits": {audit.name: audit.to_dict()}},
        )
        return seal(draft, manifest)


def ignored_modules(family: Family) -> tuple[str, ...]:
    """What stays in bf16, as compressed-tensors reads it: `re:` marks a regular expression."""
    return (rf"re:^{family.vision_module}\..*", "lm_head")


def set_fp8_scales(model: Any, ignored: Sequence[str], targets: Sequence[str] = ("Linear",)) -> None:
    """Attach the FP8_DYNAMIC scheme to every target but the ignored ones, and compute weight scales.

    Args:
        targets: classes of modules, or names. vLLM's class of the head is no `Linear`: name it to have it in FP8.
    """
    from compressed_tensors.quantization import QuantizationConfig, apply_quantization_config

    config = QuantizationConfig(config_groups={SCHEME: list(targets)}, ignore=list(ignored))
    apply_quantization_config(model, config)
    for module in model.modules():
        scheme = getattr(module, "quantization_scheme", None)
        if scheme is not None and scheme.weights is not None:
            _set_weight_scale(module, scheme.weights)


@torch.no_grad()
def _set_weight_scale(module: Any, arguments: Any) -> None:
    from compressed_tensors.quantization.utils.helpers import calculate_qparams

    weight = module.weight.float()
    scale, _ = calculate_qparams(weight.amin(dim=1, keepdim=True), weight.amax(dim=1, keepdim=True), arguments)
    module.weight_scale.copy_(scale)
