"""What the rest of the record shows about a frame: the drive itself, leads, desires, meta."""

import numpy as np
from numpy.typing import NDArray

from steerlab.envs.kinematic_driver.dynamics import DT
from steerlab.envs.labels.lines import hidden
from steerlab.envs.labels.record import Record
from steerlab.openpilot.contracts import DESIRES, PLAN_COLUMNS, T_IDXS
from steerlab.types import Bools, Floats

LEAD_TIMES = np.arange(0.0, 12.0, 2.0)  # s, of a lead's values
LEAD_SELECTIONS = (0.0, 2.0, 4.0)  # s, who is the lead then
LEAD_REACH = 150.0  # m
DESIRE_TIMES = np.array([2.0, 4.0, 6.0, 8.0])  # s, of the predicted desires
META_TIMES = np.arange(2.0, 12.0, 2.0)  # s
HARD_BRAKING = (3.0, 4.0, 5.0)  # m/s^2
PEDAL = 0.25  # m/s^2, beyond which a foot is on a pedal
META = 55


def driven(record: Record, ticks: NDArray[np.intp]) -> tuple[NDArray[np.float32], Bools]:
    """Return the plans (B, 33, 15) that were driven, in the calibrated frame, and what is known."""
    at = ticks[:, None] + T_IDXS / DT
    known = at <= record.ticks - 1 + 1e-6
    x, y, z, yaw, v, a, k, pitch = (
        _along(values, at)
        for values in (
            *record.position.T, np.unwrap(record.rpy[:, 2]), record.state.v, record.state.a,
            record.state.k, record.rpy[:, 1],
        )
    )  # fmt: skip
    plans = np.zeros((len(ticks), len(T_IDXS), len(PLAN_COLUMNS)), np.float32)
    for row, tick in enumerate(ticks):
        turn = record.mount.calibrated_from_car @ record.pose(int(tick)).world_from_car.T
        flat = np.stack([np.cos(yaw[row]), np.sin(yaw[row]), -np.tan(pitch[row])], -1)
        flat /= np.linalg.norm(flat, axis=-1, keepdims=True)
        across = np.stack([-np.sin(yaw[row]), np.cos(yaw[row]), 0 * yaw[row]], -1)
        away = np.stack([x[row], y[row], z[row]], -1) - record.position[tick]
        speed, bend = v[row, :, None], (v[row] ** 2 * k[row])[:, None]
        relative = yaw[row] - record.rpy[tick, 2]
        columns = {
            "xyz": away @ turn.T,
            "v": (speed * flat) @ turn.T,
            "a": (a[row, :, None] * flat + bend * across) @ turn.T,
            "rpy": np.stack([0 * relative, pitch[row] - record.rpy[tick, 1], relative], -1),
            "rates": np.stack([0 * relative, 0 * relative, v[row] * k[row]], -1),
        }
        plans[row] = np.concatenate(list(columns.values()), axis=-1)
    plans[~known] = 0.0
    return plans, known


def _along(values: Floats, at: Floats) -> Floats:
    """Return ``values`` (T,) at fractional ticks, linear between; the last one after the end."""
    return np.interp(at, np.arange(len(values)), values)


def leads(record: Record, ticks: NDArray[np.intp]) -> dict[str, NDArray[np.generic]]:
    """Return the leads of frames.

    Returns:
        ``lead`` (B, 3, 6, 4): x of the rear bumper and y in the calibrated frame (m), speed (m/s) and
        acceleration (m/s^2) of who is the lead at 0, 2 and 4 s, over 0 to 10 s; ``lead_valid``
        (B, 3, 6); ``lead_prob`` (B, 3) and ``lead_prob_valid`` (B, 3).
    """
    count, last = len(ticks), record.ticks - 1
    lead = np.zeros((count, 3, len(LEAD_TIMES), 4), np.float32)
    valid = np.zeros((count, 3, len(LEAD_TIMES)), bool)
    prob, known = np.zeros((count, 3), np.float32), np.zeros((count, 3), bool)
    if record.others.heading.shape[1] == 0:
        known[:] = ticks[:, None] + np.array(LEAD_SELECTIONS) / DT <= last
        return {"lead": lead, "lead_valid": valid, "lead_prob": prob, "lead_prob_valid": known}
    chosen = _who(record)
    for row, tick in enumerate(ticks):
        origin, turn = record.frame(int(tick))
        for i, seconds in enumerate(LEAD_SELECTIONS):
            then = int(tick + round(seconds / DT))
            if then > last:
                continue
            known[row, i] = True
            who = int(chosen[then])
            if who < 0:
                continue
            at = int(tick) + np.rint(LEAD_TIMES / DT).astype(int)
            there = at <= last
            there &= record.others.present[np.minimum(at, last), who]
            if i == 0 and _behind_others(record, int(tick), who, origin):
                continue
            prob[row, i] = 1.0
            at = at[there]
            heading = record.others.heading[at, who]
            rear = record.others.position[at, who].copy()
            half = 0.5 * record.others.size[who, 0]
            rear[:, :2] -= half * np.stack([np.cos(heading), np.sin(heading)], axis=1)
            local = (rear - origin) @ turn.T
            lead[row, i, there, :2] = local[:, :2]
            lead[row, i, there, 2] = record.others.speed[at, who]
            lead[row, i, there, 3] = record.others.acceleration[at, who]
            valid[row, i] = there
    return {"lead": lead, "lead_valid": valid, "lead_prob": prob, "lead_prob_valid": known}


def _who(record: Record) -> NDArray[np.intp]:
    """Return which vehicle is next ahead in the car's lane at each tick, -1 for none, (T,)."""
    s, _, turned = record.on_path
    away = s - np.asarray(record.state.s)[:, None]
    inside = record.in_lane & (away > 1.0) & (away < LEAD_REACH) & (np.abs(turned) < 1.2)
    away = np.where(inside, away, np.inf)
    nearest = away.argmin(axis=1)
    there = np.isfinite(away[np.arange(len(away)), nearest])
    return np.where(there, nearest, -1)


def _behind_others(record: Record, tick: int, who: int, origin: Floats) -> bool:
    """Return whether other vehicles hide the whole back of vehicle ``who``."""
    others = record.others
    heading, size = others.heading[tick, who], others.size[who]
    along = np.array([np.cos(heading), np.sin(heading), 0.0])
    across = np.array([-along[1], along[0], 0.0])
    back = others.position[tick, who] - (0.5 * size[0] + 0.05) * along
    up = np.array([0.0, 0.0, -1.0])
    points = np.array([
        back + w * size[1] * across + h * size[2] * up
        for w in (-0.4, 0.0, 0.4) for h in (0.3, 0.9)
    ])  # fmt: skip
    boxes = record.boxes(tick)
    own = np.flatnonzero(others.present[tick]) == who
    boxes = type(boxes)(*(part[~own] for part in boxes))
    return bool(hidden(origin, points, boxes).all())


def desires(record: Record, ticks: NDArray[np.intp]) -> dict[str, NDArray[np.generic]]:
    """Return ``desire_state`` (B, 8), ``desire_pred`` (B, 4, 8) at 2, 4, 6, 8 s, and its validity."""
    one = np.eye(len(DESIRES), dtype=np.float32)
    at = ticks[:, None] + np.rint(DESIRE_TIMES / DT).astype(int)
    known = at < record.ticks
    pred = one[record.desire[np.minimum(at, record.ticks - 1)]] * known[..., None]
    return {
        "desire_state": one[record.desire[ticks]],
        "desire_pred": pred.astype(np.float32),
        "desire_pred_valid": known,
    }


def meta(record: Record, ticks: NDArray[np.intp]) -> dict[str, NDArray[np.generic]]:
    """Return ``meta`` (B, 55) as far as it can be known, and ``meta_valid``.

    Known are: engaged; hard braking (3, 4, 5 m/s^2) within 2, 4, 6, 8, 10 s; gas, brake and the two
    blinkers at 0, 2, .. 10 s. Whether somebody would have taken over is not.
    """
    values = np.zeros((len(ticks), META), np.float32)
    valid = np.zeros((len(ticks), META), bool)
    values[:, 0], valid[:, 0] = 1.0, True
    a = np.asarray(record.state.a)
    lowest = {}
    for i, seconds in enumerate(META_TIMES):
        steps = round(seconds / DT)
        padded = np.append(a, np.full(steps, np.inf))
        lowest = np.lib.stride_tricks.sliding_window_view(padded, steps + 1).min(axis=1)
        for j, level in enumerate(HARD_BRAKING):
            column = 1 + 6 * i + 3 + j
            values[:, column] = lowest[ticks] < -level
            valid[:, column] = ticks + steps < record.ticks
    pedal = record.commands[:, 1]
    left = np.isin(record.desire, [DESIRES.index(n) for n in ("turnLeft", "laneChangeLeft")])
    right = np.isin(record.desire, [DESIRES.index(n) for n in ("turnRight", "laneChangeRight")])
    signs = np.stack([pedal > PEDAL, pedal < -PEDAL, left, right], axis=1)
    for i, seconds in enumerate(np.append(0.0, META_TIMES)):
        at = ticks + round(seconds / DT)
        part = slice(31 + 4 * i, 35 + 4 * i)
        values[:, part] = signs[np.minimum(at, record.ticks - 1)]
        valid[:, part] = (at < record.ticks)[:, None]
    return {"meta": values * valid, "meta_valid": valid}
