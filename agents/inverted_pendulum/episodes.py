"""Episodes of the inverted pendulum that are played to the end, and what counts as success."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from steerlab.envs.inverted_pendulum.env import InvertedPendulumVectorEnv, at_goal
from steerlab.types import Array

#: Where the experts of task=goals go, m, and the costs that their feedback comes from.
GOALS = (-1.5, 1.5)
GOAL_COST = (0.1, 1.0, 0.03, 0.05)
#: Half-widths of the start in every component: of these experts, and of who is to do as they do.
EXPERT_START, GOAL_START = 0.2, 0.05
#: What blocks the middle of the rail: half-width in m, first step.
OBSTACLE = (0.5, 40)


@dataclass(frozen=True)
class Rollouts:
    """Episodes that were played to the end.

    Attributes:
        states: (N, T + 1, 4), the true ones; after an early end they are of no meaning.
        actions: (N, T).
        steps: (N,), how many steps the episode had.
        survived: (N,), whether the episode was within the limits throughout.
    """

    states: Array
    actions: Array
    steps: Array
    survived: Array

    def during(self) -> Array:
        """Tell which states (N, T) before an action belong to the episode."""
        return np.asarray(np.arange(self.actions.shape[1]) < self.steps[:, None])


def play(
    env: InvertedPendulumVectorEnv,
    act: Callable[[Array], Array],
    seed: int,
    start: Array | None = None,
) -> Rollouts:
    """Play one episode in every row.

    Rows whose episode ends early stay in the batch, and begin another; it counts for nothing.

    Args:
        env: Task over N rows.
        act: Maps observations (N, 4) to actions (N,); called once a step.
        seed: Of the reset; row i has the start and the noise of ``seed + i``.
        start: States (N, 4) to start from, in place of the drawn ones.
    """
    observations, info = env.reset(seed=seed, options={} if start is None else {"state": start})
    states, actions = [info["state"]], []
    survived = np.ones(env.num_envs, dtype=bool)
    steps = np.zeros(env.num_envs, dtype=int)
    assert env.max_episode_steps is not None
    for _ in range(env.max_episode_steps):
        steps += survived
        action = act(observations)
        observations, _, terminated, _, info = env.step(action.astype(np.float32)[:, None])
        survived &= ~terminated
        states.append(info["state"])
        actions.append(action)
    return Rollouts(np.stack(states, axis=1), np.stack(actions, axis=1), steps, survived)


def consecutive(mask: Array, length: int = 10) -> Array:
    """Return where in each row of (N, T) the first ``length`` Trues in sequence start, else -1."""
    windows = np.lib.stride_tricks.sliding_window_view(mask, length, axis=1).all(axis=-1)
    found: Array = np.any(windows, axis=1)
    return np.where(found, windows.argmax(axis=1), -1)


def reached(rollouts: Rollouts, goals: Array) -> Array:
    """Tell which episodes (N,) end well: inside the limits, the last 20 steps at a goal.

    Args:
        rollouts: Episodes.
        goals: Places of which any will do, (G,), or one for each episode, (N, 1, 1).
    """
    return np.asarray(rollouts.survived & at_goal(rollouts.states[:, -20:], goals).all(axis=1))
