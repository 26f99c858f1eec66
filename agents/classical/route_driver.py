"""A driver without memory for routes with traffic and signals: the teacher of the plan labels.

Steering is the path's curvature where the car will be when a command gets through the delay, and feedback
of the offset from the path, its rate and the sideways acceleration. Speed is the lowest of what the limit, the
bends ahead, the vehicle ahead (intelligent driver model, Treiber 2000) and the next stop allow.
"""

import numpy as np

from steerlab.agents.classical.preview import SPEED_GAIN
from steerlab.envs.kinematic_driver.dynamics import curvature_scale
from steerlab.envs.labels.plan import FAR, Situation
from steerlab.types import Array

PUBLISHED = 0.1  # s: openpilot's smoothing of what it publishes, on top of the car's own
LATERAL = 2.2  # m/s^2, in bends
BRAKING = 1.6  # m/s^2, before bends and stops
STRONGEST = 3.5  # m/s^2
PULL = 1.5  # m/s^2, most that it speeds up
TIME_GAP, STANDSTILL = 1.5, 3.0  # s, m: distance to the vehicle ahead
_AHEAD = 120.0 * np.linspace(0.0, 1.0, 24) ** 1.5  # m


def route_driver(situation: Situation) -> tuple[Array, Array]:
    """Return curvature (1/m) and acceleration (m/s^2) that it asks for, (B,) each."""
    return steering(situation), acceleration(situation)


def steering(situation: Situation) -> Array:
    """Return the curvature that it asks for, (B,) 1/m; never more than an action can ask for.

    It goes by what pictures show, so a policy can learn it. Gains for a driver who also knows the
    commands that are still in the delay would be higher. Without that knowledge a car whose steering
    acts 0.4 s late would swing with them.
    """
    v, vehicle = situation.speed, situation.vehicle
    late = vehicle.lateral_delay
    pull = vehicle.actuator_lag + vehicle.smoothing + PUBLISHED
    curvature, _ = situation.preview(np.stack([np.zeros_like(v), v * (late + pull)], axis=1))
    speed = np.maximum(v, 0.5)
    state = np.stack([
        np.clip(situation.offset, -2.5, 2.5), speed * np.sin(situation.heading_error),
        speed**2 * (situation.curvature - curvature[:, 0]),
    ])  # fmt: skip
    feedback = -(gains(late, pull) * state).sum(axis=0)
    # Far from the path the feedback would ask for more than a car can do: radii below a metre.
    most = curvature_scale(np, speed)
    return np.asarray(np.clip(curvature[:, 1] + feedback / speed**2, -most, most))


def gains(late: Array, pull: Array) -> Array:
    """Return gains (3, B) for the offset, its rate and the sideways acceleration beyond the path's.

    Fitted to the best static gains for a double integrator behind a delay ``late`` and two lags of
    together ``pull`` s, (B,) each. The cost is that of the preview LQR
    (:mod:`steerlab.agents.classical.preview`), averaged with the costs for 0.1 s more of delay, 1.2
    times the gains, and half the last gain. It is 1 to 22 % above that of the LQR that knows all.
    """
    return np.stack([
        1.8 * np.exp(-1.5 * late - 0.55 * pull), 2.1 * np.exp(-0.85 * late),
        0.15 + 0.2 * late + 1.15 * pull,
    ])  # fmt: skip


def acceleration(situation: Situation) -> Array:
    """Return the acceleration that it asks for, (B,) m/s^2."""
    v = situation.speed
    ahead = np.broadcast_to(_AHEAD, (len(v), len(_AHEAD)))
    curvature, limit = situation.preview(ahead)
    allowed = np.minimum(LATERAL / np.maximum(np.abs(curvature), 1e-6), limit**2)
    reach = np.sqrt((allowed + 2 * BRAKING * np.maximum(ahead - v[:, None] * 0.5, 0.0)).min(axis=1))
    free = np.clip(SPEED_GAIN * (reach - v), -STRONGEST, PULL)
    closing = v - situation.lead_speed
    wanted = STANDSTILL + np.maximum(
        v * TIME_GAP + v * closing / (2 * np.sqrt(PULL * BRAKING)), 0.0
    )
    follow = PULL * (1.0 - (wanted / np.maximum(situation.gap, 0.5)) ** 2)
    follow = np.where(situation.gap < FAR, follow, np.inf)
    room = np.maximum(situation.stop - 1.0, 0.05)
    needed = v**2 / (2 * room)
    hold = np.where(needed > 0.6 * BRAKING, -1.1 * needed, np.inf)
    hold = np.where((situation.stop < 2.5) & (v < 2.0), -STRONGEST, hold)
    stop = np.where(situation.stop < FAR, hold, np.inf)
    return np.asarray(np.clip(np.minimum(np.minimum(free, follow), stop), -STRONGEST, PULL))
