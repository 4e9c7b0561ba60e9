"""Intervals hold the true value as often as they say, also for a good model on few photos; the truth is simulated."""

from __future__ import annotations

import math
from dataclasses import astuple, replace

import numpy as np
import pytest
from scipy.stats import beta

from benchmarks.coverage import held
from nutridet_core.boxes import Box
from nutridet_core.evaluation.compare import compare
from nutridet_core.evaluation.intervals import (
    Array,
    Weights,
    draw_positions,
    draw_seen,
    draw_weights,
    estimates,
    observed,
)
from nutridet_core.evaluation.scores import Sample, score

TABLE, ELSEWHERE = Box(0.1, 0.1, 0.5, 0.9), Box(0.6, 0.1, 0.9, 0.9)


def samples(photos: int, *, missed: int = 0) -> list[Sample]:
    """Photos with one table each, found exactly or not at all."""
    found = [(ELSEWHERE,) if number < missed else (TABLE,) for number in range(photos)]
    return [
        Sample(f"p{number}", 100, 100, (TABLE,), boxes, 0.9, str(boxes), "native", (), 0.1)
        for number, boxes in enumerate(found)
    ]


@pytest.mark.parametrize("hits", [0.5, 0.8, 0.95, 1.0])
@pytest.mark.parametrize("photos", [5, 33, 85])
def test_nineteen_of_twenty_intervals_hold_the_truth(photos: int, hits: float) -> None:
    alone = np.arange(photos)
    assert held(alone, hits, draw_weights(alone), 400) >= 0.92 * 400


def test_a_bootstrap_of_what_was_seen_forgets_what_was_not() -> None:
    """Why there are photos that nobody took."""
    alone = np.arange(33)
    assert held(alone, 0.95, draw_seen(alone), 400) < 0.85 * 400


@pytest.mark.parametrize(("hits", "photos"), [(0, 5), (5, 92), (1, 1), (40, 85), (33, 33)])
def test_of_a_share_it_is_jeffreys(hits: int, photos: int) -> None:
    seen = np.array([1.0] * hits + [0.0] * (photos - hits))

    def share(weights: Weights) -> dict[str, Array]:
        return {"share": (weights.photos @ seen + weights.right) / (weights.photos.sum(axis=1) + weights.imagined)}

    found = estimates(share, np.arange(photos))["share"]
    low, high = beta.ppf([0.025, 0.975], hits + 0.5, photos - hits + 0.5)
    assert found.value == hits / photos
    assert found.low == pytest.approx(0.0 if hits == 0 else low, abs=0.02)
    assert found.high == pytest.approx(1.0 if hits == photos else high, abs=0.02)


@pytest.mark.parametrize("photos", [1, 5, 33])
def test_without_a_miss_no_score_is_certain(photos: int) -> None:
    metrics = score("model", "test", samples(photos)).metrics
    for name in ("mean_iou", "image_mean_iou", "precision_50", "recall_75", "f1_90", "ap", "ap_50"):
        assert metrics[name].value == pytest.approx(1.0)
        assert metrics[name].low < 1 - 1 / (photos + 10), name
        assert metrics[name].high == pytest.approx(1.0)
    unreadable = metrics["parse_failure_rate"]
    assert (unreadable.value, unreadable.low) == (0.0, 0.0)
    assert unreadable.high > 1 / (photos + 10)


def test_without_a_hit_neither() -> None:
    metrics = score("model", "test", samples(20, missed=20)).metrics
    for name in ("mean_iou", "recall_50", "f1_50"):
        assert metrics[name].value == pytest.approx(0.0)
        assert metrics[name].low == 0.0
        assert 0.03 < metrics[name].high < 0.3, name


def test_where_nothing_is_counted_there_is_no_interval() -> None:
    rate = score("model", "test", samples(5)).metrics["false_detection_rate"]  # every photo has a table
    assert all(math.isnan(number) for number in (rate.value, rate.low, rate.high))


def test_whole_photos_are_drawn_as_often_as_weights_say() -> None:
    drawn = draw_positions(np.arange(10), 20_000)
    assert {len(positions) for positions in drawn} == {11}
    often = np.bincount(np.concatenate(drawn), minlength=12) / len(drawn)
    assert often == pytest.approx([1.0] * 10 + [0.5] * 2, abs=0.05)


def test_the_value_counts_what_was_seen() -> None:
    weights = observed(3)
    assert weights.photos.tolist() == [[1.0, 1.0, 1.0]]
    assert weights.imagined.tolist() == [0.0]


@pytest.mark.parametrize(("found_more", "better"), [(1, False), (3, False), (6, True)])
def test_a_few_photos_do_not_tell_two_apart(found_more: int, better: bool) -> None:
    comparison = compare("a", "b", samples(33, missed=found_more), samples(33))
    assert comparison.better is better


def test_two_that_answered_alike_do_not_differ_on_these_photos() -> None:
    same = compare("a", "b", samples(20, missed=3), samples(20, missed=3))
    assert (same.mean_iou.value, same.mean_iou.low, same.mean_iou.high) == (0.0, 0.0, 0.0)


def test_photos_of_one_product_are_drawn_together() -> None:
    products = np.array([0, 0, 0, 1, 2, 2])
    for weights in (draw_weights(products), draw_seen(products)):
        assert (weights.photos[:, [0, 3, 4]] == weights.photos[:, [2, 3, 5]]).all()
        assert not (weights.photos[:, 0] == weights.photos[:, 3]).all()
    for positions in draw_positions(products, 100):
        times = np.bincount(positions, minlength=8)
        assert times[0] == times[1] == times[2]
        assert times[4] == times[5]
        assert times[6] % 2 == times[7] % 2 == 0  # nobody's products have as many photos as the average one


def test_photos_that_fare_alike_need_intervals_over_products() -> None:
    """The same sets, taken for independent photos, get intervals that hold the truth far less often."""
    products, alone = np.repeat(np.arange(25), 4), np.arange(100)
    assert held(products, 0.8, draw_weights(products), 400, alike=1.0) >= 0.92 * 400
    assert held(products, 0.8, draw_weights(alone), 400, alike=1.0) < 0.75 * 400


def test_products_of_one_photo_each_change_nothing() -> None:
    plain = samples(33, missed=4)
    named = [replace(sample, product=f"40000000{number:05}") for number, sample in enumerate(plain)]
    assert score("model", "test", named).text == score("model", "test", plain).text


def test_copies_of_every_photo_make_no_score_more_certain() -> None:
    """Four photos a product that fare alike tell what one tells, and the score says of how many products it is."""
    plain = samples(25, missed=3)
    copies = [replace(sample, id=f"{sample.id}-{number}", product=sample.id) for sample in plain for number in range(4)]
    once, often = score("model", "test", plain), score("model", "test", copies)
    assert (often.photos, often.products) == (100, 25)
    assert often.text.startswith("model on test: n = 100 photos of 25 products, 100 boxes")
    for name, estimate in once.metrics.items():
        assert astuple(often.metrics[name]) == pytest.approx(astuple(estimate), abs=0.01, nan_ok=True), name


def test_a_difference_on_one_product_is_none_however_many_photos_it_has() -> None:
    before, after = samples(40, missed=8), samples(40)
    assert compare("a", "b", before, after).better
    one = [
        [replace(sample, product="one" if number < 8 else "") for number, sample in enumerate(s)]
        for s in (before, after)
    ]
    assert not compare("a", "b", *one).better
