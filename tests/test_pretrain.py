"""Pretraining of the embedded model: its short cuts compute what Qwen2-VL's code computes, its questions are right."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Qwen2VLForConditionalGeneration
from transformers.models.qwen2_vl.modeling_qwen2_vl import PatchEmbed, VisionAttention

from nutridet_core.answers import LABEL
from nutridet_core.artifacts.store import read_manifest
from nutridet_core.boxes import Box
from nutridet_core.data.generated import LABELS, draw_product_photo
from nutridet_core.profiles import TINY, TINY_WEIGHTS
from nutridet_core.tiny import architecture
from nutridet_core.tiny.dense import DenseHead, coverage, edges_of
from nutridet_core.tiny.encoder import Encoder, look, patchify, relight
from nutridet_core.tiny.history import log_history
from nutridet_core.tiny.network import answer_logits, visual_features
from nutridet_core.tiny.pretrain import Run, pretrain
from nutridet_core.tiny.recipe import Recipe
from nutridet_core.tiny.views import Stacks, View, ask, close_up, grid_of, whole
from nutridet_core.training.ranks import Ranks

SMALL = Recipe(sheets_per_batch=2, views_per_sheet=2, passes=2, buffered=2, warmup_steps=1, workers=0)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def processor():
    return architecture.build_processor(TINY.contract)


@pytest.fixture(scope="module")
def batch():
    return next(iter(Stacks(SMALL)))[0]


@pytest.fixture
def short_ways(monkeypatch):
    """What pretraining replaces is put back afterwards."""
    for layer in (VisionAttention, PatchEmbed):
        monkeypatch.setattr(layer, "forward", layer.forward)


# ---------------------------------------------------------------- pixels


def test_patches_equal_those_of_the_processor(processor):
    page = np.random.default_rng(0).integers(0, 255, (224, 280, 3), dtype=np.uint8)
    expected = processor.image_processor([Image.fromarray(page)], return_tensors="pt")["pixel_values"]
    mean, std = processor.image_processor.image_mean, processor.image_processor.image_std
    found = patchify(torch.from_numpy(page)[None], mean, std)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_grids_are_those_of_the_processor(processor):
    for index in range(4):
        photo = draw_product_photo(7, index).image
        grid = processor.image_processor([photo], return_tensors="pt")["image_grid_thw"][0].tolist()
        assert grid[1:] == [2 * cells for cells in grid_of(photo.size)]


def test_a_view_shows_its_window(batch):
    views = look(batch)
    assert views.shape == (4, batch.grid[0] * 28, batch.grid[1] * 28, 3)
    x0, y0, x1, y1 = batch.windows[0, 1].tolist()
    cut = Image.fromarray(batch.sheets[0, y0:y1, x0:x1].numpy()).resize(views.shape[2:0:-1], Image.Resampling.BILINEAR)
    assert np.abs(np.asarray(cut, np.float32) - views[1].numpy()).mean() < 6


def test_other_light_leaves_pixels_in_range():
    views = torch.rand(3, 28, 56, 3) * 255
    altered = relight(views)
    assert altered.shape == views.shape and altered.min() >= 0 and altered.max() <= 255
    assert not torch.equal(altered, views)


# ---------------------------------------------------------------- views and questions


def test_no_view_cuts_a_table_in_half():
    for index in range(12):
        photo = draw_product_photo(7, index)
        tables = [box.to_px(*photo.image.size) for label, box in photo.objects if label == LABEL]
        rng = random.Random(index)
        for view in (whole(photo), *(close_up(photo, rng) for _ in range(6))):
            x0, y0, x1, y1 = view.window
            assert 0 <= x0 < x1 <= photo.image.width and 0 <= y0 < y1 <= photo.image.height
            shares = [_overlap(table, view.window) for table in tables]
            assert sum(share >= 0.79 for share in shares) == sum(label == LABEL for label, _ in view.seen)
            assert all(share >= 0.79 or share <= 0.06 for share in shares)


def test_questions_ask_for_the_table_by_its_other_name_and_tell_absent_from_cut():
    table, logo = Box(0.1, 0.2, 0.5, 0.6), Box(0.6, 0.6, 0.9, 0.9)
    cut = Box(0.0, 0.9, 0.3, 1.0)
    view = View((0, 0, 9, 9), ((LABEL, table), ("logo", logo), ("seal", cut)), ((LABEL, table), ("logo", logo)),
                frozenset({"seal"}))  # fmt: skip
    rng = random.Random(0)
    asked = [pair for _ in range(200) for pair in ask(view, SMALL, rng)]
    assert {label for label, _ in asked} == set(LABELS) - {LABEL, "seal"} | {architecture.TABLE_NAME}
    for label, answer in asked:
        if label == architecture.TABLE_NAME:
            assert "nutrition facts<|object_ref_end|><|box_start|>(100,200),(500,600)" in answer
        elif label == "logo":
            assert "(600,600),(900,900)" in answer
        else:
            assert answer == f"no {label}"
    assert all(LABEL not in label and LABEL not in answer for label, answer in asked)


def test_sheets_come_again_and_no_two_ranks_draw_the_same():
    def first(rank):
        return next(iter(Stacks(SMALL, first=40, rank=rank, world=2)))[0]

    zero, again, one = first(0), first(0), first(1)
    assert torch.equal(zero.sheets, again.sheets) and zero.answers == again.answers
    assert zero.sheets.shape != one.sheets.shape or not torch.equal(zero.sheets, one.sheets)


# ---------------------------------------------------------------- dense supervision


def test_coverage_and_edges_of_one_object():
    objects = torch.tensor([[[2, 0.25, 0.0, 0.75, 0.5], [-1, -1, -1, -1, -1]]])
    cover = coverage(objects, labels=4, grid=(2, 2)).reshape(4, 2, 2, 4)  # cells, rows, columns of parts, labels
    assert cover[..., [0, 1, 3]].sum() == 0
    expected = torch.tensor([[[0.0, 1.0], [0.0, 1.0]], [[1.0, 0.0], [1.0, 0.0]], *[[[0.0, 0.0], [0.0, 0.0]]] * 2])
    torch.testing.assert_close(cover[..., 2], expected)
    seen, edges = edges_of(objects, (2, 4))
    assert seen.tolist() == [[False, True, True, False] + [False] * 4]
    torch.testing.assert_close(edges[0, 1], objects[0, 0, 1:])


def test_of_two_objects_on_a_cell_the_smaller_counts():
    objects = torch.tensor([[[0, 0.0, 0.0, 1.0, 1.0], [1, 0.4, 0.4, 0.6, 0.6]]])
    _, edges = edges_of(objects, (3, 3))
    torch.testing.assert_close(edges[0, 4], objects[0, 1, 1:])
    torch.testing.assert_close(edges[0, 0], objects[0, 0, 1:])


def test_the_dense_loss_falls_to_nothing_on_tokens_that_know():
    torch.manual_seed(0)
    objects = torch.tensor([[[1, 0.0, 0.0, 0.5, 1.0]]])
    head, tokens = DenseHead(8, 2), torch.randn(1, 4, 8)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.02)
    losses = []
    for _ in range(800):
        loss = head(tokens, objects, (2, 2))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]


# ---------------------------------------------------------------- network


def test_short_ways_give_the_logits_of_the_original_model(processor, batch, short_ways):
    from nutridet_core.tiny.network import take_short_ways

    torch.manual_seed(0)
    model = Qwen2VLForConditionalGeneration(architecture.build_config(processor.tokenizer)).eval()
    encoder = Encoder(processor, TINY.contract)
    inputs = encoder.inputs(batch, encoder.text(batch), light=False)
    each = batch.questions_per_view
    patches = inputs["pixel_values"].reshape(4, -1, 1176).repeat_interleave(each, 0).flatten(0, 1)
    types = (inputs["input_ids"] == model.config.image_token_id).long()
    with torch.no_grad():
        expected = model(
            input_ids=inputs["input_ids"], pixel_values=patches, mm_token_type_ids=types,
            image_grid_thw=inputs["image_grid_thw"].repeat_interleave(each, 0),
        ).logits  # fmt: skip
        take_short_ways()
        found = answer_logits(model, inputs, visual_features(model, inputs), encoder.photo_at)
    torch.testing.assert_close(found, expected[:, -found.shape[1] :], atol=2e-4, rtol=2e-3)
    labels = inputs["labels"][0]
    assert processor.tokenizer.decode(labels[labels != -100]) == batch.answers[0] + "<|im_end|>"


# ---------------------------------------------------------------- the run


def test_a_run_goes_on_from_its_state_and_seals_a_model(tmp_path, short_ways):
    recipe = replace(SMALL, steps=3)
    manifest = pretrain(recipe, tmp_path / "base", minutes=60)
    assert manifest.facts["steps"] == 3 and manifest.facts["views"] == 12
    assert read_manifest(tmp_path / "base", kind="model").contract == TINY.contract.hash
    again = Run(replace(recipe, steps=4), Ranks(0, 1, CPU), tmp_path / "base.pretraining.pt")
    assert again.progress.step == 3
    before = {name: tensor.clone() for name, tensor in again.trainee.state_dict().items()}
    kept = torch.load(tmp_path / "base.pretraining.pt", weights_only=True)["trainee"]
    assert all(torch.equal(before[name], kept[name]) for name in kept)
    again.until(3600)
    assert again.progress.step == 4
    assert any(not torch.equal(before[name], tensor) for name, tensor in again.trainee.state_dict().items())


def test_the_pretraining_of_the_shipped_base_is_one_run_in_mlflow(tmp_path, monkeypatch):
    import mlflow

    monkeypatch.setenv("NUTRIDET_HOME", str(tmp_path))
    manifest = read_manifest(TINY_WEIGHTS, kind="model")
    run_id = log_history(manifest)
    assert log_history(manifest) == run_id
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    history = client.get_metric_history(run_id, "answers")
    assert [point.value for point in history] == [point["answers"] for point in manifest.facts["curve"]]
    assert client.get_run(run_id).data.params["learning_rate"] == str(manifest.config["learning_rate"])


def _overlap(table, window):
    across = min(table[2], window[2]) - max(table[0], window[0])
    down = min(table[3], window[3]) - max(table[1], window[1])
    return max(0, across) * max(0, down) / ((table[2] - table[0]) * (table[3] - table[1]))
