"""The gateway: routes, key and error bodies of the HTTP API.

Belongs here: HTTP. Does not belong here: what happens to a photo (`detector`) or starting a server (`run`).
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Header, Query, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import nutridet_core
from nutridet_core.serving import chat as chats
from nutridet_core.serving import photos, refusals
from nutridet_core.serving.admission import Admission
from nutridet_core.serving.detector import Detector, Limits, model_info
from nutridet_core.serving.holder import Holder
from nutridet_core.serving.refusals import RefusedError
from nutridet_core.serving.schemas import (
    BatchAnswer,
    BatchRequest,
    ChatRequest,
    Detection,
    DetectRequest,
    ErrorBody,
    ListedModel,
    ModelInfo,
    ModelList,
)

_Model = Annotated[str | None, Query(description="A name of /v1/models; without one, the model that is served.")]
PLAYGROUND = Path(__file__).with_name("playground.html")

Background = Callable[[Detector], Coroutine[Any, Any, None]]
"""What runs beside the requests, e.g. following a registry alias."""


@dataclass(frozen=True)
class GatewayOptions:
    """How a gateway behaves."""

    limits: Limits = field(default_factory=Limits)
    key: str | None = None
    """What clients must show under /v1; None asks nobody."""
    allowed_origins: tuple[photos.Origin, ...] = ()
    """Whence photos are fetched."""
    hosts: tuple[str, ...] | None = None
    """Names of this machine that are answered to, against pages elsewhere whose own name is made to mean it."""


def create_app(
    holder: Holder,
    options: GatewayOptions,
    background: Sequence[Background] = (),
    beside: Mapping[str, Holder] | None = None,
) -> FastAPI:
    """The ASGI application. It closes the holders' models when it ends.

    Args:
        beside: further models to compare with, by name.
    """
    detector = Detector(holder, options.limits, beside)
    app = FastAPI(
        title="nutridet",
        version=nutridet_core.__version__,
        description="Finds nutrition tables in product photos.",
        lifespan=_lifespan(detector, background),
        docs_url=None,  # FastAPI's pages load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,  # to an address made of whatever the client called this host
        responses={"4XX": {"model": ErrorBody}, "5XX": {"model": ErrorBody}},
    )
    app.add_middleware(_CheckAndCount, detector=detector, hosts=options.hosts)
    _tell_refusals(app)
    _add_probes(app, detector)
    _add_detection(app, detector, options)
    return app


def _lifespan(
    detector: Detector, background: Sequence[Background]
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(start(detector)) for start in background]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
            await detector.close()

    return lifespan


def _add_probes(app: FastAPI, detector: Detector) -> None:
    @app.get("/healthz", summary="Whether this process answers.", response_class=PlainTextResponse)
    async def healthz() -> str:
        return "ok"

    @app.get("/readyz", summary="Whether the model would answer now.")
    async def readyz() -> ModelInfo:
        served = detector.holder.served
        if not await served.engine.ready():
            raise RefusedError(
                503, "not_ready", "the engine does not answer", field="engine", remedy="Ask again shortly."
            )
        return model_info(served)

    @app.get("/metrics", summary="For Prometheus.", response_class=PlainTextResponse)
    async def metrics() -> Response:
        return Response(detector.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/", summary="A page to try it.", response_class=HTMLResponse)
    async def playground() -> HTMLResponse:
        return HTMLResponse(PLAYGROUND.read_text(encoding="utf-8"), headers={"Content-Security-Policy": _POLICY})


_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src blob: data:; "
    "connect-src 'self'; form-action 'none'; frame-ancestors 'none'; base-uri 'none'"
)


def _add_detection(app: FastAPI, detector: Detector, options: GatewayOptions) -> None:
    limits = options.limits
    fetcher = photos.Fetcher(options.allowed_origins, limits.photo.bytes)
    known = [Depends(_require_key(options.key))]
    admitted = [*known, Depends(_bound(limits.requests))]  # whoever shows no key takes no room

    @app.get("/v1/models", dependencies=known, summary="Models that `model` can name.")
    async def models() -> ModelList:
        listed = {"": detector.holder, **detector.beside}
        return ModelList(data=[ListedModel(id=name, model=model_info(each.served)) for name, each in listed.items()])

    @app.post("/v1/detect", dependencies=admitted, openapi_extra=_body(DetectRequest, "image"))
    async def detect(request: Request, model: _Model = None) -> Detection:
        """Find the nutrition tables in a photo: a form with one file, or JSON."""
        if photos.is_form(request):
            (content,) = await photos.read_form(request, limits.body, limits.body_seconds, 1)
        else:
            asked = await photos.read_json(request, DetectRequest, limits.body, limits.body_seconds)
            content = await photos.resolve(asked.image, fetcher, "image")
        return await detector.detect(content, model=model)

    @app.post("/v1/detect/batch", dependencies=admitted, openapi_extra=_body(BatchRequest, "images"))
    async def detect_batch(request: Request, model: _Model = None) -> BatchAnswer:
        """The same for several photos at once. A photo that cannot be used has an error in its place."""
        if photos.is_form(request):
            form = await photos.read_form(request, limits.batch_body, limits.body_seconds, limits.together)
            return BatchAnswer(results=await detector.detect_all(form, model=model))
        asked = await photos.read_json(request, BatchRequest, limits.batch_body, limits.body_seconds)
        if len(asked.images) > limits.together:  # before they are fetched
            raise refusals.too_many_photos(limits.together)
        contents = await photos.resolve_each(asked.images, fetcher, "images")
        return BatchAnswer(results=await detector.detect_all(contents, model=model))

    @app.post("/v1/chat/completions", dependencies=admitted, openapi_extra=_body(ChatRequest, None))
    async def chat(request: Request) -> dict[str, Any]:
        """For OpenAI's clients. The model is asked its own question, whatever the message says."""
        asked = await photos.read_json(request, ChatRequest, limits.body, limits.body_seconds)
        field = "messages.content.image_url"
        content = await photos.resolve(chats.photo_reference(asked), fetcher, field)
        return chats.completion(asked, await detector.detect(content, field))


def _require_key(key: str | None) -> Callable[..., Coroutine[Any, Any, None]]:
    """Compares in constant time; a wrong key and no key are told the same. FastAPI runs it in a thread, were it not
    async.
    """

    async def require(
        authorization: Annotated[str, Header(description="Bearer KEY")] = "",
        x_api_key: Annotated[str, Header()] = "",
    ) -> None:
        shown = x_api_key or authorization.removeprefix("Bearer ")
        if key is not None and not hmac.compare_digest(shown.encode(), key.encode()):
            raise RefusedError(
                401, "unauthorised", "the key is missing or wrong", field="authorization",
                remedy="Send the header Authorization: Bearer KEY.", headers={"WWW-Authenticate": "Bearer"},
            )  # fmt: skip

    return require


def _bound(requests: int) -> Callable[[], AsyncIterator[None]]:
    """No more requests than that have bodies in memory. uvicorn's own limit is no such bound: it counts connections,
    idle ones too, and refuses probes.
    """
    room = Admission(requests)

    async def hold() -> AsyncIterator[None]:
        with room.place():
            yield

    return hold


def _body(model: type[Any], files: str | None) -> dict[str, Any]:
    """The request body as OpenAPI has it: FastAPI cannot see that a route reads two content types."""
    content: dict[str, Any] = {"application/json": {"schema": model.model_json_schema()}}
    if files is not None:
        file: dict[str, Any] = {"type": "string", "format": "binary"}
        schema = file if files == "image" else {"type": "array", "items": file}
        content["multipart/form-data"] = {"schema": {"type": "object", "properties": {files: schema}}}
    return {"requestBody": {"required": True, "content": content}}


class _CheckAndCount:
    """Refuses requests for other hosts and counts statuses. Plain ASGI: FastAPI's own kind of middleware passes every
    chunk of a photo through two more tasks.
    """

    def __init__(self, app: ASGIApp, detector: Detector, hosts: tuple[str, ...] | None) -> None:
        self.app, self.requests, self.hosts = app, detector.metrics.requests, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request; what is no request (the lifespan) goes through untouched."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = getattr(scope.get("route"), "path", "other")
                self.requests.labels(route, str(message["status"])).inc()
            await send(message)

        known = self.hosts is None or Request(scope).url.hostname in self.hosts
        await (self.app if known else _foreign_host())(scope, receive, counted)


def _foreign_host() -> Response:
    refusal = refusals.bad_request(
        "this machine is not called that", field="host", status=421, kind="foreign_host",
        remedy="Use localhost or 127.0.0.1, or set NUTRIDET_API_KEY to be reached through a proxy.",
    )  # fmt: skip
    return JSONResponse(refusal.body, refusal.status)


def _tell_refusals(app: FastAPI) -> None:
    @app.exception_handler(RefusedError)
    async def refused(request: Request, refusal: RefusedError) -> JSONResponse:
        return JSONResponse(refusal.body, refusal.status, refusal.headers)

    @app.exception_handler(Exception)
    async def broken(request: Request, error: Exception) -> JSONResponse:
        refusal = refusals.bad_request(
            "the gateway failed", field="server", remedy="The server's log says where.", status=500, kind="internal"
        )
        return JSONResponse(refusal.body, refusal.status)

    @app.exception_handler(StarletteHTTPException)
    async def failed(request: Request, error: StarletteHTTPException) -> JSONResponse:
        refusal = refusals.bad_request(
            str(error.detail), field="path", remedy="See /openapi.json.", status=error.status_code, kind="http"
        )
        return JSONResponse(refusal.body, error.status_code, dict(error.headers or {}))
