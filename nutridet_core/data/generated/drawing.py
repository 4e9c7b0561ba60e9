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

    def quarter_turned(self) -> Drawing:
        """The drawing turned by 90 degrees counterclockwise."""
        boxes = [(label, box.as_tuple()) for label, box in self.objects]
        turned = tuple((label, Box(y0, 1 - x1, y1, 1 - x0)) for label, (x0, y0, x1, y1) in boxes)
        return Drawing(self.image.transpose(Image.Transpose.ROTATE_90), turned)
