"""Closed-loop driving of held-out episodes, and its figures over all steps of all episodes."""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steerlab import seeds
from steerlab.agents.classical.preview import Driver
from steerlab.envs.kinematic_driver.env import KinematicDriverVectorEnv
from steerlab.envs.kinematic_driver.randomization import Ranges, as_ranges
from steerlab.envs.kinematic_driver.roads import START
from steerlab.envs.kinematic_driver.violations import CUT, VIOLATIONS
from steerlab.errors import InputError

MakeDriver = Callable[[KinematicDriverVectorEnv], Driver]
FRAME_RATE = 10  # pictures of a film a second, one every second step

#: What a policy has to reach: name of the figure -> (limit, unit); violations and cuts must be 0.
TARGETS: dict[str, tuple[float, str]] = {
    "cte_p95": (0.5, "m"),
    "heading_p95": (0.1, "rad"),
    "jerk_rms": (2.0, "m/s^3"),
    "violations": (0.0, ""),
    "cuts": (0.0, ""),
}


#: Where policies fail that were trained on the defaults alone: late, badly seen, and most of all fast. Such
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


@dataclass
class Record:
    """What N episodes were like.

    Attributes:
        offset: Absolute offset from the path at every step that was driven, m, all in one (M,).
        heading: Absolute heading error, rad, (M,).
        jerk: Jerk, m/s^3, (M,).
        end: For each entry of ``info`` its values (N,) at the end of the episode; ``steps`` too.
    """

    offset: NDArray[np.float32]
    heading: NDArray[np.float32]
    jerk: NDArray[np.float32]
    end: dict[str, NDArray[Any]]


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
    driver = make_driver(env)
    observation, info = env.reset(seed=seeds.start)
    driver.reset(observation, info)
    names = [name for name in info if f"_{name}" in info]
    end = {name: info[name].copy() for name in names}
    end["steps"] = np.zeros(len(seeds), np.int64)
    running = np.ones(len(seeds), bool)
    kept: dict[str, list[NDArray[np.float32]]] = {"offset": [], "heading": [], "jerk": []}
    while running.any():
        observation, _, terminated, truncated, info = env.step(driver(observation, info))
        end["steps"] += running
        kept["offset"].append(np.abs(info["cte"][running]))
        kept["heading"].append(np.abs(info["heading_error"][running]))
        kept["jerk"].append(np.array(env.simulator.jerk[running]))
        over = running & (terminated | truncated)
        for name in names:
            end[name][over] = info[name][over]
        running &= ~over
        progress()
    return Record(**{n: np.concatenate(v) for n, v in kept.items()}, end=end)


def join(records: list[Record]) -> Record:
    """Return several records as one."""
    first, arrays = records[0], ("offset", "heading", "jerk")
    return Record(
        **{n: np.concatenate([getattr(r, n) for r in records]) for n in arrays},
        end={n: np.concatenate([r.end[n] for r in records]) for n in first.end},
    )


@dataclass(frozen=True)
class Figures:
    """The figures of a table; percentiles and means are over all steps of all episodes."""

    episodes: int
    violations: int
    boundary: int
    cuts: int
    wrong_way: int
    stall: int
    cte_p50: float  # m
    cte_p95: float  # m
    cte_max: float  # m
    heading_p95: float  # rad
    jerk_rms: float  # m/s^3
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
    returns = np.sort(end["base_return"])
    tail = returns[: max(1, round(0.05 * len(returns)))]
    return Figures(
        episodes=len(violation),
        violations=int((violation > 0).sum()),
        boundary=count["boundary"],
        cuts=count[VIOLATIONS[CUT]],
        wrong_way=count["wrong_way"],
        stall=count["stall"],
        cte_p50=float(np.percentile(record.offset, 50)),
        cte_p95=float(np.percentile(record.offset, 95)),
        cte_max=float(record.offset.max()),
        heading_p95=float(np.percentile(record.heading, 95)),
        jerk_rms=float(np.sqrt(np.mean(np.square(record.jerk, dtype=np.float64)))),
        progress=float(end["progress"].mean()),
        return_mean=float(returns.mean()),
        return_cvar=float(tail.mean()),
        km=float((end["s"] - START).sum() / 1000),
    )


def pictures(
    make_driver: MakeDriver,
    seeds: Iterable[int],
    ranges: Ranges | None = None,
    max_episode_steps: int = 500,
) -> Iterator[NDArray[np.uint8]]:
    """Yield pictures (H, W, 3) of one episode a seed, :data:`FRAME_RATE` a second."""
    env = KinematicDriverVectorEnv(1, max_episode_steps, ranges, render_mode="rgb_array")
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
