"""The report for people: numbers, order, honest words, escaping, self-containedness, and the model card."""

from __future__ import annotations

import ast
import csv
import io
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml
from PIL import Image

from nutridet_core import plots
from nutridet_core.boxes import Box
from nutridet_core.compare import compare
from nutridet_core.model_card import Card, front_matter, write_model_card
from nutridet_core.prompts import Contract
from nutridet_core.report import Curve, Kind, Row, leaderboard_markdown, leaderboard_text, rank, write_report
from nutridet_core.report.gallery import PER_GROUP, choose
from nutridet_core.report.outcomes import Outcome, count_outcomes, outcome
from nutridet_core.report.verdict import find, paired, verdict
from nutridet_core.report.wording import label, signed, size_text, time_text
from nutridet_core.scores import Estimate, Sample, Scores, score
from nutridet_core.store import Manifest

PHOTOS = 24
TRUTH = Box(0.2, 0.2, 0.6, 0.6)
ELSEWHERE = Box(0.8, 0.8, 0.9, 0.9)
HOSTILE = '<script>alert("x")</script><img src=x onerror=alert(1)>'


def _shifted(by: float) -> Box:
    """IoU with `TRUTH` is `(0.4 - by) / (0.4 + by)`: 0.6 for 0.1, 0.333 for 0.2, 0.143 for 0.3."""
    return Box(TRUTH.x0 + by, TRUTH.y0, TRUTH.x1 + by, TRUTH.y1)


def _sample(number: int = 0, predicted: Sequence[Box] = (TRUTH,), **changes: Any) -> Sample:
    plain = Sample(f"photo-{number:03}", 320, 240, (TRUTH,), tuple(predicted), 0.9, "text", "native", (), 0.25)
    return replace(plain, **changes)


@cache
def _samples(*shifts: float, photos: int = PHOTOS) -> tuple[Sample, ...]:
    """One table a photo; shifts are dealt in turn."""
    return tuple(_sample(n, [_shifted(shifts[n % len(shifts)])], text=f"{shifts}") for n in range(photos))


@cache
def _scores(name: str, split: str, samples: tuple[Sample, ...]) -> Scores:
    return score(name, split, samples)


def _row(name: str, samples: tuple[Sample, ...], kind: Kind = "experiment", size: int | None = None) -> Row:
    return Row(name, f"summary of {name}", kind, _scores(name, "test", samples), samples, size)


def _curve(name: str, *shifts: float, chosen: int) -> Curve:
    return Curve(name, [(10 * k, _scores(name, "selection", _samples(s))) for k, s in enumerate(shifts, 1)], chosen)


def _rows() -> list[Row]:
    """Worst first, so that the order on the page is not the order given."""
    return [
        _row("median-box", _samples(0.3), "prior"),
        _row("zero-shot", _samples(0.2), "baseline", size=2 * 2**30),
        _row("exp1", _samples(0.1), size=3 * 2**30),
    ]


def _photo(photo_id: str) -> Image.Image:
    return Image.new("RGB", (320, 240), (120, 60, 60))


def _write(folder: Path, rows: Sequence[Row] | None = None, **changes: Any) -> Path:
    rows = _rows() if rows is None else rows
    given = {
        "title": "A title",
        "comparisons": [],
        "curves": [],
        "open_photo": _photo,
        "facts": {"git commit": "abc123"},
    }
    return write_report(folder, rows=rows, **{**given, **changes})


@dataclass
class _Page(HTMLParser):
    """Tags with their attributes, text, and the text of every table row."""

    tags: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    text: str = ""
    cells: list[list[str]] = field(default_factory=list)
    inside: bool = False
    """A cell."""

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.text += " "
        if tag == "tr":
            self.cells.append([])
        if tag in ("td", "th"):
            self.inside = True
            self.cells[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        self.inside = self.inside and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.inside:
            self.cells[-1][-1] = " ".join(f"{self.cells[-1][-1]} {data}".split())

    def row(self, start: str, nth: int = 0) -> list[str]:
        return [cells for cells in self.cells if cells and cells[0].startswith(start)][nth]


def _read(path: Path) -> _Page:
    page = _Page()
    page.feed(path.read_text(encoding="utf-8"))
    page.text = " ".join(page.text.split())
    return page


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with everything in it."""
    folder = tmp_path_factory.mktemp("report")
    rows = _rows()
    comparisons = [compare("zero-shot", "exp1", rows[1].samples, rows[2].samples)]
    curves = [_curve("exp1", 0.3, 0.1, 0.2, chosen=20), _curve("exp0", 0.3, 0.3, chosen=20)]
    _write(
        folder,
        rows,
        comparisons=comparisons,
        curves=curves,
        facts={"versions": {"torch": "2.14.1"}, "commands": ["a b"]},
    )
    return folder


@pytest.fixture(scope="module")
def page(folder: Path) -> _Page:
    return _read(folder / "report.html")


# ---------------------------------------------------------------- numbers


def test_the_page_shows_each_row_with_interval_and_n(page: _Page) -> None:
    cells = page.row("exp1 experiment summary of exp1")
    assert cells[1] == "0.600 [0.600, 0.600]"
    assert cells[2] == "1.000 [1.000, 1.000]"
    assert cells[3] == "0.000 [0.000, 0.000]", "F1 at 0.75"
    assert cells[-1] == "24 photos 24 tables, 0 without"


def test_rows_come_best_first(page: _Page, folder: Path) -> None:
    names = [cells[0].split()[0] for cells in page.cells if cells and "summary of" in cells[0]]
    assert names == ["exp1", "zero-shot", "median-box"]
    assert [line["name"] for line in csv.DictReader((folder / "leaderboard.csv").open())] == names


def test_rows_without_a_mean_iou_come_last() -> None:
    no_table = tuple(_sample(n, [], truth=()) for n in range(4))
    assert [row.name for row in rank([_row("none", no_table), *_rows()])][-1] == "none"


def test_comparisons_show_difference_interval_and_verdict(page: _Page) -> None:
    cells = page.row("exp1 against zero-shot")
    assert cells[1] == "better"
    assert cells[2] == "+0.267 [+0.267, +0.267]"
    assert cells[4:] == ["0 %", "24 photos"]


def test_speed_and_size_are_shown(page: _Page) -> None:
    assert page.row("exp1", nth=-1) == ["exp1", "250 ms", "3.00 GiB"]
    assert page.row("median-box", nth=-1)[-1] == "\u2013", "a prior has no size"


def test_facts_are_shown_at_any_depth(page: _Page) -> None:
    assert "torch 2.14.1" in page.text
    assert "commands a b" in page.text


def test_the_files_beside_the_page(folder: Path) -> None:
    names = {"report.html", "leaderboard.csv", "leaderboard.json", "leaderboard.png", "overlays.png", "curves.png"}
    assert {path.name for path in folder.iterdir()} == names
    for name in ("leaderboard.png", "overlays.png", "curves.png"):
        with Image.open(folder / name) as picture:
            assert min(picture.size) > 200
    line = next(csv.DictReader((folder / "leaderboard.csv").open()))
    assert float(line["mean_iou_low"]) == float(line["mean_iou"]) == pytest.approx(0.6)
    assert line["false_detection_rate"] == "", "undefined is empty, not nan"


def test_json_is_strict_and_complete(folder: Path) -> None:
    text = (folder / "leaderboard.json").read_text(encoding="utf-8")
    board = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert board["winner"] == "exp1"
    assert board["rows"][0]["scores"]["metrics"]["mean_iou"]["value"] == pytest.approx(0.6)
    assert board["rows"][0]["scores"]["metrics"]["false_detection_rate"]["value"] is None
    assert sum(board["rows"][1]["outcomes"].values()) == PHOTOS
    assert board["comparisons"][0]["verdict"] == "better"


def test_terminal_table_is_aligned() -> None:
    lines = leaderboard_text(_rows()).splitlines()
    assert lines[2].startswith("1  exp1 ")
    columns = [lines[0].index(name) for name in ("name", "kind", "mean IoU", "F1 at 0.5", "unreadable", "n")]
    for line in lines[2:5]:
        assert all(line[at] != " " and line[at - 1] == " " for at in columns[:-1])
    assert "0.600 [0.600, 0.600]" in lines[2]
    assert "24 / 24 / 0" in lines[2]
    assert max(map(len, lines)) <= 120


def test_markdown_table_has_as_many_cells_everywhere() -> None:
    rows = [replace(_rows()[0], name="a|b"), *_rows()[1:]]
    lines = leaderboard_markdown(rows).split("\n\n")[0].splitlines()
    assert len(lines) == 5
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {11}
    assert lines[2].startswith("| 1 | exp1 | experiment | 0.600 [0.600, 0.600] |")


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (label("precision_50"), "precision at 0.5"),
        (label("f1_75"), "F1 at 0.75"),
        (label("other_metric"), "other metric"),
        (signed(-0.12), "\u22120.120"),
        (signed(float("nan")), "\u2013"),
        (size_text(None), "\u2013"),
        (size_text(500 * 2**20), "500.0 MiB"),
        (size_text(8 * 2**30), "8.00 GiB"),
        (time_text(1.5), "1.50 s"),
        (time_text(0.298), "298 ms"),
        (time_text(0.0012), "1.2 ms"),
    ],
)
def test_numbers_are_worded(shown: str, expected: str) -> None:
    assert shown == expected


# ---------------------------------------------------------------- honest words


def _duel(first: tuple[Sample, ...], second: tuple[Sample, ...], kind: Kind = "baseline") -> list[Row]:
    return [_row("ref", first, kind), _row("exp", second)]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (_duel(_samples(0.2), _samples(0.1)), "exp beats ref: +0.267 [+0.267, +0.267] mean IoU on the same 24 photos."),
        (_duel(_samples(0.1), _samples(0.2)), "exp is worse than ref: \u22120.267"),
        (_duel(_samples(0.1, 0.2), _samples(0.2, 0.1)), "exp is not shown to beat ref: +0.000"),
        (_duel(_samples(0.1), _samples(0.2, photos=12)), "scored on different photos"),
        ([_row("exp", _samples(0.1))], "nothing to compare exp with"),
        (
            [_row("ref", _samples(0.1), "baseline")],
            "Nothing fine-tuned has been scored yet; ref, has a mean IoU of 0.600",
        ),
    ],
    ids=["better", "worse", "open", "other photos", "alone", "no experiment"],
)
def test_the_headline_follows_from_the_paired_interval(rows: list[Row], expected: str) -> None:
    assert expected in find(rows).headline


def test_an_interval_that_includes_zero_is_never_called_a_win(tmp_path: Path) -> None:
    """Higher by value, and by luck: three photos of 24 are better, two are worse."""
    ahead = tuple(_sample(n, [_shifted(0.1 if n < 3 else 0.3 if n < 5 else 0.2)]) for n in range(PHOTOS))
    rows = _duel(_samples(0.2), ahead)
    difference = paired(rows[0], rows[1])
    assert difference is not None
    assert difference.mean_iou.low <= 0 < difference.mean_iou.value, "or this test shows nothing"
    page = _read(_write(tmp_path, rows, comparisons=[difference]))
    assert "exp is not shown to beat ref" in page.text
    assert "an interval that includes 0" in page.text
    assert "beats" not in page.text
    assert page.row("exp against ref")[1] == "not told apart"


def test_the_winner_is_chosen_on_selection_and_not_by_the_test_photos() -> None:
    rows = [_row("zero-shot", _samples(0.3), "baseline"), _row("lucky", _samples(0.1)), _row("chosen", _samples(0.2))]
    curves = [_curve("lucky", 0.2, chosen=10), _curve("chosen", 0.3, 0.1, chosen=20)]
    finding = find(rows, curves=curves)
    assert finding.winner.name == "chosen"
    assert "chosen was chosen by its scores on selection" in finding.evidence
    assert finding.reservations == (
        "lucky (experiment) scored better than chosen on these photos, beyond chance: +0.267 [+0.267, +0.267].",
    )


def test_a_winner_picked_by_the_test_photos_is_called_that() -> None:
    finding = find([_row("ref", _samples(0.3), "baseline"), _row("a", _samples(0.1)), _row("b", _samples(0.2))])
    assert finding.winner.name == "a"
    assert "picked from 2 fine-tuned models by these very photos" in finding.evidence
    assert finding.reservations == (), "b is clearly below"


def test_the_reference_is_the_baseline_even_when_a_prior_is_higher() -> None:
    rows = [_row("prior", _samples(0.1), "prior"), _row("base", _samples(0.3), "baseline"), _row("exp", _samples(0.1))]
    finding = find(rows)
    assert finding.headline.startswith("exp beats base")
    assert finding.reservations == (
        "exp and prior (prior) are not told apart by these photos: +0.000 [+0.000, +0.000].",
    )


def test_given_comparisons_are_used_in_either_direction() -> None:
    rows = _duel(_samples(0.2), _samples(0.1))
    given = replace(compare("ref", "exp", rows[0].samples, rows[1].samples), mean_iou=Estimate(0.5, 0.4, 0.7), photos=7)
    assert paired(rows[0], rows[1], [given]) is given
    turned = paired(rows[1], rows[0], [given])
    assert turned is not None
    assert turned.mean_iou == Estimate(-0.5, -0.7, -0.4)
    assert (turned.first, turned.second, verdict(turned)) == ("exp", "ref", "worse")


# ---------------------------------------------------------------- what went wrong, and what is shown


@pytest.mark.parametrize(
    ("sample", "expected"),
    [
        (_sample(), Outcome.RIGHT),
        (_sample(predicted=[], truth=(), form="negative"), Outcome.RIGHT),
        (_sample(predicted=[_shifted(0.1)], problems=("swapped_corners",)), Outcome.RIGHT),  # read all the same
        (_sample(predicted=[], problems=("no_answer",), form="none"), Outcome.NO_ANSWER),
        (_sample(predicted=[], truth=(), problems=("no_answer",), form="none"), Outcome.NO_ANSWER),
        (_sample(predicted=[], problems=("truncated",), form="none"), Outcome.BAD_SYNTAX),
        (_sample(problems=("out_of_range",)), Outcome.BAD_SYNTAX),  # one good box does not excuse a bad one
        (_sample(predicted=[], form="negative"), Outcome.MISSED),
        (_sample(truth=()), Outcome.FALSE_ALARM),
        (_sample(predicted=[_shifted(0.2)]), Outcome.WRONG_PLACE),
        (_sample(truth=(TRUTH, ELSEWHERE)), Outcome.WRONG_PLACE),  # one of two tables is not found
        (_sample(predicted=[TRUTH, ELSEWHERE]), Outcome.EXTRA_BOX),
    ],
)
def test_every_photo_has_one_outcome(sample: Sample, expected: Outcome) -> None:
    assert outcome(sample) is expected


def test_outcomes_of_a_row_add_up_on_the_page(tmp_path: Path) -> None:
    samples = (
        *(_sample(n) for n in range(5)),
        *(_sample(n, [], form="negative") for n in range(5, 8)),
        *(_sample(n, [], form="none", problems=("no_answer",)) for n in range(8, 10)),
    )
    assert count_outcomes(samples)[Outcome.MISSED] == 3
    cells = _read(_write(tmp_path, [_row("exp", samples)])).row("exp", nth=-2)
    assert cells[1:] == ["5 50 %", "2 20 %", "0 0 %", "3 30 %", "0 0 %", "0 0 %", "0 0 %"]


@pytest.mark.parametrize("photos", [1, 2, 3, 4, 5, 8, 18, 19, 60])
def test_groups_share_no_photo_and_are_ordered(photos: int) -> None:
    samples = [_sample(n, [_shifted(0.3 * ((n * 7) % photos) / photos)]) for n in range(photos)]
    ranked = sorted(samples, key=lambda sample: sample.ious)
    groups = choose(samples)
    shown = [sample.id for group in groups.values() for sample in group]
    size = max(1, min(PER_GROUP, photos // 3))
    assert len(set(shown)) == len(shown) == min(photos, 3 * size)
    assert groups["Worst"] == ranked[:size]
    assert groups["Best"] == (ranked[-size:][::-1] if photos > 1 else [])
    if photos >= 3:
        assert ranked[(photos - 1) // 2] in groups["Median"] or ranked[photos // 2] in groups["Median"]


def test_boxes_where_there_is_no_table_have_their_own_group() -> None:
    alarm, quiet = _sample(1, truth=()), _sample(2, [], truth=())
    groups = choose([_sample(0), alarm, quiet])
    assert groups["Boxes where there is no table"] == [alarm]
    assert [sample.id for sample in groups["Worst"]] == ["photo-000"]


def test_only_the_photos_shown_are_opened(tmp_path: Path) -> None:
    opened: list[str] = []

    def open_photo(photo_id: str) -> Image.Image:
        opened.append(photo_id)
        return _photo(photo_id)

    _write(tmp_path, [_row("exp", _samples(0.1, 0.2, photos=60))], open_photo=open_photo)
    assert len(opened) == len(set(opened)) == 3 * PER_GROUP


# ---------------------------------------------------------------- safe and self-contained


def test_everything_foreign_is_escaped(tmp_path: Path) -> None:
    samples = tuple(
        _sample(n, [], text=HOSTILE, form="none", problems=("bad_syntax",), id=f'"><b>{n}') for n in range(6)
    )
    row = Row(f"exp{HOSTILE}", HOSTILE, "experiment", _scores("x", "test", samples), samples)
    baseline = Row("ref", "", "baseline", row.scores, samples)
    comparisons = [compare("ref", row.name, samples, samples)]
    facts = {HOSTILE: {HOSTILE: [HOSTILE]}}
    path = _write(tmp_path, [row, baseline], title=HOSTILE, facts=facts, comparisons=comparisons)
    page = _read(path)
    assert HOSTILE in page.text, "the answer is quoted"
    assert "script" not in {tag for tag, _ in page.tags}
    assert "b" not in {tag for tag, _ in page.tags}
    assert not [attributes for _, attributes in page.tags if "onerror" in attributes]


def test_a_long_answer_cannot_flood_the_page(tmp_path: Path) -> None:
    samples = tuple(_sample(n, [], text="z" * 100_000, form="none", problems=("bad_syntax",)) for n in range(9))
    text = _read(_write(tmp_path, [_row("exp", samples)])).text
    assert 300 <= text.count("z") < 3000


def test_nothing_is_loaded_from_elsewhere(page: _Page) -> None:
    links = [(a[key] or "") for _, a in page.tags for key in ("src", "href", "srcset", "poster", "data") if key in a]
    assert len([link for link in links if link.startswith("data:image/")]) > 20
    assert [link for link in links if not link.startswith(("data:image/", "#"))] == []
    assert {"script", "link", "iframe", "object"}.isdisjoint(tag for tag, _ in page.tags)


def test_the_style_sheet_loads_nothing_and_knows_dark_and_phones(folder: Path) -> None:
    html = (folder / "report.html").read_text(encoding="utf-8")
    style = html[html.index("<style>") : html.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    assert "prefers-color-scheme: dark" in style
    assert "max-width" in style
    assert "default-src 'none'" in html
    assert 'name="viewport"' in html


def test_inner_links_have_their_targets(page: _Page) -> None:
    ids = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    targets = {a["href"].removeprefix("#") for tag, a in page.tags if tag == "a" and a.get("href")}
    assert targets
    assert targets <= ids


def test_plots_come_in_both_looks_with_words_for_those_who_cannot_see_them(page: _Page) -> None:
    pictures = [attributes for tag, attributes in page.tags if tag == "img"]
    assert all(attributes.get("alt") for attributes in pictures)
    dark = [a for tag, a in page.tags if tag == "source" and a.get("media") == "(prefers-color-scheme: dark)"]
    svgs = [a for a in pictures if str(a["src"]).startswith("data:image/svg+xml")]
    assert len(dark) == len(svgs) == 6  # forest, differences, histograms, two curves, footprints
    assert str(svgs[0]["alt"]).startswith("Mean IoU: exp1 0.600 [0.600, 0.600]; zero-shot 0.333")


def test_the_same_input_gives_the_same_page(tmp_path: Path) -> None:
    first, second = (_write(tmp_path / name).read_bytes() for name in ("a", "b"))
    assert first == second


def test_photos_without_any_table_still_give_a_page(tmp_path: Path) -> None:
    samples = tuple(_sample(n, [], truth=(), form="negative") for n in range(6))
    page = _read(_write(tmp_path, [_row("exp", samples), _row("ref", samples, "baseline")]))
    assert "There is no photo to show." in page.text
    assert "exp is not shown to beat ref" in page.text
    assert not re.search(r"\bnan\b", page.text)
    assert not (tmp_path / "overlays.png").exists()
    assert not (tmp_path / "curves.png").exists()


@pytest.mark.parametrize("rows", [[], _rows() + _rows()[:1]], ids=["none", "twice"])
def test_rows_without_names_of_their_own_are_refused(tmp_path: Path, rows: list[Row]) -> None:
    with pytest.raises(ValueError, match="different names"):
        _write(tmp_path, rows)


def test_rows_and_curves_refuse_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="23 samples, but scores of 24 photos"):
        replace(_rows()[0], samples=_samples(0.3)[1:])
    with pytest.raises(ValueError, match="step 15 was chosen"):
        _curve("exp", 0.1, 0.2, chosen=15)


# ---------------------------------------------------------------- plots

ESTIMATE = Estimate(0.6, 0.5, 0.7)
UNDEFINED = Estimate(float("nan"), float("nan"), float("nan"))
LINES = [
    plots.Line("exp1", (10, 20), (Estimate(0.4, 0.3, 0.5), ESTIMATE), chosen=20),
    plots.Line("exp2", (10, 30), (ESTIMATE, UNDEFINED)),
]
DRAWINGS = {
    "curves": lambda **how: plots.plot_curves(LINES, metric="mean IoU", focus="exp1", **how),
    "histograms": lambda **how: plots.plot_iou_histograms({"a": [0.1, 0.9], "b": []}, highlight="a", **how),
    "forest": lambda **how: plots.plot_forest([("a", ESTIMATE), ("b", UNDEFINED)], metric="m", zero=True, **how),
    "footprints": lambda **how: plots.plot_footprints(
        [plots.Footprint("bf16", 16 * 2**30, 0.3), plots.Footprint("ocr", None, 1.5)], **how
    ),
    "trend": lambda **how: plots.plot_trend(
        [(datetime(2026, 11, day, tzinfo=UTC), ESTIMATE) for day in (9, 2)], metric="m", reference=ESTIMATE, **how
    ),
}


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


def test_curves_of_the_same_lines_share_one_scale() -> None:
    scales = [plots.plot_curves(LINES, metric="m", focus=focus) for focus in ("exp1", "exp2")]
    first, second = ([word for word in _words(svg) if re.fullmatch(r"0\.\d\d", word)] for svg in scales)
    assert first == second


# ---------------------------------------------------------------- model card

CONTRACT = Contract("qwen2-vl", 168 * 168, 252 * 252)
MANIFEST = Manifest(
    kind="model", name="m", contract=CONTRACT.hash, data_fingerprint="fingerprint-1", git_commit="commit-1",
    versions={"torch": "2.14.1"}, mlflow_run_id="run-1", created="2026-11-24T10:00:00+00:00",
)  # fmt: skip


def _card(**changes: Any) -> Card:
    plain = Card(
        name="someone/nutrition-tables", summary="Finds nutrition tables.", intended_use="Photos of packaged food.",
        licence="apache-2.0", library_name="transformers", base_model="Qwen/Qwen2-VL-7B-Instruct", base_revision="e" * 40,
        dataset="someone/photos", dataset_revision="d" * 40, contract=CONTRACT, max_new_tokens=77, manifest=MANIFEST,
        rows=_rows(), subject="exp1", training={"rank": 64, "towers": "language"}, limits=("Not for curved bottles.",),
        tags=("object-detection",),
    )  # fmt: skip
    return replace(plain, **changes)


def _write_card(folder: Path, **changes: Any) -> tuple[dict[str, Any], str]:
    text = write_model_card(folder / "README.md", _card(**changes)).read_text(encoding="utf-8")
    _, matter, body = text.split("---\n", 2)
    return yaml.safe_load(matter), body


def test_front_matter_is_what_the_hub_reads(tmp_path: Path) -> None:
    from huggingface_hub import ModelCard

    matter, _ = _write_card(tmp_path)
    assert matter["library_name"] == "transformers"
    assert matter["base_model"] == "Qwen/Qwen2-VL-7B-Instruct"
    assert matter["datasets"] == ["someone/photos"]
    assert matter["pipeline_tag"] == "image-text-to-text"
    results = {r.metric_type: r for r in ModelCard.load(tmp_path / "README.md").data.eval_results}
    assert results["mean_iou"].metric_value == 0.6
    assert results["mean_iou"].metric_args == {"low": 0.6, "high": 0.6, "n": PHOTOS}
    assert results["mean_iou"].dataset_split == "test"
    assert "95 % interval [0.600, 0.600], n = 24" in results["mean_iou"].metric_name
    assert "false_detection_rate" not in results, "undefined without negatives"


def test_the_card_shows_the_model_beside_baseline_and_priors(tmp_path: Path) -> None:
    rows = _rows()
    comparisons = [compare("zero-shot", "exp1", rows[1].samples, rows[2].samples)]
    _, body = _write_card(tmp_path, comparisons=comparisons)
    assert "**exp1 beats zero-shot: +0.267" in body
    assert "| **exp1** (this model) | experiment | 0.600 [0.600, 0.600] |" in body
    assert "| zero-shot | baseline | 0.333 [0.333, 0.333] |" in body
    assert "| median-box | prior | 0.143 [0.143, 0.143] |" in body
    assert "| exp1 against zero-shot | +0.267 [+0.267, +0.267] |" in body
    for fact in ("fingerprint-1", "commit-1", "run-1", CONTRACT.hash, "| rank | 64 |", "| torch | 2.14.1 |"):
        assert fact in body
    for table in re.findall(r"(?:^\|.*\n)+", body, flags=re.MULTILINE):
        assert len({line.count("|") for line in table.splitlines()}) == 1, table


def test_the_card_names_its_own_failures_and_given_limits(tmp_path: Path) -> None:
    _, body = _write_card(tmp_path, subject="zero-shot")
    assert "- 24 of 24 test photos: a table whose best box has an IoU below 0.5." in body
    assert "- Not for curved bottles." in body


def test_local_folders_are_named_but_not_linked(tmp_path: Path) -> None:
    matter, body = _write_card(tmp_path, base_model="/some/place/base", base_revision=None, dataset_revision=None)
    assert "base_model" not in matter
    assert "datasets" not in matter
    assert "| base model | base |" in body
    assert "/some/place" not in body


def test_the_code_on_the_card_uses_the_contract(tmp_path: Path) -> None:
    contract = replace(CONTRACT, question='Where is the "table"? It\'s here')
    _, body = _write_card(tmp_path, contract=contract)
    code = re.search(r"```python\n(.*?)```", body, flags=re.DOTALL)
    assert code is not None
    assigned = {ast.unparse(node.targets[0]): node for node in ast.parse(code[1]).body if isinstance(node, ast.Assign)}
    messages = ast.literal_eval(assigned["messages"].value)
    assert messages[1]["content"][1]["text"] == contract.question
    assert {"28224", "63504", "max_new_tokens=77", "Qwen2VLForConditionalGeneration"} <= set(
        re.findall(r"[\w=]+", code[1])
    )
    assert "<|box_start|>(250,500),(750,875)<|box_end|>" in body
    assert "thousandths" in body


def test_values_cannot_break_the_card(tmp_path: Path) -> None:
    training = {"note|x": "a | b\n# c", "html": HOSTILE}
    matter, body = _write_card(tmp_path, summary=HOSTILE, training=training, licence='other: "yes"', limits=("a: [b",))
    assert matter["license"] == 'other: "yes"'
    assert "<script" not in body
    assert "<img" not in body
    assert r"| note\|x | a \| b # c |" in body


def test_a_card_without_its_own_row_is_refused() -> None:
    with pytest.raises(ValueError, match="no row is called 'other'"):
        _card(subject="other")


def test_every_metric_on_the_card_is_finite() -> None:
    (model,) = front_matter(_card())["model-index"]
    values = [metric["value"] for metric in model["results"][0]["metrics"]]
    assert len(values) == 5
    assert all(math.isfinite(value) for value in values)
