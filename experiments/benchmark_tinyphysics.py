"""Measure TinyPhysics rollouts per second against the official way of running them.

The peers are written out plainly in envs/tinyphysics/peers.py: the official way (one process, one thread,
a new onnxruntime session for each rollout, a pandas row at each of its 580 steps) and a lean loop (one
session, numpy, the 400 calls that count, batch 1). They run in the same call, before and after
steerlab's rollouts, and their costs must be equal to ours. `official, N processes` is the official
way in as many processes as ours. `command` is the whole of `steerlab evaluate-tinyphysics
controller=pid`: start of Python, imports, start of processes, the tail of every file, costs.csv and
report. On a CUDA GPU the torch runtime is measured at several batch sizes.

Example:
  steerlab benchmark-tinyphysics plant=comma segments=comma num_segments=500
"""

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import polars as pl
import torch
from rich.console import Console
from rich.table import Table
from tqdm.auto import tqdm

from steerlab.agents.classical.pid import PID
from steerlab.envs.tinyphysics.peers import Result, lean_rollout, official_rollout, peer, peers
from steerlab.envs.tinyphysics.rollout import evaluate
from steerlab.errors import InputError
from steerlab.options import option
from steerlab.study import study
from steerlab.surrogates.plants.load import load_plant
from steerlab.surrogates.segments import comma
from steerlab.surrogates.segments.data import Segments
from steerlab.surrogates.segments.synthetic import find_segments


@dataclass(frozen=True)
class Config:
    """Options of the study."""

    plant: str = option("comma", "comma, or the path of an ONNX file with comma's signature")
    segments: str = option("comma", "comma, default, or a folder or zip of comma CSVs")
    num_segments: int = option(500, "routes that steerlab drives")
    peer_segments: int = option(8, "routes that the slow peers drive, before and after ours")
    processes: int = option(2, "processes of steerlab")
    command_segments: int = option(96, "routes that the whole command drives; 0 = leave it out")
    batch_sizes: tuple[int, ...] = option((512, 1024, 2048, 4096), "rollouts in a batch on a GPU")


def run(config: Config, output: Path | None) -> dict[str, float]:
    """Measure and print; return rollouts per second by runner."""
    try:
        import pandas  # noqa: F401
    except ImportError as error:
        raise InputError("the official peer needs pandas: pip install pandas") from error
    plant = comma.fetched(comma.model_path()) if config.plant == "comma" else config.plant
    load_plant(plant, "exact")  # says now what is wrong with the file
    segments = find_segments(config.segments, config.num_segments)
    few = segments[: config.peer_segments]
    runners: dict[str, Callable[[], Result]] = {
        "official": partial(peer, few, str(plant), official_rollout),
        "lean": partial(peer, few, str(plant), lean_rollout),
        f"official, {config.processes} processes": partial(
            peers, few, str(plant), config.processes
        ),
        "exact": partial(ours, segments, plant, "exact", config.processes),
        "fast": partial(ours, segments, plant, "fast", config.processes),
    }
    if config.command_segments:
        for runtime in ("exact", "fast"):
            runners[f"command, {runtime}"] = partial(command, config, plant, runtime)
    if torch.cuda.is_available():
        for size in config.batch_sizes:
            many = segments[np.resize(np.arange(len(segments)), size)]
            runners[f"torch, cuda, batch {size}"] = partial(
                ours, many, plant, "torch", 1, size, warm=True
            )
    order = ["official", "lean", *list(runners)[2:], "lean", "official"]
    results: dict[str, list[Result]] = {name: [] for name in runners}
    for name in tqdm(order, unit="runner"):
        results[name].append(runners[name]())
    speeds = {
        name: sum(r.rollouts for r in rs) / sum(r.seconds for r in rs)
        for name, rs in results.items()
    }
    _print(speeds, results)
    return speeds


def _print(speeds: dict[str, float], results: dict[str, list[Result]]) -> None:
    official = results["official"][0].total_cost
    table = Table(
        "runner", "rollouts/s", "x official", "x lean", "routes with other costs",
        title="TinyPhysics, PID, official noise", header_style="bold",
    )  # fmt: skip
    for name, speed in speeds.items():
        common = results[name][0].total_cost[: len(official)]
        table.add_row(
            name,
            f"{speed:.2f}",
            f"{speed / speeds['official']:.2f}",
            f"{speed / speeds['lean']:.2f}",
            f"{(common != official).sum()} of {len(official)}",
        )
    Console().print(table)


def ours(
    segments: Segments,
    plant: str | Path,
    runtime: str,
    processes: int,
    batch_size: int = 32,
    warm: bool = False,
) -> Result:
    """Time :func:`evaluate`, the start of its processes included."""
    loaded: Any = plant
    if warm:  # the capture of a CUDA graph is paid once for each batch size
        loaded = load_plant(plant, runtime)
        evaluate(PID, segments, loaded, batch_size=batch_size)
    start = time.perf_counter()
    result = evaluate(PID, segments, loaded, runtime, processes=processes, batch_size=batch_size)
    return Result(len(segments), time.perf_counter() - start, result.costs.total_cost)


def command(config: Config, plant: str | Path, runtime: str) -> Result:
    """Time the whole command, from the start of Python to its end."""
    with TemporaryDirectory() as folder:
        options = [
            f"plant={plant}",
            f"segments={config.segments}",
            f"num_segments={config.command_segments}",
            f"processes={config.processes}",
            f"runtime={runtime}",
            f"output={folder}/run",
            "controller=pid",
            "baseline=",
        ]
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "steerlab", "evaluate-tinyphysics", *options],
            check=True,
            capture_output=True,
        )
        seconds = time.perf_counter() - start
        costs = pl.read_csv(Path(folder, "run", "costs.csv"))["total_cost"].to_numpy()
    return Result(len(costs), seconds, costs)


main = study(Config, run, folder=False)

if __name__ == "__main__":
    main()
