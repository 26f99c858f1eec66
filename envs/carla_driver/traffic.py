"""The other vehicles, the signals and the rules: loops over rows, written once for one row.

The functions work on single numbers and arrays of all rows. numba compiles them where it is there;
without it the same functions run as they are, so that both give the same results.

A vehicle keeps to the middle of its lane, follows the one ahead by the Intelligent Driver Model
(Treiber, Hennecke and Helbing 2000), slows down for bends, obeys signals, and enters a junction only
when no one is in its way: it then claims the lane through it, and whoever's lane crosses that one
waits. Who is first is told by signs, then by the turn (straight on before right before left), and at
stop signs by who has waited longest. Vehicle 0 of each row is the ego vehicle.
"""

from functools import cache, lru_cache
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from steerlab.compiled import compiled, has_numba
from steerlab.envs.carla_driver.routes import Network, Routes
from steerlab.envs.kinematic_driver.dynamics import DT, FRONT, HALF_WIDTH, REAR
from steerlab.envs.maps.road_map import SIGNAL_KINDS, TURNS, RoadMap

Array = Any

AHEAD = 3  # lanes that a vehicle knows it will take
#: Kinds of vehicles with length and width (m), and how often they come.
KINDS = ("car", "van", "truck", "bus", "motorcycle")
SIZES = np.array([[4.6, 1.85], [5.6, 2.0], [8.5, 2.5], [11.5, 2.55], [2.2, 0.8]])
SHARES = np.cumsum([0.7, 0.12, 0.08, 0.05, 0.05])
EGO_LENGTH, EGO_WIDTH = FRONT + REAR, 2 * HALF_WIDTH
CENTRE = 0.5 * (FRONT - REAR)  # m from the rear axle to the middle of the ego vehicle

#: What a signal shows, by number.
LIGHTS = ("none", "green", "yellow", "red", "stop")
GREEN, YELLOW, RED, STOP = range(1, 5)
GREEN_TIME, YELLOW_TIME, RED_TIME = 12.0, 3.0, 2.0  # s of a phase; all are red at its end
PHASE = GREEN_TIME + YELLOW_TIME + RED_TIME

#: What ended the episode, beside KinematicDriver's violations.
COLLISION, RED_LIGHT, STOP_SIGN = 5, 6, 7

GENTLE, HARD = 2.0, 7.0  # m/s^2 of braking
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
    """A map as the loops need it: lanes L of points P, and what was concluded from them."""

    start: Array  # (L + 1,) first point of a lane
    x: Array  # (P,)
    y: Array
    z: Array
    heading: Array
    cruise: Array  # (P,) m/s, with the bends ahead
    length: Array  # (L,) m
    junction: Array  # (L,) or -1
    next_start: Array  # (L + 1,) lanes that lead on
    following: Array
    entry: Array  # (L,) lane before a lane of a junction, or -1
    rank: Array  # (L,) priority of a lane of a junction
    cross_start: Array  # (L + 1,) lanes that cross a lane
    cross: Array
    cross_until: Array  # m along the crossing lane, until which it is in the way
    stop_s: Array  # (L,) m, where a signal stops cars
    stop_signal: Array  # (L,) signal or -1
    signal_kind: Array  # (G,)
    signal_phase: Array
    signal_phases: Array
    spawn_lane: Array  # places where vehicles can come in
    spawn_s: Array
    cell_start: Array  # grid of them
    cell_spawn: Array
    grid: Array  # x and y of its corner, number of columns and rows


class Ways(NamedTuple):
    """The routes as the loops need them, see :class:`~routes.Routes`."""

    spacing: float
    pose: Array
    lane: Array
    lane_s: Array
    other: Array
    other_s: Array
    piece_lane: Array
    piece_other: Array
    piece_at: Array
    stop_at: Array
    stop_signal: Array


class Cars(NamedTuple):
    """The vehicles of N rows, V each; the ego vehicle is number 0."""

    lane: Array  # (N, V) lane, -1 where there is none
    s: Array  # (N, V) m along it, of the middle of the vehicle
    v: Array  # (N, V) m/s
    a: Array  # (N, V) m/s^2
    ahead: Array  # (N, V, AHEAD) next lanes, -1 where there is none
    length: Array  # (N, V) m
    width: Array  # (N, V) m
    kind: Array  # (N, V) see KINDS
    eager: Array  # (N, V) own speed over the speed limit
    claim: Array  # (N, V) has the way through the junction ahead
    halted: Array  # (N, V) has stopped at the stop sign ahead
    wait: Array  # (N, V) steps since
    pose: Array  # (N, V, 4) x, y, z (m) and heading (rad) of the middle


class Rows(NamedTuple):
    """What each of N rows keeps besides its vehicles."""

    route: Array  # (N,)
    random: Array  # (N,) state of the row's generator
    clock: Array  # (N,) s that the lights have run
    stop: Array  # (N,) number of the next stop on the route
    other: Array  # (N,) lane that the ego vehicle changes to, or -1
    other_s: Array  # (N,)
    event: Array  # (N,) 0 or what it has done wrong
    lead_gap: Array  # (N,) m to the vehicle ahead on the path
    lead_v: Array  # (N,) m/s
    lead_a: Array  # (N,) m/s^2
    lead: Array  # (N,) its number, or -1
    stop_gap: Array  # (N,) m to where it has to stop now
    signal_gap: Array  # (N,) m to the next stop line
    light: Array  # (N,) what the signal there shows, see LIGHTS
    held: Array  # (N,) it stands for a good reason


@inlined
def uniform(rows: Rows, i: int) -> float:
    """Return a number in (0, 1) of row i's generator (Park and Miller 1988)."""
    state = (rows.random[i] * 48271) % 2147483647
    rows.random[i] = state
    return float(state) / 2147483647.0


@inlined
def at_place(roads: Roads, lane: int, s: float) -> Any:
    """Return the point before ``s`` on a lane, and the share of the way to the next one."""
    first = roads.start[lane]
    last = roads.start[lane + 1] - 1
    place = s / roads.length[lane] * (last - first)
    place = min(max(place, 0.0), last - first - 1e-9)
    whole = int(place)
    return first + whole, place - whole


@inlined
def between(values: Array, at: int, share: float) -> float:
    """Return a value between two points."""
    return values[at] + share * (values[at + 1] - values[at])  # type: ignore[no-any-return]


@inlined
def shows(roads: Roads, signal: int, clock: float) -> int:
    """Return what a signal shows."""
    if roads.signal_kind[signal] == 1:
        return 4
    if roads.signal_kind[signal] != 0:
        return 0
    cycle = PHASE * max(roads.signal_phases[signal], 2)
    u = (clock - PHASE * roads.signal_phase[signal]) % cycle
    return 1 if u < GREEN_TIME else 2 if u < GREEN_TIME + YELLOW_TIME else 3


@inlined
def choose(roads: Roads, rows: Rows, i: int, lane: int) -> int:
    """Return a lane to go on with after ``lane``, -1 where it ends."""
    if lane < 0:
        return -1
    first, count = roads.next_start[lane], roads.next_start[lane + 1] - roads.next_start[lane]
    if count == 0:
        return -1
    if count == 1:
        return int(roads.following[first])
    return int(roads.following[first + int(uniform(rows, i) * count)])


@inlined
def in_the_way(roads: Roads, cars: Cars, rows: Rows, i: int, j: int, lane: int, cross: int) -> bool:
    """Tell whether someone on or before a crossing lane keeps vehicle j off ``lane``."""
    other, until = roads.cross[cross], roads.cross_until[cross]
    for k in range(cars.lane.shape[1]):
        here = cars.lane[i, k]
        if k == j or here < 0:
            continue
        half = 0.5 * cars.length[i, k]
        if here == other:
            if cars.s[i, k] - half < until:
                return True
        elif cars.ahead[i, k, 0] == other and roads.junction[here] < 0:
            if cars.claim[i, k]:
                return True
            signal = roads.stop_signal[here]
            if signal < 0:
                signal = roads.stop_signal[other]
            shown = shows(roads, signal, rows.clock[i]) if signal >= 0 else 0
            v = cars.v[i, k]
            away = roads.length[here] - cars.s[i, k] - half
            if v > 0.5 and away < v * v / (2 * HARD):
                return True  # it can no longer stop
            if shown == 3:
                continue
            if shown == 4:
                longer = cars.wait[i, k] > cars.wait[i, j]
                same = cars.wait[i, k] == cars.wait[i, j]
                if cars.halted[i, k] and (longer or (same and k < j)):
                    return True
            elif roads.rank[other] > roads.rank[lane] and v > 0.5 and away < PATIENCE * v:
                return True
    return False


@inlined
def clear(roads: Roads, cars: Cars, rows: Rows, i: int, j: int, lane: int) -> bool:
    """Tell whether vehicle j may go into the lane of a junction."""
    for cross in range(roads.cross_start[lane], roads.cross_start[lane + 1]):
        if in_the_way(roads, cars, rows, i, j, lane, cross):
            return False
    return True


@inlined
def stop_line(roads: Roads, cars: Cars, i: int, j: int) -> Any:
    """Return the distance (m) of the front of vehicle j to its stop line, and the signal there or -1."""
    lane, following = cars.lane[i, j], cars.ahead[i, j, 0]
    front = cars.s[i, j] + 0.5 * cars.length[i, j]
    if roads.stop_signal[lane] >= 0 and front < roads.stop_s[lane] + 1.0:
        return roads.stop_s[lane] - front, roads.stop_signal[lane]
    if following < 0:
        return NOTHING, -1
    rest = roads.length[lane] - front
    if roads.stop_signal[following] >= 0:
        return rest + roads.stop_s[following], roads.stop_signal[following]
    if roads.junction[following] >= 0 and roads.junction[lane] < 0:
        return rest - 0.5, -1
    return NOTHING, -1


@inlined
def must_stop(roads: Roads, cars: Cars, rows: Rows, i: int, j: int) -> float:
    """Return the distance (m) at which vehicle j has to stop now; claim the junction if it is free."""
    gap, signal = stop_line(roads, cars, i, j)
    v = cars.v[i, j]
    shown = shows(roads, signal, rows.clock[i]) if signal >= 0 else 0
    if cars.claim[i, j] and shown == 3 and gap > v * v / (2 * HARD):
        cars.claim[i, j] = 0  # it has waited too long
    if cars.claim[i, j] or gap > 8.0 + v * v / (2 * 0.8 * GENTLE) or gap < -4.0:
        return NOTHING
    if signal >= 0:
        if shown == 3 or (shown == 2 and gap > v * v / (2 * 1.5 * GENTLE)):
            return gap
        if shown == 4 and not cars.halted[i, j]:
            if v < 0.3 and gap < 3.0:
                cars.halted[i, j] = 1
            return gap
    through = cars.ahead[i, j, 0]
    if through < 0 or roads.junction[through] < 0 or roads.junction[cars.lane[i, j]] >= 0:
        return NOTHING
    if not clear(roads, cars, rows, i, j, through):
        if cars.halted[i, j]:
            cars.wait[i, j] += 1
        return gap
    if gap < 3.0 + v * v / (2 * GENTLE):
        cars.claim[i, j] = 1
    return NOTHING


@inlined
def distance_ahead(roads: Roads, cars: Cars, i: int, j: int, lane: int, s: float) -> float:
    """Return how far (m) a place lies ahead of vehicle j on its way, :data:`NOTHING` if it does not."""
    own, at = cars.lane[i, j], cars.s[i, j]
    if lane == own:
        return s - at if s > at else NOTHING
    rest = roads.length[own] - at
    for n in range(AHEAD):
        following = cars.ahead[i, j, n]
        if following < 0:
            break
        if lane == following:
            return rest + s
        rest += roads.length[following]
    # Beside the own lane, where both leave the same one.
    entry = roads.entry[lane]
    if entry >= 0 and s < 9.0:
        if entry == own:
            return roads.length[own] - at + s
        if entry == roads.entry[own] and s > at:
            return s - at
    return NOTHING


@inlined
def leader(roads: Roads, cars: Cars, rows: Rows, i: int, j: int) -> Any:
    """Return gap (m) and speed (m/s) of the vehicle ahead of vehicle j."""
    best, speed = NOTHING, 0.0
    for k in range(cars.lane.shape[1]):
        if k == j or cars.lane[i, k] < 0:
            continue
        away = distance_ahead(roads, cars, i, j, cars.lane[i, k], cars.s[i, k])
        if k == 0 and rows.other[i] >= 0:
            beside = distance_ahead(roads, cars, i, j, rows.other[i], rows.other_s[i])
            away = min(away, beside)
        gap = away - 0.5 * (cars.length[i, j] + cars.length[i, k])
        if away < NOTHING and gap < best:
            best, speed = gap, cars.v[i, k]
    return best, speed


@inlined
def follow(v: float, wanted: float, gap: float, speed: float, space: float) -> float:
    """Return the acceleration (m/s^2) of the Intelligent Driver Model."""
    ratio = v / max(wanted, 0.5)
    free = ratio * ratio * ratio * ratio
    room = space + max(v * TIME_GAP + v * (v - speed) / (2.0 * (SPEED_UP * GENTLE) ** 0.5), 0.0)
    near = room / max(gap, 0.2)
    return min(max(SPEED_UP * (1.0 - free - near * near), -HARD), SPEED_UP)


@inlined
def drive(roads: Roads, cars: Cars, rows: Rows, i: int, j: int) -> None:
    """Advance vehicle j by one step."""
    lane, v = cars.lane[i, j], cars.v[i, j]
    at, share = at_place(roads, lane, cars.s[i, j])
    wanted = cars.eager[i, j] * between(roads.cruise, at, share)
    gap, speed = leader(roads, cars, rows, i, j)
    a = follow(v, wanted, gap, speed, SPACE)
    stop = must_stop(roads, cars, rows, i, j)
    if stop < NOTHING:
        a = min(a, follow(v, wanted, stop, 0.0, 0.5))
    a = max(a, -v / DT)
    cars.a[i, j] = a
    cars.s[i, j] += DT * (v + 0.5 * DT * a)
    cars.v[i, j] = max(v + DT * a, 0.0)
    while cars.s[i, j] > roads.length[cars.lane[i, j]]:
        following = cars.ahead[i, j, 0]
        if following < 0:
            cars.lane[i, j] = -1
            return
        cars.s[i, j] -= roads.length[cars.lane[i, j]]
        cars.lane[i, j] = following
        for n in range(AHEAD - 1):
            cars.ahead[i, j, n] = cars.ahead[i, j, n + 1]
        cars.ahead[i, j, AHEAD - 1] = choose(roads, rows, i, cars.ahead[i, j, AHEAD - 2])
        if roads.junction[following] < 0:
            cars.claim[i, j] = cars.halted[i, j] = 0
            cars.wait[i, j] = 0
    put(roads, cars, i, j)
    x, y = cars.pose[i, j, 0] - cars.pose[i, 0, 0], cars.pose[i, j, 1] - cars.pose[i, 0, 1]
    if x * x + y * y > LOST * LOST:
        cars.lane[i, j] = -1


@inlined
def put(roads: Roads, cars: Cars, i: int, j: int) -> None:
    """Write where vehicle j is in the world."""
    at, share = at_place(roads, cars.lane[i, j], cars.s[i, j])
    cars.pose[i, j, 0] = between(roads.x, at, share)
    cars.pose[i, j, 1] = between(roads.y, at, share)
    cars.pose[i, j, 2] = between(roads.z, at, share)
    cars.pose[i, j, 3] = between(roads.heading, at, share)


@inlined
def come_in(roads: Roads, cars: Cars, rows: Rows, i: int, j: int, near: float) -> bool:
    """Try to place vehicle j somewhere between ``near`` m and :data:`FAR` from the ego vehicle."""
    way = near + uniform(rows, i) * (FAR - near)
    # Three of four come in ahead.
    angle = cars.pose[i, 0, 3] + (uniform(rows, i) - 0.5) * 3.2
    if uniform(rows, i) < 0.25:
        angle += 3.14
    x = cars.pose[i, 0, 0] + way * np.cos(angle) - roads.grid[0]
    y = cars.pose[i, 0, 1] + way * np.sin(angle) - roads.grid[1]
    column, row = int(np.floor(x / CELL)), int(np.floor(y / CELL))
    if column < 0 or row < 0 or column >= roads.grid[2] or row >= roads.grid[3]:
        return False
    cell = row * int(roads.grid[2]) + column
    first, count = roads.cell_start[cell], roads.cell_start[cell + 1] - roads.cell_start[cell]
    if count == 0:
        return False
    spawn = roads.cell_spawn[first + int(uniform(rows, i) * count)]
    return place(roads, cars, rows, i, j, roads.spawn_lane[spawn], roads.spawn_s[spawn], near)


@inlined
def on_way(cars: Cars, i: int, lane: int) -> bool:
    """Tell whether a lane is the ego vehicle's own or one of its next."""
    found = bool(lane == cars.lane[i, 0])
    for n in range(AHEAD):
        found = found or lane == cars.ahead[i, 0, n]
    return found


@inlined
def place(
    roads: Roads, cars: Cars, rows: Rows, i: int, j: int, lane: int, s: float, near: float
) -> bool:
    """Put vehicle j on a lane, if there is room."""
    draw = uniform(rows, i)
    kind = 0
    while kind < len(SHARES) - 1 and draw > SHARES[kind]:
        kind += 1
    cars.kind[i, j] = kind
    cars.length[i, j], cars.width[i, j] = SIZES[kind, 0], SIZES[kind, 1]
    cars.eager[i, j] = 0.8 + 0.3 * uniform(rows, i)
    cars.lane[i, j], cars.s[i, j] = lane, s
    put(roads, cars, i, j)
    at, share = at_place(roads, lane, s)
    v = 0.8 * cars.eager[i, j] * between(roads.cruise, at, share)
    for k in range(cars.lane.shape[1]):
        if k == j or cars.lane[i, k] < 0:
            continue
        x = cars.pose[i, j, 0] - cars.pose[i, k, 0]
        y = cars.pose[i, j, 1] - cars.pose[i, k, 1]
        room = near if k == 0 else 12.0
        if cars.lane[i, k] == lane:
            room = max(room, 10.0 + 0.8 * v)
        if k == 0 and near > 0.0 and on_way(cars, i, lane):
            room = max(room, 10.0 + 1.5 * max(cars.v[i, 0], v))
        if x * x + y * y < room * room:
            cars.lane[i, j] = -1
            return False
    cars.v[i, j], cars.a[i, j] = v, 0.0
    cars.claim[i, j] = cars.halted[i, j] = 0
    cars.wait[i, j] = 0
    following = lane
    for n in range(AHEAD):
        following = choose(roads, rows, i, following)
        cars.ahead[i, j, n] = following
    return True


@inlined
def place_ego(ways: Ways, roads: Roads, cars: Cars, rows: Rows, i: int, ego: Any) -> None:
    """Write where the ego vehicle is: in the world, and on the lanes of its route."""
    s, d, psi, v = ego
    r = rows.route[i]
    last = ways.lane.shape[1] - 1
    at = min(max(s / ways.spacing, 0.0), last - 1e-6)
    whole = int(at)
    share = at - whole
    pose = ways.pose[r]
    heading = pose[whole, 3] + share * (pose[whole + 1, 3] - pose[whole, 3])
    x = pose[whole, 0] + share * (pose[whole + 1, 0] - pose[whole, 0]) - d * np.sin(heading)
    y = pose[whole, 1] + share * (pose[whole + 1, 1] - pose[whole, 1]) + d * np.cos(heading)
    turned = heading + psi
    cars.pose[i, 0, 0] = x + CENTRE * np.cos(turned)
    cars.pose[i, 0, 1] = y + CENTRE * np.sin(turned)
    cars.pose[i, 0, 2] = pose[whole, 2] + share * (pose[whole + 1, 2] - pose[whole, 2])
    cars.pose[i, 0, 3] = turned
    whole = int(min(max((s + CENTRE) / ways.spacing, 0.0), last - 1e-6))
    along = s + CENTRE - whole * ways.spacing
    lane = ways.lane[r, whole]
    if lane != cars.lane[i, 0] and roads.junction[lane] < 0:
        cars.claim[i, 0] = cars.halted[i, 0] = 0
        cars.wait[i, 0] = 0
    cars.lane[i, 0] = lane
    cars.s[i, 0] = min(ways.lane_s[r, whole] + along, roads.length[lane])
    cars.a[i, 0], cars.v[i, 0] = (v - cars.v[i, 0]) / DT, v
    rows.other[i], rows.other_s[i] = ways.other[r, whole], ways.other_s[r, whole] + along
    known, n = lane, 0
    for q in range(ways.piece_lane.shape[1]):
        following = ways.piece_lane[r, q]
        if following < 0 or n == AHEAD:
            break
        if ways.piece_at[r, q, 0] > s + CENTRE and following != known:
            cars.ahead[i, 0, n] = known = following
            n += 1
    while n < AHEAD:
        cars.ahead[i, 0, n] = -1
        n += 1


@inlined
def signals(ways: Ways, roads: Roads, cars: Cars, rows: Rows, i: int, s: float) -> None:
    """Judge the ego vehicle at the stop lines of its route, and look at the next one."""
    r, front = rows.route[i], s + FRONT
    if cars.v[i, 0] < 0.3 and ways.stop_at[r, rows.stop[i]] - front < 4.0:
        cars.halted[i, 0] = 1
    while rows.stop[i] < ways.stop_at.shape[1] - 1 and front > ways.stop_at[r, rows.stop[i]]:
        shown = shows(roads, ways.stop_signal[r, rows.stop[i]], rows.clock[i])
        if shown == 3 and rows.event[i] == 0:
            rows.event[i] = RED_LIGHT
        if shown == 4 and not cars.halted[i, 0] and rows.event[i] == 0:
            rows.event[i] = STOP_SIGN
        rows.stop[i] += 1
    gap = ways.stop_at[r, rows.stop[i]] - front
    rows.signal_gap[i], rows.light[i] = NOTHING, 0
    if gap < NOTHING:
        rows.signal_gap[i] = gap
        rows.light[i] = shows(roads, ways.stop_signal[r, rows.stop[i]], rows.clock[i])


@inlined
def look(ways: Ways, cars: Cars, rows: Rows, i: int, s: float) -> None:
    """Find the vehicle ahead of the ego vehicle on its path."""
    r, middle = rows.route[i], s + CENTRE
    rows.lead_gap[i], rows.lead_v[i], rows.lead_a[i], rows.lead[i] = NOTHING, 0.0, 0.0, -1
    for q in range(ways.piece_lane.shape[1]):
        at = ways.piece_at[r, q]
        if ways.piece_lane[r, q] < 0 or at[0] > middle + NOTHING:
            break
        if at[1] < middle:
            continue
        for k in range(1, cars.lane.shape[1]):
            lane = cars.lane[i, k]
            if lane < 0:
                continue
            if lane == ways.piece_lane[r, q]:
                begin, end = at[2], at[3]
            elif lane == ways.piece_other[r, q]:
                begin, end = at[4], at[5]
            else:
                continue
            place = cars.s[i, k]
            if place < begin - 0.5 or place > end + 0.5 or end - begin < 1e-6:
                continue
            away = at[0] + (place - begin) / (end - begin) * (at[1] - at[0]) - middle
            gap = away - 0.5 * (EGO_LENGTH + cars.length[i, k])
            if away > 0.0 and gap < rows.lead_gap[i]:
                rows.lead_gap[i], rows.lead[i] = gap, k
                rows.lead_v[i], rows.lead_a[i] = cars.v[i, k], cars.a[i, k]


@inlined
def reach(pose: Array, other: Array, length: float, width: float, axis: float) -> bool:
    """Tell whether a gap parts two bodies along a direction (rad): the ego's and another's."""
    x, y = np.cos(axis), np.sin(axis)
    away = abs((other[0] - pose[0]) * x + (other[1] - pose[1]) * y)
    own = 0.5 * (EGO_LENGTH * abs(np.cos(pose[3] - axis)) + EGO_WIDTH * abs(np.sin(pose[3] - axis)))
    its = 0.5 * (length * abs(np.cos(other[3] - axis)) + width * abs(np.sin(other[3] - axis)))
    return bool(away > own + its)


@inlined
def collided(cars: Cars, i: int) -> bool:
    """Tell whether the ego vehicle touches another one (separating axes of two rectangles)."""
    pose = cars.pose[i, 0]
    for k in range(1, cars.lane.shape[1]):
        if cars.lane[i, k] < 0:
            continue
        other, length, width = cars.pose[i, k], cars.length[i, k], cars.width[i, k]
        x, y = other[0] - pose[0], other[1] - pose[1]
        if x * x + y * y > 0.25 * (EGO_LENGTH + length + 4.0) ** 2 or abs(other[2] - pose[2]) > 3.0:
            continue
        apart = False
        for axis in (pose[3], pose[3] + 0.5 * np.pi, other[3], other[3] + 0.5 * np.pi):
            apart = apart or reach(pose, other, length, width, axis)
        if not apart:
            return True
    return False


def step(begin: int, end: int, ways: Ways, roads: Roads, cars: Cars, rows: Rows, ego: Any) -> None:
    """Advance everything but the ego vehicles in rows from ``begin`` to ``end``.

    ``ego`` has arc length, offset, heading and speed of the ego vehicles, each (N,).
    """
    for i in range(begin, end):
        rows.clock[i] += DT
        rows.event[i] = 0
        state = (float(ego[0][i]), float(ego[1][i]), float(ego[2][i]), float(ego[3][i]))
        place_ego(ways, roads, cars, rows, i, state)
        signals(ways, roads, cars, rows, i, state[0])
        for j in range(1, cars.lane.shape[1]):
            if cars.lane[i, j] >= 0:
                drive(roads, cars, rows, i, j)
            else:
                come_in(roads, cars, rows, i, j, NEAR)
        if collided(cars, i):
            rows.event[i] = COLLISION
        look(ways, cars, rows, i, state[0])
        rows.stop_gap[i] = must_stop(roads, cars, rows, i, 0)
        rows.held[i] = rows.stop_gap[i] < 12.0 or rows.lead_gap[i] < 12.0


def start(
    which: Array, lead: Array, ways: Ways, roads: Roads, cars: Cars, rows: Rows, ego: Any
) -> None:
    """Fill the rows ``which`` (n,) for a new episode.

    ``lead`` (n,) are places on the path (m) where a vehicle is put first, or negative.
    """
    for n in range(len(which)):
        i = which[n]
        rows.stop[i] = rows.event[i] = 0
        state = (float(ego[0][i]), float(ego[1][i]), float(ego[2][i]), float(ego[3][i]))
        cars.lane[i, :] = -1
        cars.claim[i, :] = cars.halted[i, :] = 0
        cars.wait[i, :] = 0
        cars.v[i, 0] = state[3]
        cars.length[i, 0], cars.width[i, 0] = EGO_LENGTH, EGO_WIDTH
        place_ego(ways, roads, cars, rows, i, state)
        signals(ways, roads, cars, rows, i, state[0])
        rows.event[i] = 0
        first = 1
        if lead[n] > 0.0 and cars.lane.shape[1] > 1:
            knot = min(int(lead[n] / ways.spacing), ways.lane.shape[1] - 2)
            lane, s = ways.lane[rows.route[i], knot], ways.lane_s[rows.route[i], knot]
            if place(roads, cars, rows, i, 1, lane, s, 0.0):
                # As fast as the ego vehicle at first, and then a little slower.
                at, share = at_place(roads, lane, s)
                cars.v[i, 1] = state[3]
                cars.eager[i, 1] = 0.95 * state[3] / between(roads.cruise, at, share)
                first = 2
        for j in range(first, cars.lane.shape[1]):
            for _ in range(12):
                if come_in(roads, cars, rows, i, j, 15.0):
                    break
        look(ways, cars, rows, i, state[0])
        rows.stop_gap[i] = must_stop(roads, cars, rows, i, 0)
        rows.held[i] = True


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
    return Roads(
        start=m.lane_start, x=m.points[:, 0].copy(), y=m.points[:, 1].copy(),
        z=m.points[:, 2].copy(), heading=m.heading, cruise=cruise(m, net), length=m.lane_length,
        junction=m.lane_junction,
        next_start=_starts([len(n) for n in lasting]),
        following=np.array([n for after in lasting for n in after], np.int32),
        entry=entry, rank=rank,
        cross_start=_starts(np.bincount(m.conflicts[:, 0], minlength=m.lanes)),
        cross=pairs[:, 1].copy(),
        cross_until=np.array([until.get((b, a), np.inf) for a, b in pairs.tolist()], float),
        stop_s=stop_s, stop_signal=stop_signal, signal_kind=m.signal_kind,
        signal_phase=m.signal_phase, signal_phases=phases.astype(np.int32), **_spawns(m, net),
    )  # fmt: skip


def _starts(counts: Any) -> Array:
    return np.concatenate([[0], np.cumsum(np.asarray(counts, int))]).astype(np.int32)


def cruise(m: RoadMap, net: Network) -> Array:
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


def _spawns(m: RoadMap, net: Network) -> dict[str, Array]:
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
        "spawn_lane": np.array(lanes, np.int32), "spawn_s": np.array(places, float),
        "cell_start": _starts(np.bincount(cell, minlength=columns * count)),
        "cell_spawn": np.argsort(cell, kind="stable").astype(np.int32),
        "grid": np.array([corner[0], corner[1], columns, count], float),
    }  # fmt: skip


def ways_of(routes: Routes) -> Ways:
    """Return what the loops need of the routes."""
    return Ways(*(getattr(routes, name) for name in Ways._fields))


def empty(rows: int, vehicles: int) -> tuple[Cars, Rows]:
    """Return the arrays of N rows with so many vehicles each, the ego vehicle included."""
    shape = (rows, vehicles)
    numbers = {
        "lane": np.int32,
        "kind": np.int8,
        "claim": np.int8,
        "halted": np.int8,
        "wait": np.int32,
    }
    more: dict[str, tuple[int, ...]] = {"ahead": (AHEAD,), "pose": (4,)}
    numbers["ahead"] = np.int32
    cars = Cars(
        *(np.zeros((*shape, *more.get(n, ())), numbers.get(n, np.float64)) for n in Cars._fields)
    )
    cars.lane[:] = -1
    whole = {"route", "random", "stop", "other", "event", "lead", "light"}
    kinds: dict[str, Any] = dict.fromkeys(whole, np.int64) | {"held": np.bool_}
    return cars, Rows(*(np.zeros(rows, kinds.get(n, np.float64)) for n in Rows._fields))
