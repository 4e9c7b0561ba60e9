"""What every result file has: how it was made, rates with intervals, memory of the GPU.

Belongs here: what several benchmarks measure or say in the same way. Does not belong here: what they measure
(`training`, `evaluation`, ...), or the models they measure it on (`seven`).

Torch is imported when a function needs it: some benchmarks fork before they do.
"""

from __future__ import annotations

import gc
import os
import platform
import random
from statistics import fmean
from typing import Any

from nutridet_core.artifacts.store import git_commit, stack_versions

_RESAMPLES = 2000


def header(command: str, device: str | None = None) -> dict[str, Any]:
    """How the numbers of a result file were made.

    Args:
        device: what they were made on; this machine's GPU, or its processor, when not given.
    """
    return {
        "command": command,
        "device": device or device_name(),
        "versions": stack_versions(),
        "git_commit": git_commit(),
    }


def device_name() -> str:
    """The GPU; the processor where there is none."""
    import torch

    return str(torch.cuda.get_device_name()) if torch.cuda.is_available() else processor_name()


def processor_name() -> str:
    """The processor, for what uses no GPU."""
    return f"{os.cpu_count()} cores, {platform.processor() or platform.machine()}, no GPU"


def rate(times: list[float], photos: int) -> dict[str, float]:
    """Photos per second, with a 95 % bootstrap interval over the times of steps."""
    rng = random.Random(0)
    means = sorted(photos / fmean(rng.choices(times, k=len(times))) for _ in range(_RESAMPLES))
    low, high = means[round(0.025 * _RESAMPLES)], means[round(0.975 * _RESAMPLES) - 1]
    return {"value": photos / fmean(times), "low": low, "high": high, "n": len(times)}


def ratio(fast: dict[str, float], slow: dict[str, float]) -> dict[str, float]:
    """Of two rates; its interval is the widest that theirs allow."""
    return {
        "value": fast["value"] / slow["value"],
        "low": fast["low"] / slow["high"],
        "high": fast["high"] / slow["low"],
    }


def free_memory() -> None:
    """Give cached memory back, and start a new peak."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_gib() -> float | None:
    """Most memory allocated since `free_memory`; None without a GPU."""
    import torch

    return torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else None
