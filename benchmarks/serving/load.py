"""Requests to a server, and how long their answers took.

Belongs here: bodies, concurrency, the server's own clocks. Does not belong here: what is asked of which
server (`measure`).
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from nutridet_core.answers import without_terminators
from nutridet_core.prompts import Contract
from nutridet_core.serving.remote import IDLE_SECONDS, chat_request
from nutridet_core.serving.vllm_command import NAME

CHAT = "/v1/chat/completions"
WARM_UP = 4
"""Requests before a row that are not counted; as many as there are places, where those are more."""
_LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=IDLE_SECONDS)


@dataclass(frozen=True)
class Address:
    """A server."""

    url: str
    key: str | None = None


@dataclass(frozen=True)
class Answered:
    """One request's end."""

    seconds: float
    """From sending the first byte to having the last, with the body encoded beforehand."""
    reply: dict[str, Any]

    @property
    def text(self) -> str:
        """What the model wrote."""
        return without_terminators(str(self.reply["choices"][0]["message"]["content"]))

    @property
    def tokens(self) -> int:
        """That it wrote, the terminator included."""
        return int(self.reply["usage"]["completion_tokens"])

    @property
    def prompt_tokens(self) -> int:
        """That it read."""
        return int(self.reply["usage"]["prompt_tokens"])


def chat_body(contract: Contract, photo: bytes, kind: str = "jpeg", *, max_tokens: int, **more: Any) -> bytes:
    """The request of the serving engine, with further fields."""
    url = f"data:image/{kind};base64,{base64.b64encode(photo).decode()}"
    return json.dumps(chat_request(contract, NAME, url, max_new_tokens=max_tokens) | more).encode()


def connect(address: Address, kind: str = "application/json") -> httpx.AsyncClient:
    """A client of that server that sends bodies of this type."""
    headers = {"Content-Type": kind} | ({"Authorization": f"Bearer {address.key}"} if address.key else {})
    return httpx.AsyncClient(base_url=address.url, timeout=300, limits=_LIMITS, trust_env=False, headers=headers)


async def ask(client: httpx.AsyncClient, path: str, body: bytes) -> Answered:
    """One answer."""
    began = time.perf_counter()
    response = await client.post(path, content=body)
    seconds = time.perf_counter() - began
    if response.is_error:
        raise RuntimeError(f"{response.url}: status {response.status_code}: {response.text[:500]}")
    return Answered(seconds, response.json())


async def ask_all(
    address: Address, path: str, bodies: Sequence[bytes], *, together: int, kind: str = "application/json"
) -> tuple[list[Answered], float]:
    """Answers in order, and the wall clock of all, s; `together` requests are under way at any time."""
    places = asyncio.Semaphore(together)
    async with connect(address, kind) as client:

        async def in_turn(body: bytes) -> Answered:
            async with places:
                return await ask(client, path, body)

        began = time.perf_counter()
        answered = await asyncio.gather(*map(in_turn, bodies))
        return list(answered), time.perf_counter() - began


def clocks(address: Address) -> dict[str, float]:
    """Sums, counts and totals of vLLM's metrics, over the server's life."""
    text = httpx.get(f"{address.url}/metrics", trust_env=False, timeout=30).text
    found: dict[str, float] = {}
    for name, value in re.findall(r"^vllm:(\w+(?:_sum|_count|_total))(?:\{[^}]*\})? ([0-9.e+-]+)$", text, re.MULTILINE):
        found[name] = found.get(name, 0.0) + float(value)
    return found


def passed(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    """What the clocks advanced by; those that stood still are left out."""
    return {name: value - before.get(name, 0.0) for name, value in after.items() if value != before.get(name, 0.0)}
