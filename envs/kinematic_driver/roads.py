"""Procedural roads: smooth paths with two boundaries and a speed plan, as functions of arc length.

A road is a table of knots at equal distances along the planned path, lane changes included. Between
knots the curvature is linear (a clothoid), so heading, position and boundaries follow from it.
All n roads are made at once from uniform numbers.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from steerlab.envs.kinematic_driver.dynamics import DT, GRAVITY, MAX_LATERAL_ACCELERATION
from steerlab.envs.kinematic_driver.randomization import (
    CHANGE_LEFT,
    CHANGE_RIGHT,
    CHICANE,
    INTERSECTION,
    KEEP_LEFT,
    KEEP_RIGHT,
    LANELESS,
    NONE,
    TURN_LEFT,
    TURN_RIGHT,
    Values,
)
from steerlab.types import Array

BENDS = 8
#: Uniform numbers that :func:`generate` takes for a road.
UNIFORMS = 4 * BENDS + 2
START = 2.0  # m, where episodes begin, so that the rear of the car is on the road too
HORIZON = 192.0  # m that can be seen ahead

# The speed plan stays below these, so that a car that follows it has grip and jerk to spare.
PLAN_FRICTION = 0.6  # share of the friction
PLAN_LATERAL = 0.85 * MAX_LATERAL_ACCELERATION  # m/s^2
PLAN_LATERAL_JERK = 1.5  # m/s^3
PLAN_ACCELERATION = 1.0  # m/s^2, speeding up and slowing down

#: m^2: the lane widens by this over the radius, to make room for the front that swings out.
WIDENING = 7.0
#: rad: headings stay within this of a straight line, so that a road cannot cross itself.
TURN_LIMIT = 1.3
CORRIDOR_RAMP = 15.0  # m over which the corridor opens and closes at a lane change


@dataclass(frozen=True)
class Roads:
    """n roads of K knots.

    Attributes:
        spacing: Distance between knots, m, shape (n,).
        view: x (m), y (m), heading (rad) of the path and its mean curvature (1/m) up to the next
            knot; distance to the left boundary (m), its slope, the same to the right; (n, K, 8).
        plan: Curvature (1/m), its slope (1/m^2), planned speed (m/s), its slope (1/s); (n, K, 4).
        end: Arc length at which an episode ends because the road does, m, shape (n,).
        scalars: Name -> (n,): ``desire_from`` and ``desire_to`` (m) bound where the desire holds,
            ``oncoming`` is the offset (m) beyond which a car drives in oncoming traffic, on the
            side of ``left_hand_traffic``.
    """

    spacing: Array
    view: Array
    plan: Array
    end: Array
    scalars: Values

    def take(self, rows: NDArray[np.intp]) -> "Roads":
        """Return the roads at ``rows``."""
        return Roads(**{name: _pick(part, rows) for name, part in vars(self).items()})

    def put(self, rows: NDArray[np.intp], roads: "Roads") -> None:
        """Replace the roads at ``rows``."""
        for name, part in vars(self).items():
            new = getattr(roads, name)
            if isinstance(part, dict):
                for key, values in part.items():
                    values[rows] = new[key]
            else:
                part[rows] = new


def _pick(part: Any, rows: NDArray[np.intp]) -> Any:
    if isinstance(part, dict):
        return {key: values[rows] for key, values in part.items()}
    return part[rows]


class Place(NamedTuple):
    """The road where cars are, each an array (N,)."""

    kappa: Any  # 1/m
    kappa_slope: Any  # 1/m^2
    planned_speed: Any  # m/s
    left: Any  # m from the path to the left boundary
    right: Any  # m


def locate(xp: Any, s: Any, spacing: Any, count: int) -> tuple[Any, Any]:
    """Return the number of the knot before arc length ``s`` (m), of ``count``, and how far it is."""
    at = xp.clip(s / spacing, 0.0, count - 1.001)
    whole = xp.floor(at)
    return whole, (at - whole) * spacing


def place(plan: Any, lines: Any, along: Any) -> Place:
    """Return the road ``along`` m after a knot.

    Args:
        plan: The four numbers of ``Roads.plan`` at the knot.
        lines: The last four of ``Roads.view``.
        along: Distance from the knot, m.
    """
    return Place(
        kappa=plan[0] + along * plan[1],
        kappa_slope=plan[1],
        planned_speed=plan[2] + along * plan[3],
        left=lines[0] + along * lines[1],
        right=lines[2] + along * lines[3],
    )


def knots(max_steps: int) -> int:
    """Return how many knots the roads of episodes of ``max_steps`` steps have."""
    return 64 + (2 * max_steps) // 5


def generate(values: Values, uniforms: Array, max_steps: int) -> Roads:
    """Return one road for each episode.

    Args:
        values: Drawn values of n episodes, from :func:`randomization.draw`.
        uniforms: Numbers in [0, 1), shape (n, UNIFORMS).
        max_steps: Length of an episode in steps; roads are as long as a car can get in it.
    """
    n, count = len(uniforms), knots(max_steps)
    speed = values["cruise_speed"].astype(np.float64)
    length = START + HORIZON + 1.1 * speed * max_steps * DT + 10.0
    spacing = length / (count - 1)
    kappa, bend_from, bend_to = _bends(values, uniforms, speed, spacing, count)
    s = spacing[:, None] * np.arange(count)

    desire = values["desire"]
    lane = values["lane_width"].astype(np.float64)
    changing = np.flatnonzero(np.isin(desire, (CHANGE_LEFT, CHANGE_RIGHT)))
    change_from = START + (2 + 6 * uniforms[:, -2]) * speed
    change_length = (5 + 3 * uniforms[:, -1]) * speed
    side = np.where(desire == CHANGE_LEFT, -1.0, 1.0)
    if changing.size:
        u = (s[changing] - change_from[changing, None]) / change_length[changing, None]
        u = np.clip(u, 0, 1)
        bump = 60 * u * (1 - u) * (1 - 2 * u)
        kappa[changing] += bump * (side * lane / change_length**2)[changing, None]

    # From here in float32, which is several times faster; only running sums keep float64.
    kappa, s = kappa.astype(np.float32), s.astype(np.float32)
    ds = spacing.astype(np.float32)[:, None]
    x, y, heading, mean, slope = _course(kappa, ds)
    left, right = _boundaries(values, kappa, s, changing, side, change_from, change_length)
    planned = plan_speed(values, kappa, slope, s, speed[:, None])

    view = np.empty((n, count, 8), np.float32)
    for column, part in enumerate((x, y, heading, mean)):
        view[:, :, column] = part
    with_slopes(view[:, :, 4:], (left, right), ds)
    plan = np.empty((n, count, 4), np.float32)
    with_slopes(plan, (kappa, planned), ds)
    end = length - HORIZON - 10.0

    is_change = np.isin(desire, (CHANGE_LEFT, CHANGE_RIGHT))
    begin = np.where(is_change, change_from, bend_from) - 2.0 * speed
    until = np.where(is_change, change_from + change_length, bend_to)
    nothing = desire == NONE
    scalars = {
        "desire_from": np.where(nothing, np.inf, begin).astype(np.float32),
        "desire_to": np.where(nothing, -np.inf, until).astype(np.float32),
        "oncoming": np.where(values["kind"] == LANELESS, 0.5 * lane, np.inf).astype(np.float32),
    }
    return Roads(spacing.astype(np.float32), view, plan, end.astype(np.float32), scalars)


def _course(kappa: Array, ds: Array) -> tuple[Array, Array, Array, Array, Array]:
    """Return x, y, heading, and mean and slope of the curvature up to the next knot, (n, K) each."""
    mean = kappa.copy()
    mean[:, :-1] += kappa[:, 1:]
    mean[:, :-1] *= 0.5
    slope = np.zeros_like(kappa)
    np.subtract(kappa[:, 1:], kappa[:, :-1], out=slope[:, :-1])
    slope /= ds
    heading = _integrate(mean * ds)
    middle = heading + 0.5 * ds * (kappa + 0.25 * ds * slope)
    # Simpson's rule for the position: exact to 1e-3 m over the whole of the tightest bend.
    x = _integrate(_simpson(np.cos, heading, middle, ds))
    y = _integrate(_simpson(np.sin, heading, middle, ds))
    return x, y, heading, mean, slope


def _bends(
    values: Values, uniforms: Array, speed: Array, spacing: Array, count: int
) -> tuple[Array, Array, Array]:
    """Return the curvature at the knots (n, K), and where the first bend begins and ends (m).

    A bend is a trapezoid of curvature: a ramp, an arc and a ramp. Its corners lie on knots, so the
    curvature is the second sum of a few impulses.
    """
    n = len(uniforms)
    rows = np.arange(n)
    impulses = np.zeros((n, count))
    kind, desire = values["kind"], values["desire"]
    u = uniforms[:, : 4 * BENDS].reshape(n, BENDS, 4)
    at = np.full(n, START) + 8.0
    turned, sign = np.zeros(n), np.where(u[:, 0, 3] < 0.5, -1.0, 1.0)
    low, high = np.full(n, -TURN_LIMIT), np.full(n, TURN_LIMIT)
    first_from = first_to = np.zeros(n)
    for j in range(BENDS):
        angle, sharpness, gap, flip = u[:, j].T
        chicane = kind == CHICANE
        # Lateral acceleration at the set speed; above about 2 m/s^2 a car has to slow down.
        lateral = np.where(chicane, 1.5 + 2.5 * sharpness, 0.4 + 4.1 * sharpness**2)
        kappa = np.minimum(lateral / speed**2, 1 / 12.0)
        theta = np.where(chicane, 0.25 + 0.35 * angle, 0.1 + 0.9 * angle)
        sign = np.where(chicane | (flip < 0.7), -sign, sign)
        straight = speed * np.where(chicane, 0.5 * gap, 0.4 + 2.6 * gap)
        theta = sign * theta
        if j == 0:
            turn, keep, at_junction = _first_bend(desire, kind)
            straight = np.where(at_junction, 3.0 * speed + 30.0 * gap, straight)
            keep_angle = keep * (0.17 + 0.26 * angle)
            theta = np.where(at_junction, turn * (1.2 + 0.7 * angle) + keep_angle, theta)
            kappa = np.where(turn != 0, 1 / values["turn_radius"], kappa)
        theta = np.clip(turned + theta, low, high) - turned if j else theta
        kappa = np.minimum(kappa, np.where(kind == LANELESS, 1 / 15.0, 1.0))
        ramp = np.maximum(kappa * np.minimum(speed, np.sqrt(2.0 / kappa)) ** 3 / 1.2, 5.0)
        size = np.abs(theta)
        short = size < kappa * ramp
        kappa = np.where(short, np.sqrt(size * kappa / ramp), kappa)
        ramp = np.where(short, size / np.maximum(kappa, 1e-9), ramp)

        begin = np.ceil((at + straight) / spacing).astype(int)
        kappa, ramp_knots, arc_knots = _rounded(kappa, ramp, size, spacing)
        step = np.sign(theta) * kappa / ramp_knots
        corner = begin
        for width, weight in ((ramp_knots, 1), (arc_knots, -1), (ramp_knots, -1), (0, 1)):
            inside = corner < count
            np.add.at(impulses, (rows[inside], corner[inside]), weight * step[inside])
            corner = corner + width
        turned = turned + np.sign(theta) * kappa * (ramp_knots + arc_knots) * spacing
        at = corner * spacing
        if j == 0:
            first_from, first_to = begin * spacing, at
            low = np.where(turn != 0, np.minimum(turned, 0) - 0.3, low)
            high = np.where(turn != 0, np.maximum(turned, 0) + 0.3, high)
    # An impulse at a knot changes the slope from there on.
    kappa = np.zeros((n, count))
    kappa[:, 1:] = np.cumsum(np.cumsum(impulses[:, :-1], axis=1), axis=1)
    return kappa, first_from, first_to


def _rounded(
    kappa: Array, ramp: Array, angle: Array, spacing: Array
) -> tuple[Array, NDArray[np.intp], NDArray[np.intp]]:
    """Return the curvature of a bend whose ramps and arc end on knots, and their lengths in knots.

    The curvature makes up for the rounding, so that the angle is kept, unless that would make the
    bend tighter.
    """
    ramp_knots = np.maximum(np.ceil(ramp / spacing), 2).astype(int)
    arc = np.maximum(angle / np.maximum(kappa, 1e-9) - ramp_knots * spacing, 0.0)
    arc_knots = np.round(arc / spacing).astype(int)
    return np.minimum(kappa, angle / ((ramp_knots + arc_knots) * spacing)), ramp_knots, arc_knots


def _first_bend(desire: Array, kind: Array) -> tuple[Array, Array, Array]:
    """Return the sign of a turn, the sign of a fork's branch, and whether the desire shapes it."""
    turn = (desire == TURN_RIGHT) * 1.0 - (desire == TURN_LEFT)
    keep = (desire == KEEP_RIGHT) * 1.0 - (desire == KEEP_LEFT)
    return turn, keep, (kind == INTERSECTION) | (keep != 0)


def _boundaries(
    values: Values,
    kappa: Array,
    s: Array,
    changing: Array,
    side: Array,
    change_from: Array,
    change_length: Array,
) -> tuple[Array, Array]:
    """Return the distances from the path to the left and to the right boundary (n, K)."""
    lane = values["lane_width"]
    base = 0.5 * lane + values["shoulder"]
    left = base[:, None] + WIDENING * np.abs(kappa)
    right = left.copy()
    # Without lanes the other half of the road belongs to the corridor; it is the oncoming side.
    wide = np.where(values["kind"] == LANELESS, lane, np.float32(0))
    keeps_left = values["left_hand_traffic"].astype(bool)
    left += (wide * ~keeps_left)[:, None]
    right += (wide * keeps_left)[:, None]
    if changing.size:
        # The corridor opens to the target lane, and closes behind the one that was left.
        begin, long = change_from[changing, None], change_length[changing, None]
        width, where = lane[changing, None], s[changing]
        moved = _quintic((where - begin) / long)
        opened = np.clip((where - begin) / CORRIDOR_RAMP + 1, 0, 1)
        closed = np.clip((where - begin - long) / CORRIDOR_RAMP, 0, 1)
        ahead, behind = width * (opened - moved), width * (moved - closed)
        to_left = side[changing, None] < 0
        left[changing] += np.where(to_left, ahead, behind)
        right[changing] += np.where(to_left, behind, ahead)
    return left, right


def plan_speed(values: Values, kappa: Array, slope: Array, s: Array, speed: Array) -> Array:
    """Return the planned speed at the knots (n, K).

    It is the largest speed up to ``speed`` (n, 1) or (n, K) that keeps the lateral acceleration within
    openpilot's limit and the grip within :data:`PLAN_FRICTION`, bounds the lateral jerk, and can
    be reached and left with :data:`PLAN_ACCELERATION`.
    """
    bank = GRAVITY * values["superelevation"][:, None]
    grip = PLAN_FRICTION * GRAVITY * values["friction"][:, None]
    top = speed.astype(np.float32) ** 2
    size = np.abs(kappa)
    # The bank shifts what the tyres and openpilot leave over, either way.
    lateral = np.minimum(np.minimum(grip, PLAN_LATERAL) + np.sign(kappa) * bank, PLAN_LATERAL)
    square = np.minimum(lateral / np.maximum(size, 1e-6), top)
    # A jerk of slope * v^3; as a power of two thirds through the logarithm, which is faster.
    steep = np.maximum(np.abs(slope), 1e-9) / PLAN_LATERAL_JERK
    square = np.minimum(square, np.exp(np.log(steep) * (-2 / 3)))
    # v^2 may change by 2 a ds: a running minimum each way.
    gain = 2 * PLAN_ACCELERATION * s
    square = np.minimum.accumulate((square + gain)[:, ::-1], axis=1)[:, ::-1] - gain
    square = np.minimum.accumulate(square - gain, axis=1) + gain
    return np.sqrt(np.minimum(square, top))


def _quintic(u: Array) -> Array:
    """Return the smooth step with zero slope and curvature at both ends."""
    u = np.clip(u, 0, 1)
    return u**3 * (10 + u * (6 * u - 15))


def with_slopes(table: Array, pair: tuple[Array, Array], spacing: Any) -> None:
    """Fill ``table`` (n, K, 4) with two functions, each followed by its slope to the next knot."""
    for column, values in zip((0, 2), pair, strict=True):
        table[:, :, column] = values
        table[:, :-1, column + 1] = (values[:, 1:] - values[:, :-1]) / spacing
        table[:, -1, column + 1] = 0


def _integrate(increments: Array) -> NDArray[np.float32]:
    """Return the running sum of the increments before each knot."""
    total = np.zeros(increments.shape, np.float32)
    total[:, 1:] = np.cumsum(increments[:, :-1], axis=1, dtype=np.float64)
    return total


def _simpson(function: Any, heading: Array, middle: Array, spacing: Array) -> Array:
    """Return the integral of ``function(heading)`` from each knot to the next, the last one 0."""
    values, between = function(heading), function(middle)
    increments = np.zeros_like(values)
    increments[:, :-1] = (spacing / 6) * (values[:, :-1] + 4 * between[:, :-1] + values[:, 1:])
    return increments


def recoverable_heading(values: Values, roads: Roads) -> Array:
    """Return the start headings (n,), drawn in where the drawn one leaves no time to react.

    At speed v a heading h leads away from the path by v h T during the dead time T of delay, lag
    and smoothing, and by (v h)^2 / 2a until it is undone. Where that would cross a boundary, no
    driver could stay inside, and h is reduced to what fits.
    """
    offset = values["start_offset"].astype(np.float64)
    heading = values["start_heading"].astype(np.float64)
    speed = roads.plan[:, 1, 2] * values["start_speed"]
    dead = values["lateral_delay"] + values["actuator_lag"] + values["smoothing"] + 0.4
    swing = 3.7
    outward = np.sign(heading)
    width = np.where(outward > 0, roads.view[:, 0, 6], roads.view[:, 0, 4])
    oncoming = np.where(values["left_hand_traffic"] == 1, 1.0, -1.0) == outward
    centre_room = np.where(oncoming, roads.scalars["oncoming"], np.inf) - outward * offset
    room = np.minimum(width - 0.92 - outward * offset, centre_room) - 0.1
    room = np.maximum(room, 0.0)
    # Room for v h T + swing h + (v h)^2 / 2a, solved for h.
    brake = 0.2 * np.minimum(MAX_LATERAL_ACCELERATION, GRAVITY * values["friction"])
    a = np.maximum(speed, 1.0) ** 2 / (2 * brake)
    b = speed * dead + swing
    limit = (np.sqrt(b * b + 4 * a * room) - b) / (2 * a)
    return (outward * np.minimum(np.abs(heading), limit)).astype(np.float32)
