"""The shipped adapter's loop: its views keep the tables whole, and what it writes loads under the tiny profile."""

from __future__ import annotations

import random

import torch
from peft import LoraConfig
from peft.tuners.lora.layer import Linear
from transformers.models.qwen2_vl.modeling_qwen2_vl import PatchEmbed, VisionAttention

from nutridet_core.answers import LABEL
from nutridet_core.boxes import iou
from nutridet_core.data.generated import draw_product_photo
from nutridet_core.models import attach_adapter, base_source, load_model, require_adapter_keys
from nutridet_core.pipeline.context import Context
from nutridet_core.pipeline.prediction import predict_files
from nutridet_core.predict import predict
from nutridet_core.profiles import TINY, TINY_TUNED, TINY_WEIGHTS
from nutridet_core.settings import Settings
from nutridet_core.store import read_manifest
from nutridet_core.tiny.tune import TuningRecipe, draw_views, grid_of, relight, summed_forward, tune

SMALL = TuningRecipe(steps=3, photos_per_batch=1, views_per_photo=2, passes=2, warmup_steps=1, workers=0)


def tiny_model():
    return load_model(base_source(TINY), TINY.architecture, TINY.scoring_precision, TINY.contract)


def test_a_few_steps_write_an_adapter_that_loads(tmp_path, monkeypatch):
    for layer in (VisionAttention, PatchEmbed, Linear):
        monkeypatch.setattr(layer, "forward", layer.forward)  # undone: `tune` replaces it
    manifest = tune(SMALL, TINY_WEIGHTS, tmp_path / "tuned", minutes=5)
    assert manifest.facts["steps"] == 3 and manifest.facts["photos"] == 2
    assert "/" not in (tmp_path / "tuned" / "adapter_config.json").read_text().split("base_model_name_or_path")[1][:40]
    model = attach_adapter(tiny_model(), tmp_path / "tuned", TINY.contract)
    assert require_adapter_keys(model, tmp_path / "tuned")["nonzero"] > 0


def test_views_show_every_table_whole_or_not_at_all():
    for index in range(12):
        photo = draw_product_photo(7, index)
        width, height = photo.image.size
        tables = [box.to_px(width, height) for label, box in photo.objects if label == LABEL]
        (_, whole), *others = draw_views(photo, 8, random.Random(index))
        assert len(whole) == len(tables)
        for (x0, y0, x1, y1), seen in others:
            assert 0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height
            shares = [_overlap(table, (x0, y0, x1, y1)) for table in tables]
            assert sum(share >= 0.79 for share in shares) == len(seen)
            assert all(share >= 0.79 or share <= 0.06 for share in shares)


def test_grids_are_those_of_the_processor(processor):
    for index in range(4):
        photo = draw_product_photo(7, index)
        grid = processor.image_processor([photo.image], return_tensors="pt")["image_grid_thw"][0].tolist()
        assert grid[1:] == [2 * cells for cells in grid_of(photo)]


def test_a_lora_layer_computes_what_peft_computes():
    layer = Linear(torch.nn.Linear(12, 20), "default", config=LoraConfig(r=4, lora_alpha=2), r=4, lora_alpha=2)
    torch.nn.init.normal_(layer.lora_B["default"].weight)
    x = torch.randn(3, 5, 12)
    torch.testing.assert_close(summed_forward(layer, x), layer(x))


def test_other_light_leaves_pixels_in_range():
    views = torch.rand(3, 28, 56, 3) * 255
    altered = relight(views)
    assert altered.shape == views.shape and altered.min() >= 0 and altered.max() <= 255
    assert not torch.equal(altered, views)


def test_the_shipped_adapter_finds_tables(processor):
    assert read_manifest(TINY_TUNED, kind="adapter").config["base"] == TINY.base_identity
    drawings = [draw_product_photo(998, index) for index in range(12)]
    model = attach_adapter(tiny_model(), TINY_TUNED, TINY.contract)
    photos = [lambda image=drawing.image: image for drawing in drawings]
    answers = predict(model, processor, TINY.contract, photos, batch_size=6, max_new_tokens=TINY.max_new_tokens)
    best = [
        max((iou(box, found) for found in prediction.answer.boxes), default=0.0)
        for drawing, prediction in zip(drawings, answers, strict=True)
        for label, box in drawing.objects
        if label == LABEL
    ]
    assert sum(best) / len(best) > 0.5


def test_until_the_first_release_the_shipped_adapter_answers(tmp_path):
    draw_product_photo(998, 0).image.save(tmp_path / "photo.png")
    said: list[str] = []
    context = Context(Settings(home=tmp_path / "home", profile="tiny"), log=said.append)
    (line,) = predict_files(context, [tmp_path / "photo.png"], model=None, out=tmp_path / "out")
    assert "nutrition table(" in line and (tmp_path / "out" / "photo.boxes.png").is_file()
    assert said == ["no release yet: answering with the base and the adapter that ships with it"]


def _overlap(table, window):
    across = min(table[2], window[2]) - max(table[0], window[0])
    down = min(table[3], window[3]) - max(table[1], window[1])
    return max(0, across) * max(0, down) / ((table[2] - table[0]) * (table[3] - table[1]))
