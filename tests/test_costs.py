"""The benchmark of growing costs: its lines find what is there, and its verdict can fail."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.costs import page
from benchmarks.costs.fit import Line, fit_line, mean_interval
from benchmarks.costs.summary import summarise

POINTS, ROUNDS = (1, 2, 4, 8), 3
CURVES = {
    **dict.fromkeys(page._STEPS, POINTS),
    **dict.fromkeys(("cores of drawing", "cores of preparation"), (1, 2)),
    **dict.fromkeys(("memory of drawing", "memory of preparation"), (100, 1000)),
}


def costs(cost: Callable[[float], float], noise: float = 0.02) -> Line:
    """The line through noisy runs of a cost."""
    rng = np.random.default_rng(1)
    xs = [float(point) for point in POINTS for _ in range(ROUNDS)]
    return fit_line(xs, [cost(x) * (1 + noise * float(rng.standard_normal())) for x in xs])


def runs() -> list[dict[str, Any]]:
    """Of every curve: trainings grow with the square, scorings in proportion."""
    return [run(name, x, number) for number in range(ROUNDS) for name, points in CURVES.items() for x in points]


def run(name: str, x: int, number: int) -> dict[str, Any]:
    seconds = (5.0 + x**2 if name.startswith("training") else 5.0 + x) * (1 + number / 1000)
    speed = {"photos_per_s": 10.0 * x, "cpu_s_per_photo": 0.1}
    memory = {"own_mib": 9.0, "resident_mib": 10.0}
    at = {"curve": name, "point": x, "x": x, "round": number}
    return {**at, "cpu_s": seconds, "wall_s": seconds / 2, **speed, **memory}


def test_the_slope_of_a_straight_cost_is_found() -> None:
    line = costs(lambda x: 3 + 0.5 * x)
    assert line.low < 0.5 < line.high
    assert line.high - line.low < 0.2
    assert line.n == len(POINTS) * ROUNDS
    assert line.is_linear


@pytest.mark.parametrize("cost", [lambda x: 1 + x**2, lambda x: min(x, 2.0), lambda x: 2.0 if x < 8 else 6.0])
def test_a_cost_that_bends_is_not_called_linear(cost: Callable[[float], float]) -> None:
    assert not costs(cost).is_linear


def test_a_cost_that_does_not_grow_has_no_slope() -> None:
    line = costs(lambda x: 4.0)
    assert line.is_linear
    assert not line.grows


def test_three_values_have_students_interval() -> None:
    found = mean_interval([9.0, 10.0, 11.0])
    assert found["value"] == 10.0
    assert found["high"] - 10.0 == pytest.approx(4.303 / 3**0.5, rel=1e-3)


def test_the_page_says_what_is_not_linear(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    versions = dict.fromkeys(("torch", "transformers", "trl", "peft"), "1")
    result = {"device": "2 cores", "command": "it", "versions": versions, **summarise(runs())}
    monkeypatch.setattr(page, "read", lambda name: result)
    table = page.render_costs().splitlines()
    assert all("**no**" in line for line in table if line.startswith("| training"))
    assert all(line.endswith("| yes |") for line in table if line.startswith("| scoring"))
    assert any("| 2.00 [2.00, 2.00] (n = 3) |" in line for line in table if line.startswith("| drawing"))
    assert page.plot(result).startswith(b"\x89PNG")
