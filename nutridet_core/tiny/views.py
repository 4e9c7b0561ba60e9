"""What pretraining looks at: views of drawn sheets, questions about them, and the batches these make.

Belongs here: everything that the drawing processes do. Does not belong here: pixels on the device
(`encoder`) and how sheets are drawn (`data.generated`).
"""

from __future__ import annotations

import itertools
import random
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from nutridet_core.answers import LABEL, write_answer
from nutridet_core.boxes import Box
from nutridet_core.data.generated import LABELS, Drawing, draw_page, draw_product_photo
from nutridet_core.data.generated.camera import Rect, clip, visible_share
from nutridet_core.profiles import TINY
from nutridet_core.prompts import resized_size
from nutridet_core.tiny.architecture import asked_as
from nutridet_core.tiny.recipe import Recipe

CELL = 28
"""Photo px per visual token, across and down."""
MOST_OBJECTS = 16
"""Of one view, for `dense`: the tables and the largest of the others."""
_MOST_BOXES = 3  # in one answer: nobody asks a detector for ten text blocks
_LEAST_VISIBLE, _MOST_HIDDEN = 0.8, 0.05  # an object in between is neither there nor absent
_MOST_TRIES = 6
_LEAST_WINDOW = 84  # px
_ASPECTS = (0.75, 0.75, 0.5625, 0.66, 1.0, 1.33, 1.33, 1.78)  # of pages; a subset of what photos have

Grid = tuple[int, int]
"""Cells down and across."""
Window = tuple[int, int, int, int]
"""What a view shows: x0, y0, x1, y1 in px of its sheet."""


@dataclass(frozen=True)
class View:
    """A window on a sheet."""

    window: Window
    objects: tuple[tuple[str, Box], ...]
    """Whatever is in view, also in part, clipped to it: tables first, then the largest."""
    seen: tuple[tuple[str, Box], ...]
    """Those of them that are there as a whole, or nearly."""
    unclear: frozenset[str]
    """Labels of objects of which a part is in view: no questions about those."""


@dataclass(frozen=True)
class Batch:
    """Questions about views of one grid shape."""

    sheets: torch.Tensor
    """`(sheets, height, width, 3)` uint8, padded."""
    windows: torch.Tensor
    """`(sheets, views, 4)`: what each view shows, x0, y0, x1, y1 in px of its sheet."""
    objects: torch.Tensor
    """`(sheets * views, MOST_OBJECTS, 5)`: index of the label, and x0, y0, x1, y1 as shares of the view; -1 pads."""
    grid: Grid
    labels: tuple[str, ...]
    """As many for every view, those of one view next to each other."""
    answers: tuple[str, ...]

    @property
    def questions_per_view(self) -> int:
        """How many questions in a row are about one view."""
        return len(self.labels) // len(self.objects)


class Stacks(IterableDataset[list[Batch]]):
    """An endless stream of batches about the same sheets, `passes` at a time.

    Every worker of every GPU draws its own share of the sheets, from number `first` on.
    """

    def __init__(self, recipe: Recipe, first: int = 0, rank: int = 0, world: int = 1) -> None:
        self.recipe, self.first, self.rank, self.world = recipe, first, rank, world

    def __iter__(self) -> Iterator[list[Batch]]:
        worker = get_worker_info()
        number, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        shelves: dict[Grid, list[Drawing]] = defaultdict(list)
        for index in itertools.count(self.first + self.rank * workers + number, self.world * workers):
            sheet = draw_sheet(self.recipe, index)
            shelf = shelves[grid_of(sheet.image.size)]
            shelf.append(sheet)
            if len(shelf) == self.recipe.sheets_per_batch:
                yield make_batches(self.recipe, shelf, random.Random(f"views:{self.recipe.seed}:{index}"))
                shelf.clear()


def draw_sheet(recipe: Recipe, index: int) -> Drawing:
    """A product photo or a page, the same for the same recipe and index."""
    rng = random.Random(f"sheet:{recipe.seed}:{index}")
    if rng.random() < recipe.photo_share:
        return draw_product_photo(recipe.seed, index)
    return draw_page(recipe.seed, index, rng.choice(_ASPECTS))


def grid_of(size: tuple[int, int]) -> Grid:
    """Cells after Qwen2-VL's resize of an image of `(width, height)` px: the very shapes that prediction uses."""
    width, height = resized_size(TINY.contract, *size)
    return height // CELL, width // CELL


def make_batches(recipe: Recipe, sheets: list[Drawing], rng: random.Random) -> list[Batch]:
    """`passes` batches, each with other views of the same sheets, which share a grid."""
    pixels = padded([np.asarray(sheet.image) for sheet in sheets])
    return [_make_batch(recipe, sheets, pixels, rng) for _ in range(recipe.passes)]


def _make_batch(recipe: Recipe, sheets: list[Drawing], pixels: torch.Tensor, rng: random.Random) -> Batch:
    views, labels, answers = [], [], []
    for sheet in sheets:
        for number in range(recipe.views_per_sheet):
            view = close_up(sheet, rng) if number % 4 else whole(sheet)
            views.append(view)
            for label, answer in ask(view, recipe, rng):
                labels.append(label)
                answers.append(answer)
    windows = torch.tensor([view.window for view in views]).reshape(len(sheets), -1, 4)
    objects = torch.from_numpy(np.stack([_table_of(view.objects) for view in views]))
    return Batch(pixels, windows, objects, grid_of(sheets[0].image.size), tuple(labels), tuple(answers))


def whole(sheet: Drawing) -> View:
    """The view that shows everything."""
    return _view(sheet, (0, 0, *sheet.image.size))


def close_up(sheet: Drawing, rng: random.Random) -> View:
    """A window of the sheet's shape in which no table is half cut off; the whole sheet when that fails."""
    for _ in range(_MOST_TRIES):
        view = _view(sheet, _draw_window(sheet, rng))
        if LABEL not in view.unclear:
            return view
    return whole(sheet)


def _view(sheet: Drawing, window: Window) -> View:
    size = window[2] - window[0], window[3] - window[1]
    objects, seen, unclear = [], [], set()
    for label, box in sheet.objects:
        x0, y0, x1, y1 = box.to_px(*sheet.image.size)
        rect = x0 - window[0], y0 - window[1], x1 - window[0], y1 - window[1]
        share = visible_share(rect, size)
        if share <= _MOST_HIDDEN:
            continue
        pair = label, Box.from_xyxy_px(clip(rect, size), *size)
        objects.append(pair)
        if share >= _LEAST_VISIBLE:
            seen.append(pair)
        else:
            unclear.add(label)
    objects.sort(key=lambda pair: (pair[0] != LABEL, -pair[1].area))
    return View(window, tuple(objects[:MOST_OBJECTS]), tuple(seen), frozenset(unclear))


def _draw_window(sheet: Drawing, rng: random.Random) -> Window:
    """A window, px, around a table, another object or anything; its edge sometimes cuts the object."""
    (width, height), focus = sheet.image.size, _draw_focus(sheet, rng)
    aspect = width / height
    x0, y0, x1, y1 = focus
    filled = rng.uniform(0.4, 1.05)
    across = max((x1 - x0) / filled, (y1 - y0) / filled * aspect, _LEAST_WINDOW, _LEAST_WINDOW * aspect)
    across = min(across, width, height * aspect)
    down = across / aspect
    left = x0 - rng.uniform(-0.05, 1.05) * (across - (x1 - x0))
    top = y0 - rng.uniform(-0.05, 1.05) * (down - (y1 - y0))
    left, top = max(0.0, min(left, width - across)), max(0.0, min(top, height - down))
    return round(left), round(top), round(left + across), round(top + down)


def _draw_focus(sheet: Drawing, rng: random.Random) -> Rect:
    size = sheet.image.size
    tables = [box for label, box in sheet.objects if label == LABEL]
    others = [box for label, box in sheet.objects if label != LABEL]
    kind = rng.random()
    if tables and kind < 0.5:
        return rng.choice(tables).to_px(*size)
    if others and kind < 0.8:
        return rng.choice(others).to_px(*size)
    across, down = rng.uniform(0.25, 0.9), rng.uniform(0.25, 0.9)
    x, y = rng.uniform(0, 1 - across), rng.uniform(0, 1 - down)
    return Box(x, y, x + across, y + down).to_px(*size)


def ask(view: View, recipe: Recipe, rng: random.Random) -> Iterator[tuple[str, str]]:
    """`questions_per_view` labels to ask for, each with the right answer: first the table, then others."""
    counts: dict[str, int] = defaultdict(int)
    for label, _ in view.seen:
        counts[label] += 1
    clear = [label for label in LABELS if label not in view.unclear and label != LABEL]
    present = [label for label in clear if 0 < counts[label] <= _MOST_BOXES]
    absent = [label for label in clear if not counts[label]]
    for number in range(recipe.questions_per_view):
        if number == 0 and LABEL not in view.unclear:
            label = LABEL
        else:
            there = present and (not absent or rng.random() >= recipe.absent_share)
            label = rng.choice(present if there else absent or [LABEL])
        boxes = [box for name, box in view.seen if name == label]
        name = asked_as(label)
        yield name, write_answer(boxes, (1000, 1000)).replace(LABEL, name) if boxes else f"no {name}"


def _table_of(objects: tuple[tuple[str, Box], ...]) -> np.ndarray:
    table = np.full((MOST_OBJECTS, 5), -1, np.float32)
    for row, (label, box) in zip(table, objects, strict=False):
        row[:] = LABELS.index(label), *box.as_tuple()
    return table


def padded(images: list[np.ndarray]) -> torch.Tensor:
    """Images of different sizes in one tensor, each in the top left corner."""
    height, width = (max(image.shape[axis] for image in images) for axis in (0, 1))
    padded = torch.zeros((len(images), height, width, 3), dtype=torch.uint8)
    for row, image in zip(padded.numpy(), images, strict=True):
        row[: image.shape[0], : image.shape[1]] = image
    return padded
