"""Time the windshield cameras with one thread: rendering, composing, packing and labels.

The times are CPU seconds, which depend little on other work of the machine; the table also has wall
time. A plain numpy version of the packing runs in the same call for comparison.

Example:
  steerlab benchmark-cameras scenario=urban_intersection
"""

import os
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from steerlab.agents.classical.preview import PreviewDriver
from steerlab.agents.classical.route_driver import route_driver
from steerlab.envs.carla_driver.env import CarlaDriverVectorEnv
from steerlab.envs.carla_driver.recording import Recorder
from steerlab.envs.labels.labels import labels
from steerlab.openpilot import images
from steerlab.openpilot.contracts import contract
from steerlab.options import option
from steerlab.study import study


@dataclass(frozen=True)
class Config:
    """Options of the study."""

    scenario: str = option("urban_intersection", "scenario of the pictures")
    frames: int = option(40, "frame pairs of one drive, at 5 Hz")
    seed: int = option(0, "seed of the drive")


def run(config: Config, output: Path | None) -> dict[str, Any]:
    """Return CPU and wall milliseconds for a frame pair, by part."""
    env = CarlaDriverVectorEnv(
        1, scenario=config.scenario, max_episode_steps=4 * config.frames, threads=1
    )
    observation, info = env.reset(seed=config.seed)
    driver, recorder, scenes = PreviewDriver(env), Recorder(env), []
    driver.reset(observation, info)
    for tick in range(4 * config.frames):
        scene = env.scene(0)
        recorder.add(scene, (0.0, 0.0), float(info["stop_gap"][0]))
        if tick % 4 == 0:
            scenes.append(scene)
        observation, _, terminated, truncated, info = env.step(driver(observation, info))
        if terminated[0] or truncated[0]:
            break
    shield = env.windshield(0)
    pictures = [np.stack(shield.pictures(scene)) for scene in scenes]  # builds, compiles, warms up
    record = recorder.finish(shield.mount)
    ticks = 4 * np.arange(len(scenes))
    rule = contract("openpilot-0.10.0").command

    def plain() -> None:
        planes = np.empty((6, 128, 256), np.uint8)
        for pair in pictures:
            for picture in pair:
                images._pack_arrays(picture, planes)

    images.pack_rgb(pictures[0])
    parts: dict[str, Callable[[], Any]] = {
        "pictures, both cameras": lambda: [shield.pictures(scene) for scene in scenes],
        "packing": lambda: [images.pack_rgb(pair) for pair in pictures],
        "packing, plain numpy": plain,
        "labels": lambda: labels(record, ticks, route_driver, rule),
    }
    result = {name: _time(part, len(scenes)) for name, part in parts.items()}
    table = Table("part", "CPU ms a pair", "wall ms a pair", "pairs / CPU s", box=None)
    for name, (cpu, wall) in result.items():
        table.add_row(name, f"{cpu:.1f}", f"{wall:.1f}", f"{1e3 / cpu:.0f}")
    console = Console()
    console.print(table)
    console.print(
        f"{len(scenes)} pairs; load {os.getloadavg()[0]:.1f}; peak memory "
        f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3:.0f} MB"
    )
    return {name: cpu for name, (cpu, _) in result.items()}


def _time(part: Callable[[], Any], pairs: int) -> tuple[float, float]:
    """Return CPU and wall milliseconds for a pair, the better of two runs."""
    best = (np.inf, np.inf)
    for _ in range(2):
        cpu, wall = time.process_time(), time.perf_counter()
        part()
        spent = (time.process_time() - cpu, time.perf_counter() - wall)
        best = min(best, (1e3 * spent[0] / pairs, 1e3 * spent[1] / pairs))
    return best


main = study(Config, run, folder=False)

if __name__ == "__main__":
    main()
