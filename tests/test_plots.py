"""Plots: self-contained, reproducible, legible in both looks."""

from __future__ import annotations

import io
import re
from datetime import UTC, datetime
from xml.etree import ElementTree

import pytest
from PIL import Image

from nutridet_core import plots
from nutridet_core.evaluation.intervals import Estimate

ESTIMATE = Estimate(0.6, 0.5, 0.7)
UNDEFINED = Estimate(float("nan"), float("nan"), float("nan"))
LINES = [
    plots.Line("exp1", (10, 20), (Estimate(0.4, 0.3, 0.5), ESTIMATE), chosen=20),
    plots.Line("exp2", (10, 30), (ESTIMATE, UNDEFINED)),
]


def _day(day: int) -> datetime:
    return datetime(2026, 11, day, tzinfo=UTC)


DRAWINGS = {
    "curves": lambda **how: plots.plot_curves(LINES, metric="mean IoU", focus="exp1", **how),
    "histograms": lambda **how: plots.plot_iou_histograms({"a": [0.1, 0.9], "b": []}, highlight="a", **how),
    "forest": lambda **how: plots.plot_forest([("a", ESTIMATE), ("b", UNDEFINED)], metric="m", zero=True, **how),
    "footprints": lambda **how: plots.plot_footprints(
        [plots.Footprint("bf16", 16 * 2**30, 0.3), plots.Footprint("ocr", None, 1.5)], **how
    ),
    "trend": lambda **how: plots.plot_trend(
        [plots.Trend("v1", ((_day(9), ESTIMATE), (_day(2), ESTIMATE))), plots.Trend("v2", ((_day(16), UNDEFINED),))],
        metric="m", reference=ESTIMATE, **how
    ),
    "distributions": lambda **how: plots.plot_distributions(
        [plots.Distributions("light", (0.1, 0.2), (0.8, 0.9), marked=True), plots.Distributions("size", (1.0,), (2.0,)),
         plots.Distributions("aspect", (1.0, 2.0), (2.0,))],
        names=("training", "now"), **how,
    ),
}  # fmt: skip


def _words(svg: bytes) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


@pytest.mark.parametrize("name", DRAWINGS)
def test_plots_are_vector_pictures_that_need_nothing_else(name: str) -> None:
    light, dark = DRAWINGS[name](look=plots.LIGHT), DRAWINGS[name](look=plots.DARK)
    assert _words(light), "text stays text"
    assert light != dark
    assert plots.LIGHT.ink.encode() not in dark
    assert light == DRAWINGS[name](look=plots.LIGHT), "the same numbers give the same bytes"
    assert not re.search(rb'href="(?!#)', light)


@pytest.mark.parametrize("name", DRAWINGS)
def test_plots_can_be_pixels(name: str) -> None:
    with Image.open(io.BytesIO(DRAWINGS[name](look=plots.PAPER, form="png"))) as picture:
        assert picture.format == "PNG"
        assert picture.width == 800


def test_plots_say_what_they_show() -> None:
    assert "0.600" in _words(DRAWINGS["curves"]()), "the chosen point has its value"
    assert {"a", "b", "m, 95 % interval"} <= set(_words(DRAWINGS["forest"]()))
    assert {"bf16", "16,384", "300", "not known"} <= set(_words(DRAWINGS["footprints"]()))
    assert {"a", "b"} <= set(_words(DRAWINGS["histograms"]()))
    assert {"v1", "v2", "at registration"} <= set(_words(DRAWINGS["trend"]()))
    assert {"light (differs)", "size", "training", "now"} <= set(_words(DRAWINGS["distributions"]()))


def test_a_trend_is_drawn_by_time_whatever_the_order() -> None:
    points = [(_day(day), Estimate(day / 10, 0.0, 1.0)) for day in (9, 2, 5)]
    given, ordered = ([plots.Trend("v1", tuple(order))] for order in (points, sorted(points)))
    assert plots.plot_trend(given, metric="m") == plots.plot_trend(ordered, metric="m")


def test_values_of_several_chosen_points_stand_in_the_legend() -> None:
    words = _words(plots.plot_curves(LINES, metric="m"))
    assert {"exp1, chosen: 0.600", "exp2"} <= set(words)
    assert "0.600" not in words, "labels at the points would cover each other"


def test_curves_of_the_same_lines_share_one_scale() -> None:
    scales = [plots.plot_curves(LINES, metric="m", focus=focus) for focus in ("exp1", "exp2")]
    first, second = ([word for word in _words(svg) if re.fullmatch(r"0\.\d\d", word)] for svg in scales)
    assert first == second
