"""Tables and plots of planners that are held to the optimum."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from steerlab.agents.trc.data import PlanData
from steerlab.files import atomic_path
from steerlab.line_styles import VERMILION, line_styles
from steerlab.tables import percent
from steerlab.types import Floats

#: Columns of a table whose rows :func:`judged_row` makes.
JUDGED_COLUMNS = [
    "method",
    "gap of means",
    "median",
    "mean, J*>=1",
    "p95, J*>=1",
    "max",
    "final error",
    "success",
    "error gap",
]


def judged_row(name: str, r: Mapping[str, float]) -> list[str]:
    """Return the row of a method for a table with :data:`JUDGED_COLUMNS`."""
    return [
        name,
        percent(r["gap_of_means"]),
        percent(r["gap_median"]),
        percent(r["gap_mean_large"]),
        percent(r["gap_p95_large"]),
        percent(r["gap_max"]),
        f"{r['final_error']:.4f}",
        percent(r["success"], 1),
        percent(r["error_gap"]),
    ]


def plot_gaps(path: Path, gaps: Mapping[str, Floats], title: str) -> None:
    """Draw the share of cases below each cost gap, one line a method."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    styles = line_styles(gaps)
    for name, values in gaps.items():
        ordered = np.maximum(np.sort(values), 1e-7)
        share = np.arange(1, len(ordered) + 1) / len(ordered)
        axes.plot(100 * ordered, share, label=name, markevery=0.1, markersize=4, **styles[name])
    axes.set(
        xscale="log",
        xlim=(1e-5, None),
        ylim=(0, 1.01),
        xlabel="cost above the optimum, % (log)",
        ylabel="share of cases",
        title=title,
    )
    axes.legend(fontsize="small")
    axes.grid(alpha=0.3)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120)


def plot_paths(path: Path, data: PlanData, plans: Mapping[str, Floats], count: int = 6) -> None:
    """Draw the first cases in the phase plane, and their inputs, the last method dashed on top."""
    problem, arrays = data.problem, data.arrays
    count = min(count, len(data))
    figure = Figure(figsize=(2.6 * count, 5), layout="constrained")
    axes = figure.subplots(2, count, squeeze=False)
    time_axis = np.arange(problem.steps + 1) * problem.dt
    initial, targets = arrays["initial_states"][:count], arrays["target_states"][:count]
    styles = line_styles(plans)
    for name, controls in plans.items():
        states = problem.rollout(initial, controls[:count])
        style = {k: v for k, v in styles[name].items() if k != "marker"} | {"linewidth": 1.5}
        if name == list(plans)[-1]:
            style = {"color": "black", "linestyle": ":"}
        for i in range(count):
            axes[0, i].plot(*states[i].T, label=name, **style)
            axes[1, i].stairs(controls[i, :, 0], time_axis, baseline=None, label=name, **style)
    for i in range(count):
        axes[0, i].plot(*initial[i], "s", color="grey", markersize=5)
        axes[0, i].plot(*targets[i], "*", color=VERMILION, markersize=10)
        axes[0, i].set(xlabel="position", title=f"case {i}")
        axes[1, i].set(xlabel="time (s)", ylim=(-1.1 * problem.limit, 1.1 * problem.limit))
    axes[0, 0].set_ylabel("velocity")
    axes[1, 0].set_ylabel("input")
    axes[0, 0].legend(fontsize="x-small")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110)
