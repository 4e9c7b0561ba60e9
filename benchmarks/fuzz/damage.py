"""Ways to spoil bytes, text and trees of JSON, for every format alike.

Belongs here: damage that needs no knowledge of what it damages.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

_INTERESTING = (
    b"\0",
    b"\xff",
    b"\0\0\0\0",
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    b"\x80\0\0\0",
    b"\xff\xd8",
    b"\xff\xda",
)
ODD: tuple[Any, ...] = (
    None, True, 0, -1, 1, 2**31, 2**63, -(2**64), 10**400, 0.5, -0.0, 1e308, float("nan"), float("inf"), "",
    " ", "0", "a",
    "\0", "\ud800", "é" * 300, "../../etc/passwd", "/etc/passwd", "a" * 5000, "٣", "<b>", "{}", [], {}, [[]],
    [None], {"": None},
    [1, 2, 3], [1, 2, 3, 4], [0, 0, 1, 1], ["train"], "language", "test", "nutrition", "a.png", "/", ".", "..",
    "~root", "~nobody-here/x",
)  # fmt: skip
"""Values that somebody forgot to think of."""
CHARACTERS = "\0\n\t \"'[]{}(),:=#\\<>|-+.eE019xé\ud800\ufeff٣"


def spoil_bytes(content: bytes, random: Random) -> bytes:
    """Flipped, cut, doubled, overwritten, or with something inserted."""
    data = bytearray(content)
    at = random.randrange(len(data) + 1)
    end = min(len(data), at + random.choice((1, 4, 30, len(data))))
    way = random.randrange(6)
    if way == 0:
        for _ in range(random.choice((1, 3, 20))):
            if data:
                data[random.randrange(len(data))] ^= 1 << random.randrange(8)
    elif way == 1:
        del data[at:]
    elif way == 2:
        del data[at:end]
    elif way == 3:
        data[at:at] = data[at:end]
    elif way == 4:
        data[at:end] = random.randbytes(end - at)
    else:
        word = random.choice(_INTERESTING)
        data[at : at + random.choice((0, len(word)))] = word
    return bytes(data)


def spoil_parts(parts: list[tuple[bytes, bytes]], random: Random) -> list[tuple[bytes, bytes]]:
    """Named parts of a file: one lost, doubled, moved, renamed or spoiled inside."""
    spoiled = list(parts)
    if not spoiled:
        return spoiled
    at, to = random.randrange(len(spoiled)), random.randrange(len(spoiled))
    kind, data = spoiled[at]
    way = random.randrange(6)
    if way == 0:
        del spoiled[at]
    elif way == 1:
        spoiled.insert(to, spoiled[at])
    elif way == 2:
        spoiled[at], spoiled[to] = spoiled[to], spoiled[at]
    elif way == 3:
        spoiled[at] = (spoiled[to][0], data)
    else:
        spoiled[at] = (kind, spoil_bytes(data, random)[:60_000])
    return spoiled


def spoil_text(text: str, random: Random) -> str:
    """Characters and stretches changed."""
    at = random.randrange(len(text) + 1)
    end = min(len(text), at + random.choice((1, 1, 5, 60)))
    ways: tuple[Callable[[], str], ...] = (
        lambda: text[:at],
        lambda: text[:at] + text[end:],
        lambda: text[:end] + text[at:],
        lambda: text[:at] + random.choice(CHARACTERS) * random.choice((1, 1, 2, 5000)) + text[end:],
        lambda: text[:at] + str(random.choice(ODD)) + text[end:],
        lambda: text[:at] + random.choice("0919") * random.choice((1, 20, 400, 5000)) + text[at:],
    )
    return random.choice(ways)()


def spoil_tree(tree: Any, random: Random) -> Any:
    """A copy of a JSON value with something in it replaced, lost, added, or buried deep."""
    if isinstance(tree, dict) and tree and random.random() < 0.85:
        name = random.choice(list(tree))
        way = random.random()
        if way < 0.1:
            return {key: value for key, value in tree.items() if key != name}
        if way < 0.2:
            return {**tree, random.choice(("", "name", "id", "\0", "x" * 99)): random.choice(ODD)}
        return {**tree, name: spoil_tree(tree[name], random)}
    if isinstance(tree, list) and tree and random.random() < 0.85:
        at = random.randrange(len(tree))
        way = random.random()
        if way < 0.2:
            return tree[:at] + tree[at + 1 :] if way < 0.1 else [*tree, tree[at]]
        return [*tree[:at], spoil_tree(tree[at], random), *tree[at + 1 :]]
    return _buried(random.choice(ODD), random) if random.random() < 0.05 else random.choice(ODD)


def _buried(value: Any, random: Random) -> Any:
    for _ in range(random.choice((10, 150))):
        value = [value]
    return value
