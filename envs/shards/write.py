"""Writing of shards: frames as they come, everything else at the end, and only then the name."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from steerlab.envs.shards.layout import ATTRIBUTES, DIGEST, KIND, PARTS, SCHEMA, STEP
from steerlab.errors import InputError
from steerlab.files import writable_folder
from steerlab.types import Array

LEVEL = 3  # of zstd
PICTURE_LEVEL = 9  # of zstd, for frames
#: Frames lie on the disk pixel by pixel, the six planes of each together: they are much alike.
ORDER = (0, 2, 3, 1)
#: Each grey level, rounded to a multiple of ``STEP``.
ROUNDED = np.minimum((np.arange(256) + STEP // 2) // STEP * STEP, 255 // STEP * STEP).astype(
    np.uint8
)
BLOCK = 64  # frames that share a file
PENDING = ".part"  # begins the names of folders that are being written


def need_zarr() -> Any:
    """Return the package zarr.

    Raises:
        InputError: It is not installed.
    """
    if find_spec("zarr") is None:
        raise InputError("shards need zarr: pip install 'steerlab[camera]'")
    import zarr

    return zarr


class ShardWriter:
    """Writes one shard; use it in a ``with`` block and call :meth:`finish`.

    What was begun and not finished leaves no shard behind.

    Args:
        path: The shard's folder, which must not exist.

    Raises:
        InputError: zarr is missing, the folder cannot be written, or the shard exists.
    """

    def __init__(self, path: str | Path) -> None:
        self.zarr = need_zarr()
        self.path = Path(path)
        if self.path.exists():
            raise InputError(f"shard {str(path)!r} exists: choose another seed or folder")
        folder = writable_folder(self.path.parent)
        self.scratch = Path(tempfile.mkdtemp(dir=folder, prefix=f"{PENDING}-{self.path.stem}-"))
        os.chmod(self.scratch, 0o777 & ~_umask())
        self.group = self.zarr.open_group(self.scratch, mode="w", zarr_format=3)
        self.waiting: dict[str, list[Array]] = {"img": [], "big_img": []}
        self.frames = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        shutil.rmtree(self.scratch, ignore_errors=True)

    def add_frame(self, img: Array, big_img: Array) -> None:
        """Take the planes (6, 128, 256) uint8 of the next frame; their levels are rounded."""
        for name, planes in (("img", img), ("big_img", big_img)):
            self.waiting[name].append(ROUNDED[planes])
        self.frames += 1
        if len(self.waiting["img"]) == BLOCK:
            self._flush()

    def finish(self, arrays: Mapping[str, Array], attributes: Mapping[str, Any]) -> Path:
        """Write everything but the frames, and give the shard its name.

        Args:
            arrays: All of :data:`~steerlab.envs.shards.layout.PARTS` but the two of frames.
            attributes: All of ``ATTRIBUTES`` but ``kind``, ``schema`` and ``files``; plain values of JSON.

        Returns:
            The path of the shard.
        """
        self._flush()
        for name, part in PARTS.items():
            if name not in self.waiting:
                values = np.ascontiguousarray(arrays[name], part.dtype)
                if values.shape[1:] != part.shape:
                    raise ValueError(f"{name} has shape {values.shape}, needs (n, *{part.shape})")
                self.group.create_array(
                    name, data=values, chunks=values.shape, compressors=self._codec(LEVEL)
                )
        # Attributes first, files last: the list of files is what makes a shard whole.
        self.group.attrs.update({"kind": KIND, "schema": SCHEMA, "step": STEP, **attributes})
        self.group.attrs["files"] = _sizes(self.scratch)
        self.group.attrs[DIGEST] = digest_of(self.scratch, dict(self.group.attrs))
        missing = [name for name in ATTRIBUTES if name not in self.group.attrs]
        if missing:
            raise ValueError(f"attributes {missing} are missing")
        try:
            os.rename(self.scratch, self.path)
        except OSError as error:
            raise InputError(f"cannot write shard {str(self.path)!r}: {error.strerror}") from error
        return self.path

    def _codec(self, level: int) -> Any:
        return self.zarr.codecs.ZstdCodec(level=level, checksum=True)

    def _flush(self) -> None:
        """Write the waiting frames as one file."""
        for name, planes in self.waiting.items():
            shape = PARTS[name].shape
            if name not in self.group:
                self.group.create_array(
                    name, shape=(0, *shape), chunks=(1, *shape), shards=(BLOCK, *shape),
                    dtype=np.uint8, filters=self.zarr.codecs.TransposeCodec(order=ORDER),
                    compressors=self._codec(PICTURE_LEVEL),
                )  # fmt: skip
            if planes:
                array = self.group[name]
                before = array.shape[0]
                array.resize((before + len(planes), *shape))
                array[before:] = np.stack(planes)
            planes.clear()


def _sizes(folder: Path) -> dict[str, int]:
    """Return the size of every file below ``folder`` but the group's own description."""
    return {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.parent != folder
    }


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def digest_of(folder: Path, attributes: Mapping[str, Any]) -> str:
    """Return the SHA-256 over a shard's attributes and the descriptions of its arrays.

    The arrays themselves have checksums of zstd.
    """
    told = {name: value for name, value in attributes.items() if name != DIGEST}
    digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode())
    for name in PARTS:
        digest.update((folder / name / "zarr.json").read_bytes())
    return digest.hexdigest()


def clear_pending(folder: str | Path) -> int:
    """Remove what interrupted writers left in ``folder``; return how many there were."""
    left = list(Path(folder).glob(f"{PENDING}-*"))
    for path in left:
        shutil.rmtree(path, ignore_errors=True)
    return len(left)
