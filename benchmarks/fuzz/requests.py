"""Requests to the gateway over a real socket: spoiled by us, and drawn from its own OpenAPI document by schemathesis.

Belongs here: HTTP. The engine is the public fake one, so the model is not what is tested.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from random import Random
from threading import Thread
from typing import Any

import httpx
import uvicorn

from benchmarks.fuzz import damage, photos
from benchmarks.fuzz.outcome import Feed, Outcome, judge
from nutridet_core.data.photos import PhotoLimits
from nutridet_core.profiles import TINY
from nutridet_core.serving.detector import Limits
from nutridet_core.serving.engine import FakeEngine
from nutridet_core.serving.gateway import GatewayOptions, create_app
from nutridet_core.serving.holder import Holder, Identity, Served
from nutridet_core.serving.schemas import BatchAnswer, Detection, ErrorBody

_KEY = "fuzz"
_LIMITS = Limits(photo=PhotoLimits(bytes=500_000, pixels=2_000_000, aspect=20), places=8, batch=4, body_seconds=2.0)
_PATHS = ("/v1/detect", "/v1/detect/batch", "/v1/chat/completions")
_TYPES = (
    "application/json",
    "application/json; charset=utf-16",
    "multipart/form-data",
    "text/plain",
    "",
    "application/x-www-form-urlencoded",
)
_ERRORS = range(400, 500)


@dataclass(frozen=True)
class Request:
    """One request."""

    method: str
    path: str
    headers: list[tuple[bytes, bytes]]
    body: bytes


def make(random: Random) -> Request:
    """Right in most respects, so that the wrong one is reached."""
    path = random.choice(_PATHS)
    kind, body = _form(path, random) if random.random() < 0.4 and "chat" not in path else _json(path, random)
    headers = [(b"content-type", kind), (b"authorization", f"Bearer {_KEY}".encode())]
    if random.random() < 0.1:
        at = random.randrange(2)
        headers[at] = (headers[at][0], _header(random))
    if random.random() < 0.1:
        path += random.choice(
            ("?model=", "?model=x", "?model=%00", "?model=%ff&model=", "/", "/../x", "?" + "a" * 3000)
        )
    return Request(random.choice(("POST",) * 20 + ("GET", "PUT", "OPTIONS", "HEAD")), path, headers, body)


@contextmanager
def open_gateway() -> Iterator[Feed]:
    """A gateway and what asks it."""
    with gateway() as url, httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
        yield lambda request: judge(lambda given: _use(client, given), request)


@contextmanager
def gateway() -> Iterator[str]:
    """Its address."""
    holder = Holder(Served(FakeEngine(), TINY.contract, Identity("fake", None, "0" * 64)))
    app = create_app(holder, GatewayOptions(limits=_LIMITS, key=_KEY))
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical", access_log=False))
    thread = Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        thread.join(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


def drive_by_specification(feed: Feed, first: int, last: int, seed: int, tell: Callable[[Outcome], None]) -> None:
    """At most `last - first` requests that schemathesis draws from /openapi.json, right ones and wrong ones."""
    import schemathesis
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import seed as seeded

    with gateway() as url:
        operations = [each.ok() for each in schemathesis.openapi.from_url(f"{url}/openapi.json").get_all_operations()]
        for number, operation in enumerate(operations):
            share = _part(last - first, number, len(operations))
            budget = settings(
                max_examples=max(1, share), deadline=None, database=None, phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )  # fmt: skip
            seeded(seed + first)(budget(given(case=_cases(operation))(_asking(share, tell))))()


def _part(total: int, number: int, parts: int) -> int:
    return total * (number + 1) // parts - total * number // parts


def _asking(most: int, tell: Callable[[Outcome], None]) -> Callable[[Any], None]:
    asked = count()

    def ask(case: Any) -> None:
        if next(asked) < most:
            tell(_ask(case))

    return ask


def _cases(operation: Any) -> Any:
    from hypothesis import strategies
    from schemathesis import GenerationMode

    return strategies.one_of([operation.as_strategy(generation_mode=mode) for mode in GenerationMode])


def _ask(case: Any) -> Outcome:
    """Schemathesis' own checks: no 5xx, and status, content type and body as documented.

    But for one: text that fits the schema and is no photo is rightly refused.
    """
    from schemathesis.specs.openapi.checks import positive_data_acceptance

    try:
        response = case.call(headers={"Authorization": f"Bearer {_KEY}"})
        case.validate_response(response, excluded_checks=[positive_data_acceptance])
    except (Exception, BaseExceptionGroup) as error:
        found = error.exceptions if isinstance(error, BaseExceptionGroup) else [error]
        what = "; ".join(f"{type(each).__name__}: {' '.join(str(each).split())[:300]}" for each in found)
        return Outcome("broken", f"{case.method} {case.path}: {what}")
    return Outcome("value" if response.status_code < 400 else "refused", f"{case.path} {response.status_code}")


def _use(client: httpx.Client, request: Request) -> Outcome:
    """Answered as documented, or refused with a reason and a remedy; and the next request is answered."""
    try:
        response = client.request(request.method, request.path, headers=request.headers, content=request.body)
    except httpx.LocalProtocolError:
        return Outcome("refused", "by the client: no HTTP")
    if response.status_code == 200:
        return _answered(request, response)
    assert response.status_code in _ERRORS, f"status {response.status_code}: {response.text[:200]}"
    if request.method != "HEAD" and response.headers["content-type"] == "application/json":
        problem = ErrorBody.model_validate_json(response.content).error
        assert problem.remedy
        return Outcome("refused", problem.type)
    assert request.method == "HEAD" or b"Invalid HTTP request" in response.content, response.text[:200]
    return Outcome("refused", "by the server: no HTTP")


def _answered(request: Request, response: httpx.Response) -> Outcome:
    if request.path.startswith("/v1/detect/batch"):
        results = BatchAnswer.model_validate_json(response.content).results
        assert all((each.error is None) != (each.detection is None) for each in results)
        return Outcome("problem" if any(each.error for each in results) else "value", "batch")
    content = response.json()
    Detection.model_validate(content["nutridet"] if "chat" in request.path else content)
    return Outcome("value", request.path[:20])


def _photo(random: Random) -> str:
    return base64.b64encode(photos.make(random)[:400_000]).decode()


def _json(path: str, random: Random) -> tuple[bytes, bytes]:
    reference = random.choice(
        (_photo(random), f"data:image/png;base64,{_photo(random)}", "http://127.0.0.1:9/x", "data:,", "@")
    )
    tree: Any = {"image": reference}
    if "batch" in path:
        tree = {"images": [reference] * random.choice((1, 2, 5))}
    if "chat" in path:
        part = {"type": "image_url", "image_url": random.choice(({"url": reference}, reference))}
        tree = {"model": "x", "messages": [{"role": "user", "content": [{"type": "text", "text": "?"}, part]}]}
    if random.random() < 0.6:
        tree = damage.spoil_tree(tree, random)
    body = json.dumps(tree).encode()
    return b"application/json", damage.spoil_bytes(body, random) if random.random() < 0.2 else body


def _form(path: str, random: Random) -> tuple[bytes, bytes]:
    names = ["image"] * (random.choice((1, 2, 6)) if "batch" in path else 1)
    heads = [f'--b\r\nContent-Disposition: form-data; name="{name}"; filename="a"\r\n\r\n'.encode() for name in names]
    parts = [head + photos.make(random)[:400_000] for head in heads]
    body = b"\r\n".join([*parts, b"--b--\r\n"])
    return b"multipart/form-data; boundary=b", damage.spoil_bytes(body, random) if random.random() < 0.4 else body


def _header(random: Random) -> bytes:
    text = random.choice(
        (
            *_TYPES,
            "Bearer",
            "Bearer ",
            "Basic x",
            "Bearer x",
            "\xff",
            "a" * 9000,
            "multipart/form-data; boundary=" + "b" * 999,
        )
    )
    return damage.spoil_bytes(text.encode("latin-1"), random)
