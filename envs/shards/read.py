"""Reading of shards: checked when opened, damaged or foreign ones named."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from steerlab.envs.cameras.geometry import Mount
from steerlab.envs.shards.layout import ATTRIBUTES, DIGEST, KIND, PARTS, SCHEMA
from steerlab.envs.shards.write import digest_of, need_zarr
from steerlab.errors import InputError
from steerlab.types import Array


@dataclass(frozen=True, eq=False)
class Shard:
    """An opened shard: attributes in memory, arrays read when asked for."""

    path: Path
    group: Any
    attributes: dict[str, Any]

    @property
    def frames(self) -> int:
        """Return F."""
        return int(self.group["img"].shape[0])

    @property
    def ticks(self) -> int:
        """Return T."""
        return int(self.group["state"].shape[0])

    @cached_property
    def _arrays(self) -> dict[str, Any]:
        """Keep the arrays that were read from: to open one takes longer than to read a frame."""
        return {}

    @cached_property
    def mount(self) -> Mount:
        """Return where the device was on the car."""
        told = self.attributes["mount"]
        values: Any = {k: tuple(v) if isinstance(v, list) else v for k, v in told.items()}
        return Mount(**values)

    def read(self, name: str, rows: Any = slice(None)) -> Array:
        """Return an array, or some of its rows.

        Raises:
            InputError: Its file is damaged.
        """
        try:
            if name not in self._arrays:
                self._arrays[name] = self.group[name]
            return np.asarray(self._arrays[name][rows])
        except Exception as error:  # whatever a codec says of bytes that are not its own
            if isinstance(error, IndexError):
                raise
            raise InputError(f"shard {str(self.path)!r} is damaged: {name}: {error}") from error

    def check(self) -> None:
        """Read everything once.

        Raises:
            InputError: Something is damaged.
        """
        for name in PARTS:
            count = self.group[name].shape[0]
            for begin in range(0, count, 64):
                self.read(name, slice(begin, begin + 64))


def open_shard(path: str | Path) -> Shard:
    """Open a shard after a look at its attributes, its arrays and the sizes of all its files.

    Raises:
        InputError: It is missing, damaged, incomplete, of another version, or none of ours.
    """
    path = Path(path)
    zarr = need_zarr()
    try:
        group = zarr.open_group(path, mode="r")
        attributes = dict(group.attrs)
    except Exception as error:  # zarr and json say it in many ways
        raise InputError(f"{str(path)!r} is no zarr group: {error}") from error
    if attributes.get("kind") != KIND:
        raise InputError(f"{str(path)!r} is a zarr group, but no shard of steerlab")
    if attributes.get("schema") != SCHEMA:
        raise InputError(
            f"shard {str(path)!r} has schema {attributes.get('schema')!r}; this version reads {SCHEMA}: "
            "collect it again"
        )
    missing = [name for name in ATTRIBUTES if name not in attributes]
    if missing:
        raise InputError(f"shard {str(path)!r} is damaged: attributes {missing} are missing")
    for name, size in dict(attributes["files"]).items():
        file = path / name
        if not file.is_file() or file.stat().st_size != size:
            raise InputError(f"shard {str(path)!r} is damaged: {name} is missing or cut short")
    _check_arrays(path, group)
    if attributes.pop(DIGEST, None) != digest_of(path, attributes):
        raise InputError(
            f"shard {str(path)!r} is damaged: its descriptions do not have their digest; collect it again"
        )
    return Shard(path, group, attributes)


def _check_arrays(path: Path, group: Any) -> None:
    """Hold names, shapes and types of a group's arrays against the layout."""
    lengths: dict[str, set[int]] = {"F": set(), "T": set()}
    for name, part in PARTS.items():
        try:
            array = group[name]
            shape, dtype = tuple(array.shape), np.dtype(array.dtype)
        except Exception as error:  # a missing array, or a description that is no JSON
            raise InputError(f"shard {str(path)!r} is damaged: no array {name!r}") from error
        if shape[1:] != part.shape or dtype != np.dtype(part.dtype):
            raise InputError(
                f"shard {str(path)!r} is damaged: {name} is {dtype} {shape}, must be "
                f"{np.dtype(part.dtype)} ({part.axis}, *{part.shape})"
            )
        lengths[part.axis].add(shape[0])
    if len(lengths["F"]) != 1 or len(lengths["T"]) != 1:
        raise InputError(f"shard {str(path)!r} is damaged: its arrays have different lengths")


def find_shards(folder: str | Path) -> Iterator[Path]:
    """Yield the paths of all folders ``*.zarr`` in ``folder``, by name; or ``folder`` if it is one.

    Raises:
        InputError: The folder is missing.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"there is no folder {str(folder)!r}")
    if folder.suffix == ".zarr":
        yield folder
        return
    yield from sorted(path for path in folder.glob("*.zarr") if path.is_dir())


def open_all(folder: str | Path) -> tuple[list[Shard], list[str]]:
    """Return the shards of a folder, and a line for each that had to be left out."""
    shards, bad = [], []
    for path in find_shards(folder):
        try:
            shards.append(open_shard(path))
        except InputError as error:
            bad.append(str(error))
    return shards, bad
