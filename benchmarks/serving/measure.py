"""What each server is asked, and what it took.

Belongs here: rows of raw times. Does not belong here: statistics (`report`), or the requests (`questions`).
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.serving.load import CHAT, WARM_UP, Address, ask_all, clocks, passed
from benchmarks.serving.questions import ENCODERS, FORCED, ONE_BOX, Questions

TOGETHER = (8, 32, 128)
_REQUESTS = 4  # for every place, in a row of many together


class Measurement:
    """One server's rows.

    Args:
        singles: photos in a row that asks one at a time.
    """

    def __init__(self, server: str, address: Address, ask: Questions, singles: int) -> None:
        self.server, self.address, self.ask, self.singles = server, address, ask, singles
        self.rows: list[dict[str, Any]] = []

    async def row(self, name: str, bodies: Sequence[bytes], together: int = 1, *, keep: bool = False) -> None:
        """Ask, and note the times, the server's own clocks and, where wanted, the answers."""
        await ask_all(self.address, CHAT, bodies[: max(WARM_UP, together)], together=together)
        before = clocks(self.address)
        answered, wall = await ask_all(self.address, CHAT, bodies, together=together)
        row = {
            "server": self.server, "row": name, "together": together, "wall": wall,
            "seconds": [round(each.seconds, 5) for each in answered], "tokens": [each.tokens for each in answered],
            "prompt_tokens": answered[0].prompt_tokens, "clocks": passed(before, clocks(self.address)),
            "texts": [each.text for each in answered] if keep else [],
        }  # fmt: skip
        self.rows.append(row)
        _tell(row)

    def many(self, together: int) -> int:
        """Requests in a row of so many together."""
        return min(len(self.ask.large), max(64, _REQUESTS * together))


async def stock(take: Measurement) -> None:
    """What takes a request apart, and what can be changed about it alone."""
    ask, half = take.ask, max(4, take.singles // 2)
    await take.row("one token", ask.forced(half, 1))
    await take.row("one token, no photo", ask.blind(half, 606))
    await take.row("24 tokens", ask.forced(half, ONE_BOX))
    await take.row("24 tokens, no probabilities", ask.forced(half, ONE_BOX, logprobs=False))
    for kind in ENCODERS:
        await take.row(f"24 tokens, photo resized, {kind}", ask.resized(half, kind))
    await take.row("begun", ask.begun(ask.natural(half)))
    await take.row("begun, all", ask.begun(ask.small()), 32, keep=True)
    await take.row("grammar", ask.ruled(take.singles))
    for together in TOGETHER[:-1]:
        await take.row("32 tokens", ask.forced(take.many(together), FORCED), together)


async def answers(take: Measurement) -> None:
    """About all drawn photos; answers are kept."""
    await take.row("own answers, all", take.ask.small(), 32, keep=True)


async def small_singles(take: Measurement) -> None:
    """The model's own answers about drawn photos, one at a time."""
    await take.row("own answers", take.ask.small(take.singles))


async def singles(take: Measurement) -> None:
    """One request at a time: the model's own answers, and as many tokens as other figures have."""
    await take.row("own answers", take.ask.natural(take.singles), keep=True)
    await take.row("32 tokens", take.ask.forced(take.singles, FORCED))


async def crowd(take: Measurement) -> None:
    """As many together as there are places."""
    await take.row("32 tokens", take.ask.forced(take.many(TOGETHER[-1]), FORCED), TOGETHER[-1])
    await take.row("own answers", take.ask.natural(take.many(TOGETHER[-1])), TOGETHER[-1])


async def throughput(take: Measurement) -> None:
    """Requests together."""
    for together in TOGETHER:
        await take.row("own answers", take.ask.natural(take.many(together)), together)


async def ruled(take: Measurement) -> None:
    """What vLLM's grammar costs where tokens are drafted."""
    await take.row("grammar", take.ask.ruled(take.singles))


Step = Callable[[Measurement], Awaitable[None]]
STEPS: dict[str, tuple[Step, ...]] = {
    "bf16": (singles, answers, stock, crowd),
    "fp8": (singles, answers, crowd),
    "fp8-drafts": (singles, answers, throughput),
    "fp8-fast": (singles, answers, ruled, throughput),
    "fp8-four": (singles, answers, crowd),
    "fp8-fast-four": (singles, answers, crowd),
    "fp8-four-single": (answers, crowd),
    "fp8-four-graphs": (answers, crowd),
    "fp8-four-graphs-single": (singles, answers, crowd),
    "fp8-four-graphs-pinned": (crowd,),
    "fp8-four-graphs-long": (crowd,),
    "fp8-eight-graphs-single": (crowd,),
    "fp8-four-shared": (crowd,),
    "tiny-bf16": (answers,),
    "tiny-fp8": (answers,),
    "cpu": (small_singles, answers),
    "cpu-drafts": (small_singles, answers),
    "cpu-fp8": (answers,),
}
"""What each server is asked; others get `singles` and `answers`."""


def steps_of(server: str) -> tuple[Step, ...]:
    """What a server is asked."""
    return STEPS.get(server, (singles, answers))


def weights_gib(log: Path) -> float | None:
    """What vLLM says that loading the weights took."""
    found = re.findall(r"Model loading took ([0-9.]+) GiB", log.read_text(errors="replace"))
    return float(found[-1]) if found else None


def gpu_mib() -> int | None:
    """Memory of the GPU in use; None without one."""
    line = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    try:
        return int(subprocess.run(line, capture_output=True, text=True, check=True).stdout.split()[0])
    except (OSError, subprocess.CalledProcessError):
        return None


def _tell(row: dict[str, Any]) -> None:
    seconds, count = sorted(row["seconds"]), len(row["seconds"])
    print(
        f"{row['server']:18} {row['row']:32} x{row['together']:<4} n {count:<4}"
        f" p50 {1000 * seconds[count // 2]:7.1f} ms {count / row['wall']:6.1f} photos/s,"
        f" {sum(row['tokens']) / count:.1f} tokens", flush=True,
    )  # fmt: skip
