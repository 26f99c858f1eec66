"""A local optimum of a nonlinear tracking problem, by sequential quadratic programming."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from steerlab.agents.classical.lqr import linearize
from steerlab.agents.classical.qp import box_qp, choose_solver
from steerlab.envs.tracking.problem import TrackingProblem
from steerlab.errors import InputError
from steerlab.types import Bools, Controls, PerCase, States


@dataclass(frozen=True)
class SqpResult:
    """What :func:`solve_sqp` returns.

    Attributes:
        controls: (B, T, 1).
        costs: (B,).
        iterations: Quadratic programs solved for each case (B,).
        converged: Whether the predicted gain of the last program was within the tolerance (B,).
    """

    controls: Controls
    costs: PerCase
    iterations: NDArray[np.intp]
    converged: Bools


def solve_sqp(
    problem: TrackingProblem,
    initial: States,
    targets: States,
    start: Controls,
    *,
    tolerance: float = 1e-10,
    max_iterations: int = 100,
    solver: str = "auto",
) -> SqpResult:
    """Minimise the true cost over bounded inputs from the guess ``start``.

    Single shooting with the Gauss-Newton Hessian, which is positive definite here, and a
    backtracking line search, so the cost never rises (Nocedal and Wright, Numerical Optimization,
    2006, chapters 10 and 18). All cases are linearised together; each has its own program.

    Args:
        problem: What is solved.
        initial: (B, 2).
        targets: (B, 2).
        start: Controls to start from (B, T, 1), clipped to the bounds.
        tolerance: A case ends when a program promises less than this times its cost.
        max_iterations: Programs for each case at the most.
        solver: QP solver; see :func:`steerlab.agents.classical.qp.box_qp`.

    Raises:
        InputError: The plant diverges under ``start``.
    """
    solver = choose_solver(solver)
    controls = problem.clip(np.array(start, dtype=np.float64))
    with np.errstate(over="ignore", invalid="ignore"):
        costs = problem.cost(initial, targets, controls)
    if not np.isfinite(costs).all():
        raise InputError(
            f"{type(problem).__name__} diverges with steps of {problem.dt:g} s from "
            f"{int((~np.isfinite(costs)).sum())} of the starts; take more steps or nearer starts"
        )
    iterations = np.zeros(len(controls), dtype=np.intp)
    converged = np.zeros(len(controls), dtype=bool)
    active = np.arange(len(controls))
    for _ in range(max_iterations):
        if not active.size:
            break
        x0, goal, u = initial[active], targets[active], controls[active]
        direction, promised = _program(problem, x0, goal, u, solver)
        iterations[active] += 1
        done = promised <= tolerance * np.maximum(costs[active], tolerance)
        gained, controls[active], costs[active] = _line_search(
            problem, (x0, goal), u, costs[active], direction, promised, done
        )
        converged[active] = done
        active = active[gained & ~done]
    return SqpResult(controls, costs, iterations, converged)


def _line_search(
    problem: TrackingProblem,
    case: tuple[States, States],
    controls: Controls,
    costs: PerCase,
    direction: Controls,
    promised: PerCase,
    done: Bools,
) -> tuple[Bools, Controls, PerCase]:
    """Halve the step until the cost falls by a share of what was promised (Armijo's rule).

    Returns:
        Which cases (B,) gained or were done before, and their controls and costs now.
    """
    step, gained = np.ones(len(costs)), done.copy()
    controls, costs, before = controls.copy(), costs.copy(), costs
    guess = controls.copy()
    for _ in range(30):
        if gained.all():
            break
        trial = guess + step[:, None, None] * direction
        cost = problem.cost(*case, trial)
        better = ~gained & (cost <= before - 1e-4 * step * promised)
        controls[better], costs[better] = trial[better], cost[better]
        gained |= better
        step[~gained] /= 2
    return gained, controls, costs


def _program(
    problem: TrackingProblem, initial: States, targets: States, controls: Controls, solver: str
) -> tuple[Controls, PerCase]:
    """Return the step (B, T, 1) to the optimum of the local program and its promised gain (B,)."""
    states = problem.rollout(initial, controls)
    A, B = linearize(problem.step, states[:, :-1], controls)
    count, steps = controls.shape[:2]
    forced = np.zeros((count, steps + 1, 2, steps))
    for k in range(steps):
        forced[:, k + 1] = A[:, k] @ forced[:, k]
        forced[:, k + 1, :, k] = B[:, k, :, 0]
    factors = np.ones(steps + 1)
    factors[steps] = problem.terminal_factor
    weights = (factors[:, None] * problem.state_weights).reshape(-1)
    forced = forced.reshape(count, -1, steps)
    error = (states - targets[:, None]).reshape(count, -1)
    weighted = forced * weights[:, None]
    u = controls[..., 0]
    gradients = 2 * np.einsum("bij,bi->bj", weighted, error) + 2 * problem.input_weight * u
    hessians = 2 * (np.swapaxes(forced, 1, 2) @ weighted + problem.input_weight * np.eye(steps))
    bound = np.full(steps, problem.limit)
    moves = np.empty_like(u)
    for i in range(count):
        moves[i] = box_qp(hessians[i], gradients[i : i + 1], -bound - u[i], bound - u[i], solver)[0]
    promised = -(gradients * moves).sum(1) - np.einsum("bi,bij,bj->b", moves, hessians, moves) / 2
    return moves[..., None], promised
