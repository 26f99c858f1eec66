"""Drive segments with a controller and compute the official costs, on one or more processes."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.random import RandomState

from steerlab.envs.tinyphysics.dynamics import (
    STEPS,
    Floats,
    FuturePlan,
    Simulator,
    State,
    noise_seeds,
)
from steerlab.envs.tinyphysics.reward import Costs, official_costs
from steerlab.processes import worker_pool
from steerlab.surrogates.plants.base import CONTEXT, Plant
from steerlab.surrogates.plants.load import load_plant
from steerlab.surrogates.segments.data import CONTROL_START, Segments


class Controller(Protocol):
    """A controller of N rows with the interface of comma's, batched.

    It is asked from step 20 on, as in the official simulator; its answers before step 100 are
    replaced by the logged steer.
    """

    #: Whether it draws from numpy's global generator, as one of comma's files may. Then the
    #: generator of a row is at its turn when ``update`` is called.
    shares_noise: bool

    def reset(self, noise: Sequence[RandomState]) -> None:
        """Start ``len(noise)`` new rows; ``noise`` are their generators."""

    def update(self, target: Floats, current: Floats, state: State, plan: FuturePlan) -> Floats:
        """Return the steer (N,) for targets (N,) and lateral accelerations (N,), m/s^2."""


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
        simulator: One row a segment; holds the trajectories afterwards.
        controller: Controller of as many rows.
        seeds: Seed of each row's noise.
    """
    simulator.reset(slice(None), np.arange(len(simulator.time)), seeds, controller.shares_noise)
    controller.reset(simulator.noise)
    for time in range(CONTEXT, CONTROL_START):
        target, state = simulator.road(time)
        before = simulator.lataccel[:, time - 1]
        controller.update(target, before, state, simulator.plan(time))
        if controller.shares_noise:
            for generator in simulator.noise:
                generator.random_sample()
    for step in range(STEPS):
        time = CONTROL_START + step
        target, state = simulator.road(time)
        current = simulator.lataccel[:, time - 1]
        simulator.advance(controller.update(target, current, state, simulator.plan(time)))
        yield step + 1


def evaluate(
    make_controller: Callable[[], Controller],
    segments: Segments,
    plant: str | Path | Plant = "default",
    runtime: str = "exact",
    *,
    seeds: str = "official",
    processes: int = 1,
    batch_size: int = 32,
    device: str = "auto",
    progress: Callable[[int], None] = lambda steps: None,
) -> Evaluation:
    """Drive every segment once.

    Args:
        make_controller: Makes a controller; it can be pickled if ``processes`` is above 1.
        segments: The segments.
        plant: See :func:`steerlab.surrogates.plants.load.load_plant`.
        runtime: "exact", "fast" or "torch".
        seeds: "official", or a salt for other noise.
        processes: Worker processes; each computes on one thread.
        batch_size: Segments driven in lockstep; costs do not depend on it.
        device: Device of the torch runtime.
        progress: Called with the number of control steps finished since the last call.

    Returns:
        Costs and trajectories in the order of the segments.
    """
    chunks = [
        np.arange(start, min(start + batch_size, len(segments)))
        for start in range(0, len(segments), batch_size)
    ]
    jobs = [(segments[chunk], noise_seeds(segments[chunk].names, seeds)) for chunk in chunks]
    if processes == 1:
        loaded = load_plant(plant, runtime, device)
        parts = [_drive(make_controller, loaded, *job, progress) for job in jobs]
    else:
        parts = _drive_in_processes(
            make_controller, (plant, runtime, device), jobs, processes, progress
        )
    target, lataccel, steer = (np.concatenate(p) for p in zip(*parts, strict=True))
    return Evaluation(segments.names, official_costs(target, lataccel), target, lataccel, steer)


_Job = tuple[Segments, list[int]]
_Trajectories = tuple[Floats, Floats, Floats]


def _drive(
    make_controller: Callable[[], Controller],
    plant: Plant,
    segments: Segments,
    seeds: list[int],
    progress: Callable[[int], None],
) -> _Trajectories:
    simulator = Simulator(plant, segments, len(segments))
    for _ in rollout(simulator, make_controller(), seeds):
        progress(len(segments))
    return simulator.targets(), simulator.lataccel, simulator.steer


def _drive_in_processes(
    make_controller: Callable[[], Controller],
    plant: tuple[str | Path | Plant, str, str],
    jobs: list[_Job],
    processes: int,
    progress: Callable[[int], None],
) -> list[_Trajectories]:
    results: list[_Trajectories] = [None] * len(jobs)  # type: ignore[list-item]
    workers = min(processes, len(jobs))
    with worker_pool(workers, _start_worker, (make_controller, *plant)) as pool:
        waiting = {pool.submit(_drive_job, job): place for place, job in enumerate(jobs)}
        for done in as_completed(waiting):
            results[waiting[done]] = done.result()
            progress(STEPS * len(jobs[waiting[done]][0]))
    return results


_worker: tuple[Callable[[], Controller], Plant]


def _start_worker(
    make_controller: Callable[[], Controller], plant: str | Path | Plant, runtime: str, device: str
) -> None:
    global _worker
    _worker = make_controller, load_plant(plant, runtime, device)


def _drive_job(job: _Job) -> _Trajectories:
    make_controller, plant = _worker
    return _drive(make_controller, plant, *job, lambda steps: None)
