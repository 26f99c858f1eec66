"""Lane lines and road edges as a frame's labels."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from steerlab.envs.labels.corridor import Corridor
from steerlab.openpilot.contracts import X_IDXS
from steerlab.types import Floats

BEHIND = 10.0  # m of the corridor behind the car that are looked at
STRAY = 2.0  # m sideways within 1 m ahead: a line that jumps so far has ended
SEEN = (4.0, 60.0)  # m ahead, over which paint and what hides it count
#: How sure a network can be of a line without paint, from the lane alone.
UNPAINTED = 0.0


class Lines(NamedTuple):
    """Labels of one frame; ``valid`` is true where a point exists."""

    lane_lines: Floats  # (4, 33, 2) y right, z down, m, in the calibrated frame
    lane_lines_valid: NDArray[np.bool_]  # (4, 33)
    lane_lines_prob: Floats  # (4,)
    road_edges: Floats  # (2, 33, 2)
    road_edges_valid: NDArray[np.bool_]  # (2, 33)


class Boxes(NamedTuple):
    """M vehicles that may hide what is behind them, world."""

    centre: Floats  # (M, 3) middle of the body, m
    heading: Floats  # (M,)
    size: Floats  # (M, 3) length, width, height, m


def lines(
    way: Corridor, s: float, origin: Floats, calibrated_from_world: Floats, boxes: Boxes
) -> Lines:
    """Return the labels of a frame.

    Args:
        way: The corridor of the car's lane.
        s: Where the car is along it, m.
        origin: Of the calibrated frame, the device, world (3,).
        calibrated_from_world: Rotation (3, 3).
        boxes: Other vehicles.
    """
    reach = X_IDXS[-1] + BEHIND + 15.0
    start, near, end = np.searchsorted(way.path.s, [s - BEHIND, s + BEHIND, s + reach])
    part = slice(start, end)
    world = np.concatenate([way.lines[:, part], way.edges[:, part]])
    local = (world - origin) @ calibrated_from_world.T
    values, valid = zip(*(_at_knots(line, near - start) for line in local), strict=True)
    shown = np.array(
        [_shown(local[i], world[i], way.painted[i, part], origin, boxes) for i in range(4)]
    )
    at, there = np.stack(values), np.stack(valid)
    return Lines(at[:4], there[:4], shown, at[4:], there[4:])


def _at_knots(line: Floats, near: int) -> tuple[Floats, NDArray[np.bool_]]:
    """Return y, z of a line (n, 3) at ``X_IDXS``, linear between its points, and where it exists.

    Only the first ``near`` points may lie behind the car. Later ones with a negative x belong to a road
    that comes back.
    """
    values, valid = np.zeros((len(X_IDXS), 2)), np.zeros(len(X_IDXS), bool)
    there = np.flatnonzero(~np.isnan(line[:, 0]))
    if len(there) < 2:
        return values, valid
    kept = line[there]
    x = kept[:, 0]
    turns = np.flatnonzero(np.diff(x) <= 0)
    behind = turns[(x[turns] < 0) & (there[turns] < near)]  # what turns behind the car is no matter
    kept = kept[behind[-1] + 1 if len(behind) else 0 :]
    there = there[behind[-1] + 1 if len(behind) else 0 :]
    forward = np.diff(kept[:, 0]) > 0
    until = len(kept) if forward.all() else int(np.argmin(forward)) + 1
    kept, there = kept[:until], there[:until]
    if len(kept) < 2:
        return values, valid
    gone = (np.diff(there) > 3) | (
        np.abs(np.diff(kept[:, 1])) > STRAY * np.maximum(np.diff(kept[:, 0]), 1.0)
    )
    i = np.clip(np.searchsorted(kept[:, 0], X_IDXS, side="right") - 1, 0, len(kept) - 2)
    inside = (kept[0, 0] <= X_IDXS) & (kept[-1, 0] >= X_IDXS) & ~gone[i]
    for column in (1, 2):
        values[:, column - 1] = np.interp(X_IDXS, kept[:, 0], kept[:, column])
    values[~inside] = 0.0
    return values, inside


def _shown(
    local: Floats, world: Floats, painted: NDArray[np.bool_], origin: Floats, boxes: Boxes
) -> float:
    """Return the share of a line ahead that is painted and that no vehicle hides."""
    ahead = (local[:, 0] > SEEN[0]) & (local[:, 0] < SEEN[1])
    if not ahead.any():
        return 0.0
    shown = np.zeros(len(local), bool)
    candidates = np.flatnonzero(ahead & painted)
    # A metre of line near the car fills far more of the picture than one far away.
    weight = np.where(ahead, 1.0 / np.maximum(local[:, 0], 1.0), 0.0)
    shown[candidates] = ~hidden(origin, world[candidates], boxes)
    level = (weight * np.where(shown, 1.0, UNPAINTED * painted)).sum()
    return float(level / weight.sum())


def hidden(eye: Floats, points: Floats, boxes: Boxes) -> NDArray[np.bool_]:
    """Return which ``points`` (n, 3) lie behind a vehicle as seen from ``eye`` (3,)."""
    if not len(points) or not len(boxes.heading):
        return np.zeros(len(points), bool)
    c, s = np.cos(boxes.heading), np.sin(boxes.heading)
    turn = np.stack([c, s, -s, c], axis=-1).reshape(-1, 2, 2)  # body from world

    def inside(place: Floats) -> Floats:
        away = place[None] - boxes.centre[:, None]
        flat = np.einsum("mij,mnj->mni", turn, away[..., :2])
        return np.concatenate([flat, away[..., 2:]], axis=-1)

    start, end = inside(eye[None]), inside(points)
    along = end - start
    along = np.where(np.abs(along) < 1e-9, 1e-9, along)
    half = 0.5 * boxes.size[:, None]
    low, high = ((sign * half - start) / along for sign in (-1.0, 1.0))
    enter = np.minimum(low, high).max(axis=-1)
    leave = np.maximum(low, high).min(axis=-1)
    return np.asarray(((enter < leave) & (leave > 0) & (enter < 0.999)).any(axis=0))
