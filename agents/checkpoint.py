"""The one checkpoint format: tensors and plain values in one file, with what proves them.

A checkpoint is a dictionary that plain ``torch.load(path, weights_only=True)`` opens. Besides its
contents it has the entries of :data:`HEADER`: the format and its version, the kind of checkpoint, the
settings of the study that wrote it, and a SHA-256 over all of that.
"""

import hashlib
import io
import math
import struct
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from steerlab.errors import InputError
from steerlab.files import atomic_path
from steerlab.settings import current_settings

FORMAT, VERSION = "steerlab checkpoint", 1
HEADER = ("format", "version", "kind", "settings", "checksum")
LARGEST = 2**31  # bytes of a file that is read


def save_checkpoint(path: str | Path, kind: str, contents: Mapping[str, Any]) -> None:
    """Write a checkpoint atomically.

    Args:
        path: The file.
        kind: What it is a checkpoint of; :func:`load_checkpoint` asks for it.
        contents: Tensors, numbers, strings, None, and lists, tuples and dictionaries of them.
    """
    with atomic_path(path) as temporary:
        temporary.write_bytes(checkpoint_bytes(kind, contents))


def checkpoint_bytes(kind: str, contents: Mapping[str, Any]) -> bytes:
    """Return the file that :func:`save_checkpoint` writes."""
    whole = {
        "format": FORMAT,
        "version": VERSION,
        "kind": kind,
        "settings": current_settings(),
        **contents,
    }
    whole["checksum"] = _checksum(whole)
    buffer = io.BytesIO()  # torch's own writer raises no nameable error for a full disk
    torch.save(whole, buffer)
    return buffer.getvalue()


def load_checkpoint(
    path: str | Path, kind: str | None = None, device: torch.device | str = "cpu"
) -> dict[str, Any]:
    """Read a checkpoint without executing anything in it (``weights_only``).

    Args:
        path: The file.
        kind: What it must be a checkpoint of; None takes any.
        device: Where its tensors go.

    Returns:
        Its contents, and ``settings``.

    Raises:
        InputError: There is no such file; it is no checkpoint, damaged, of another kind or of
            another version.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"there is no checkpoint {str(path)!r}; check the path")
    size = path.stat().st_size
    try:
        whole = read_archive(path, device)
    except Exception as error:  # torch, pickle and zip raise nearly anything
        raise InputError(
            f"{str(path)!r} is not a steerlab checkpoint or is damaged "
            f"({type(error).__name__}); use another checkpoint or train again"
        ) from error
    if not isinstance(whole, dict) or whole.get("format") != FORMAT:
        raise InputError(
            f"{str(path)!r} is not a steerlab checkpoint, or one of a steerlab before versions were "
            "written; use another checkpoint or train again"
        )
    if whole.get("version") != VERSION:
        raise InputError(
            f"{str(path)!r} has version {whole.get('version')!r} of the checkpoint format, this "
            f"steerlab reads {VERSION}; use the steerlab that wrote it"
        )
    try:
        intact = whole.pop("checksum", None) == _checksum(whole, 8 * size + 2**20)
    except (TypeError, RecursionError):
        intact = False
    if not intact:
        raise InputError(
            f"{str(path)!r} is damaged: its contents do not have its checksum; use another "
            "checkpoint or train again"
        )
    if kind is not None and whole.get("kind") != kind:
        raise InputError(
            f"{str(path)!r} is a checkpoint of {whole.get('kind')}, not of {kind}; give another file"
        )
    return {name: value for name, value in whole.items() if name not in ("format", "version")}


def read_archive(path: Path, device: torch.device | str) -> Any:
    """Return what torch wrote, without executing anything in it; raises nearly anything."""
    with zipfile.ZipFile(path) as archive:
        stored = all(m.compress_type == zipfile.ZIP_STORED for m in archive.infolist())
    if not stored or path.stat().st_size > LARGEST:
        raise ValueError("it is compressed or too large")
    return torch.load(path, map_location=device, weights_only=True)


@contextmanager
def fitting(path: str | Path, what: str) -> Iterator[None]:
    """Enclose what puts a checkpoint into a model.

    Raises:
        InputError: The parts of the checkpoint are not those of ``what``.
    """
    try:
        yield
    except InputError:
        raise
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{str(path)!r} does not fit {what} ({type(error).__name__}: {reason}); give another "
            "file, or train again in another folder"
        ) from error


def _checksum(contents: Mapping[str, Any], most: float = math.inf) -> str:
    """Return the SHA-256 over ``contents``.

    Raises:
        TypeError: There is something in it that a checkpoint does not hold, or it has more than
            ``most`` bytes: a small file can name the same thing any number of times.
    """
    digest, total = hashlib.sha256(), 0
    for part in _parts(contents):
        total += len(part) + 8
        if total > most:
            raise TypeError("the contents are larger than the file")
        digest.update(struct.pack("<Q", len(part)))
        digest.update(part)
    return digest.hexdigest()


def _parts(value: Any) -> Iterator[Any]:
    """Yield bytes that differ for every two different values."""
    if isinstance(value, Tensor):
        flat = value.detach()
        if flat.numel() * flat.element_size() > flat.untyped_storage().nbytes():
            raise TypeError("a tensor is larger than its storage")
        yield f"tensor {flat.dtype} {tuple(flat.shape)}".encode()
        flat = flat.cpu().contiguous().reshape(-1)
        yield flat.view(torch.uint8).numpy().data if flat.numel() else b""
    elif isinstance(value, Mapping):
        yield f"dict {len(value)}".encode()
        for key, entry in value.items():
            yield from _parts(key)
            yield from _parts(entry)
    elif isinstance(value, list | tuple):
        yield f"{type(value).__name__} {len(value)}".encode()
        for entry in value:
            yield from _parts(entry)
    elif value is None or type(value) in (bool, int, float, str):
        yield f"{type(value).__name__} {value!r}".encode()
    else:
        raise TypeError(f"a checkpoint cannot hold a {type(value).__name__}")
