"""Engines behind HTTP: any server with OpenAI's chat endpoint (vLLM), and Triton with its vLLM backend.

Belongs here: their requests and replies. Does not belong here: starting them (`vllm`). The photo travels as it was
sent where that shows what was decoded, else as PNG; the server resizes it to the contract's budget.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import math
from collections.abc import Mapping
from functools import cached_property
from http import HTTPStatus
from typing import Any

import aiohttp
from PIL import Image
from pydantic_core import from_json, to_json  # a photo in base64 takes the standard library ten times as long

from nutridet_core.answers import without_terminators
from nutridet_core.profiles import Profile
from nutridet_core.prompts import Contract, prompt_messages
from nutridet_core.release.triton import MODEL, example_request
from nutridet_core.serving.arriving import ArrivingPhoto
from nutridet_core.serving.engine import EngineError, Reply

_CONNECT_SECONDS = 5.0
_JSON = {"Content-Type": "application/json"}
IDLE_SECONDS = 2.0
"""A connection is given up; vLLM closes idle ones after 5 s, perhaps just as one is used again."""
_FAILURES = (aiohttp.ClientError, OSError, TimeoutError)


class _Client:
    """HTTP to one server, by aiohttp: a request of httpx's takes 2 ms more. Waiting has no limit of its own: the
    gateway's holds.
    """

    def __init__(self, url: str, key: str | None = None) -> None:
        self.url, self._headers = url.rstrip("/"), {"Authorization": f"Bearer {key}"} if key else {}

    @cached_property
    def _session(self) -> aiohttp.ClientSession:
        """Made by the first request: it belongs to the loop that runs then."""
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=IDLE_SECONDS),
            timeout=aiohttp.ClientTimeout(total=None, connect=_CONNECT_SECONDS),
            headers=self._headers,
        )

    async def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """The JSON answered.

        Raises:
            EngineError: with the status, never with what the server said: that may quote the photo.
        """
        try:
            async with self._session.post(
                self.url + path, data=to_json(body), headers=_JSON, allow_redirects=False
            ) as response:
                status, content = response.status, await response.read()
            if status == HTTPStatus.OK:
                answer = from_json(content)
        except (*_FAILURES, ValueError) as error:
            raise EngineError(f"the engine did not answer ({type(error).__name__})", where=self.url + path) from error
        if status != HTTPStatus.OK:
            raise EngineError(f"the engine answered with status {status}", where=self.url + path)
        if not isinstance(answer, dict):
            raise EngineError("the engine answered with something else than an object", where=self.url + path)
        return answer

    async def answers(self, path: str) -> bool:
        """Whether a GET succeeds."""
        try:
            await self._read(path)
        except _FAILURES:
            return False
        return True

    async def get(self, path: str) -> dict[str, Any]:
        """The JSON of a GET.

        Raises:
            EngineError: when there is none.
        """
        try:
            return dict(from_json(await self._read(path)))
        except (*_FAILURES, ValueError, TypeError) as error:
            raise EngineError(
                f"does not answer ({type(error).__name__})", where=self.url + path, remedy="Is the server up?"
            ) from error

    async def _read(self, path: str) -> bytes:
        async with (
            asyncio.timeout(_CONNECT_SECONDS),
            self._session.get(self.url + path, allow_redirects=False) as response,
        ):
            if response.status != HTTPStatus.OK:
                raise aiohttp.ClientResponseError(response.request_info, response.history, status=response.status)
            return await response.read()

    async def close(self) -> None:
        """Close its connections."""
        await self._session.close()


class OpenAIEngine:
    """A server with `/v1/chat/completions`.

    Args:
        url: without `/v1`.
        model: name that the server serves the weights under.
        key: of the server.
    """

    name = "openai"

    def __init__(self, url: str, model: str, contract: Contract, *, max_new_tokens: int, key: str | None) -> None:
        self._client, self._model = _Client(url, key), model
        self._contract, self._max_new_tokens = contract, max_new_tokens

    async def answer(self, photo: ArrivingPhoto) -> Reply:
        """The first choice, greedy, with the grammar's tokens left in."""
        content, kind = await file_of(photo)
        url = f"data:image/{kind};base64,{_base64(content)}"
        body = chat_request(self._contract, self._model, url, max_new_tokens=self._max_new_tokens)
        answer = await self._client.post("/v1/chat/completions", body)
        try:
            choice = answer["choices"][0]
            text, written = str(choice["message"]["content"]), (choice.get("logprobs") or {}).get("content") or []
            return Reply(without_terminators(text), _mean_probability([float(each["logprob"]) for each in written]))
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise EngineError("the engine's answer is no chat completion", where=self._client.url) from error

    async def ready(self) -> bool:
        """Whether it lists its models."""
        return await self._client.answers("/v1/models")

    async def close(self) -> None:
        """Close the connections; the server runs on."""
        await self._client.close()


class TritonEngine:
    """Triton with its vLLM backend, over HTTP, serving what the asset `triton_repository` wrote.

    Args:
        url: of Triton's HTTP endpoint.
        prompt: rendered, as in the repository's `prompt.txt`.
    """

    name = "triton"

    def __init__(self, url: str, prompt: str, profile: Profile) -> None:
        self._client = _Client(url)
        request = example_request(prompt, profile)
        sampling = json.loads(request["sampling_parameters"]) | {"logprobs": 1}  # vLLM sums them only when asked for
        self._request = request | {
            "sampling_parameters": json.dumps(sampling),
            "return_cumulative_logprob": True,
            "return_num_output_tokens": True,
        }

    async def answer(self, photo: ArrivingPhoto) -> Reply:
        """The text, without the prompt."""
        content, _ = await file_of(photo)
        request = self._request | {"image": [_base64(content)]}
        answer = await self._client.post(f"/v2/models/{MODEL}/generate", request)
        try:
            text, total, tokens = (
                answer["text_output"],
                answer.get("cumulative_logprob"),
                answer.get("num_output_tokens"),
            )
            known = total is not None and tokens
            score = math.exp(min(0.0, float(total) / int(tokens))) if known else None  # type: ignore[arg-type]
            return Reply(without_terminators(str(text)), score)
        except (KeyError, TypeError, ValueError) as error:
            raise EngineError("the engine's answer has no text_output", where=self._client.url) from error

    async def ready(self) -> bool:
        """Whether the model is loaded."""
        return await self._client.answers(f"/v2/models/{MODEL}/ready")

    async def close(self) -> None:
        """Close the connections; the server runs on."""
        await self._client.close()


async def first_model(url: str, key: str | None) -> str:
    """Name of the model that an OpenAI-compatible server lists first.

    Raises:
        EngineError: when it does not answer, or lists none.
    """
    client = _Client(url, key)
    try:
        return str((await client.get("/v1/models"))["data"][0]["id"])
    except (KeyError, IndexError, TypeError) as error:
        raise EngineError("lists no model", where=f"{client.url}/v1/models") from error
    finally:
        await client.close()


def chat_request(contract: Contract, model: str, photo_url: str, *, max_new_tokens: int) -> dict[str, Any]:
    """Body of a chat completion that asks the contract's question about a photo."""
    return {
        "model": model,
        "messages": _with_photo(contract, photo_url),
        "max_tokens": max_new_tokens,
        "temperature": 0,
        "logprobs": True,
        "skip_special_tokens": False,  # vLLM's own field: by default the grammar's tokens would be missing
    }


async def file_of(photo: ArrivingPhoto) -> tuple[bytes, str]:
    """(content, kind) to send: a plain JPEG as it came, while it is being decoded here; else what shows its pixels."""
    if photo.opened.plain:
        return photo.opened.data, "jpeg"
    decoded = await photo.pixels()
    if decoded.untouched:
        return decoded.data, decoded.format.lower()
    return await asyncio.to_thread(_png, decoded.image), "png"


def _png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _with_photo(contract: Contract, url: str) -> list[dict[str, Any]]:
    """The contract's messages with the photo in its place."""
    messages = prompt_messages(contract)
    for message in messages:
        message["content"] = [
            {"type": "image_url", "image_url": {"url": url}} if part["type"] == "image" else part
            for part in message["content"]
        ]
    return messages


def _mean_probability(logprobs: list[float]) -> float | None:
    return math.exp(min(0.0, sum(logprobs) / len(logprobs))) if logprobs else None
