"""Evaluate a controller on TinyPhysics routes with the official costs.

Prints mean, median and 95th percentile of the three costs, and writes costs.csv (full precision) and
report.html, which compares the controller with a baseline. By default comma's PID drives the embedded
plant on synthetic segments. Figures that can be compared with the controls challenge need
`plant=comma segments=comma` after `steerlab fetch-tinyphysics`, or paths of your own copies.

A controller file runs as comma's script runs it, in a separate process, to the end of each route's
file. plot=ROUTE draws one route step by step (comma's --debug): ROUTE.gif, ROUTE.csv.

Examples:
  steerlab evaluate-tinyphysics
  steerlab evaluate-tinyphysics plant=comma segments=comma num_segments=100 processes=2
  steerlab evaluate-tinyphysics controller=controllers/mine.py baseline=pid seeds=honest
  steerlab evaluate-tinyphysics controller=controllers/mine.py baseline= num_segments=1 plot=00000
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from rich.console import Console
from rich.table import Table
from tqdm.auto import tqdm

from steerlab.agents.classical.comma import controller_factory
from steerlab.envs.tinyphysics.dynamics import STEPS
from steerlab.envs.tinyphysics.processes import Workers
from steerlab.envs.tinyphysics.reward import Costs
from steerlab.envs.tinyphysics.rollout import Evaluation, evaluate, trace
from steerlab.errors import InputError
from steerlab.files import atomic_path
from steerlab.options import option
from steerlab.study import study
from steerlab.surrogates.plants.base import Plant
from steerlab.surrogates.plants.load import load_plant
from steerlab.surrogates.segments.data import Segments
from steerlab.surrogates.segments.synthetic import find_segments

#: Below this many segments the start of other processes costs more than it saves.
_WORTH_PROCESSES = 32


@dataclass(frozen=True)
class Config:
    """Options of the study."""

    controller: str = option(
        "pid", "pid, zero, steerlab, or a controller file written for comma's repository"
    )
    baseline: str = option("zero", "controller that the report compares with; '' for none")
    plant: str = option("default", "default, comma, or an ONNX file with comma's signature")
    segments: str = option("default", "default, comma, or a folder or zip of comma CSVs")
    num_segments: int = option(0, "number of segments, the first ones; 0 = all")
    runtime: str = option("exact", "exact, fast (last position only) or torch")
    seeds: str = option("official", "official, or any word: a salt that gives other noise")
    tail: bool = option(True, "drive to the end of each file, as comma's script does")
    skip_invalid: bool = option(False, "leave out segments that are not valid, and name them")
    plot: str | None = option(None, "route to draw step by step, for example 00042")
    processes: int = option(0, "processes that drive; 0 = one per core if that is faster")
    batch_size: int = option(0, "largest number of segments in lockstep; 0 = 32, on a GPU 4096")
    device: str = option("auto", "device of the torch runtime: auto, cpu or cuda")


def run(config: Config, output: Path) -> dict[str, Evaluation]:
    """Drive both controllers, print the table, write the files."""
    names = [config.controller]
    if config.baseline not in ("", config.controller):
        names.append(config.baseline)
    results = {}
    with Workers() as workers:
        workers.start(_processes(config, config.num_segments) - 1)  # up when the files are read
        factories = {name: controller_factory(name) for name in names}
        segments = _segments(config)
        plant = load_plant(config.plant, config.runtime, config.device)
        for name, factory in factories.items():
            start = time.perf_counter()
            results[name] = drive(config, factory, segments, plant, name, workers)
            seconds = time.perf_counter() - start
            _print_table(name, config, results[name].costs, seconds)
    write_costs(output / "costs.csv", results[config.controller])
    from steerlab.envs.tinyphysics.report import write_report

    write_report(output / "report.html", results, _describe(config))
    print(f"costs:  {output / 'costs.csv'}\nreport: {output / 'report.html'}")
    if config.plot is not None:
        _plot(config, factories[config.controller], segments, plant, output)
    return results


def _segments(config: Config) -> Segments:
    """Return the segments; name those that were left out."""
    skipped: list[InputError] = []
    keep = skipped.append if config.skip_invalid else None
    segments = find_segments(config.segments, config.num_segments, keep)
    for error in skipped:
        print(f"left out: {error}")
    if config.plot is not None:
        segments.index(config.plot)
    return segments


def _processes(config: Config, count: int) -> int:
    """Return how many processes drive ``count`` segments, this one included."""
    if min(config.processes, config.batch_size) < 0:
        raise InputError("processes and batch_size must be 0 (automatic) or more")
    if config.processes:
        return min(config.processes, count or config.processes)  # a count of 0: not known yet
    return 1 if count < _WORTH_PROCESSES or _on_gpu(config) else os.cpu_count() or 1


def drive(
    config: Config,
    factory: Callable[..., Any],
    segments: Segments,
    plant: Plant,
    name: str,
    workers: Workers,
) -> Evaluation:
    """Evaluate one controller with a progress bar."""
    processes = _processes(config, len(segments))
    batch_size = config.batch_size or (4096 if _on_gpu(config) else 32)
    with tqdm(total=len(segments), unit="route", desc=Path(name).stem) as bar:
        done = 0

        def progress(steps: int) -> None:
            nonlocal done
            done += steps
            bar.update(done // STEPS - bar.n)

        return evaluate(
            factory,
            segments,
            plant,
            seeds=config.seeds,
            processes=processes,
            batch_size=batch_size,
            tail=config.tail,
            progress=progress,
            note=bar.write,
            workers=workers,
        )


def _on_gpu(config: Config) -> bool:
    if config.runtime != "torch":
        return False
    from steerlab.devices import torch_device  # with it comes torch

    return torch_device(config.device).type == "cuda"


def _plot(
    config: Config, factory: Callable[..., Any], segments: Segments, plant: Plant, output: Path
) -> None:
    """Drive one route again, alone, and write its steps as an animation and as a table."""
    from steerlab.envs.tinyphysics.render import animate_rollout

    assert config.plot is not None
    simulator = trace(factory, segments, config.plot, plant, config.seeds)
    name = simulator.segments.names[0]
    steps = {
        "step": np.arange(simulator.end),
        "target_lataccel": simulator.segments.target[0, : simulator.end],
        "current_lataccel": simulator.lataccel[0],
        "action": simulator.steer[0],
        "roll_lataccel": simulator.segments.roll_lataccel[0, : simulator.end],
        "v_ego": simulator.segments.v_ego[0, : simulator.end],
    }
    with atomic_path(output / f"{name}.csv") as temporary:
        pl.DataFrame(steps).write_csv(temporary)
    with atomic_path(output / f"{name}.gif") as temporary:
        animate_rollout(temporary, name, steps)
    print(f"steps:  {output / f'{name}.csv'}, {output / f'{name}.gif'}")


def write_costs(path: Path, result: Evaluation) -> None:
    """Write route and costs with every digit."""
    frame = pl.DataFrame({"route": result.names, **result.costs._asdict()})
    with atomic_path(path) as temporary:
        frame.write_csv(temporary)


def _describe(config: Config) -> dict[str, str]:
    plant = config.plant if config.plant != "default" else "default (embedded)"
    segments = config.segments if config.segments != "default" else "default (synthetic)"
    return {
        "plant": plant,
        "runtime": config.runtime,
        "segments": segments,
        "seeds": config.seeds,
    }


def _print_table(name: str, config: Config, costs: Costs, seconds: float) -> None:
    count = len(costs.total_cost)
    table = Table(
        "",
        *costs._fields,
        title=f"{Path(name).name}: {count} routes, {count / seconds:.1f} a second",
        caption=", ".join(f"{k}: {v}" for k, v in _describe(config).items()),
        header_style="bold",
    )
    statistics: dict[str, Callable[[Any], Any]] = {
        "mean": np.mean,
        "median": np.median,
        "p95": lambda values: np.percentile(values, 95),
    }
    for label, statistic in statistics.items():
        table.add_row(label, *(f"{statistic(values):.4f}" for values in costs))
    Console().print(table)


main = study(Config, run)

if __name__ == "__main__":
    main()
