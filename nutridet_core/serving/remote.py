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
from collections.abc import Callable, Mapping
from typing import Any

import httpx
from pydantic_core import to_json  # a photo in base64 takes the standard library ten times as long

from nutridet_core.answers import without_terminators
from nutridet_core.data.photos import Photo
from nutridet_core.profiles import Profile
from nutridet_core.prompts import Contract, prompt_messages
from nutridet_core.release.triton import MODEL, example_request
from nutridet_core.serving.engine import EngineError, Reply

_CONNECT_SECONDS = 5.0
_JSON = {"Content-Type": "application/json"}
_IDLE_SECONDS = 2.0  # vLLM closes idle connections after 5 s, perhaps just as one is used again


class _Client:
    """HTTP to one server. Waiting has no limit of its own: the gateway's holds."""

    def __init__(self, url: str, key: str | None = None) -> None:
        self.url = url.rstrip("/")
        self._client = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(None, connect=_CONNECT_SECONDS),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=_IDLE_SECONDS),
            trust_env=False,
        )

    async def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """The JSON answered.

        Raises:
            EngineError: with the status, never with what the server said: that may quote the photo.
        """
        try:
            response = await self._client.post(self.url + path, content=to_json(body), headers=_JSON)
            response.raise_for_status()
            answer = response.json()
        except httpx.HTTPStatusError as error:
            raise EngineError(
                f"the engine answered with status {error.response.status_code}", where=self.url + path
            ) from error
        except (httpx.HTTPError, ValueError) as error:
            raise EngineError(f"the engine did not answer ({type(error).__name__})", where=self.url + path) from error
        if not isinstance(answer, dict):
            raise EngineError("the engine answered with something else than an object", where=self.url + path)
        return answer

    async def answers(self, path: str) -> bool:
        """Whether a GET succeeds."""
        try:
            return (await self._client.get(self.url + path, timeout=_CONNECT_SECONDS)).is_success
        except httpx.HTTPError:
            return False

    async def get(self, path: str) -> dict[str, Any]:
        """The JSON of a GET.

        Raises:
            EngineError: when there is none.
        """
        try:
            response = (await self._client.get(self.url + path, timeout=_CONNECT_SECONDS)).raise_for_status()
            return dict(response.json())
        except (httpx.HTTPError, ValueError, TypeError) as error:
            raise EngineError(
                f"does not answer ({type(error).__name__})", where=self.url + path, remedy="Is the server up?"
            ) from error

    async def close(self) -> None:
        """Close its connections."""
        await self._client.aclose()


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

    async def answer(self, photo: Photo) -> Reply:
        """The first choice, greedy, with the grammar's tokens left in."""
        url = await _off_the_loop(data_url, photo)
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

    async def answer(self, photo: Photo) -> Reply:
        """The text, without the prompt."""
        encoded = await _off_the_loop(_base64, photo)
        answer = await self._client.post(f"/v2/models/{MODEL}/generate", self._request | {"image": [encoded]})
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


def data_url(photo: Photo) -> str:
    """The photo as a data: URL."""
    kind = photo.format.lower() if photo.untouched else "png"
    return f"data:image/{'jpeg' if kind == 'mpo' else kind};base64,{_base64(photo)}"


async def _off_the_loop(encode: Callable[[Photo], str], photo: Photo) -> str:
    """In a thread where pixels are encoded; bytes as they came take less time than a turn behind decoding photos."""
    return encode(photo) if photo.untouched else await asyncio.to_thread(encode, photo)


def _base64(photo: Photo) -> str:
    if photo.untouched:
        return base64.b64encode(photo.data).decode()
    stream = io.BytesIO()
    photo.image.save(stream, "PNG", compress_level=1)
    return base64.b64encode(stream.getvalue()).decode()


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
