"""Servers as engines meet them, OpenAI's and Triton's, for tests; as a program, one that can be killed.

Imports little: tests start it as a process.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

TEXT = "<|object_ref_start|>nutrition table<|object_ref_end|><|box_start|>(273,304),(713,679)<|box_end|>"


@dataclass
class Server:
    """Remembers requests, answers what the test wants once it lets it."""

    answer: Any
    status: int = 200
    came: threading.Event = field(default_factory=threading.Event)
    """Set by the first request."""
    let_go: threading.Event = field(default_factory=threading.Event)
    held: bool = False
    """Whether answers wait for `let_go`."""
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    async def reply(self, request: Request) -> Response:
        self.requests.append(await request.json())
        self.headers.append(dict(request.headers))
        self.came.set()
        while self.held and not self.let_go.is_set():
            await asyncio.sleep(0.005)
        if isinstance(self.answer, str):
            return PlainTextResponse(self.answer, self.status)
        return JSONResponse(self.answer, self.status)

    async def models(self, request: Request) -> Response:
        return JSONResponse({"data": [{"id": "weights"}]})

    async def healthy(self, request: Request) -> Response:
        return PlainTextResponse("")

    @property
    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/v1/chat/completions", self.reply, methods=["POST"]),
                Route("/v2/models/nutridet/generate", self.reply, methods=["POST"]),
                Route("/v1/models", self.models),
                Route("/v2/models/nutridet/ready", self.healthy),
                Route("/health", self.healthy),
            ]
        )


def completion(text: str, logprobs: list[float] | None = None) -> dict[str, Any]:
    """A chat completion as vLLM writes it."""
    told = {"content": [{"token": "x", "logprob": value} for value in logprobs]} if logprobs is not None else None
    return {"choices": [{"message": {"role": "assistant", "content": text}, "logprobs": told}]}


if __name__ == "__main__":
    import uvicorn

    port = int(sys.argv[sys.argv.index("--port") + 1])
    uvicorn.run(Server(completion(TEXT, [-0.1])).app, port=port, log_level="error")
