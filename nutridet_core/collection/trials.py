"""Trials: what is remembered of a shard while it is worked on, so that a photo cannot end one replica after another.

Belongs here: who is to blame when a process ended. Does not belong here: answering (`replica`).

A photo can end a process, by a decoder that crashes or by memory that runs out; then Ray gives its shard to the next
replica. So every attempt is written down before it begins, in a file beside the shard. After one that never ended,
photos go one at a time, each written down before it is touched; one that `_ENOUGH` processes ended at is not touched
again. A node that is taken away ends processes too, but hardly twice at the same photo; it would be while a photo waits
for an engine that is away, so that is written down as well, and is no death.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nutridet_core.errors import MachineError

_BEGUN, _ENDED, _PHOTO, _WAITING = "begun", "ended", "photo ", "waiting"
_ENOUGH = 2
_MOST_DEATHS = 10


class Trial:
    """The attempts at one shard.

    Args:
        file: where they are written down; deleted when the shard is answered.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        text = file.read_text(encoding="utf-8") if file.is_file() else ""
        attempts = [attempt.splitlines() for attempt in text.split(_BEGUN)[1:]]
        deaths = [lines for lines in attempts if _ENDED not in lines and lines[-1:] != [_WAITING]]
        touched = [[line for line in death if line.startswith(_PHOTO)] for death in deaths]
        last = Counter(int(photos[-1].removeprefix(_PHOTO)) for photos in touched if photos)
        self.deaths = len(deaths)
        """Attempts whose process ended."""
        self.culprits = {photo for photo, times in last.items() if times >= _ENOUGH}
        """Places in the shard of photos that are not to be touched."""

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Written down; one that ends with an error is none that a process ended at.

        Raises:
            MachineError: when too many processes have ended here.
        """
        if self.deaths >= _MOST_DEATHS:
            raise MachineError(
                f"{self.deaths} processes ended while they worked on this shard", where=self._file,
                remedy="Look into Ray's logs and the memory of its nodes; delete this file to have it tried again.",
            )  # fmt: skip
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._write(_BEGUN)
        try:
            yield
        except BaseException:
            self._write(_ENDED)
            raise
        self._file.unlink(missing_ok=True)

    def touch(self, photo: int) -> None:
        """A photo is about to be read, by its place in the shard."""
        if self.deaths:
            self._write(f"{_PHOTO}{photo}")

    def wait(self) -> None:
        """The photo that was touched last is about to wait for the engine. It is touched again before it goes on."""
        if self.deaths:
            self._write(_WAITING)

    def _write(self, line: str) -> None:
        with self._file.open("a", encoding="utf-8") as stream:
            stream.write(f"{line}\n")
