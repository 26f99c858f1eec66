"""The plan label: what a teacher would do from here, driven through the vehicle.

The teacher comes in as a function without memory. From every frame it drives ten seconds in closed
loop, among the other vehicles as they really moved; the plan's own shape is then fitted to that
drive, so that its columns fit one another and that the contract's rule reads the teacher's command.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from steerlab.envs.kinematic_driver import dynamics
from steerlab.envs.kinematic_driver.dynamics import DT, FRONT, State, Vehicle
from steerlab.envs.kinematic_driver.numpy_backend import NUMPY
from steerlab.envs.labels.record import Record
from steerlab.openpilot.commands import action_times
from steerlab.openpilot.contracts import PLAN_COLUMNS, T_IDXS, CommandRule
from steerlab.openpilot.plan import FREE, Near, PlanShape
from steerlab.types import Floats

STEPS = round(T_IDXS[-1] / DT)
FAR = 1e3  # m: nothing is ahead
FITS = 8  # rounds of fitting a plan
TURN, PACE = 8.0, 2.0  # m that a radian, and a metre per second, of error count for
STIFF = 1e-3  # holds values that nothing depends on


class Situation(NamedTuple):
    """What a teacher gets about B cars, (B,) each unless stated.

    There are no commands that are still in the delay: a policy that learns from the labels cannot see
    them, and would learn the mean over what they may have been.
    """

    offset: Floats  # m right of the route
    heading_error: Floats  # rad
    speed: Floats  # m/s
    curvature: Floats  # 1/m, that is driven
    vehicle: Vehicle
    gap: Floats  # m from the front to the next vehicle ahead, FAR if there is none
    lead_speed: Floats  # m/s
    stop: Floats  # m from the front to where it has to stop, FAR if nowhere
    preview: Callable[[Floats], tuple[Floats, Floats]]  # m ahead (M,) -> curvature, limit (B, M)


#: Returns curvature (1/m) and acceleration (m/s^2) that it would ask for, (B,) each.
Teacher = Callable[[Situation], tuple[Floats, Floats]]


class Recovery(NamedTuple):
    """The teacher's drives from B frames, at T_IDXS."""

    place: Floats  # (B, 33, 2) m ahead and right, as seen from the frame
    yaw: Floats  # (B, 33) rad, from the heading of the frame
    speed: Floats  # (B, 33) m/s
    known: NDArray[np.bool_]  # (B, 33) whether the route goes that far
    curvature: Floats  # (B,) 1/m, the teacher's first command
    acceleration: Floats  # (B,) m/s^2
    s: Floats  # (B, 33) m along the route
    offset: Floats  # (B, 33) m right of it


def recover(record: Record, ticks: NDArray[np.intp], teacher: Teacher) -> Recovery:
    """Drive ten seconds from each of ``ticks`` (B,) as the teacher would."""
    vehicle = Vehicle(*(np.full(len(ticks), float(x)) for x in record.vehicle))
    state = State(*(np.asarray(x, float)[ticks] for x in record.state))
    delay = vehicle.lateral_delay / DT
    depth = int(np.ceil(delay.max())) + 2
    back = np.maximum(ticks[None] - np.arange(1, depth + 1)[:, None], 0)
    pipeline = np.asarray(record.state.k_command, float)[back + (back < ticks)]  # newest first
    whole, part = np.floor(delay).astype(int), delay - np.floor(delay)
    rows = np.arange(len(ticks))
    path = record.path

    def bend(s: Floats) -> Floats:
        return np.interp(s, path.s, path.curvature)

    zero = np.zeros(len(ticks))
    history = [(state.s, state.d, zero, state.v, zero, zero)]
    first: Any = None
    for step in range(STEPS):
        curvature, acceleration = teacher(_situation(record, ticks, step, state, vehicle))
        first = first or (curvature, acceleration)
        shaped = dynamics.shape_commands(NUMPY, state, vehicle, curvature, acceleration)
        pipeline = np.concatenate([shaped[2][None], pipeline[:-1]])
        delayed = pipeline[whole, rows] * (1 - part) + pipeline[whole + 1, rows] * part
        kappa = bend(state.s)
        slope = bend(state.s + 1.0) - kappa
        after = dynamics.advance(NUMPY, state, vehicle, shaped, delayed, (kappa, slope))
        _, _, yaw, _, x, y = history[-1]
        way = DT * 0.5 * (state.v + after.v)
        middle = yaw + 0.5 * way * after.k
        moved = x + way * np.cos(middle), y + way * np.sin(middle)
        history.append((after.s, after.d, yaw + way * after.k, after.v, *moved))
        state = after
    drive = np.stack(history)  # (steps + 1, 6, B)
    fraction = T_IDXS / DT
    low = np.minimum(fraction.astype(int), STEPS - 1)
    share = (fraction - low)[:, None, None]
    values = drive[low] * (1 - share) + drive[low + 1] * share
    s, offset, yaw, speed, x, y = values.transpose(1, 2, 0)
    place = np.stack([x, y], axis=-1)
    known = s + FRONT < path.s[-1]
    return Recovery(place, yaw, speed, known, first[0], first[1], s, offset)


def situation_at(record: Record, ticks: NDArray[np.intp]) -> Situation:
    """Return what a teacher would get at ``ticks`` (B,)."""
    state = State(*(np.asarray(x, float)[ticks] for x in record.state))
    vehicle = Vehicle(*(np.full(len(ticks), float(x)) for x in record.vehicle))
    return _situation(record, ticks, 0, state, vehicle)


def _situation(
    record: Record,
    ticks: NDArray[np.intp],
    step: int,
    state: State,
    vehicle: Vehicle,
) -> Situation:
    """Return what the teacher gets ``step`` ticks after its start."""
    last = record.ticks - 1
    now = np.minimum(ticks + step, last)
    beyond = DT * (ticks + step - now)  # s after the record's end: others go on as they were
    front = state.s + FRONT
    gap, lead_speed = np.full(len(ticks), FAR), np.zeros(len(ticks))
    s, _, _ = record.on_path
    if s.shape[1]:
        speed = record.others.speed[now]
        away = s[now] + speed * beyond[:, None] - 0.5 * record.others.size[:, 0] - front[:, None]
        # What stands behind the front, or beside it, is not ahead.
        away = np.where(record.in_lane[now] & (away > -2.0), np.maximum(away, 0.1), FAR)
        nearest = away.argmin(axis=1)
        rows = np.arange(len(ticks))
        gap = away[rows, nearest]
        lead_speed = np.where(gap < FAR, speed[rows, nearest], 0.0)
    stop = np.where(np.isfinite(record.stop[now]), record.stop[now] - front, FAR)
    stop = np.where(stop > -1.0, stop, FAR)

    def preview(distances: Floats) -> tuple[Floats, Floats]:
        at, path = state.s[:, None] + distances, record.path
        return np.interp(at, path.s, path.curvature), np.interp(at, path.s, path.limit)

    return Situation(
        state.d, state.psi, state.v, state.k, vehicle, gap, lead_speed, stop, preview,
    )  # fmt: skip


def shaped_plan(
    record: Record, ticks: NDArray[np.intp], recovery: Recovery, rule: CommandRule
) -> NDArray[np.float32]:
    """Return the plans (B, 33, 15) in the plan's own shape that come nearest to the recovery.

    Args:
        record: The episode.
        ticks: The frames (B,).
        recovery: From :func:`recover`.
        rule: The contract's; it reads the teacher's first command from the plan.
    """
    shape = PlanShape(rule)
    v, a = (np.asarray(x)[ticks] for x in (record.state.v, record.state.a))
    late = action_times(rule, float(record.vehicle.lateral_delay), float(record.vehicle.drive_lag))
    numbers = (
        v, a, record.yaw_rate[ticks], recovery.curvature, recovery.acceleration,
        *(np.broadcast_to(t, v.shape) for t in late),
    )  # fmt: skip
    near = Near(*(torch.tensor(np.asarray(x), dtype=torch.float32) for x in numbers))
    bends, pedals = (np.zeros((len(ticks), FREE)) for _ in range(2))
    for _ in range(FITS):
        plans = _plans(shape, near, bends, pedals)
        across, along, yaw, speed = _misses(plans, recovery)
        v = np.hypot(plans[..., 3], plans[..., 4])
        bends += _fitted(shape, v, (across, TURN * yaw), TURN, recovery.known)
        pedals += _fitted(shape, np.ones_like(v), (along, PACE * speed), PACE, recovery.known)
    return _plans(shape, near, bends, pedals).astype(np.float32)


def _plans(shape: PlanShape, near: Near, bends: Floats, pedals: Floats) -> Floats:
    """Return plans (B, 33, 15)."""
    free = (torch.as_tensor(x[:, None], dtype=torch.float32) for x in (bends, pedals))
    with torch.no_grad():
        return np.asarray(shape(near, *free)[:, 0].double().numpy())


def _misses(plans: Floats, recovery: Recovery) -> tuple[Floats, Floats, Floats, Floats]:
    """Return by how much plans lack: metres across and along, yaw (rad), speed (m/s), (B, 33) each."""
    away = recovery.place - plans[..., :2]
    yaw = plans[..., PLAN_COLUMNS.index("yaw")]
    c, s = np.cos(yaw), np.sin(yaw)
    speed = recovery.speed - np.hypot(plans[..., 3], plans[..., 4])
    across, along = c * away[..., 1] - s * away[..., 0], c * away[..., 0] + s * away[..., 1]
    return across, along, recovery.yaw - yaw, speed


def _fitted(
    shape: PlanShape, gain: Floats, lacks: tuple[Floats, Floats], weight: float, known: Any
) -> Floats:
    """Return by how much the values at the later knots (B, FREE) have to change.

    Args:
        shape: The plan's shape.
        gain: What a change of the first integral moves, per second, (B, 33).
        lacks: What the second integral lacks, and the first one times ``weight``, (B, 33) each.
        weight: What a unit of the first integral counts.
        known: Where that is known, (B, 33).
    """
    first = shape.integrals.double().numpy()  # (FREE, 33)
    moved = (gain[:, None] * first) @ shape.sum.double().numpy()  # (B, FREE, 33)
    basis = np.concatenate([moved, np.broadcast_to(weight * first, moved.shape)], axis=2)
    basis = basis * np.tile(known, 2)[:, None]
    rest = np.concatenate(lacks, axis=1)
    gram = basis @ basis.transpose(0, 2, 1) + STIFF * np.eye(FREE)
    change: Floats = np.linalg.solve(gram, basis @ rest[..., None])[..., 0]
    return change
