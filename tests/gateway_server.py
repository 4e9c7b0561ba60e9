"""A gateway on a loopback port, for tests: a real uvicorn in a thread."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import uvicorn

from nutridet_core.data.photos import open_photo
from nutridet_core.profiles import TINY
from nutridet_core.serving.arriving import ArrivingPhoto
from nutridet_core.serving.engine import Engine, FakeEngine, Reply
from nutridet_core.serving.gateway import Background, GatewayOptions, create_app
from nutridet_core.serving.holder import Holder, Identity, Served

CONTRACT = TINY.contract
CLIENT = httpx.Client(timeout=60, trust_env=False)  # one for all: making one takes longer than most requests


@dataclass
class HeldEngine(FakeEngine):
    """Answers only once the test lets it; counts who waits."""

    let_go: threading.Event = field(default_factory=threading.Event)

    async def answer(self, photo: ArrivingPhoto) -> Reply:
        self.sizes.append((await photo.pixels()).image.size)
        while not self.let_go.is_set():
            await asyncio.sleep(0.005)
        return Reply(self.text, self.score)


def arriving(content: bytes) -> ArrivingPhoto:
    """A photo as engines get it; inside a running loop."""
    return ArrivingPhoto(open_photo(content), asyncio.Semaphore(1))


def served(engine: Engine, name: str = "fake", version: str | None = None) -> Served:
    return Served(engine, CONTRACT, Identity(name, version, "0" * 64))


@contextmanager
def running(
    holder: Holder,
    options: GatewayOptions | None = None,
    background: Sequence[Background] = (),
    beside: Mapping[str, Holder] | None = None,
) -> Iterator[str]:
    """The address of a gateway that ends, gracefully, with the block."""
    with running_app(create_app(holder, options or GatewayOptions(), background, beside)) as url:
        yield url


@contextmanager
def running_app(app: object, limit_concurrency: int | None = None) -> Iterator[str]:
    """The address of any ASGI application; `limit_concurrency` is uvicorn's own, of connections."""
    config = uvicorn.Config(
        app, port=0, log_level="warning", access_log=False, timeout_graceful_shutdown=20,  # type: ignore[arg-type]
        limit_concurrency=limit_concurrency,
    )  # fmt: skip
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server did not start"
        thread.join(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


def until(condition: Callable[[], Any]) -> None:
    """Wait for another thread or process; pytest's own limit ends a test that waits in vain."""
    while not condition():
        threading.Event().wait(0.005)


@contextmanager
def process(code: str, *, stdin: int | None = None, **environment: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A Python process that serves, and its address."""
    gateway = subprocess.Popen(
        [sys.executable, "-c", code], env={**os.environ, **environment},
        stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        assert gateway.stdout is not None
        before: list[str] = []
        for line in gateway.stdout:
            before.append(line)
            if "listening on " in line:
                break
        else:
            raise AssertionError(f"it ended: {''.join(before)}")
        yield gateway, line.split("listening on ")[1].split(" ")[0]
    finally:
        gateway.kill()
        gateway.wait()
