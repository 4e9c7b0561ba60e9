"""What became of an input, and what is a fair outcome.

Belongs here: the judgement that all targets share. Does not belong here: the targets (`targets`).
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

from nutridet_core.errors import NutridetError


@dataclass(frozen=True)
class Outcome:
    """What became of an input."""

    kind: str
    """value, problem (a bad answer or photo that is counted), refused (a clear error) or broken."""
    detail: str


Feed = Callable[[Any], Outcome]


def judged(use: Callable[[Any], Outcome]) -> Callable[[], AbstractContextManager[Feed]]:
    """A target that needs nothing around it."""

    @contextmanager
    def opened() -> Iterator[Feed]:
        yield lambda given: judge(use, given)

    return opened


def judge(use: Callable[[Any], Outcome], given: Any) -> Outcome:
    """The outcome; an error of this project is a refusal, any other breaks the promise."""
    try:
        return use(given)
    except NutridetError as error:
        return _refused(error)
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        return Outcome("broken", f"{type(error).__name__}: {str(error)[:200]} ({last.name}, line {last.lineno})")


def _refused(error: NutridetError) -> Outcome:
    """A clear error says where, and is none of memory that ran out."""
    if isinstance(error.__cause__, MemoryError):
        return Outcome("broken", f"out of memory: {error}")
    if not error.problem or not (error.where or error.field):
        return Outcome("broken", f"an error that does not say where: {error}")
    return Outcome("refused", type(error).__name__)
