"""Driving each row's episode once, what is recorded of it, and the one definition of the offset's figures.

The offset (CTE) is the distance from the planned path, of the rear axle unless the front bumper is named.
An episode begins up to half a metre beside the path, and no driver can help that; so its first
:data:`START_SECONDS` and what follows, the steady state, are separate. Percentiles are over all steps of
all episodes. The steps that an episode lacks because it ended in a violation count as infinitely far off:
who crashes early does not look precise.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from steerlab.envs.kinematic_driver.dynamics import DT, FRONT
from steerlab.envs.kinematic_driver.env import KinematicDriverVectorEnv
from steerlab.types import Singles

START_SECONDS = 2.0
START_STEPS = round(START_SECONDS / DT)

#: P95 of the offset: all steps, the start, the steady state; and the front bumper's steady state.
CTE_KEYS = ("cte_p95", "cte_p95_start", "cte_p95_steady", "front_p95_steady")
CTE_CAPTION = (
    "CTE: offset from the path at the rear axle, percentiles over all steps of all episodes; start: the "
    f"first {START_SECONDS:g} s, from an offset that is drawn; steady: what follows; steps lost to a "
    "violation count as infinitely far off"
)


class Driver(Protocol):
    """Whoever drives all rows of an environment: made with it, and informed when episodes begin."""

    def reset(self, observation: Any, info: dict[str, Any]) -> None:
        """Forget the past."""

    def __call__(self, observation: Any, info: dict[str, Any]) -> Any:
        """Return actions (N, 2)."""


@dataclass
class Record:
    """What N episodes of at most T steps were like; NaN where an episode was over.

    Attributes:
        offset: Offset of the rear axle from the path, absolute, m, (T, N).
        front: The same of the front bumper's middle.
        heading: Absolute heading error, rad, (T, N).
        jerk: Jerk, m/s^3, (T, N).
        end: For each entry of ``info`` its values (N,) at the end of the episode; ``steps`` too.
    """

    offset: Singles
    front: Singles
    heading: Singles
    jerk: Singles
    end: dict[str, NDArray[Any]]

    def percentile(self, values: Singles, q: float, steps: slice = slice(None)) -> float:
        """Return the ``q``-th percentile of ``values`` (T, N) over ``steps`` of all episodes.

        What a violation cut off counts as infinite.
        """
        lost = np.isnan(values) & (self.end["violation"] > 0)
        counted = np.where(lost, np.inf, values)[steps]
        counted = counted[~np.isnan(counted)]
        if not len(counted):
            return float("nan")
        # Between a finite and an infinite neighbour there is nothing to interpolate.
        return float(np.percentile(counted, q, method="higher"))

    def of(self, rows: Any) -> "Record":
        """Return the record of some of the episodes."""
        arrays = {name: getattr(self, name)[:, rows] for name in _ARRAYS}
        return Record(**arrays, end={name: values[rows] for name, values in self.end.items()})


_ARRAYS = ("offset", "front", "heading", "jerk")


def join(records: list[Record]) -> Record:
    """Return several records of equal T as one."""
    arrays = {n: np.concatenate([getattr(r, n) for r in records], axis=1) for n in _ARRAYS}
    end = {name: np.concatenate([r.end[name] for r in records]) for name in records[0].end}
    return Record(**arrays, end=end)


@dataclass(frozen=True)
class OffsetFigures:
    """Offset from the path, m: percentiles over all steps of all episodes, see this module."""

    cte_p50: float  # rear axle, all steps
    cte_p95: float
    cte_max: float  # of the steps that were driven
    cte_p95_start: float  # rear axle, the first START_SECONDS
    cte_p50_steady: float  # rear axle, what follows
    cte_p95_steady: float
    front_p95_steady: float  # front bumper


def offset_figures(record: Record) -> OffsetFigures:
    """Return the figures of the offset from the path."""
    start, steady = slice(START_STEPS), slice(START_STEPS, None)
    return OffsetFigures(
        cte_p50=record.percentile(record.offset, 50),
        cte_p95=record.percentile(record.offset, 95),
        cte_max=float(np.nanmax(record.offset)),
        cte_p95_start=record.percentile(record.offset, 95, start),
        cte_p50_steady=record.percentile(record.offset, 50, steady),
        cte_p95_steady=record.percentile(record.offset, 95, steady),
        front_p95_steady=record.percentile(record.front, 95, steady),
    )


def front_offset(offset: Any, heading: Any, curvature: Any) -> Any:
    """Return the offset (m) of the front bumper's middle, positive to the right.

    Args:
        offset: Of the rear axle, m.
        heading: Heading relative to the path, rad.
        curvature: Of the path, 1/m; it bends away from the straight body.
    """
    return offset + FRONT * np.sin(heading) - 0.5 * FRONT**2 * curvature


def drive_once(
    env: Any,
    make_driver: Callable[[Any], Driver],
    seed: int,
    options: Mapping[str, Any] | None = None,
    progress: Callable[[], Any] = lambda: None,
) -> Record:
    """Drive one episode in each row, rows ``seed``, ``seed + 1`` and so on.

    Args:
        env: ``KinematicDriverVectorEnv``, wrapped or not, in next-step mode; rows that are through
            drive on, which is not counted.
        make_driver: Called with ``env``.
        seed: Seed of the first row.
        options: Options of the reset.
        progress: Called after every step.
    """
    task: KinematicDriverVectorEnv = env.unwrapped
    driver = make_driver(env)
    observation, info = env.reset(seed=seed, options=dict(options or {}))
    driver.reset(observation, info)
    names = [name for name in info if f"_{name}" in info]
    end = {name: info[name].copy() for name in names}
    end["steps"] = np.zeros(env.num_envs, np.int64)
    running = np.ones(env.num_envs, bool)
    kept: dict[str, list[Singles]] = {name: [] for name in _ARRAYS}
    while running.any():
        observation, _, terminated, truncated, info = env.step(driver(observation, info))
        end["steps"] += running
        offset, heading = info["cte"], info["heading_error"]
        now = {
            "offset": offset,
            "front": front_offset(offset, heading, info["path_curvature"]),
            "heading": heading,
            "jerk": task.simulator.jerk,
        }
        for name, values in now.items():
            kept[name].append(np.where(running, np.abs(values), np.nan).astype(np.float32))
        over = running & (terminated | truncated)
        for name in names:
            end[name][over] = info[name][over]
        running &= ~over
        progress()
    rest = np.full((task.max_episode_steps - len(kept["jerk"]), env.num_envs), np.nan, np.float32)
    return Record(**{n: np.concatenate([np.stack(kept[n]), rest]) for n in _ARRAYS}, end=end)
