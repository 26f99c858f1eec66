"""Collect driving episodes with pictures and labels: one zarr shard for each.

The privileged driver drives, its commands disturbed; the plan label is what it would do from each
frame. A shard holds both cameras' frames, the state at every tick and all labels of openpilot's
driving model. What was collected before is kept: the same call goes on where it was stopped.

Example:
  steerlab collect "scenario=[urban_intersection,highway_follow]" episodes=10 output=shards
"""

import os
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, wait
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from tqdm.auto import tqdm

from steerlab.agents.classical.preview import PreviewDriver
from steerlab.agents.classical.route_driver import route_driver
from steerlab.envs.carla_driver.collecting import Disturbance, Episode, collect
from steerlab.envs.carla_driver.scenarios import as_scenario
from steerlab.envs.shards.read import open_shard
from steerlab.envs.shards.write import clear_pending, need_zarr
from steerlab.errors import InputError, unknown_name
from steerlab.openpilot.contracts import contract
from steerlab.options import option
from steerlab.processes import worker_pool
from steerlab.seeds import episode_seed
from steerlab.study import study

BACKENDS = ("embedded",)
FRAME_KB = 110.0  # of a stored frame pair with its labels, for the estimate


@dataclass(frozen=True)
class Config:
    """Options of the study."""

    scenario: tuple[str, ...] = option(
        ("urban_intersection",), "scenarios by name, or paths of .yaml files"
    )
    map: str | None = option(None, "a shipped map or an .xodr file, instead of the scenario's")
    episodes: int = option(10, "episodes of each scenario")
    processes: int = option(1, "episodes that are collected at once")
    seed: int = option(
        0, "another seed gives other episodes: take one for training, one for validation"
    )
    stream: str = option(
        "data", "stream of seeds: data, or validation for episodes that no training uses"
    )
    backend: str = option("embedded", "embedded: everything runs here")
    hz: int = option(5, "frames a second: 5, or 20")
    steps: int | None = option(
        None, "length of an episode in steps of 0.05 s, that of the scenario"
    )
    disturbed: float = option(0.5, "share of the time that the driver's commands are disturbed")
    pictures: bool = option(
        True,
        "false leaves frames black, which is several times faster: for studies on the true state",
    )
    contract: str = option(
        "openpilot-0.10.0", "whose rule reads the driver's command from the plan"
    )


def run(config: Config, output: Path) -> dict[str, Any]:
    """Collect what is missing in ``output``; return how many episodes and frames were made."""
    todo, kept = _todo(config, output)
    console = Console()
    frames = sum(_frames(episode) for episode in todo)
    size = frames * FRAME_KB * 1e3
    free = shutil.disk_usage(output).free
    console.print(
        f"{len(todo)} episodes, up to {frames:,} frame pairs and {size / 1e9:.2f} GB; {kept} are there",
        highlight=False,
    )
    if size > free:
        raise InputError(
            f"this needs about {size / 1e9:.1f} GB and {str(output)!r} has {free / 1e9:.1f} GB left: "
            "ask for fewer episodes= or choose another output="
        )
    begun, made = time.monotonic(), 0
    with tqdm(total=frames, unit="frame", smoothing=0.05) as bar:
        for path in _collected(config, todo, output):
            shard = open_shard(path)
            made += shard.frames
            bar.update(shard.frames)
            bar.set_postfix_str(shard.attributes["ended"])
    seconds = time.monotonic() - begun
    if made:
        console.print(f"{made:,} frame pairs in {seconds:.0f} s: {made / seconds:.1f} a second")
    return {"episodes": len(todo), "kept": kept, "frames": made, "seconds": seconds}


def _todo(config: Config, output: Path) -> tuple[list[Episode], int]:
    """Return the episodes that are still to be collected, and how many are there already."""
    if config.backend not in BACKENDS:
        raise unknown_name("backend", config.backend, BACKENDS)
    if config.episodes < 1 or config.processes < 1:
        raise InputError("episodes and processes must be at least 1")
    if not 0 <= config.disturbed <= 1:
        raise InputError(f"disturbed={config.disturbed} must be in [0, 1]")
    if not config.scenario:
        raise InputError("scenario=[...] needs at least one name")
    contract(config.contract)
    need_zarr()
    clear_pending(output)
    todo, kept = [], 0
    for name in config.scenario:
        scenario = as_scenario(name)
        for i in range(config.episodes):
            episode = Episode(
                scenario, episode_seed(config.stream, config.seed, i), config.map, config.steps, config.hz,
                Disturbance(share=config.disturbed), config.pictures,
            )  # fmt: skip
            path = output / episode.name
            if not path.exists():
                todo.append(episode)
                continue
            open_shard(path)  # says so if it is damaged: nothing of a user's is thrown away
            kept += 1
    return todo, kept


def _frames(episode: Episode) -> int:
    return (episode.steps or episode.scenario.steps) * episode.hz // 20


def _collected(config: Config, todo: list[Episode], output: Path) -> Iterator[Path]:
    """Yield the paths of shards as they are finished."""
    work = partial(_collect_one, folder=output, name=config.contract)
    if config.processes == 1:
        yield from map(work, todo)
        return
    with worker_pool(config.processes, _quietly) as pool:
        running = {pool.submit(work, episode) for episode in todo}
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for job in done:
                yield job.result()


def _collect_one(episode: Episode, folder: Path, name: str) -> Path:
    """Collect one episode; runs in a worker."""
    return collect(episode, folder, PreviewDriver, route_driver, contract(name).command)


def _quietly() -> None:
    """Let the parent share out the cores: a worker has one thread."""
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch

    torch.set_num_threads(1)


FREE = ("scenario", "map", "episodes", "processes")
main = study(Config, run, resumes=True, free=FREE)

if __name__ == "__main__":
    main()
