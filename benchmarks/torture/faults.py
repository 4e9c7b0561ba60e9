"""The faults: each starts a verb in a home, breaks something at a random moment and says how the verb ended.

Belongs here: breaking, and mending what a user would mend. Does not belong here: judging (`campaign`), or MLflow's
own faults (`mlflow_faults`).

What is broken stays broken until the verb has ended; then the machine is mended, artefacts are not.
"""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.torture import clocks
from benchmarks.torture.homes import VERBS, Homes, open_home, used_bytes
from benchmarks.torture.processes import Child, fork, work
from nutridet_assets.launchers.processes import end_group
from nutridet_core.artifacts.store import MANIFEST

_GRACE_SECONDS = 2.0


@dataclass
class Case:
    """One injection under way."""

    homes: Homes
    verb: str
    random: random.Random
    cleanup: ExitStack = field(default_factory=ExitStack)
    """What ends with the case, after it was judged."""
    children: list[Child] = field(default_factory=list)
    damaged: str = ""
    """The file that was changed, for faults that change one."""
    unmet: bool = False
    """Whether the verb was over before the fault could touch it."""

    @property
    def home(self) -> Path:
        """The home that is broken."""
        return self.homes.home

    def start(self, *, tracking_uri: str | None = None, before: Callable[[], None] = lambda: None) -> Child:
        """The verb in a child. `before` is called in the child."""
        verb, home = VERBS[self.verb], self.home

        def job() -> int:
            before()
            return work(lambda: verb(open_home(home, tracking_uri)))

        self.children.append(fork(job, self.homes.root / f"log{len(self.children)}"))
        return self.children[-1]

    def some_moment(self, child: Child) -> None:
        """Wait for a random share of what the verb takes, or until it is over."""
        end = time.monotonic() + self.random.random() * self.homes.seconds[self.verb]
        while child.poll() is None and time.monotonic() < end:
            time.sleep(0.005)
        self.unmet = child.poll() is not None

    def reset(self, *, maybe_done: bool = False) -> None:
        """The home before the verb; with `maybe_done`, in every second case the one after it."""
        self.homes.reset(self.verb, after=maybe_done and self.random.random() < 0.5)


def kill(case: Case) -> int:
    """SIGKILL at a random moment."""
    return _signalled(case, signal.SIGKILL)


def terminate(case: Case) -> int:
    """SIGTERM at a random moment."""
    return _signalled(case, signal.SIGTERM)


def cancel(case: Case) -> int:
    """As Dagster cancels: SIGTERM to the group, SIGKILL after the grace."""
    case.reset()
    child = case.start()
    case.some_moment(child)
    end_group(child, _GRACE_SECONDS)  # type: ignore[arg-type]
    return child.wait()


def hang(case: Case) -> int:
    """Stopped at a random moment; in half the cases cancelled, else it goes on after a while."""
    case.reset()
    child = case.start()
    case.some_moment(child)
    child.send(signal.SIGSTOP)
    if case.random.random() < 0.5:
        end_group(child, 0.5)  # type: ignore[arg-type]
    else:
        time.sleep(case.random.uniform(0.2, 3))
        child.send(signal.SIGCONT)
    return child.wait()


def full_disk(case: Case) -> int:
    """The home on a disk that has room for a random part of what the verb writes."""
    home = case.homes.home
    after = used_bytes(case.homes.end)
    _mount(case, "-t", "tmpfs", "-o", f"size={2 * after + 2**28}", "tmpfs")
    case.reset()
    room = case.random.randrange(4096, 2**23)
    _remount(home, f"size={used_bytes(home) + 2**18 + room}")
    code = case.start().wait()
    _remount(home, f"size={2 * after + 2**28}")
    return code


def file_limit(case: Case) -> int:
    """A quota: from a random moment on, no file may grow beyond a random size."""
    return _limited(case, resource.RLIMIT_FSIZE, lambda child: case.random.randrange(0, 2**23))


def out_of_memory(case: Case) -> int:
    """From a random moment on, hardly more memory than there is already."""
    return _limited(case, resource.RLIMIT_AS, lambda child: _virtual_bytes(child) + case.random.randrange(0, 2**25))


def read_only(case: Case) -> int:
    """The artefacts, or the whole home, on a disk that was mounted read-only."""
    case.reset()
    place = case.random.choice([case.home, case.home / "artifacts"])
    place.mkdir(exist_ok=True)
    subprocess.run(["mount", "--bind", place, place], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", place], check=True)
    try:
        return case.start().wait()
    finally:
        subprocess.run(["umount", place], check=True)


def bit_flip(case: Case) -> int:
    """One bit of one file of one artefact, before the verb begins."""

    def flip(content: bytearray) -> bytes:
        if content:
            content[case.random.randrange(len(content))] ^= 1 << case.random.randrange(8)
        return bytes(content)

    return _damaged(case, flip, manifests=False)


def torn_file(case: Case) -> int:
    """One file of one artefact, cut off at a random place."""
    return _damaged(case, lambda content: bytes(content[: case.random.randrange(len(content) or 1)]), manifests=False)


def torn_manifest(case: Case) -> int:
    """One manifest, cut off at a random place."""
    return _damaged(case, lambda content: bytes(content[: case.random.randrange(len(content))]), manifests=True)


def clock_jump(case: Case) -> int:
    """The clock jumps, up to ten years ahead or back, at a random moment."""
    case.reset()
    days = case.random.uniform(-3650, 3650)
    moment = case.random.random() * case.homes.seconds[case.verb]
    return case.start(before=lambda: clocks.jump(days * 86400, after=moment)).wait()


def two_at_once(case: Case) -> int:
    """The same verb twice, the second one a random moment after the first."""
    case.reset()
    first = case.start()
    case.some_moment(first)
    second = case.start()
    codes = (first.wait(), second.wait())
    return next((code for code in codes if code), 0)


def _signalled(case: Case, number: signal.Signals) -> int:
    case.reset()
    child = case.start()
    case.some_moment(child)
    child.send(number)
    return child.wait()


def _limited(case: Case, what: int, how_much: Callable[[Child], int]) -> int:
    case.reset()
    child = case.start()
    case.some_moment(child)
    if child.poll() is None:
        resource.prlimit(child.pid, what, (how_much(child), resource.RLIM_INFINITY))
    return child.wait()


def _damaged(case: Case, change: Callable[[bytearray], bytes], *, manifests: bool) -> int:
    case.reset(maybe_done=True)
    files = sorted(_files_of_artefacts(case.home, manifests=manifests))
    case.unmet = not files
    if files:
        file = case.random.choice(files)
        before = file.read_bytes()
        after = change(bytearray(before))
        file.write_bytes(after)
        case.damaged = str(file.relative_to(case.home))
        case.unmet = after == before
    return case.start().wait()


def _files_of_artefacts(home: Path, *, manifests: bool) -> list[Path]:
    """Of artefacts that a run can make again: a measurement of some day, is none, and MLflow has copies."""
    found = [path for path in (home / "artifacts").rglob(MANIFEST) if "reevaluations" not in path.parts]
    if manifests:
        return found
    return [path.parent / name for path in found for name in json.loads(path.read_text())["files"]]


def _virtual_bytes(child: Child) -> int:
    return int(Path(f"/proc/{child.pid}/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")


def _mount(case: Case, *arguments: str) -> None:
    case.home.mkdir(exist_ok=True)
    subprocess.run(["mount", *arguments, str(case.home)], check=True)
    case.cleanup.callback(subprocess.run, ["umount", "-l", str(case.home)], check=True)


def _remount(home: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(home)], check=True)
