"""Metrics against values worked out by hand, and against pycocotools' own run."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from nutridet_core.artifacts.store import Manifest, seal, write_json
from nutridet_core.boxes import Box, iou
from nutridet_core.errors import DataError
from nutridet_core.evaluation.compare import compare, compare_unpaired
from nutridet_core.evaluation.evaluate import PREDICTIONS, SCORES, load_samples, load_scores, save_scores
from nutridet_core.evaluation.scores import COUNTING, Sample, Scores, score

LEFT, RIGHT = Box(0.0, 0.0, 0.4, 1.0), Box(0.6, 0.0, 1.0, 1.0)


def photo(
    number: int,
    truth: tuple[Box, ...],
    predicted: tuple[Box, ...],
    *,
    confidence: float = 0.9,
    problems: tuple[str, ...] = (),
) -> Sample:
    form = "native" if predicted else "negative"
    return Sample(f"p{number}", 100, 100, truth, predicted, confidence, str(predicted), form, problems, 0.1)


# first, second, IoU worked out on paper
@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (Box(0.0, 0.0, 0.5, 0.5), Box(0.0, 0.0, 0.5, 0.5), 1.0),
        (Box(0.0, 0.0, 0.5, 0.5), Box(0.5, 0.5, 1.0, 1.0), 0.0),
        (Box(0.0, 0.0, 0.4, 0.5), Box(0.2, 0.0, 0.6, 0.5), 1 / 3),
        (Box(0.0, 0.0, 1.0, 1.0), Box(0.25, 0.25, 0.75, 0.75), 0.25),
        (Box(0.1, 0.2, 0.5, 0.8), Box(0.1, 0.5, 0.5, 0.8), 0.5),
    ],
)
def test_iou(first: Box, second: Box, expected: float) -> None:
    assert iou(first, second) == pytest.approx(expected)
    assert iou(second, first) == pytest.approx(expected)


def test_metrics_of_four_photos() -> None:
    taller_half = Box(0.0, 0.0, 0.4, 0.55)
    samples = [
        photo(1, (LEFT,), (LEFT,)),  # exact
        photo(2, (LEFT, RIGHT), (taller_half,)),  # one at IoU 0.55, one missed
        photo(3, (), (LEFT,)),  # false detection
        photo(4, (LEFT,), (), problems=("no_answer",)),
    ]
    scores = score("model", "test", samples)
    value = {name: estimate.value for name, estimate in scores.metrics.items()}
    assert (scores.photos, scores.boxes, scores.negatives) == (4, 4, 1)
    assert value["mean_iou"] == pytest.approx((1 + 0.55 + 0 + 0) / 4)
    assert value["image_mean_iou"] == pytest.approx((1 + 0.55 / 2 + 0) / 3)
    assert value["precision_50"] == pytest.approx(2 / 3)
    assert value["recall_50"] == pytest.approx(2 / 4)
    assert value["f1_50"] == pytest.approx(2 * 2 / (3 + 4))
    assert value["f1_75"] == pytest.approx(2 * 1 / (3 + 4))
    assert value["parse_failure_rate"] == pytest.approx(1 / 4)
    assert value["false_detection_rate"] == 1.0


def test_one_prediction_cannot_match_two_boxes() -> None:
    """The peer that counted cells of the IoU matrix reported an upper bound."""
    near = Box(0.0, 0.0, 0.41, 1.0)
    scores = score("model", "test", [photo(1, (LEFT, near), (LEFT,))])
    assert scores.metrics["recall_50"].value == 0.5


def test_matching_is_the_best_one_not_the_greedy_one() -> None:
    """Both can be matched, though the first prediction fits both boxes and the second only one."""
    a, b = Box(0.0, 0.0, 0.5, 0.5), Box(0.1, 0.0, 0.6, 0.5)
    fits_both, fits_a = Box(0.05, 0.0, 0.55, 0.5), Box(0.0, 0.0, 0.45, 0.5)
    scores = score("model", "test", [photo(1, (a, b), (fits_both, fits_a))])
    assert scores.metrics["recall_50"].value == 1.0


def test_average_precision_is_cocos() -> None:
    """Confident right, then wrong: AP50 1.0. Confident wrong first: precision 0.5 at full recall."""
    right_first = [photo(1, (LEFT,), (LEFT,), confidence=0.9), photo(2, (), (RIGHT,), confidence=0.1)]
    wrong_first = [photo(1, (LEFT,), (LEFT,), confidence=0.1), photo(2, (), (RIGHT,), confidence=0.9)]
    assert score("a", "test", right_first).metrics["ap_50"].value == pytest.approx(1.0)
    assert score("a", "test", wrong_first).metrics["ap_50"].value == pytest.approx(0.5)


def test_every_number_has_an_interval_around_it() -> None:
    rng = np.random.default_rng(0)
    samples = [photo(i, (LEFT,), (Box(0.0, 0.0, 0.4, float(rng.uniform(0.2, 1.0))),)) for i in range(60)]
    for name, estimate in score("model", "test", samples).metrics.items():
        if name != "false_detection_rate":  # no negatives here
            assert estimate.low <= estimate.value <= estimate.high, name
    iou_estimate = score("model", "test", samples).metrics["mean_iou"]
    wanted = 1.96 * np.std([sample.ious[0] for sample in samples]) / math.sqrt(60)
    assert (iou_estimate.high - iou_estimate.low) / 2 == pytest.approx(wanted, rel=0.15)


def test_nothing_counted_is_nan_and_not_zero() -> None:
    scores = score("model", "test", [photo(1, (), ())])
    assert math.isnan(scores.metrics["mean_iou"].value)
    assert math.isnan(scores.metrics["precision_50"].value)
    assert not any(math.isnan(value) for value in scores.mlflow_metrics.values())


def test_scores_survive_json() -> None:
    scores = score("model", "test", [photo(1, (LEFT,), (LEFT,)), photo(2, (RIGHT,), (LEFT,))])
    assert Scores.from_dict(scores.to_dict()) == scores


def test_scores_that_were_counted_in_another_way_are_counted_again(tmp_path: Path) -> None:
    """Those of an old home and new ones may stand in one leaderboard."""
    samples = [photo(number, (LEFT,), (LEFT,) if number else (RIGHT,)) for number in range(5)]
    folder, manifest = tmp_path / "scores", Manifest(kind="scores", name="model/test")
    today = save_scores(folder, "model", "test", samples, manifest)
    assert load_scores(folder).text == today.text
    then = {**today.to_dict(), "metrics": {"mean_iou": {"value": 0.8, "low": 0.8, "high": 0.8}}}
    del then["products"], then["counting"]
    write_json(folder / SCORES, then)
    answers = pq.read_table(folder / PREDICTIONS)
    pq.write_table(answers.drop_columns("product"), folder / PREDICTIONS)
    seal(folder, manifest)
    assert load_samples(folder) == samples
    again = load_scores(folder)
    assert (again.subject, again.split, again.products, again.counting) == ("model", "test", 5, COUNTING)
    assert again.metrics["mean_iou"] == today.metrics["mean_iou"]


def test_paired_difference_is_narrower_than_unpaired() -> None:
    """The same photos are hard for both: pairing takes that out."""
    rng = np.random.default_rng(1)
    before, after = [], []
    for number in range(80):
        height = float(rng.uniform(0.2, 0.9))
        before.append(photo(number, (LEFT,), (Box(0.0, 0.0, 0.4, height),)))
        after.append(photo(number, (LEFT,), (Box(0.0, 0.0, 0.4, height + 0.05),)))
    paired = compare("a", "b", before, after)
    unpaired = compare_unpaired("a", "b", score("a", "test", before), score("b", "test", after))
    assert paired.better and "better" in paired.text
    assert paired.mean_iou.value == pytest.approx(unpaired.mean_iou.value) == pytest.approx(0.05)
    assert unpaired.mean_iou.low < 0 < paired.mean_iou.low


@pytest.mark.parametrize("other", [[photo(2, (LEFT,), ())], [photo(1, (RIGHT,), ())], [photo(1, (LEFT,), ())] * 2, []])
def test_other_photos_are_refused(other: list[Sample]) -> None:
    with pytest.raises(DataError, match="same photos"):
        compare("a", "b", [photo(1, (LEFT,), ())], other)


def test_the_order_of_photos_is_nobodys_difference() -> None:
    """A source that gives its rows in another order has the same fingerprint."""
    before = [photo(number, (LEFT,), (LEFT,) if number % 3 else (RIGHT,)) for number in range(20)]
    after = [photo(number, (LEFT,), (LEFT,)) for number in range(20)]
    assert compare("a", "b", before, after[::-1]) == compare("a", "b", before, after)


def test_the_newer_side_of_a_comparison_knows_the_products() -> None:
    before = [photo(number, (LEFT,), (RIGHT,) if number < 8 else (LEFT,)) for number in range(20)]
    after = [replace(each, predicted=each.truth) for each in before]
    named = [replace(each, product="one" if number < 8 else "") for number, each in enumerate(after)]
    assert compare("a", "b", before, after).better
    assert not compare("a", "b", before, named).better
