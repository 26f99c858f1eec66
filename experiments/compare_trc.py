"""Compare planners: random, regulators, the exact optimum, plain networks, tiny recursive control.

Prints costs, errors and success on the same cases, with weights, memory and latency of one and of 1,024
plans, one thread, in torch and onnxruntime. Any other method can be added as an npz file with an array
control_sequences (N, T, 1) for the same cases: outside=[llm.npz]. Its name is that of the file.

Writes comparison_results.json, gaps.png and paths.png.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from steerlab.agents.activation_memory import peak_megabytes
from steerlab.agents.classical.qp import choose_solver, solver_latency
from steerlab.agents.classical.tracking import (
    finite_horizon_lqr,
    infinite_horizon_lqr,
    optimal_controls,
    random_controls,
)
from steerlab.agents.trc.acceptance import check_accepts
from steerlab.agents.trc.data import load_controls
from steerlab.agents.trc.evaluate import cases_of, gaps, judge
from steerlab.agents.trc.model import Planner
from steerlab.agents.trc.report import JUDGED_COLUMNS, judged_row, plot_gaps, plot_paths
from steerlab.agents.trc.train import load_planner
from steerlab.envs.tracking.problem import TrackingProblem
from steerlab.errors import InputError
from steerlab.exporters.planner import BATCHES, planner_inputs, planner_latencies
from steerlab.files import write_json
from steerlab.latency import latency
from steerlab.options import option
from steerlab.study import latest_result, study
from steerlab.tables import print_table
from steerlab.types import Floats

Plan = Callable[[Floats, Floats], Floats]


@dataclass(frozen=True)
class Config:
    """Options of compare-trc."""

    checkpoints: list[str] = option(
        [], "checkpoints of train-trc, networks of any kind; [] = that of the last train-trc"
    )
    test_data: str = option("", "cases of generate-lqr; '' = 1,000 of seed 123")
    outside: list[str] = option([], "npz files with control_sequences of other methods")
    latency_seconds: float = option(0.5, "time spent on each latency, s; 0 = measure none")


def run(config: Config, output: Path) -> dict[str, Any]:
    """Compare and write the results to ``output``."""
    checkpoints = config.checkpoints or [latest_result("train_trc", "best.pt")]
    models = {_name(path): load_planner(path) for path in checkpoints}
    if len(models) < len(checkpoints):
        raise InputError("two checkpoints have the same name; put them into different folders")
    problem = next(iter(models.values())).problem
    data = cases_of(config.test_data, problem)
    for name, model in models.items():
        check_accepts(model.problem, data.problem, name)
    initial, targets = data.arrays["initial_states"], data.arrays["target_states"]
    problem = data.problem
    planners = _planners(problem, models)
    controls = {name: plan(initial, targets) for name, plan in planners.items()}
    for path in config.outside:
        controls[Path(path).stem] = load_controls(path, data)
    results: dict[str, Any] = {name: judge(data, u) for name, u in controls.items()}
    for name, model in models.items():
        results[name] |= {
            "parameters": model.parameter_count(),
            "model_mb": 4e-6 * model.parameter_count(),
            **{
                f"inference_mb_{b}": peak_megabytes(model, planner_inputs(problem, b))
                for b in BATCHES
            },
        }
    if config.latency_seconds > 0:
        for name, measured in _latencies(config, problem, models).items():
            results[name]["latency"] = measured
    write_json(output / "comparison_results.json", results)
    _print(results)
    shown = {n: u for n, u in controls.items() if n != "exact optimum"}
    plot_gaps(
        output / "gaps.png",
        {name: gaps(data, u) for name, u in shown.items()},
        f"{type(problem).__name__}: cost gaps of {len(data):,} cases",
    )
    plot_paths(output / "paths.png", data, {n: u for n, u in controls.items() if n != "random"})
    Console().print(f"[bold]{output / 'comparison_results.json'}[/]", highlight=False)
    return results


def _name(path: str) -> str:
    """Return the folder of a checkpoint: runs/trc/medium/best.pt is medium."""
    return Path(path).absolute().parent.name


def _planners(problem: TrackingProblem, models: dict[str, Planner]) -> dict[str, Plan]:
    """Return every method as a function of starts and targets, the exact optimum last."""

    def classical(plan: Callable[..., Floats]) -> Plan:
        return lambda x, goal: plan(problem, x, goal)

    return {
        "random": classical(random_controls),
        "regulator, infinite": classical(infinite_horizon_lqr),
        "regulator, finite": classical(finite_horizon_lqr),
        **{name: model.plan for name, model in models.items()},
        "exact optimum": classical(optimal_controls),
    }


def _latencies(
    config: Config, problem: TrackingProblem, models: dict[str, Planner]
) -> dict[str, dict[str, dict[str, float]]]:
    """Measure every method on one thread: name -> runtime and batch -> microseconds a call."""
    seconds, found = config.latency_seconds, {}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for name, plan in _planners(problem, models).items():
            found[name] = {
                f"python_{batch}": latency(lambda p=plan, a=a: p(*a), seconds)  # type: ignore[misc]
                for batch in BATCHES
                for a in [
                    tuple(t.numpy().astype(float) for t in planner_inputs(problem, batch)[:2])
                ]
                if problem.linear or name in models or batch == 1
            }
        for name, model in models.items():
            with torch.no_grad():
                found[name] |= {
                    f"torch_{b}": latency(lambda m=model, i=i: m(*i), seconds)  # type: ignore[misc]
                    for b in BATCHES
                    for i in [planner_inputs(problem, b)]
                }
            if problem.linear:
                found[name] |= planner_latencies(model, seconds)
    finally:
        torch.set_num_threads(threads)
    if problem.linear and choose_solver() == "daqp":
        found["exact optimum"]["solve_1"] = solver_latency(problem)
    return found


def _print(results: dict[str, Any]) -> None:
    rows = [judged_row(name, r) for name, r in results.items()]
    print_table("Plans on the same cases", JUDGED_COLUMNS, rows)
    timed = {n: r["latency"] for n, r in results.items() if "latency" in r}
    if not timed:
        return
    runtimes = {
        "solve_1": "solver\nalone",
        "onnxruntime_1": "onnx\n1",
        "onnxruntime_1024": "onnx\n1,024",
        "torch_1": "torch\n1",
        "torch_1024": "torch\n1,024",
        "python_1": "numpy\n1",
        "python_1024": "numpy\n1,024",
    }
    rows = []
    for name, times in timed.items():
        r = results[name]
        memory = " / ".join(_number(r.get(f"inference_mb_{b}"), 2) for b in BATCHES)
        row = [name, _number(r.get("parameters"), 0), _number(r.get("model_mb"), 2), memory]
        rows.append(
            row
            + [
                _number(times.get(k, {}).get("median_us"), 1 if k == "solve_1" else 0)
                for k in runtimes
            ]
        )
    print_table(
        "Memory, and microseconds a call: median, one thread, 1 or 1,024 plans in onnxruntime, torch "
        "or from numpy to numpy",
        ["method", "weights", "model\nMB", "activations MB\n1 / 1,024", *runtimes.values()],
        rows,
    )


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


main = study(Config, run)

if __name__ == "__main__":
    main()
