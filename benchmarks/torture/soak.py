"""A soak: a gateway with the embedded model is sent photos at twice its capacity, for as long as is asked.

Belongs here: the load, and what was seen of answers and memory. Does not belong here: how fast serving is
(`benchmarks.serving`).

Clients do not wait for each other: a request is sent every 1/(2 x capacity) s whether or not those before it were
answered, because that is what overload is. Capacity is measured first, by as many clients as there are places.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from itertools import count, cycle
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil

from nutridet_core.data.generated import draw_product_photo

PLACES = 16
CAPACITY_SECONDS = 15.0
PHOTOS = 24
_SEED = 3141
_GROWTH = 0.05
"""Of memory between the second quarter of the soak and the last: what counts as flat."""


@dataclass
class Soak:
    """What was seen."""

    minutes: float
    capacity: float
    """Photos/s with all places taken."""
    statuses: Counter[str] = field(default_factory=Counter)
    accepted: list[float] = field(default_factory=list)
    """Seconds that each answered photo took."""
    mib: list[float] = field(default_factory=list)
    """Resident memory of the gateway, once a second."""
    without_hint: int = 0
    """Refusals that do not say when to come back."""

    @property
    def sent(self) -> int:
        """Requests."""
        return sum(self.statuses.values())

    @property
    def lost(self) -> int:
        """Requests that were neither answered nor refused as HTTP says."""
        return self.sent - self.statuses["200"] - self.statuses["429"]

    @property
    def served(self) -> float:
        """Photos/s that were answered during the soak."""
        return self.statuses["200"] / (60 * self.minutes)

    @property
    def p99(self) -> float:
        """Of answered photos, s."""
        return float(np.percentile(self.accepted, 99)) if self.accepted else float("nan")

    @property
    def bound(self) -> float:
        """What p99 may be at most, s: twice the time that all places take, and a second of the load's own."""
        return 2 * PLACES / self.capacity + 1

    @property
    def mib_by_minute(self) -> list[int]:
        """Median of each minute, MiB: whether memory settles or grows on."""
        return [round(float(np.median(self.mib[at : at + 60]))) for at in range(0, len(self.mib), 60)]

    @property
    def growth(self) -> float:
        """Of memory, from the second quarter to the last; the first is warming up."""
        quarter = max(1, len(self.mib) // 4)
        return float(np.median(self.mib[-quarter:]) / np.median(self.mib[quarter : 2 * quarter]) - 1)

    @property
    def failures(self) -> list[str]:
        """What was promised and not kept."""
        kept = {
            f"{self.lost} requests lost": self.lost == 0,
            f"{self.without_hint} refusals without Retry-After": self.without_hint == 0,
            f"p99 {self.p99:.2f} s, bound {self.bound:.2f} s": self.p99 <= self.bound,
            f"memory grew by {self.growth:.1%}": self.growth <= _GROWTH,
            "nothing was refused: that was no overload": self.statuses["429"] > 0,
        }
        return [text for text, held in kept.items() if not held]

    @property
    def text(self) -> str:
        """For people."""
        return (
            f"soak of {self.minutes:g} minutes at {2 * self.capacity:.1f} photos/s, capacity {self.capacity:.1f}: "
            f"{self.sent} sent, {self.statuses['200']} answered, {self.statuses['429']} refused, {self.lost} lost; "
            f"p99 of answered {self.p99:.2f} s (bound {self.bound:.2f}); memory {min(self.mib):.0f} to "
            f"{max(self.mib):.0f} MiB, growth {self.growth:.1%}. " + ("; ".join(self.failures) or "All kept.")
        )

    def to_dict(self) -> dict[str, Any]:
        """For the result file."""
        rates = {"capacity": self.capacity, "served_per_s": self.served}
        figures = {"minutes": self.minutes, **rates, "sent": self.sent, "lost": self.lost}
        memory: dict[str, Any] = {"mib_least": min(self.mib), "mib_most": max(self.mib), "memory_growth": self.growth}
        memory["mib_by_minute"] = self.mib_by_minute
        times = {"p99_s": self.p99, "p99_bound_s": self.bound}
        return {**figures, "statuses": dict(self.statuses), **times, **memory, "failures": self.failures}


def soak(seconds: float) -> Soak:
    """Start a gateway, load it, end it."""
    with tempfile.TemporaryDirectory() as home, gateway(Path(home)) as (process, url):
        return asyncio.run(_load(url, psutil.Process(process.pid), seconds))


@contextmanager
def gateway(home: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`nutridet serve` of a home without a champion, which answers with the embedded model; and its address."""
    command = [sys.executable, "-m", "nutridet_core.cli", "serve", "--port", "0", "--places", str(PLACES)]
    log = home / "serve.log"
    with log.open("w") as stream:
        process = subprocess.Popen(
            command, env={**os.environ, "NUTRIDET_HOME": str(home)}, stdout=stream, stderr=stream, text=True
        )
    try:
        yield process, _address(process, log)
    finally:
        process.terminate()
        process.wait(60)


def _address(process: subprocess.Popen[str], log: Path) -> str:
    while process.poll() is None:
        text = log.read_text(errors="replace")
        if "listening on " in text:
            return text.split("listening on ")[1].split()[0]
        time.sleep(0.2)
    raise RuntimeError(f"the gateway ended: {log.read_text(errors='replace')[-2000:]}")


async def _load(url: str, process: psutil.Process, seconds: float) -> Soak:
    photos = cycle([_photo(index) for index in range(PHOTOS)])
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=PLACES * 2)
    async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits, trust_env=False) as client:
        seen = Soak(seconds / 60, await _capacity(client, photos))
        watching = asyncio.create_task(_watch(process, seen))
        await _overload(client, photos, seen, seconds)
        watching.cancel()
    return seen


async def _capacity(client: httpx.AsyncClient, photos: Iterator[bytes]) -> float:
    """Photos/s while every place is taken; the first photos warm the engine up."""
    end, warm, done = 0.0, asyncio.Event(), count()

    async def ask() -> int:
        answered = 0
        while not warm.is_set() or time.monotonic() < end:
            await _ask(client, next(photos))
            answered += warm.is_set()
            next(done)
        return answered

    clients = [asyncio.create_task(ask()) for _ in range(PLACES)]
    while next(done) < 3 * PLACES:  # it counts these looks too; they only shorten the warming up
        await asyncio.sleep(0.5)
    began = time.monotonic()
    end = began + CAPACITY_SECONDS
    warm.set()
    answered = sum(await asyncio.gather(*clients))
    return answered / (time.monotonic() - began)


async def _overload(client: httpx.AsyncClient, photos: Iterator[bytes], seen: Soak, seconds: float) -> None:
    gap, began, sent = 1 / (2 * seen.capacity), time.monotonic(), set()
    for number in range(int(seconds / gap)):
        await asyncio.sleep(max(0.0, began + number * gap - time.monotonic()))
        task = asyncio.create_task(_count(client, next(photos), seen))
        sent.add(task)
        task.add_done_callback(sent.discard)
    await asyncio.gather(*sent)


async def _count(client: httpx.AsyncClient, photo: bytes, seen: Soak) -> None:
    began = time.monotonic()
    try:
        response = await _ask(client, photo)
    except httpx.HTTPError as error:
        seen.statuses[type(error).__name__] += 1
        return
    seen.statuses[str(response.status_code)] += 1
    if response.status_code == httpx.codes.OK:
        seen.accepted.append(time.monotonic() - began)
    elif response.status_code == httpx.codes.TOO_MANY_REQUESTS:
        seen.without_hint += "retry-after" not in response.headers


async def _ask(client: httpx.AsyncClient, photo: bytes) -> httpx.Response:
    return await client.post("/v1/detect", files={"image": ("photo.jpg", photo, "image/jpeg")})


async def _watch(process: psutil.Process, seen: Soak) -> None:
    while True:
        seen.mib.append(process.memory_info().rss / 2**20)
        await asyncio.sleep(1)


def _photo(index: int) -> bytes:
    stream = BytesIO()
    draw_product_photo(_SEED, index).image.save(stream, "JPEG", quality=85)
    return stream.getvalue()
