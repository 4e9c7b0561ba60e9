"""vLLM as a child process: started on loopback, started again when it dies, ended with whatever it started.

Belongs here: its life. Does not belong here: its command line (`vllm_command`) or talking to it (`remote`).
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import shutil
import signal
import socket
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial

import httpx

from nutridet_core.children import end_with_parent
from nutridet_core.errors import SettingsError
from nutridet_core.profiles import Profile
from nutridet_core.serving.arriving import ArrivingPhoto
from nutridet_core.serving.engine import EngineError, Reply
from nutridet_core.serving.remote import OpenAIEngine
from nutridet_core.serving.vllm_command import NAME, VllmOptions, command, environment

log = logging.getLogger("nutridet.serving")

_GRACE_SECONDS = 20.0
_LONGEST_PAUSE = 60.0  # s between two attempts to start it again

Child = asyncio.subprocess.Process


class VllmEngine:
    """A vLLM of our own. `start` makes one.

    Args:
        child: that answers already, at `url` to whoever has `key`.
        again: starts another one at the same address, and returns when it answers.
        first_pause: seconds before the first attempt to start it again; every failure doubles them.
    """

    name = "vllm"

    def __init__(
        self,
        child: Child,
        profile: Profile,
        url: str,
        key: str,
        again: Callable[[], Awaitable[Child]],
        first_pause: float,
    ) -> None:
        self.url, self.key = url, key
        self._child, self._again, self._first_pause = child, again, first_pause
        self._client = OpenAIEngine(url, NAME, profile.contract, max_new_tokens=profile.max_new_tokens, key=key)
        self._watch = asyncio.create_task(self._keep_alive())

    async def answer(self, photo: ArrivingPhoto) -> Reply:
        """What vLLM says."""
        if self._child.returncode is not None:
            raise EngineError(f"vLLM has ended (status {self._child.returncode})", remedy="It is being started again.")
        return await self._client.answer(photo)

    async def ready(self) -> bool:
        """Whether it runs and lists its models."""
        return self._child.returncode is None and await self._client.ready()

    async def close(self) -> None:
        """End vLLM and whatever it started."""
        self._watch.cancel()
        with suppress(asyncio.CancelledError):
            await self._watch
        await self._client.close()
        await _end(self._child)

    async def _keep_alive(self) -> None:
        """Start it again whenever it ends. One that answered for a while may be tried again at once."""
        pause = self._first_pause
        while True:
            began = time.monotonic()
            status = await self._child.wait()
            if time.monotonic() - began > _LONGEST_PAUSE:
                pause = self._first_pause
            log.error("vLLM has ended (status %s); starting it again in %g s", status, pause)
            await _end(self._child)  # its workers hold the GPU's memory
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
            try:
                self._child = await self._again()
            except (EngineError, OSError) as error:
                log.error("%s", error)
            else:
                log.info("vLLM answers again")


async def start(
    profile: Profile, weights: str, options: VllmOptions, report: Callable[[str], None], first_pause: float = 1.0
) -> VllmEngine:
    """Start vLLM and wait until it answers.

    Raises:
        SettingsError: when there is no such program.
        EngineError: when it ends, or does not answer in time.
    """
    if shutil.which(options.program) is None:
        raise SettingsError(
            f"no program {options.program!r}", field="vllm",
            remedy="pip install 'nutridet[vllm]', or name one of another environment (--vllm).",
        )  # fmt: skip
    port, key = free_port(), secrets.token_urlsafe(32)
    line, url = command(profile, weights, port, options), f"http://127.0.0.1:{port}"
    report(" ".join(line))

    async def launch() -> Child:
        return await _launch(line, environment(profile, key, options), url, options.start_seconds)

    return VllmEngine(await launch(), profile, url, key, launch, first_pause)


async def _launch(line: list[str], variables: dict[str, str], url: str, seconds: float) -> Child:
    """A child that answers; none is left behind when it does not."""
    child = await asyncio.create_subprocess_exec(
        *line, env=variables, start_new_session=True, preexec_fn=partial(end_with_parent, os.getpid())
    )
    try:
        async with asyncio.timeout(seconds):
            await _until_healthy(child, url)
    except TimeoutError as error:
        await _end(child)
        raise EngineError(
            f"vLLM did not answer within {seconds:g} s", where=url, remedy="See its output above."
        ) from error
    except BaseException:
        await _end(child)
        raise
    return child


async def _until_healthy(child: Child, url: str) -> None:
    async with httpx.AsyncClient(trust_env=False, timeout=5.0) as client:
        while True:
            if child.returncode is not None:
                raise EngineError(
                    f"vLLM ended with status {child.returncode} before it answered", where=url,
                    remedy="See its output above.",
                )  # fmt: skip
            with suppress(httpx.HTTPError):
                if (await client.get(f"{url}/health")).is_success:
                    return
            await asyncio.sleep(0.2)


async def _end(child: Child) -> None:
    """SIGTERM to its session, SIGKILL to what is left: its workers hold the GPU's memory."""
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGTERM)
    with suppress(TimeoutError):
        await asyncio.wait_for(child.wait(), _GRACE_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    await child.wait()


def free_port() -> int:
    """A port of 127.0.0.1 that nobody has now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
