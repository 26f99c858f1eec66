"""Equations of motion of the cart and the pole, exact and batched, for numpy and torch.

A state is (x, theta, x', theta'): cart position in m, pole angle in rad (0 upright, positive to the
right), and their rates. The plant is that of gymnasium's ``inverted_pendulum.xml``: masses and
inertias follow from its capsules, the integrator is the same fourth-order Runge-Kutta rule. The
model's pole leans by 1 mm over 0.6 m, so that it balances at :data:`BALANCE_ANGLE`, not at 0.
"""

from dataclasses import dataclass, replace
from math import atan2, pi
from typing import Any, NamedTuple

from array_api_compat import array_namespace

#: Largest action and what it is multiplied with: 3 x 100 N.
MAX_ACTION = 3.0
#: Timestep 0.02 s, two of them a step.
STEP_SECONDS = 0.04
#: Steps of an episode, 4 s.
EPISODE_STEPS = 100
POLE_LEAN = 0.001
BALANCE_ANGLE = -atan2(POLE_LEAN, 0.6)


class Coefficients(NamedTuple):
    """What the equations need, each a number or one value a row."""

    total_mass: Any  # kg
    coupling: Any  # kg m, pole mass times distance of its centre from the hinge
    hinge_inertia: Any  # kg m^2, of the pole about the hinge
    weight: Any  # N m, gravity torque of a horizontal pole
    lean: Any  # rad, between the pole and its body axis
    slider_damping: Any  # N s/m
    hinge_damping: Any  # N m s
    gear: Any  # N per unit of action


@dataclass(frozen=True)
class PendulumParameters:
    """The plant; each field is a number or an array with one value a row."""

    pole_length: Any = 0.6  # m, height of the pole's upper end above the hinge
    pole_density: Any = 1000.0  # kg/m^3
    pole_radius: Any = 0.049  # m
    cart_radius: Any = 0.1  # m
    cart_half_length: Any = 0.1  # m
    cart_density: Any = 1000.0  # kg/m^3
    slider_damping: Any = 1.0  # N s/m
    hinge_damping: Any = 1.0  # N m s
    gear: Any = 100.0  # N per unit of action
    gravity: Any = 9.81  # m/s^2
    timestep: float = 0.02  # s
    substeps: int = 2  # timesteps a step

    @property
    def half_length(self) -> Any:
        """Distance of the pole's centre of mass from the hinge, m."""
        return 0.5 * (POLE_LEAN**2 + self.pole_length**2) ** 0.5

    @property
    def pole_mass(self) -> Any:
        """Mass of the pole, kg."""
        return sum(_capsule_masses(self.pole_radius, self.half_length, self.pole_density))

    def scaled(self, pole_mass: Any, pole_length: Any, gear: Any) -> "PendulumParameters":
        """Return the plant with these three multiplied by factors.

        Mass and length are independent: a longer pole of the same mass is less dense.
        """
        longer = replace(self, pole_length=self.pole_length * pole_length)
        density = self.pole_density * pole_mass * self.pole_mass / longer.pole_mass
        return replace(longer, pole_density=density, gear=self.gear * gear)

    def coefficients(self) -> Coefficients:
        """Return the constants of the equations of motion.

        The inertia of a capsule is that of its cylinder and two half spheres, as in MuJoCo.
        """
        half, radius = self.half_length, self.pole_radius
        cylinder, ends = _capsule_masses(radius, half, self.pole_density)
        inertia = cylinder * (3 * radius**2 + (2 * half) ** 2) / 12 + ends * (
            0.4 * radius**2 + 0.75 * half * radius + half**2
        )
        pole_mass = self.pole_mass
        cart_mass = sum(_capsule_masses(self.cart_radius, self.cart_half_length, self.cart_density))
        return Coefficients(
            total_mass=cart_mass + pole_mass,
            coupling=pole_mass * half,
            hinge_inertia=inertia + pole_mass * half**2,
            weight=pole_mass * half * self.gravity,
            lean=_lean(self.pole_length),
            slider_damping=self.slider_damping,
            hinge_damping=self.hinge_damping,
            gear=self.gear,
        )


def _capsule_masses(radius: Any, half_length: Any, density: Any) -> tuple[Any, Any]:
    """Return the masses of the cylinder and of the two ends together."""
    return density * pi * radius**2 * 2 * half_length, density * 4 / 3 * pi * radius**3


def _lean(length: Any) -> Any:
    if isinstance(length, float | int):
        return atan2(POLE_LEAN, length)
    xp = array_namespace(length)
    return xp.atan2(xp.full_like(length, POLE_LEAN), length)


def accelerations(theta: Any, velocity: Any, rate: Any, force: Any, c: Coefficients) -> Any:
    """Return the accelerations of cart (m/s^2) and pole (rad/s^2), each (...,).

    They solve M(q) q'' = f(q, q', force) with the 2 x 2 mass matrix of a pole on a cart.

    Args:
        theta: Pole angle in rad, (...,).
        velocity: Cart velocity in m/s, (...,).
        rate: Pole rate in rad/s, (...,).
        force: Force on the cart in N, (...,).
        c: Constants of the plant.
    """
    xp = array_namespace(theta)
    sine, cosine = xp.sin(theta + c.lean), xp.cos(theta + c.lean)
    coupling = c.coupling * cosine
    on_cart = force - c.slider_damping * velocity + c.coupling * sine * rate * rate
    on_pole = c.weight * sine - c.hinge_damping * rate
    determinant = c.total_mass * c.hinge_inertia - coupling * coupling
    return (
        (c.hinge_inertia * on_cart - coupling * on_pole) / determinant,
        (c.total_mass * on_pole - coupling * on_cart) / determinant,
    )


def advance(state: Any, force: Any, c: Coefficients, timestep: float, substeps: int) -> Any:
    """Return the states (..., 4) after ``substeps`` Runge-Kutta steps under a force (...,) in N.

    Analytic in state and force, so that it can be differentiated in any way.
    """
    xp = array_namespace(state)
    x, theta, v, w = (state[..., i] for i in range(4))
    h = timestep
    for _ in range(substeps):
        a1, b1 = accelerations(theta, v, w, force, c)
        v2, w2 = v + h / 2 * a1, w + h / 2 * b1
        a2, b2 = accelerations(theta + h / 2 * w, v2, w2, force, c)
        v3, w3 = v + h / 2 * a2, w + h / 2 * b2
        a3, b3 = accelerations(theta + h / 2 * w2, v3, w3, force, c)
        v4, w4 = v + h * a3, w + h * b3
        a4, b4 = accelerations(theta + h * w3, v4, w4, force, c)
        x = x + h / 6 * (v + 2 * v2 + 2 * v3 + v4)
        theta = theta + h / 6 * (w + 2 * w2 + 2 * w3 + w4)
        v = v + h / 6 * (a1 + 2 * a2 + 2 * a3 + a4)
        w = w + h / 6 * (b1 + 2 * b2 + 2 * b3 + b4)
    return xp.stack([x, theta, v, w], axis=-1)


def step(
    state: Any, action: Any, c: Coefficients, timestep: float = 0.02, substeps: int = 2
) -> Any:
    """Return the states after one step under a constant action.

    Args:
        state: (..., 4).
        action: (...,), limited to +-3 here.
        c: Constants of the plant.
        timestep: Seconds of one Runge-Kutta step.
        substeps: Runge-Kutta steps a step.
    """
    force = c.gear * array_namespace(state).clip(action, -MAX_ACTION, MAX_ACTION)
    return advance(state, force, c, timestep, substeps)
