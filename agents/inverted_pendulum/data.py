"""Training pairs of the pendulum: states, and the chunks or tokens to answer with."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from steerlab.errors import InputError
from steerlab.readers.arrays import read_arrays, require
from steerlab.types import Array

#: Actions of a chunk.
CHUNK = 50
TASKS = ("balance", "goals")
SPLITS = ("training", "validation", "test")


@dataclass(frozen=True)
class Pairs:
    """States and what to do from them, by part of the split.

    Attributes:
        states: (N, 4).
        targets: Chunks (N, 50) or token sequences (N, L).
        split: (N,), 0 train, 1 validation, 2 test.
    """

    states: Array
    targets: Array
    split: Array

    def part(self, name: str) -> tuple[Array, Array]:
        """Return states and targets of one of :data:`SPLITS`."""
        rows = self.split == SPLITS.index(name)
        return self.states[rows], self.targets[rows]


def load_pairs(folder: str | Path, kind: str) -> Pairs:
    """Read what generate-pendulum-data wrote.

    Args:
        folder: Its output folder.
        kind: ``original`` for chunks or ``fast`` for tokens.

    Raises:
        InputError: The file is missing, damaged, or lacks an array.
    """
    path = Path(folder, f"training_pairs_{kind}.npz")
    if not path.is_file():
        raise InputError(
            f"there is no {str(path)!r}; write it with steerlab generate-pendulum-data "
            "output=FOLDER and pass data=FOLDER"
        )
    target = "action_chunk" if kind == "original" else "token_seq"
    states, targets, split = require(read_arrays(path), ("state", target, "split"), path)
    count, kinds = len(split), "f" if kind == "original" else "iu"
    if (
        states.shape != (count, 4)
        or targets.ndim != 2
        or len(targets) != count
        or split.dtype.kind not in "iu"
        or states.dtype.kind != "f"
        or targets.dtype.kind not in kinds
        or not np.isfinite(states).all()
        or not np.isfinite(targets).all()
    ):
        raise InputError(
            f"{str(path)!r} holds no pairs: state {states.dtype} {states.shape}, {target} "
            f"{targets.dtype} {targets.shape}, split {split.dtype} {split.shape}; make it again"
        )
    return Pairs(states, targets, split)
