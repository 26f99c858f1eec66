"""What the studies of planning share: options of a problem, tables, latencies, plots."""

import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from steerlab.agents.classical.qp import condense
from steerlab.agents.trc.data import PlanData, load_plans
from steerlab.agents.trc.evaluate import optimal_cases
from steerlab.agents.trc.model import Planner
from steerlab.envs.tracking.changes import ProblemChanges, given_changes
from steerlab.envs.tracking.problem import TrackingProblem
from steerlab.envs.tracking.problems import make_problem
from steerlab.errors import InputError
from steerlab.exporters.planner import export_planner
from steerlab.files import atomic_path
from steerlab.openpilot.engines import session
from steerlab.options import option

Floats = NDArray[np.float64]
PLANS_FILE = "lqr_dataset.npz"
#: Sizes at which latencies are measured.
BATCHES = (1, 1024)


@dataclass(frozen=True)
class ProblemOptions(ProblemChanges):
    """Which problem is solved; the parameters that are null are those of the preset."""

    task: str = option("DoubleIntegrator-v0", "DoubleIntegrator-v0 or VanDerPol-v0")
    preset: str = option("optimal", "optimal, or published: no terminal cost (DoubleIntegrator-v0)")
    num_steps: int | None = option(None, "moves of the input in an episode")
    time_horizon: float | None = option(None, "length of an episode in seconds")


def chosen_problem(options: ProblemOptions) -> TrackingProblem:
    """Return the problem that ``options`` name.

    Raises:
        InputError: The task or preset is unknown, or a value is out of range.
    """
    given = {"steps": options.num_steps, "horizon": options.time_horizon}
    changes = {key: value for key, value in given.items() if value is not None}
    changes |= given_changes(options)
    return make_problem(options.task, options.preset, **changes)


def latest(study: str, name: str) -> str:
    """Return the newest file of a study's runs in ``runs/``, where it writes by default.

    Raises:
        InputError: It has not run here.
    """
    found = sorted(Path("runs", study).glob(f"*/{name}"), key=lambda path: path.stat().st_mtime)
    if not found:
        command = study.replace("_", "-")
        raise InputError(
            f"there is no {name} in runs/{study}; run steerlab {command} first, or give the file"
        )
    return str(found[-1])


def cases_of(path: str, problem: TrackingProblem, count: int = 1000) -> PlanData:
    """Return the cases of a file, or without one those of the published test seed, 123."""
    return load_plans(path) if path else optimal_cases(problem, count, 123)


def latency(call: Callable[[], Any], seconds: float = 1.0) -> dict[str, float]:
    """Return median and 99th percentile in microseconds of ``call``, after a warm-up."""
    begin = time.perf_counter()
    while time.perf_counter() - begin < seconds / 5:
        call()
    times: list[float] = []
    begin = time.perf_counter()
    while time.perf_counter() - begin < seconds or len(times) < 5:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return {
        "median_us": 1e6 * float(np.median(times)),
        "p99_us": 1e6 * float(np.quantile(times, 0.99)),
    }


def planner_inputs(problem: TrackingProblem, batch: int) -> tuple[torch.Tensor, ...]:
    """Return the inputs of a planner: states and targets (batch, 2) and steps left (batch,)."""
    initial, targets = problem.sample(np.random.RandomState(0), batch)
    left = torch.full((batch,), float(problem.steps))
    return torch.tensor(initial).float(), torch.tensor(targets).float(), left


def onnx_latencies(model: Planner, seconds: float) -> dict[str, dict[str, float]]:
    """Return the latencies of a planner in onnxruntime, one thread, for :data:`BATCHES`."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "planner.onnx")
        export_planner(model, path)
        runtime = session(path, threads=1)
    names = ("initial_state", "target_state", "remaining")
    found = {}
    for batch in BATCHES:
        inputs = planner_inputs(model.problem, batch)
        feed = {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)}
        found[f"onnxruntime_{batch}"] = latency(partial(runtime.run, None, feed), seconds)
    return found


def solver_latency(problem: TrackingProblem) -> dict[str, float]:
    """Return the time in DAQP's own solve call for 1,000 programs, as :func:`latency` does."""
    import daqp

    condensed = condense(problem)
    linear, _ = condensed.linear_term(*problem.sample(np.random.RandomState(123), 1000))
    bound = np.full(problem.steps, problem.limit)
    model, times = daqp.Model(), []
    model.setup(condensed.hessian, linear[0].copy(), np.zeros((0, len(bound))), bound, -bound)
    for f in np.concatenate([linear, linear]):  # the first half warms up
        model.update(f=f)
        start = time.perf_counter()
        model.solve()
        times.append(1e6 * (time.perf_counter() - start))
    kept = times[len(linear) :]
    return {"median_us": float(np.median(kept)), "p99_us": float(np.quantile(kept, 0.99))}


def print_table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """Print a table of formatted cells, the first column being names."""
    table = Table(title=title, title_justify="left", header_style="bold")
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left", no_wrap=not i)
    for row in rows:
        table.add_row(*row)
    # A file or a pipe has no width, and 80 would cut the columns.
    Console(width=None if sys.stdout.isatty() else 120).print(table)


def percent(value: float, digits: int = 3) -> str:
    """Return a share as a percentage, large ones with fewer digits."""
    if not np.isfinite(value):
        return "-"
    size = abs(value)
    return f"{100 * value:,.{digits if size < 0.1 else 1 if size < 10 else 0}f} %"


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


def write_json(path: Path, results: Any) -> None:
    """Write ``results`` atomically; NaN becomes null."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(_plain(results), indent=1), encoding="utf-8")


def plot_gaps(path: Path, gaps: Mapping[str, Floats], title: str) -> None:
    """Draw the share of cases below each cost gap, one line a method."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    for name, values in gaps.items():
        ordered = np.maximum(np.sort(values), 1e-7)
        axes.plot(100 * ordered, np.arange(1, len(ordered) + 1) / len(ordered), label=name)
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
    for name, controls in plans.items():
        states = problem.rollout(initial, controls[:count])
        last = name == list(plans)[-1]
        style = {"color": "black", "linestyle": ":"} if last else {"linewidth": 1.5}
        for i in range(count):
            axes[0, i].plot(*states[i].T, label=name, **style)
            axes[1, i].stairs(controls[i, :, 0], time_axis, baseline=None, label=name, **style)
    for i in range(count):
        axes[0, i].plot(*initial[i], "s", color="grey", markersize=5)
        axes[0, i].plot(*targets[i], "*", color="tab:red", markersize=10)
        axes[0, i].set(xlabel="position", title=f"case {i}")
        axes[1, i].set(xlabel="time (s)", ylim=(-1.1 * problem.limit, 1.1 * problem.limit))
    axes[0, 0].set_ylabel("velocity")
    axes[1, 0].set_ylabel("input")
    axes[0, 0].legend(fontsize="x-small")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    return value
