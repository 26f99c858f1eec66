"""From a network's outputs to the curvature and acceleration that openpilot commands.

Formulas of commaai/openpilot, ``selfdrive/controls/lib/drive_helpers.py`` and
``selfdrive/modeld/modeld.py``; their constants are in the contract's table. What turns a plan into
a command works on numpy arrays and, differentiably, on torch tensors: training executes the very rule
that the car does.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from array_api_compat import array_namespace
from numpy.typing import ArrayLike, NDArray

from steerlab.openpilot.contracts import FRAME_HZ, T_IDXS, CommandRule, plan_column
from steerlab.types import Array

_YAW, _YAW_RATE = plan_column("yaw"), plan_column("yaw_rate")
_SPEED, _ACCELERATION = plan_column("vx"), plan_column("ax")


class Command(NamedTuple):
    """What the controls are asked for, (B,) each."""

    curvature: Array  #: 1/m, positive to the right
    acceleration: Array  #: m/s^2
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


def plan_curvature(rule: CommandRule, plan: Any, v_ego: Any, t: Any) -> Any:
    """Return the curvature (...) that brings the car to the plan's yaw at time ``t``.

    ``2 yaw(t) / (v t) - yaw_rate(0) / v`` with v at least ``min_speed``.

    Args:
        rule: Rule of the contract.
        plan: (..., 33, 15), an array or a tensor.
        v_ego: Speed, m/s, (...) or one for all.
        t: Time of action, s, (...) or one for all.
    """
    v, t = (_like(plan[..., 0, 0], x) for x in (v_ego, t))
    v = array_namespace(plan).clip(v, min=rule.min_speed)
    yaw = at_action_time(rule, plan[..., _YAW], t, 0.0)
    return 2.0 * yaw / (v * t) - plan[..., 0, _YAW_RATE] / v


def plan_acceleration(rule: CommandRule, plan: Any, t: Any) -> Any:
    """Return the acceleration (...), ``2 (v(t) - v(0)) / t - a(0)``, m/s^2; see plan_curvature."""
    t = _like(plan[..., 0, 0], t)
    speed, start = plan[..., _SPEED], plan[..., 0, _SPEED]
    return 2.0 * (at_action_time(rule, speed, t, start) - start) / t - plan[..., 0, _ACCELERATION]


def plan_stops(
    rule: CommandRule, plan: Array, v_ego: ArrayLike, acceleration: Array, t: ArrayLike
) -> Any:
    """Return whether the plan says that the car should come to, or stay at, a standstill, (B,) bool.

    Args:
        rule: Rule of the contract.
        plan: (B, 33, 15).
        v_ego: Speed, m/s, (B,); what counts, where the rule does not take the plan's.
        acceleration: What is asked for, m/s^2, (B,).
        t: When the acceleration takes effect, s.
    """
    speed = plan[..., _SPEED]
    if rule.stop["rule"] == "slow_and_not_accelerating":
        return should_stop(
            rule, v_ego if rule.stop["speed_of"] == "v_ego" else speed[:, 0], acceleration
        )
    at = _like(speed[:, 0], t)
    later = at_time(speed, at + 1.0)
    return (at_time(speed, at) < rule.stop["speed"]) & (later < rule.stop["speed"])


def should_stop(rule: CommandRule, speed: ArrayLike, acceleration: Array) -> Any:
    """Return whether a car is slow (m/s, (B,)) and not asked to accelerate (m/s^2, (B,))."""
    slow = np.asarray(speed) < rule.stop["speed"]
    return slow & (acceleration < rule.stop["acceleration"])


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
        parsed: Outputs as :func:`~steerlab.openpilot.outputs.parse` returns them.
        v_ego: Speed, m/s, (B,).
        t_lateral: When the steering takes effect, s.
        t_longitudinal: When the acceleration takes effect, s.
    """
    plan = np.asarray(parsed["plan"], dtype=float)
    v_ego = np.broadcast_to(np.asarray(v_ego, dtype=float), len(plan))
    if rule.curvature_from == "action_or_plan" and "action" in parsed:
        lateral, acceleration = np.asarray(parsed["action"], dtype=float).T
        curvature = lateral / np.maximum(v_ego, rule.min_speed) ** 2
        return Command(curvature, acceleration, should_stop(rule, v_ego, acceleration))
    curvature = plan_curvature(rule, plan, v_ego, t_lateral)
    acceleration = plan_acceleration(rule, plan, t_longitudinal)
    stops = plan_stops(rule, plan, v_ego, acceleration, t_longitudinal)
    return Command(curvature, acceleration, stops)


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


def at_time(values: Any, t: Any) -> Any:
    """Return ``values`` (..., 33) over ``T_IDXS`` at ``t`` (...), s, linear between, ends held."""
    xp = array_namespace(values)
    times = _like(values, T_IDXS)
    past = xp.clip((t[..., None] - times[:-1]) / (times[1:] - times[:-1]), 0.0, 1.0)
    return values[..., 0] + xp.sum(past * (values[..., 1:] - values[..., :-1]), axis=-1)


def at_action_time(rule: CommandRule, values: Any, t: Any, start: Any) -> Any:
    """Return ``values`` (..., 33) at ``t``, on the chord from ``start`` below the stable delay."""
    if not rule.stable_delay_s:
        return at_time(values, t)
    late = array_namespace(values).clip(t, min=rule.stable_delay_s)
    return start + t / late * (at_time(values, late) - start)


def _like(example: Any, values: Any) -> Any:
    """Return ``values`` in the kind, precision and place of ``example``."""
    if hasattr(values, "requires_grad"):
        return values
    found = np.asarray(values, dtype=float)
    if isinstance(example, np.ndarray | np.generic):
        return found
    return array_namespace(example).asarray(found, dtype=example.dtype, device=example.device)
