"""What the embedded model's pretraining does: its numbers, and what it calls things.

Belongs here: the `Recipe`. Does not belong here: the loop (`pretrain`).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """What the run does; written beside the weights."""

    steps: int = 60_000
    """At most; the minutes given to `pretrain` usually end the run."""
    sheets_per_batch: int = 24
    """Photos or pages of one grid shape."""
    views_per_sheet: int = 8
    """The sheet, as every fourth, and close-ups of it: drawing costs more than cutting."""
    questions_per_view: int = 2
    """The first about nutrition tables, wherever that has an answer."""
    passes: int = 4
    """Batches of the same sheets, each with other views, questions, light and noise."""
    buffered: int = 48
    """Batches on the device out of which the next is drawn."""
    photo_share: float = 0.75
    """Of the sheets; the others are pages."""
    absent_share: float = 0.2
    """Share of the other questions that are about an object which is not in view."""
    dense_weight: float = 1.0
    """Of `dense`'s loss, beside the one over the answers' tokens."""
    learning_rate: float = 1e-3
    warmup_steps: int = 300
    weight_decay: float = 0.05
    ema_decay: float = 0.99
    """Of the averaged weights, which are the ones kept, at every `EMA_EVERY` steps."""
    seed: int = 1_000_000
    """Of the sheets: the data source `generated:COUNT:SEED` is used with small seeds."""
    workers: int = 15
    """Processes that draw, per GPU."""
