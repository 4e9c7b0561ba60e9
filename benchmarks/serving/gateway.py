"""What the gateway adds: the same photos to vLLM itself and through a gateway in a process of its own.

Belongs here: that gateway, and both ways. Does not belong here: vLLM's configurations (`servers`).

    python -m benchmarks.serving.gateway ADDRESS_FILE PORT    (until it is told to end)
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from benchmarks.serving.load import CHAT, WARM_UP, Address, Answered, ask, ask_all, chat_body, connect
from benchmarks.serving.servers import WIDE

DETECT = "/v1/detect"
_TOKENS = 24
_PLACES = 256


def serve(address_file: Path, port: int) -> None:
    """A gateway in front of the server that the file names."""
    from nutridet_core.serving.detector import Limits
    from nutridet_core.serving.gateway import GatewayOptions
    from nutridet_core.serving.holder import Holder, Identity, Served
    from nutridet_core.serving.launch import Launched
    from nutridet_core.serving.remote import OpenAIEngine
    from nutridet_core.serving.run import listen
    from nutridet_core.serving.run import serve as serve_gateway
    from nutridet_core.serving.vllm_command import NAME

    server = json.loads(address_file.read_text())

    async def launch() -> Launched:
        engine = OpenAIEngine(server["url"], NAME, WIDE.contract, max_new_tokens=_TOKENS, key=server["key"])
        return Launched(Holder(Served(engine, WIDE.contract, Identity("wide", None, ""))))

    serve_gateway(listen("127.0.0.1", port, key=None), launch, GatewayOptions(limits=Limits(places=_PLACES)))


@contextmanager
def running(address_file: Path, port: int) -> Iterator[Address]:
    """A gateway that answers, in a process that ends with the block."""
    line = [sys.executable, "-m", "benchmarks.serving.gateway", str(address_file), str(port)]
    address = Address(f"http://127.0.0.1:{port}")
    with answering(line, f"{address.url}/readyz"):
        yield address


@contextmanager
def answering(line: list[str], url: str) -> Iterator[None]:
    """A process that answers at `url`; it ends with the block."""
    process = subprocess.Popen(line)
    try:
        while not _ready(url):
            if process.poll() is not None:
                raise RuntimeError(f"{' '.join(line)} ended with status {process.returncode}")
            time.sleep(0.1)
        yield
    finally:
        process.terminate()
        process.wait()


async def one_at_a_time(direct: Address, gateway: Address, photos: list[bytes]) -> dict[str, Any]:
    """Seconds of each photo, straight to vLLM and then at once through the gateway; with the gateway's own clocks."""
    first, second = [], []
    async with connect(direct) as to_vllm, connect(gateway, _KIND) as to_gateway:
        for body, form in zip(*_bodies(photos), strict=True):
            first.append(await ask(to_vllm, CHAT, body))
            second.append(await ask(to_gateway, DETECT, form))
    first, second = first[WARM_UP:], second[WARM_UP:]
    return {"row": "gateway", "together": 1, "walls": [_sum(first), _sum(second)], **_answers(first, second)}


async def many_together(direct: Address, gateway: Address, photos: list[bytes], together: int) -> dict[str, Any]:
    """The same for many under way, in the order direct, through, through, direct: a drift falls on both alike."""
    straight, forms = _bodies(photos)
    ways = {
        "direct": lambda: ask_all(direct, CHAT, straight, together=together),
        "through": lambda: ask_all(gateway, DETECT, forms, together=together, kind=_KIND),
    }
    answered: dict[str, list[Answered]] = {name: [] for name in ways}
    walls = dict.fromkeys(ways, 0.0)
    for name in ("direct", "through", "through", "direct"):
        found, wall = await ways[name]()
        answered[name] += found
        walls[name] += wall
    return {"row": "gateway", "together": together, "walls": list(walls.values()), **_answers(*answered.values())}


def _bodies(photos: list[bytes]) -> tuple[list[bytes], list[bytes]]:
    return [chat_body(WIDE.contract, photo, max_tokens=_TOKENS) for photo in photos], [_form(photo) for photo in photos]


def _sum(answered: list[Answered]) -> float:
    return sum(each.seconds for each in answered)


def _answers(first: list[Answered], second: list[Answered]) -> dict[str, Any]:
    """Direct, and through the gateway."""
    return {
        "direct": [each.seconds for each in first], "through": [each.seconds for each in second],
        "clocks_ms": [each.reply["timing_ms"] for each in second],
        "same_texts": sum(a.text == b.reply["text"] for a, b in zip(first, second, strict=True)),
        "with_score": sum(each.reply["score"] is not None for each in second),
    }  # fmt: skip


_BOUNDARY = "nutridet-benchmark"
_KIND = f"multipart/form-data; boundary={_BOUNDARY}"


def _form(photo: bytes) -> bytes:
    head = f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="image"; filename="p.jpg"\r\n\r\n'
    return head.encode() + photo + f"\r\n--{_BOUNDARY}--\r\n".encode()


def _ready(url: str) -> bool:
    try:
        return httpx.get(url, trust_env=False).is_success
    except httpx.HTTPError:
        return False


if __name__ == "__main__":
    serve(Path(sys.argv[1]), int(sys.argv[2]))
