"""A client of the gateway, for programs and for `nutridet client`.

Belongs here: sending photos and reading answers. Does not belong here: anything of the server's but its wire format,
so that a client needs neither torch nor FastAPI.

    with Client("http://127.0.0.1:8000") as client:
        for box in client.detect("photo.jpg").boxes:
            print(box.px)
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import httpx
from pydantic import BaseModel

from nutridet_core.errors import DataError, NutridetError, SettingsError
from nutridet_core.serving.schemas import Detection, ErrorBody, ModelInfo, Problem

_BUSY, _UNAVAILABLE = 429, 503
_LONGEST_PAUSE = 60.0

_Body = TypeVar("_Body", bound=BaseModel)


class ServiceError(NutridetError):
    """The gateway refused, failed, or is not there. `status` is HTTP's; None when there was no answer."""

    def __init__(self, problem: str, *, where: str, field: str | None, remedy: str | None, status: int | None) -> None:
        self.status = status
        super().__init__(problem, where=where, field=field, remedy=remedy)


class Client:
    """One gateway. A full queue is waited for as long as the gateway asks to.

    Args:
        url: of the gateway.
        key: if it wants one.
        seconds: longest wait for one answer.
        patience: how long a photo is offered to a full queue, s; many clients take more turns than a few.
        sleep: how it waits.

    Raises:
        SettingsError: when `url` is no address, or no header can carry `key`.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        *,
        key: str | None = None,
        seconds: float = 120.0,
        patience: float = 600.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.url, self._patience, self._sleep = url.rstrip("/"), patience, sleep
        if not _is_address(self.url):
            raise SettingsError(f"{url!r} is no address", field="url", remedy="Give http://HOST:PORT.")
        if key and not (key.isascii() and key.isprintable()):
            raise SettingsError(
                "has characters that no HTTP header can carry", field="key",
                remedy="Use printable ASCII (NUTRIDET_API_KEY, on the command line).",
            )  # fmt: skip
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = httpx.Client(headers=headers, timeout=seconds, trust_env=False)

    def detect(self, photo: Path | str | bytes) -> Detection:
        """What the model finds in a photo: a file, or its bytes.

        Raises:
            DataError: when the file cannot be read.
            ServiceError: when there is no answer.
        """
        where, content = _read(photo)
        response, waited = self._post(where, content), 0.0
        while _comes_later(response) and waited + (pause := _pause(response)) <= self._patience:
            self._sleep(pause)
            waited += pause
            response = self._post(where, content)
        return _answer(response, where, Detection)

    def detect_all(
        self, photos: Sequence[Path | str | bytes], *, at_once: int = 4
    ) -> Iterator[Detection | NutridetError]:
        """The same for many, `at_once` at the same time, in order. A photo without an answer yields its error."""

        def one(photo: Path | str | bytes) -> Detection | NutridetError:
            try:
                return self.detect(photo)
            except (DataError, ServiceError) as error:
                return error

        with ThreadPoolExecutor(at_once) as threads:
            yield from threads.map(one, photos)

    def model(self) -> ModelInfo:
        """Which model answers.

        Raises:
            ServiceError: when none would answer now.
        """
        try:
            response = self._http.get(f"{self.url}/readyz")
        except httpx.HTTPError as error:
            raise self._unreachable(error, self.url) from error
        return _answer(response, self.url, ModelInfo)

    def close(self) -> None:
        """Close its connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _post(self, where: str, content: bytes) -> httpx.Response:
        try:
            return self._http.post(f"{self.url}/v1/detect", files={"image": (Path(where).name, content)})
        except httpx.HTTPError as error:
            raise self._unreachable(error, where) from error

    def _unreachable(self, error: httpx.HTTPError, where: str) -> ServiceError:
        return ServiceError(
            f"no answer from {self.url} ({type(error).__name__})", where=where, field=None,
            remedy="Start one with `nutridet serve`, or name another with --url.", status=None,
        )  # fmt: skip


def _read(photo: Path | str | bytes) -> tuple[str, bytes]:
    if isinstance(photo, bytes):
        return f"photo of {len(photo)} bytes", photo
    try:
        return str(photo), Path(photo).read_bytes()
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", where=photo, remedy="Correct the path.") from error


def _is_address(url: str) -> bool:
    """Whether a request could be sent there."""
    try:
        host = httpx.URL(url).host.encode("idna")  # what looking it up begins with
    except (httpx.InvalidURL, UnicodeError):
        return False
    return url.startswith(("http://", "https://")) and bool(host)


def _answer(response: httpx.Response, where: str, form: type[_Body]) -> _Body:
    """The body.

    Raises:
        ServiceError: when it is another one.
    """
    problem, field, remedy = f"answered with status {response.status_code}", None, "Is this a nutridet gateway?"
    if response.is_success:
        with suppress(ValueError):
            return form.model_validate_json(response.content)
        problem = f"answered with something else than a {form.__name__}"
    elif told := _told(response):
        problem, field, remedy = told.message.removesuffix(f". {told.remedy}"), told.field, told.remedy
    raise ServiceError(problem, where=where, field=field, remedy=remedy, status=response.status_code)


def _told(response: httpx.Response) -> Problem | None:
    """What the gateway itself says is wrong."""
    try:
        return ErrorBody.model_validate_json(response.content).error
    except ValueError:
        return None


def _comes_later(response: httpx.Response) -> bool:
    """Whether to send it again: the queue is full, or there are too many connections, for which servers and proxies
    say 503 in words of their own. A gateway's 503 is about its engine.
    """
    status = response.status_code
    return status == _BUSY or (status == _UNAVAILABLE and _told(response) is None)


def _pause(response: httpx.Response) -> float:
    """What the gateway asks for, and up to half as much again: clients that were refused together come apart."""
    asked = response.headers.get("retry-after", "")
    seconds = float(asked) if asked.isdecimal() else 1.0
    return min(_LONGEST_PAUSE, seconds * random.uniform(1.0, 1.5))
