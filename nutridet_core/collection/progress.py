"""Progress over a collection: how fast, how long still, and what it costs in workers' time.

Belongs here: the lines that people read while they wait. Does not belong here: prices (docs/large-collections.md).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from nutridet_core.collection.replica import Outcome

_SECONDS_BETWEEN_LINES = 5.0
_HOUR = 3600


class Progress:
    """Lines every few seconds. Photos are told while a shard is under way, shards when they are on disk.

    Args:
        photos: to be answered.
        shards: they lie in.
    """

    def __init__(self, photos: int, shards: int, log: Callable[[str], None]) -> None:
        self.photos, self.shards, self._log = photos, shards, log
        self.worker_seconds = 0.0
        self._seen = self._answered = self._written = 0
        self._began = self._told = time.monotonic()
        self._first: float | None = None
        self._turn = threading.Lock()

    def seen(self, photos: int) -> None:
        """So many more photos have been answered."""
        with self._turn:
            now = time.monotonic()
            if photos and self._first is None:
                self._first = now  # what is before it, is loading models
            self._seen += photos
            if now - self._told >= _SECONDS_BETWEEN_LINES:
                self._told = now
                self._log(self.line)

    def wrote(self, outcome: Outcome) -> None:
        """A shard is on disk."""
        self._written += 1
        self._answered += outcome.photos
        self.worker_seconds += outcome.seconds

    @property
    def line(self) -> str:
        """As of now."""
        done = min(self.photos, max(self._seen, self._answered))  # a shard begun again is seen twice
        if self._first is None:
            return f"loading models; {self.photos} photos in {self.shards} shards to answer"
        rate = done / max(1e-9, time.monotonic() - self._first)
        left = (self.photos - done) / rate if rate else float("inf")
        return (
            f"{self._written}/{self.shards} shards, {done}/{self.photos} photos, {rate:.1f} photos/s, "
            f"{_duration(left)} left{self._cost}"
        )

    @property
    def summary(self) -> str:
        """When all is done."""
        seconds = time.monotonic() - self._began
        return f"{self._answered} photos in {self._written} shards in {_duration(seconds)}{self._cost}"

    @property
    def _cost(self) -> str:
        if not self.worker_seconds:
            return ""
        return f", {self._answered / self.worker_seconds * _HOUR:.0f} photos per worker-hour"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"
