"""Make cases of a tracking task with their plans: the optimum, or those of a regulator.

Writes lqr_dataset.npz with the arrays of the published generator in float64: initial_states (N, 2),
target_states (N, 2), control_sequences (N, T, 1), state_trajectories (N, T+1, 2), costs (N,). It adds
optimal_costs (N,). The same seed gives the same states as there: 42 for training, 123 for tests.
"""

from dataclasses import dataclass
from os import cpu_count
from pathlib import Path

import numpy as np
from rich.console import Console
from tqdm.auto import tqdm

from steerlab.agents.classical.qp import SOLVERS, choose_solver
from steerlab.agents.classical.tracking import (
    finite_horizon_lqr,
    infinite_horizon_lqr,
    optimal_controls,
)
from steerlab.agents.trc.data import PLANS_FILE, PlanData, make_arrays, save_plans
from steerlab.agents.trc.evaluate import judge
from steerlab.envs.tracking.double_integrator import DoubleIntegrator
from steerlab.envs.tracking.problem import TrackingProblem, final_error
from steerlab.envs.tracking.problems import ProblemOptions, chosen_problem
from steerlab.errors import InputError, unknown_name
from steerlab.options import option
from steerlab.processes import in_order
from steerlab.study import study
from steerlab.tables import percent
from steerlab.types import Floats

LABELS = {
    "optimal": optimal_controls,
    "lqr": infinite_horizon_lqr,
    "finite_lqr": finite_horizon_lqr,
}


@dataclass(frozen=True)
class Config(ProblemOptions):
    """Options of generate-lqr."""

    num_samples: int = option(10_000, "number of cases")
    labels: str = option("optimal", "optimal, lqr (infinite horizon, as published) or finite_lqr")
    seed: int = option(42, "seed of the states")
    solver: str = option("auto", "QP solver: auto, daqp, osqp or scipy")
    check: bool = option(False, "solve again with another QP solver and compare")
    judge: str = option("", "published = also score the labels as the published evaluation does")
    processes: int = option(0, "processes; 0 = one per core")


def run(config: Config, output: Path) -> PlanData:
    """Make the data and write them to ``output``."""
    problem = chosen_problem(config)
    if config.labels not in LABELS:
        raise unknown_name("kind of labels", config.labels, LABELS)
    if config.num_samples < 1:
        raise InputError(f"num_samples={config.num_samples} must be at least 1")
    if config.judge not in ("", "published"):
        raise unknown_name("judge", config.judge, ("published",))
    if config.judge and not isinstance(problem, DoubleIntegrator):
        raise InputError(f"judge=published is one of DoubleIntegrator-v0, not of {config.task}")
    if config.processes < 0:
        raise InputError(f"processes={config.processes} must not be negative")
    solver = choose_solver(config.solver)
    initial, targets = problem.sample(np.random.RandomState(config.seed), config.num_samples)
    best = _in_parallel(problem, initial, targets, solver, config.processes)
    best_costs = problem.cost(initial, targets, best)
    if config.labels == "optimal":
        controls = best
    else:
        controls = LABELS[config.labels](problem, initial, targets)
    arrays = make_arrays(problem, initial, targets, controls, best_costs)
    save_plans(output / PLANS_FILE, problem, arrays)
    data = PlanData(problem, arrays)
    _report(data, config, output / PLANS_FILE, solver)
    if config.judge:
        _judge_as_published(data)
    if config.check:
        _check(data, solver, best)
    return data


def _in_parallel(
    problem: TrackingProblem, initial: Floats, targets: Floats, solver: str, processes: int
) -> Floats:
    """Solve in chunks whose size does not depend on ``processes``, so neither does the result."""
    size = 10_000 if problem.linear else 100
    starts = range(0, len(initial), size)
    jobs = [(problem, initial[i : i + size], targets[i : i + size], solver) for i in starts]
    processes = processes or cpu_count() or 1
    with tqdm(total=len(initial), unit="case", desc="optimum") as bar:
        parts = []
        for part in in_order(_solve, jobs, processes):
            bar.update(len(part))
            parts.append(part)
    return np.concatenate(parts)


def _solve(job: tuple[TrackingProblem, Floats, Floats, str]) -> Floats:
    return optimal_controls(*job)


def _report(data: PlanData, config: Config, path: Path, solver: str) -> None:
    result = judge(data, data.arrays["control_sequences"])
    Console().print(
        f"{len(data):,} cases of {config.task} ({config.preset}), labels {config.labels}, solver "
        f"{solver}: mean cost {result['cost']:.4f}, {percent(result['gap_of_means'])} above the "
        f"optimum; final error {result['final_error']:.4f}, success {percent(result['success'], 1)}"
        f"\n[bold]{path}[/]",
        highlight=False,
    )


def _judge_as_published(data: PlanData) -> None:
    """Print final error and success in the system that the published evaluation integrates."""
    arrays, steps = data.arrays, data.problem.steps
    other = DoubleIntegrator.preset("published_judge", steps=steps, horizon=0.33 * steps)
    states = other.rollout(arrays["initial_states"], arrays["control_sequences"])
    error = final_error(states, arrays["target_states"])
    Console().print(
        f"as the published evaluation sees it (0.33 s, semi-implicit Euler): final error "
        f"{error.mean():.4f}, success {percent(float((error < other.tolerance).mean()), 1)}",
        highlight=False,
    )


def _check(data: PlanData, solver: str, best: Floats) -> None:
    other = choose_solver("scipy" if solver != "scipy" else SOLVERS[0])
    problem, arrays = data.problem, data.arrays
    initial, targets = arrays["initial_states"], arrays["target_states"]
    again = optimal_controls(problem, initial, targets, other)
    costs = problem.cost(initial, targets, again)
    Console().print(
        f"{solver} against {other}: controls differ by at most {np.abs(again - best).max():.1e}, "
        f"costs by {np.abs(costs / arrays['optimal_costs'] - 1).max():.1e} of the optimum",
        highlight=False,
    )


main = study(Config, run)

if __name__ == "__main__":
    main()
