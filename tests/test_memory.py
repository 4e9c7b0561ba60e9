"""Memory of long-running processes."""

from __future__ import annotations

import sys

import psutil
import pytest

from nutridet_core.memory import return_freed_memory

_MIB = 2**20


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's heap")
def test_memory_freed_in_the_middle_of_the_heap_goes_back_to_the_system() -> None:
    """Blocks of 100 kB come from the heap; one that stays at its end keeps glibc from shrinking it by itself."""
    process = psutil.Process()
    blocks = [bytes([7]) * 100_000 for _ in range(1500)]
    del blocks[:-1]
    kept = process.memory_info().rss
    return_freed_memory()
    assert kept - process.memory_info().rss > 50 * _MIB
    assert len(blocks) == 1
