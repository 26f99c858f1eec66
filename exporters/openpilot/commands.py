"""From a network's outputs to the curvature and acceleration that openpilot commands.

Formulas of commaai/openpilot, ``selfdrive/controls/lib/drive_helpers.py`` and
``selfdrive/modeld/modeld.py``; their constants are in the contract's table.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from steerlab.exporters.openpilot.contracts import FRAME_HZ, T_IDXS, CommandRule, plan_column

Array = NDArray[np.floating[Any]]

_YAW, _YAW_RATE = plan_column("yaw"), plan_column("yaw_rate")
_SPEED, _ACCELERATION = plan_column("vx"), plan_column("ax")


class Command(NamedTuple):
    """What the controls are asked for, (B,) each."""

    curvature: Array  # 1/m, positive to the right
    acceleration: Array  # m/s^2
    should_stop: NDArray[np.bool_]


def action_times(
    rule: CommandRule, lateral_delay: ArrayLike, longitudinal_delay: ArrayLike
) -> tuple[Array, Array]:
    """Return when lateral and longitudinal commands take effect, s after the frame.

    Args:
        rule: Rule of the contract.
        lateral_delay: Learned delay of the steering (``liveDelay.lateralDelay``), s.
        longitudinal_delay: Delay of the actuator (``longitudinalActuatorDelay``), s.
    """
    lateral = np.asarray(lateral_delay, dtype=float) + rule.lat_smooth_s + rule.extra_delay_s
    longitudinal = np.asarray(longitudinal_delay, dtype=float) + rule.long_smooth_s
    return lateral, longitudinal + rule.extra_delay_s


def plan_curvature(rule: CommandRule, plan: Array, v_ego: ArrayLike, t: ArrayLike) -> Array:
    """Return the curvature (B,) that brings the car to the plan's yaw at time ``t``.

    ``2 yaw(t) / (v t) - yaw_rate(0) / v`` with v at least ``min_speed``.

    Args:
        rule: Rule of the contract.
        plan: (B, 33, 15).
        v_ego: Speed, m/s, (B,).
        t: Time of action, s, (B,).
    """
    v = np.maximum(np.asarray(v_ego, dtype=float), rule.min_speed)
    t = np.asarray(t, dtype=float)
    yaw = _at(rule, plan[..., _YAW], t, 0.0)
    return 2.0 * yaw / (v * t) - plan[:, 0, _YAW_RATE] / v


def plan_acceleration(rule: CommandRule, plan: Array, t: ArrayLike) -> Array:
    """Return the acceleration (B,), ``2 (v(t) - v(0)) / t - a(0)``, m/s^2."""
    t = np.asarray(t, dtype=float)
    speed, start = plan[..., _SPEED], plan[:, 0, _SPEED]
    return 2.0 * (_at(rule, speed, t, start) - start) / t - plan[:, 0, _ACCELERATION]


def plan_stops(rule: CommandRule, plan: Array, acceleration: Array, t: ArrayLike) -> Any:
    """Return whether the car should come to, or stay at, a standstill, (B,) bool."""
    speed = plan[..., _SPEED]
    if rule.stop["rule"] == "slow_and_not_accelerating":
        return (speed[:, 0] < rule.stop["speed"]) & (acceleration < rule.stop["acceleration"])
    t = np.asarray(t, dtype=float)
    later = _interpolate(speed, t + 1.0)
    return (_interpolate(speed, t) < rule.stop["speed"]) & (later < rule.stop["speed"])


def command(
    rule: CommandRule,
    parsed: Mapping[str, Array],
    v_ego: ArrayLike,
    t_lateral: ArrayLike,
    t_longitudinal: ArrayLike,
) -> Command:
    """Return the command before smoothing.

    Args:
        rule: Rule of the contract.
        parsed: Outputs as :func:`~steerlab.exporters.openpilot.outputs.parse` returns them.
        v_ego: Speed, m/s, (B,).
        t_lateral: When the steering takes effect, s.
        t_longitudinal: When the acceleration takes effect, s.
    """
    plan = np.asarray(parsed["plan"], dtype=float)
    v_ego = np.broadcast_to(np.asarray(v_ego, dtype=float), len(plan))
    if rule.curvature_from == "action_or_plan" and "action" in parsed:
        lateral, acceleration = np.asarray(parsed["action"], dtype=float).T
        curvature = lateral / np.maximum(v_ego, rule.min_speed) ** 2
    else:
        curvature = plan_curvature(rule, plan, v_ego, t_lateral)
        acceleration = plan_acceleration(rule, plan, t_longitudinal)
    return Command(curvature, acceleration, plan_stops(rule, plan, acceleration, t_longitudinal))


def smooth(rule: CommandRule, new: Command, last: Command, v_ego: ArrayLike) -> Command:
    """Return the command after one frame of first-order smoothing; at standstill steering holds."""
    moves = np.asarray(v_ego) > rule.hold_below_speed
    curvature = _filter(new.curvature, last.curvature, rule.lat_smooth_s)
    acceleration = _filter(new.acceleration, last.acceleration, rule.long_smooth_s)
    return Command(np.where(moves, curvature, last.curvature), acceleration, new.should_stop)


def _filter(new: Array, last: Array, time_constant: float) -> Array:
    if time_constant <= 0.0:
        return new
    alpha = 1.0 - np.exp(-1.0 / (FRAME_HZ * time_constant))
    return alpha * new + (1.0 - alpha) * last


def _at(rule: CommandRule, values: Array, t: Array, start: ArrayLike) -> Array:
    """Return ``values`` (B, 33) at ``t``, on the chord from ``start`` below the stable delay."""
    late = np.maximum(t, rule.stable_delay_s)
    share = np.divide(t, late, out=np.ones_like(t), where=late > 0)
    start = np.asarray(start)
    return start + share * (_interpolate(values, late) - start)


def _interpolate(values: Array, t: ArrayLike) -> Array:
    """Return ``values`` (B, 33) over ``T_IDXS`` at ``t`` (B,) or scalar, ends held."""
    times: Array = np.broadcast_to(np.asarray(t, dtype=float), len(values))
    return np.array([np.interp(x, T_IDXS, row) for x, row in zip(times, values, strict=True)])
