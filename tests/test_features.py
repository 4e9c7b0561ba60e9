"""Cached vision features: the same numbers, computed once, and never those of another tower or size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from nutridet_core.data.dataset import open_photos
from nutridet_core.families import QWEN2_VL
from nutridet_core.features import FeatureStore, cache_features
from nutridet_core.models import base_source, load_model
from nutridet_core.predict import encode
from tests.conftest import EXP2, PROFILE


@pytest.fixture
def model() -> Any:
    return load_model(base_source(PROFILE), PROFILE.architecture, "float32", PROFILE.contract).requires_grad_(False)


@pytest.fixture(scope="module")
def inputs(dataset: Path, processor: Any) -> Any:
    photos = [open_photo() for open_photo in open_photos(dataset, "train")[:3]]
    return encode(processor, PROFILE.contract, photos)


def _logits(model: Any, inputs: Any) -> torch.Tensor:
    with torch.inference_mode():
        return model(**inputs).logits


def test_logits_stay_and_the_tower_runs_once(model: Any, inputs: Any) -> None:
    expected, store = _logits(model, inputs), FeatureStore()
    cache_features(model, QWEN2_VL, store)
    for _ in range(2):
        torch.testing.assert_close(_logits(model, inputs), expected, atol=1e-4, rtol=1e-4)
    assert (store.computed, store.reused) == (3, 3)


def test_known_and_new_photos_mix_in_one_batch(model: Any, processor: Any, dataset: Path, inputs: Any) -> None:
    store, expected = FeatureStore(), _logits(model, inputs)
    cache_features(model, QWEN2_VL, store)
    _logits(model, encode(processor, PROFILE.contract, [open_photos(dataset, "train")[1]()]))
    torch.testing.assert_close(_logits(model, inputs), expected, atol=1e-4, rtol=1e-4)
    assert (store.computed, store.reused) == (3, 1)


def test_another_tower_never_meets_these_features(model: Any, inputs: Any) -> None:
    store = FeatureStore()
    cache_features(model, QWEN2_VL, store)
    _logits(model, inputs)
    next(model.model.visual.parameters()).data += 1e-3
    cache_features(model, QWEN2_VL, store)
    _logits(model, inputs)
    assert (store.computed, store.reused) == (6, 0)


def test_a_tower_with_an_adapter_is_left_alone(model: Any, inputs: Any) -> None:
    """Also one that was cached before: the old features belong to the tower without the adapter."""
    from peft import get_peft_model

    from nutridet_core.models import lora_config

    store = FeatureStore()
    cache_features(model, QWEN2_VL, store)
    adapted = get_peft_model(model, lora_config(EXP2, PROFILE)).requires_grad_(False)
    cache_features(adapted, QWEN2_VL, store)
    _logits(adapted, inputs)
    assert (store.computed, store.reused) == (0, 0)


def test_a_full_store_still_answers(model: Any, inputs: Any) -> None:
    expected, store = _logits(model, inputs), FeatureStore(limit_bytes=1)
    cache_features(model, QWEN2_VL, store)
    torch.testing.assert_close(_logits(model, inputs), expected, atol=1e-4, rtol=1e-4)
    assert store.kept == {}


def test_a_tower_that_learns_is_refused(model: Any) -> None:
    model.requires_grad_(True)
    with pytest.raises(ValueError, match=r"model\.visual is trained"):
        cache_features(model, QWEN2_VL, FeatureStore())
