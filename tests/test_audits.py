"""Every blocking check meets the bug that it exists for, planted in real parts, and must see it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from nutridet_core.artifacts.store import read_manifest, seal
from nutridet_core.boxes import Box
from nutridet_core.errors import ArtifactError, AuditError, ContractError
from nutridet_core.evaluation.audits import (
    audit_adapter_active,
    audit_beats_baseline,
    audit_contract,
    audit_fp8,
    audit_fp8_file,
    audit_gradients,
    audit_labels,
    audit_merge,
    audit_merged_base,
    audit_modules,
    audit_not_regressed,
    audit_parse_failures,
)
from nutridet_core.evaluation.compare import compare
from nutridet_core.evaluation.scores import Sample, score
from nutridet_core.experiments import Experiment
from nutridet_core.families import TOWERS
from nutridet_core.models import attach_adapter, base_source, load_model
from nutridet_core.predict import encode
from nutridet_core.prompts import prompt_text
from nutridet_core.release.merge import merge_into
from nutridet_core.training.trainer import PLACEHOLDERS, Collator, TrainingRun, lora_config, training_rows
from tests.conftest import EXP1A, EXP1B, EXP2, PROFILE

FAMILY, CONTRACT = PROFILE.architecture, PROFILE.contract


def load(precision: Any = "float32") -> Any:
    return load_model(base_source(PROFILE), FAMILY, precision, CONTRACT)


def rows_of(dataset: Path, processor: Any, experiment: Experiment) -> list[dict[str, Any]]:
    rows = training_rows(TrainingRun(experiment, PROFILE, dataset, Path("unused")), processor)
    return [rows[index] for index in range(4)]


def reseal(folder: Path) -> None:
    """A bug that was there when the adapter was written: its manifest vouches for it."""
    manifest = read_manifest(folder, verify=False)
    seal(folder, manifest)


# --- labels ------------------------------------------------------------------------------------


def test_masked_labels_are_exactly_the_answer(dataset: Path, processor: Any) -> None:
    rows = rows_of(dataset, processor, EXP1A)
    batch = Collator(processor, mask_prompt=True)(rows)
    answers = [row["completion"] for row in rows]
    assert audit_labels(batch, processor.tokenizer, answers, PLACEHOLDERS).passed
    assert all(answer.endswith("<|im_end|>\n") for answer in answers)


def test_image_pads_in_the_loss_are_seen(dataset: Path, processor: Any) -> None:
    """TRL's own collator, unmasked: what the seed and its kin train on."""
    rows = rows_of(dataset, processor, EXP1B)
    batch = Collator(processor, mask_prompt=False).collate(rows)
    audit = audit_labels(batch, processor.tokenizer, [row["completion"] for row in rows], PLACEHOLDERS)
    assert not audit.passed
    assert "image placeholders" in audit.summary


def test_a_prompt_in_the_loss_is_seen(dataset: Path, processor: Any) -> None:
    rows = rows_of(dataset, processor, EXP1A)
    batch = Collator(processor, mask_prompt=False)(rows)
    audit = audit_labels(batch, processor.tokenizer, [row["completion"] for row in rows], PLACEHOLDERS)
    assert not audit.passed
    assert "Detect" in audit.evidence["supervised"]


def test_a_missing_terminator_is_seen(dataset: Path, processor: Any) -> None:
    rows = rows_of(dataset, processor, EXP1A)
    batch = Collator(processor, mask_prompt=True)(rows)
    end = processor.tokenizer.convert_tokens_to_ids("<|im_end|>")
    batch["labels"][batch["labels"] == end] = -100
    assert not audit_labels(batch, processor.tokenizer, [row["completion"] for row in rows], PLACEHOLDERS).passed


# --- modules and gradients ---------------------------------------------------------------------


@pytest.mark.parametrize("experiment", [EXP1A, EXP1B, EXP2], ids=lambda experiment: experiment.name)
def test_lora_sits_where_the_experiment_says(experiment: Experiment) -> None:
    model = get_peft_model(load("nf4"), lora_config(experiment, PROFILE))
    audit = audit_modules(model, FAMILY, experiment.towers)
    assert audit.passed, audit.summary
    assert (audit.evidence["lora_modules"]["vision"] > 0) == ("vision" in experiment.towers)


def test_a_vision_pattern_in_a_list_is_seen() -> None:
    """The seed's exp2: PEFT takes a pattern in a list for a module name and says nothing."""
    listed = LoraConfig(r=4, target_modules=["q_proj", "v_proj", r"visual\.blocks\.\d+\.attn\.qkv"])
    audit = audit_modules(get_peft_model(load(), listed), FAMILY, EXP2.towers)
    assert not audit.passed
    assert "no LoRA in the vision tower" in audit.summary


def test_lora_in_another_tower_is_seen() -> None:
    audit = audit_modules(get_peft_model(load(), lora_config(EXP2, PROFILE)), FAMILY, EXP1A.towers)
    assert not audit.passed
    assert "outside the experiment's towers" in audit.summary


def test_a_vision_tower_in_four_bits_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """`llm_int8_skip_modules=["visual"]` protects nothing; the full path does."""
    from nutridet_core import models

    skip_nothing = models.nf4_config(FAMILY)
    skip_nothing.llm_int8_skip_modules = ["visual", "lm_head"]
    monkeypatch.setattr(models, "nf4_config", lambda family: skip_nothing)
    audit = audit_modules(get_peft_model(load("nf4"), lora_config(EXP1A, PROFILE)), FAMILY, EXP1A.towers)
    assert not audit.passed
    assert "4-bit layer" in audit.summary


def test_a_tower_without_gradients_is_seen(processor: Any) -> None:
    model = get_peft_model(load(), lora_config(EXP2, PROFILE))
    inputs = _grey(processor)
    model(**inputs).logits.float().sum().backward()
    assert audit_gradients(model, FAMILY, frozenset(TOWERS)).passed
    for name, parameter in model.named_parameters():
        if "visual" in name:
            parameter.grad = None
    audit = audit_gradients(model, FAMILY, frozenset(TOWERS))
    assert not audit.passed
    assert "vision" in audit.summary


# --- adapters and contracts --------------------------------------------------------------------


def test_a_trained_adapter_is_active(adapter: Path, processor: Any) -> None:
    model = attach_adapter(load(), adapter, CONTRACT)
    assert audit_adapter_active(model, _grey(processor)).passed


def test_a_renamed_adapter_key_is_seen(adapter: Path, tmp_path: Path) -> None:
    """Names of before transformers 4.52: PEFT warns, and the model answers like its base."""
    copy = Path(shutil.copytree(adapter, tmp_path / "adapter"))
    tensors = load_file(copy / "adapter_model.safetensors")
    save_file(
        {key.replace("model.language_model", "model"): t for key, t in tensors.items()},
        copy / "adapter_model.safetensors",
    )
    reseal(copy)
    with pytest.raises(AuditError, match="adapter keys have no module"):
        attach_adapter(load(), copy, CONTRACT)


def test_an_adapter_of_zeros_is_seen(adapter: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(adapter, tmp_path / "adapter"))
    tensors = load_file(copy / "adapter_model.safetensors")
    save_file({key: torch.zeros_like(tensor) for key, tensor in tensors.items()}, copy / "adapter_model.safetensors")
    reseal(copy)
    with pytest.raises(AuditError, match="does nothing"):
        attach_adapter(load(), copy, CONTRACT)


def test_an_inactive_adapter_is_seen(processor: Any) -> None:
    """Freshly made LoRA has B = 0."""
    fresh = get_peft_model(load(), lora_config(EXP1A, PROFILE))
    assert not audit_adapter_active(fresh.eval(), _grey(processor)).passed


@pytest.mark.parametrize(
    "change", [{"question": "Where is the table?"}, {"max_pixels": 400 * 400}], ids=["prompt", "resize"]
)
def test_another_contract_at_evaluation_is_seen(adapter: Path, processor: Any, change: dict[str, Any]) -> None:
    other = replace(CONTRACT, **change)
    assert not audit_contract(read_manifest(adapter), other, prompt_text(other, processor)).passed
    with pytest.raises(ContractError, match="contract"):
        attach_adapter(load(), adapter, other)


def test_another_chat_template_is_seen(adapter: Path, processor: Any) -> None:
    """The contract is the same, what the model reads is not."""
    trained = read_manifest(adapter)
    asked = prompt_text(CONTRACT, processor)
    assert audit_contract(trained, CONTRACT, asked).passed
    assert not audit_contract(trained, CONTRACT, asked.replace("You are a helpful assistant.", "")).passed


# --- merge and FP8 -----------------------------------------------------------------------------


def test_merged_into_full_precision(merged: Path) -> None:
    assert audit_merged_base(merged).passed


def test_a_merge_into_four_bits_is_refused(adapter: Path) -> None:
    with pytest.raises(ArtifactError, match="4 bits"):
        merge_into(attach_adapter(load("nf4"), adapter, CONTRACT))


def test_a_merge_into_four_bits_is_seen_in_the_file(adapter: Path, tmp_path: Path) -> None:
    model = attach_adapter(load("nf4"), adapter, CONTRACT).merge_and_unload()
    model.save_pretrained(tmp_path)
    audit = audit_merged_base(tmp_path)
    assert not audit.passed
    assert "4-bit" in audit.summary


def test_fp8_in_the_vision_tower_is_seen(merged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nutridet_core.release import quantize

    quantize.quantize(PROFILE, merged, tmp_path / "good", name="good")
    assert audit_fp8_file(tmp_path / "good", FAMILY).passed
    monkeypatch.setattr(quantize, "ignored_modules", lambda family, tied: ("lm_head",))
    with pytest.raises(AuditError, match="FP8 where none may be"):
        quantize.quantize(PROFILE, merged, tmp_path / "bad", name="bad")
    assert not (tmp_path / "bad").exists()


def test_a_model_without_fp8_is_seen(merged: Path) -> None:
    assert not audit_fp8_file(merged, FAMILY).passed


# --- scores ------------------------------------------------------------------------------------

TRUTH = Box(0.2, 0.2, 0.8, 0.8)


def samples(bottom: float, *, problems: tuple[str, ...] = ()) -> list[Sample]:
    """Forty photos whose predicted box ends at `bottom`, give or take."""
    heights = [min(0.99, bottom + 0.002 * (number % 10)) for number in range(40)]
    return [
        Sample(f"p{n}", 100, 100, (TRUTH,), (Box(0.2, 0.2, 0.8, y),), 0.9, str(y), "native", problems, 0.1)
        for n, y in enumerate(heights)
    ]


def test_no_better_than_the_baseline_is_seen() -> None:
    assert audit_beats_baseline(compare("baseline", "exp", samples(0.5), samples(0.7))).passed
    assert not audit_beats_baseline(compare("baseline", "exp", samples(0.5), samples(0.5))).passed
    assert not audit_beats_baseline(compare("baseline", "exp", samples(0.5), samples(0.4))).passed


def test_a_merge_that_changed_the_model_is_seen() -> None:
    assert audit_merge(compare("adapter", "merged", samples(0.7), samples(0.7))).passed
    assert not audit_merge(compare("adapter", "merged", samples(0.7), samples(0.3))).passed


def test_an_fp8_model_that_got_worse_is_seen() -> None:
    assert audit_fp8(compare("merged", "fp8", samples(0.7), samples(0.695))).passed
    assert not audit_fp8(compare("merged", "fp8", samples(0.7), samples(0.6))).passed


def test_a_regressed_champion_is_seen() -> None:
    assert audit_not_regressed(compare("then", "now", samples(0.7), samples(0.7))).passed
    assert not audit_not_regressed(compare("then", "now", samples(0.7), samples(0.6))).passed


def test_unreadable_answers_are_seen() -> None:
    good, bad = samples(0.7), samples(0.7, problems=("truncated",))
    assert audit_parse_failures(score("exp", "test", [*good[:39], *bad[39:]])).passed
    assert not audit_parse_failures(score("exp", "test", [*good[:30], *bad[30:]])).passed


def _grey(processor: Any) -> Any:
    from PIL import Image

    return encode(processor, CONTRACT, [Image.new("RGB", (224, 224), "grey")])
