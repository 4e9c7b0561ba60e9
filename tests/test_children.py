"""Many processes that do one thing: the same results in the same order, and none of them left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import psutil
import pytest

from nutridet_core.children import in_order
from nutridet_core.data.sources import generated
from nutridet_core.errors import MachineError
from tests.services import gone, until


def late_first(number: int) -> int:
    time.sleep(0.3 if number == 0 else 0)
    return 10 * number


def process_of(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return os.getpid()


def large(number: int, told: Path) -> bytes:
    """More than a pipe holds."""
    with told.open("a") as file:
        print(os.getpid(), file=file)
    return bytes(2**20) + bytes([number])


def test_results_come_in_order() -> None:
    assert list(in_order(late_first, range(40), processes=3)) == [10 * number for number in range(40)]


def test_few_results_are_in_memory(tmp_path: Path) -> None:
    told = tmp_path / "told"
    results = in_order(partial(large, told=told), range(40), processes=2)
    assert next(results)[-1] == 0
    time.sleep(1)
    assert len(told.read_text().splitlines()) <= 4  # one that was taken and one that waits, of each process
    assert [result[-1] for result in results] == list(range(1, 40))


def test_whoever_is_killed_while_it_tells_its_result_is_not_waited_for(tmp_path: Path) -> None:
    told = tmp_path / "told"
    results = in_order(partial(large, told=told), range(4), processes=1)
    next(results)
    until(lambda: len(told.read_text().splitlines()) == 2)
    telling = int(told.read_text().splitlines()[1])
    until(lambda: psutil.Process(telling).status() == psutil.STATUS_SLEEPING)  # the pipe is full
    os.kill(telling, signal.SIGKILL)
    with pytest.raises(MachineError, match="memory"):
        next(results)


def test_a_killed_process_is_an_error_with_a_remedy() -> None:
    with pytest.raises(MachineError, match="memory"):
        list(in_order(process_of, range(8), processes=2))


def test_whoever_stops_early_leaves_no_process() -> None:
    results = in_order(process_of, (0, 1, 2), processes=2)
    process = next(results)
    results.close()
    until(lambda: gone(process))


def test_drawings_do_not_depend_on_the_number_of_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = list(generated.read_generated("5:7"))
    monkeypatch.setattr(generated, "WORTH_PROCESSES", 1)
    assert list(generated.read_generated("5:7")) == alone


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's bond is Linux's")
@pytest.mark.parametrize("deaf", [False, True])
def test_processes_end_with_a_parent_that_was_killed(tmp_path: Path, deaf: bool) -> None:
    """Also where SIGTERM is ignored, which children inherit."""
    script = tmp_path / "draw.py"
    script.write_text(
        "import signal\nfrom nutridet_core.data.sources import generated\n"
        f"if {deaf}:\n    signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "if __name__ == '__main__':\n"
        "    for candidate in generated.read_generated('5000'):\n"
        "        print(candidate.id, flush=True)\n"
    )
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline().strip() == "generated-0-000000"
        drawing = [child.pid for child in psutil.Process(parent.pid).children(recursive=True)]
        assert drawing
        parent.kill()
    for process in drawing:
        until(lambda process=process: gone(process))


def test_a_child_that_is_slower_than_its_parent_dies_ends_too() -> None:
    """The kernel tells nobody of a death that came before the question."""
    told = in_one_thread(
        "from nutridet_core.children import end_with_parent\n"
        "parent = os.getpid()\n"
        "if not os.fork():\n"
        "    while os.getppid() == parent:\n        time.sleep(0.01)\n"
        "    print('orphaned', flush=True)\n"
        "    end_with_parent(parent)\n"
        "    print('lives on')"
    )  # which waits for all who may still print
    assert told == "orphaned"


def in_one_thread(script: str) -> str:
    """What a script prints whose process has one thread, which this one has not."""
    lines = f"import os, signal, time\nfrom nutridet_core.children import can_fork, side_by_side\n{script}"
    return subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True, check=True).stdout.strip()


def test_jobs_side_by_side_give_their_results_in_order() -> None:
    jobs = "[lambda: (time.sleep(0.3), 'slow')[1], lambda: 'quick', os.getpid]"
    told = in_one_thread(f"a, b, c = side_by_side({jobs})\nprint(can_fork(), a, b, c != os.getpid())")
    assert told == "True slow quick True"


@pytest.mark.parametrize("deaf", ["", "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"])
def test_a_job_that_fails_ends_the_others(deaf: str) -> None:
    """Also where SIGTERM is ignored, which forks inherit."""
    told = in_one_thread(
        deaf + "from nutridet_core.errors import AuditError\n"
        "def fail():\n    raise AuditError('no', evidence={'rows': 3}, remedy='Look.')\n"
        "try:\n    side_by_side([lambda: time.sleep(3600), fail])\n"
        "except AuditError as error:\n    print(error, error.evidence, end=' ')\n"
        "try:\n    os.wait()\n"
        "except ChildProcessError:\n    print('nobody is left')"
    )
    assert told == "no. Look. {'rows': 3} nobody is left"


def test_a_job_that_does_not_listen_is_killed() -> None:
    told = in_one_thread(
        "import nutridet_core.children as children\n"
        "children._GRACE_SECONDS = 0.5\n"
        "def deaf():\n    signal.signal(signal.SIGTERM, signal.SIG_IGN)\n    time.sleep(3600)\n"
        "def fail():\n    time.sleep(0.5)\n    raise ValueError\n"
        "try:\n    side_by_side([deaf, fail])\n"
        "except ValueError:\n    print('ended')"
    )
    assert told == "ended"


def test_a_job_that_is_killed_is_an_error_with_a_remedy() -> None:
    told = in_one_thread(
        "from nutridet_core.errors import MachineError\n"
        "try:\n    side_by_side([lambda: os.kill(os.getpid(), signal.SIGKILL)])\n"
        "except MachineError as error:\n    print(error)"
    )
    assert "memory" in told


def test_a_killed_parent_leaves_no_job() -> None:
    lines = (
        "import os, signal, time\nfrom nutridet_core.children import side_by_side\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "def wait():\n    print(os.getpid(), flush=True)\n    time.sleep(60)\n"
        "side_by_side([wait])"
    )
    with subprocess.Popen([sys.executable, "-c", lines], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        job = int(parent.stdout.readline())
        parent.kill()
        until(lambda: gone(job))


def test_a_process_with_threads_does_not_fork() -> None:
    told = in_one_thread(
        "import threading\nthreading.Thread(target=time.sleep, args=(5,), daemon=True).start()\nprint(can_fork())"
    )
    assert told == "False"
