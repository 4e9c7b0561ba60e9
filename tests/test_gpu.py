"""What only a GPU can show: `pytest -m gpu`. Qwen2-VL-7B's own shape is in `benchmarks.gpu_smoke`.

Where packages for the web are not installed: `pytest -m gpu tests/test_gpu.py -o filterwarnings=ignore`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from nutridet_core.artifacts.layout import ADAPTER_WEIGHTS, checkpoints
from nutridet_core.artifacts.store import MANIFEST, read_manifest
from nutridet_core.data.dataset import open_photos
from nutridet_core.evaluation.audits import audit_fp8_file
from nutridet_core.experiments import Experiment
from nutridet_core.features import FeatureStore, cache_features, digest_of, fingerprint
from nutridet_core.models import (
    Source,
    attach_adapter,
    base_source,
    compile_layers,
    language_layers,
    load_model,
    load_processor,
)
from nutridet_core.predict import encode, predict
from nutridet_core.profiles import TINY
from nutridet_core.release.merge import merge
from nutridet_core.release.quantize import quantize
from nutridet_core.training.train import train
from nutridet_core.training.trainer import TrainingRun
from tests.conftest import EXP1A, EXP2

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU"),
]
PROFILE = replace(TINY, train_batch_size=4, scoring_precision="bf16", gradient_checkpointing=True)
GREY = [Image.new("RGB", (224, 224), "grey"), Image.new("RGB", (300, 200), "white")]


@pytest.fixture(scope="module")
def processor() -> Any:
    return load_processor(base_source(PROFILE), PROFILE.architecture, PROFILE.contract)


@pytest.fixture(scope="module")
def trained(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Experiment], Path]:
    root = tmp_path_factory.mktemp("gpu")

    def train_once(experiment: Experiment) -> Path:
        train(TrainingRun(experiment, PROFILE, dataset, root / experiment.name))
        return root / experiment.name

    return train_once


def load(precision: Any = "bf16", source: Source | None = None) -> Any:
    return load_model(source or base_source(PROFILE), PROFILE.architecture, precision, PROFILE.contract)


def test_a_fingerprint_sees_one_changed_bit_anywhere() -> None:
    patches = torch.randn(777, 1176, device="cuda")
    assert fingerprint(patches) == fingerprint(patches.clone())
    for row, column in ((0, 0), (776, 1175), (400, 3)):
        changed = patches.clone()
        changed.view(torch.int32)[row, column] ^= 1
        assert fingerprint(changed) != fingerprint(patches)
    assert fingerprint(patches) != fingerprint(patches.flip(0))
    assert fingerprint(patches.bfloat16()[:5]) != fingerprint(patches.bfloat16()[:4])


def test_no_two_fingerprints_of_similar_photos_are_equal() -> None:
    photos = torch.zeros(2000, 4096, device="cuda")
    photos[torch.arange(2000), torch.arange(2000)] = 1.0
    assert len({fingerprint(photo) for photo in photos}) == 2000


def test_the_tower_is_known_again() -> None:
    one, other = load(), load()
    assert digest_of(one.model.visual) == digest_of(other.model.visual)
    with torch.no_grad():
        next(other.model.visual.parameters()).flatten()[0] += 1
    assert digest_of(one.model.visual) != digest_of(other.model.visual)


def test_cached_features_change_no_logit(processor: Any) -> None:
    model, store = load().requires_grad_(False), FeatureStore()
    inputs = encode(processor, PROFILE.contract, GREY).to("cuda")
    with torch.inference_mode():
        expected = model(**inputs).logits
        cache_features(model, PROFILE.architecture, store)
        for _ in range(2):
            torch.testing.assert_close(model(**inputs).logits, expected)
    assert (store.computed, store.reused) == (2, 2)


@pytest.mark.parametrize("precision", ["nf4", "bf16"])
def test_compiled_layers_compute_the_same_loss_for_any_length(precision: Any, processor: Any) -> None:
    plain, compiled = load(precision), load(precision)
    compile_layers(compiled)
    for photos in (GREY, GREY[:1], GREY[1:]):
        inputs = encode(processor, PROFILE.contract, photos).to("cuda")
        losses = [model(**inputs, labels=inputs["input_ids"], use_cache=False).loss for model in (plain, compiled)]
        torch.testing.assert_close(losses[1], losses[0], rtol=0.02, atol=0.02)
    assert all(layer._compiled_call_impl is not None for layer in language_layers(compiled))


@pytest.mark.parametrize("experiment", [EXP1A, EXP2], ids=["language", "vision and language"])
def test_an_experiment_trains_in_four_bits(experiment: Experiment, trained: Callable[[Experiment], Path]) -> None:
    facts = read_manifest(trained(experiment)).facts
    assert all(audit["passed"] for audit in facts["audits"].values())
    assert facts["peak_gpu_gib"] > 0


def test_a_resumed_adapter_keeps_its_dtype(dataset: Path, tmp_path: Path) -> None:
    """PEFT reads a checkpoint back in float32, whatever was written."""
    run = TrainingRun(EXP1A, PROFILE, dataset, tmp_path / "run")
    train(run)
    first, last = checkpoints(run.folder)
    shutil.rmtree(last)
    (run.folder / MANIFEST).unlink()
    assert train(run).facts["resumed_from"] == first.name
    dtypes = [{tensor.dtype for tensor in load_file(folder / ADAPTER_WEIGHTS).values()} for folder in (first, last)]
    assert dtypes == [{torch.bfloat16}, {torch.bfloat16}]


def test_training_with_compiled_layers_ends_near_training_without(
    dataset: Path, tmp_path: Path, trained: Callable[[Experiment], Path]
) -> None:
    plain = read_manifest(trained(EXP1A)).facts["loss"]
    compiled = train(TrainingRun(EXP1A, replace(PROFILE, compile_layers=True), dataset, tmp_path / "run")).facts["loss"]
    assert [point["loss"] for point in compiled] == pytest.approx([point["loss"] for point in plain], rel=0.1)


def test_merged_and_fp8_models_answer_on_the_gpu(
    dataset: Path, tmp_path: Path, trained: Callable[[Experiment], Path], processor: Any
) -> None:
    adapter = checkpoints(trained(EXP1A))[-1]
    merge(PROFILE, adapter, tmp_path / "merged", name="merged")
    quantize(PROFILE, tmp_path / "merged", tmp_path / "fp8", name="fp8")
    assert audit_fp8_file(tmp_path / "fp8", PROFILE.architecture).passed
    inputs = encode(processor, PROFILE.contract, GREY).to("cuda")
    models = {
        "adapter": attach_adapter(load(), adapter, PROFILE.contract),
        "merged": load(source=Source(str(tmp_path / "merged"))),
        "fp8": load(source=Source(str(tmp_path / "fp8"))),
    }
    with torch.inference_mode():
        logits = {name: model(**inputs).logits[:, -1].float() for name, model in models.items()}
    change = {
        name: float((found - logits["adapter"]).norm() / logits["adapter"].norm()) for name, found in logits.items()
    }
    assert change["merged"] < 0.02
    assert 0 < change["fp8"] < 0.1
    photos = open_photos(dataset, "test")
    found = predict(models["fp8"], processor, PROFILE.contract, photos, batch_size=4, max_new_tokens=72)
    assert len(found) == len(photos)
    assert all(0 < each.score <= 1 for each in found)
