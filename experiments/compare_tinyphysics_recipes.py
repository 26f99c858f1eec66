"""Compare trainings of TinyPhysics controllers in one table: cost, processor seconds, steps driven.

Each of `runs=` is an output folder of train-tinyphysics-controller with any recipe; the table uses the
name of the folder. The costs are those on the routes that selected the policy (official noise), as
the training recorded them. Intervals are 95 %, bootstrap over routes; the difference is paired by route,
to the first of the runs. Seconds and steps include those of the run that it began with (start=).

Example:
  steerlab compare-tinyphysics-recipes "runs=[runs/gradient,runs/cloning,runs/ppo]"
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter
from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table

from steerlab.agents.classical.pid import PID
from steerlab.agents.tinyphysics.report import summary
from steerlab.envs.tinyphysics.rollout import evaluate
from steerlab.errors import InputError
from steerlab.experiments.train_tinyphysics_controller import RESULT, WORK
from steerlab.files import atomic_path, write_json
from steerlab.line_styles import line_styles
from steerlab.options import option
from steerlab.readers.text import entry, read_json
from steerlab.study import CONFIG_FILE, study
from steerlab.surrogates.segments.synthetic import find_routes
from steerlab.types import Floats


@dataclass(frozen=True)
class Config:
    """Options of the study."""

    runs: list[str] = option([], "output folders of train-tinyphysics-controller")


def run(config: Config, output: Path) -> dict[str, Any]:
    """Read, drive pid, print the table; return the figures by run."""
    if not config.runs:
        raise InputError("runs= is empty; name output folders of train-tinyphysics-controller")
    results = {Path(folder).name: read_result(Path(folder)) for folder in config.runs}
    if len(results) < len(config.runs):
        raise InputError("two of runs= have the same name; rename a folder")
    first = next(iter(results.values()))
    for name, result in results.items():
        if list(result["selection_costs"]) != list(first["selection_costs"]):
            raise InputError(f"run {name!r} chose its policy on other routes than the first run")
    pid = float(_pid_costs(Path(config.runs[0]), list(first["selection_costs"])).mean())
    figures: dict[str, Any] = {}
    base = np.array(list(first["selection_costs"].values()))
    for name, result in results.items():
        costs = np.array(list(result["selection_costs"].values()))
        apart = summary({"total_cost": costs - base})
        figures[name] = {
            **summary({"total_cost": costs}),
            "to_pid": float(costs.mean()) / pid,
            "difference": apart["total_cost"],
            "difference_interval": apart["interval"],
            **{name: result[name] for name in ("recipe", *WORK)},
        }
    _print(list(first["selection_costs"]), pid, figures)
    _plot(output / "cost_over_seconds.png", pid, figures)
    write_json(output / "table.json", figures)
    return figures


def read_result(folder: Path) -> dict[str, Any]:
    """Return what a training noted.

    Raises:
        InputError: The folder is not that of a finished training.
    """
    path = folder / RESULT
    if not path.is_file() or not (folder / CONFIG_FILE).is_file():
        raise InputError(
            f"{str(folder)!r} is no output folder of a finished steerlab train-tinyphysics-controller"
        )
    result = read_json(path, dict)
    entry(result, "selection_costs", dict, str(path))
    for name in WORK:
        entry(result, name, (int, float), str(path))
    return result


def _pid_costs(folder: Path, names: list[str]) -> Floats:
    """Return the total_cost of comma's pid on the routes, in the plant of a run."""
    training = OmegaConf.load(folder / CONFIG_FILE)
    count = training.train_count + training.select_count
    segments = find_routes(training.segments, count, training.seed)
    some = segments[[segments.index(name) for name in names]]
    return evaluate(PID, some, training.plant, "fast", batch_size=50, tail=False).costs.total_cost


def _print(names: list[str], pid: float, figures: dict[str, Any]) -> None:
    table = Table(
        *("run", "recipe", "total_cost", "95 % interval", "median", "p95", "to pid"),
        *("difference (paired)", "seconds", "plant steps", "model steps"),
        title=f"{len(names)} routes {names[0]} to {names[-1]}, official noise; pid: {pid:.2f}",
        header_style="bold",
    )
    for name, found in figures.items():
        low, high = found["interval"]
        left, right = found["difference_interval"]
        table.add_row(
            name,
            found["recipe"],
            f"{found['total_cost']:.2f}",
            f"{low:.1f} - {high:.1f}",
            *(f"{found[k]:.1f}" for k in ("median", "p95")),
            f"{found['to_pid']:.3f}",
            f"{found['difference']:+.2f} [{left:+.2f}, {right:+.2f}]",
            *(f"{found[k]:,.0f}" for k in WORK),
        )
    Console(width=150).print(table)


def _plot(path: Path, pid: float, figures: dict[str, Any]) -> None:
    """Draw cost over processor seconds, a point a run."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    styles = line_styles(figures)
    for name, found in figures.items():
        low, high = found["interval"]
        cost, seconds = found["total_cost"], found["seconds"]
        error = [[cost - low], [high - cost]]
        axes.errorbar(seconds, cost, error, capsize=3, label=name, **styles[name])
    axes.axhline(pid, color="grey", linestyle=":", label="pid")
    axes.set(xlabel="processor time (s)", ylabel="total_cost, selection routes", yscale="log")
    # Costs of recipes lie within one or two powers of ten.
    axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.yaxis.set_minor_formatter(ScalarFormatter())
    axes.legend()
    axes.grid(alpha=0.3, which="both")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120)


main = study(Config, run)

if __name__ == "__main__":
    main()
