"""What the report says and shows: honest headlines, outcomes that add up, photos worth showing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from nutridet_core.evaluation.compare import compare
from nutridet_core.evaluation.intervals import Estimate
from nutridet_core.evaluation.scores import Sample
from nutridet_core.report import Kind, Row
from nutridet_core.report.gallery import PER_GROUP, choose
from nutridet_core.report.outcomes import Outcome, count_outcomes, outcome
from nutridet_core.report.verdict import find, paired, verdict
from nutridet_core.report.wording import signed
from tests.report_samples import (
    ELSEWHERE,
    PHOTOS,
    TRUTH,
    curve,
    deal,
    photo,
    read,
    row,
    sample,
    shifted,
    write,
)


def _duel(first: tuple[Sample, ...], second: tuple[Sample, ...], kind: Kind = "baseline") -> list[Row]:
    return [row("ref", first, kind), row("exp", second)]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (_duel(deal(0.2), deal(0.1)), "exp beats ref: +0.267 [+0.267, +0.267] mean IoU on the same 24 photos."),
        (_duel(deal(0.1), deal(0.2)), "exp is worse than ref: \u22120.267"),
        (_duel(deal(0.1, 0.2), deal(0.2, 0.1)), "exp is not shown to beat ref: +0.000"),
        (_duel(deal(0.1), deal(0.2, photos=12)), "scored on different photos"),
        ([row("exp", deal(0.1))], "nothing to compare exp with"),
        (
            [row("ref", deal(0.1), "baseline")],
            "Nothing fine-tuned has been scored yet; ref, has a mean IoU of 0.600",
        ),
    ],
    ids=["better", "worse", "open", "other photos", "alone", "no experiment"],
)
def test_the_headline_follows_from_the_paired_interval(rows: list[Row], expected: str) -> None:
    assert expected in find(rows).headline


def test_an_interval_that_includes_zero_is_never_called_a_win(tmp_path: Path) -> None:
    """Higher by value, and by luck: three photos of 24 are better, two are worse."""
    ahead = tuple(sample(n, [shifted(0.1 if n < 3 else 0.3 if n < 5 else 0.2)]) for n in range(PHOTOS))
    rows = _duel(deal(0.2), ahead)
    difference = paired(rows[0], rows[1])
    assert difference is not None
    assert difference.mean_iou.low <= 0 < difference.mean_iou.value, "or this test shows nothing"
    page = read(write(tmp_path, rows, comparisons=[difference]))
    assert "exp is not shown to beat ref" in page.text
    assert "an interval that includes 0" in page.text
    assert "beats" not in page.text
    low, high = signed(difference.mean_iou.low), signed(difference.mean_iou.high)
    assert page.row("exp against ref")[1:3] == [
        "not told apart",
        f"{signed(difference.mean_iou.value)} [{low}, {high}]",
    ]
    beside_a_clear_win = find([*rows, row("weak", deal(0.3), "baseline")])
    assert beside_a_clear_win.headline.startswith("exp is not shown to beat ref"), "the best baseline counts"
    as_peer = find([replace(rows[0], kind="peer"), rows[1], row("weak", deal(0.3), "baseline")])
    assert as_peer.headline.startswith("exp beats weak")
    assert [text.startswith("exp and ref (peer) are not told apart") for text in as_peer.reservations] == [True]


def test_the_winner_is_chosen_on_selection_and_not_by_the_test_photos() -> None:
    rows = [row("zero-shot", deal(0.3), "baseline"), row("lucky", deal(0.1)), row("chosen", deal(0.2))]
    curves = [curve("lucky", 0.2, chosen=10), curve("chosen", 0.3, 0.1, chosen=20)]
    finding = find(rows, curves=curves)
    assert finding.winner.name == "chosen"
    assert "chosen was chosen by its scores on selection" in finding.evidence
    assert finding.reservations == (
        "lucky (experiment) scored better than chosen on these photos, beyond chance: +0.267 [+0.267, +0.267].",
    )


def test_a_winner_picked_by_the_test_photos_is_called_that() -> None:
    finding = find([row("ref", deal(0.3), "baseline"), row("a", deal(0.1)), row("b", deal(0.2))])
    assert finding.winner.name == "a"
    assert "picked from 2 fine-tuned models by these very photos" in finding.evidence
    assert finding.reservations == (), "b is clearly below"


def test_the_reference_is_the_baseline_even_when_a_prior_is_higher() -> None:
    rows = [row("prior", deal(0.1), "prior"), row("base", deal(0.3), "baseline"), row("exp", deal(0.1))]
    finding = find(rows)
    assert finding.headline.startswith("exp beats base")
    assert finding.reservations == (
        "exp and prior (prior) are not told apart by these photos: +0.000 [+0.000, +0.000].",
    )


def test_given_comparisons_are_used_in_either_direction() -> None:
    rows = _duel(deal(0.2), deal(0.1))
    given = replace(compare("ref", "exp", rows[0].samples, rows[1].samples), mean_iou=Estimate(0.5, 0.4, 0.7), photos=7)
    assert paired(rows[0], rows[1], [given]) is given
    turned = paired(rows[1], rows[0], [given])
    assert turned is not None
    assert turned.mean_iou == Estimate(-0.5, -0.7, -0.4)
    assert (turned.first, turned.second, verdict(turned)) == ("exp", "ref", "worse")


@pytest.mark.parametrize(
    ("sample", "expected"),
    [
        (sample(), Outcome.RIGHT),
        (sample(predicted=[], truth=(), form="negative"), Outcome.RIGHT),
        (sample(predicted=[shifted(0.1)], problems=("swapped_corners",)), Outcome.RIGHT),  # read all the same
        (sample(predicted=[], problems=("no_answer",), form="none"), Outcome.NO_ANSWER),
        (sample(predicted=[], truth=(), problems=("no_answer",), form="none"), Outcome.NO_ANSWER),
        (sample(predicted=[], problems=("truncated",), form="none"), Outcome.BAD_SYNTAX),
        (sample(problems=("out_of_range",)), Outcome.BAD_SYNTAX),  # one good box does not excuse a bad one
        (sample(predicted=[], form="negative"), Outcome.MISSED),
        (sample(truth=()), Outcome.FALSE_ALARM),
        (sample(predicted=[shifted(0.2)]), Outcome.WRONG_PLACE),
        (sample(truth=(TRUTH, ELSEWHERE)), Outcome.WRONG_PLACE),  # one of two tables is not found
        (sample(predicted=[TRUTH, ELSEWHERE]), Outcome.EXTRA_BOX),
    ],
)
def test_every_photo_has_one_outcome(sample: Sample, expected: Outcome) -> None:
    assert outcome(sample) is expected


def test_outcomes_of_a_row_add_up_on_the_page(tmp_path: Path) -> None:
    samples = (
        *(sample(n) for n in range(5)),
        *(sample(n, [], form="negative") for n in range(5, 8)),
        *(sample(n, [], form="none", problems=("no_answer",)) for n in range(8, 10)),
    )
    assert count_outcomes(samples)[Outcome.MISSED] == 3
    cells = read(write(tmp_path, [row("exp", samples)])).row("exp", nth=-2)
    assert cells[1:] == ["5 50 %", "2 20 %", "0 0 %", "3 30 %", "0 0 %", "0 0 %", "0 0 %"]


@pytest.mark.parametrize("photos", [1, 2, 3, 4, 5, 8, 18, 19, 60])
def test_groups_share_no_photo_and_are_ordered(photos: int) -> None:
    samples = [sample(n, [shifted(0.3 * ((n * 7) % photos) / photos)]) for n in range(photos)]
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
    alarm, quiet = sample(1, truth=()), sample(2, [], truth=())
    groups = choose([sample(0), alarm, quiet])
    assert groups["Boxes where there is no table"] == [alarm]
    assert [sample.id for sample in groups["Worst"]] == ["photo-000"]


def test_only_the_photos_shown_are_opened(tmp_path: Path) -> None:
    opened: list[str] = []

    def open_photo(photo_id: str) -> Image.Image:
        opened.append(photo_id)
        return photo(photo_id)

    write(tmp_path, [row("exp", deal(0.1, 0.2, photos=60))], open_photo=open_photo)
    assert len(opened) == len(set(opened)) == 3 * PER_GROUP
