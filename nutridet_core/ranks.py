"""Processes that train together, one per GPU.

Belongs here: who is who, and agreeing on a number. Does not belong here: training (`pretrain`).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import distributed


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
        if world > 1:
            distributed.init_process_group("nccl" if cuda else "gloo", timeout=timedelta(minutes=5))
        return Ranks(distributed.get_rank() if world > 1 else 0, world, device)

    def agree(self, value: float) -> float:
        """Rank 0's value, on every rank."""
        if self.world == 1:
            return value
        shared = torch.tensor(value, dtype=torch.float64, device=self.device)
        distributed.broadcast(shared, src=0)
        return float(shared.item())
