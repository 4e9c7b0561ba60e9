"""Synthetic drawings with known boxes: product photos for training, pages for pretraining.

Belongs here: the public names of the generator. Does not belong here: any drawing, and anything
about real photos.

Reading order: `fonts` and `panels` (what print is), `tables`, `regional` and `objects` (what it says),
`fronts` and `pictures` (what sells), `faces` and `pages` (where it stands), `shapes`, `camera` and
`crumple` (how a pack is seen), `scene`, `effects`, and `photos` (one whole photo).
"""

from __future__ import annotations

from .drawing import Drawing
from .objects import LABELS
from .pages import draw_page
from .photos import draw_product_photo

__all__ = ["LABELS", "Drawing", "draw_page", "draw_product_photo"]
