"""VanDerPol-v0: bring the Van der Pol oscillator to rest in five seconds.

x'' = mu (1 - x^2) x' - x + u. The parameters are those of the TinyRecursiveControl repository: 100
steps of 0.05 s with the classical Runge-Kutta method, inputs within 2, success within 0.2.
"""

from dataclasses import dataclass
from typing import Any

from array_api_compat import array_namespace

from steerlab.envs.batch import SingleEnv
from steerlab.envs.tracking.env import TrackingVectorEnv
from steerlab.envs.tracking.problem import TrackingProblem


def van_der_pol(state: Any, control: Any, dt: float, mu: float) -> Any:
    """Return the states (..., 2) after ``dt`` seconds, by one classical Runge-Kutta step.

    Args:
        state: Position and velocity (..., 2).
        control: Force (..., 1), held over the step.
        dt: s.
        mu: Strength of the nonlinear damping.
    """
    xp = array_namespace(state, control)
    x, v, force = state[..., 0], state[..., 1], control[..., 0]

    def slope(x: Any, v: Any) -> tuple[Any, Any]:
        return v, mu * (1 - x * x) * v - x + force

    x1, v1 = slope(x, v)
    x2, v2 = slope(x + dt / 2 * x1, v + dt / 2 * v1)
    x3, v3 = slope(x + dt / 2 * x2, v + dt / 2 * v2)
    x4, v4 = slope(x + dt * x3, v + dt * v3)
    return xp.stack(
        [x + dt / 6 * (x1 + 2 * x2 + 2 * x3 + x4), v + dt / 6 * (v1 + 2 * v2 + 2 * v3 + v4)],
        axis=-1,
    )


@dataclass(frozen=True)
class VanDerPol(TrackingProblem):
    """The Van der Pol oscillator; see :class:`TrackingProblem` for the parameters."""

    steps: int = 100
    limit: float = 2.0
    position_weight: float = 10.0
    velocity_weight: float = 5.0
    terminal_factor: float = 20.0
    target_spread: float = 0.0  # the target is the origin
    tolerance: float = 0.2
    mu: float = 1.0  # strength of the nonlinear damping

    def step(self, state: Any, control: Any) -> Any:
        """See :func:`van_der_pol`."""
        return van_der_pol(state, control, self.dt, self.mu)


class VanDerPolVectorEnv(TrackingVectorEnv):
    """N oscillators; see :class:`TrackingVectorEnv`."""

    problem_type = VanDerPol


class VanDerPolEnv(SingleEnv):
    """One oscillator; see :class:`TrackingVectorEnv`."""

    batch_type = VanDerPolVectorEnv
