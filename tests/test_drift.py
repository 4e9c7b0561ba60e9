"""Drift: darker photos are noticed, photos of the same kind are not, and what was measured is kept with the release."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance
from scipy.stats import binom

from nutridet_core.data.dataset import DatasetSpec, prepare_dataset
from nutridet_core.data.examples import SPLITS, Candidate
from nutridet_core.data.sources import open_source
from nutridet_core.evaluation import drift
from nutridet_core.evaluation.drift import Inputs, Shift, audit_inputs, compare_inputs, measure
from nutridet_core.evaluation.intervals import Estimate
from tests.photo_files import Row, encode, picture, rows, write_imagefolder

PHOTOS = 96
TRIALS = 400


@pytest.fixture(scope="module")
def drawn() -> list[Candidate]:
    """Photos of the generator: the first two thirds are for training, the others for the test."""
    return list(open_source(f"generated:{PHOTOS}"))


def dataset_of(drawn: list[Candidate], folder: Path, *, light: float = 1.0) -> Path:
    """A dataset whose test photos have that part of their light."""
    listed = [_row(number, candidate, light) for number, candidate in enumerate(drawn)]
    prepare_dataset(DatasetSpec(source=write_imagefolder(folder / "photos", listed)), folder / "dataset", log=print)
    return folder / "dataset"


def _row(number: int, candidate: Candidate, light: float) -> Row:
    with Image.open(io.BytesIO(candidate.image)) as image:  # type: ignore[arg-type]
        width, height = image.size
        split = "train" if number < PHOTOS * 2 // 3 else "test" if number < PHOTOS - 4 else "selection"
        content = encode(
            ImageEnhance.Brightness(image.convert("RGB")).enhance(light if split == "test" else 1.0), "JPEG"
        )
    boxes = tuple((x0 * width, y0 * height, x1 * width, y1 * height) for x0, y0, x1, y1 in candidate.boxes)
    return Row(f"{number:03}.jpg", content, boxes, candidate.barcode, split)  # type: ignore[arg-type]


def test_darkened_photos_differ_in_light_and_in_nothing_else_that_was_not_changed(
    drawn: list[Candidate], tmp_path: Path
) -> None:
    dataset = dataset_of(drawn, tmp_path, light=0.4)
    shifts = {shift.name: shift for shift in compare_inputs(measure(dataset, "train"), measure(dataset, "test"))}
    assert set(shifts) == set(drift.TITLES)
    assert shifts["light"].drifted
    assert shifts["light"].now.value < 0.6 * shifts["light"].training.value
    assert {name for name, shift in shifts.items() if shift.drifted} <= {"light", "contrast"}
    audit = audit_inputs(list(shifts.values()))
    assert not audit.passed
    assert "light, mean from 0 to 1: " in audit.summary
    assert f"n = {PHOTOS * 2 // 3} / {PHOTOS // 3 - 4} photos" in audit.summary


def test_photos_as_they_were_are_not_told_apart(drawn: list[Candidate], tmp_path: Path) -> None:
    dataset = dataset_of(drawn, tmp_path)
    audit = audit_inputs(compare_inputs(measure(dataset, "train"), measure(dataset, "test")))
    assert audit.passed
    assert "7 properties not told apart from training" in audit.summary
    assert json.loads(json.dumps(audit.evidence)) == json.loads(json.dumps(audit.to_dict()))["evidence"]


@pytest.mark.parametrize("photos", [(150, 30), (600, 90)])
def test_false_alarms_are_no_more_than_stated(photos: tuple[int, int]) -> None:
    """Two samples of one population, again and again: more alarms than 1 in 1,000 such tests would allow is a bug."""
    rng = np.random.default_rng(7)
    alarms = sum(
        not audit_inputs(compare_inputs(*(_population(rng, count) for count in photos))).passed for _ in range(TRIALS)
    )
    assert alarms <= binom.ppf(0.999, TRIALS, drift.ALPHA)


def test_what_is_beyond_chance_but_small_is_no_drift() -> None:
    """With 2,000 photos a shift by a fifth of a standard deviation is certain, and does not matter."""
    rng = np.random.default_rng(7)
    before, after = (Inputs(2000, {"light": tuple(rng.normal(mean, 1, 2000))}) for mean in (0.0, 0.2))
    (shift,) = compare_inputs(before, after)
    assert shift.p < drift.ALPHA / 100
    assert not shift.drifted
    (large,) = compare_inputs(before, Inputs(2000, {"light": tuple(rng.normal(0.7, 1, 2000))}))
    assert large.drifted


def test_unknown_training_photos_are_not_called_alike() -> None:
    audit = audit_inputs(compare_inputs(Inputs(0, {}), _population(np.random.default_rng(7), 30)))
    assert not audit.passed
    assert audit.summary.startswith("not known")


def test_what_is_measured_is_what_is_in_the_photo(tmp_path: Path) -> None:
    listed = rows(12)  # 128 x 64 px; a white table of 80 x 16 px on all but every fourth
    prepare_dataset(DatasetSpec(source=write_imagefolder(tmp_path / "photos", listed)), tmp_path / "set", log=print)
    found = measure(tmp_path / "set", "train")
    assert found.photos == 4
    assert set(found.values["megapixels"]) == {128 * 64 / 1e6}
    assert set(found.values["aspect"]) == {2.0}
    assert sorted(found.values["tables"]) == [0.0, 1.0, 1.0, 1.0]
    assert found.values["table_area"] == pytest.approx((80 * 16 / (128 * 64),) * 3)
    assert found.values["table_aspect"] == pytest.approx((5.0,) * 3)
    grey = [np.asarray(picture(number).convert("L")) / 255 for number in range(12) if SPLITS[number % 3] == "train"]
    assert sorted(found.values["light"]) == pytest.approx(sorted(image.mean() for image in grey), abs=0.02)


def test_one_photo_of_each_product_is_measured(tmp_path: Path) -> None:
    listed = [replace(row, barcode=f"product of {row.split}") for row in rows(12)]
    prepare_dataset(DatasetSpec(source=write_imagefolder(tmp_path / "photos", listed)), tmp_path / "set", log=print)
    assert measure(tmp_path / "set", "train").photos == 1


def test_no_more_photos_are_decoded_than_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drift, "MOST_PHOTOS", 3)
    prepare_dataset(DatasetSpec(source=write_imagefolder(tmp_path / "photos", rows(12))), tmp_path / "set", log=print)
    assert measure(tmp_path / "set", "train").photos == 3


@pytest.mark.parametrize("count", [6, 7, 33, 200])
def test_the_interval_of_a_median_holds_the_true_one(count: int) -> None:
    rng = np.random.default_rng(7)
    found = [drift.median(tuple(rng.exponential(1.0, count))) for _ in range(TRIALS)]
    held = sum(each.low <= np.log(2) <= each.high for each in found)
    assert held >= binom.ppf(0.001, TRIALS, 0.95)


def test_a_median_of_few_values_has_no_interval() -> None:
    assert str(drift.median((1.0, 2.0, 3.0))) == "2.000 [nan, nan]"


def test_shifts_and_inputs_read_back(tmp_path: Path) -> None:
    inputs = _population(np.random.default_rng(7), 30)
    assert Inputs.from_dict(json.loads(json.dumps(inputs.to_dict()))) == inputs
    shift = Shift("light", Estimate(0.5, 0.4, 0.6), Estimate(0.2, 0.1, 0.3), (150, 30), 0.7, 0.0001)
    evidence = json.loads(json.dumps(audit_inputs([shift]).evidence))
    assert Shift.from_dict(evidence["light"]) == shift
    assert shift.cells[0] == "light, mean from 0 to 1"
    assert shift.cells[1:4] == ("differs", "0.70", "< 0.001")
    assert shift.cells[4:] == ("0.500 [0.400, 0.600]", "0.200 [0.100, 0.300]", "150 / 30")
    assert len(shift.cells) == len(drift.HEADER)


def _population(rng: np.random.Generator, count: int) -> Inputs:
    """Continuous, skewed, discrete: one of each sort that photos have."""
    tables = rng.integers(0, 3, count)
    return Inputs(
        count,
        {
            "megapixels": tuple(rng.lognormal(0, 1, count)),
            "aspect": tuple(rng.choice([0.75, 1.0, 1.33, 1.78], count)),
            "tables": tuple(tables.astype(float)),
            "light": tuple(rng.normal(0.5, 0.1, count)),
            "contrast": tuple(rng.normal(0.2, 0.1, count)),
            "table_area": tuple(rng.beta(2, 5, int((tables > 0).sum()))),
            "table_aspect": tuple(rng.lognormal(0, 1, int((tables > 0).sum()))),
        },
    )
