"""Closed-loop driving of held-out episodes, and its figures over all steps of all episodes."""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steerlab import seeds
from steerlab.envs.kinematic_driver.env import KinematicDriverVectorEnv
from steerlab.envs.kinematic_driver.randomization import Ranges, as_ranges
from steerlab.envs.kinematic_driver.record import (
    Driver,
    OffsetFigures,
    Record,
    drive_once,
    offset_figures,
)
from steerlab.envs.kinematic_driver.roads import START
from steerlab.envs.kinematic_driver.violations import CUT, VIOLATIONS
from steerlab.envs.wrappers.cvar import cvar
from steerlab.errors import InputError
from steerlab.film import write_film

MakeDriver = Callable[[KinematicDriverVectorEnv], Driver]

#: What a policy has to reach: name of the figure -> (limit, unit); violations and cuts must be 0.
TARGETS: dict[str, tuple[float, str]] = {
    "cte_p95": (0.5, "m"),
    "heading_p95": (0.1, "rad"),
    "jerk_rms": (2.0, "m/s^3"),
    "violations": (0.0, ""),
    "cuts": (0.0, ""),
}


#: Where policies fail that were trained on the defaults alone: long actuation delay, noisy perception, high speed. Such
#: conditions all at once are one episode in thousands, too few to learn from and to judge by.
HARD = Ranges(
    kinds=(0.7, 0.05, 0.15, 0.1), speed_lane=(22, 35), lateral_delay=(0.35, 0.5), actuator_lag=(0.18, 0.3),
    smoothing=(0.1, 0.2), geometry_noise=(1.0, 1.5), brightness=(1.8, 2.5),
)  # fmt: skip


@dataclass(frozen=True)
class HeldOut:
    """Episodes that no training uses."""

    first_seed: int
    episodes: int
    max_episode_steps: int
    ranges: Ranges
    name: str = "held-out"

    def seeds(self, count: int) -> range:
        """Return the seeds of the first ``count`` episodes.

        Raises:
            InputError: There are not that many.
        """
        if not 1 <= count <= self.episodes:
            raise InputError(
                f"episodes={count} must be in 1..{self.episodes}, the {self.name} ones there are"
            )
        return range(self.first_seed, self.first_seed + count)


def hard_episodes() -> HeldOut:
    """Return episodes in :data:`HARD` conditions, to choose by: none of them is a held-out one."""
    return HeldOut(seeds.HARD, 10_000, held_out().max_episode_steps, HARD, "hard")


@cache
def held_out() -> HeldOut:
    """Return the held-out episodes, which are frozen in ``held_out.json``."""
    text = files("steerlab.agents.policynet").joinpath("held_out.json").read_text("utf-8")
    table = json.loads(text)
    return HeldOut(**table | {"ranges": as_ranges(table["ranges"])})


def drive(
    make_driver: MakeDriver,
    seeds: range,
    ranges: Ranges | None = None,
    max_episode_steps: int = 500,
    progress: Callable[[], Any] = lambda: None,
) -> Record:
    """Drive the episodes of ``seeds`` side by side, one in each row.

    Args:
        make_driver: Called with the environment.
        seeds: Consecutive seeds.
        ranges: What is drawn; the defaults.
        max_episode_steps: Length of an episode in steps.
        progress: Called after every step.
    """
    env = KinematicDriverVectorEnv(len(seeds), max_episode_steps, ranges)
    return drive_once(env, make_driver, seeds.start, progress=progress)


@dataclass(frozen=True)
class Figures(OffsetFigures):
    """The figures of a table; percentiles and means are over all steps of all episodes."""

    episodes: int
    violations: int
    boundary: int
    cuts: int
    wrong_way: int
    stall: int
    heading_p95: float  # rad; what a violation cut off counts as infinite
    jerk_rms: float  # m/s^3, of the steps that were driven
    progress: float  # percent of the way at the set speed
    return_mean: float  # percent of a perfect drive
    return_cvar: float  # mean of the worst twentieth
    km: float

    def meets_targets(self) -> bool:
        """Return whether every target is met."""
        return all(self.meets(name) for name in TARGETS)

    def meets(self, name: str) -> bool:
        """Return whether one target is met."""
        limit, _ = TARGETS[name]
        value = getattr(self, name)
        return bool(value < limit if limit else value == 0)

    def as_dict(self) -> dict[str, float]:
        """Return the figures by name."""
        return asdict(self)


def figures(record: Record) -> Figures:
    """Return the figures of a record."""
    end, violation = record.end, record.end["violation"]
    count = {name: int((violation == i).sum()) for i, name in enumerate(VIOLATIONS)}
    returns = end["base_return"]
    return Figures(
        episodes=len(violation),
        violations=int((violation > 0).sum()),
        boundary=count["boundary"],
        cuts=count[VIOLATIONS[CUT]],
        wrong_way=count["wrong_way"],
        stall=count["stall"],
        **asdict(offset_figures(record)),
        heading_p95=record.percentile(record.heading, 95),
        jerk_rms=float(np.sqrt(np.nanmean(np.square(record.jerk, dtype=np.float64)))),
        progress=float(end["progress"].mean()),
        return_mean=float(returns.mean()),
        return_cvar=cvar(returns, 0.05),
        km=float((end["s"] - START).sum() / 1000),
    )


def pictures(
    make_driver: MakeDriver, seeds: Iterable[int], env: KinematicDriverVectorEnv
) -> Iterator[NDArray[np.uint8]]:
    """Yield pictures (H, W, 3) of one episode a seed, :data:`steerlab.film.FRAME_RATE` a second.

    Args:
        make_driver: Called with the environment.
        seeds: Of the episodes.
        env: One row, which renders.
    """
    for seed in seeds:
        driver: Driver = make_driver(env)
        observation: Any
        observation, info = env.reset(seed=seed)
        driver.reset(observation, info)
        over, step = False, 0
        while not over:
            observation, _, terminated, truncated, info = env.step(driver(observation, info))
            over = bool(terminated[0] or truncated[0])
            if step % 2 == 0 and not over:
                yield env.render_row(0)
            step += 1


def film_drive(
    make_driver: MakeDriver,
    stem: Path,
    seeds: Iterable[int],
    ranges: Ranges | None = None,
    max_episode_steps: int = 500,
) -> Path:
    """Film one episode of KinematicDriver-v0 for each seed, one after the other."""
    env = KinematicDriverVectorEnv(1, max_episode_steps, ranges, render_mode="rgb_array")
    return write_film(pictures(make_driver, seeds, env), stem)
