"""Rollouts of a teacher plant under many controllers, kept in files so that a run can resume."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from tqdm.auto import tqdm

from steerlab.agents.classical.pid import PID
from steerlab.agents.tinyphysics.controller import PolicyController
from steerlab.agents.tinyphysics.model import PreviewPolicy
from steerlab.envs.tinyphysics.dynamics import FuturePlan, Simulator, State
from steerlab.envs.tinyphysics.rollout import Controller, rollout
from steerlab.files import writable_folder
from steerlab.processes import worker_pool
from steerlab.surrogates.plants.base import Plant
from steerlab.surrogates.plants.load import load_plant
from steerlab.surrogates.plants.moments import MomentRecorder, Transitions
from steerlab.surrogates.segments.data import Segments
from steerlab.surrogates.training.dataset import distil
from steerlab.types import Floats

CHUNK = 50  # rollouts in a file


class Recorded(Protocol):
    """What a student learns from."""

    def save(self, path: str | Path) -> None:
        """Write to a file."""


class Explorer:
    """A different controller on every row: PID with other gains, with noise on top, or a walk."""

    shares_noise = False

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng

    def reset(self, rows: Sequence[Any]) -> None:
        """Draw ``len(rows)`` controllers."""
        count, rng = len(rows), self.rng
        gains = PID()
        # One in four drives with gains so far off that it may swing or saturate.
        spread = rng.choice([0.2, 0.2, 0.2, 0.5], count)
        p, i, d = np.exp(spread * rng.standard_normal((3, count)))
        self._pid = PID(gains.p * p, gains.i * i, gains.d * d)
        self._pid.reset(rows)
        self._feedforward = rng.choice([0.0, 0.0, 0.3, 0.5], count)
        self._noise = rng.choice([0.0, 0.0, 0.03, 0.1, 0.2], count)
        self._blind = rng.random(count) < 0.1
        self._walk = np.zeros(count)

    def update(self, target: Floats, current: Floats, state: State, plan: FuturePlan) -> Floats:
        """Return the steer (N,)."""
        count = len(target)
        ahead = plan.lataccel[:, 2] - state.roll_lataccel
        steer = self._pid.update(target, current, state, plan) + self._feedforward * ahead
        noise = self._noise * self.rng.standard_normal((2, count))
        self._walk = 0.95 * self._walk + 0.3 * noise[0]
        walk = 0.5 * (target - state.roll_lataccel) + 2 * self._walk
        return np.where(self._blind, walk, steer + self._walk) + 0.5 * noise[1]


def vary(segments: Segments, rng: np.random.Generator) -> Segments:
    """Return the segments mirrored at random, and with other speeds, curves and banks.

    Three in ten become far sharper, up to the limits of tyres and steer, and many of these slower: a
    turn is tight where a car is slow. Public routes are hardly ever there, but a controller
    that swings in a tight turn is, and a plant that never saw it lets the swing run away.
    """
    count = len(segments)

    def between(low: float, high: float) -> Floats:
        return rng.uniform(low, high, (count, 1))

    mirror = rng.choice([-1.0, 1.0], (count, 1))
    harsh = rng.random((count, 1)) < 0.3
    sharp = mirror * between(0.6, 1.3) * np.where(harsh, between(1.0, 4.0), 1.0)
    pace = np.where(harsh, between(0.3, 1.2), between(0.8, 1.2))
    return Segments(
        segments.names,
        segments.rows,
        (segments.target * sharp).clip(-4.5, 4.5),
        segments.roll_lataccel * mirror * between(0.6, 1.3) + rng.normal(0.0, 0.15, (count, 1)),
        segments.v_ego * pace,
        segments.a_ego * pace * between(0.8, 1.2),
        (segments.steer * sharp).clip(-2.0, 2.0),
    )


@dataclass(frozen=True)
class Exploration:
    """How a teacher is asked.

    Attributes:
        teacher: Path of the plant.
        segments: The routes.
        rollouts: How many, in chunks of 50; every second chunk drives varied routes, among which
            those with slow driving, sharp turns or both are drawn more often, since they are rare.
        seed: Of every draw; a chunk depends on nothing but this and its number.
        per_chunk: Rollouts in a chunk; worker processes get it with the rest.
    """

    teacher: str
    segments: Segments
    rollouts: int
    seed: int
    per_chunk: int = field(default_factory=lambda: CHUNK, kw_only=True)

    def chunk(self, number: int, plant: Plant) -> Recorded:
        """Return the rollouts of one chunk."""
        rng = np.random.default_rng([self.seed, number])
        weights = np.ones(len(self.segments))
        if number % 2:
            weights += 4 * (self.segments.v_ego < 12.0).mean(axis=1)
            turning = np.abs(self.segments.target)
            weights += 10 * (turning > 1.5).mean(axis=1)
            slow = (self.segments.v_ego > 5.0) & (self.segments.v_ego < 15.0)
            weights += 40 * (slow & (turning > 1.2)).mean(axis=1)
        count = min(self.per_chunk, self.rollouts - number * self.per_chunk)
        chosen = rng.choice(len(weights), count, p=weights / weights.sum())
        some = self.segments[chosen]
        if number % 2:
            some = vary(some, rng)
        return self.record(rng, plant, some)

    def record(self, rng: np.random.Generator, plant: Plant, segments: Segments) -> Recorded:
        """Drive segments, each with a controller of its own; return what a student learns from."""
        return distil(plant, segments, partial(_drive, rng))


@dataclass(frozen=True)
class MomentExploration(Exploration):
    """The same for a student of the plant's moments, who is taught where a policy drives, too.

    Attributes:
        policy: It drives with a little noise on top; None for controllers drawn at random.
    """

    policy: PreviewPolicy | None = None

    def record(self, rng: np.random.Generator, plant: Plant, segments: Segments) -> Transitions:
        """Drive segments; return the rollouts with the moments of every prediction."""
        controller: Controller = Explorer(rng)
        if self.policy is not None:
            controller = PolicyController(self.policy, noise_levels(rng, segments), rng)
        recorder = MomentRecorder(plant)
        simulator = driven(rng, recorder, segments, controller)
        road = (segments.roll_lataccel, segments.v_ego, segments.a_ego)
        steps = simulator.steer.shape[1]
        return Transitions(
            simulator.steer.astype(np.float32),
            simulator.lataccel.astype(np.float32),
            np.stack([signal[:, :steps] for signal in road], axis=-1).astype(np.float32),
            np.stack(recorder.mean, axis=1),
            np.stack(recorder.deviation, axis=1),
        )


def noise_levels(rng: np.random.Generator, segments: Segments) -> Floats:
    """Return the deviation (S,) of random steer on top of a policy's: none in half of the drives."""
    return rng.choice([0.0, 0.0, 0.02, 0.1], len(segments))


def driven(
    rng: np.random.Generator, plant: Plant, segments: Segments, controller: Controller
) -> Simulator:
    """Return a simulator that a controller has driven, with random noise."""
    simulator = Simulator(plant, segments, len(segments))
    seeds = rng.integers(0, 2**31, len(segments)).tolist()
    for _ in rollout(simulator, controller, seeds):
        pass
    return simulator


def _drive(rng: np.random.Generator, plant: Plant, segments: Segments) -> tuple[Floats, Floats]:
    simulator = driven(rng, plant, segments, Explorer(rng))
    return simulator.steer, simulator.lataccel


def explore(exploration: Exploration, folder: Path, processes: int) -> list[Path]:
    """Return the files of all chunks, computing those that are not there yet."""
    count = -(-exploration.rollouts // exploration.per_chunk)
    paths = [writable_folder(folder) / f"{number:04d}.npz" for number in range(count)]
    missing = [number for number, path in enumerate(paths) if not path.exists()]
    if missing:
        with tqdm(total=count, initial=count - len(missing), desc="teacher", unit="chunk") as bar:
            for _ in _compute(exploration, paths, missing, processes):
                bar.update()
    return paths


def _compute(
    exploration: Exploration, paths: list[Path], missing: list[int], processes: int
) -> Iterator[None]:
    if processes == 1:
        plant = load_plant(exploration.teacher, "fast")
        for number in missing:
            exploration.chunk(number, plant).save(paths[number])
            yield
        return
    with worker_pool(processes, _start, (exploration,)) as pool:
        yield from pool.map(_one, missing, [paths[number] for number in missing])


_state: tuple[Exploration, Plant]


def _start(exploration: Exploration) -> None:
    global _state
    _state = exploration, load_plant(exploration.teacher, "fast")


def _one(number: int, path: Path) -> None:
    exploration, plant = _state
    exploration.chunk(number, plant).save(path)
