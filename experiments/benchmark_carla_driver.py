"""Measure steps per second of CarlaDriver-v0 without cameras, beside KinematicDriver-v0.

The runs use random actions, default noise, full observation, reward and automatic reset. The tasks
alternate; the table gives the median of each task and its ratio to KinematicDriver-v0.

Example:
  steerlab benchmark-carla-driver seconds=4 repeats=5
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from rich.console import Console
from rich.table import Table
from tqdm.auto import tqdm

from steerlab.options import option
from steerlab.study import study


@dataclass(frozen=True)
class Config:
    """Options of the study."""

    rows: int = option(1024, "number of environments")
    scenarios: tuple[str, ...] = option(
        ("urban_intersection", "highway_follow"), "scenarios of CarlaDriver-v0"
    )
    traffic: int = option(10, "other vehicles in each environment")
    compute: str = option("auto", "numba, numpy, or auto")
    seconds: float = option(4.0, "length of a run, s")
    repeats: int = option(5, "runs of each task")


def run(config: Config, output: Path | None) -> dict[str, float]:
    """Measure and print; return the median steps per second by runner."""
    runners = {"KinematicDriver-v0": runner("KinematicDriver-v0", config.rows)}
    for scenario in config.scenarios:
        runners[f"CarlaDriver-v0, {scenario}"] = runner(
            "CarlaDriver-v0", config.rows, scenario=scenario, traffic=config.traffic,
            compute=config.compute,
        )  # fmt: skip
    speeds: dict[str, list[float]] = {name: [] for name in runners}
    with tqdm(total=config.repeats * len(runners), unit="run") as bar:
        for _ in range(config.repeats):
            for name, measure in runners.items():
                speeds[name].append(measure(config.seconds))
                bar.update()
    medians = {name: float(np.median(values)) for name, values in speeds.items()}
    base = medians["KinematicDriver-v0"]
    table = Table("task", "steps/s", "lowest", "highest", "ratio", header_style="bold")
    for name, values in speeds.items():
        table.add_row(
            name, f"{medians[name]:,.0f}", f"{min(values):,.0f}", f"{max(values):,.0f}",
            f"{medians[name] / base:.3f}",
        )  # fmt: skip
    table.caption = f"{config.rows} rows, {config.traffic} other vehicles in each of CarlaDriver's"
    Console().print(table)
    return medians


def runner(task: str, rows: int, **arguments: Any) -> Callable[[float], float]:
    """Return a function that drives a task for some seconds and returns steps per second."""
    env = gym.make_vec(task, num_envs=rows, **arguments)
    env.reset(seed=0)
    actions = np.random.default_rng(0).uniform(-1, 1, (32, rows, 2)).astype(np.float32)

    def measure(seconds: float) -> float:
        count, begun = 0, time.perf_counter()
        while time.perf_counter() - begun < seconds:
            env.step(actions[count % 32])
            count += 1
        return count * rows / (time.perf_counter() - begun)

    measure(2.0)  # until everything is compiled, and episodes end at different times
    return measure


main = study(Config, run, folder=False)

if __name__ == "__main__":
    main()
