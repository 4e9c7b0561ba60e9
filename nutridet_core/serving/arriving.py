"""A photo on its way to an engine: its header is known, its pixels are being decoded.

Belongs here: decoding beside the engine, and the clock of it. Does not belong here: the decoder (`data.photos`), or who
asks about the photo (`detector`).
"""

from __future__ import annotations

import asyncio
import time

from nutridet_core.data.photos import OpenedPhoto, Photo


class ArrivingPhoto:
    """A photo that engines may be asked about before its pixels are there: those that read files wait for none.

    Args:
        opened: its header. Decoding begins at once, in a thread.
        turns: photos decoded at the same time, those that arrived first first.
    """

    def __init__(self, opened: OpenedPhoto, turns: asyncio.Semaphore) -> None:
        self.opened, self._turns = opened, turns
        self.work = 0.0
        """Seconds of decoding."""
        self.blocked = 0.0
        """Seconds that somebody waited for it, for its turn included."""
        self.decoding = asyncio.create_task(self._decode())

    async def pixels(self) -> Photo:
        """The decoded photo.

        Raises:
            PhotoError: when it cannot be used.
        """
        began = time.perf_counter()
        try:
            return await self.decoding
        finally:
            self.blocked += time.perf_counter() - began

    async def _decode(self) -> Photo:
        async with self._turns:
            began = time.perf_counter()
            photo = await asyncio.to_thread(self.opened.decode)
            self.work = time.perf_counter() - began
            return photo
