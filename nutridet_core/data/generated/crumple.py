"""Crumpled foil and film: the seen face, pulled about a little.

Belongs here: the displacement of pixels, of points by the very same field, and its shading. Does not
belong here: the view of a smooth face (`camera`).
"""

from __future__ import annotations

from random import Random

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops

Points = NDArray[np.float64]

_MOST_SLOPE = 0.3  # of a cell, between neighbouring knots; the field then folds nowhere
_STEPS = 12  # of the iteration that inverts the field: each shrinks the error to at most 2 * _MOST_SLOPE
_LIGHT = 0.9  # how strongly slopes darken


class Crumple:
    """A displacement, bilinear between knots and zero at the frame.

    Args:
        size: photo px.
        cells: cells of the field along either axis.
        strength: 0..1, of the most that folds nowhere.
    """

    def __init__(self, size: tuple[int, int], cells: int, strength: float, rng: Random) -> None:
        self._size, self._cells = size, cells
        self._xs = np.linspace(0, size[0], cells + 1).round()
        self._ys = np.linspace(0, size[1], cells + 1).round()
        cell = min(np.diff(self._xs).min(), np.diff(self._ys).min())
        generator = np.random.default_rng(rng.getrandbits(63))
        # Neighbours differ by at most twice the largest displacement.
        knots = generator.uniform(-1, 1, (cells + 1, cells + 1, 2)) * strength * cell * _MOST_SLOPE / 2
        knots[[0, -1]] = 0
        knots[:, [0, -1]] = 0
        self._knots = knots

    def apply(self, image: Image.Image) -> Image.Image:
        """The crumpled image, with its slopes shaded."""
        cells = []
        source = np.stack(np.meshgrid(self._xs, self._ys), axis=-1) + self._knots
        for i in range(self._cells):
            for j in range(self._cells):
                corners = (source[i, j], source[i + 1, j], source[i + 1, j + 1], source[i, j + 1])
                box = (int(self._xs[j]), int(self._ys[i]), int(self._xs[j + 1]), int(self._ys[i + 1]))
                cells.append((box, tuple(float(v) for corner in corners for v in corner)))
        moved = image.transform(self._size, Image.Transform.MESH, cells, Image.Resampling.BILINEAR)
        return ImageChops.multiply(moved, self._shading())

    def to_photo(self, points: Points) -> Points:
        """Where points of the smooth image `(n, 2)` lie on the crumpled one."""
        found = points
        for _ in range(_STEPS):
            found = points - self._displacement(found)
        return found

    def _displacement(self, points: Points) -> Points:
        """From a point of the crumpled image to its source on the smooth one."""
        columns, x = self._locate(points[:, 0], self._xs)
        rows, y = self._locate(points[:, 1], self._ys)
        upper = self._knots[rows, columns] * (1 - x) + self._knots[rows, columns + 1] * x
        lower = self._knots[rows + 1, columns] * (1 - x) + self._knots[rows + 1, columns + 1] * x
        return np.asarray(upper * (1 - y) + lower * y, dtype=np.float64)

    def _locate(self, values: Points, edges: Points) -> tuple[NDArray[np.intp], Points]:
        """Cell of every value, and how far along it lies, 0..1; outside counts as the frame."""
        inside = values.clip(edges[0], edges[-1])
        cell = (np.searchsorted(edges, inside, side="right") - 1).clip(0, self._cells - 1)
        return cell, ((inside - edges[cell]) / (edges[cell + 1] - edges[cell]))[:, None]

    def _shading(self) -> Image.Image:
        """Light from the left: brighter where the field stretches, darker where it bunches up."""
        slope = np.diff(self._knots[..., 0], axis=1) * self._cells / self._size[0]
        layer = Image.fromarray(((0.93 + _LIGHT * slope).clip(0, 1) * 255).astype(np.uint8))
        layer = layer.resize(self._size, Image.Resampling.BICUBIC)
        return Image.merge("RGB", (layer, layer, layer))
