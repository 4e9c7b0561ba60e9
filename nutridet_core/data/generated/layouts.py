"""Every layout of a nutrition table and how often it is drawn.

Belongs here: the choice. Does not belong here: the layouts (`tables`, `regional`).
"""

from __future__ import annotations

from random import Random

from .palettes import Ink
from .panels import Panel
from .regional import asian_grid, bilingual_facts, long_grid, old_facts
from .tables import european_grid, linear, minimal_list, multilingual_grid, nutrition_facts, side_by_side

LAYOUTS = (
    nutrition_facts, old_facts, bilingual_facts, european_grid, multilingual_grid, long_grid, minimal_list,
    asian_grid, linear, side_by_side,
)  # fmt: skip
_WEIGHTS = (0.18, 0.15, 0.05, 0.27, 0.09, 0.06, 0.08, 0.05, 0.04, 0.03)


def draw_table(rng: Random, ink: Ink, simple: bool = False) -> Panel:
    """A nutrition table of a random layout and language; `simple` leaves out the rare layouts."""
    layouts = (nutrition_facts, european_grid) if simple else LAYOUTS
    weights = (0.4, 0.6) if simple else _WEIGHTS
    return rng.choices(layouts, weights)[0](rng, ink)
