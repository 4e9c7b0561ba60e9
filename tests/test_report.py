"""The page: numbers, order, files beside it, escaping, and that it needs nothing from elsewhere."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from nutridet_core.evaluation.compare import compare
from nutridet_core.report import Row, leaderboard_markdown, leaderboard_text, rank
from nutridet_core.report.wording import label, signed, size_text, time_text
from tests.report_samples import (
    BEST,
    HOSTILE,
    PHOTOS,
    Page,
    curve,
    deal,
    read,
    row,
    sample,
    scored,
    three_rows,
    write,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with everything in it."""
    folder = tmp_path_factory.mktemp("report")
    rows = three_rows()
    comparisons = [compare("zero-shot", "exp1", rows[1].samples, rows[2].samples)]
    curves = [curve("exp1", 0.3, 0.1, 0.2, chosen=20), curve("exp0", 0.3, 0.3, chosen=20)]
    write(
        folder,
        rows,
        comparisons=comparisons,
        curves=curves,
        facts={"versions": {"torch": "2.14.1"}, "commands": ["a b"]},
    )
    return folder


@pytest.fixture(scope="module")
def page(folder: Path) -> Page:
    return read(folder / "report.html")


def test_the_page_shows_each_row_with_interval_and_n(page: Page) -> None:
    cells = page.row("exp1 experiment summary of exp1")
    assert cells[1] == str(BEST)
    assert cells[2] == str(three_rows()[-1].scores.metrics["f1_50"])
    assert cells[3] == str(three_rows()[-1].scores.metrics["f1_75"])
    assert cells[-1] == "24 photos 24 tables, 0 without"


def test_rows_come_best_first(page: Page, folder: Path) -> None:
    names = [cells[0].split()[0] for cells in page.cells if cells and "summary of" in cells[0]]
    assert names == ["exp1", "zero-shot", "median-box"]
    assert [line["name"] for line in csv.DictReader((folder / "leaderboard.csv").open())] == names


def test_rows_without_a_mean_iou_come_last() -> None:
    no_table = tuple(sample(n, [], truth=()) for n in range(4))
    assert [row.name for row in rank([row("none", no_table), *three_rows()])][-1] == "none"


def test_comparisons_show_difference_interval_and_verdict(page: Page) -> None:
    cells = page.row("exp1 against zero-shot")
    assert cells[1] == "better"
    assert cells[2] == "+0.267 [+0.267, +0.267]"
    assert cells[4:] == ["0 %", "24 photos"]


def test_speed_and_size_are_shown(page: Page) -> None:
    assert page.row("exp1", nth=-1) == ["exp1", "250 ms", "3.00 GiB"]
    assert page.row("median-box", nth=-1)[-1] == "\u2013", "a prior has no size"


def test_facts_are_shown_at_any_depth(page: Page) -> None:
    assert "torch 2.14.1" in page.text
    assert "commands a b" in page.text


def test_the_files_beside_the_page(folder: Path) -> None:
    names = {"report.html", "leaderboard.csv", "leaderboard.json", "leaderboard.png", "overlays.png", "curves.png"}
    assert {path.name for path in folder.iterdir()} == names
    for name in ("leaderboard.png", "overlays.png", "curves.png"):
        with Image.open(folder / name) as picture:
            assert min(picture.size) > 200
    line = next(csv.DictReader((folder / "leaderboard.csv").open()))
    assert float(line["mean_iou"]) == pytest.approx(0.6)
    assert float(line["mean_iou_low"]) == pytest.approx(BEST.low)
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
    lines = leaderboard_text(three_rows()).splitlines()
    assert lines[2].startswith("1  exp1 ")
    columns = [lines[0].index(name) for name in ("name", "kind", "mean IoU", "F1 at 0.5", "unreadable", "n")]
    for line in lines[2:5]:
        assert all(line[at] != " " and line[at - 1] == " " for at in columns[:-1])
    assert str(BEST) in lines[2]
    assert "24 / 24 / 0" in lines[2]
    assert max(map(len, lines)) <= 120


def test_markdown_table_has_as_many_cells_everywhere() -> None:
    rows = [replace(three_rows()[0], name="a|b"), *three_rows()[1:]]
    lines = leaderboard_markdown(rows).split("\n\n")[0].splitlines()
    assert len(lines) == 5
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {11}
    assert lines[2].startswith(f"| 1 | exp1 | experiment | {BEST} |")


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


def test_everything_foreign_is_escaped(tmp_path: Path) -> None:
    samples = tuple(
        sample(n, [], text=HOSTILE, form="none", problems=("bad_syntax",), id=f'"><b>{n}') for n in range(6)
    )
    row = Row(f"exp{HOSTILE}", HOSTILE, "experiment", scored("x", "test", samples), samples)
    baseline = Row("ref", "", "baseline", row.scores, samples)
    comparisons = [compare("ref", row.name, samples, samples)]
    facts = {HOSTILE: {HOSTILE: [HOSTILE]}}
    path = write(tmp_path, [row, baseline], title=HOSTILE, facts=facts, comparisons=comparisons)
    page = read(path)
    assert HOSTILE in page.text, "the answer is quoted"
    assert "script" not in {tag for tag, _ in page.tags}
    assert "b" not in {tag for tag, _ in page.tags}
    assert not [attributes for _, attributes in page.tags if "onerror" in attributes]


def test_a_long_answer_cannot_flood_the_page(tmp_path: Path) -> None:
    samples = tuple(sample(n, [], text="z" * 100_000, form="none", problems=("bad_syntax",)) for n in range(9))
    text = read(write(tmp_path, [row("exp", samples)])).text
    assert 300 <= text.count("z") < 3000


def test_nothing_is_loaded_from_elsewhere(page: Page) -> None:
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


def test_inner_links_have_their_targets(page: Page) -> None:
    ids = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    targets = {a["href"].removeprefix("#") for tag, a in page.tags if tag == "a" and a.get("href")}
    assert targets
    assert targets <= ids


def test_plots_come_in_both_looks_with_words_for_those_who_cannot_see_them(page: Page) -> None:
    pictures = [attributes for tag, attributes in page.tags if tag == "img"]
    assert all(attributes.get("alt") for attributes in pictures)
    dark = [a for tag, a in page.tags if tag == "source" and a.get("media") == "(prefers-color-scheme: dark)"]
    svgs = [a for a in pictures if str(a["src"]).startswith("data:image/svg+xml")]
    assert not {a["srcset"] for a in dark} & {a["src"] for a in svgs}
    assert len(dark) == len(svgs) == 6  # forest, differences, histograms, two curves, footprints
    assert str(svgs[0]["alt"]).startswith(f"Mean IoU: exp1 {BEST}; zero-shot 0.333")


def test_the_headline_agrees_with_the_comparisons_given(tmp_path: Path) -> None:
    rows = three_rows()
    given = replace(compare("zero-shot", "exp1", rows[1].samples, rows[2].samples), photos=7)
    assert "mean IoU on the same 7 photos" in read(write(tmp_path, rows, comparisons=[given])).text


def test_the_same_input_gives_the_same_page(tmp_path: Path) -> None:
    first, second = (write(tmp_path / name).read_bytes() for name in ("a", "b"))
    assert first == second


def test_photos_without_any_table_still_give_a_page(tmp_path: Path) -> None:
    samples = tuple(sample(n, [], truth=(), form="negative") for n in range(6))
    page = read(write(tmp_path, [row("exp", samples), row("ref", samples, "baseline")]))
    assert "There is no photo to show." in page.text
    assert "exp is not shown to beat ref" in page.text
    assert not re.search(r"\bnan\b", page.text)
    assert not (tmp_path / "overlays.png").exists()
    assert not (tmp_path / "curves.png").exists()


@pytest.mark.parametrize("rows", [[], three_rows() + three_rows()[:1]], ids=["none", "twice"])
def test_rows_without_names_of_their_own_are_refused(tmp_path: Path, rows: list[Row]) -> None:
    with pytest.raises(ValueError, match="different names"):
        write(tmp_path, rows)


def test_rows_and_curves_refuse_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="23 samples, but scores of 24 photos"):
        replace(three_rows()[0], samples=deal(0.3)[1:])
    with pytest.raises(ValueError, match="step 15 was chosen"):
        curve("exp", 0.1, 0.2, chosen=15)
