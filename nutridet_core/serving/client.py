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
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from nutridet_core.errors import DataError, NutridetError, SettingsError
from nutridet_core.serving.schemas import Detection, ModelInfo

_BUSY = 429
_LONGEST_PAUSE = 60.0


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
        if not self.url.startswith(("http://", "https://")):
            raise SettingsError(f"{url!r} is no address", field="url", remedy="Give http://HOST:PORT.")
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
        while response.status_code == _BUSY and waited + (pause := _pause(response)) <= self._patience:
            self._sleep(pause)
            waited += pause
            response = self._post(where, content)
        return Detection.model_validate(self._answer(response, where))

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
        return ModelInfo.model_validate(self._answer(response, self.url))

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

    def _answer(self, response: httpx.Response, where: str) -> Any:
        if response.is_success:
            return response.json()
        try:
            told = response.json()["error"]
            problem, field, remedy = told["message"].removesuffix(f". {told['remedy']}"), told["field"], told["remedy"]
        except (ValueError, KeyError, TypeError):
            problem, field, remedy = f"answered with status {response.status_code}", None, "Is this a nutridet gateway?"
        raise ServiceError(problem, where=where, field=field, remedy=remedy, status=response.status_code)

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


def _pause(response: httpx.Response) -> float:
    """What the gateway asks for, and up to half as much again: clients that were refused together come apart."""
    asked = response.headers.get("retry-after", "")
    seconds = float(asked) if asked.isdecimal() else 1.0
    return min(_LONGEST_PAUSE, seconds * random.uniform(1.0, 1.5))
