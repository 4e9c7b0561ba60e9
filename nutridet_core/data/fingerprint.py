"""Fingerprints of many rows: 100,000 photos' names, hashes and boxes need not lie in memory together to be hashed.

Belongs here: the hash of a stream. Does not belong here: which rows there are (`dataset`, `sources`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from nutridet_core.artifacts.store import canonical


def digest_rows(rows: Iterable[object]) -> str:
    """`artifacts.store.digest(list(rows))`, one row at a time."""
    hashed, comma = hashlib.sha256(b"["), b""
    for row in rows:
        hashed.update(comma + canonical(row))
        comma = b","
    hashed.update(b"]")
    return hashed.hexdigest()
