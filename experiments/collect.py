"""Collect driving episodes with pictures and labels: one zarr shard for each episode.

The privileged driver, which knows the true state, drives with disturbed commands; the plan label is
what it would do from each frame. A shard holds both cameras' frames, the state at every tick and all
labels of openpilot's driving model. Finished shards are kept: after a stop the same command continues.

Example:
  steerlab collect "scenario=[urban_intersection,highway_follow]" episodes=10 output=shards
"""

import dataclasses
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
from steerlab.envs.carla_driver.env import BACKENDS
from steerlab.envs.carla_driver.scenarios import as_scenario
from steerlab.envs.carla_driver.server.connection import ServerLost
from steerlab.envs.carla_driver.server.link import InUse, Link
from steerlab.envs.carla_driver.server.options import ServerOptions
from steerlab.envs.shards.read import open_shard
from steerlab.envs.shards.write import clear_pending, need_zarr
from steerlab.errors import InputError, unknown_name
from steerlab.openpilot.contracts import contract
from steerlab.options import option
from steerlab.processes import one_thread, worker_pool
from steerlab.seeds import episode_seed
from steerlab.study import study

FRAME_KB = 40.0  # of a stored frame pair with its labels, for the estimate
ATTEMPTS = 5  # at an episode whose server fails
PORT_STEP = 4  # from one worker's server to the next one's


@dataclass(frozen=True)
class Config:
    """Options of the study."""

    scenario: tuple[str, ...] = option(
        ("urban_intersection",), "scenarios by name, or paths of .yaml files"
    )
    map: str | None = option(
        None, "a map of the package or an .xodr file, in place of the scenario's"
    )
    episodes: int = option(10, "episodes of each scenario")
    processes: int = option(1, "processes, each of which collects one episode at a time")
    seed: int = option(0, "seed of the episodes; another seed gives other episodes")
    stream: str = option(
        "data", "stream of seeds: data, or validation for episodes that no training uses"
    )
    backend: str = option(
        "embedded", "embedded: the simulation of this package; server: a CARLA server"
    )
    hz: int = option(5, "stored frames per second: 5 or 20")
    steps: int | None = option(
        None, "length of an episode in steps of 0.05 s; by default that of the scenario"
    )
    disturbed: float = option(0.5, "share of the time that the driver's commands are disturbed")
    disturbance: float = option(
        1.0,
        "standard deviation of the lateral disturbance, m/s^2; the longitudinal one has 0.8 of it",
    )
    hasty: float = option(0.5, "share of the time that the driver takes bends too fast, so that braking "
                          "before them is seen; 0 if disturbed=0")  # fmt: skip
    pictures: bool = option(
        True,
        "false leaves frames black, which is several times faster: for studies on the true state",
    )
    contract: str = option(
        "openpilot-0.10.0", "contract whose rule reads the driver's command from the plan"
    )
    carla_host: str = option("127.0.0.1", "host of the server")
    carla_port: int = option(
        2000, "port of the server; further processes use every fourth port after it"
    )
    carla_root: str | None = option(None, "launch a server from this folder for each process")
    carla_timeout: float = option(20.0, "time limit for an answer of the server, s")
    carla_vehicle: str | None = option(None, "blueprint of the ego vehicle, * for anything")
    carla_sensors: str = option(
        "model", "model frames, or full: whole sensors and openpilot's warp"
    )
    carla_quality: str = option("Epic", "quality of a launched server: Epic or Low")
    ready_timeout: float = option(120.0, "time limit until a launched server answers, s")
    keep_carla_running: bool = option(
        False, "leave a launched server running, and use one that was left running"
    )
    restart_every: int = option(0, "episodes after which a launched server is restarted; 0 = never")


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
    for name in ("disturbed", "hasty"):
        if not 0 <= getattr(config, name) <= 1:
            raise InputError(f"{name}={getattr(config, name)} must be in [0, 1]")
    if not 0 <= config.disturbance <= 10:
        raise InputError(f"disturbance={config.disturbance} must be in [0, 10] m/s^2")
    if not config.scenario:
        raise InputError("scenario=[...] needs at least one name")
    contract(config.contract)
    _server_options(config)
    need_zarr()
    clear_pending(output)
    disturbance = Disturbance(
        config.disturbed, lateral=config.disturbance, longitudinal=0.8 * config.disturbance,
        hasty=config.hasty,
    )  # fmt: skip
    todo, kept = [], 0
    for name in config.scenario:
        scenario = as_scenario(name)
        for i in range(config.episodes):
            episode = Episode(
                scenario, episode_seed(config.stream, config.seed, i), config.map, config.steps,
                config.hz, disturbance, config.pictures, config.backend,
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


def _server_options(config: Config) -> ServerOptions:
    return ServerOptions(
        host=config.carla_host, port=config.carla_port, timeout=config.carla_timeout,
        vehicle=config.carla_vehicle, sensors=config.carla_sensors,
        cameras=config.pictures,
        carla_root=config.carla_root, quality=config.carla_quality,
        ready_timeout=config.ready_timeout, keep_running=config.keep_carla_running,
        restart_every=config.restart_every,
    )  # fmt: skip


def _collected(config: Config, todo: list[Episode], output: Path) -> Iterator[Path]:
    """Yield the paths of shards as they are finished."""
    work = partial(_collect_one, folder=output, config=config)
    if config.processes == 1:
        try:
            yield from map(work, todo)
        finally:
            _close_server()
        return
    with worker_pool(config.processes, one_thread) as pool:
        running = {pool.submit(work, episode) for episode in todo}
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for job in done:
                yield job.result()


def _collect_one(episode: Episode, folder: Path, config: Config) -> Path:
    """Collect one episode; runs in a worker. An episode whose server fails is begun again."""
    rule = contract(config.contract).command
    for left in reversed(range(ATTEMPTS)):
        server = None if config.backend == "embedded" else _server(config)
        try:
            return collect(episode, folder, PreviewDriver, route_driver, rule, server=server)
        except ServerLost as error:
            if not left:
                raise
            Console(stderr=True).print(f"{error}: the episode begins again", highlight=False)
    raise AssertionError


_held: list[Link] = []  # the server of this process


def _server(config: Config) -> Link:
    """Return the server of this process: the first one of the collection's that nobody else holds."""
    if not _held:
        options = _server_options(config)
        for number in range(config.processes):
            port = options.port + PORT_STEP * number
            link = Link(dataclasses.replace(options, port=port))
            try:
                link.open()
            except InUse:
                if number + 1 == config.processes:
                    raise
            else:
                _held.append(link)
                break
    return _held[0]


def _close_server() -> None:
    while _held:
        _held.pop().close()


FREE = (
    "scenario", "map", "episodes", "processes", "carla_host", "carla_port", "carla_root",
    "carla_timeout", "carla_sensors", "carla_quality", "ready_timeout", "keep_carla_running", "restart_every",
)  # fmt: skip
main = study(Config, run, resumes=True, free=FREE)

if __name__ == "__main__":
    main()
