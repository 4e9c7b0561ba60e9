"""Splits: which photo is for training, which for selection, which for the test.

Belongs here: grouping by product, duplicates, and finding what splits share. Does not belong here:
photos and boxes themselves (`validate`).

A product's split is a hash of its barcode, so adding photos never moves a product. Where a source
demands splits, they are respected: a demanded test split is neither added to nor taken from.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from nutridet_core.data.examples import SPLITS, Rejection, Split
from nutridet_core.data.photos import Reason
from nutridet_core.errors import SettingsError

_STRICTEST_FIRST: tuple[Split, ...] = ("test", "selection", "train")


@dataclass(frozen=True, slots=True)
class Member:
    """A photo on its way into a split. `given` is the split that its source demands."""

    id: str
    barcode: str
    pixels_sha256: str
    given: Split | None = None
    where: str = ""


@dataclass(frozen=True)
class Assignment:
    """The outcome.

    Args:
        splits: one per member, in order; None for one that was dropped.
        set_aside: those that were dropped, with the reason.
    """

    splits: tuple[Split | None, ...]
    set_aside: tuple[Rejection, ...]


def check_shares(selection_share: float, test_share: float) -> None:
    """Whether the shares leave anything to train on.

    Raises:
        SettingsError: when they do not, or one is negative or no number.
    """
    if not (selection_share >= 0 and test_share >= 0 and selection_share + test_share < 1):
        raise SettingsError(
            f"selection_share {selection_share} and test_share {test_share} leave no training data",
            field="selection_share",
            remedy="Both are 0 or more and their sum is below 1.",
        )


def assign_splits(members: Sequence[Member], seed: int, selection_share: float, test_share: float) -> Assignment:
    """Split by product, then drop repeated photos: the copy in test is kept, else that in selection.

    When any member is given `test`, no other product is drawn into it; the same holds for `selection`.

    Raises:
        SettingsError: when the shares leave nothing to train on.
    """
    check_shares(selection_share, test_share)
    given = {member.given for member in members}
    shares = (0.0 if "selection" in given else selection_share, 0.0 if "test" in given else test_share)
    owners = _owners(members)
    splits = [_split_of(member, owners.get(member.barcode), seed, *shares) for member in members]
    conflicts = [
        _set_aside(member, Reason.BARCODE_IN_STRICTER_SPLIT, f"{member.barcode} belongs to {owners[member.barcode]}")
        for member, split in zip(members, splits, strict=True)
        if split is None
    ]
    duplicates = _drop_duplicates(members, splits)
    return Assignment(tuple(splits), (*conflicts, *duplicates))


def hashed_split(barcode: str, seed: int, selection_share: float, test_share: float) -> Split:
    """The split of a product, from its barcode alone.

    Selection takes the low end of the hash range and test the high end, so that changing one share
    never moves a product between the other two splits.
    """
    digest = hashlib.sha256(f"{seed}:{barcode}".encode()).digest()
    position = int.from_bytes(digest[:8]) / 2**64
    if position < selection_share:
        return "selection"
    return "test" if position >= 1 - test_share else "train"


def find_shared(what: str, keys: Mapping[Split, Iterable[tuple[str, str]]]) -> list[str]:
    """What more than one split holds, a line each.

    Args:
        what: what the keys are, for the lines.
        keys: per split, (key, id of the photo that has it).
    """
    found: dict[str, dict[Split, str]] = defaultdict(dict)
    for split, pairs in keys.items():
        for key, photo_id in pairs:
            found[key].setdefault(split, photo_id)
    return [f"{what} {key} in {_describe(places)}" for key, places in found.items() if len(places) > 1]


def _describe(places: Mapping[Split, str]) -> str:
    return ", ".join(f"{split} ({places[split]})" for split in SPLITS if split in places)


def _owners(members: Sequence[Member]) -> dict[str, Split]:
    """The strictest demanded split of every product that has one."""
    owners: dict[str, Split] = {}
    for split in reversed(_STRICTEST_FIRST):
        owners |= {member.barcode: split for member in members if member.given == split}
    return owners


def _split_of(
    member: Member, owner: Split | None, seed: int, selection_share: float, test_share: float
) -> Split | None:
    """None when the product belongs elsewhere."""
    if owner is None:
        return hashed_split(member.barcode, seed, selection_share, test_share)
    if member.given is None:
        return None if owner == "test" else owner  # a demanded test split is exactly what was demanded
    return owner if member.given == owner else None


def _drop_duplicates(members: Sequence[Member], splits: list[Split | None]) -> list[Rejection]:
    """Set the split of photos whose pixels or id occurred before to None, in place."""
    seen: dict[tuple[Reason, str], str] = {}
    dropped: list[Rejection] = []
    for position in _strictest_first(members, splits):
        member = members[position]
        keys = ((Reason.DUPLICATE_PIXELS, member.pixels_sha256), (Reason.DUPLICATE_ID, member.id))
        repeated = next((key for key in keys if key in seen), None)
        if repeated is None:
            seen |= dict.fromkeys(keys, f"{member.id} in {splits[position]}")
        else:
            dropped.append(_set_aside(member, repeated[0], f"as {seen[repeated]}"))
            splits[position] = None
    return dropped


def _strictest_first(members: Sequence[Member], splits: Sequence[Split | None]) -> list[int]:
    """Positions of the photos that have a split, those of the test first; by id, so that row order decides nothing."""
    in_order = sorted(range(len(members)), key=lambda at: (members[at].id, members[at].pixels_sha256))
    return [position for strict in _STRICTEST_FIRST for position in in_order if splits[position] == strict]


def _set_aside(member: Member, reason: Reason, detail: str) -> Rejection:
    return Rejection(member.id, member.where, reason, detail)
