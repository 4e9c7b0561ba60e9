"""The curves: what is varied, at which points, and what measures a point.

Belongs here: points, and what is held constant. Does not belong here: how a run is measured (`seconds`, `cores`,
`memory`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.costs.cores import measure_on
from benchmarks.costs.memory import watch
from benchmarks.costs.photos import Drawn, link_many, with_tables, write_many, write_source
from benchmarks.costs.seconds import Load, time_scoring, time_training

Run = dict[str, float]
TRAINED, SCORED = (16, 32, 64, 128), (32, 64, 128, 192)
EPOCHS, CHECKPOINTS, TABLES = (1, 2, 3, 4), (1, 2, 4, 7), (0, 1, 2)
CELLS = (36, 72, 144, 288)
"""Bounds on image tokens; the profile's own is among them."""
_TO_TRAIN, _TO_SCORE = 24, 32
"""Photos of a run where their number is not what is varied."""
MANY = (1_000, 10_000, 100_000)
DRAWN = (100, 200, 600, 3_000)
_DRAWING = "generated:100000:1"
"""A source that several processes draw; no more are asked for than a point needs."""
_SPARE = 2


@dataclass(frozen=True)
class Curve:
    """One thing that is varied."""

    name: str
    points: tuple[int, ...]
    measure: Callable[[int, Path], Run]
    """Given a point and an empty folder; the answer's `x`, if any, is where the point lies exactly."""


def curves(pool: Sequence[Drawn], work: Path) -> list[Curve]:
    """All of them."""
    return [*_seconds("training", time_training, pool), *_seconds("scoring", time_scoring, pool), *_cores(pool, work),
            Curve("memory of preparation", MANY, lambda count, _: watch(_many(pool, work, count), count)),
            Curve("memory of drawing", DRAWN, lambda count, _: watch(_DRAWING, count))]  # fmt: skip


def _seconds(verb: str, measure: Callable[[Load, Path], Run], pool: Sequence[Drawn]) -> list[Curve]:
    """Four curves of one verb; photos as they are drawn, but for the number of tables."""
    spare, photos = pool[:_SPARE], pool[_SPARE:]
    images, fixed = (TRAINED, _TO_TRAIN) if verb == "training" else (SCORED, _TO_SCORE)
    repeats = ("epochs", EPOCHS) if verb == "training" else ("checkpoints", CHECKPOINTS)
    some = Load(photos[:fixed], spare)

    def at(vary: Callable[[int], Load]) -> Callable[[int, Path], Run]:
        def run(point: int, folder: Path) -> Run:
            load = vary(point)
            return {"tokens": load.tokens} | measure(load, folder)

        return run

    def at_tokens(cells: int, folder: Path) -> Run:
        found = at(lambda cells: replace(some, cells=cells))(cells, folder)
        return found | {"x": found["tokens"]}

    return [
        Curve(f"{verb}/images", images, at(lambda count: replace(some, photos=photos[:count]))),
        Curve(f"{verb}/{repeats[0]}", repeats[1], at(lambda count: replace(some, repeats=count))),
        Curve(f"{verb}/tokens", CELLS, at_tokens),
        Curve(f"{verb}/boxes", TABLES, at(lambda tables: replace(some, photos=with_tables(photos, tables)[:fixed]))),
    ]


def _cores(pool: Sequence[Drawn], work: Path) -> list[Curve]:
    folder = work / "prepared"
    source = f"imagefolder:{folder}" if folder.exists() else write_source(folder, {None: pool})
    return [
        Curve("cores of drawing", (1, 2), lambda cores, _: measure_on(cores, _DRAWING)),
        Curve("cores of preparation", (1, 2), lambda cores, _: measure_on(cores, source)),
    ]


def _many(pool: Sequence[Drawn], work: Path, count: int) -> str:
    """The source of so many small photos, made when it is not there."""
    many, folder = work / "many", work / f"many-{count}"
    if folder.exists():
        return f"imagefolder:{folder}"
    write_many(many, count, pool)
    return link_many(many, folder, count)
