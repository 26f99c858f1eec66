"""What the agent sees: sensors and the lines ahead, in the car's frame, after vision effects."""

from typing import Any

import numpy as np

from steerlab.envs.kinematic_driver import roads
from steerlab.envs.layout import Layout

#: Distances ahead, along the path, at which the lines are seen (m): openpilot's X_IDXS.
X_IDXS = roads.HORIZON * (np.arange(33) / 32) ** 2
POINTS = len(X_IDXS)
HALF = np.float32(0.5)  # numba would make all that meets a Python number double precision
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


def blindness(xp: Any, blind: Any, share: Any, begins: Any, length: Any) -> Any:
    """Return how many frames are still to be lost, this one included.

    Bursts have 1 to 5 frames, 3 in the mean, and start so often that the share of lost frames is
    ``share``.

    Args:
        xp: Backend.
        blind: The same number at the frame before.
        share: Share of frames lost.
        begins: Uniform number that decides whether a burst begins.
        length: Uniform number that its length comes from.
    """
    begun = (begins < share / (3 - 2 * share)) & (blind <= 0)
    return xp.where(begun, 1 + xp.floor(5 * length), blind - 1)


def blur(xp: Any, geometry_noise: Any, brightness: Any) -> Any:
    """Return the scale of the errors of seen lines; too dark and too bright both blur."""
    return geometry_noise * xp.maximum(brightness, 1 / brightness)


def camera(xp: Any, knot: tuple[Any, ...], along: Any, d: Any, psi: Any) -> tuple[Any, Any, Any]:
    """Return position x, y (m) and heading (rad) of a car on a road.

    Args:
        xp: Backend.
        knot: The knot behind the car: x, y, heading and mean curvature up to the next one.
        along: Distance from that knot, m.
        d: Offset from the path, m.
        psi: Heading relative to the path, rad.
    """
    knot_x, knot_y, heading, mean = knot
    bend = along * mean
    chord = heading + 0.5 * bend
    heading = heading + bend
    return (
        knot_x + along * xp.cos(chord) - d * xp.sin(heading),
        knot_y + along * xp.sin(chord) + d * xp.cos(heading),
        heading + psi,
    )


def seen_lines(
    xp: Any, pose: tuple[Any, Any, Any], along: Any, knots: Any
) -> tuple[Any, Any, Any, Any, Any, Any]:
    """Return offset and heading of the path and of the left and the right boundary, in that order.

    Args:
        xp: Backend.
        pose: Position x, y (m) and heading (rad) from which the lines are seen.
        along: Distance of each point from the knot before it, m.
        knots: Those knots, the columns of ``Roads.view``.
    """
    x, y, heading = pose
    knot_x, knot_y, angle, bend, left, left_slope, right, right_slope = knots
    # In place, which saves arrays; no argument is written to.
    offset = (knot_y - y) * xp.cos(heading)
    offset -= (knot_x - x) * xp.sin(heading)
    bend = bend * along
    angle = angle - heading
    offset += along * xp.sin(angle + bend * HALF)
    angle += bend
    cosine = xp.cos(angle)
    return (
        offset,
        angle,
        offset - (left + along * left_slope) * cosine,
        angle - left_slope,
        offset + (right + along * right_slope) * cosine,
        angle + right_slope,
    )
