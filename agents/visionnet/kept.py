"""Arrays that are computed once for a shard and kept as files: decoded frames, features."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from steerlab.envs.shards.read import Shard
from steerlab.envs.shards.write import digest_of
from steerlab.errors import InputError
from steerlab.files import atomic_path, writable_folder
from steerlab.types import Array


def kept_array(
    folder: str | Path, shard: Shard, name: str, shape: tuple[int, ...], make: Callable[[], Array]
) -> Array:
    """Return an array of a shard from its file in ``folder``, which is written if there is none.

    Args:
        folder: Where the files are; '' keeps nothing.
        shard: The shard; its digest is part of the file's name.
        name: What the array holds, the rest of the file's name.
        shape: Of the array.
        make: Computes it.

    Raises:
        InputError: The file is damaged, or the folder cannot be written.
    """
    if not folder:
        return make()
    path = Path(folder) / f"{digest_of(shard.path, shard.attributes)}_{name}.npy"
    if not path.exists():
        writable_folder(folder)
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.save(file, make())
    try:
        array: Array = np.load(path, mmap_mode="r")
    except (OSError, ValueError) as error:
        raise InputError(f"{str(path)!r} is damaged ({error}): delete it") from error
    if array.shape != shape:
        raise InputError(f"{str(path)!r} has shape {array.shape}, must be {shape}: delete it")
    return array
