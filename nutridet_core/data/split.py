"""Splits: which photo is for training, which for selection, which for the test.

Belongs here: grouping by product, duplicates, and the check that splits share nothing. Does not
belong here: photos and boxes themselves (`validate`).

A product's split is a hash of its barcode, so adding photos never moves a product. Where a source
demands splits, they are respected: a demanded test split is neither added to nor taken from.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from nutridet_core.data.examples import SPLITS, Split
from nutridet_core.errors import SettingsError

_STRICTEST_FIRST: tuple[Split, ...] = ("test", "selection", "train")


class Identified(Protocol):
    """What splitting needs of a photo; `Example` and `Record` have it."""

    @property
    def id(self) -> str: ...
    @property
    def barcode(self) -> str: ...
    @property
    def pixels_sha256(self) -> str: ...


@dataclass(frozen=True)
class Member:
    """A photo on its way into a split. `given` is the split that its source demands."""

    id: str
    barcode: str
    pixels_sha256: str
    given: Split | None = None


@dataclass(frozen=True)
class Assignment:
    """The outcome, by position in the sequence that was split.

    Args:
        splits: one per photo; None for a photo that was dropped.
        duplicates: `(dropped id, kept id)` of photos with the same pixels.
        conflicts: ids dropped because their product belongs to a stricter demanded split.
    """

    splits: tuple[Split | None, ...]
    duplicates: tuple[tuple[str, str], ...]
    conflicts: tuple[str, ...]


def assign_splits(
    examples: Sequence[Member], seed: int, selection_share: float, test_share: float
) -> Assignment:
    """Split by product, then drop repeated pixels: the copy in test is kept, else that in selection.

    When any member is given `test`, no other photo is drawn into it; the same holds for `selection`.

    Raises:
        SettingsError: when the shares are negative or leave nothing to train on.
    """
    if min(selection_share, test_share) < 0 or selection_share + test_share >= 1:
        raise SettingsError(
            f"selection_share {selection_share} and test_share {test_share} leave no training data",
            field="selection_share", remedy="Both are 0 or more and their sum is below 1.",
        )  # fmt: skip
    given = {member.given for member in examples}
    shares = (0.0 if "selection" in given else selection_share, 0.0 if "test" in given else test_share)
    owners = _owners(examples)
    splits = [_split_of(member, owners.get(member.barcode), seed, *shares) for member in examples]
    conflicts = tuple(member.id for member, split in zip(examples, splits, strict=True) if split is None)
    duplicates = _drop_duplicates(examples, splits)
    return Assignment(tuple(splits), duplicates, conflicts)


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


def check_disjoint(splits: Mapping[Split, Iterable[Identified]]) -> list[str]:
    """What two splits share: one line per barcode or photo. An empty list means that they are disjoint."""
    barcodes: dict[str, dict[Split, str]] = defaultdict(dict)
    pixels: dict[str, dict[Split, str]] = defaultdict(dict)
    ids: Counter[str] = Counter()
    for split, members in splits.items():
        for member in members:
            barcodes[member.barcode].setdefault(split, member.id)
            pixels[member.pixels_sha256].setdefault(split, member.id)
            ids[member.id] += 1
    problems = [_describe("barcode", key, found) for key, found in barcodes.items() if len(found) > 1]
    problems += [_describe("pixels", key[:12], found) for key, found in pixels.items() if len(found) > 1]
    return problems + [f"id {name} occurs {count} times" for name, count in ids.items() if count > 1]


def _describe(what: str, key: str, found: Mapping[Split, str]) -> str:
    places = ", ".join(f"{split} ({found[split]})" for split in SPLITS if split in found)
    return f"{what} {key} in {places}"


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


def _drop_duplicates(members: Sequence[Member], splits: list[Split | None]) -> tuple[tuple[str, str], ...]:
    """Set the split of repeated photos to None, in place; returns `(dropped id, kept id)`."""
    kept: dict[str, str] = {}
    dropped: list[tuple[str, str]] = []
    for split in _STRICTEST_FIRST:
        for position, member in enumerate(members):
            if splits[position] != split:
                continue
            if member.pixels_sha256 in kept:
                dropped.append((member.id, kept[member.pixels_sha256]))
                splits[position] = None
            else:
                kept[member.pixels_sha256] = member.id
    return tuple(dropped)
