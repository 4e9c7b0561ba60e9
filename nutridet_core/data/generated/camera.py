"""The camera: how a flat pack face maps onto the photo.

Belongs here: the homography, the cylinder, the mapping of points and boxes, and resampling. Does
not belong here: light, blur and noise (`effects`).
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .crumple import Crumple
from .panels import Colour

Points = NDArray[np.float64]
Rect = tuple[float, float, float, float]  # x0, y0, x1, y1 in px

_SAMPLES = 12  # points per side: a cylinder bends straight edges
_MESH = 14


def _unit_outline() -> Points:
    steps = np.linspace(0, 1, _SAMPLES, endpoint=False)[:, None]
    corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], dtype=np.float64)
    sides = [a + (b - a) * steps for a, b in zip(corners, np.roll(corners, -1, axis=0), strict=True)]
    return np.concatenate(sides)


_UNIT_OUTLINE = _unit_outline()


@dataclass(frozen=True)
class Pose:
    """Where the camera stands.

    Args:
        roll: rotation in the picture plane, radians.
        tilt: perspective along x and y, as the change of depth over one photo side.
        bend: half angle of the visible cylinder, radians; 0 is flat.
        sag: how far the bent edges bow down, in radii.
    """

    roll: float = 0.0
    tilt: tuple[float, float] = (0.0, 0.0)
    bend: float = 0.0
    sag: float = 0.0

    def relaxed(self, share: float) -> Pose:
        """The pose moved towards the frontal one; 0 is frontal."""
        tilt = (self.tilt[0] * share, self.tilt[1] * share)
        return Pose(self.roll * share, tilt, self.bend * share, self.sag * share)


def draw_pose(rng: Random, spread: float | None = None) -> Pose:
    """A hand-held pose: mostly a few degrees off, sometimes clearly tilted or on a bottle.

    Args:
        spread: standard deviation of the roll, radians; None draws the one of someone who reads a table.
    """
    if spread is None:
        spread = 0.05 if rng.random() < 0.8 else 0.16
    tilt = 0.10 if rng.random() < 0.7 else 0.30
    bent = rng.random() < 0.22
    return Pose(
        roll=rng.gauss(0, spread),
        tilt=(rng.uniform(-tilt, tilt), rng.uniform(-tilt, tilt)),
        bend=rng.uniform(0.5, 1.15) if bent else 0.0,
        sag=rng.uniform(-0.2, 0.3) if bent else 0.0,
    )


class Camera:
    """Maps face px to photo px.

    Args:
        pose: the viewing pose.
        anchor: the face point that stays put, and the photo point it lands on.
        scale: photo px per face px at the anchor, along x and y.
        face_width: width in face px that the cylinder's `bend` spans.
        photo_side: photo px over which `pose.tilt` acts.
        crumple: what the pack's foil does to the picture; None for a smooth pack.
    """

    def __init__(
        self,
        pose: Pose,
        anchor: tuple[tuple[float, float], tuple[float, float]],
        scale: tuple[float, float],
        face_width: float,
        photo_side: float,
        crumple: Crumple | None = None,
    ) -> None:
        self._crumple = crumple
        self._origin, target = np.array(anchor[0]), anchor[1]
        self._radius = face_width / 2 / pose.bend if pose.bend else 0.0
        self._sag = pose.sag
        cos, sin = np.cos(pose.roll), np.sin(pose.roll)
        shift = np.array([[1, 0, target[0]], [0, 1, target[1]], [0, 0, 1]], dtype=np.float64)
        depth = np.array([[1, 0, 0], [0, 1, 0], [pose.tilt[0] / photo_side, pose.tilt[1] / photo_side, 1]])
        turn = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
        self._forward = shift @ depth @ turn @ np.diag([scale[0], scale[1], 1.0])
        self._inverse = np.linalg.inv(self._forward)

    def to_photo(self, points: Points) -> Points:
        """Photo px of face points `(n, 2)`."""
        seen = _project(self._forward, self._bend(points - self._origin))
        return self._crumple.to_photo(seen) if self._crumple else seen

    def to_face(self, points: Points) -> Points:
        """Face px of photo points `(n, 2)`, before any crumpling."""
        flat: Points = self._unbend(_project(self._inverse, points))
        return np.asarray(flat + self._origin, dtype=np.float64)

    def bounds(self, rect: Rect) -> Rect:
        """Axis-aligned photo bounds of a face rectangle, not clipped to the frame."""
        mapped = self.to_photo(outline(rect))
        (x0, y0), (x1, y1) = mapped.min(axis=0), mapped.max(axis=0)
        return float(x0), float(y0), float(x1), float(y1)

    def take(self, face: Image.Image, size: tuple[int, int], beyond: Colour = (0, 0, 0)) -> Image.Image:
        """The face as the camera sees it; `beyond` where it sees past the face."""
        smooth = self._take_smooth(face, size, beyond)
        return self._crumple.apply(smooth) if self._crumple else smooth

    def _take_smooth(self, face: Image.Image, size: tuple[int, int], beyond: Colour) -> Image.Image:
        if self._radius:
            return self._take_bent(face, size)
        # transform() wants one matrix from photo px to face px, so the anchor is folded in.
        from_origin = np.array([[1, 0, self._origin[0]], [0, 1, self._origin[1]], [0, 0, 1]])
        matrix = from_origin @ self._inverse
        matrix /= matrix[2, 2]
        coefficients = tuple(float(v) for v in matrix.ravel()[:8])
        return face.transform(
            size, Image.Transform.PERSPECTIVE, coefficients, Image.Resampling.BILINEAR, fillcolor=beyond
        )

    def _take_bent(self, face: Image.Image, size: tuple[int, int]) -> Image.Image:
        xs = np.linspace(0, size[0], _MESH + 1).round().astype(int)
        ys = np.linspace(0, size[1], _MESH + 1).round().astype(int)
        knots = np.stack(np.meshgrid(xs, ys), axis=-1).reshape(-1, 2).astype(np.float64)
        source = self.to_face(knots).reshape(_MESH + 1, _MESH + 1, 2)
        cells = []
        for i in range(_MESH):
            for j in range(_MESH):
                corners = (source[i, j], source[i + 1, j], source[i + 1, j + 1], source[i, j + 1])
                box = (int(xs[j]), int(ys[i]), int(xs[j + 1]), int(ys[i + 1]))
                cells.append((box, tuple(float(v) for corner in corners for v in corner)))
        return face.transform(size, Image.Transform.MESH, cells, Image.Resampling.BILINEAR)

    def _bend(self, points: Points) -> Points:
        if not self._radius:
            return points
        angle = (points[:, 0] / self._radius).clip(-np.pi / 2, np.pi / 2)
        drop = self._sag * self._radius * (np.cos(angle) - 1)
        return np.stack([self._radius * np.sin(angle), points[:, 1] - drop], axis=1)

    def _unbend(self, points: Points) -> Points:
        if not self._radius:
            return points
        angle = np.arcsin((points[:, 0] / self._radius).clip(-1, 1))
        drop = self._sag * self._radius * (np.cos(angle) - 1)
        return np.stack([self._radius * angle, points[:, 1] + drop], axis=1)


def outline(rect: Rect) -> Points:
    """Points along the sides of a rectangle, clockwise."""
    x0, y0, x1, y1 = rect
    scaled = _UNIT_OUTLINE * np.array([x1 - x0, y1 - y0])
    return np.asarray(scaled + np.array([x0, y0]), dtype=np.float64)


def visible_share(bounds: Rect, size: tuple[int, int]) -> float:
    """Share of `bounds` that lies inside a frame of `size`."""
    x0, y0, x1, y1 = clip(bounds, size)
    whole = (bounds[2] - bounds[0]) * (bounds[3] - bounds[1])
    return max(0.0, x1 - x0) * max(0.0, y1 - y0) / whole


def clip(bounds: Rect, size: tuple[int, int]) -> Rect:
    """`bounds` cut to a frame of `size`."""
    x0, y0, x1, y1 = bounds
    return max(0.0, x0), max(0.0, y0), min(float(size[0]), x1), min(float(size[1]), y1)


def _project(matrix: Points, points: Points) -> Points:
    mapped = points @ matrix[:, :2].T + matrix[:, 2]
    return np.asarray(mapped[:, :2] / mapped[:, 2:], dtype=np.float64)
