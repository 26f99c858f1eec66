"""Evaluate a planner: against the optimum, after each correction, and under other conditions.

The other conditions are starts farther away, fewer or more steps, and closed loop. Options such as
spread=4 change the test cases. A limit, weight or length of step that the planner was not trained for
is refused by name. If there are more steps than the planner has, it plans again at each step.

Writes evaluation_results.json, gaps.png, iterates.png and paths.png.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console

from steerlab.agents.classical.tracking import finite_horizon_lqr, optimal_controls
from steerlab.agents.trc.acceptance import check_accepts, replanned, with_steps
from steerlab.agents.trc.data import PlanData
from steerlab.agents.trc.evaluate import (
    Policy,
    cases_of,
    drive,
    gaps,
    judge,
    judge_iterates,
    optimal_cases,
)
from steerlab.agents.trc.model import Planner
from steerlab.agents.trc.report import JUDGED_COLUMNS, judged_row, plot_gaps, plot_paths
from steerlab.agents.trc.train import load_planner
from steerlab.devices import torch_device
from steerlab.envs.tracking.changes import ProblemChanges, given_changes
from steerlab.envs.tracking.problem import TrackingProblem
from steerlab.errors import InputError
from steerlab.files import atomic_path, write_json
from steerlab.line_styles import line_styles
from steerlab.options import option
from steerlab.study import latest_result, study
from steerlab.tables import percent, print_table
from steerlab.types import Floats


@dataclass(frozen=True)
class Config(ProblemChanges):
    """Options of evaluate-trc."""

    checkpoint: str = option("", "checkpoint of train-trc; '' = that of the last one")
    test_data: str = option("", "cases of generate-lqr; '' = 1,000 of seed 123")
    scales: list[float] = option([1.5, 2.0], "factors on the distance of the starts in training")
    disturbances: list[float] = option(
        [0.0, 0.1, 0.3], "standard deviations of the input's disturbance in closed loop"
    )
    closed_loop_cases: int = option(200, "cases driven in closed loop; 0 = none")
    device: str = option("auto", "auto, cpu or cuda")
    horizons: list[int] = option(
        [], "other numbers of steps, more or fewer; [] = a third and two thirds of the planner's"
    )


def run(config: Config, output: Path) -> dict[str, Any]:
    """Evaluate and write the results to ``output``."""
    if config.closed_loop_cases < 0:
        raise InputError(f"closed_loop_cases={config.closed_loop_cases} must not be negative")
    if any(value < 0 for value in (*config.scales, *config.disturbances)):
        raise InputError("scales and disturbances must not be negative")
    if min(config.horizons, default=1) < 1:
        raise InputError(f"horizons={config.horizons} must be numbers of steps, at least 1")
    device = torch_device(config.device)
    checkpoint = config.checkpoint or latest_result("train_trc", "best.pt")
    model = load_planner(checkpoint, device)
    data = _test_cases(config, model.problem, checkpoint)
    problem, arrays = data.problem, data.arrays
    plans = model.plan(
        arrays["initial_states"], arrays["target_states"], problem.steps, all_iterates=True
    )[:, :, : problem.steps]
    few = min(len(data), 500)
    horizons = config.horizons or _horizons(model.problem)
    fewer = [m for m in horizons if m <= model.problem.steps]
    more = [m for m in horizons if m > model.problem.steps]
    results: dict[str, Any] = {
        "checkpoint": checkpoint,
        "device": str(device),
        "parameters": model.parameter_count(),
        "cases": len(data),
        "test": judge(data, plans[-1]),
        "iterates": judge_iterates(data, plans),
        "further_away": {str(s): _further(model, few, s) for s in config.scales},
        "fewer_steps": {str(m): _other_steps(model, problem, few, m) for m in fewer},
        "more_steps": {str(m): _other_steps(model, problem, few, m) for m in more},
        "closed_loop": _closed_loop(model, data, config) if config.closed_loop_cases else {},
    }
    write_json(output / "evaluation_results.json", results)
    _print(results)
    plot_gaps(
        output / "gaps.png",
        {f"plan {k}": gaps(data, plan) for k, plan in enumerate(plans)},
        f"{type(problem).__name__}: every plan of the network",
    )
    _plot_iterates(output / "iterates.png", data, plans)
    plot_paths(
        output / "paths.png",
        data,
        {"network": plans[-1], "optimum": _optimum(problem, data)},
    )
    Console().print(f"[bold]{output / 'evaluation_results.json'}[/]", highlight=False)
    return results


def _test_cases(config: Config, trained: TrackingProblem, checkpoint: str) -> PlanData:
    """Return the cases of the file, or new ones with the changes that are asked for.

    Raises:
        InputError: The planner was not trained for them.
    """
    changes = given_changes(config)
    if changes and config.test_data:
        raise InputError(
            f"{min(changes)}= and test_data= cannot both be given: the file says what its cases are"
        )
    asked = type(trained).preset(**{**asdict(trained), **changes})
    check_accepts(trained, asked, checkpoint)
    data = cases_of(config.test_data, asked)
    check_accepts(trained, data.problem, checkpoint, fewer=True)
    return data


def _optimum(problem: TrackingProblem, data: PlanData) -> Floats:
    """Return optimal plans of the cases that are drawn."""
    few = slice(0, 6)
    return optimal_controls(
        problem, data.arrays["initial_states"][few], data.arrays["target_states"][few]
    )


def _further(model: Planner, count: int, scale: float) -> dict[str, float]:
    cases = optimal_cases(model.problem, count, 7, scale)
    arrays = cases.arrays
    return judge(cases, model.plan(arrays["initial_states"], arrays["target_states"]))


def _horizons(problem: TrackingProblem) -> list[int]:
    return sorted({max(problem.steps * part // 3, 1) for part in (1, 2)})


def _other_steps(
    model: Planner, problem: TrackingProblem, count: int, steps: int
) -> dict[str, float]:
    """Judge plans for fewer steps as they are, and for more steps replanned at each of them."""
    problem = with_steps(problem, steps)
    cases = optimal_cases(problem, count, 8)
    initial, targets = cases.arrays["initial_states"], cases.arrays["target_states"]
    if steps <= model.problem.steps:
        return judge(cases, model.plan(initial, targets, steps)[:, :steps])
    return judge(cases, replanned(model, problem, initial, targets))


def _closed_loop(model: Planner, data: PlanData, config: Config) -> dict[str, Any]:
    """Drive with the network, with the optimum and with the regulator, all replanned, or once."""
    problem = data.problem
    rows = slice(0, config.closed_loop_cases)
    initial, targets = data.arrays["initial_states"][rows], data.arrays["target_states"][rows]

    def through(plan: Callable[[TrackingProblem, Floats, Floats], Floats]) -> Policy:
        return lambda x, goal, steps: plan(with_steps(problem, steps), x, goal)

    policies: dict[str, tuple[Policy, bool]] = {
        "network": (model.plan, True),
        "network, open loop": (model.plan, False),
        "regulator": (through(finite_horizon_lqr), True),
        "optimum, open loop": (through(optimal_controls), False),
    }
    if problem.linear:  # replanning a nonlinear optimum takes minutes
        policies["optimum"] = (through(optimal_controls), True)
    results: dict[str, Any] = {}
    for size in config.disturbances:
        for name, (policy, replan) in policies.items():
            costs, errors = drive(
                problem, policy, initial, targets, disturbance=size, replan=replan
            )
            results.setdefault(name, {})[str(size)] = {
                "cost": float(costs.mean()),
                "final_error": float(errors.mean()),
                "success": float((errors < problem.tolerance).mean()),
            }
    return results


def _print(results: dict[str, Any]) -> None:
    rows = [judged_row(f"test, {results['cases']:,} cases", results["test"])]
    rows += [
        judged_row(f"starts x {scale} away", r) for scale, r in results["further_away"].items()
    ]
    rows += [judged_row(f"{steps} steps left", r) for steps, r in results["fewer_steps"].items()]
    rows += [judged_row(f"{m} steps, replanned", r) for m, r in results["more_steps"].items()]
    print_table("Cost above the optimum", JUDGED_COLUMNS, rows)
    iterates = results["iterates"]
    rows = [
        [
            str(k),
            percent(of_means),
            percent(mean),
            percent(iterates["improved"][k - 1], 1) if k else "-",
        ]
        for k, (of_means, mean) in enumerate(
            zip(iterates["gap_of_means"], iterates["gap_mean"], strict=True)
        )
    ]
    print_table(
        f"Every plan (no correction raises the cost in {percent(iterates['non_increasing'], 1)} "
        "of the cases)",
        ["plan", "gap of means", "mean gap", "improved by it"],
        rows,
    )
    if results["closed_loop"]:
        sizes = list(next(iter(results["closed_loop"].values())))
        rows = [
            [name, *(f"{r[s]['cost']:.3f} / {percent(r[s]['success'], 1)}" for s in sizes)]
            for name, r in results["closed_loop"].items()
        ]
        columns = ["driven by", *(f"disturbance {s}" for s in sizes)]
        print_table("In feedback: mean cost / success", columns, rows)


def _plot_iterates(path: Path, data: PlanData, plans: Floats) -> None:
    """Draw how the gap falls from plan to plan: median and 5 to 95 % of the cases."""
    all_gaps = np.stack([np.maximum(gaps(data, plan), 1e-9) for plan in plans])
    figure = Figure(figsize=(5.5, 4), layout="constrained")
    axes = figure.subplots()
    numbers = np.arange(len(plans))
    low, median, high = 100 * np.quantile(all_gaps, (0.05, 0.5, 0.95), axis=1)
    styles = line_styles(("median", "mean"))
    colour = styles["median"]["color"]
    axes.fill_between(
        numbers, low, high, color=colour, linewidth=0, alpha=0.25, label="5 to 95 % of the cases"
    )
    axes.plot(numbers, median, label="median", **styles["median"])
    axes.plot(numbers, 100 * all_gaps.mean(axis=1), label="mean", **styles["mean"])
    axes.set(
        yscale="log", xticks=numbers, xlabel="correction", ylabel="cost above the optimum, % (log)"
    )
    axes.legend(fontsize="small")
    axes.grid(alpha=0.3)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120)


main = study(Config, run)

if __name__ == "__main__":
    main()
