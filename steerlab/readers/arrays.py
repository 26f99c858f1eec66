"""Arrays in npz files: written with a checksum, read with limits and without pickle."""

import hashlib
import io
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

import numpy as np

from steerlab.errors import InputError
from steerlab.files import atomic_path
from steerlab.readers.archives import open_archive
from steerlab.types import Array

_CHECKSUM = "sha256"


def write_arrays(path: str | Path, arrays: Mapping[str, Any], compressed: bool = False) -> None:
    """Write arrays to an npz file atomically, with a checksum over all of them."""
    values = {name: np.asarray(array) for name, array in arrays.items()}
    save = np.savez_compressed if compressed else np.savez
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        save(file, allow_pickle=False, **values, **{_CHECKSUM: np.array(_checksum(values))})


def read_arrays(path: str | Path) -> dict[str, Array]:
    """Return the arrays of an npz file by name.

    A file of :func:`write_arrays` is held to its checksum. One of other programs has none; there the
    sums of the archive are all that can be checked.

    Raises:
        InputError: It is absent, damaged, too large, or holds Python objects.
    """
    arrays: dict[str, Array] = {}
    with open_archive(path) as archive:
        for member in archive.names:
            where = f"{member!r} in {str(path)!r}"
            if not member.endswith(".npy"):
                raise InputError(f"{where} is no array; give an npz file")
            arrays[member.removesuffix(".npy")] = _parse(archive.read(member), where)
    known = arrays.pop(_CHECKSUM, None)
    if known is not None and str(known) != _checksum(arrays):
        raise InputError(
            f"{str(path)!r} is damaged: its arrays do not have their checksum; make it again"
        )
    return arrays


def require(arrays: Mapping[str, Array], names: tuple[str, ...], path: str | Path) -> list[Array]:
    """Return the arrays of these names.

    Raises:
        InputError: One is missing.
    """
    missing = [name for name in names if name not in arrays]
    if missing:
        raise InputError(
            f"{str(path)!r} lacks {', '.join(missing)}; it has {', '.join(arrays) or 'no array'}"
        )
    return [arrays[name] for name in names]


@dataclass(frozen=True)
class ArrayRecord:
    """Arrays with a common first axis that are one npz file; a subclass names them as its fields."""

    def save(self, path: str | Path) -> None:
        """Write to an npz file."""
        write_arrays(path, vars(self))

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what :meth:`save` wrote.

        Raises:
            InputError: The file is absent, damaged, or holds other arrays.
        """
        return cls(*require(read_arrays(path), tuple(f.name for f in fields(cls)), path))

    @classmethod
    def join(cls, parts: Iterable[Self]) -> Self:
        """Return several as one, along the first axis."""
        parts = list(parts)
        return cls(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(cls)))


def _parse(data: bytes, where: str) -> Array:
    """Return the array of an .npy file."""
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        read = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, _, dtype = read(file)
        if dtype.hasobject:
            raise InputError(f"{where} holds Python objects, which are not read")
        if any(n < 0 for n in shape) or math.prod(shape) * dtype.itemsize > len(data):
            raise ValueError(f"shape {shape} needs more bytes than there are")
        file.seek(0)
        array: Array = np.lib.format.read_array(file, allow_pickle=False)
    except InputError:
        raise
    except Exception as error:  # SyntaxError, struct.error, TokenError, MemoryError, ...
        reason = str(error)[:200] or type(error).__name__
        raise InputError(f"{where} is no readable array ({reason})") from error
    return array


def _checksum(arrays: Mapping[str, Array]) -> str:
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype.str} {array.shape} {array.dtype.descr}\n".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
