"""Admission: how many photos may be under way, and how many pixels of them may be in memory.

Belongs here: counting. Does not belong here: HTTP (`gateway`).
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from nutridet_core.serving import refusals

_LONGEST_WAIT = 60  # s that a client is told to wait at most
_WEIGHT = 0.1  # of the newest duration in the running mean


class Admission:
    """A fixed number of places for photos under way; who finds none is told when to come back.

    Args:
        places: photos that may wait or be answered at the same time.
    """

    def __init__(self, places: int) -> None:
        self.places = places
        self.taken = 0
        self._duration = 0.0

    @contextmanager
    def place(self, count: int = 1) -> Iterator[None]:
        """Hold `count` places.

        Raises:
            RefusedError: 429 when fewer are free.
        """
        if self.taken + count > self.places:
            raise refusals.busy(self.retry_after)
        self.taken += count
        began = time.monotonic()
        try:
            yield
        finally:
            self.taken -= count
            self._remember(time.monotonic() - began)

    @property
    def retry_after(self) -> int:
        """Seconds: whoever came last in a full queue waits about as long as photos take at present."""
        return min(_LONGEST_WAIT, max(1, math.ceil(self._duration)))

    def _remember(self, seconds: float) -> None:
        self._duration = self._duration + _WEIGHT * (seconds - self._duration) if self._duration else seconds


class PixelBudget:
    """Decoded photos in memory, in pixels; a photo waits, still compressed, until it fits. First come, first served.

    Args:
        pixels: a single photo larger than this has the budget to itself.
    """

    def __init__(self, pixels: int) -> None:
        self.pixels = pixels
        self.held = 0
        self._turn = asyncio.Lock()
        self._given_back = asyncio.Event()

    @asynccontextmanager
    async def hold(self, pixels: int) -> AsyncIterator[None]:
        """Hold room for a decoded photo."""
        async with self._turn:
            while self.held and self.held + pixels > self.pixels:
                self._given_back.clear()
                await self._given_back.wait()
            self.held += pixels
        try:
            yield
        finally:
            self.held -= pixels
            self._given_back.set()
