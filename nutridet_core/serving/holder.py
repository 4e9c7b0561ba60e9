"""The model being served, and its exchange for another while requests run.

Belongs here: who holds which model, and following a registry alias. Does not belong here: finding and loading
weights (`weights`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from nutridet_core.prompts import Contract
from nutridet_core.serving.engine import Engine

log = logging.getLogger("nutridet.serving")


@dataclass(frozen=True)
class Identity:
    """Which model it is."""

    name: str
    """Registered model, folder, or base."""
    version: str | None
    """In the registry; None outside it."""
    digest: str
    """Of the weights' files."""


@dataclass(frozen=True)
class Served:
    """A loaded model with its contract."""

    engine: Engine
    contract: Contract
    identity: Identity


class _Lease:
    """A served model and how many requests use it."""

    def __init__(self, served: Served) -> None:
        self.served, self.users = served, 0
        self.idle = asyncio.Event()
        self.idle.set()


class Holder:
    """The model that new requests get. An exchanged model lives until its last request has been answered."""

    def __init__(self, served: Served) -> None:
        self._lease = _Lease(served)

    @property
    def served(self) -> Served:
        """What a new request would get."""
        return self._lease.served

    @asynccontextmanager
    async def use(self) -> AsyncIterator[Served]:
        """The model for one request, kept alive until the block ends."""
        lease = self._lease
        lease.users += 1
        lease.idle.clear()
        try:
            yield lease.served
        finally:
            lease.users -= 1
            if lease.users == 0:
                lease.idle.set()

    async def exchange(self, served: Served) -> None:
        """Give new requests another model; return when the old one is closed."""
        old, self._lease = self._lease, _Lease(served)
        try:
            await old.idle.wait()
        finally:  # also when the gateway ends meanwhile: its last request has been answered then
            await old.served.engine.close()

    async def close(self) -> None:
        """Close the model after its last request."""
        await self._lease.idle.wait()
        await self._lease.served.engine.close()


async def follow(
    holder: Holder,
    find: Callable[[], Awaitable[Identity]],
    load: Callable[[Identity], Awaitable[Served]],
    *,
    every: float,
    report: Callable[[bool], None] = lambda succeeded: None,
) -> None:
    """Exchange the model whenever `find` names another one; for ever.

    What cannot be found or loaded is logged and tried again: the model in use goes on answering.

    Args:
        every: seconds between two looks.
        report: told of every exchange, and of every failure.
    """
    while True:
        await asyncio.sleep(every)
        try:
            wanted = await find()
            if wanted == holder.served.identity:
                continue
            log.info("loading %s version %s", wanted.name, wanted.version)
            await holder.exchange(await load(wanted))
        except Exception:  # a registry that is down for a minute must not end the service
            log.exception("still serving %s version %s", holder.served.identity.name, holder.served.identity.version)
            report(False)
        else:
            log.info("serving %s version %s", wanted.name, wanted.version)
            report(True)
