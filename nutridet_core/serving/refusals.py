"""Refusals: what a client is told when it gets no boxes, and why.

Belongs here: the one error type of the API and its JSON form. Does not belong here: a model's bad answer,
which is a result with `problems`.
"""

from __future__ import annotations

from typing import Any

from nutridet_core.data.photos import PhotoError, Reason
from nutridet_core.errors import NutridetError


class RefusedError(NutridetError):
    """An HTTP error with its field and remedy.

    Args:
        status: HTTP status.
        kind: one word for programs.
    """

    def __init__(
        self,
        status: int,
        kind: str,
        problem: str,
        *,
        field: str,
        remedy: str,
        headers: dict[str, str] | None = None,
    ) -> None:
        self.status, self.kind, self.headers = status, kind, headers or {}
        super().__init__(problem, field=field, remedy=remedy)

    @property
    def body(self) -> dict[str, Any]:
        """As JSON; `message` is where OpenAI's clients look."""
        message = f"{self.problem}. {self.remedy}"
        return {"error": {"type": self.kind, "message": message, "field": self.field, "remedy": self.remedy}}


def of_photo(error: PhotoError, field: str) -> RefusedError:
    """A photo that cannot be used."""
    status = 413 if error.reason is Reason.TOO_MANY_BYTES else 422
    return RefusedError(status, error.reason.value, f"photo {error.problem}", field=field, remedy=str(error.remedy))


def busy(seconds: int) -> RefusedError:
    """The queue is full."""
    return RefusedError(
        429, "busy", "as many photos are waiting as are allowed to", field="queue",
        remedy=f"Send it again in {seconds} s.", headers={"Retry-After": str(seconds)},
    )  # fmt: skip


def too_slow(seconds: float) -> RefusedError:
    """No answer in time."""
    return RefusedError(
        504, "timeout", f"no answer within {seconds:g} s", field="engine",
        remedy="Send it again; if it happens often, the engine is overloaded.",
    )  # fmt: skip


def too_much_body(limit: int) -> RefusedError:
    """More bytes than any photo or batch may have."""
    return RefusedError(
        413, "body_too_large", f"the request has more than {limit} bytes", field="body",
        remedy="Save the photo smaller, or send fewer at once.",
    )  # fmt: skip


def too_many_photos(most: int) -> RefusedError:
    """More photos than a batch may have."""
    return RefusedError(
        413, "batch_too_large", f"the batch has more than {most} photos", field="images",
        remedy="Send fewer photos at once.",
    )  # fmt: skip


def no_engine(problem: str) -> RefusedError:
    """The engine failed. What exactly it said stays in the server's log."""
    return RefusedError(
        502, "engine_failed", problem, field="engine", remedy="Send it again; the server's log says what happened."
    )


def bad_request(problem: str, *, field: str, remedy: str, status: int = 400, kind: str = "bad_request") -> RefusedError:
    """A request that says something else than the API does."""
    return RefusedError(status, kind, problem, field=field, remedy=remedy)
