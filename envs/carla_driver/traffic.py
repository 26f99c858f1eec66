"""The other vehicles, the signals and the rules: loops over rows, written once for one row.

The functions work on single numbers and arrays of all rows. numba compiles them where it is there;
without it the same functions run as they are, so that both give the same results.

A vehicle keeps to the middle of its lane, follows the one ahead by the Intelligent Driver Model
(Treiber, Hennecke and Helbing 2000), slows down for bends, obeys signals, and enters a junction only
when no one is in its way: it then claims the lane through it, and whoever's lane crosses that one
waits. Signs decide who goes first, then the turn (straight on before right before left), and at
stop signs by who has waited longest. Vehicle 0 of each row is the ego vehicle.
"""

import math
from functools import cache, lru_cache
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from steerlab.compiled import compiled, has_numba
from steerlab.envs.carla_driver.routes import Network, Routes
from steerlab.envs.kinematic_driver.dynamics import DT, FRONT, HALF_WIDTH, REAR
from steerlab.envs.maps.road_map import SIGNAL_KINDS, TURNS, RoadMap
from steerlab.types import AnyArray

#: Kinds of vehicles with length and width (m), and how often they come.
KINDS = ("car", "van", "truck", "bus", "motorcycle")
SIZES = np.array([[4.6, 1.85], [5.6, 2.0], [7.5, 2.4], [10.0, 2.5], [2.2, 0.8]])
SHARES = np.cumsum([0.7, 0.12, 0.08, 0.05, 0.05])
EGO_LENGTH, EGO_WIDTH = FRONT + REAR, 2 * HALF_WIDTH
CENTRE = 0.5 * (FRONT - REAR)  # m from the rear axle to the middle of the ego vehicle

#: What a signal shows, by number.
LIGHTS = ("none", "green", "yellow", "red", "stop")
GREEN, YELLOW, RED, STOP = range(1, 5)
GIVEN = 10  # added to what a signal shows that does not go by our clock: its kind then
GREEN_TIME, YELLOW_TIME, RED_TIME = 12.0, 3.0, 2.0  # s of a phase; all are red at its end
PHASE = GREEN_TIME + YELLOW_TIME + RED_TIME

#: What ended the episode, beside KinematicDriver's violations.
COLLISION, RED_LIGHT, STOP_SIGN = 5, 6, 7

GENTLE, FIRM, HARD = 2.0, 2.5, 7.0  # m/s^2 of braking
SPEED_UP = 1.6  # m/s^2
TIME_GAP, SPACE = 1.3, 2.0  # s and m to the vehicle ahead
PATIENCE = 4.0  # s; whoever with priority arrives sooner is let through
BEND = 2.0  # m/s^2 sideways, in bends
NEAR, FAR = 60.0, 220.0  # m from the ego vehicle, between which vehicles come in
LOST = 260.0  # m beyond which a vehicle leaves
CELL = 40.0  # m, of the grid in which places are looked up
NOTHING = 200.0  # m, the distance of what is not there

inlined: Any
if has_numba():
    from numba.extending import register_jitable as inlined
else:

    def inlined(function: Any) -> Any:
        """Return the function as it is."""
        return function


class Roads(NamedTuple):
    """A map as the loops need it: tables over lanes, points and signals. Columns are named below."""

    links: AnyArray  # (L, 10) whole numbers of each lane: FIRST to SIGNAL
    sizes: AnyArray  # (L, 2) LENGTH and STOP_S
    points: AnyArray  # (P, 5) X, Y, Z, HEADING and CRUISE
    following: AnyArray  # (E,) lanes that lead on
    cross: AnyArray  # (F,) lanes that cross a lane of a junction
    until: AnyArray  # (F,) m along the crossing lane, until which it is in the way
    signals: AnyArray  # (G, 3) kind, phase, phases
    spawn_lane: AnyArray  # (M,) places where vehicles can come in
    spawn_s: AnyArray  # (M,) m
    cell_start: AnyArray  # grid over them
    cell_spawn: AnyArray
    grid: AnyArray  # (4,) x and y of its corner, number of columns and rows


#: Columns of ``Roads.links``: first and last point; junction or -1; first of the following lanes and
#: their number; lane before a lane of a junction, or -1; its priority; first of the crossing lanes
#: and their number; signal that stops cars on the lane, or -1.
FIRST, LAST, JUNCTION, NEXT, NEXTS, ENTRY, RANK, CROSS, CROSSES, SIGNAL = range(10)
LENGTH, STOP_S = range(2)  # m, and where on the lane the signal stops cars
X, Y, Z, HEADING, CRUISE = range(5)  # CRUISE: m/s of unhindered traffic

#: Columns of the vehicles (N, V, 20), after the first four of the points: lane or -1, m along it, m/s,
#: m/s^2, the next lanes or -1, length and width (m), number of its kind, own speed over that of the
#: road, whether it has claimed the junction ahead, has halted at the stop sign ahead, and for how
#: many steps it has waited there.
(LANE, S, V, A, AHEAD0, AHEAD1, AHEAD2, SIZE, WIDTH, KIND, EAGER, CLAIM, HALTED, WAIT) = range(
    4, 18
)
CAR = 18
AHEAD = 3  # lanes that a vehicle knows it will take

#: Columns of the rows (N, 16): route, state of the generator, s that the lights have run, number of the
#: next stop on the route, lane that the ego vehicle changes to (or -1) and m along it, what it has
#: done wrong, gap (m), speed, acceleration and number (or -1) of the vehicle ahead on the path, m to where
#: it has to stop now, m to the next stop line, what the signal there shows, whether it stands for a
#: good reason.
(ROUTE, RANDOM, CLOCK, NEXT_STOP, OTHER, OTHER_S, EVENT, LEAD_GAP, LEAD_V, LEAD_A, LEAD, STOP_GAP,
 SIGNAL_GAP, LIGHT, HELD) = range(15)  # fmt: skip
ROW = 15


class Ways(NamedTuple):
    """The routes as the loops need them, see :class:`~routes.Routes`."""

    spacing: float
    pose: AnyArray
    piece_lane: AnyArray
    piece_other: AnyArray
    piece_at: AnyArray
    stop_at: AnyArray
    stop_signal: AnyArray


# The functions get the arrays that they need one by one, since taking one out of a tuple counts
# references, which costs more than all the rest. ``cars`` (V, CAR) and ``row`` (ROW,) are of one row.


@inlined
def uniform(row: AnyArray) -> float:
    """Return a number in (0, 1) of the row's generator (Park and Miller 1988)."""
    row[RANDOM] = (row[RANDOM] * 48271.0) % 2147483647.0
    return row[RANDOM] / 2147483647.0


@inlined
def at_place(links: AnyArray, sizes: AnyArray, lane: int, s: float) -> Any:
    """Return the point before ``s`` on a lane, and the share of the way to the next one."""
    first, last = links[lane, FIRST], links[lane, LAST]
    at = s / sizes[lane, LENGTH] * (last - first)
    at = min(max(at, 0.0), last - first - 1e-9)
    whole = int(at)
    return first + whole, at - whole


@inlined
def between(table: AnyArray, at: int, share: float, column: int) -> float:
    """Return a value between two rows of a table."""
    return table[at, column] + share * (table[at + 1, column] - table[at, column])


@inlined
def shows(signals: AnyArray, signal: int, clock: float) -> int:
    """Return what a signal shows, a number of :data:`LIGHTS`."""
    kind = signals[signal, 0]
    if kind >= GIVEN:
        return int(kind) - GIVEN
    if kind != 0:
        return 4 if kind == 1 else 0
    cycle = PHASE * max(signals[signal, 2], 2)
    u = (clock - PHASE * signals[signal, 1]) % cycle
    return 1 if u < GREEN_TIME else 2 if u < GREEN_TIME + YELLOW_TIME else 3


@inlined
def choose(links: AnyArray, following: AnyArray, row: AnyArray, lane: int) -> int:
    """Return a lane to go on with after ``lane``, -1 where it ends."""
    if lane < 0 or links[lane, NEXTS] == 0:
        return -1
    pick = 0
    if links[lane, NEXTS] > 1:
        pick = int(uniform(row) * links[lane, NEXTS])
    return int(following[links[lane, NEXT] + pick])


@inlined
def in_the_way(
    links: AnyArray, sizes: AnyArray, signals: AnyArray, cars: AnyArray, clock: float, j: int, k: int, other: int,
    until: float, rank: int,
) -> bool:  # fmt: skip
    """Tell whether vehicle k keeps j off a lane of priority ``rank`` that the lane ``other`` crosses."""
    here, half = int(cars[k, LANE]), 0.5 * cars[k, SIZE]
    if here == other:
        return bool(cars[k, S] - half < until)
    if int(cars[k, AHEAD0]) != other or links[here, JUNCTION] >= 0:
        return False
    v = cars[k, V]
    away = sizes[here, LENGTH] - cars[k, S] - half
    if cars[k, CLAIM] > 0 or (v > 0.5 and away < v * v / (2 * HARD)):
        return True  # it can no longer stop
    signal = links[here, SIGNAL] if links[here, SIGNAL] >= 0 else links[other, SIGNAL]
    shown = shows(signals, signal, clock) if signal >= 0 else 0
    if shown == 3:
        return False
    if shown == 4:
        longer, same = cars[k, WAIT] > cars[j, WAIT], cars[k, WAIT] == cars[j, WAIT]
        return bool(cars[k, HALTED] > 0 and (longer or (same and k < j)))
    return bool(links[other, RANK] > rank and v > 0.5 and away < PATIENCE * v)


@inlined
def clear(
    links: AnyArray, sizes: AnyArray, cross: AnyArray, until: AnyArray, signals: AnyArray, cars: AnyArray, row: AnyArray,
    j: int, lane: int,
) -> bool:  # fmt: skip
    """Tell whether vehicle j may go into the lane of a junction."""
    first, rank = links[lane, CROSS], links[lane, RANK]
    for n in range(first, first + links[lane, CROSSES]):
        for k in range(cars.shape[0]):
            if k != j and cars[k, LANE] >= 0 and in_the_way(
                links, sizes, signals, cars, row[CLOCK], j, k, cross[n], until[n], rank
            ):  # fmt: skip
                return False
    return True


@inlined
def stop_line(links: AnyArray, sizes: AnyArray, cars: AnyArray, j: int) -> Any:
    """Return the distance (m) of the front of vehicle j to its stop line, and the signal there or -1."""
    lane, following = int(cars[j, LANE]), int(cars[j, AHEAD0])
    front = cars[j, S] + 0.5 * cars[j, SIZE]
    if links[lane, SIGNAL] >= 0 and front < sizes[lane, STOP_S] + 1.0:
        return sizes[lane, STOP_S] - front, links[lane, SIGNAL]
    if following < 0:
        return NOTHING, -1
    rest = sizes[lane, LENGTH] - front
    if links[following, SIGNAL] >= 0:
        return rest + sizes[following, STOP_S], links[following, SIGNAL]
    if links[following, JUNCTION] >= 0 and links[lane, JUNCTION] < 0:
        return rest - 0.5, -1
    return NOTHING, -1


@inlined
def must_stop(
    links: AnyArray, sizes: AnyArray, cross: AnyArray, until: AnyArray, signals: AnyArray, cars: AnyArray, row: AnyArray,
    j: int,
) -> float:  # fmt: skip
    """Return the distance (m) at which vehicle j has to stop now; claim the junction if it is free."""
    gap, signal = stop_line(links, sizes, cars, j)
    v = cars[j, V]
    shown = shows(signals, signal, row[CLOCK]) if signal >= 0 else 0
    if cars[j, CLAIM] > 0 and shown == 3 and gap > v * v / (2 * HARD):
        cars[j, CLAIM] = 0.0  # it has waited too long
    if cars[j, CLAIM] > 0 or gap > 8.0 + v * v / (2 * 0.8 * GENTLE) or gap < -4.0:
        return NOTHING
    if shown == 3 or (shown == 2 and gap > v * v / (2 * HARD)):
        return gap
    if shown == 4 and cars[j, HALTED] == 0:
        if v < 0.3 and gap < 3.0:
            cars[j, HALTED] = 1.0
        return gap
    through = int(cars[j, AHEAD0])
    if through < 0 or links[through, JUNCTION] < 0 or links[int(cars[j, LANE]), JUNCTION] >= 0:
        return NOTHING
    if not clear(links, sizes, cross, until, signals, cars, row, j, through):
        cars[j, WAIT] += cars[j, HALTED]
        return gap
    if gap < 3.0 + v * v / (2 * FIRM):  # near enough to get over the line while it is yellow
        cars[j, CLAIM] = 1.0
    return NOTHING


@inlined
def distance_ahead(
    links: AnyArray, sizes: AnyArray, cars: AnyArray, j: int, lane: int, s: float
) -> float:
    """Return how far (m) a place lies ahead of vehicle j on its way, :data:`NOTHING` if it does not."""
    own, at = int(cars[j, LANE]), cars[j, S]
    if lane == own:
        return s - at if s > at else NOTHING
    rest = sizes[own, LENGTH] - at
    for n in range(AHEAD):
        following = int(cars[j, AHEAD0 + n])
        if following < 0:
            break
        if lane == following:
            return rest + s
        rest += sizes[following, LENGTH]
    # Beside the own lane, where both leave the same one.
    entry = links[lane, ENTRY]
    if entry >= 0 and s < 9.0:
        if entry == own:
            return sizes[own, LENGTH] - at + s
        if entry == links[own, ENTRY] and s > at:
            return s - at
    return NOTHING


@inlined
def leader(links: AnyArray, sizes: AnyArray, cars: AnyArray, row: AnyArray, j: int) -> Any:
    """Return gap (m) and speed (m/s) of the vehicle ahead of vehicle j."""
    best, speed = NOTHING, 0.0
    for k in range(cars.shape[0]):
        lane = int(cars[k, LANE])
        if k == j or lane < 0:
            continue
        away = distance_ahead(links, sizes, cars, j, lane, cars[k, S])
        if k == 0 and row[OTHER] >= 0:
            beside = distance_ahead(links, sizes, cars, j, int(row[OTHER]), row[OTHER_S])
            away = min(away, beside)
        gap = away - 0.5 * (cars[j, SIZE] + cars[k, SIZE])
        if away < NOTHING and gap < best:
            best, speed = gap, cars[k, V]
    return best, speed


@inlined
def follow(v: float, wanted: float, gap: float, speed: float, space: float) -> float:
    """Return the acceleration (m/s^2) of the Intelligent Driver Model."""
    ratio = v / max(wanted, 0.5)
    free = ratio * ratio * ratio * ratio
    approach = v * (v - speed) / (2.0 * math.sqrt(SPEED_UP * GENTLE))
    near = (space + max(v * TIME_GAP + approach, 0.0)) / max(gap, 0.2)
    return min(max(SPEED_UP * (1.0 - free - near * near), -HARD), SPEED_UP)


@inlined
def put(links: AnyArray, sizes: AnyArray, points: AnyArray, cars: AnyArray, j: int) -> None:
    """Write where vehicle j is in the world."""
    at, share = at_place(links, sizes, int(cars[j, LANE]), cars[j, S])
    for column in range(4):
        cars[j, column] = between(points, at, share, column)


@inlined
def advance(
    links: AnyArray,
    sizes: AnyArray,
    following: AnyArray,
    cars: AnyArray,
    row: AnyArray,
    j: int,
    a: float,
) -> None:
    """Move vehicle j by one step along its way."""
    v = cars[j, V]
    a = max(a, -v / DT)
    cars[j, A] = a
    cars[j, S] += DT * (v + 0.5 * DT * a)
    cars[j, V] = max(v + DT * a, 0.0)
    while cars[j, LANE] >= 0 and cars[j, S] > sizes[int(cars[j, LANE]), LENGTH]:
        lane = int(cars[j, AHEAD0])
        cars[j, S] -= sizes[int(cars[j, LANE]), LENGTH]
        cars[j, LANE] = lane
        cars[j, AHEAD0], cars[j, AHEAD1] = cars[j, AHEAD1], cars[j, AHEAD2]
        cars[j, AHEAD2] = choose(links, following, row, int(cars[j, AHEAD1]))
        if lane >= 0 and links[lane, JUNCTION] < 0:
            cars[j, CLAIM] = cars[j, HALTED] = cars[j, WAIT] = 0.0


@inlined
def on_way(cars: AnyArray, lane: int) -> bool:
    """Tell whether a lane is the ego vehicle's own or one of its next."""
    found = cars[0, LANE] == lane
    for n in range(AHEAD):
        found = found or cars[0, AHEAD0 + n] == lane
    return bool(found)


@inlined
def room_for(cars: AnyArray, j: int, near: float) -> bool:
    """Tell whether vehicle j is far enough from all others, and ``near`` m from the ego vehicle."""
    v, lane = cars[j, V], int(cars[j, LANE])
    for k in range(cars.shape[0]):
        if k == j or cars[k, LANE] < 0:
            continue
        x, y = cars[j, X] - cars[k, X], cars[j, Y] - cars[k, Y]
        room = near if k == 0 else 12.0
        if cars[k, LANE] == lane:
            room = max(room, 10.0 + 0.8 * v)
        if k == 0 and near > 0.0 and on_way(cars, lane):
            room = max(room, 10.0 + 1.5 * max(cars[0, V], v))
        if x * x + y * y < room * room:
            return False
    return True


@inlined
def place(
    links: AnyArray, sizes: AnyArray, points: AnyArray, following: AnyArray, cars: AnyArray, row: AnyArray, j: int,
    lane: int, s: float, near: float,
) -> bool:  # fmt: skip
    """Put vehicle j on a lane, if there is room."""
    draw, kind = uniform(row), 0
    while kind < len(SHARES) - 1 and draw > SHARES[kind]:
        kind += 1
    cars[j, KIND], cars[j, SIZE], cars[j, WIDTH] = kind, SIZES[kind, 0], SIZES[kind, 1]
    cars[j, EAGER] = 0.8 + 0.3 * uniform(row)
    cars[j, LANE], cars[j, S] = lane, s
    put(links, sizes, points, cars, j)
    after = lane
    for n in range(AHEAD):
        after = choose(links, following, row, after)
        cars[j, AHEAD0 + n] = after
    # No faster than it can stop for what may be ahead.
    gap, _ = stop_line(links, sizes, cars, j)
    slow = math.sqrt(2 * GENTLE * max(gap - 2.0, 0.0))
    at, share = at_place(links, sizes, lane, s)
    cars[j, V] = min(0.8 * cars[j, EAGER] * between(points, at, share, CRUISE), slow)
    cars[j, A] = cars[j, CLAIM] = cars[j, HALTED] = cars[j, WAIT] = 0.0
    if not room_for(cars, j, near):
        cars[j, LANE] = -1.0
        return False
    return True


@inlined
def come_in(
    grid: AnyArray,
    cell_start: AnyArray,
    cell_spawn: AnyArray,
    cars: AnyArray,
    row: AnyArray,
    near: float,
) -> int:
    """Return a place to come in, ``near`` m to :data:`FAR` from the ego vehicle, or -1."""
    way = near + uniform(row) * (FAR - near)
    angle = cars[0, HEADING] + (uniform(row) - 0.5) * 3.2
    if uniform(row) < 0.25:  # three of four come in ahead
        angle += 3.14
    column = math.floor((cars[0, X] + way * math.cos(angle) - grid[0]) / CELL)
    line = math.floor((cars[0, Y] + way * math.sin(angle) - grid[1]) / CELL)
    if column < 0 or line < 0 or column >= grid[2] or line >= grid[3]:
        return -1
    cell = line * int(grid[2]) + column
    first, count = cell_start[cell], cell_start[cell + 1] - cell_start[cell]
    if count == 0:
        return -1
    return int(cell_spawn[first + int(uniform(row) * count)])


@inlined
def place_ego(pose: AnyArray, spacing: float, cars: AnyArray, ego: Any) -> None:
    """Write where the ego vehicle is in the world; ``ego`` is its s, d, psi and v."""
    s, d, psi, v = ego
    at = min(max(s / spacing, 0.0), pose.shape[0] - 1.001)
    whole = int(at)
    share = at - whole
    heading = between(pose, whole, share, HEADING)
    turned = heading + psi
    x = between(pose, whole, share, X) - d * math.sin(heading)
    y = between(pose, whole, share, Y) + d * math.cos(heading)
    cars[0, X], cars[0, Y] = x + CENTRE * math.cos(turned), y + CENTRE * math.sin(turned)
    cars[0, Z], cars[0, HEADING] = between(pose, whole, share, Z), turned
    cars[0, A], cars[0, V] = (v - cars[0, V]) / DT, v


@inlined
def piece_of(piece_lane: AnyArray, piece_at: AnyArray, s: float) -> int:
    """Return the piece of a route that a place on the path (m) lies on."""
    q = 0
    while q < len(piece_lane) - 1 and piece_lane[q + 1] >= 0 and piece_at[q + 1, 0] <= s:
        q += 1
    return q


@inlined
def on_piece(piece_at: AnyArray, q: int, s: float, column: int) -> float:
    """Return how far (m) along the lane of a piece a place on the path lies.

    ``column`` is 2 for the piece's own lane and 4 for the one that it changes to.
    """
    share = (s - piece_at[q, 0]) / max(piece_at[q, 1] - piece_at[q, 0], 1e-6)
    return piece_at[q, column] + share * (piece_at[q, column + 1] - piece_at[q, column])


@inlined
def ego_lanes(
    piece_lane: AnyArray, piece_other: AnyArray, piece_at: AnyArray, links: AnyArray, cars: AnyArray, row: AnyArray,
    middle: float,
) -> None:  # fmt: skip
    """Write on which lanes the ego vehicle is and will be; ``middle`` is its place on the path."""
    q = piece_of(piece_lane, piece_at, middle)
    lane = int(piece_lane[q])
    if lane != int(cars[0, LANE]) and links[lane, JUNCTION] < 0:
        cars[0, CLAIM] = cars[0, HALTED] = cars[0, WAIT] = 0.0
    cars[0, LANE], cars[0, S] = lane, on_piece(piece_at, q, middle, 2)
    row[OTHER], row[OTHER_S] = piece_other[q], on_piece(piece_at, q, middle, 4)
    known, n = lane, 0
    for p in range(q + 1, len(piece_lane)):
        if piece_lane[p] < 0 or n == AHEAD:
            break
        # A lane that is changed to lies beside the present one, not behind its end.
        if piece_lane[p] != known and piece_other[p - 1] < 0:
            cars[0, AHEAD0 + n] = piece_lane[p]
            n += 1
        known = int(piece_lane[p])
    while n < AHEAD:
        cars[0, AHEAD0 + n] = -1.0
        n += 1


@inlined
def watch_signals(
    stop_at: AnyArray,
    stop_signal: AnyArray,
    signals: AnyArray,
    cars: AnyArray,
    row: AnyArray,
    front: float,
) -> None:
    """Judge the ego vehicle at the stop lines of its route, and look at the next one."""
    stop = int(row[NEXT_STOP])
    if cars[0, V] < 0.3 and stop_at[stop] - front < 4.0:
        cars[0, HALTED] = 1.0
    while stop < len(stop_at) - 1 and front > stop_at[stop]:
        shown = shows(signals, stop_signal[stop], row[CLOCK])
        if shown == 3 and row[EVENT] == 0:
            row[EVENT] = RED_LIGHT
        if shown == 4 and cars[0, HALTED] == 0 and row[EVENT] == 0:
            row[EVENT] = STOP_SIGN
        stop += 1
    row[NEXT_STOP] = stop
    row[SIGNAL_GAP], row[LIGHT] = NOTHING, 0.0
    if stop_at[stop] - front < NOTHING:
        row[SIGNAL_GAP] = stop_at[stop] - front
        row[LIGHT] = shows(signals, stop_signal[stop], row[CLOCK])


@inlined
def look(
    piece_lane: AnyArray,
    piece_other: AnyArray,
    piece_at: AnyArray,
    cars: AnyArray,
    row: AnyArray,
    middle: float,
) -> None:
    """Find the vehicle ahead of the ego vehicle on its path."""
    row[LEAD_GAP], row[LEAD_V], row[LEAD_A], row[LEAD] = NOTHING, 0.0, 0.0, -1.0
    for q in range(len(piece_lane)):
        if piece_lane[q] < 0 or piece_at[q, 0] > middle + NOTHING:
            break
        if piece_at[q, 1] < middle:
            continue
        for k in range(1, cars.shape[0]):
            lane, column = int(cars[k, LANE]), 2
            if lane < 0 or (lane != piece_lane[q] and lane != piece_other[q]):
                continue
            if lane != piece_lane[q]:
                column = 4
            begin, end = piece_at[q, column], piece_at[q, column + 1]
            if cars[k, S] < begin - 0.5 or cars[k, S] > end + 0.5 or end - begin < 1e-6:
                continue
            share = (cars[k, S] - begin) / (end - begin)
            away = piece_at[q, 0] + share * (piece_at[q, 1] - piece_at[q, 0]) - middle
            gap = away - 0.5 * (EGO_LENGTH + cars[k, SIZE])
            if away > 0.0 and gap < row[LEAD_GAP]:
                row[LEAD_GAP], row[LEAD_V], row[LEAD_A], row[LEAD] = gap, cars[k, V], cars[k, A], k


@inlined
def reaches(turned: float, length: float, width: float) -> float:
    """Return how far (m) a rectangle reaches from its middle in a direction at an angle to it."""
    return 0.5 * (length * abs(math.cos(turned)) + width * abs(math.sin(turned)))


@inlined
def touch(cars: AnyArray, k: int) -> bool:
    """Tell whether the ego vehicle touches vehicle k (separating axes of two rectangles)."""
    x, y = cars[k, X] - cars[0, X], cars[k, Y] - cars[0, Y]
    near = 0.5 * (EGO_LENGTH + cars[k, SIZE]) + 2.0
    if x * x + y * y > near * near or abs(cars[k, Z] - cars[0, Z]) > 3.0:
        return False
    for n in range(4):
        axis = cars[0 if n < 2 else k, HEADING] + (n % 2) * 0.5 * math.pi
        own = reaches(cars[0, HEADING] - axis, EGO_LENGTH, EGO_WIDTH)
        its = reaches(cars[k, HEADING] - axis, cars[k, SIZE], cars[k, WIDTH])
        if abs(x * math.cos(axis) + y * math.sin(axis)) > own + its:
            return False
    return True


def step(
    begin: int, end: int, ways: Ways, roads: Roads, cars: AnyArray, rows: AnyArray, ego: Any
) -> None:
    """Advance everything but the ego vehicles in rows from ``begin`` to ``end``.

    ``ego`` has arc length, offset, heading and speed of the ego vehicles, each (N,).
    """
    (links, sizes, points, following, cross, until, signals, spawn_lane, spawn_s, cell_start,
     cell_spawn, grid) = roads  # fmt: skip
    spacing, pose, piece_lane, piece_other, piece_at, stop_at, stop_signal = ways
    for i in range(begin, end):
        c, row = cars[i], rows[i]
        r, s = int(row[ROUTE]), float(ego[0][i])
        row[CLOCK] += DT
        row[EVENT] = 0.0
        place_ego(pose[r], spacing, c, (s, float(ego[1][i]), float(ego[2][i]), float(ego[3][i])))
        ego_lanes(piece_lane[r], piece_other[r], piece_at[r], links, c, row, s + CENTRE)
        watch_signals(stop_at[r], stop_signal[r], signals, c, row, s + FRONT)
        for j in range(1, c.shape[0]):
            if c[j, LANE] < 0:
                spawn = come_in(grid, cell_start, cell_spawn, c, row, NEAR)
                if spawn >= 0:
                    at = spawn_lane[spawn]
                    place(links, sizes, points, following, c, row, j, at, spawn_s[spawn], NEAR)
                continue
            at, share = at_place(links, sizes, int(c[j, LANE]), c[j, S])
            wanted = c[j, EAGER] * between(points, at, share, CRUISE)
            gap, speed = leader(links, sizes, c, row, j)
            a = follow(c[j, V], wanted, gap, speed, SPACE)
            stop = must_stop(links, sizes, cross, until, signals, c, row, j)
            if stop < NOTHING:
                a = min(a, follow(c[j, V], wanted, stop, 0.0, 0.5))
            advance(links, sizes, following, c, row, j, a)
            if c[j, LANE] < 0:
                continue
            put(links, sizes, points, c, j)
            x, y = c[j, X] - c[0, X], c[j, Y] - c[0, Y]
            if x * x + y * y > LOST * LOST:
                c[j, LANE] = -1.0
            elif touch(c, j):
                row[EVENT] = COLLISION
        look(piece_lane[r], piece_other[r], piece_at[r], c, row, s + CENTRE)
        row[STOP_GAP] = must_stop(links, sizes, cross, until, signals, c, row, 0)
        row[HELD] = 1.0 if row[STOP_GAP] < 12.0 or row[LEAD_GAP] < 12.0 else 0.0


def start(
    which: AnyArray,
    lead: AnyArray,
    ways: Ways,
    roads: Roads,
    cars: AnyArray,
    rows: AnyArray,
    ego: Any,
) -> None:
    """Fill the rows ``which`` (n,) for a new episode.

    ``lead`` (n,) are places on the path (m) where a vehicle is put first, or negative.
    """
    (links, sizes, points, following, cross, until, signals, spawn_lane, spawn_s, cell_start,
     cell_spawn, grid) = roads  # fmt: skip
    spacing, pose, piece_lane, piece_other, piece_at, stop_at, stop_signal = ways
    for n in range(len(which)):
        i = which[n]
        c, row = cars[i], rows[i]
        r, s, v = int(row[ROUTE]), float(ego[0][i]), float(ego[3][i])
        row[NEXT_STOP] = row[EVENT] = 0.0
        c[:, :] = 0.0
        c[:, LANE] = -1.0
        c[0, V], c[0, SIZE], c[0, WIDTH] = v, EGO_LENGTH, EGO_WIDTH
        place_ego(pose[r], spacing, c, (s, float(ego[1][i]), float(ego[2][i]), v))
        ego_lanes(piece_lane[r], piece_other[r], piece_at[r], links, c, row, s + CENTRE)
        watch_signals(stop_at[r], stop_signal[r], signals, c, row, s + FRONT)
        row[EVENT] = 0.0
        first = 1
        if lead[n] > 0.0 and c.shape[0] > 1:
            q = piece_of(piece_lane[r], piece_at[r], lead[n])
            at, along = int(piece_lane[r, q]), on_piece(piece_at[r], q, lead[n], 2)
            if place(links, sizes, points, following, c, row, 1, at, along, 0.0):
                # As fast as the ego vehicle at first, and then a little slower.
                point, share = at_place(links, sizes, at, along)
                c[1, V], c[1, EAGER] = v, 0.95 * v / between(points, point, share, CRUISE)
                first = 2
        for j in range(first, c.shape[0]):
            for _ in range(12):
                spawn = come_in(grid, cell_start, cell_spawn, c, row, 15.0)
                if spawn >= 0 and place(
                    links, sizes, points, following, c, row, j, spawn_lane[spawn], spawn_s[spawn],
                    15.0,
                ):  # fmt: skip
                    break
        look(piece_lane[r], piece_other[r], piece_at[r], c, row, s + CENTRE)
        row[STOP_GAP] = must_stop(links, sizes, cross, until, signals, c, row, 0)
        row[HELD] = 1.0


@cache
def loops(fast: bool) -> SimpleNamespace:
    """Return the loops, compiled by numba if ``fast``."""
    if not fast:
        return SimpleNamespace(step=step, start=start)
    decorate = compiled(nogil=True, error_model="numpy")
    return SimpleNamespace(step=decorate(step), start=decorate(start))


@lru_cache(maxsize=8)
def _kept(key: str) -> dict[str, Roads]:
    return {}


def roads_of(m: RoadMap) -> Roads:
    """Return what the loops need of a map, from the memory of the process if it is there."""
    kept = _kept(m.hash)
    if "roads" not in kept:
        kept["roads"] = make_roads(m)
    return kept["roads"]


def make_roads(m: RoadMap) -> Roads:
    """Return what the loops need of a map."""
    net = Network(m)
    lasting = [
        [n for n in after if net.reach[n] >= min(300.0, max(net.reach[after]))]
        for after in net.after
    ]
    entry = np.full(m.lanes, -1, np.int32)
    entry[m.connections[:, 2]] = m.connections[:, 1]
    rank = np.zeros(m.lanes, np.int32)
    order = np.array([{"straight": 3, "right": 2, "left": 1}[turn] for turn in TURNS])
    rank[m.connections[:, 2]] = order[m.connection_turn]
    stop_s, stop_signal = np.full(m.lanes, np.inf), np.full(m.lanes, -1, np.int32)
    owner = np.repeat(np.arange(len(m.signal_kind)), np.diff(m.stop_start))
    signed = set()
    for lane, s, signal in zip(m.stop_lane, m.stop_s, owner, strict=True):
        if m.signal_kind[signal] != SIGNAL_KINDS.index("traffic_light"):
            signed |= {int(lane), *net.after[lane]}
        if m.signal_kind[signal] != SIGNAL_KINDS.index("yield") and s < stop_s[lane]:
            stop_s[lane], stop_signal[lane] = s, signal
    rank[list(signed)] -= len(TURNS) + 1  # whoever has a sign comes after all who have none
    by_first = np.argsort(m.conflicts[:, 0], kind="stable")
    until = {
        (a, b): float(s[1]) for (a, b), s in zip(m.conflicts.tolist(), m.conflict_s, strict=True)
    }
    pairs = m.conflicts[by_first]
    phases = np.where(m.signal_junction >= 0, 0, 2)
    inside = m.signal_junction >= 0
    phases[inside] = m.junction_phases[m.signal_junction[inside]]
    links = np.zeros((m.lanes, 10), np.int64)
    links[:, FIRST], links[:, LAST] = m.lane_start[:-1], m.lane_start[1:] - 1
    links[:, JUNCTION], links[:, ENTRY], links[:, RANK] = m.lane_junction, entry, rank
    links[:, NEXTS] = [len(after) for after in lasting]
    links[:, CROSSES] = np.bincount(m.conflicts[:, 0], minlength=m.lanes)
    for begin, count in ((NEXT, NEXTS), (CROSS, CROSSES)):
        links[1:, begin] = np.cumsum(links[:-1, count])
    links[:, SIGNAL] = stop_signal
    return Roads(
        links=links,
        sizes=np.stack([m.lane_length, stop_s], 1),
        points=np.column_stack([m.points, m.heading, cruise(m, net)]),
        following=np.array([n for after in lasting for n in after], np.int64),
        cross=pairs[:, 1].astype(np.int64),
        until=np.array([until.get((b, a), np.inf) for a, b in pairs.tolist()], float),
        signals=np.stack([m.signal_kind, m.signal_phase, phases], 1).astype(np.int64),
        **_spawns(m, net),
    )


def _starts(counts: Any) -> AnyArray:
    return np.concatenate([[0], np.cumsum(np.asarray(counts, int))]).astype(np.int32)


def cruise(m: RoadMap, net: Network) -> AnyArray:
    """Return the speed (m/s) of unhindered traffic at each point: limits, bends, and braking for them."""
    square = np.minimum(
        np.repeat(m.lane_limit, np.diff(m.lane_start)) ** 2,
        BEND / np.maximum(np.abs(m.curvature), 1e-6),
    )
    gain = 2 * 1.2 * m.s
    for _ in range(8):  # far enough to brake for what lies some lanes ahead
        before = square.copy()
        for lane in np.flatnonzero(m.drivable):
            part = m.lane(lane)
            beyond = [square[m.lane_start[n]] for n in net.after[lane]]
            ahead = square[part] + gain[part]
            if beyond:
                ahead[-1] = min(ahead[-1], max(beyond) + gain[part.stop - 1])
            square[part] = np.minimum.accumulate(ahead[::-1])[::-1] - gain[part]
        if np.array_equal(before, square):
            break
    return np.sqrt(np.maximum(square, 1.0))


def _spawns(m: RoadMap, net: Network) -> dict[str, AnyArray]:
    """Return the places where vehicles can come in, sorted into the cells of a grid."""
    lanes, places = [], []
    for lane in np.flatnonzero(m.drivable & (m.lane_junction < 0) & ~net.narrow):
        if net.reach[lane] < 200.0 or net.length[lane] < 16.0:
            continue
        for s in np.arange(6.0, net.length[lane] - 8.0, 8.0):
            lanes.append(int(lane))
            places.append(float(s))
    at = [
        int(m.lane_start[a] + np.searchsorted(m.s[m.lane(a)], b))
        for a, b in zip(lanes, places, strict=True)
    ]
    points = m.points[at, :2].reshape(-1, 2)
    corner = points.min(axis=0) if len(points) else np.zeros(2)
    cells = np.floor((points - corner) / CELL).astype(int)
    columns, count = (cells.max(axis=0) + 1).tolist() if len(points) else (1, 1)
    cell = cells[:, 1] * columns + cells[:, 0]
    return {
        "spawn_lane": np.array(lanes, np.int64), "spawn_s": np.array(places, float),
        "cell_start": _starts(np.bincount(cell, minlength=columns * count)),
        "cell_spawn": np.argsort(cell, kind="stable"),
        "grid": np.array([corner[0], corner[1], columns, count], float),
    }  # fmt: skip


def ways_of(routes: Routes) -> Ways:
    """Return what the loops need of the routes."""
    return Ways(*(getattr(routes, name) for name in Ways._fields))


def empty(rows: int, vehicles: int) -> tuple[AnyArray, AnyArray]:
    """Return the tables of N rows with so many vehicles each, the ego vehicle included."""
    cars, table = np.zeros((rows, vehicles, CAR)), np.zeros((rows, ROW))
    cars[:, :, LANE] = -1.0
    return cars, table
