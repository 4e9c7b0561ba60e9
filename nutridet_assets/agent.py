"""The agent: starts one worker per GPU for the same verb, and ends with the first of them that fails.

    python -m nutridet_assets.agent VERB [EXPERIMENT ...]

Belongs here: how many workers there are, and that none outlives the others or the launcher. Does not belong here:
what a worker does (`worker`), or how they exchange what (`nutridet_core.training.ranks`).

It is PyTorch's elastic agent, the one that `accelerate launch` and `torchrun` start, without restarts: a rerun
continues from the last checkpoint. `accelerate launch` itself starts one process where there is no GPU, and would let
the user's own Accelerate configuration change what is trained.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import psutil

from nutridet_assets.worker import follow_launcher
from nutridet_core.children import adopt_orphans
from nutridet_core.settings import Settings


def main(arguments: Sequence[str]) -> int:
    """Run the workers to their end; 0 when all succeeded."""
    follow_launcher()
    adopt_orphans()
    try:
        return start(arguments, Settings().processes or visible_gpus())
    finally:
        end_children()


def visible_gpus() -> int:
    """Those of this machine that `CUDA_VISIBLE_DEVICES` leaves; 1 where there is none."""
    import torch

    return max(1, torch.cuda.device_count())


def start(arguments: Sequence[str], processes: int) -> int:
    """One worker per process, with the environment that this one has, and its rank."""
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as run

    print(f"{processes} processes train together", flush=True)
    options = ["--standalone", "--local-addr=127.0.0.1", f"--nproc-per-node={processes}", "--max-restarts=0"]
    try:
        run([*options, "-m", "nutridet_assets.worker", *arguments])
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        signal = f" by {failure.signal_name()}" if failure.exitcode < 0 else ""
        print(f"rank {rank} was the first to end, with code {failure.exitcode}{signal}", flush=True)
        return 1
    return 0


def end_children() -> None:
    """Kill what the workers have left, data loaders of a killed one for instance."""
    left = psutil.Process(os.getpid()).children(recursive=True)
    for process in left:
        process.kill()
    psutil.wait_procs(left, timeout=10)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
