"""A gateway as a process: its socket, its signals, its end.

Belongs here: uvicorn. Does not belong here: what it serves (`gateway`, `launch`).

SIGTERM and Ctrl-C end it: no new connections, requests under way are answered, then the engine is closed. While a model
loads, the second of them ends it at once.
"""

from __future__ import annotations

import asyncio
import ipaddress
import math
import os
import signal
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace

import uvicorn

from nutridet_core.errors import SettingsError
from nutridet_core.serving.gateway import GatewayOptions, create_app
from nutridet_core.serving.launch import Launched

_BACKLOG = 2048
_LAST_PORT = 2**16 - 1
_KEEP_ALIVE_SECONDS = 30  # longer than clients keep idle connections: else one is closed just as it is used again
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")


def listen(host: str, port: int, *, key: str | None) -> socket.socket:
    """A socket that accepts connections already; port 0 takes any that is free.

    Raises:
        SettingsError: when it would listen to the network without a key, or cannot listen.
    """
    if not 0 <= port <= _LAST_PORT:
        raise SettingsError(
            f"{port} is no port", field="port", remedy=f"Choose one up to {_LAST_PORT}; 0 takes any that is free."
        )
    if key is None and not is_loopback(host):
        raise SettingsError(
            f"{host!r} is open to other machines, and no key is set", field="host",
            remedy="Set NUTRIDET_API_KEY, or listen on 127.0.0.1 behind a proxy.",
        )  # fmt: skip
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        bound = socket.create_server((host, port), family=family, backlog=_BACKLOG)
        # Connections inherit it. Without it an answer's body waits 40 ms for the client to acknowledge its headers:
        # asyncio sets it only on sockets that it made itself.
        bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return bound
    except OSError as error:
        raise SettingsError(
            f"cannot listen on {host}:{port} ({error.strerror})", field="port", remedy="Choose another port."
        ) from error


def is_loopback(host: str) -> bool:
    """Whether only this machine can connect."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def serve(
    bound: socket.socket,
    launch: Callable[[], Awaitable[Launched]],
    options: GatewayOptions,
    log: Callable[[str], None] = print,
) -> None:
    """Serve until SIGTERM or Ctrl-C.

    Args:
        bound: from `listen`.
        launch: loads what is served; whoever connects meanwhile waits.
    """
    host, port = bound.getsockname()[:2]
    if options.key is None:
        options = replace(options, hosts=(*_LOOPBACK_NAMES, host))

    async def run() -> None:
        launched = await _unless_stopped(launch(), log)
        app = create_app(launched.holder, options, launched.background, launched.beside)
        url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        log(f"listening on {url} (try it there); OpenAPI: {url}/openapi.json")
        await _server(app, options).serve(sockets=[bound])

    with (
        suppress(asyncio.CancelledError),  # stopped while loading
        asyncio.Runner(loop_factory=uvicorn.Config("").get_loop_factory()) as runner,  # uvloop where there is one
    ):
        runner.run(run())


async def _unless_stopped(launching: Awaitable[Launched], log: Callable[[str], None]) -> Launched:
    """The result; a signal cancels the loading, so that a half-started engine is ended too. A thread that loads can
    only be waited for, by the loop when it is closed: a second signal does not.
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None

    def handle(handler: Callable[[int, object], None]) -> None:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)
            signal.signal(number, handler)

    def stop() -> None:
        handle(_end_at_once)
        log("stops, at the latest when the model is loaded; a second signal ends at once")
        task.cancel()

    for number in _SIGNALS:
        loop.add_signal_handler(number, stop)
    launched = await launching
    handle(_ignore)  # uvicorn raises again what it caught: a clean end must not kill
    return launched


def _server(app: object, options: GatewayOptions) -> uvicorn.Server:
    config = uvicorn.Config(
        app,  # type: ignore[arg-type]
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws="none",
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=math.ceil(options.limits.seconds),
    )
    return uvicorn.Server(config)


def _ignore(number: int, frame: object) -> None:
    """Nothing."""


def _end_at_once(number: int, frame: object) -> None:
    """As the signal would have; the kernel tells the children (`children.end_with_parent`)."""
    os._exit(128 + number)
