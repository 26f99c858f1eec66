"""What the agent sees: sensors and the lines ahead, in the car's frame, after vision effects."""

from typing import Any

import numpy as np

from steerlab.envs.kinematic_driver import roads
from steerlab.envs.layout import Layout

#: Distances ahead, along the path, at which the lines are seen (m): openpilot's X_IDXS.
X_IDXS = roads.HORIZON * (np.arange(33) / 32) ** 2
POINTS = len(X_IDXS)
LINES = ("path", "left", "right")

#: The observation in SI units. Offsets and headings of a line are relative to the car: positive to
#: the right. ``lat_delay`` is an estimate of delay and smoothing, as openpilot gives it to its
#: model; ``desire`` and ``traffic_convention`` are one-hot (right-hand traffic is index 0).
LAYOUT = Layout(
    speed=1,  # m/s
    acceleration=1,  # m/s^2
    curvature=1,  # 1/m
    previous_action=2,
    lat_delay=1,  # s
    cruise_speed=1,  # m/s, the set speed
    desire=8,
    traffic_convention=2,
    path_offset=POINTS,  # m
    path_heading=POINTS,  # rad
    left_offset=POINTS,
    left_heading=POINTS,
    right_offset=POINTS,
    right_heading=POINTS,
)

#: Errors of a seen line: offset (m), heading (rad) and curvature (1/m), standard deviations. They
#: make 0.02 m where the car is and 0.5 m at 100 m.
LINE_ERRORS = (0.02, 0.0025, 8.6e-5)


def error_basis() -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return the matrix (9, 6 * 33) that turns unit errors into errors of the seen lines."""
    offset = np.stack([np.ones(POINTS), X_IDXS, X_IDXS**2 / 2])
    heading = np.stack([np.zeros(POINTS), np.ones(POINTS), X_IDXS])
    one_line = np.array(LINE_ERRORS)[:, None] * np.hstack([offset, heading])
    return np.kron(np.eye(len(LINES)), one_line).astype(np.float32)


def seen_lines(
    xp: Any,
    pose: tuple[Any, Any, Any],
    along: Any,
    knots: Any,
    out: Any,
) -> None:
    """Add offset and heading of path, left and right boundary to ``out`` (N, 6 * 33), in place.

    Args:
        xp: Backend.
        pose: Position x, y (m) and heading (rad) from which the lines are seen, each (N,).
        along: Distance of each point from the knot before it, m, (N, 33).
        knots: Those knots, the columns of ``Roads.view``, (8, N, 33).
        out: Where the lines are added.
    """
    x, y, heading = (part[:, None] for part in pose)
    knot_x, knot_y, angle, bend, left, left_slope, right, right_slope = knots
    offset = (knot_y - y) * xp.cos(heading)
    offset -= (knot_x - x) * xp.sin(heading)
    bend = bend * along
    angle = angle - heading
    offset += along * xp.sin(angle + 0.5 * bend)
    angle += bend
    cosine = xp.cos(angle)
    n = POINTS
    out[:, :n] += offset
    out[:, n : 2 * n] += angle
    out[:, 2 * n : 3 * n] += offset - (left + along * left_slope) * cosine
    out[:, 3 * n : 4 * n] += angle - left_slope
    out[:, 4 * n : 5 * n] += offset + (right + along * right_slope) * cosine
    out[:, 5 * n :] += angle + right_slope
