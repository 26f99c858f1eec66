"""The car: from commands to motion, as pure functions over rows.

Every function takes ``xp``, the backend, and works elementwise: on arrays (N,) of numpy or torch, or,
compiled by numba, on the numbers of one row. Curvature, yaw and lateral offset are positive to the right. The car is a kinematic bicycle seen at
its rear axle, in the curvilinear frame of the planned path: arc length ``s``, offset ``d`` and
heading ``psi`` relative to the path.
"""

from typing import Any, NamedTuple

from steerlab.types import AnyArray

DT = 0.05  # s, one step: openpilot's model rate of 20 Hz
GRAVITY = 9.81  # m/s^2

# openpilot's limits on the curvature it asks for (clip_curvature, commaai/openpilot 0.10.0)
MAX_LATERAL_JERK = 5.0  # m/s^3
MAX_LATERAL_ACCELERATION = 3.0  # m/s^2
MAX_CURVATURE = 0.2  # 1/m
MIN_SPEED = 1.0  # m/s, below which the limits stay what they are at this speed

MAX_ACCELERATION = 2.0  # m/s^2 that action 1 asks for
MAX_BRAKING = 3.5  # m/s^2 that action -1 asks for
ACTION_LATERAL_ACCELERATION = 3.6  # m/s^2 that curvature action 1 asks for

FRONT = 3.7  # m from the rear axle to the front bumper
REAR = 1.0  # m from the rear axle to the rear bumper
HALF_WIDTH = 0.92  # m


class Vehicle(NamedTuple):
    """The parameters of N cars, each an array (N,)."""

    lateral_delay: AnyArray  # s
    actuator_lag: AnyArray  # s
    smoothing: AnyArray  # s
    friction: AnyArray  # 1
    mass: AnyArray  # nominal masses
    drive_lag: AnyArray  # s
    brake_lag: AnyArray  # s
    superelevation: AnyArray  # 1, positive falls to the right


class State(NamedTuple):
    """The motion of N cars, each an array (N,)."""

    s: AnyArray  # m along the path
    d: AnyArray  # m to the right of the path
    psi: AnyArray  # rad to the right of the path
    v: AnyArray  # m/s
    a: AnyArray  # m/s^2, longitudinal
    k: AnyArray  # 1/m, curvature that is driven
    k_actuator: AnyArray  # 1/m, curvature that the wheels are turned to
    k_command: AnyArray  # 1/m, command after smoothing and limits
    k_smooth: AnyArray  # 1/m, command after smoothing
    a_smooth: AnyArray  # m/s^2, command after smoothing


def curvature_scale(xp: Any, v: AnyArray) -> AnyArray:
    """Return the curvature (1/m) that action 1 asks for at speed ``v`` (m/s).

    Scaling by a lateral acceleration keeps one unit of action meaningful from parking to motorway.
    """
    return xp.minimum(ACTION_LATERAL_ACCELERATION / xp.maximum(v, MIN_SPEED) ** 2, MAX_CURVATURE)


def decode_action(xp: Any, actions: AnyArray, v: AnyArray) -> tuple[AnyArray, AnyArray]:
    """Return desired curvature (1/m) and acceleration (m/s^2) of ``actions`` (N, 2) in [-1, 1]."""
    return decode(xp, actions[:, 0], actions[:, 1], v)


def decode(xp: Any, steer: AnyArray, pedal: AnyArray, v: AnyArray) -> tuple[AnyArray, AnyArray]:
    """Return what the two actions ask for, curvature (1/m) and acceleration (m/s^2)."""
    curvature = steer * curvature_scale(xp, v)
    return curvature, xp.where(pedal > 0, MAX_ACCELERATION * pedal, MAX_BRAKING * pedal)


def encode_action(
    xp: Any, curvature: AnyArray, acceleration: AnyArray, v: AnyArray
) -> tuple[AnyArray, AnyArray]:
    """Return the two actions that ask for ``curvature`` and ``acceleration``, limited to [-1, 1]."""
    pedal = xp.where(acceleration > 0, acceleration / MAX_ACCELERATION, acceleration / MAX_BRAKING)
    return xp.clip(curvature / curvature_scale(xp, v), -1, 1), xp.clip(pedal, -1, 1)


def clip_curvature(
    xp: Any, curvature: AnyArray, last: AnyArray, v: AnyArray, bank: AnyArray
) -> AnyArray:
    """Limit a curvature command as openpilot does: jerk, then lateral acceleration, then radius.

    Args:
        xp: Backend.
        curvature: Command in 1/m.
        last: Limited command of the step before, 1/m.
        v: Speed in m/s.
        bank: Superelevation of the road; it shifts the limits of the acceleration.
    """
    square = xp.maximum(v, MIN_SPEED) ** 2
    rate = MAX_LATERAL_JERK * DT / square
    curvature = xp.clip(curvature, last - rate, last + rate)
    roll = GRAVITY * bank
    low = (roll - MAX_LATERAL_ACCELERATION) / square
    high = (roll + MAX_LATERAL_ACCELERATION) / square
    return xp.clip(xp.clip(curvature, low, high), -MAX_CURVATURE, MAX_CURVATURE)


def lag(xp: Any, time: AnyArray) -> AnyArray:
    """Return the share of its way that a first-order lag of ``time`` (s) goes in one step."""
    return 1 - xp.exp(-DT / xp.maximum(time, 1e-3))


def shape_commands(
    xp: Any, state: State, vehicle: Vehicle, curvature: AnyArray, acceleration: AnyArray
) -> tuple[AnyArray, AnyArray, AnyArray]:
    """Return smoothed curvature, smoothed acceleration and the limited curvature command."""
    share = lag(xp, vehicle.smoothing)
    k_smooth = state.k_smooth + share * (curvature - state.k_smooth)
    a_smooth = state.a_smooth + share * (acceleration - state.a_smooth)
    k_command = clip_curvature(xp, k_smooth, state.k_command, state.v, vehicle.superelevation)
    return k_smooth, a_smooth, k_command


def advance(
    xp: Any,
    state: State,
    vehicle: Vehicle,
    shaped: tuple[AnyArray, AnyArray, AnyArray],
    k_delayed: AnyArray,
    road: tuple[AnyArray, AnyArray],
) -> State:
    """Return the state one step later.

    Args:
        xp: Backend.
        state: Where the cars are.
        vehicle: What they are.
        shaped: Result of :func:`shape_commands`.
        k_delayed: Curvature command as it leaves the delay, 1/m.
        road: Curvature of the path at ``state.s`` (1/m) and its slope (1/m^2).
    """
    k_smooth, a_smooth, k_command = shaped
    kappa, kappa_slope = road
    share = lag(xp, vehicle.actuator_lag)
    k_actuator = state.k_actuator + share * (k_delayed - state.k_actuator)

    target = a_smooth / vehicle.mass
    pedal_lag = xp.where(target < state.a, vehicle.brake_lag, vehicle.drive_lag)
    grip = GRAVITY * vehicle.friction
    a = state.a + lag(xp, pedal_lag) * (target - state.a)
    a = xp.clip(a, -0.95 * grip, 0.95 * grip)
    a = xp.maximum(a, -state.v / DT)  # brakes stop a car, they do not reverse it
    v_mid = state.v + 0.5 * DT * a
    v = xp.maximum(state.v + DT * a, 0.0)

    # Friction ellipse: what braking leaves over holds the car in the bend, less the bank's share.
    side = xp.sqrt(grip * grip - a * a)
    square = xp.maximum(v_mid * v_mid, 1e-2)
    roll = GRAVITY * vehicle.superelevation
    k = xp.clip(k_actuator, (roll - side) / square, (roll + side) / square)

    # Midpoint rule in the frame of the path.
    step = DT * v_mid
    ds = 0.5 * step * xp.cos(state.psi) / spread(xp, kappa, state.d)
    psi_mid = state.psi + 0.5 * step * k - kappa * ds
    d_mid = state.d + 0.5 * step * xp.sin(state.psi)
    kappa_mid = kappa + kappa_slope * ds
    ds = step * xp.cos(psi_mid) / spread(xp, kappa_mid, d_mid)
    return State(
        s=state.s + ds,
        d=state.d + step * xp.sin(psi_mid),
        psi=state.psi + step * k - kappa_mid * ds,
        v=v,
        a=a,
        k=k,
        k_actuator=k_actuator,
        k_command=k_command,
        k_smooth=k_smooth,
        a_smooth=a_smooth,
    )


def squared_jerk(before: State, after: State) -> AnyArray:
    """Return the square of the jerk of a step, along and across, m^2/s^6."""
    along = (after.a - before.a) / DT
    across = (after.k * after.v * after.v - before.k * before.v * before.v) / DT
    return along * along + across * across


def corners(
    xp: Any, d: AnyArray, psi: AnyArray, kappa: AnyArray
) -> tuple[AnyArray, AnyArray, AnyArray, AnyArray]:
    """Return how far the body reaches to the right and to the left of the path.

    Args:
        xp: Backend.
        d: Offset of the rear axle from the path, m.
        psi: Heading relative to the path, rad.
        kappa: Curvature of the path, 1/m; the path bends away from the straight body.

    Returns:
        Offsets (m) of the front right, front left, rear right and rear left corner.
    """
    sine, half = xp.sin(psi), HALF_WIDTH * xp.abs(xp.cos(psi))
    front = d + FRONT * sine - (0.5 * FRONT * FRONT) * kappa
    rear = d - REAR * sine - (0.5 * REAR * REAR) * kappa
    return front + half, front - half, rear + half, rear - half


def spread(xp: Any, kappa: AnyArray, d: AnyArray) -> AnyArray:
    """Return how much longer the path is than the way driven at offset ``d``."""
    return xp.maximum(1 - kappa * d, 0.2)
