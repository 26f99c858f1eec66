"""Damage to files: bits, bytes, pieces, lengths, and the members of archives."""

# Not drawn by hypothesis: its bytes are no files, so that nearly all would end at the first check of a
# reader, and each example costs more than a read. What is changed here was a whole file before.

import io
import json
import random
import struct
import zipfile
from typing import Any

_NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 2**63 - 1, 2**64 - 1)
_VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 1, 10**30, 1e308, float("nan"), float("inf"), "", "x", "../../evil", "\0",
    "9" * 5000, [], {}, [[]], {"a": {}}, [1, 2, 3], "²",
)  # fmt: skip


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Return ``data`` with one to eight changes."""
    if data[:2] == b"PK" and rng.random() < 0.3:
        data = mutated_zip(data, rng)
    elif data[:1] in (b"{", b"[") and rng.random() < 0.5:
        return mutated_json(data, rng)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 8))):
        data = _once(bytearray(data), rng)
    return data


def _once(data: bytearray, rng: random.Random) -> bytes:
    if not data:
        return bytes(rng.randrange(256) for _ in range(rng.randrange(20)))
    place = rng.randrange(len(data))
    if rng.random() < 0.3:  # heads and tails say how the rest is read
        place = rng.choice((place % 64, len(data) - 1 - place % 64)) % len(data)
    length = min(rng.choice((1, 2, 4, 8, 100, len(data) // 2)), len(data) - place)
    kind = rng.randrange(8)
    if kind == 0:
        data[place] ^= 1 << rng.randrange(8)
    elif kind == 1:
        data[place] = rng.randrange(256)
    elif kind == 2:
        del data[place:]
    elif kind == 3:
        del data[place : place + length]
    elif kind == 4:
        data[place:place] = data[place : place + length] * rng.choice((1, 1, 3))
    elif kind == 5:
        number = rng.choice(_NUMBERS)
        data[place : place + 8] = struct.pack(rng.choice("<>") + "Q", number)[: rng.choice((4, 8))]
    elif kind == 6:
        other = rng.randrange(len(data))
        data[place : place + length] = data[other : other + length]
    else:
        data[place:place] = bytes(rng.randrange(256) for _ in range(length % 100))
    return bytes(data)


def mutated_zip(data: bytes, rng: random.Random) -> bytes:
    """Return an archive whose members are packed, named or filled in another way."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [(name, archive.read(name)) for name in archive.namelist()]
    except Exception:  # noqa: BLE001 - it was damaged before
        return data
    kinds = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", rng.choice(kinds)) as archive:
        for name, content in members:
            chance = rng.random()
            if chance < 0.1:
                continue
            if chance < 0.2:
                name = rng.choice(("../evil", "/tmp/evil", name + "x", "a/" + name, ""))
            if chance > 0.9:
                content = rng.choice((b"", bytes(10**6), _once(bytearray(content), rng)))
            archive.writestr(name or "x", content)
            if rng.random() < 0.05:
                archive.writestr(name or "x", content)
    return buffer.getvalue()


def mutated_json(data: bytes, rng: random.Random) -> bytes:
    """Return JSON of which one value is another."""
    try:
        values = json.loads(data)
    except ValueError:
        return data
    place: Any = values
    for _ in range(rng.randrange(1, 6)):
        if not isinstance(place, dict | list) or not place:
            break
        key: Any = rng.choice(list(place)) if isinstance(place, dict) else rng.randrange(len(place))
        if not isinstance(place[key], dict | list) or rng.random() < 0.4:
            place[key] = rng.choice(_VALUES)
            break
        place = place[key]
    if rng.random() < 0.05:
        return b"[" * 10**5 + b"]" * 10**5
    return json.dumps(values).encode()
