"""Routes over a map: where episodes are driven, as tables over the way like KinematicDriver's roads.

A route is a chain of lanes, with turns at junctions and lane changes. Its planned path follows the
middle of the lanes, smoothed over some metres, since the curvature of lanes may jump and that of
cars may not. All routes of a scenario on a map are made once, from a seed of their own, and kept.
"""

from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from steerlab.envs.carla_driver.scenarios import Scenario
from steerlab.envs.kinematic_driver.dynamics import DT
from steerlab.envs.kinematic_driver.randomization import (
    CHANGE_LEFT,
    CHANGE_RIGHT,
    KEEP_LEFT,
    KEEP_RIGHT,
    NONE,
    TURN_LEFT,
    TURN_RIGHT,
)
from steerlab.envs.kinematic_driver.roads import HORIZON, START, WIDENING
from steerlab.envs.maps.road_map import TURNS, RoadMap
from steerlab.errors import InputError
from steerlab.types import Array

COUNT = 192  # routes of a scenario on a map
SAMPLE = 0.5  # m between the points that are smoothed
SMOOTHING = 5.0  # m; the path is averaged twice over this length
SHORTEST = 120.0  # m of a route
FAR = 2000.0  # m; ways that lead at least as far count as endless
NARROWEST = 2.4  # m of a lane that an episode begins on or that is changed to
#: Time of a lane change (s), and how long before it the driver announces it. Together they fit into the 5 s
#: that a policy remembers: a car between two lanes whose announcement is forgotten cannot know its way.
CHANGE_TIME, ANNOUNCED = (3.5, 4.25), 0.5
DOOMED = 400.0  # m; a lane that ends sooner is left if another one leads on
DESIRES, STOPS, PIECES = 24, 40, 160  # most of a route


@dataclass(frozen=True)
class Routes:
    """R routes of K knots that are ``spacing`` m apart.

    Attributes:
        spacing: Distance between knots, m.
        view: As ``roads.Roads.view``, without the shoulder, (R, K, 8) float32.
        curvature: 1/m at the knots, and its slope (1/m^2), (R, K) float32.
        limit: Speed limit, m/s, (R, K) float32.
        pose: x, y, z (m), heading (rad) and slope of the path in the world, (R, K, 5).
        lane: Lane of the map that a car on the path is on, (R, K), and how far along it, m.
        other: The second lane that it is on in a lane change, or -1, (R, K), and how far, m.
        end: Where a route ends, m, (R,).
        desire: Desire by number, -1 behind the last, (R, DESIRES).
        desire_at: Where it begins and ends, m, (R, DESIRES, 2).
        stop_at: Where the front has to stop for a signal, m, infinity behind the last, (R, STOPS).
        stop_signal: Signal of the map, (R, STOPS).
        piece_lane: Lanes of the route in order, -1 behind the last, (R, PIECES).
        piece_other: Lane that a piece changes to, or -1, (R, PIECES).
        piece_at: Where a piece begins and where it ends, m: on the path, on the lane, and on the lane
            that it changes to, (R, PIECES, 6).
    """

    spacing: float
    view: Array
    curvature: Array
    slope: Array
    limit: Array
    pose: Array
    lane: Array
    lane_s: Array
    other: Array
    other_s: Array
    end: Array
    desire: Array
    desire_at: Array
    stop_at: Array
    stop_signal: Array
    piece_lane: Array
    piece_other: Array
    piece_at: Array

    @property
    def knots(self) -> int:
        """The number of knots K."""
        return self.view.shape[1]


def knots_for(scenario: Scenario, steps: int) -> tuple[int, float]:
    """Return how many knots a route needs, and how far apart they are, m."""
    spacing = 1.0 if scenario.speed[1] < 20.0 else 2.0
    length = START + HORIZON + 1.1 * scenario.speed[1] * steps * DT + 10.0
    return int(np.ceil(length / spacing)) + 2, spacing


class Network:
    """What walks over a map need to know of its lanes."""

    def __init__(self, m: RoadMap) -> None:
        self.map = m
        self.length = m.lane_length
        self.after = [m.successors[a:b].tolist() for a, b in pairwise(m.successor_start.tolist())]
        self.before: list[list[int]] = [[] for _ in range(m.lanes)]
        for lane, following in enumerate(self.after):
            for other in following:
                self.before[other].append(lane)
        self.turn = np.full(m.lanes, -1)
        self.turn[m.connections[:, 2]] = m.connection_turn
        self.reach = self._reach()
        self.trees: dict[int, Any] = {}
        self.narrow = np.minimum.reduceat(m.width, m.lane_start[:-1]) < NARROWEST

    def _reach(self) -> Array:
        """Return how far the way goes on from the begin of each lane, at most :data:`FAR` m."""
        m, reach = self.map, np.zeros(self.map.lanes)
        source = np.repeat(np.arange(m.lanes), np.diff(m.successor_start))
        while True:
            beyond = np.zeros(m.lanes)
            np.maximum.at(beyond, source, reach[m.successors])
            new = np.minimum(self.length + beyond, FAR)
            if np.array_equal(new, reach):
                return reach
            reach = new

    def neighbour(self, lane: int | np.integer[Any]) -> list[int]:
        """Return the lanes beside ``lane`` in the same direction."""
        m = self.map
        return [int(n) for n in (m.lane_left[lane], m.lane_right[lane]) if n >= 0]

    def across(self, lane: int, s: Array, other: int) -> Array:
        """Return the places on ``other`` beside the places ``s`` (n,) on ``lane``, m."""
        m = self.map
        here, there = m.lane(lane), m.lane(other)
        points = _along(m.s[here], m.points[here], s)
        if other not in self.trees:
            self.trees[other] = cKDTree(m.points[there, :2])
        nearest = self.trees[other].query(points[:, :2])[1]
        off, heading = points - m.points[there][nearest], m.heading[there][nearest]
        ahead = off[:, 0] * np.cos(heading) + off[:, 1] * np.sin(heading)
        return np.asarray(np.clip(m.s[there][nearest] + ahead, 0.0, self.length[other]))

    def doomed(self, lane: int | np.integer[Any], s: float) -> bool:
        """Tell whether ``lane`` ends soon after ``s`` while a lane beside it leads on."""
        left = self.reach[lane] - s
        return left < DOOMED and any(self.reach[n] - s > left + 100 for n in self.neighbour(lane))


@dataclass
class _Walk:
    """A way over lanes: pieces of (lane, begin, end), and the lane changed to at the end, or -1."""

    pieces: list[tuple[int, float, float, int]] = field(default_factory=list)
    desires: list[tuple[int, int]] = field(default_factory=list)  # desire, number of its piece
    length: float = 0.0

    def add(self, lane: int, begin: float, end: float, change: int = -1) -> None:
        self.pieces.append((lane, begin, end, change))
        self.length += end - begin


def walk(
    net: Network, scenario: Scenario, lane: int, s: float, need: float, rng: np.random.Generator
) -> _Walk:
    """Return a way of at least ``need`` m from ``s`` on ``lane``, shorter where the roads end."""
    way, m = _Walk(), net.map
    while way.length < need and len(way.pieces) < PIECES - 4:
        beside = _change(net, scenario, lane, s, rng)
        if beside is not None:
            other, begin, end = beside
            if begin > s + 0.5:
                way.add(lane, s, begin)
            side = CHANGE_LEFT if other == m.lane_left[lane] else CHANGE_RIGHT
            way.desires.append((side, len(way.pieces)))
            way.add(lane, begin, end, other)
            lane, s = other, float(net.across(lane, np.array([end]), other)[0])
            continue
        if net.length[lane] - s > 1e-6:
            way.add(lane, s, float(net.length[lane]))
        if not net.after[lane]:
            break
        lane, desire = _branch(net, scenario, lane, rng)
        s = 0.0
        if desire != NONE:
            way.desires.append((desire, len(way.pieces)))
    return way


def _change(
    net: Network, scenario: Scenario, lane: int, s: float, rng: np.random.Generator
) -> tuple[int, float, float] | None:
    """Return a lane to change to and from where to where on the present one, or None."""
    room = float(net.length[lane]) - s
    doomed = net.doomed(lane, s)
    options = [
        n
        for n in net.neighbour(lane)
        if net.reach[n] > net.reach[lane] - DOOMED / 2 and not net.narrow[n]
    ]
    if doomed:
        options = [n for n in options if not net.doomed(n, s)]
    needed = 25.0 if doomed else 60.0
    taken = doomed or (rng.random() < scenario.lane_changes and room > needed + 20)
    if not options or room < needed or not taken:
        return None
    other = options[int(rng.integers(len(options)))]
    speed = min(float(net.map.lane_limit[lane]), scenario.speed[1])
    length = float(np.clip(rng.uniform(*CHANGE_TIME) * speed, 25.0, 0.8 * room))
    begin = s + float(rng.uniform(0.05, 0.5 if doomed else 1.0)) * (room - length)
    return other, begin, begin + length


def _branch(
    net: Network, scenario: Scenario, lane: int, rng: np.random.Generator
) -> tuple[int, int]:
    """Return the lane to go on with after ``lane``, and the desire for the branch."""
    options = np.array(net.after[lane])
    turns = net.turn[options]
    weights = np.where(turns < 0, 1.0, np.array([*scenario.turns, 1.0])[turns])
    lasting = net.reach[options] >= min(DOOMED, net.reach[options].max())
    weights = np.where(lasting, weights, 0.0)
    if weights.sum() <= 0:
        weights = np.where(lasting, 1.0, 0.0)
    chosen = int(rng.choice(len(options), p=weights / weights.sum()))
    turn = int(turns[chosen])
    if turn > 0:
        return int(options[chosen]), TURN_LEFT if TURNS[turn] == "left" else TURN_RIGHT
    straight = options[turns <= 0]
    if len(straight) < 2:
        return int(options[chosen]), NONE
    m = net.map
    end, heading = m.points[m.lane(lane).stop - 1], m.heading[m.lane(lane).stop - 1]
    off = m.points[m.lane_start[straight + 1] - 1] - end
    right = off[:, 1] * np.cos(heading) - off[:, 0] * np.sin(heading)
    own = float(right[straight == options[chosen]][0])
    keep = KEEP_RIGHT if own >= right.max() else KEEP_LEFT if own <= right.min() else NONE
    return int(options[chosen]), keep


def starts(net: Network, scenario: Scenario) -> NDArray[np.intp]:
    """Return the lanes by which a scenario's spawn rule goes.

    Raises:
        InputError: The map has no such lane.
    """
    m = net.map
    usable = m.drivable & (m.lane_junction < 0) & ~net.narrow
    if scenario.spawn == "junction":
        lanes = np.unique(m.connections[:, 1]).astype(np.intp)
        what = "junction to drive through"
    elif scenario.spawn == "merge":
        merging = [i for i in np.flatnonzero(usable) if net.doomed(i, 0.0) and net.length[i] > 40]
        lanes = np.array([i for i in merging if not set(net.before[i]) & set(merging)], int)
        what = "lane that ends beside one that leads on"
    else:
        lanes = np.flatnonzero(usable)
        what = "lane"
    low, high = scenario.limits
    lanes = lanes[usable[lanes] & (m.lane_limit[lanes] >= low) & (m.lane_limit[lanes] <= high)]
    if not len(lanes):
        raise InputError(
            f"map {m.name!r} has no {what} with a speed limit within {list(scenario.limits)} m/s, "
            f"which scenario {scenario.name!r} needs"
        )
    return lanes


def _begin(
    net: Network, scenario: Scenario, lanes: NDArray[np.intp], rng: np.random.Generator
) -> tuple[int, float]:
    """Return where a route begins: lane and place along it."""
    if scenario.spawn == "anywhere":
        weights = net.length[lanes] / net.length[lanes].sum()
        lane = int(rng.choice(lanes, p=weights))
        return lane, float(rng.uniform(0, max(net.length[lane] - 5.0, 0.0)))
    lane = int(rng.choice(lanes))
    s = (0.0 if scenario.spawn == "merge" else float(net.length[lane])) - rng.uniform(
        *scenario.approach
    )
    while s < 0 and net.before[lane]:
        lane = int(rng.choice(net.before[lane]))
        s += float(net.length[lane])
    return lane, max(float(s), 0.0)


@lru_cache(maxsize=16)
def _kept(key: tuple[str, str, int]) -> dict[str, Routes]:
    return {}


def routes_of(m: RoadMap, scenario: Scenario, steps: int) -> Routes:
    """Return the routes of a scenario on a map, from the memory of the process if they are there.

    Raises:
        InputError: The map does not offer what the scenario needs.
    """
    kept = _kept((m.hash, repr(scenario), steps))
    if "routes" not in kept:
        kept["routes"] = make_routes(m, scenario, steps)
    return kept["routes"]


def make_routes(m: RoadMap, scenario: Scenario, steps: int, count: int = COUNT) -> Routes:
    """Return ``count`` routes; see :func:`routes_of`."""
    net, rng = Network(m), np.random.default_rng(20261128)
    knots, spacing = knots_for(scenario, steps)
    need = knots * spacing + 2 * SMOOTHING
    lanes, tables = starts(net, scenario), []
    for _ in range(20 * count):
        way = walk(net, scenario, *_begin(net, scenario, lanes, rng), need, rng)
        if way.length >= SHORTEST:
            tables.append(_table(net, way, knots, spacing))
        if len(tables) == count:
            break
    if not tables:
        raise InputError(
            f"map {m.name!r} has no way of {SHORTEST:.0f} m for scenario {scenario.name!r}"
        )
    columns = {name: np.stack([table[name] for table in tables]) for name in tables[0]}
    return Routes(spacing=spacing, **columns)


@dataclass
class _Line:
    """The raw path of a way at points some decimetres apart."""

    points: Array  # (n, 3)
    room: Array  # (n, 2) m to the left and to the right boundary
    limit: Array
    lane: Array
    lane_s: Array
    other: Array
    other_s: Array
    at: Array  # (n,) m along
    piece: Array  # (n,) number of the piece


def _line(net: Network, way: _Walk) -> _Line:
    m, parts, at = net.map, [], 0.0
    for number, (lane, begin, end, change) in enumerate(way.pieces):
        count = max(int(np.ceil((end - begin) / SAMPLE)), 1)
        last = number == len(way.pieces) - 1
        share = np.arange(count + last) / count
        s = begin + (end - begin) * share
        part = m.lane(lane)
        points = _along(m.s[part], m.points[part], s)
        half = 0.5 * np.interp(s, m.s[part], m.width[part])
        room = np.stack([half, half], 1)
        other, other_s = np.full(len(s), -1), np.zeros(len(s))
        if change >= 0:
            beside, other_s = m.lane(change), net.across(lane, s, change)
            target = _along(m.s[beside], m.points[beside], other_s)
            moved = share**3 * (10 + share * (6 * share - 15))
            distance = np.linalg.norm(target - points, axis=1)
            far = 0.5 * np.interp(other_s, m.s[beside], m.width[beside])
            to_left = change == m.lane_left[lane]
            room[:, 0 if to_left else 1] = far + distance * (1 - moved)
            room[:, 1 if to_left else 0] = half + distance * moved
            points = points + moved[:, None] * (target - points)
            other = np.full(len(s), change)
        limit = np.full(len(s), m.lane_limit[lane])
        where = at + (end - begin) * share
        at += end - begin
        own = np.full(len(s), lane)
        number_of = np.full(len(s), number)
        parts.append((points, room, limit, own, s, other, other_s, where, number_of))
    return _Line(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _along(s: Array, values: Array, at: Array) -> Array:
    """Return rows of ``values`` (n, 3) at places between those of ``s`` (n,)."""
    return np.stack([np.interp(at, s, values[:, c]) for c in range(values.shape[1])], 1)


def _smooth(values: Array) -> Array:
    """Average ``values`` (n, c) twice over :data:`SMOOTHING`; both ends go on straight."""
    width = int(SMOOTHING / SAMPLE) | 1
    pad = width
    index = np.arange(1, pad + 1)
    head = values[0] - index[::-1, None] * (values[1] - values[0])
    tail = values[-1] + index[:, None] * (values[-1] - values[-2])
    padded = np.concatenate([head, values, tail])
    for _ in range(2):
        sums = np.cumsum(np.concatenate([np.zeros((1, padded.shape[1])), padded]), axis=0)
        padded = (sums[width:] - sums[:-width]) / width
    cut = (len(padded) - len(values)) // 2
    return padded[cut : cut + len(values)]


def _table(net: Network, way: _Walk, knots: int, spacing: float) -> dict[str, Array]:
    """Return one route as the rows of the arrays of :class:`Routes`."""
    raw = _line(net, way)
    even = np.arange(0.0, raw.at[-1], SAMPLE)
    points = _along(raw.at, raw.points, even)
    smooth = _smooth(points)
    step = np.gradient(smooth[:, :2], axis=0)
    heading = np.unwrap(np.arctan2(step[:, 1], step[:, 0]))
    aside = smooth - points
    shift = aside[:, 1] * np.cos(heading) - aside[:, 0] * np.sin(heading)
    room = _smooth(_along(raw.at, raw.room, even)) + np.stack([shift, -shift], 1)
    path = np.concatenate(
        [[0.0], np.cumsum(np.linalg.norm(np.diff(smooth[:, :2], axis=0), axis=1))]
    )

    at = spacing * np.arange(knots)
    length = float(path[-1])
    beyond = np.maximum(at - length, 0.0)  # the road goes on straight behind its end
    x, y, z = _along(path, smooth, at).T
    turned = np.interp(at, path, heading)
    x, y = x + beyond * np.cos(turned), y + beyond * np.sin(turned)
    mean = np.append(np.diff(turned) / spacing, 0.0)
    curvature = 0.5 * (mean + np.concatenate([mean[:1], mean[:-1]]))
    slope = np.append(np.diff(curvature) / spacing, 0.0)
    sides = _along(path, room, at) + WIDENING * np.abs(curvature)[:, None]
    rise = np.append(np.diff(sides, axis=0) / spacing, np.zeros((1, 2)), axis=0)
    view = np.stack([x, y, turned, mean, sides[:, 0], rise[:, 0], sides[:, 1], rise[:, 1]], 1)

    # From places on the path back to the lanes.
    where = np.interp(at, path, even)
    sample = np.clip(np.searchsorted(raw.at, where, side="right") - 1, 0, len(raw.at) - 1)
    return {
        "view": view.astype(np.float32),
        "curvature": curvature.astype(np.float32),
        "slope": slope.astype(np.float32),
        "limit": raw.limit[sample].astype(np.float32),
        "pose": np.stack([x, y, z, turned, np.gradient(z, at)], 1),
        "lane": raw.lane[sample].astype(np.int32),
        "lane_s": raw.lane_s[sample] + (where - raw.at[sample]),
        "other": raw.other[sample].astype(np.int32),
        "other_s": raw.other_s[sample] + (where - raw.at[sample]),
        "end": np.float64(min(at[-1] - HORIZON - 10.0, length - 8.0)),
        **_marks(net, way, raw, even, path),
    }


def _marks(net: Network, way: _Walk, raw: _Line, even: Array, path: Array) -> dict[str, Array]:
    """Return desires, stops and pieces of a route."""
    m = net.map
    starts = np.append(raw.at[np.searchsorted(raw.piece, np.arange(len(way.pieces)))], raw.at[-1])
    edges = np.interp(starts, even, path)
    piece_lane, piece_other = np.full((2, PIECES), -1, np.int32)
    piece_at = np.zeros((PIECES, 6))
    stops: list[tuple[float, int]] = []
    owner = np.repeat(np.arange(len(m.signal_kind)), np.diff(m.stop_start))
    for i, (lane, begin, end, change) in enumerate(way.pieces):
        piece_lane[i], piece_other[i] = lane, change
        piece_at[i, :4] = edges[i], edges[i + 1], begin, end
        if change >= 0:
            piece_at[i, 4:] = net.across(lane, np.array([begin, end]), change)
        for stop in np.flatnonzero(m.stop_lane == lane):
            if begin <= m.stop_s[stop] < end:
                at = starts[i] + m.stop_s[stop] - begin
                stops.append((float(np.interp(at, even, path)), int(owner[stop])))
    stop_at, stop_signal = np.full(STOPS, np.inf), np.full(STOPS, -1, np.int32)
    for i, (at, signal) in enumerate(sorted(stops)[:STOPS]):
        stop_at[i], stop_signal[i] = at, signal
    desire, desire_at = np.full(DESIRES, -1, np.int32), np.full((DESIRES, 2), np.inf)
    for i, (wanted, piece) in enumerate(way.desires[:DESIRES]):
        if piece >= len(way.pieces):
            break
        speed = float(m.lane_limit[way.pieces[piece][0]])
        desire[i] = wanted
        early = (
            ANNOUNCED * speed if wanted in (CHANGE_LEFT, CHANGE_RIGHT) else max(15.0, 2.0 * speed)
        )
        desire_at[i] = edges[piece] - early, edges[piece + 1]
    return {
        "piece_lane": piece_lane, "piece_other": piece_other, "piece_at": piece_at, "stop_at": stop_at,
        "stop_signal": stop_signal, "desire": desire, "desire_at": desire_at,
    }  # fmt: skip
