"""Processes that train together, one per GPU.

Belongs here: who is who, and what they do one for all or all at once. Does not belong here: training (`train`,
`tiny.pretrain`), or starting the processes (`nutridet_assets.agent`).

A failure of one is a failure of all, with its reason: a process that went on alone would wait for the others forever.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import distributed

from nutridet_core.errors import AuditError, NutridetError

T = TypeVar("T")
_TIMEOUT = timedelta(minutes=10)
"""For one exchange, longer than hashing a folder takes. A killed process is noticed by who started it, at once."""


@dataclass(frozen=True)
class Ranks:
    """Which process this is of those that train together, one per GPU."""

    rank: int
    world: int
    device: torch.device

    @staticmethod
    def join() -> Ranks:
        """As `torchrun` says, or alone."""
        cuda, world = torch.cuda.is_available(), int(os.environ.get("WORLD_SIZE", "1"))
        local = int(os.environ.get("LOCAL_RANK", "0"))
        device = torch.device("cuda", local) if cuda else torch.device("cpu")
        if cuda:
            torch.cuda.set_device(device)
        if world > 1 and not distributed.is_initialized():
            distributed.init_process_group("nccl" if cuda else "gloo", timeout=_TIMEOUT)
        return Ranks(distributed.get_rank() if world > 1 else 0, world, device)

    @property
    def leads(self) -> bool:
        """Whether this is the one that writes and reports."""
        return self.rank == 0

    def leave(self) -> None:
        """After the last exchange."""
        if self.world > 1:
            distributed.destroy_process_group()

    def wait(self) -> None:
        """Until all ranks are here."""
        if self.world > 1:
            distributed.barrier(device_ids=[self.device.index] if self.device.type == "cuda" else None)

    def agree(self, value: float) -> float:
        """Rank 0's value, on every rank."""
        if self.world == 1:
            return value
        shared = torch.tensor(value, dtype=torch.float64, device=self.device)
        distributed.broadcast(shared, src=0)
        return float(shared.item())

    def gather(self, value: T) -> list[T]:
        """Every rank's value, on every rank."""
        values = [value] * self.world
        if self.world > 1:
            distributed.all_gather_object(values, value)
        return values

    def all_do(self, action: Callable[[], T]) -> T:
        """Every rank does it.

        Raises:
            NutridetError: on every rank, where one has failed.
        """
        result, failure = _attempt(action)
        self._raise_first(failure)
        return result  # type: ignore[return-value]

    def first_does(self, action: Callable[[], T]) -> T:
        """Rank 0 does it; every rank gets its result, or its error."""
        result, failure = _attempt(action) if self.leads else (None, None)
        self._raise_first(failure)
        return self.gather(result)[0]  # type: ignore[return-value]

    def _raise_first(self, failure: NutridetError | None) -> None:
        told = self.gather(None if failure is None else _told(failure))
        if failure is not None:
            raise failure
        for rank, words in enumerate(told):
            if words is not None:
                raise _again(rank, words)


def _attempt(action: Callable[[], T]) -> tuple[T | None, NutridetError | None]:
    try:
        return action(), None
    except NutridetError as error:
        return None, error


def _told(failure: NutridetError) -> dict[str, Any]:
    """What another process needs to raise it too."""
    return {"text": str(failure), "evidence": failure.evidence if isinstance(failure, AuditError) else None}


def _again(rank: int, words: dict[str, Any]) -> NutridetError:
    text = f"rank {rank}: {words['text']}"
    return NutridetError(text) if words["evidence"] is None else AuditError(text, evidence=words["evidence"])
