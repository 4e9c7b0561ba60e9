"""Where a request's photos come from: a form, base64, a data: URL, or a host that the operator allows.

Belongs here: bytes of encoded photos, no more of them than allowed. Does not belong here: decoding them
(`data.examples`, called by `detector`).
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import AsyncGenerator, Sequence
from typing import TypeVar
from urllib.parse import urlsplit

import httpx
from pydantic import BaseModel, ValidationError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from nutridet_core.errors import SettingsError
from nutridet_core.serving import refusals
from nutridet_core.serving.refusals import RefusedError

_FETCH_SECONDS = 10.0
_PORTS = {"https": 443, "http": 80}

_Body = TypeVar("_Body", bound=BaseModel)
Origin = tuple[str, str, int]
"""Scheme, host, port."""


def parse_origin(text: str) -> Origin:
    """An entry of the allow-list: `images.example.org` (https), or `http://intranet:8080`.

    Raises:
        SettingsError: when it is neither.
    """
    url = text if "://" in text else f"https://{text}"
    origin = _origin(url)
    if origin is None or urlsplit(url).path.strip("/"):
        raise SettingsError(
            f"{text!r} is no host", field="allow-host", remedy="Give a host name, or scheme://host:port."
        )
    return origin


class Fetcher:
    """Fetches photos from allowed origins: no redirects, no proxy, no more bytes than a photo may have.

    Args:
        allowed: origins; nothing is fetched when there are none.
        max_bytes: of one photo.
    """

    def __init__(self, allowed: Sequence[Origin], max_bytes: int) -> None:
        self.allowed, self.max_bytes = frozenset(allowed), max_bytes

    async def fetch(self, url: str, field: str) -> bytes:
        """The bytes at a URL.

        Raises:
            RefusedError: when the origin is not allowed, or does not give a photo's bytes.
        """
        if _origin(url) not in self.allowed:
            raise refusals.bad_request(
                "photos are not fetched from this address", field=field, status=403, kind="host_not_allowed",
                remedy="Send the photo itself, or ask the operator to allow the host (--allow-host).",
            )  # fmt: skip
        try:
            async with asyncio.timeout(_FETCH_SECONDS):
                return await self._read(url, field)
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
            raise self._failed(type(error).__name__, field) from error

    async def _read(self, url: str, field: str) -> bytes:
        content = bytearray()
        async with (
            httpx.AsyncClient(follow_redirects=False, trust_env=False) as client,
            client.stream("GET", url) as response,
        ):
            if response.status_code != httpx.codes.OK:
                raise self._failed(f"status {response.status_code}", field)
            async for chunk in response.aiter_bytes():
                content += chunk
                if len(content) > self.max_bytes:
                    raise refusals.too_much_body(self.max_bytes)
        return bytes(content)

    @staticmethod
    def _failed(what: str, field: str) -> RefusedError:
        return refusals.bad_request(
            f"the photo could not be fetched ({what})", field=field, status=422, kind="not_fetched",
            remedy="Check the address, or send the photo itself; redirects are not followed.",
        )  # fmt: skip


async def resolve(reference: str, fetcher: Fetcher, field: str) -> bytes:
    """The bytes that a string in JSON stands for: base64, a data: URL, or an address.

    Raises:
        RefusedError: when it stands for none.
    """
    if reference[:8].lower().startswith(("http://", "https://")):
        return await fetcher.fetch(reference, field)
    encoded = reference
    if reference.startswith("data:"):
        head, comma, encoded = reference.partition(",")
        if not comma or not head.endswith(";base64"):
            raise _not_base64(field)
    try:
        return base64.b64decode("".join(encoded.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise _not_base64(field) from error


async def resolve_each(references: Sequence[str], fetcher: Fetcher, field: str) -> list[bytes | RefusedError]:
    """The same for several, fetched at the same time; for those that stand for none, why."""

    async def one(number: int, reference: str) -> bytes | RefusedError:
        try:
            return await resolve(reference, fetcher, f"{field}[{number}]")
        except RefusedError as refusal:
            return refusal

    return list(await asyncio.gather(*(one(number, each) for number, each in enumerate(references))))


async def read_json(request: Request, model: type[_Body], limit: int, seconds: float) -> _Body:
    """A JSON body.

    Raises:
        RefusedError: naming the first field that is wrong.
    """
    try:
        async with asyncio.timeout(seconds):
            content = b"".join([chunk async for chunk in _counted(request, limit)])
        return model.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "body"
        raise refusals.bad_request(
            f"{place}: {first['msg']}", field=place, status=422, remedy="See /openapi.json for the request's form."
        ) from error
    except (TimeoutError, ClientDisconnect) as error:
        raise _not_sent(seconds) from error


async def read_form(request: Request, limit: int, seconds: float, most: int) -> list[bytes]:
    """The files of a form, whatever their fields are called.

    Raises:
        RefusedError: when there are none, or more than `most`; where several may be sent, as a batch that is too large.
    """
    try:
        async with asyncio.timeout(seconds):
            parser = MultiPartParser(request.headers, _counted(request, limit), max_files=most, max_fields=16)
            form = await parser.parse()
            contents = [await value.read() for _, value in form.multi_items() if isinstance(value, UploadFile)]
            await form.close()
    except MultiPartException as error:
        if most > 1 and error.message.startswith("Too many files"):
            raise refusals.too_many_photos(most) from error
        raise refusals.bad_request(
            f"the form is malformed ({error.message})", field="body",
            remedy=f"Send multipart/form-data with at most {most} file(s), e.g. curl -F image=@photo.jpg.",
        ) from error  # fmt: skip
    except (TimeoutError, ClientDisconnect) as error:
        raise _not_sent(seconds) from error
    if not contents:
        raise refusals.bad_request(
            "the form has no file", field="image", remedy="Add a file, e.g. curl -F image=@photo.jpg."
        )
    return contents


def is_form(request: Request) -> bool:
    """Whether the body is a form; else it must be JSON.

    Raises:
        RefusedError: when it is neither.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in ("multipart/form-data", "application/json"):
        raise refusals.bad_request(
            f"content type {kind[:60]!r} is not read", field="content-type", status=415, kind="content_type",
            remedy="Send multipart/form-data or application/json.",
        )  # fmt: skip
    return kind == "multipart/form-data"


async def _counted(request: Request, limit: int) -> AsyncGenerator[bytes, None]:
    """The body's chunks until there are too many bytes of them."""
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > limit:
        raise refusals.too_much_body(limit)
    received = 0
    async for chunk in request.stream():
        received += len(chunk)
        if received > limit:
            raise refusals.too_much_body(limit)
        yield chunk


def _origin(url: str) -> Origin | None:
    try:
        parts = urlsplit(url)
        port = parts.port or _PORTS.get(parts.scheme, 0)
    except ValueError:
        return None
    if parts.scheme not in _PORTS or not parts.hostname or parts.username is not None:
        return None
    return parts.scheme, parts.hostname.lower().rstrip("."), port


def _not_base64(field: str) -> RefusedError:
    return refusals.bad_request(
        "the photo is not base64", field=field, status=422, kind="not_base64",
        remedy="Send base64, or data:image/jpeg;base64,... .",
    )  # fmt: skip


def _not_sent(seconds: float) -> RefusedError:
    return refusals.bad_request(
        f"the request did not arrive within {seconds:g} s", field="body", status=408, kind="not_sent",
        remedy="Send it again.",
    )  # fmt: skip
