"""The weights that ship: base and adapter belong together, find tables, and answer until the first release."""

from __future__ import annotations

import pytest

from nutridet_core.answers import LABEL
from nutridet_core.artifacts.store import read_manifest
from nutridet_core.boxes import iou
from nutridet_core.data.generated import draw_product_photo
from nutridet_core.models import attach_adapter, base_source, load_model, load_processor
from nutridet_core.pipeline.context import Context
from nutridet_core.pipeline.prediction import predict_files
from nutridet_core.predict import predict
from nutridet_core.profiles import TINY, TINY_TUNED, TINY_WEIGHTS
from nutridet_core.settings import Settings

PHOTOS = 16


@pytest.fixture(scope="module")
def drawings():
    """Of a seed that neither pretraining nor tuning uses."""
    return [draw_product_photo(998, index) for index in range(PHOTOS)]


@pytest.fixture(scope="module")
def found(drawings):
    """Mean over the tables of the best IoU, by model."""
    source = base_source(TINY)
    processor = load_processor(source, TINY.architecture, TINY.contract)
    model = load_model(source, TINY.architecture, TINY.scoring_precision, TINY.contract)
    base = _mean_best_iou(model, processor, drawings)
    return {
        "base": base,
        "tuned": _mean_best_iou(attach_adapter(model, TINY_TUNED, TINY.contract), processor, drawings),
    }


def test_base_and_adapter_are_whole_and_belong_together():
    assert read_manifest(TINY_WEIGHTS, kind="model").contract == TINY.contract.hash
    assert read_manifest(TINY_TUNED, kind="adapter").config["base"] == TINY.base_identity


def test_the_weights_fit_into_the_repository():
    shipped = [path.stat().st_size for folder in (TINY_WEIGHTS, TINY_TUNED) for path in folder.rglob("*.safetensors")]
    assert sum(shipped) < 2 * 25e6 and max(shipped) < 16 * 2**20


def test_the_tuned_model_finds_tables_and_the_base_leaves_room(found):
    assert found["tuned"] > 0.7
    assert found["base"] < found["tuned"] - 0.2


def test_until_the_first_release_the_shipped_adapter_answers(tmp_path, drawings):
    number = next(n for n, d in enumerate(drawings) if any(label == LABEL for label, _ in d.objects))
    drawings[number].image.save(tmp_path / "photo.png")
    said: list[str] = []
    context = Context(Settings(home=tmp_path / "home", profile="tiny"), log=said.append)
    ((line, _),) = predict_files(context, [tmp_path / "photo.png"], model=None, out=tmp_path / "out")
    assert "nutrition table(" in line and (tmp_path / "out" / "photo.boxes.png").is_file()
    assert said == ["no release yet: answering with the base and the adapter that ships with it"]


def _mean_best_iou(model, processor, drawings):
    photos = [lambda image=drawing.image: image for drawing in drawings]
    answers = predict(model, processor, TINY.contract, photos, batch_size=8, max_new_tokens=TINY.max_new_tokens)
    best = [
        max((iou(box, found) for found in prediction.answer.boxes), default=0.0)
        for drawing, prediction in zip(drawings, answers, strict=True)
        for label, box in drawing.objects
        if label == LABEL
    ]
    return sum(best) / len(best)
