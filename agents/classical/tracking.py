"""Controllers of the tracking problems: open-loop plans from random ones to the optimum."""

import numpy as np

from steerlab.agents.classical.lqr import finite_horizon_gains, linearize, lqr_gain
from steerlab.agents.classical.qp import condense
from steerlab.agents.classical.sqp import solve_sqp
from steerlab.envs.tracking.problem import TrackingProblem
from steerlab.types import Controls, Floats, States


def infinite_horizon_lqr(problem: TrackingProblem, initial: States, targets: States) -> Controls:
    """Return the controls (B, T, 1) of the clipped infinite-horizon regulator on the error.

    These are the labels of the published data. They are optimal only where the target is a rest
    point, that is, has no velocity; a nonlinear plant is linearised about rest at 0.
    """
    A, B = linearize(problem.step, np.zeros(2), np.zeros(1))
    Q, R = np.diag(problem.state_weights), np.diag([problem.input_weight])
    gain, _ = lqr_gain(A, B, Q, R)
    return _roll(problem, np.repeat(gain[None], problem.steps, 0), initial, targets, targets)


def finite_horizon_lqr(problem: TrackingProblem, initial: States, targets: States) -> Controls:
    """Return the controls (B, T, 1) of the clipped finite-horizon tracking regulator.

    The target is made part of the state, so a moving one is no error of the model: without bounds
    this is the optimum of a linear problem. A nonlinear plant is linearised about rest at 0.
    """
    A, B = linearize(problem.step, np.zeros(2), np.zeros(1))
    I, O = np.eye(2), np.zeros((2, 2))
    difference = np.hstack([I, -I])
    Q = difference.T @ np.diag(problem.state_weights) @ difference
    gains, _ = finite_horizon_gains(
        np.block([[A, O], [O, I]]),
        np.vstack([B, np.zeros((2, 1))]),
        Q,
        np.diag([problem.input_weight]),
        problem.terminal_factor * Q,
        problem.steps,
    )
    return _roll(problem, gains, initial, targets, np.zeros_like(targets))


def random_controls(
    problem: TrackingProblem, initial: States, targets: States, seed: int = 0
) -> Controls:
    """Return normal controls (B, T, 1) with half the limit as standard deviation, clipped."""
    shape = (len(initial), problem.steps, 1)
    noise = np.random.default_rng(seed).normal(0, problem.limit / 2, shape)
    clipped: Controls = problem.clip(noise)
    return clipped


def optimal_controls(
    problem: TrackingProblem, initial: States, targets: States, solver: str = "auto"
) -> Controls:
    """Return the optimal controls (B, T, 1): exact for a linear plant, else a local optimum.

    Args:
        problem: Linear problems go to a QP solver, others to :func:`solve_sqp`.
        initial: (B, 2).
        targets: (B, 2).
        solver: QP solver; see :func:`steerlab.agents.classical.qp.box_qp`.
    """
    if problem.linear:
        return condense(problem).solve(initial, targets, solver)
    start = finite_horizon_lqr(problem, initial, targets)
    return solve_sqp(problem, initial, targets, start, solver=solver).controls


def _roll(
    problem: TrackingProblem, gains: Floats, initial: States, targets: States, origin: States
) -> Controls:
    """Apply clipped feedback on (state - origin), with the target appended if gains ask for it."""
    state, controls = initial, []
    for gain in gains:
        known = state - origin
        if gain.shape[1] == 4:
            known = np.concatenate([known, targets], axis=1)
        controls.append(problem.clip(-known @ gain.T))
        state = problem.step(state, controls[-1])
    return np.stack(controls, axis=1)
