"""Classical control of the cart-pole: nested PID, LQR, and a predictive controller, all batched.

States are (N, 4) as in :mod:`steerlab.envs.inverted_pendulum.dynamics`, actions (N,).
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from steerlab.agents.classical.lqr import linearize, lqr_gain
from steerlab.envs.inverted_pendulum.dynamics import (
    BALANCE_ANGLE,
    MAX_ACTION,
    Coefficients,
    PendulumParameters,
    advance,
    step,
)
from steerlab.types import Floats

NOMINAL = PendulumParameters().coefficients()
#: Proportional, integral and derivative gain of the outer loop, then of the inner loop.
PID_GAINS = np.array([0.08, 0.05, 0.001, -3.0, -0.01, -0.15])
PID_SECONDS = 0.02
LEAN_LIMIT = np.pi / 12
#: Costs of position, angle and their rates, and of the action.
STATE_COST = (0.3, 10.0, 0.3, 0.5)
ACTION_COST = 0.05


class NestedPID:
    """Angle control inside cart-velocity control, the expert of the published data.

    The outer loop turns the cart's velocity into a wanted lean, limited to 15 degrees; the inner
    loop turns the lean's error into an action. As published, both count 0.02 s a step although a
    step is 0.04 s, and their first derivative is taken against 0.

    Args:
        gains: (6,) for all rows or (N, 6), in the order of :data:`PID_GAINS`.
    """

    def __init__(self, gains: Floats = PID_GAINS) -> None:
        self.gains = np.atleast_2d(gains)
        self.reset()

    def reset(self) -> None:
        """Forget integrals and previous errors."""
        self.integral: Any = 0.0
        self.previous: Any = 0.0

    def __call__(self, states: Floats) -> Floats:
        """Return the actions for ``states`` and remember what the loops need."""
        outer, inner = self.gains[:, :3], self.gains[:, 3:]
        velocity_error = -states[:, 2]
        lean = np.clip(self._loop(0, velocity_error, outer), -LEAN_LIMIT, LEAN_LIMIT)
        angle_error = lean + BALANCE_ANGLE - states[:, 1]
        action = self._loop(1, angle_error, inner)
        return np.clip(action, -MAX_ACTION, MAX_ACTION)

    def _loop(self, which: int, error: Floats, gains: Floats) -> Floats:
        if np.ndim(self.integral) == 0:
            self.integral, self.previous = np.zeros((2, 2, len(error)))
        self.integral[which] += error * PID_SECONDS
        slope = (error - self.previous[which]) / PID_SECONDS
        self.previous[which] = error
        return gains[:, 0] * error + gains[:, 1] * self.integral[which] + gains[:, 2] * slope


def linearized(coefficients: Coefficients = NOMINAL) -> tuple[Floats, Floats]:
    """Return A (4, 4) and B (4, 1) of one step around balance."""

    def one_step(state: Any, action: Any) -> Any:
        return advance(state, coefficients.gear * action[..., 0], coefficients, 0.02, 2)

    return linearize(one_step, [0.0, BALANCE_ANGLE, 0.0, 0.0], [0.0])


def feedback_gain(
    state_cost: tuple[float, ...] = STATE_COST, action_cost: float = ACTION_COST
) -> Floats:
    """Return the LQR gain (4,) of the nominal plant."""
    gain, _ = lqr_gain(*linearized(), np.diag(state_cost), np.array([[action_cost]]))
    return gain[0]


class StateFeedback:
    """u = -K (state - target), limited to +-3.

    Args:
        gain: (4,) for all rows or (N, 4); the LQR gain if left out.
        goal: Cart position to hold in m, a number or (N,).
    """

    def __init__(self, gain: Floats | None = None, goal: Any = 0.0) -> None:
        self.gain = feedback_gain() if gain is None else gain
        self.goal = goal

    def __call__(self, states: Floats) -> Floats:
        """Return the actions for ``states``."""
        error = states - np.array([0.0, BALANCE_ANGLE, 0.0, 0.0])
        error[:, 0] -= self.goal
        return np.clip(-(error * self.gain).sum(axis=1), -MAX_ACTION, MAX_ACTION)


class NearestGoal(StateFeedback):
    """State feedback to whichever of several goals is nearest at the first call.

    The choice is kept: the way to a goal starts with a move away from it, which tips the pole and
    may well take the cart nearer to another.

    Args:
        goals: Cart positions in m.
        gain: (4,) for all rows or (N, 4); the LQR gain if left out.
    """

    def __init__(self, goals: tuple[float, ...], gain: Floats | None = None) -> None:
        super().__init__(gain, None)
        self.goals = np.array(goals)

    def __call__(self, states: Floats) -> Floats:
        """Return the actions for ``states``."""
        if self.goal is None:
            self.goal = self.goals[np.abs(states[:, :1] - self.goals).argmin(axis=1)]
        return super().__call__(states)


def rolled_out(
    feedback: Callable[[Floats], Floats], steps: int, coefficients: Coefficients = NOMINAL
) -> Callable[[Floats], Floats]:
    """Return the chunk policy that plays ``feedback`` in the exact model.

    What it returns maps states (N, 4) to chunks (N, steps). It is the best a chunk can do that
    follows this feedback law and cannot see the noise to come.
    """

    def chunks(states: Floats) -> Floats:
        actions = []
        for _ in range(steps):
            actions.append(feedback(states))
            states = step(states, actions[-1], coefficients)
        return np.stack(actions, axis=1)

    return chunks


class PredictiveControl:
    """Model predictive control with the limits of the action, for many rows at once.

    Minimises the LQR cost over a horizon with the Riccati cost at its end, on the linear model, so
    that it equals LQR where no limit is active. The unknowns are deviations from LQR: the open loop
    grows by 1.2 a step and is hopelessly conditioned over 50. The quadratic program is solved
    by ADMM (as in OSQP, Stellato et al. 2020), one matrix product an iteration for all rows.

    Args:
        horizon: Steps looked ahead; also the length of the chunks.
        iterations: Iterations of ADMM.
    """

    def __init__(self, horizon: int = 50, iterations: int = 60) -> None:
        a, b = linearized()
        gain = feedback_gain()
        closed = a - b @ gain[None]
        #: Actions are u = free x + forced c, with deviations c; the cost is |c|^2 and a constant.
        self.free, self.forced = np.zeros((horizon, 4)), np.eye(horizon)
        state, effect = np.eye(4), np.zeros((4, horizon))
        for k in range(horizon):
            self.free[k] = -gain @ state
            self.forced[k] -= gain @ effect
            state, effect = closed @ state, closed @ effect
            effect[:, k] += b[:, 0]
        self.gain, self.iterations = gain, iterations
        self.solve = np.linalg.inv(np.eye(horizon) + self.forced.T @ self.forced) @ self.forced.T

    def __call__(self, states: Floats) -> Floats:
        """Return the next actions (N,)."""
        return np.clip(self.plan(states)[0][:, 0], -MAX_ACTION, MAX_ACTION)

    def plan(self, states: Floats) -> tuple[Floats, Floats]:
        """Return the planned actions and deviations from LQR, each (N, horizon)."""
        ideal = (states - np.array([0.0, BALANCE_ANGLE, 0.0, 0.0])) @ self.free.T
        limited, dual = np.clip(ideal, -MAX_ACTION, MAX_ACTION), np.zeros_like(ideal)
        for _ in range(self.iterations):
            deviation = (limited - dual - ideal) @ self.solve.T
            actions = ideal + deviation @ self.forced.T
            limited = np.clip(actions + dual, -MAX_ACTION, MAX_ACTION)
            dual += actions - limited
        return limited, deviation

    def chunks(self, states: Floats) -> Floats:
        """Return the plan (N, horizon) as it comes out in the exact model, LQR correcting it."""
        steps = iter(self.plan(states)[1].T)
        feedback = StateFeedback(self.gain)
        return rolled_out(
            lambda s: np.clip(feedback(s) + next(steps), -MAX_ACTION, MAX_ACTION), len(self.free)
        )(states)
