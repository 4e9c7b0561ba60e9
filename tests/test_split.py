"""Splits: a product stays in one, repeated photos are dropped, and more photos move nobody."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nutridet_core.data.examples import SPLITS, Split
from nutridet_core.data.photos import Reason
from nutridet_core.data.split import Assignment, Member, assign_splits, check_shares, find_shared, hashed_split
from nutridet_core.errors import SettingsError

ODD_SHARES = [(-0.1, 0.2), (0.2, -0.1), (0.5, 0.5), (float("nan"), 0.1)]
SHARES = st.tuples(st.floats(0, 0.45), st.floats(0, 0.45))


def member(number: int, barcode: str, given: Split | None = None, pixels: str | None = None) -> Member:
    return Member(f"photo-{number:04}", barcode, pixels or f"pixels-{number}", given, f"index row {number}")


def assign(members: Sequence[Member], seed: int = 0, shares: tuple[float, float] = (0.2, 0.2)) -> Assignment:
    return assign_splits(members, seed, *shares)


def outcome(members: Sequence[Member], assignment: Assignment) -> dict[Member, Split | None]:
    return dict(zip(members, assignment.splits, strict=True))


def shared(members: Sequence[Member], assignment: Assignment) -> list[str]:
    placed = outcome(members, assignment)
    lines: list[str] = []
    for what in ("barcode", "pixels_sha256", "id"):
        keys = {split: [(getattr(m, what), m.id) for m, at in placed.items() if at == split] for split in SPLITS}
        lines += find_shared(what, keys)
    return lines


photos = st.lists(st.integers(0, 30), min_size=1, max_size=40).map(
    lambda products: [member(number, f"product-{product}") for number, product in enumerate(products)]
)
"""Several photos of some products; nothing is demanded."""

tangled = st.lists(
    st.builds(
        Member,
        id=st.integers(0, 12).map(str),
        barcode=st.integers(0, 8).map(str),
        pixels_sha256=st.integers(0, 12).map(str),
        given=st.sampled_from([None, None, *SPLITS]),
    ),
    unique=True,
    max_size=30,
)
"""Ids, pixels and products repeat and contradict each other."""


@given(photos, photos, st.integers(0, 5), SHARES)
def test_adding_photos_moves_nobody(
    old: list[Member], more: list[Member], seed: int, shares: tuple[float, float]
) -> None:
    added = [Member(f"new-{m.id}", m.barcode, f"new-{m.pixels_sha256}") for m in more]
    before = outcome(old, assign(old, seed, shares))
    after = outcome(added + old, assign(added + old, seed, shares))
    assert {m: after[m] for m in old} == before


@given(tangled, st.randoms(use_true_random=False))
def test_order_decides_nothing(members: list[Member], rng: random.Random) -> None:
    shuffled = rng.sample(members, len(members))
    kept, kept_shuffled = (
        Counter((m.id, m.pixels_sha256, split) for m, split in outcome(listed, assign(listed)).items() if split)
        for listed in (members, shuffled)
    )
    assert kept == kept_shuffled


@given(tangled, SHARES)
def test_splits_share_no_product_no_photo_and_no_id(members: list[Member], shares: tuple[float, float]) -> None:
    assignment = assign(members, shares=shares)
    assert shared(members, assignment) == []
    assert len(assignment.set_aside) == assignment.splits.count(None)
    kept = [m for m, split in outcome(members, assignment).items() if split]
    assert len({m.pixels_sha256 for m in kept}) == len({m.id for m in kept}) == len(kept)


@given(tangled)
def test_a_demanded_test_split_is_neither_added_to_nor_taken_from(members: list[Member]) -> None:
    if demanded := {m for m in members if m.given == "test"}:
        placed = outcome(members, assign(members))
        assert {m for m, split in placed.items() if split == "test"} <= demanded
        assert {placed[m] for m in demanded} <= {"test", None}  # None only for a repeated photo
        assert "test" in placed.values()


@given(st.integers(0, 10**13).map(str), SHARES, st.floats(0, 0.45))
def test_one_share_never_moves_a_product_between_the_other_splits(
    barcode: str, shares: tuple[float, float], other: float
) -> None:
    selection, test = shares
    split = hashed_split(barcode, 0, selection, test)
    assert {split, hashed_split(barcode, 0, other, test)} != {"train", "test"}
    assert {split, hashed_split(barcode, 0, selection, other)} != {"train", "selection"}


def test_shares_are_met_over_many_products() -> None:
    counts = Counter(hashed_split(str(product), 3, 0.15, 0.25) for product in range(4000))
    assert counts["selection"] / 4000 == pytest.approx(0.15, abs=0.02)
    assert counts["test"] / 4000 == pytest.approx(0.25, abs=0.02)


def test_the_seed_matters() -> None:
    assert len({tuple(hashed_split(str(n), seed, 0.3, 0.3) for n in range(40)) for seed in range(5)}) == 5


@pytest.mark.parametrize(("first", "second"), [("train", "test"), ("train", "selection"), ("selection", "test")])
@pytest.mark.parametrize("turned", [False, True])
def test_of_a_repeated_photo_the_copy_in_the_stricter_split_stays(first: Split, second: Split, turned: bool) -> None:
    members = [member(1, "a", first, "same"), member(2, "b", second, "same")]
    assignment = assign(members[::-1] if turned else members)
    assert set(assignment.splits) == {second, None}
    (dropped,) = assignment.set_aside
    assert (dropped.id, dropped.where, dropped.reason) == ("photo-0001", "index row 1", Reason.DUPLICATE_PIXELS)
    assert dropped.detail == f"as photo-0002 in {second}"


def test_a_repeated_id_is_dropped() -> None:
    members = [Member("a", "400", "one", "train"), Member("a", "401", "two", "test"), Member("b", "402", "three")]
    assignment = assign(members)
    assert assignment.splits[:2] == (None, "test")
    assert [(dropped.id, dropped.reason) for dropped in assignment.set_aside] == [("a", Reason.DUPLICATE_ID)]


def test_a_photo_dropped_for_its_id_does_not_drop_others_for_its_pixels() -> None:
    members = [
        Member("a", "1", "one", "test"),
        Member("a", "2", "two", "train"),
        Member("b", "3", "two", "train"),
    ]
    assert assign(members).splits == ("test", None, "train")


@pytest.mark.parametrize(("loose", "strict"), [("train", "test"), ("train", "selection"), ("selection", "test")])
def test_a_product_with_two_demanded_splits_stays_in_the_stricter(loose: Split, strict: Split) -> None:
    assignment = assign([member(1, "400", loose), member(2, "400", strict), member(3, "401", loose)])
    assert assignment.splits == (None, strict, loose)
    (dropped,) = assignment.set_aside
    assert (dropped.id, dropped.where) == ("photo-0001", "index row 1")
    assert dropped.reason == Reason.BARCODE_IN_STRICTER_SPLIT
    assert dropped.detail == f"400 belongs to {strict}"


def test_another_photo_of_a_product_follows_it_except_into_the_test() -> None:
    products: list[Split] = ["train", "selection", "test"]
    members = [member(number, split, split) for number, split in enumerate(products)]
    members += [member(number + 3, split) for number, split in enumerate(products)]
    assert assign(members).splits[3:] == ("train", "selection", None)


@pytest.mark.parametrize("shares", ODD_SHARES)
def test_shares_that_leave_nothing_to_train_on_are_refused(shares: tuple[float, float]) -> None:
    with pytest.raises(SettingsError, match="selection_share"):
        check_shares(*shares)


def test_what_is_shared_is_named_with_both_photos() -> None:
    keys: dict[Split, list[tuple[str, str]]] = {
        "train": [("400", "a"), ("400", "b"), ("401", "c")],
        "test": [("400", "d")],
    }
    assert find_shared("barcode", keys) == ["barcode 400 in train (a), test (d)"]
