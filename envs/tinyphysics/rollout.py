"""Drive segments with a controller and compute the official costs, on one or more processes."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from steerlab.envs.tinyphysics.dynamics import (
    ALL,
    STEPS,
    FuturePlan,
    Rows,
    Simulator,
    State,
    noise_seeds,
)
from steerlab.envs.tinyphysics.processes import share_out
from steerlab.envs.tinyphysics.reward import Costs, official_costs
from steerlab.surrogates.plants.base import CONTEXT, Plant
from steerlab.surrogates.plants.load import load_plant
from steerlab.surrogates.segments.data import CONTROL_START, COST_END, Segments
from steerlab.types import Floats


class Row(NamedTuple):
    """What a controller knows of a row before it starts."""

    seed: int  # of the noise
    length: int  # rows of the file, where the plan ends


class Controller(Protocol):
    """A controller of N rows with the interface of comma's, batched.

    It is asked from step 20 on, as in the official simulator; its answers before step 100 are
    replaced by the logged steer.
    """

    #: Whether it draws from the simulator's noise, as one of comma's files may. Then ``uniforms``
    #: (N,) are the numbers that the simulator draws with after each update.
    shares_noise: bool

    def reset(self, rows: Sequence[Row]) -> None:
        """Start ``len(rows)`` new rows."""

    def update(self, target: Floats, current: Floats, state: State, plan: FuturePlan) -> Floats:
        """Return the steer (N,) for targets (N,) and lateral accelerations (N,), m/s^2."""


class StartOver(Exception):
    """A controller has to drive its rows again from the start.

    Args:
        reason: What it has turned out to do.
        in_order: One route after the other, by a controller made with ``in_order=True``.
    """

    def __init__(self, reason: str, in_order: bool = False) -> None:
        super().__init__(reason, in_order)
        self.reason, self.in_order = reason, in_order


@dataclass(frozen=True)
class Evaluation:
    """Costs and trajectories of S segments.

    Attributes:
        names: Route names.
        costs: Three arrays (S,).
        target: (S, 500) m/s^2.
        lataccel: (S, 500) m/s^2.
        steer: (S, 500), positive to the right.
    """

    names: tuple[str, ...]
    costs: Costs
    target: Floats
    lataccel: Floats
    steer: Floats


def rollout(simulator: Simulator, controller: Controller, seeds: Sequence[int]) -> Iterator[int]:
    """Drive row i of the simulator over segment i, yielding the number of steps done.

    Args:
        simulator: One row a segment; holds the trajectories afterwards. One with a tail is driven
            to the end of the files.
        controller: Controller of as many rows.
        seeds: Seed of each row's noise.
    """
    lengths = simulator.segments.rows
    simulator.reset(ALL, np.arange(len(lengths)), seeds)
    controller.reset([Row(*row) for row in zip(seeds, lengths.tolist(), strict=True)])
    for time in range(CONTEXT, simulator.end):
        target, state = simulator.road(time)
        before = simulator.lataccel[:, time - 1]
        actions = controller.update(target, before, state, simulator.plan(time))
        if time < CONTROL_START:
            continue
        going: Rows = ALL if time < lengths.min() else np.flatnonzero(time < lengths)
        shared: Any = controller  # with shares_noise it has uniforms
        uniforms = shared.uniforms[going] if controller.shares_noise else None
        simulator.advance(actions[going], going, uniforms)
        yield time + 1 - CONTROL_START


def evaluate(
    make_controller: Callable[..., Controller],
    segments: Segments,
    plant: str | Path | Plant = "default",
    runtime: str = "exact",
    *,
    seeds: str = "official",
    processes: int = 1,
    batch_size: int = 32,
    device: str = "auto",
    tail: bool = True,
    progress: Callable[[int], None] = lambda steps: None,
    note: Callable[[str], None] = warnings.warn,
) -> Evaluation:
    """Drive every segment once.

    Args:
        make_controller: Makes a controller; it can be pickled if ``processes`` is above 1.
        segments: The segments.
        plant: See :func:`steerlab.surrogates.plants.load.load_plant`.
        runtime: "exact", "fast" or "torch".
        seeds: "official", or a salt for other noise.
        processes: Processes that drive, this one included; each computes on one thread.
        batch_size: Most segments driven in lockstep; costs do not depend on it.
        device: Device of the torch runtime.
        tail: Drive on to the end of each file as the official simulator does, where the plan that a
            controller sees gets shorter. Costs do not depend on it.
        progress: Called with the number of control steps finished since the last call.
        note: Called with a sentence if the routes have to be driven one after the other.

    Returns:
        Costs and trajectories in the order of the segments.
    """
    loaded = load_plant(plant, runtime, device)
    salted = noise_seeds(segments.names, seeds)
    jobs = [
        _Job(segments[chunk], [salted[i] for i in chunk], tail)
        for chunk in chunks(len(segments), processes, batch_size)
    ]
    done = 0

    def moved(steps: int) -> None:
        nonlocal done
        done += steps
        progress(steps)

    try:
        start = partial(_Worker, make_controller, loaded)
        parts = share_out(start, jobs, min(processes, len(jobs)), moved)
    except StartOver as needed:
        note(f"{needed.reason}; they are")
        moved(-done)
        worker = _Worker(partial(make_controller, in_order=True), loaded)
        jobs = [_Job(segments[[i]], [seed], tail=True) for i, seed in enumerate(salted)]
        parts = [worker(job, moved) for job in jobs]
    target, lataccel, steer = (np.concatenate(p) for p in zip(*parts, strict=True))
    return Evaluation(segments.names, official_costs(target, lataccel), target, lataccel, steer)


def trace(
    make_controller: Callable[..., Controller],
    segments: Segments,
    name: str,
    plant: Plant,
    seeds: str = "official",
) -> Simulator:
    """Drive one segment alone, to the end of its file; return the simulator, which has every step.

    Args:
        make_controller: Makes a controller.
        segments: The segments.
        name: Which of them.
        plant: The plant.
        seeds: "official", or a salt for other noise.
    """
    some = segments[[segments.index(name)]]
    job = _Job(some, noise_seeds(some.names, seeds), tail=True)
    try:
        return _Worker(make_controller, plant).drive(job)
    except StartOver:
        return _Worker(partial(make_controller, in_order=True), plant).drive(job)


def chunks(count: int, processes: int, batch_size: int) -> list[NDArray[np.intp]]:
    """Share out ``count`` segments evenly: as many chunks for each process.

    Several processes do not start at the same time, so each gets some chunks where that leaves them
    large enough to be worth a batch.
    """
    rounds = -(-count // (processes * batch_size))
    if processes > 1:
        rounds = max(rounds, min(_ROUNDS, count // (processes * _SMALL_BATCH)))
    return np.array_split(np.arange(count), min(rounds * processes, count))


_ROUNDS = 4  # chunks for each of several processes
_SMALL_BATCH = 8  # segments in lockstep that a plant runs nearly as fast as a large batch


class _Job(NamedTuple):
    """Segments that are driven in lockstep."""

    segments: Segments
    seeds: list[int]
    tail: bool


class _Worker:
    """A controller and a plant, which drive one job after the other."""

    def __init__(self, make_controller: Callable[[], Controller], plant: Plant) -> None:
        self.controller, self.plant = make_controller(), plant

    def __call__(self, job: _Job, progress: Callable[[int], None]) -> tuple[Floats, Floats, Floats]:
        """Return targets, lateral accelerations and steer up to the last step that counts."""
        simulator = self.drive(job, progress)
        window = slice(0, COST_END)
        return simulator.targets(), simulator.lataccel[:, window], simulator.steer[:, window]

    def drive(self, job: _Job, progress: Callable[[int], None] = lambda steps: None) -> Simulator:
        """Return the simulator after it has been driven."""
        count = len(job.segments)
        while True:
            simulator = Simulator(self.plant, job.segments, count, job.tail)
            step = 0
            try:
                for step in rollout(simulator, self.controller, job.seeds):
                    if step <= STEPS:
                        progress(count)
            except StartOver as needed:
                progress(-count * min(step, STEPS))
                if needed.in_order:
                    raise
            else:
                return simulator
