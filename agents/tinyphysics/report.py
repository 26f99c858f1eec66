"""What a trained controller is worth: figures of costs, tables, and pictures of training and drives."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from scipy.stats import bootstrap

from steerlab.agents.classical.comma import controller_factory
from steerlab.agents.run_log import read_log
from steerlab.envs.tinyphysics.render import plot_rollout
from steerlab.envs.tinyphysics.rollout import Evaluation, evaluate
from steerlab.files import atomic_path
from steerlab.line_styles import line_styles
from steerlab.seeds import generator_seed
from steerlab.surrogates.segments.data import Segments
from steerlab.types import Floats


def compare_with_pid(
    file: Path, report: Segments, plant: str, salts: Sequence[str], processes: int
) -> dict[str, Any]:
    """Drive routes with a controller file and with pid; print figures, draw drives beside the file.

    pid drives with the official noise alone: it is the reference of one ratio.

    Args:
        file: The controller, a file for comma's repository.
        report: The routes.
        plant: Plant to drive in, see :func:`~steerlab.surrogates.plants.load.load_plant`.
        salts: Noises that the file drives with beside the official one.
        processes: Processes that drive.

    Returns:
        Figures of :func:`summary` for each pair of controller and noise.
    """
    controllers = {"pid": "pid", file.name: str(file)}
    figures: dict[str, Any] = {}
    table = Table(
        *("controller", "noise", "lataccel", "jerk", "total", "95 % interval", "median", "p95"),
        title=f"{len(report)} routes from {report.names[0]} on",
        header_style="bold",
    )
    drawn: dict[str, Evaluation] = {}
    for noise in ("official", *salts):
        for name, path in controllers.items():
            if name == "pid" and noise != "official":
                continue
            found = evaluate(
                controller_factory(path),
                report,
                plant,
                "exact",
                seeds=noise,
                processes=processes,
            )
            drawn.setdefault(name, found)
            figures[f"{name}, {noise}"] = entry = summary(found.costs._asdict())
            low, high = entry["interval"]
            table.add_row(
                name,
                noise,
                *(f"{entry[k]:.3f}" for k in ("lataccel_cost", "jerk_cost", "total_cost")),
                f"{low:.2f} - {high:.2f}",
                *(f"{entry[k]:.2f}" for k in ("median", "p95")),
            )
    ours, pid = (figures[f"{name}, official"] for name in (file.name, "pid"))
    table.caption = (
        f"to pid's, official noise: mean {ours['total_cost'] / pid['total_cost']:.3f}, "
        f"median {ours['median'] / pid['median']:.3f}"
    )
    Console().print(table)
    plot_drives(file.parent / "drives.png", drawn[file.name])
    return figures


def summary(costs: Mapping[str, Floats]) -> dict[str, Any]:
    """Return means of the costs (S,), and of the total cost median, 95th percentile and interval.

    The interval is that of the mean: 95 %, bootstrap over routes.
    """
    total = costs["total_cost"]
    drawn = bootstrap(
        (total,),
        np.mean,
        method="percentile",
        n_resamples=10_000,
        rng=np.random.default_rng(generator_seed("evaluation")),
    )
    return {
        **{name: float(values.mean()) for name, values in costs.items()},
        "interval": [float(x) for x in drawn.confidence_interval],
        "median": float(np.median(total)),
        "p95": float(np.percentile(total, 95)),
    }


def plot_curves(output: Path, rounds: int) -> None:
    """Draw the cost over the gradient steps of all rounds."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    labels = {
        "train/total_cost": "training, model",
        "valid/soft_cost": "selection, model",
        "valid/total_cost": "selection, plant",
    }
    styles = line_styles(labels)
    for key, label in labels.items():
        before, x, y = 0, [], []
        for number in range(rounds):
            records = read_log(output / f"round_{number + 1}" / "policy")
            x += [before + r["step"] for r in records]
            y += [r[key] for r in records]
            before = x[-1]
        axes.plot(x, y, markersize=4, label=label, **styles[key])
    axes.set(xlabel="gradient steps", ylabel="total_cost")
    axes.legend()
    axes.grid(alpha=0.3)
    with atomic_path(output / "training_curves.png") as temporary:
        figure.savefig(temporary, dpi=120)


def plot_drives(path: Path, found: Evaluation) -> None:
    """Draw the best, the middle and the worst route of an evaluation."""
    order = np.argsort(found.costs.total_cost)
    figure = Figure(figsize=(10, 11), layout="constrained")
    places = (0, len(order) // 2, len(order) - 1)
    parts: Any = figure.subfigures(3, 1)
    for part, place in zip(parts, places, strict=True):
        i = int(order[place])
        plot_rollout(part, found.names[i], found.target[i], found.lataccel[i], found.steer[i])
        part.axes[0].set_title(
            f"route {found.names[i]}: total cost {found.costs.total_cost[i]:.1f}"
        )
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=100)
