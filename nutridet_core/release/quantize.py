"""FP8: merged weights to W8A8-dynamic in compressed-tensors format, which vLLM and transformers load.

Belongs here: the quantisation. Does not belong here: whether the result answers alike
(`audits.audit_fp8`).

Weights get one scale per output channel, activations one per token at run time, so no calibration
data is needed. compressed-tensors does it alone: llm-compressor cannot share an environment with vLLM.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from nutridet_core.artifacts.disk import require_space
from nutridet_core.artifacts.store import Manifest, read_manifest, reusable, seal, writing
from nutridet_core.evaluation.audits import audit_fp8_file
from nutridet_core.families import Family
from nutridet_core.models import Source, load_model, load_processor, weight_bytes
from nutridet_core.profiles import Profile
from nutridet_core.release.merge import MAX_SHARD_SIZE

SCHEME = "FP8_DYNAMIC"
TARGETS = ("Linear", "re:.*lm_head")
"""The head by its name too: vLLM's class for it is no `Linear`."""


def quantize(profile: Profile, merged: Path, folder: Path, *, name: str) -> Manifest:
    """Write an FP8 copy of the merged model to `folder`, or keep the one that is there.

    Raises:
        ArtifactError: when there is not enough disk space for the weights.
        AuditError: when the file has FP8 in a module that must keep full precision, or none at all.
    """
    from compressed_tensors.compressors import ModelCompressor

    origin = read_manifest(merged, kind="model")
    ignored = ignored_modules(profile.architecture, tied=has_tied_head(merged))
    config = {"merged": origin.digest, "scheme": SCHEME, "targets": list(TARGETS), "ignore": list(ignored)}
    if kept := reusable(folder, "model", config):
        return kept
    family, contract, source = profile.architecture, profile.contract, Source(str(merged))
    model = load_model(source, family, "bf16", contract).to(torch.bfloat16)  # a CPU would have loaded float32
    set_fp8_scales(model, ignored)
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


def ignored_modules(family: Family, *, tied: bool) -> tuple[str, ...]:
    """What stays in bf16, as compressed-tensors reads it: `re:` marks a regular expression.

    A head in FP8 moves no box (docs/decisions/0016) and is read for every token; one that is `tied` is the table of
    embeddings too, and stays as it is.
    """
    vision = rf"re:^{family.vision_module}\..*"
    return (vision, "lm_head") if tied else (vision,)


def has_tied_head(folder: Path) -> bool:
    """Whether a model's head and its table of embeddings are one tensor."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return bool(config.get("tie_word_embeddings", config["text_config"].get("tie_word_embeddings", False)))


def set_fp8_scales(model: Any, ignored: Sequence[str], targets: Sequence[str] = TARGETS) -> None:
    """Attach the FP8_DYNAMIC scheme to every target but the ignored ones, and compute weight scales.

    Args:
        targets: classes of modules, or names.
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
