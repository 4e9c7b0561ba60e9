"""The result of the generator.

Belongs here: `Drawing`. Does not belong here: how drawings are stored or turned into answers.
"""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from nutridet_core.boxes import Box


@dataclass(frozen=True)
class Drawing:
    """An RGB image and `(label, box)` of every object whose visible box is known."""

    image: Image.Image
    objects: tuple[tuple[str, Box], ...]
