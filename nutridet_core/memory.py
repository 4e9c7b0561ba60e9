"""Memory: what a process that runs for weeks gives back to the system.

Belongs here: the C library's heap. Does not belong here: how much a run will need (`training.plan`), or a GPU's memory.
"""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from typing import Any


def return_freed_memory() -> None:
    """Give what was freed back to the system.

    glibc keeps freed blocks for the next request. Batches of photos of all sizes ask for blocks of all sizes, which
    leave gaps that fit nothing: a server's memory then grows for as long as it runs. Other C libraries are left alone.
    """
    if library := _glibc():
        library.malloc_trim(0)


@cache
def _glibc() -> Any:
    if sys.platform != "linux":
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "malloc_trim") else None
