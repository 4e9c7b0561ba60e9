"""Audits: does the run do what its configuration says? Each one answers a bug seen in public.

Belongs here: checks on a prepared trainer, a model or two sets of answers, each returning an
`Audit` with its evidence. Does not belong here: Dagster's checks, which show these results.

The audits before training run on the very batches and modules that training uses, so a mask that
does not mask or a LoRA that never attached costs seconds and not GPU hours.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nutridet_core.artifacts.store import Manifest
from nutridet_core.errors import AuditError
from nutridet_core.evaluation.compare import Comparison
from nutridet_core.evaluation.scores import Scores
from nutridet_core.families import TOWERS, Family, Tower, lora_pattern
from nutridet_core.prompts import Contract

MERGE_TOLERANCE = 0.01
"""Largest change of mean IoU by merging; the same adapter re-run moves by .005 to .008 across stacks."""
FP8_TOLERANCE = 0.03
PARSE_FAILURE_LIMIT = 0.05
"""Largest share of a fine-tuned model's answers that may be unreadable."""


@dataclass(frozen=True)
class Audit:
    """What an audit found."""

    name: str
    passed: bool
    summary: str
    evidence: dict[str, Any] = field(default_factory=dict)

    def require(self) -> Audit:
        """Itself when passed.

        Raises:
            AuditError: otherwise, with the evidence.
        """
        if not self.passed:
            raise AuditError(f"{self.name}: {self.summary}", evidence=self.evidence)
        return self

    def to_dict(self) -> dict[str, Any]:
        """For a manifest."""
        return asdict(self)


def audit_labels(batch: Any, tokenizer: Any, expected: Sequence[str], placeholders: Iterable[str]) -> Audit:
    """The supervised tokens of each row decode to exactly what should be learnt.

    Args:
        batch: a collated training batch with `labels`, shape `(rows, tokens)`, -100 where ignored.
        expected: per row, the answer with its terminator (or the whole chat, when nothing is masked).
        placeholders: visual tokens that must never be in the loss.
    """
    ids = set(tokenizer.convert_tokens_to_ids(list(placeholders)))
    for row, (labels, text) in enumerate(zip(batch["labels"].tolist(), expected, strict=True)):
        supervised = [label for label in labels if label != -100]
        visual = sum(label in ids for label in supervised)
        if visual:
            return Audit(
                "label_audit", False, f"{visual} image placeholders of row {row} are in the loss", {"row": row}
            )
        decoded = tokenizer.decode(supervised, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        if decoded != text:
            evidence = {"row": row, "supervised": decoded, "expected": text}
            return Audit("label_audit", False, f"supervised text of row {row} is not what should be learnt", evidence)
    example = {"rows": len(expected), "supervised": expected[0]}
    return Audit("label_audit", True, f"{len(expected)} rows supervise exactly what should be learnt", example)


def audit_modules(model: Any, family: Family, towers: frozenset[Tower]) -> Audit:
    """LoRA sits on every target of each tower named and on nothing else; 4-bit layers keep out of protected modules."""
    base = model.get_base_model()
    adapted = {name for name, module in base.named_modules() if hasattr(module, "lora_A")}
    linear = {name.removesuffix(".base_layer") for name, module in base.named_modules() if _is_linear(module)}
    wanted = {name for name in linear if re.fullmatch(lora_pattern(family, towers), name)}
    per_tower = {tower: _count(adapted, family.lora_targets[tower]) for tower in TOWERS}
    four_bit = [
        name for name, module in base.named_modules()
        if type(module).__name__ == "Linear4bit" and name.startswith(family.full_precision_modules)
    ]  # fmt: skip
    trainable = [name for name, p in model.named_parameters() if p.requires_grad and ".lora_" not in name]
    evidence = {"lora_modules": per_tower, "expected": len(wanted), "four_bit_in_protected": four_bit[:5]}
    problems = [
        *(f"no LoRA in the {tower} tower" for tower in sorted(towers) if per_tower[tower] == 0),
        *(f"{len(wanted - adapted)} targets without LoRA" for _ in [0] if wanted - adapted),
        *(f"LoRA outside the experiment's towers, e.g. {min(adapted - wanted)}" for _ in [0] if adapted - wanted),
        *(f"4-bit layer where none may be: {name}" for name in four_bit[:1]),
        *(f"trainable weight that is no LoRA: {name}" for name in trainable[:1]),
    ]
    counts = ", ".join(f"{count} in the {tower} tower" for tower, count in per_tower.items())
    return Audit("module_audit", not problems, "; ".join(problems) or f"LoRA modules: {counts}", evidence)


def audit_gradients(model: Any, family: Family, towers: frozenset[Tower]) -> Audit:
    """After a backward pass, LoRA in each tower named has a gradient that is not zero.

    A checkpointed vision block whose input needs no gradient trains nothing, silently.
    """
    norms = dict.fromkeys(TOWERS, 0.0)
    for name, parameter in model.named_parameters():
        if ".lora_B." in name and parameter.grad is not None:
            norms[_tower_of(name, family)] += float(_whole(parameter.grad.float().square().sum()))
    dead = [tower for tower in sorted(towers) if not norms[tower] > 0]
    summary = f"no gradient reaches LoRA in: {', '.join(dead)}" if dead else "gradients reach every tower named"
    return Audit("gradient_audit", not dead, summary, {"squared_norm": norms})


def _whole(value: Any) -> Any:
    """A sum over all shards, where each process has one."""
    return value.full_tensor() if hasattr(value, "full_tensor") else value


def audit_contract(trained: Manifest, contract: Contract, prompt: str) -> Audit:
    """What is asked now is what was trained: same contract, and the same rendered prompt.

    The rendered prompt is compared as well because a chat template can change under an unchanged contract.
    """
    evidence = {"trained": trained.contract, "now": contract.hash}
    if trained.contract != contract.hash:
        return Audit("contract_audit", False, "family, prompt or pixel budget differ from training", evidence)
    asked = trained.facts.get("prompt")
    if asked != prompt:
        return Audit(
            "contract_audit", False, "the rendered prompt differs from training", {"trained": asked, "now": prompt}
        )
    return Audit("contract_audit", True, f"asked as trained, contract {contract.hash[:12]}", evidence)


def audit_adapter_active(model: Any, inputs: Any) -> Audit:
    """Logits with the adapter differ from those without: an adapter that matched no key changes nothing."""
    import torch

    with torch.inference_mode():
        active = model(**inputs).logits[:, -1].float()
        with model.disable_adapter():
            base = model(**inputs).logits[:, -1].float()
    change = float((active - base).abs().max())
    summary = f"largest change of a logit by the adapter: {change:.4f}"
    return Audit("adapter_active", change > 0, summary, {"largest_logit_change": change})


def audit_parse_failures(scores: Scores) -> Audit:
    """A fine-tuned model writes answers that can be read."""
    rate = scores.metrics["parse_failure_rate"]
    summary = f"{rate} of {scores.photos} answers unreadable (at most {PARSE_FAILURE_LIMIT}); {scores.problems}"
    return Audit("parse_failures", rate.value <= PARSE_FAILURE_LIMIT, summary, {"rate": rate.value, **scores.problems})


def audit_beats_baseline(comparison: Comparison) -> Audit:
    """The paired interval of the difference to the zero-shot model lies above 0."""
    return Audit("beats_baseline", comparison.better, comparison.text, {"difference": comparison.mean_iou.value})


def audit_not_regressed(comparison: Comparison) -> Audit:
    """The champion is not shown to be worse than when it was registered."""
    change = comparison.mean_iou
    evidence = {"difference": change.value, "low": change.low, "high": change.high, "photos": comparison.photos}
    return Audit("not_regressed", change.high >= 0, comparison.text, {**evidence, "paired": comparison.paired})


def audit_merge(comparison: Comparison) -> Audit:
    """The merged model scores like the adapter on its base."""
    change = comparison.mean_iou.value
    passed = abs(change) <= MERGE_TOLERANCE
    summary = (
        f"mean IoU moved by {change:+.4f} (at most {MERGE_TOLERANCE}), {comparison.same_answers:.1%} equal answers"
    )
    return Audit("merge_parity", passed, summary, {"change": change, "same_answers": comparison.same_answers})


def audit_fp8(comparison: Comparison) -> Audit:
    """The FP8 model is not shown to be worse than the merged one by more than the tolerance."""
    estimate = comparison.mean_iou
    passed = estimate.high >= 0 or estimate.value >= -FP8_TOLERANCE
    passed = passed and estimate.value >= -2 * FP8_TOLERANCE
    summary = f"mean IoU moved by {estimate.value:+.4f} [{estimate.low:+.4f}, {estimate.high:+.4f}]"
    return Audit("fp8_parity", passed, summary, {"change": estimate.value, "same_answers": comparison.same_answers})


def audit_merged_base(folder: Path) -> Audit:
    """What was merged into was not quantised: no 4-bit tensor, no quantisation in the configuration."""
    from safetensors import safe_open

    config = (folder / "config.json").read_text(encoding="utf-8")
    packed = []
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as weights:
            names = list(weights.keys())
            packed += [name for name in names if _is_packed(name, weights)]
    quantised = "quantization_config" in config
    passed = not packed and not quantised
    summary = (
        "merged into full-precision weights"
        if passed
        else f"merged into 4-bit weights, e.g. {(packed or ['config.json'])[0]}"
    )
    return Audit("merge_base", passed, summary, {"packed_tensors": packed[:5], "quantization_config": quantised})


def audit_fp8_file(folder: Path, family: Family) -> Audit:
    """FP8 outside the vision tower only, read from the file itself: names and dtypes of every tensor."""
    from safetensors import safe_open

    small: list[str] = []
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as weights:
            small += [name for name in weights.keys() if "F8" in weights.get_slice(name).get_dtype()]  # noqa: SIM118
    protected = [name for name in small if "visual" in name]
    if protected:
        return Audit("fp8_modules", False, f"FP8 where none may be: {protected[0]}", {"protected": protected[:5]})
    summary = f"{len(small)} FP8 tensors, none under {family.vision_module}"
    return Audit("fp8_modules", bool(small), summary if small else "no FP8 tensor at all", {"fp8_tensors": len(small)})


def _is_packed(name: str, weights: Any) -> bool:
    return ".quant_state" in name or ".absmax" in name or weights.get_slice(name).get_dtype() in ("U8", "I8")


def _is_linear(module: Any) -> bool:
    return hasattr(module, "in_features") and hasattr(module, "weight")


def _count(names: Iterable[str], pattern: str) -> int:
    return sum(re.fullmatch(pattern, name) is not None for name in names)


def _tower_of(name: str, family: Family) -> Tower:
    return "vision" if f"{family.vision_module}." in name else "language"
