"""What the studies of the inverted pendulum share: pairs, episodes, and their figures."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steerlab.envs.inverted_pendulum.env import InvertedPendulumVectorEnv
from steerlab.errors import InputError
from steerlab.files import atomic_path

Array = NDArray[Any]
CHUNK = 50
TASKS = ("balance", "goals")
SPLITS = ("training", "validation", "test")
#: Where the experts of task=goals go, m, and the costs that their feedback comes from.
GOALS = (-1.5, 1.5)
GOAL_COST = (3.0, 10.0, 1.0, 0.5)


@dataclass(frozen=True)
class Run:
    """Episodes that were played to the end.

    Attributes:
        states: (N, T + 1, 4), the true ones.
        actions: (N, T).
        survived: (N,), whether the episode was within the limits throughout.
    """

    states: Array
    actions: Array
    survived: Array


def play(
    env: InvertedPendulumVectorEnv, act: Callable[[Array, int], Array], seed: int
) -> Run:
    """Play one episode in every row.

    Rows whose episode ends early stay in the batch and are marked; what they do afterwards
    counts for nothing.

    Args:
        env: Task over N rows.
        act: Maps observations (N, 4) and the number of the step to actions (N,).
        seed: Of the reset; row i has the start and the noise of ``seed + i``.
    """
    observations, info = env.reset(seed=seed)
    states, actions = [info["state"]], []
    survived = np.ones(env.num_envs, dtype=bool)
    for step in range(env.episode_steps):
        action = act(observations, step)
        observations, _, terminated, _, info = env.step(action.astype(np.float32)[:, None])
        survived &= ~terminated
        states.append(info["state"])
        actions.append(action)
    return Run(np.stack(states, axis=1), np.stack(actions, axis=1), survived)


def consecutive(mask: Array, length: int = 10) -> Array:
    """Return where in each row of (N, T) the first ``length`` Trues in sequence start, else -1."""
    windows = np.lib.stride_tricks.sliding_window_view(mask, length, axis=1).all(axis=-1)
    return np.where(windows.any(axis=1), windows.argmax(axis=1), -1)


def save_arrays(path: Path, **arrays: Array) -> None:
    """Write arrays to a compressed npz file, whole or not at all."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


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
    target = "action_chunk" if kind == "original" else "token_seq"
    try:
        with np.load(path, allow_pickle=False) as file:
            return Pairs(*(file[name] for name in ("state", target, "split")))
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"cannot read {str(path)!r} ({error}); write it with "
            "steerlab generate-pendulum-data output=FOLDER and pass data=FOLDER"
        ) from error
