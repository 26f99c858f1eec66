"""Evaluate a controller on TinyPhysics routes with the official costs.

Prints mean, median and 95th percentile of the three costs, writes costs.csv (full precision) and
report.html, which compares the controller with a baseline. With nothing given it drives comma's PID
on the embedded plant and synthetic segments; figures that compare with the controls challenge need
`plant=comma segments=comma` after `steerlab fetch-tinyphysics`, or paths of your own copies.

Examples:
  steerlab evaluate-tinyphysics
  steerlab evaluate-tinyphysics plant=comma segments=comma num_segments=100 processes=2
  steerlab evaluate-tinyphysics controller=controllers/mine.py baseline=pid seeds=honest
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
from steerlab.devices import torch_device
from steerlab.envs.tinyphysics.dynamics import STEPS
from steerlab.envs.tinyphysics.reward import Costs
from steerlab.envs.tinyphysics.rollout import Evaluation, evaluate
from steerlab.errors import InputError
from steerlab.experiments._tinyphysics_report import write_report
from steerlab.files import atomic_path
from steerlab.options import option
from steerlab.study import study
from steerlab.surrogates.plants.load import load_plant
from steerlab.surrogates.segments.data import Segments
from steerlab.surrogates.segments.synthetic import find_segments

#: Below this many segments the start of worker processes costs more than it saves.
_WORTH_PROCESSES = 64


@dataclass(frozen=True)
class Config:
    """Options of the study."""

    controller: str = option(
        "pid", "pid, zero, or a controller file written for comma's repository"
    )
    baseline: str = option("zero", "controller that the report compares with; '' for none")
    plant: str = option("default", "default, comma, or an ONNX file with comma's signature")
    segments: str = option("default", "default, comma, or a folder or zip of comma CSVs")
    num_segments: int = option(0, "use the first so many segments; 0 = all")
    runtime: str = option("exact", "exact, fast (last position only) or torch")
    seeds: str = option("official", "official, or any word: a salt that gives other noise")
    processes: int = option(0, "worker processes; 0 = one a core where it is worth it")
    batch_size: int = option(0, "segments in lockstep; 0 = 32, on a GPU 4096")
    device: str = option("auto", "device of the torch runtime: auto, cpu or cuda")


def run(config: Config, output: Path) -> dict[str, Evaluation]:
    """Drive both controllers, print the table, write the files."""
    names = [config.controller]
    if config.baseline not in ("", config.controller):
        names.append(config.baseline)
    factories = {name: controller_factory(name) for name in names}
    segments = find_segments(config.segments, config.num_segments)
    load_plant(config.plant, config.runtime, config.device)  # fails here, not in a worker
    results = {}
    for name, factory in factories.items():
        start = time.perf_counter()
        results[name] = drive(config, factory, segments, name)
        seconds = time.perf_counter() - start
        _print_table(name, config, results[name].costs, seconds)
    write_costs(output / "costs.csv", results[config.controller])
    write_report(output / "report.html", results, _describe(config))
    print(f"costs:  {output / 'costs.csv'}\nreport: {output / 'report.html'}")
    return results


def drive(config: Config, factory: Callable[[], Any], segments: Segments, name: str) -> Evaluation:
    """Evaluate one controller with a progress bar."""
    on_gpu = config.runtime == "torch" and torch_device(config.device).type == "cuda"
    if min(config.processes, config.batch_size) < 0:
        raise InputError("processes and batch_size must be 0 (automatic) or more")
    processes = config.processes
    if not processes:
        alone = on_gpu or len(segments) < _WORTH_PROCESSES
        processes = 1 if alone else os.cpu_count() or 1
    batch_size = config.batch_size or (4096 if on_gpu else 32)
    with tqdm(total=len(segments), unit="route", desc=Path(name).stem) as bar:
        done = 0

        def progress(steps: int) -> None:
            nonlocal done
            done += steps
            bar.update(done // STEPS - bar.n)

        return evaluate(
            factory,
            segments,
            config.plant,
            config.runtime,
            seeds=config.seeds,
            processes=processes,
            batch_size=batch_size,
            device=config.device,
            progress=progress,
        )


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
