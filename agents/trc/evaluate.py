"""How good plans are: held to the optimum, from further away, for other horizons, in feedback."""

from collections.abc import Callable
from typing import Any

import numpy as np

from steerlab.agents.classical.tracking import optimal_controls
from steerlab.agents.trc.data import PlanData, load_plans, make_arrays
from steerlab.envs.tracking.problem import TrackingProblem, final_error
from steerlab.errors import InputError
from steerlab.types import Controls, Floats, PerCase, States

#: Gets states (B, 2), targets (B, 2) and the number of steps left; returns controls (B, m, 1),
#: m at least that number.
Policy = Callable[[States, States, int], Controls]


def optimal_cases(
    problem: TrackingProblem, count: int, seed: int, scale: float = 1.0, solver: str = "auto"
) -> PlanData:
    """Return random cases with their optimal plans.

    Args:
        problem: What is planned.
        count: Cases.
        seed: Of the legacy generator of numpy, so that the published cases come out.
        scale: Initial states are drawn this many times further from 0 than the problem says.
        solver: QP solver.
    """
    initial, targets = problem.sample(np.random.RandomState(seed), count)
    initial = scale * initial
    controls = optimal_controls(problem, initial, targets, solver)
    best = problem.cost(initial, targets, controls)
    return PlanData(problem, make_arrays(problem, initial, targets, controls, best))


def cases_of(path: str, problem: TrackingProblem, count: int = 1000) -> PlanData:
    """Return the cases of a file, or without one those of the published test seed, 123."""
    return load_plans(path) if path else optimal_cases(problem, count, 123)


def gaps(data: PlanData, controls: Controls) -> PerCase:
    """Return the relative cost gaps (J - J*) / J* (N,) of ``controls`` (N, T, 1)."""
    initial, targets, best = _cases(data)
    _check(data, controls)
    gap: PerCase = (data.problem.cost(initial, targets, controls) - best) / best
    return gap


def judge(data: PlanData, controls: Controls) -> dict[str, float]:
    """Hold ``controls`` (N, T, 1) to the optimum and to the labels of ``data``.

    Returns:
        ``gap_of_means`` (sum of J over sum of J*, less 1); mean, median, p95 and max of the gaps;
        mean and p95 where J* is at least 1; the mean gap where the labels touch a bound and where
        they do not; the mean excess J - J*; the mean final error, the success rate, and the same
        of the labels; ``error_gap``, the published measure: how much larger the mean final error
        is than that of the labels, whatever those are worth.
    """
    problem = data.problem
    initial, targets, best = _cases(data)
    gap = gaps(data, controls)
    labels = data.arrays["control_sequences"]
    large = best >= 1
    bound = (np.abs(labels) >= problem.limit * (1 - 1e-9)).any(axis=(1, 2))
    error = final_error(problem.rollout(initial, controls), targets)
    of_labels = final_error(data.arrays["state_trajectories"], targets)
    return {
        "cost": float((best * (1 + gap)).mean()),
        "gap_of_means": float((best * gap).sum() / best.sum()),
        "gap_mean": float(gap.mean()),
        "gap_median": float(np.median(gap)),
        "gap_p95": float(np.percentile(gap, 95)),
        "gap_max": float(gap.max()),
        "gap_mean_large": _mean(gap[large]),
        "gap_p95_large": float(np.percentile(gap[large], 95)) if large.any() else float("nan"),
        "gap_mean_bound": _mean(gap[bound]),
        "gap_mean_free": _mean(gap[~bound]),
        "excess_mean": float((best * gap).mean()),
        "final_error": float(error.mean()),
        "success": float((error < problem.tolerance).mean()),
        "final_error_labels": float(of_labels.mean()),
        "success_labels": float((of_labels < problem.tolerance).mean()),
        "error_gap": float(error.mean() / of_labels.mean() - 1),
    }


def judge_iterates(data: PlanData, plans: Floats) -> dict[str, Any]:
    """Tell what each of ``plans`` (K+1, N, T, 1) gains.

    Returns:
        ``gap_of_means`` and ``gap_mean`` of every plan; ``improved``, the share of cases in which
        each correction lowers the cost; ``non_increasing``, the share in which none raises it by
        more than 1e-4 of the optimum.
    """
    best = data.arrays["optimal_costs"]
    all_gaps = np.stack([gaps(data, plan) for plan in plans])
    steps = np.diff(all_gaps, axis=0)
    return {
        "gap_of_means": [float((best * g).sum() / best.sum()) for g in all_gaps],
        "gap_mean": [float(g.mean()) for g in all_gaps],
        "improved": [float((s < 0).mean()) for s in steps],
        "non_increasing": float((steps <= 1e-4).all(axis=0).mean()),
    }


def drive(
    problem: TrackingProblem,
    policy: Policy,
    initial: States,
    targets: States,
    *,
    disturbance: float = 0.0,
    replan: bool = True,
    seed: int = 0,
) -> tuple[PerCase, PerCase]:
    """Apply the first move of a plan and plan again for the steps that are left.

    Args:
        problem: The plant.
        policy: See :data:`Policy`.
        initial: (B, 2).
        targets: (B, 2).
        disturbance: Standard deviation of a normal number added to every applied input.
        replan: Without it the first plan is followed to the end (open loop).
        seed: Of the disturbances, the same for every policy.

    Returns:
        Costs (B,) of the inputs asked for and the states that came of them, and the final errors.
    """
    rng = np.random.default_rng(seed)
    states, asked, plan = [initial], [], np.empty(0)
    for k in range(problem.steps):
        if replan or k == 0:
            plan = policy(states[-1], targets, problem.steps - k)
        asked.append(problem.clip(plan[:, 0 if replan else k]))
        noise = disturbance * rng.normal(size=asked[-1].shape)
        states.append(problem.step(states[-1], asked[-1] + noise))
    path = np.stack(states, axis=1)
    costs = problem.stage_costs(path, np.stack(asked, axis=1), targets).sum(axis=1)
    return costs, final_error(path, targets)


def _cases(data: PlanData) -> tuple[States, States, PerCase]:
    arrays = data.arrays
    return arrays["initial_states"], arrays["target_states"], arrays["optimal_costs"]


def _check(data: PlanData, controls: Controls) -> None:
    expected = data.arrays["control_sequences"].shape
    if controls.shape != expected:
        raise InputError(
            f"controls of shape {controls.shape} cannot be judged on these cases: need {expected}"
        )
    largest = float(np.abs(controls).max())
    if not largest <= data.problem.limit * (1 + 1e-9):
        raise InputError(
            f"the largest control is {largest:g}, beyond the limit {data.problem.limit:g}: clip it"
        )


def _mean(values: Floats) -> float:
    return float(values.mean()) if values.size else float("nan")
