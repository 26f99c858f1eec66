"""Experts that balance the pendulum or bring it to a goal, and their actions cut into chunks."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from steerlab.agents.classical.pendulum import PID_GAINS, NestedPID, StateFeedback, feedback_gain
from steerlab.agents.inverted_pendulum.data import CHUNK, TASKS
from steerlab.agents.inverted_pendulum.episodes import (
    EXPERT_START,
    GOAL_COST,
    GOALS,
    OBSTACLE,
    consecutive,
    play,
    reached,
)
from steerlab.envs.inverted_pendulum.dynamics import BALANCE_ANGLE, EPISODE_STEPS
from steerlab.envs.inverted_pendulum.env import FACTORS, InvertedPendulumVectorEnv
from steerlab.errors import InputError, unknown_name
from steerlab.options import option
from steerlab.types import Array

#: Where chunks start within a trajectory: densely while the pole is caught.
STARTS = np.r_[0:9, 10, 12:25:2, 27:49:3]


@dataclass(frozen=True)
class Demonstrations:
    """Options of :func:`expert_trajectories`; a study's options inherit from it."""

    task: str = option("balance", "balance, or goals: experts that go to one of two places")
    trajectories: int = option(4000, "expert trajectories of 100 steps")
    noise: float = option(0.05, "half-width of the noise on the actions, not in the labels")
    gain_spread: float = option(0.1, "relative half-width of each gain of each trajectory")
    recoveries: float = option(
        0.5, "task=goals: share of the trajectories that start near their goal, off balance"
    )
    pole_mass: list[float] = option(
        [1.0, 1.0], "range of a factor on its mass, drawn by each trajectory"
    )
    pole_length: list[float] = option([1.0, 1.0], "the same, on the length of the pole")
    gear: list[float] = option([1.0, 1.0], "the same, on the force of an action")
    seed: int = option(0, "seed of starts, gains, noise and split")


@dataclass(frozen=True)
class Trajectories:
    """Kept expert runs.

    Attributes:
        states: (N, 100, 4), before each action.
        actions: (N, 100), without the noise that was added to them.
        gains: (N, 6) of the PID, or (N, 4) of the state feedback.
        goals: (N,) place the expert went to, m; 0 for the PID, which holds no place.
        plants: (N, 3) factors on the plant, in the order of ``FACTORS``.
    """

    states: Array
    actions: Array
    gains: Array
    goals: Array
    plants: Array


def expert_trajectories(config: Demonstrations) -> Trajectories:
    """Return ``config.trajectories`` runs in which the expert settled the pole."""
    tree = np.random.SeedSequence(config.seed)
    kept: list[Trajectories] = []
    missing = config.trajectories
    while missing > 0:
        rng = np.random.default_rng(tree.spawn(1)[0])
        spread = rng.uniform(1 - config.gain_spread, 1 + config.gain_spread, (missing, 6))
        env, goals, start = _expert_task(config, missing), np.zeros(missing), None
        expert: NestedPID | StateFeedback
        if config.task == "goals":
            goals = np.resize(GOALS, missing)
            start = _goal_starts(goals, env.reset_noise, config.recoveries, rng)
            gains = feedback_gain(GOAL_COST) * spread[:, :4]
            expert = StateFeedback(gains, goals)
        else:
            gains = PID_GAINS * spread
            expert = NestedPID(gains)
        run = play(env, expert, int(rng.integers(2**31)), start)
        lean = run.states[:, :EPISODE_STEPS, 1] - BALANCE_ANGLE
        good = run.survived & (consecutive(np.abs(lean) < 0.02) >= 0)
        if config.task == "goals":
            # On plants far from the nominal one some feedback chatters between the limits.
            quiet = (np.abs(run.actions[:, -20:]) < 0.5).all(axis=1)
            good &= quiet & reached(run, goals[:, None, None])
            good = _ways(good).all(axis=1).repeat(len(GOALS))  # all ways of a start or none
        part = (run.states[good, :EPISODE_STEPS], run.actions[good], gains[good], goals[good])
        kept.append(Trajectories(*part, env.plant[good]))
        if not good.any():
            raise InputError(f"no expert settles the pole at noise={config.noise}; lower it")
        missing -= int(good.sum())
    columns = zip(*(vars(k).values() for k in kept), strict=True)
    return Trajectories(*(np.concatenate(column) for column in columns))


def _goal_starts(
    goals: Array, reset_noise: float, recoveries: float, rng: np.random.Generator
) -> Array:
    """Return starts (N, 4): the same for all ways, around the middle or around the goals (N,).

    Around the middle they are denser towards rest, where the choice is hardest.
    """
    ways = _ways(goals)
    recovers = rng.random((len(ways), 1, 1)) < recoveries
    reach = np.where(recovers, 1.0, rng.random(recovers.shape)) * reset_noise
    start = (reach * rng.uniform(-1, 1, (len(ways), 1, 4))).repeat(len(GOALS), axis=1)
    start[..., 0] += ways * recovers[..., 0]
    return start.reshape(-1, 4)


def _ways(rows: Array) -> Array:
    """Return (N,) as (N / 2, 2): one row a start, one column a goal."""
    return rows.reshape(-1, len(GOALS))


def _expert_task(config: Demonstrations, rows: int) -> InvertedPendulumVectorEnv:
    factors: Any = {name: tuple(getattr(config, name)) for name in FACTORS}
    if config.task == "goals":
        factors |= {"reset_noise": EXPERT_START, "obstacle": OBSTACLE}
    return InvertedPendulumVectorEnv(rows, process_noise=config.noise, **factors)


def cut(trajectories: Trajectories) -> tuple[Array, Array, Array]:
    """Return states (M, 4), chunks (M, 50) and the trajectory (M,) each is from."""
    windows = np.lib.stride_tricks.sliding_window_view(trajectories.actions, CHUNK, axis=1)
    states = trajectories.states[:, STARTS].reshape(-1, 4)
    numbers = np.repeat(np.arange(len(trajectories.states), dtype=np.int32), len(STARTS))
    return states, windows[:, STARTS].reshape(-1, CHUNK), numbers


def split_of(trajectories: int, seed: int) -> Array:
    """Return 0, 1 or 2 for each trajectory: 80 % train, 10 % validation, 10 % test."""
    order = np.random.default_rng([seed, 1]).permutation(trajectories)
    parts = np.searchsorted([0.8 * trajectories, 0.9 * trajectories], order, side="right")
    return np.asarray(parts, dtype=np.int8)


def check_demonstrations(config: Demonstrations) -> None:
    """Refuse what no expert can do.

    Raises:
        InputError: An option is out of range.
    """
    if config.task not in TASKS:
        raise unknown_name("task", config.task, TASKS)
    if config.trajectories < 10:
        raise InputError(f"trajectories={config.trajectories} must be at least 10, to be split")
    if config.task == "goals" and config.trajectories % len(GOALS):
        raise InputError(
            f"trajectories={config.trajectories} must be even, for either goal as many"
        )
    for name in ("noise", "gain_spread"):
        if not 0 <= getattr(config, name) < 1:
            raise InputError(f"{name}={getattr(config, name)} must be in [0, 1)")
    if not 0 <= config.recoveries <= 1:
        raise InputError(f"recoveries={config.recoveries} must be in [0, 1]")
    _expert_task(config, 1)  # refuses ranges that make no sense
