"""vLLM as a child process on loopback, with the contract's pixel budget and nothing more open than needed.

Belongs here: its command line, start and end. Does not belong here: talking to it (`remote`).

vLLM's key guards /v1 only and its default host is every interface, so it listens on 127.0.0.1 and the gateway is
its only client. The key travels by environment: a command line is readable by every user of the machine.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import secrets
import shutil
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import httpx

from nutridet_core.data.examples import Photo
from nutridet_core.errors import SettingsError
from nutridet_core.layout import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from nutridet_core.profiles import Profile
from nutridet_core.serving.engine import EngineError, Reply
from nutridet_core.serving.remote import OpenAIEngine
from nutridet_core.triton import engine_arguments

NAME = "nutridet"
_PR_SET_PDEATHSIG = 1
_NOWHERE = "none.invalid"  # RFC 2606: the one domain that photos may be fetched from does not exist
_GRACE_SECONDS = 20.0
_RANKS = (8, 16, 32, 64, 128, 256, 512)  # those that vLLM admits as the largest
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None  # loaded here: between fork and exec is no time for it


@dataclass(frozen=True)
class VllmOptions:
    """How vLLM is started."""

    program: str = "vllm"
    """May lie in another environment than this package."""
    gpu_share: float = 0.8
    """Of the GPU's memory. Two models share it for a moment when an alias moves: then less than half."""
    start_seconds: float = 900.0
    adapter: Path | None = None
    """LoRA on the language tower, served over the weights; vLLM ignores one on the vision tower."""


def command(profile: Profile, weights: str, port: int, options: VllmOptions) -> list[str]:
    """The command line; engine arguments are those of the Triton repository."""
    arguments = engine_arguments(profile, Path(weights)) | {"gpu_memory_utilization": options.gpu_share}
    line = [options.program, "serve", weights, "--served-model-name", f"{NAME}-base" if options.adapter else NAME]
    line += ["--host", "127.0.0.1", "--port", str(port)]
    for name, value in arguments.items():
        if name != "model" and value is not False:  # trust_remote_code is off unless named
            line += [f"--{name.replace('_', '-')}", json.dumps(value) if isinstance(value, dict) else str(value)]
    line += ["--allowed-media-domains", _NOWHERE, "--disable-fastapi-docs", "--disable-uvicorn-access-log"]
    return [*line, *_lora(options.adapter)] if options.adapter else line


def environment(key: str) -> dict[str, str]:
    """Of the child: its key, no redirects, no reports home."""
    return {
        **os.environ,
        "VLLM_API_KEY": key,
        "VLLM_MEDIA_URL_ALLOW_REDIRECTS": "0",
        "VLLM_NO_USAGE_STATS": "1",
    }


class VllmEngine:
    """A vLLM of our own. `start` makes one."""

    name = "vllm"

    def __init__(self, process: asyncio.subprocess.Process, client: OpenAIEngine) -> None:
        self._process, self._client = process, client

    async def answer(self, photo: Photo) -> Reply:
        """What vLLM says."""
        if self._process.returncode is not None:
            raise EngineError(f"vLLM has ended (status {self._process.returncode})", remedy="Start the gateway again.")
        return await self._client.answer(photo)

    async def ready(self) -> bool:
        """Whether it runs and lists its models."""
        return self._process.returncode is None and await self._client.ready()

    async def close(self) -> None:
        """End vLLM and whatever it started."""
        await self._client.close()
        await _end(self._process)


async def start(profile: Profile, weights: str, options: VllmOptions, log: Callable[[str], None]) -> VllmEngine:
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
    port, key = _free_port(), secrets.token_urlsafe(32)
    line = command(profile, weights, port, options)
    log(" ".join(line))
    process = await asyncio.create_subprocess_exec(
        *line, env=environment(key), start_new_session=True, preexec_fn=_end_with_parent
    )
    url = f"http://127.0.0.1:{port}"
    try:
        async with asyncio.timeout(options.start_seconds):
            await _until_healthy(process, url)
    except TimeoutError as error:
        await _end(process)
        raise EngineError(
            f"vLLM did not answer within {options.start_seconds:g} s", where=url, remedy="See its output above."
        ) from error
    except BaseException:
        await _end(process)
        raise
    client = OpenAIEngine(url, NAME, profile.contract, max_new_tokens=profile.max_new_tokens, key=key)
    return VllmEngine(process, client)


async def _until_healthy(process: asyncio.subprocess.Process, url: str) -> None:
    async with httpx.AsyncClient(trust_env=False, timeout=5.0) as client:
        while True:
            if process.returncode is not None:
                raise EngineError(
                    f"vLLM ended with status {process.returncode} before it answered", where=url,
                    remedy="See its output above.",
                )  # fmt: skip
            with suppress(httpx.HTTPError):
                if (await client.get(f"{url}/health")).is_success:
                    return
            await asyncio.sleep(0.2)


async def _end(process: asyncio.subprocess.Process) -> None:
    """SIGTERM to its session, SIGKILL to what is left: its workers hold the GPU's memory."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with suppress(TimeoutError):
        await asyncio.wait_for(process.wait(), _GRACE_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()


def _end_with_parent() -> None:
    """In the child, before vLLM: a gateway that was killed cannot end it."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _lora(adapter: Path) -> list[str]:
    """Flags for an adapter.

    Raises:
        SettingsError: when part of it sits on the vision tower.
    """
    from safetensors import safe_open

    with safe_open(adapter / ADAPTER_WEIGHTS, "np") as tensors:
        if any(".visual." in name for name in tensors.keys()):  # noqa: SIM118  (no dictionary)
            raise SettingsError(
                "has LoRA on the vision tower, which vLLM would ignore",
                where=adapter,
                remedy="Merge it (nutridet merge) and serve the merged folder.",
            )
    rank = json.loads((adapter / ADAPTER_CONFIG).read_text(encoding="utf-8"))["r"]
    largest = next(each for each in _RANKS if each >= rank)
    return ["--enable-lora", "--max-lora-rank", str(largest), "--lora-modules", f"{NAME}={adapter}"]
