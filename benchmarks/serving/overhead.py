"""What the gateway adds to one request, without a GPU: a stand-in takes vLLM's place, and as long for an answer.

    python -m benchmarks.serving.overhead --photos PHOTOS [--count 160] [--out FILE]

Belongs here: that stand-in and the comparison. Does not belong here: how both ways are asked (`gateway`), or vLLM
(`servers`).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from benchmarks.measures import header, processor_name
from benchmarks.serving import gateway
from benchmarks.serving.load import Address
from benchmarks.serving.numbers import percentile_of
from benchmarks.serving.photos import enlarge, read
from benchmarks.serving.questions import ONE_BOX
from benchmarks.serving.servers import WIDE
from nutridet_core.artifacts.store import write_json
from nutridet_core.boxes import Box
from nutridet_core.data.photos import decode_photo
from nutridet_core.serving.vllm import free_port

RESULT = Path(__file__).parents[1] / "results" / "gateway.json"
_ANSWER_SECONDS = 0.14  # of vLLM's best for a photo alone (docs/serving.md)


def main() -> None:
    """Ask both ways, write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=Path, help="from python -m benchmarks.serving.photos")
    parser.add_argument("--count", type=int, default=160)
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--stand-in", type=int, metavar="PORT", help="be the stand-in, until told to end")
    given = parser.parse_args()
    if given.stand_in:
        uvicorn.run(stand_in(_ANSWER_SECONDS), port=given.stand_in, log_level="warning", access_log=False)
        return
    photos = enlarge(read(given.photos), given.count)
    result = {**header("python -m benchmarks.serving.overhead --photos PHOTOS", processor_name()), **measure(photos)}
    write_json(given.out, result)
    print(json.dumps(result, indent=1))


def stand_in(seconds: float) -> Starlette:
    """A server that reads the request, waits, and answers with one box as vLLM writes it."""
    text = WIDE.contract.write([Box(0.273, 0.304, 0.713, 0.679)], (672, 672))
    written = [{"token": "0", "logprob": -0.01, "bytes": [48], "top_logprobs": []}] * ONE_BOX
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "logprobs": {"content": written}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 606, "completion_tokens": ONE_BOX, "total_tokens": 606 + ONE_BOX}
    content = json.dumps({"object": "chat.completion", "choices": [choice], "usage": usage}).encode()

    async def answer(request: Request) -> Response:
        json.loads(await request.body())
        await asyncio.sleep(seconds)
        return Response(content, media_type="application/json")

    async def healthy(request: Request) -> Response:
        return PlainTextResponse("")

    return Starlette(routes=[Route("/v1/chat/completions", answer, methods=["POST"]), Route("/v1/models", healthy)])


def measure(photos: list[bytes]) -> dict[str, Any]:
    """Times of each photo straight to the stand-in and through a gateway, one at a time."""
    direct = Address(f"http://127.0.0.1:{free_port()}", "key")
    line = [sys.executable, "-m", "benchmarks.serving.overhead", "--stand-in", direct.url.rpartition(":")[2]]
    with gateway.answering(line, f"{direct.url}/v1/models"), tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "address.json"
        file.write_text(json.dumps({"url": direct.url, "key": direct.key}))
        with gateway.running(file, free_port()) as front:
            row = asyncio.run(gateway.one_at_a_time(direct, front, photos))
    return result_of(row, photos)


def result_of(row: dict[str, Any], photos: list[bytes]) -> dict[str, Any]:
    """Medians with intervals, ms; what the gateway adds has its decoding in it."""
    added = [through - direct for direct, through in zip(row["direct"], row["through"], strict=True)]
    return {
        "n": len(added),
        "photo_kb": round(sum(map(len, photos)) / len(photos) / 1000),
        "direct_ms": percentile_of(row["direct"], 50, 1000),
        "through_ms": percentile_of(row["through"], 50, 1000),
        "added_ms": percentile_of(added, 50, 1000),
        "added_p95_ms": percentile_of(added, 95, 1000),
        "decoding_alone_ms": percentile_of([_decoding(photo) for photo in photos], 50, 1000),
    }


def _decoding(photo: bytes) -> float:
    began = time.perf_counter()
    decode_photo(photo)
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
