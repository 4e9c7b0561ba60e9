"""Nutrient amounts that hang together, written the way packs write them.

Belongs here: drawing amounts and formatting them. Does not belong here: nutrient names
(`languages`) and table geometry (`tables`).
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

_KCAL_PER_GRAM = {"fat": 9.0, "carbohydrate": 4.0, "protein": 4.0, "fibre": 2.0}
_KJ_PER_KCAL = 4.184
# Reference intakes of an adult, Regulation (EU) No 1169/2011, annex XIII.
DAILY_GRAMS = {
    "fat": 70.0,
    "saturates": 20.0,
    "carbohydrate": 260.0,
    "sugars": 90.0,
    "protein": 50.0,
    "salt": 6.0,
}
DAILY_KCAL = 2000.0


@dataclass(frozen=True)
class Amounts:
    """Grams per 100 g for every nutrient of `languages.NUTRIENTS` but energy, which is in kcal."""

    kcal: float
    grams: dict[str, float]

    def scaled(self, factor: float) -> Amounts:
        """The amounts of a portion `factor` times 100 g."""
        return Amounts(self.kcal * factor, {name: grams * factor for name, grams in self.grams.items()})


def draw_amounts(rng: Random) -> Amounts:
    """Amounts whose parts do not exceed their wholes and whose energy follows from them."""
    fat = rng.uniform(0, 35) if rng.random() < 0.8 else 0.0
    carbohydrate = rng.uniform(0, 95 - fat)
    protein = rng.uniform(0, min(25.0, 98 - fat - carbohydrate))
    grams = {
        "fat": fat,
        "saturates": fat * rng.uniform(0.1, 0.7),
        "carbohydrate": carbohydrate,
        "sugars": carbohydrate * rng.uniform(0.05, 0.95),
        "fibre": rng.uniform(0, 9),
        "protein": protein,
        "salt": rng.uniform(0, 2.5),
    }
    kcal = sum(per_gram * grams[name] for name, per_gram in _KCAL_PER_GRAM.items())
    return Amounts(kcal, grams)


def format_grams(grams: float, decimal: str) -> str:
    """Such as "12,5 g", with the rounding that packs use."""
    if 0 < grams < 0.1:
        return f"<0{decimal}1 g"
    number = f"{grams:.0f}" if grams >= 20 else f"{grams:.1f}"
    return number.replace(".", decimal) + " g"


def format_energy(kcal: float) -> str:
    """Such as "1046 kJ / 250 kcal"."""
    return f"{kcal * _KJ_PER_KCAL:.0f} kJ / {kcal:.0f} kcal"


def daily_share(name: str, amounts: Amounts) -> str:
    """Percentage of the reference intake, such as "12%"; empty when there is none."""
    if name == "energy":
        return f"{100 * amounts.kcal / DAILY_KCAL:.0f}%"
    return f"{100 * amounts.grams[name] / DAILY_GRAMS[name]:.0f}%" if name in DAILY_GRAMS else ""


def format_amount(name: str, amounts: Amounts, decimal: str) -> str:
    """The amount of one nutrient of `languages.NUTRIENTS`."""
    return format_energy(amounts.kcal) if name == "energy" else format_grams(amounts.grams[name], decimal)
