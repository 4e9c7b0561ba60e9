"""The servers compared: weights, flags, and what each is there to show.

Belongs here: frozen literals, and a process that keeps one server. Does not belong here: what is asked of
them (`measure`).

    python -m benchmarks.serving.servers NAME --work FOLDER    (until it is told to end)
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from nutridet_core.artifacts.store import MANIFEST
from nutridet_core.profiles import QWEN2_VL_7B, TINY, Profile
from nutridet_core.serving.vllm import start
from nutridet_core.serving.vllm_command import VllmOptions

WIDE = replace(QWEN2_VL_7B, name="wide", revision=None, min_pixels=512 * 28 * 28, max_new_tokens=TINY.max_new_tokens)
"""Qwen2-VL-7B, and small photos are enlarged too: all have 512 to 600 image tokens, square ones 576."""

UNCACHED = ("--no-enable-prefix-caching", "--mm-processor-cache-gb", "0", "--max-num-seqs", "128")
"""Repeats would flatter a benchmark."""
_MANY = ("--kv-cache-memory-bytes", str(5 * 2**30))  # 128 requests of 640 tokens
_FEW = ("--kv-cache-memory-bytes", str(1 * 2**30))
_SMALL = ("--kv-cache-memory-bytes", str(2**28))
_CPU = (*_SMALL, "--enforce-eager", "--dtype", "float32", "--skip-mm-profiling", "--max-num-seqs", "8",
        "--max-num-batched-tokens", "640")  # fmt: skip
_ON_GPU = {"min_pixels": WIDE.min_pixels, "max_pixels": WIDE.max_pixels, "device": "cuda"}  # takes the place of ours
_SHARED = ("--mm-tensor-ipc", "torch_shm")  # photos reach the engine in shared memory
_RESIZED_ON_GPU = ("--mm-processor-kwargs", json.dumps(_ON_GPU), "--skip-mm-profiling")  # it pins tensors of the CPU
_FOUR, _EIGHT = ("--api-server-count", "4"), ("--api-server-count", "8")
_LONG_STEPS = ("--max-num-batched-tokens", "16384")  # twice vLLM's own
_ONE_THREAD, _EIGHT_THREADS = {"OMP_NUM_THREADS": "1"}, {"OMP_NUM_THREADS": "8"}
_PINNED = {"PYTORCH_CUDA_ALLOC_CONF": "pinned_use_cuda_host_register:True,pinned_num_register_threads:8"}


@dataclass(frozen=True)
class Server:
    """One configuration."""

    name: str
    weights: str
    """Folder below the work folder."""
    drafts: bool = False
    graphs: bool = False
    flags: tuple[str, ...] = _FEW
    environ: Mapping[str, str] = field(default_factory=dict)
    """Variables beside those that nutridet sets."""
    tiny: bool = False
    """Whether it is asked under the embedded model's own contract."""
    shows: str = ""


SERVERS = (
    Server("bf16", "bf16", flags=_MANY, shows="stock vLLM: what all others are compared with"),
    Server("fp8", "fp8", flags=_MANY, shows="our checkpoint: language model and head in FP8"),
    Server("bf16-drafts", "bf16", drafts=True, shows="drafts of the grammar's tokens, nothing else"),
    Server("fp8-drafts", "fp8", drafts=True, flags=_MANY, shows="FP8 and drafts"),
    Server("fp8-fast", "fp8", drafts=True, graphs=True, flags=_MANY, environ=_ONE_THREAD,
           shows="FP8, drafts, CUDA graphs for everything"),
    Server("fp8-fast-threads", "fp8", drafts=True, graphs=True, environ=_EIGHT_THREADS,
           shows="FP8, drafts, CUDA graphs for everything, eight threads for a photo"),
    Server("fp8-graphs", "fp8", graphs=True, environ=_EIGHT_THREADS,
           shows="FP8, CUDA graphs for everything, eight threads for a photo, no drafts"),
    Server("fp8-fast-resized", "fp8", drafts=True, graphs=True, flags=(*_FEW, *_RESIZED_ON_GPU),
           shows="photos resized on the GPU instead"),
    Server("fp8-fast-four", "fp8", drafts=True, graphs=True, flags=(*_MANY, *_FOUR),
           shows="FP8, drafts, CUDA graphs, four processes for HTTP and photos"),
    Server("fp8-four", "fp8", flags=(*_MANY, *_FOUR), shows="FP8, four processes for HTTP and photos"),
    Server("fp8-four-single", "fp8", flags=(*_MANY, *_FOUR), environ=_ONE_THREAD,
           shows="as fp8-four, one thread for each sum on the CPU"),
    Server("fp8-four-graphs", "fp8", graphs=True, flags=(*_MANY, *_FOUR),
           shows="FP8, four processes for HTTP and photos, CUDA graphs for everything"),
    Server("fp8-four-graphs-single", "fp8", graphs=True, flags=(*_MANY, *_FOUR), environ=_ONE_THREAD,
           shows="as fp8-four-graphs, one thread for each sum on the CPU"),
    Server("fp8-four-graphs-pinned", "fp8", graphs=True, flags=(*_MANY, *_FOUR), environ=_ONE_THREAD | _PINNED,
           shows="as fp8-four-graphs-single, memory for photos pinned in another way"),
    Server("fp8-four-graphs-long", "fp8", graphs=True, flags=(*_MANY, *_FOUR, *_LONG_STEPS), environ=_ONE_THREAD,
           shows="as fp8-four-graphs-single, twice as many tokens in a pass"),
    Server("fp8-eight-graphs-single", "fp8", graphs=True, flags=(*_MANY, *_EIGHT), environ=_ONE_THREAD,
           shows="as fp8-four-graphs-single, eight processes for HTTP and photos"),
    Server("fp8-four-shared", "fp8", flags=(*_MANY, *_FOUR, *_SHARED),
           shows="as fp8-four, photos handed over in shared memory"),
    Server("fp8-all", "fp8-all", shows="the vision tower in FP8 too, nothing else"),
    Server("online-fp8", "bf16", flags=(*_FEW, "--quantization", "fp8_per_tensor"),
           shows="vLLM quantises while loading"),
    Server("tiny-bf16", "tiny-bf16", drafts=True, flags=(*_SMALL, "--enforce-eager"), tiny=True,
           shows="the embedded model itself"),
    Server("tiny-fp8", "tiny-fp8", drafts=True, flags=(*_SMALL, "--enforce-eager"), tiny=True,
           shows="the embedded model itself in FP8"),
    Server("cpu", "tiny-bf16", flags=_CPU, tiny=True, shows="the embedded model in vLLM on a CPU"),
    Server("cpu-drafts", "tiny-bf16", drafts=True, flags=_CPU, tiny=True, shows="and drafts"),
    Server("cpu-fp8", "tiny-fp8", flags=_CPU, tiny=True, shows="our FP8 of it on a CPU"),
)  # fmt: skip


def profile_of(server: Server) -> Profile:
    """Its contract."""
    return TINY if server.tiny else WIDE


def find(name: str) -> Server:
    """The server of that name."""
    return next(server for server in SERVERS if server.name == name)


def address_file(work: Path, name: str) -> Path:
    """Where a server that answers says so."""
    return work / f"{name}.address.json"


async def keep(server: Server, work: Path, program: str) -> None:
    """Start it through nutridet once its weights are there; end it when told to."""
    told = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, told.set)
    weights = work / server.weights
    while not (weights / MANIFEST).is_file():
        await asyncio.sleep(0.2)
    began = time.monotonic()
    os.environ.update(server.environ)
    options = VllmOptions(
        program=program, gpu_share=0.02, drafts=server.drafts, graphs=server.graphs,
        flags=(*UNCACHED, *server.flags), start_seconds=500,
    )  # fmt: skip
    engine = await start(profile_of(server), str(weights), options, print)
    line = {"url": engine.url, "key": engine.key, "start_seconds": time.monotonic() - began}
    address_file(work, server.name).write_text(json.dumps(line))
    await told.wait()
    await engine.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--vllm", default="vllm")
    given = parser.parse_args()
    asyncio.run(keep(find(given.name), given.work, given.vllm))
