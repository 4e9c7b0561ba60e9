"""Every family, as a tiny random model, through the parts that a real one goes through."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from PIL import Image

from nutridet_core.answers import LABEL, Form
from nutridet_core.artifacts import disk
from nutridet_core.artifacts.hub import is_commit
from nutridet_core.artifacts.layout import checkpoints
from nutridet_core.artifacts.store import read_manifest
from nutridet_core.boxes import Box, iou
from nutridet_core.data.dataset import load_records
from nutridet_core.errors import ArtifactError, AuditError, ContractError
from nutridet_core.evaluation.audits import audit_fp8_file, audit_gradients, audit_labels, audit_modules
from nutridet_core.families import FAMILIES, QWEN2_5_VL, QWEN3_VL, TOWERS, Family, get_family, lora_pattern
from nutridet_core.features import FeatureStore, cache_features
from nutridet_core.models import Source, attach_adapter, base_source, load_model, load_processor, lora_config
from nutridet_core.pipeline.release import weight_bytes
from nutridet_core.predict import Prediction, encode, predict
from nutridet_core.profiles import PROFILES, Profile
from nutridet_core.prompts import Contract, resized_size
from nutridet_core.release.merge import merge, merge_into
from nutridet_core.release.quantize import quantize
from nutridet_core.training.plan import count_network, disk_bytes
from nutridet_core.training.train import train
from nutridet_core.training.trainer import PLACEHOLDERS, TERMINATOR, Collator, TrainingRun, training_rows
from tests.conftest import EXP2
from tests.family_models import profile_of, write_models

EXPERIMENT = replace(EXP2, rank=8, epochs=1)
NAMES = [family.name for family in FAMILIES]
PHOTOS = [Image.linear_gradient("L").convert("RGB").resize(size) for size in ((400, 380), (500, 200))]


@dataclass(frozen=True)
class Subject:
    """A family with its tiny model."""

    family: Family
    profile: Profile
    processor: Any

    @property
    def contract(self) -> Contract:
        return self.profile.contract

    def load(self, precision: Any = "float32") -> Any:
        return load_model(base_source(self.profile), self.family, precision, self.contract)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_models(tmp_path_factory.mktemp("families"))


@pytest.fixture(scope="module")
def subject_of(folders: dict[str, Path]) -> Callable[[str], Subject]:
    @cache
    def subject(name: str) -> Subject:
        profile = profile_of(get_family(name), folders[name])
        processor = load_processor(base_source(profile), profile.architecture, profile.contract)
        return Subject(profile.architecture, profile, processor)

    return subject


@pytest.fixture(params=NAMES)
def subject(request: pytest.FixtureRequest, subject_of: Callable[[str], Subject]) -> Subject:
    return subject_of(request.param)


@pytest.fixture(scope="module")
def adapter_of(
    subject_of: Callable[[str], Subject], dataset: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Subject], Path]:
    """A family's adapter on both towers, trained over NF4 by the pipeline's own `train`."""
    root = tmp_path_factory.mktemp("adapters")

    @cache
    def trained(name: str) -> Path:
        train(TrainingRun(EXPERIMENT, subject_of(name).profile, dataset, root / name))
        return checkpoints(root / name)[-1]

    return lambda subject: trained(subject.family.name)


@pytest.fixture(scope="module")
def merged_of(
    adapter_of: Callable[[Subject], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Subject], Path]:
    root = tmp_path_factory.mktemp("merged")

    def merged(subject: Subject) -> Path:
        folder = root / subject.family.name
        merge(subject.profile, adapter_of(subject), folder, name="merged")
        return folder

    return merged


def logits(model: Any, subject: Subject) -> torch.Tensor:
    inputs = encode(subject.processor, subject.contract, PHOTOS).to(model.device)
    with torch.inference_mode():
        return torch.Tensor(model(**inputs).logits[:, -1].float())


# --- photos and coordinates --------------------------------------------------------------------

SIZES = st.tuples(st.integers(20, 700), st.integers(20, 700))


@settings(max_examples=15, deadline=None)
@given(size=SIZES, name=st.sampled_from(NAMES))
def test_the_processor_resizes_as_the_contract_says(
    size: tuple[int, int], name: str, subject_of: Callable[[str], Subject]
) -> None:
    subject = subject_of(name)
    inputs = encode(subject.processor, subject.contract, [Image.new("RGB", size)])
    _, rows, columns = inputs["image_grid_thw"][0].tolist()
    patch = subject.processor.image_processor.patch_size
    assert (columns * patch, rows * patch) == resized_size(subject.contract, *size)
    pad = subject.processor.tokenizer.convert_tokens_to_ids("<|image_pad|>")
    cells = columns * rows * patch**2 // subject.family.cell_px**2
    assert int((inputs["input_ids"] == pad).sum()) == cells


@st.composite
def boxes(draw: st.DrawFn) -> Box:
    x0, y0 = draw(st.floats(0, 0.9)), draw(st.floats(0, 0.9))
    return Box(x0, y0, draw(st.floats(x0 + 0.05, 1.0)), draw(st.floats(y0 + 0.05, 1.0)))


@given(box=boxes(), size=st.tuples(st.integers(100, 3000), st.integers(100, 3000)), name=st.sampled_from(NAMES))
def test_a_box_survives_the_contract_to_half_a_step(box: Box, size: tuple[int, int], name: str) -> None:
    contract = Contract(name, 256 * 28 * 28, 600 * 28 * 28)
    resized = resized_size(contract, *size)
    answer = contract.read(contract.write([box], resized), resized)
    assert (answer.problems, answer.form) == ((), get_family(name).form)
    steps = resized if get_family(name).coordinates == "resized_pixels" else (1000, 1000)
    for before, after, count in zip(box.as_tuple(), answer.boxes[0].as_tuple(), steps * 2, strict=True):
        assert abs(before - after) * count <= 0.5 + 1e-6


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("qwen2-vl", f"<|object_ref_start|>{LABEL}<|object_ref_end|><|box_start|>(250,500),(500,750)<|box_end|>"),
        # 1000 x 700 becomes 1008 x 700: multiples of 28
        ("qwen2.5-vl", f'```json\n[\n\t{{"bbox_2d": [252, 350, 504, 525], "label": "{LABEL}"}}\n]\n```'),
        ("qwen3-vl", f'```json\n[\n\t{{"bbox_2d": [250, 500, 500, 750], "label": "{LABEL}"}}\n]\n```'),
    ],
)
def test_the_same_box_in_the_words_of_each_family(name: str, text: str) -> None:
    contract = Contract(name, 28 * 28, 4000 * 28 * 28)
    resized = resized_size(contract, 1000, 700)
    assert contract.write([Box(0.25, 0.5, 0.5, 0.75)], resized) == text


def test_families_never_share_a_contract() -> None:
    hashes = {Contract(name, 1000, 2000).hash for name in NAMES}
    assert len(hashes) == len(NAMES)


def test_a_changed_grammar_is_another_contract(monkeypatch: pytest.MonkeyPatch) -> None:
    from nutridet_core import prompts

    contract = Contract(QWEN3_VL.name, 1000, 2000)
    before = contract.hash
    monkeypatch.setattr(prompts, "get_family", lambda name: replace(QWEN3_VL, grammar="json-bbox-2d/2"))
    assert contract.hash != before


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)
def test_a_profile_speaks_its_familys_language(profile: Profile) -> None:
    family = profile.architecture
    assert profile.contract.question == family.question
    assert profile.min_pixels % family.cell_px**2 == profile.max_pixels % family.cell_px**2 == 0
    assert Path(profile.base_model).is_dir() or is_commit(str(profile.revision))


# --- training ----------------------------------------------------------------------------------


def test_a_training_passes_every_audit(subject: Subject, adapter_of: Callable[[Subject], Path]) -> None:
    facts = read_manifest(adapter_of(subject).parent, kind="adapter").facts
    assert {name: audit["passed"] for name, audit in facts["audits"].items()} == {
        "module_audit": True, "label_audit": True, "gradient_audit": True,
    }  # fmt: skip
    norms = facts["audits"]["gradient_audit"]["evidence"]["squared_norm"]
    assert min(norms.values()) > 0


def test_what_is_learnt_reads_back_as_the_boxes_of_the_dataset(subject: Subject, dataset: Path) -> None:
    rows = training_rows(TrainingRun(EXPERIMENT, subject.profile, dataset, Path("unused")), subject.processor)
    forms = set()
    for completion, record in zip(rows["completion"], load_records(dataset, "train"), strict=True):
        resized = resized_size(subject.contract, record.width, record.height)
        answer = subject.contract.read(completion.removesuffix(TERMINATOR), resized)
        forms.add(answer.form)
        assert len(answer.boxes) == len(record.boxes)
        for found in answer.boxes:
            assert max(iou(found, box) for box in record.boxes) > 0.9
    assert forms == {subject.family.form, Form.NEGATIVE}


def test_a_prompt_in_the_loss_is_seen(subject: Subject, dataset: Path) -> None:
    run = TrainingRun(EXPERIMENT, subject.profile, dataset, Path("unused"))
    dataset_rows = training_rows(run, subject.processor)
    rows = [dataset_rows[index] for index in range(2)]
    answers = [row["completion"] for row in rows]
    masked, bare = (Collator(subject.processor, mask_prompt=mask)(rows) for mask in (True, False))
    assert audit_labels(masked, subject.processor.tokenizer, answers, PLACEHOLDERS).passed
    audit = audit_labels(bare, subject.processor.tokenizer, answers, PLACEHOLDERS)
    assert not audit.passed
    assert LABEL in audit.evidence["supervised"]


@pytest.mark.parametrize("family", [QWEN2_5_VL, QWEN3_VL], ids=lambda family: family.name)
def test_targets_of_another_family_are_seen(family: Family, subject_of: Callable[[str], Subject]) -> None:
    """The three families name the layers of their vision MLPs differently."""
    borrowed = LoraConfig(r=4, target_modules=lora_pattern(get_family("qwen2-vl"), frozenset(TOWERS)))
    audit = audit_modules(get_peft_model(subject_of(family.name).load(), borrowed), family, frozenset(TOWERS))
    assert not audit.passed
    assert "targets without LoRA" in audit.summary


def test_a_tower_without_gradients_is_seen(subject: Subject) -> None:
    model = get_peft_model(subject.load(), lora_config(EXPERIMENT, subject.profile))
    model(**encode(subject.processor, subject.contract, PHOTOS)).logits.float().sum().backward()
    assert audit_gradients(model, subject.family, frozenset(TOWERS)).passed
    for name, parameter in model.named_parameters():
        if "visual" in name:
            parameter.grad = None
    assert "vision" in audit_gradients(model, subject.family, frozenset(TOWERS)).summary


def test_a_vision_tower_in_four_bits_is_seen(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    from nutridet_core import models

    bare = models.nf4_config(subject.family)
    bare.llm_int8_skip_modules = ["visual", "lm_head"]
    monkeypatch.setattr(models, "nf4_config", lambda family: bare)
    model = get_peft_model(subject.load("nf4"), lora_config(EXPERIMENT, subject.profile))
    assert "4-bit layer" in audit_modules(model, subject.family, frozenset(TOWERS)).summary


@pytest.mark.parametrize("name", ["qwen3-vl"])
def test_what_does_not_fit_on_the_disk_is_not_begun(
    name: str, subject_of: Callable[[str], Subject], adapter_of: Callable[[Subject], Path],
    merged_of: Callable[[Subject], Path], dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    subject = subject_of(name)
    profile, adapter, merged = subject.profile, adapter_of(subject), merged_of(subject)
    monkeypatch.setattr(disk, "free_bytes", lambda folder: 100_000)
    with pytest.raises(ArtifactError, match=r"1 checkpoints would take .* and 0\.1 MB are free"):
        train(TrainingRun(EXPERIMENT, profile, dataset, tmp_path / "adapter"))
    with pytest.raises(ArtifactError, match=r"the merged model would take 1\.2 MB, and 0\.1 MB are free"):
        merge(profile, adapter, tmp_path / "merged", name="merged")
    with pytest.raises(ArtifactError, match=r"the FP8 model would take .* and 0\.1 MB are free"):
        quantize(profile, merged, tmp_path / "fp8", name="fp8")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


# --- adapter, merge, FP8, answers --------------------------------------------------------------


def test_an_adapter_is_saved_loaded_and_merged_alike(
    subject: Subject, adapter_of: Callable[[Subject], Path], merged_of: Callable[[Subject], Path]
) -> None:
    base = logits(subject.load(), subject)
    worn = attach_adapter(subject.load(), adapter_of(subject), subject.contract)
    expected = logits(worn, subject)
    assert float((expected - base).abs().max()) > 1e-3
    torch.testing.assert_close(logits(merge_into(worn), subject), expected, atol=1e-4, rtol=1e-4)
    saved = load_model(Source(str(merged_of(subject))), subject.family, "float32", subject.contract)
    change = float((logits(saved, subject) - expected).abs().max())
    assert change < 0.05 * float(expected.abs().max()), "the merged file differs by more than rounding to bf16"


def test_an_adapter_of_another_family_is_refused(
    adapter_of: Callable[[Subject], Path], subject_of: Callable[[str], Subject]
) -> None:
    theirs, ours = subject_of("qwen2.5-vl"), subject_of("qwen3-vl")
    with pytest.raises(ContractError, match="contract"):
        attach_adapter(ours.load(), adapter_of(theirs), ours.contract)


def _assert_as_planned(subject: Subject, adapter: Path, merged: Path, fp8: Path) -> None:
    """`nutridet plan` counted the bytes that were then written."""
    network = count_network(Path(subject.profile.base_model), subject.profile, [EXPERIMENT])
    planned = disk_bytes(subject.profile, network, [EXPERIMENT])
    checkpoint = [adapter / "adapter_model.safetensors", adapter / "optimizer.pt"]
    written = [sum(path.stat().st_size for path in checkpoint), weight_bytes(merged), weight_bytes(fp8)]
    assert written == pytest.approx(list(planned.values()), rel=0.15), "headers count for a model as small as this"


def test_fp8_is_written_and_reloaded(
    subject: Subject, adapter_of: Callable[[Subject], Path], merged_of: Callable[[Subject], Path], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    merged = merged_of(subject)
    quantize(subject.profile, merged, tmp_path / "fp8", name="fp8")
    assert audit_fp8_file(tmp_path / "fp8", subject.family).passed
    full, small = (
        logits(load_model(Source(str(folder)), subject.family, "bf16", subject.contract), subject)
        for folder in (merged, tmp_path / "fp8")
    )
    change = float((small - full).abs().max() / full.abs().max())
    assert 0 < change < 0.1
    _assert_as_planned(subject, adapter_of(subject), merged, tmp_path / "fp8")
    monkeypatch.setattr("nutridet_core.release.quantize.ignored_modules", lambda family, tied: ("lm_head",))
    with pytest.raises(AuditError, match="FP8 where none may be"):
        quantize(subject.profile, merged, tmp_path / "bad", name="bad")


def test_a_padded_batch_answers_like_single_photos(subject: Subject) -> None:
    model = subject.load()

    def ask(batch_size: int) -> list[Prediction]:
        openers = [lambda photo=photo: photo for photo in PHOTOS]
        return predict(model, subject.processor, subject.contract, openers, batch_size=batch_size, max_new_tokens=12)  # type: ignore[arg-type]

    together, alone = ask(2), ask(1)
    assert [each.answer for each in together] == [each.answer for each in alone]
    assert [each.score for each in together] == pytest.approx([each.score for each in alone], abs=1e-3)


def test_cached_features_change_no_logit(subject: Subject) -> None:
    model, store = subject.load().requires_grad_(False), FeatureStore()
    expected = logits(model, subject)
    cache_features(model, subject.family, store)
    for _ in range(2):
        torch.testing.assert_close(logits(model, subject), expected, atol=1e-4, rtol=1e-4)
    assert (store.computed, store.reused) == (2, 2)
