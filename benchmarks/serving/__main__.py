"""Runs the comparison: weights, servers in waves that fit the GPU, raw times, the result.

    python -m benchmarks.serving --photos FOLDER --taught FOLDER --work FOLDER [--vllm PROGRAM] [--wave NAME,NAME ...]

Belongs here: the order of things. Does not belong here: what is measured (`measure`).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.serving import gateway, report
from benchmarks.serving.image_work import time_image_work
from benchmarks.serving.load import Address
from benchmarks.serving.measure import TOGETHER, Measurement, gpu_mib, steps_of, weights_gib
from benchmarks.serving.photos import DrawnPhoto, enlarge, read
from benchmarks.serving.questions import Questions
from benchmarks.serving.servers import address_file, find, profile_of
from nutridet_core.artifacts.store import stack_versions, write_json

WAVES = (
    "bf16,fp8-graphs,fp8-four",
    "fp8-four-single,fp8-four-graphs,fp8-four-graphs-single",
    "fp8-four-graphs-pinned,fp8-four-graphs-long,fp8-eight-graphs-single",
    "fp8-fast,fp8-fast-threads",
    "tiny-bf16,tiny-fp8,fp8,fp8-drafts,fp8-fast-four",
    "fp8-fast-resized,fp8-four-shared,bf16-drafts",
    "fp8-all,online-fp8",
)
"""Servers that are up at the same time; each is measured while the others idle."""
BEHIND_THE_GATEWAY = "fp8-four-graphs-single"
"""Without saying; `--gateway` names others."""
_GATEWAY_PORT = 8765
_PAIRS = 100  # photos asked about both ways, one at a time


@dataclass(frozen=True)
class Plan:
    """What to run."""

    work: Path
    vllm: str
    singles: int
    patience: float
    behind: str


def main() -> None:
    """Prepare, measure, report."""
    given = _arguments()
    given.work.mkdir(parents=True, exist_ok=True)
    plan = Plan(given.work, given.vllm, given.singles, given.patience, given.gateway)
    write_json(given.work / "device.json", machine(given))
    preparing = None
    if not given.no_prepare:
        preparing = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.serving.prepare", str(given.work), str(given.taught)]
        )
    drawn = read(given.photos)
    large = enlarge(drawn, given.large)
    print(f"{len(drawn)} drawn and {len(large)} large photos", flush=True)
    for wave in given.wave or WAVES:
        for rows in measure_wave(plan, wave.split(","), drawn, large):
            write_json(given.work / f"raw-{time.time_ns()}.json", rows)
    if preparing is not None and preparing.wait() != 0:
        print("not all weights could be written", flush=True)
    if given.out:
        report.write(given.work, given.out)


def machine(given: argparse.Namespace) -> dict[str, Any]:
    """What runs, and on what."""
    line = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    device = f"{os.cpu_count()} cores"
    with suppress(OSError, subprocess.CalledProcessError):
        device = f"{subprocess.run(line, capture_output=True, text=True, check=True).stdout.strip()}; {device}"
    versions = stack_versions()
    with suppress(OSError):
        told = subprocess.run([given.vllm, "--version"], capture_output=True, text=True, check=False).stdout.split()
        versions["vllm"] = told[-1] if told else "unknown"
    waves = "".join(f" --wave {wave}" for wave in given.wave or WAVES)
    command = f"python -m benchmarks.serving --photos PHOTOS --taught TAUGHT --work WORK{waves}"
    more = f"--singles {given.singles} --large {given.large} --gateway {given.gateway}"
    return {"command": f"{command} {more}", "device": device, "note": given.note, "versions": versions}


def measure_wave(
    plan: Plan, names: Sequence[str], drawn: list[DrawnPhoto], large: list[bytes]
) -> Iterator[list[dict[str, Any]]]:
    """Rows server by server; a server that does not start is a row too."""
    hosts = {name: _start(plan, name) for name in names}
    try:
        _await(plan, hosts)
        yield [{"row": "memory", "servers": list(names), "gpu_mib": gpu_mib()}]
        for name, host in hosts.items():
            yield _measure(plan, name, host, drawn, large)
    finally:
        for host in hosts.values():
            host.terminate()
        for host in hosts.values():
            with suppress(subprocess.TimeoutExpired):
                host.wait(timeout=30)


def _measure(plan: Plan, name: str, host: Any, drawn: list[DrawnPhoto], large: list[bytes]) -> list[dict[str, Any]]:
    log = _log(plan, name)
    if not address_file(plan.work, name).is_file():
        host.terminate()
        print(f"{name} did not start:\n{_tail(log)}", flush=True)
        return [{"server": name, "row": "did not start", "log": _tail(log)}]
    found = json.loads(address_file(plan.work, name).read_text())
    address = Address(found["url"], found["key"])
    take = Measurement(name, address, Questions(profile_of(find(name)).contract, drawn, large), plan.singles)
    took = {"server": name, "row": "start", "seconds": found["start_seconds"], "weights_gib": weights_gib(log)}
    try:
        for step in steps_of(name):
            asyncio.run(step(take))
        if name == plan.behind:
            take.rows += _gateway_rows(plan, name, address, large)
        if name == "bf16":
            take.rows.append({"row": "image work", "steps": time_image_work(str(plan.work / "bf16"), large[:24])})
    except Exception as error:  # one server that fails must not cost the others' rows
        print(f"{name} failed: {error!r}\n{_tail(log)}", flush=True)
        take.rows.append({"server": name, "row": "failed", "problem": repr(error)[:500]})
    return [took, *take.rows]


def _gateway_rows(plan: Plan, name: str, address: Address, large: list[bytes]) -> list[dict[str, Any]]:
    with gateway.running(address_file(plan.work, name), _GATEWAY_PORT) as front:
        alone = asyncio.run(gateway.one_at_a_time(address, front, large[:_PAIRS]))
        return [
            {"server": name, **row}
            for row in (alone, asyncio.run(gateway.many_together(address, front, large, TOGETHER[-1])))
        ]


def _start(plan: Plan, name: str) -> subprocess.Popen[bytes]:
    address_file(plan.work, name).unlink(missing_ok=True)
    line = [sys.executable, "-m", "benchmarks.serving.servers", name, "--work", str(plan.work), "--vllm", plan.vllm]
    with _log(plan, name).open("wb") as log:
        return subprocess.Popen(line, stdout=log, stderr=subprocess.STDOUT)


def _await(plan: Plan, hosts: dict[str, subprocess.Popen[bytes]]) -> None:
    """Until all of them answer, have ended, or patience has: what still starts would disturb the others."""
    began = time.monotonic()
    waiting = set(hosts)
    while waiting and time.monotonic() - began < plan.patience:
        time.sleep(0.2)
        for name in sorted(waiting):
            if address_file(plan.work, name).is_file() or hosts[name].poll() is not None:
                waiting.discard(name)
                print(f"{name}: up or ended after {time.monotonic() - began:.0f} s", flush=True)
    for name in waiting:
        hosts[name].terminate()


def _log(plan: Plan, name: str) -> Path:
    return plan.work / f"{name}.log"


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-3000:]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=Path, required=True, help="from python -m benchmarks.serving.photos")
    parser.add_argument("--work", type=Path, required=True, help="room for 45 GB")
    parser.add_argument("--vllm", default="vllm")
    parser.add_argument("--wave", action="append", help="names of servers, with commas")
    parser.add_argument("--taught", type=Path, help="from python -m benchmarks.serving.large; not with --no-prepare")
    parser.add_argument("--no-prepare", action="store_true", help="the weights are there already")
    parser.add_argument("--singles", type=int, default=24, help="photos in rows that ask one at a time")
    parser.add_argument("--large", type=int, default=512, help="distinct large photos")
    parser.add_argument("--patience", type=float, default=400.0, help="seconds for a wave of servers to start")
    parser.add_argument("--gateway", default=BEHIND_THE_GATEWAY, help="the server that is also asked through a gateway")
    parser.add_argument("--note", default="", help="what a reader of the figures should know")
    parser.add_argument("--out", type=Path, help="result file, from all raw files of the work folder")
    return parser.parse_args()


if __name__ == "__main__":
    main()
