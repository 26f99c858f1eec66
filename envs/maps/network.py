"""From single lanes and signals to a whole :class:`RoadMap`: what both makers of maps share.

A maker (the reader of OpenDRIVE, the procedural maps) hands over lanes with their geometry and
links. Here follow what can be concluded from them: curvature, the edges of the road surface, the
turns through junctions, which of those cross, and the phases of traffic lights.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steerlab.envs.maps.road_map import (
    DRIVABLE,
    EDGE_KINDS,
    LANE_KINDS,
    MARKINGS,
    PAVED,
    SIGNAL_KINDS,
    RoadMap,
    validate,
)
from steerlab.types import Floats

STEP, JUNCTION_STEP = 1.0, 0.5  # m, largest distance between the points of a lane
TOUCH = 2.3  # m between centre lines, below which cars side by side would touch
BEYOND = 0.3  # m from an edge, where nothing may be paved
TURN = np.radians(35)  # change of heading that makes a way through a junction a turn

#: Road, lane section and lane number of OpenDRIVE.
Key = tuple[int, int, int]


@dataclass
class Profile:
    """What a lane is at n places, in its direction of travel."""

    points: Floats  # (n, 3) m
    heading: Floats  # (n,) rad
    width: Floats  # (n,) m
    markings: NDArray[np.int8]  # (n, 4): left type, right type, left colour, right colour


@dataclass
class Lane:
    """One lane with its neighbours by key."""

    key: Key
    kind: int
    profile: Profile
    junction: int = -1  # number in the file
    limit: float = 50 / 3.6  # m/s
    left: Key | None = None
    right: Key | None = None
    opposite: Key | None = None
    successors: list[Key] = field(default_factory=list)


@dataclass
class Signal:
    """A traffic light or sign, and where cars have to stop for it."""

    kind: int
    position: tuple[float, float, float]
    heading: float
    value: float = 0.0
    stops: list[tuple[Key, float]] = field(default_factory=list)


def even_places(
    locate: Callable[[Floats, bool], Profile], begin: float, end: float, step: float
) -> Any:
    """Return the profile of a lane at points that are equally far apart along it.

    Args:
        locate: Profile at places along the reference line, in the order given; the second argument
            says whether its lines are wanted.
        begin: Where the lane begins on the reference line, m.
        end: Where it ends, below ``begin`` for lanes against its direction.
        step: Largest distance between points, m.
    """
    places = np.linspace(begin, end, max(int(np.ceil(abs(end - begin) / step)), 4) + 1)
    way = np.concatenate([[0.0], np.cumsum(arc_lengths(locate(places, False)))])
    count = max(int(np.ceil(way[-1] / step)), 1) + 1
    return locate(np.interp(np.linspace(0, way[-1], count), way, places), True)


def arc_lengths(profile: Profile) -> Floats:
    """Return the way from each point to the next, as arcs rather than chords, m."""
    chord = np.linalg.norm(np.diff(profile.points, axis=0), axis=1)
    bend = np.minimum(np.abs(np.diff(np.unwrap(profile.heading))), 1.0)
    return chord * (1 + bend**2 / 24)


def build(
    name: str, lanes: Sequence[Lane], signals: Sequence[Signal], left_hand_traffic: bool = False
) -> RoadMap:
    """Return the map of ``lanes`` and ``signals``.

    Raises:
        InputError: There is no lane to drive on, or a number is not finite.
    """
    # In one order, whoever made them, so that the same roads are the same map.
    lanes = [lane for lane in lanes if arc_lengths(lane.profile).sum() > 1e-3]
    lanes.sort(key=lambda lane: lane.key)
    signals = sorted(signals, key=_signal_order)
    index = {lane.key: i for i, lane in enumerate(lanes)}

    def number(key: Key | None) -> int:
        return index.get(key, -1) if key is not None else -1

    junction_ids = sorted({lane.junction for lane in lanes if lane.junction >= 0})
    junction = [junction_ids.index(lane.junction) if lane.junction >= 0 else -1 for lane in lanes]
    after = [sorted({index[k] for k in lane.successors if k in index}) for lane in lanes]
    geometry = _geometry(lanes)
    arrays: dict[str, Any] = {
        **geometry,
        "lane_kind": np.array([lane.kind for lane in lanes], np.int8),
        "lane_junction": np.array(junction, np.int32),
        "lane_left": np.array([number(lane.left) for lane in lanes], np.int32),
        "lane_right": np.array([number(lane.right) for lane in lanes], np.int32),
        "lane_opposite": np.array([number(lane.opposite) for lane in lanes], np.int32),
        "lane_limit": np.array([lane.limit for lane in lanes], np.float64),
        "lane_source": np.array([lane.key for lane in lanes], np.int32).reshape(-1, 3),
        "successor_start": _starts([len(a) for a in after]),
        "successors": np.array([lane for a in after for lane in a], np.int32),
        "junction_id": np.array(junction_ids, np.int32),
    }
    view = _View(lanes, after, junction, geometry)
    arrays |= _edges(view, left_hand_traffic)
    arrays |= _connections(view)
    arrays |= _conflicts(view, len(junction_ids))
    arrays |= _signals(view, signals, index, len(junction_ids))
    return validate(RoadMap(name=name, left_hand_traffic=left_hand_traffic, **arrays))


def _signal_order(signal: Signal) -> tuple[Any, ...]:
    signal.stops.sort()
    keys = [key for key, _ in signal.stops]
    return signal.kind, keys, [round(value, 1) for value in signal.position]


def _starts(counts: Sequence[int]) -> NDArray[np.int32]:
    return np.concatenate([[0], np.cumsum(np.asarray(counts, int))]).astype(np.int32)


def _geometry(lanes: Sequence[Lane]) -> dict[str, Any]:
    """Return the arrays over the points of all lanes."""
    parts: dict[str, list[Any]] = {n: [] for n in ("points", "s", "heading", "curvature", "width")}
    markings = [np.zeros((0, 4), np.int8)]
    for lane in lanes:
        profile = lane.profile
        heading = np.unwrap(profile.heading)
        s = np.linspace(0, arc_lengths(profile).sum(), len(heading))
        parts["points"].append(profile.points)
        parts["s"].append(s)
        parts["heading"].append(heading)
        parts["curvature"].append(np.gradient(heading, s))
        parts["width"].append(np.maximum(profile.width, 0.0))
        markings.append(profile.markings)
    arrays: dict[str, Any] = {
        name: np.concatenate([np.zeros((0, 3) if name == "points" else 0), *values])
        for name, values in parts.items()
    }
    columns = np.concatenate(markings).astype(np.int8).T
    names = ("left_marking", "right_marking", "left_colour", "right_colour")
    arrays |= {name: column.copy() for name, column in zip(names, columns, strict=True)}
    arrays["lane_start"] = _starts([len(lane.profile.heading) for lane in lanes])
    return arrays


@dataclass
class _View:
    """Lanes by number, for the conclusions below."""

    lanes: Sequence[Lane]
    after: list[list[int]]
    junction: list[int]
    geometry: dict[str, Any]

    def part(self, lane: int) -> slice:
        start = self.geometry["lane_start"]
        return slice(int(start[lane]), int(start[lane + 1]))

    def boundary(self, lane: int, right: bool, beyond: float = 0.0) -> Floats:
        """Return the points of one side of a lane, or of a line ``beyond`` m further out."""
        part = self.part(lane)
        half = (0.5 * self.geometry["width"][part] + beyond) * (1 if right else -1)
        heading = self.geometry["heading"][part]
        shift = np.stack([-half * np.sin(heading), half * np.cos(heading), 0 * half], 1)
        return np.asarray(self.geometry["points"][part] + shift)


@dataclass
class _Edge:
    """One side of a lane, a line a little further out, and what lies beyond."""

    points: Floats
    beyond: Floats
    kind: int


def _edges(view: _View, left_hand_traffic: bool) -> dict[str, Any]:
    """Return where the paved surface ends, without what lies on other lanes (in junctions)."""
    sections: dict[tuple[int, int], list[int]] = {}
    for i, member in enumerate(view.lanes):
        sections.setdefault(member.key[:2], []).append(i)
    lines: list[_Edge] = []
    for members in sections.values():
        # From the left of the reference line to its right.
        members = sorted(members, key=lambda i: -view.lanes[i].key[2])
        paved = [view.lanes[i].kind in PAVED for i in members]
        for place in range(len(members) + 1):
            inner, outer = place - 1, place
            first = inner >= 0 and paved[inner]
            second = outer < len(members) and paved[outer]
            if first == second:
                continue
            lane, beyond = (members[inner], outer) if first else (members[outer], inner)
            other = members[beyond] if 0 <= beyond < len(members) else None
            # Lanes left of the reference line run against it, so that their sides are swapped.
            against = (view.lanes[lane].key[2] > 0) != left_hand_traffic
            right = first != against
            kind = _edge_kind(view, lane, right, other)
            lines.append(
                _Edge(view.boundary(lane, right), view.boundary(lane, right, BEYOND), kind)
            )
    return _cut(view, lines)


def _edge_kind(view: _View, lane: int, right: bool, other: int | None) -> int:
    markings = view.lanes[lane].profile.markings[:, 1 if right else 0]
    kind = LANE_KINDS[view.lanes[other].kind] if other is not None else "none"
    if kind == "sidewalk" or (markings == MARKINGS.index("curb")).mean() > 0.5:
        return EDGE_KINDS.index("kerb")
    return EDGE_KINDS.index("median" if kind == "median" else "verge")


def _cut(view: _View, lines: list[_Edge]) -> dict[str, Any]:
    """Drop the points of edges beyond which another lane is paved; keep runs of two and more."""
    kept, codes = [], []
    free = ~_covered(view, np.concatenate([np.zeros((0, 3)), *(line.beyond for line in lines)]))
    begin = 0
    for line in lines:
        ok = free[begin : begin + len(line.points)]
        begin += len(ok)
        turns = np.flatnonzero(np.diff(np.concatenate([[0], ok, [0]])))
        for first, last in zip(turns[::2], turns[1::2], strict=True):
            if last - first >= 2:
                kept.append(line.points[first:last])
                codes.append(line.kind)
    return {
        "edge_start": _starts([len(line) for line in kept]),
        "edge_points": np.concatenate([np.zeros((0, 3)), *kept]),
        "edge_kind": np.array(codes, np.int8),
    }


def _covered(view: _View, points: Floats) -> NDArray[np.bool_]:
    """Return which of ``points`` (n, 3) lie on a paved lane."""
    from scipy.spatial import cKDTree

    kinds = np.repeat([lane.kind for lane in view.lanes], np.diff(view.geometry["lane_start"]))
    where = np.flatnonzero(np.isin(kinds, PAVED) & (view.geometry["width"] > 0.2))
    covered = np.zeros(len(points), bool)
    if not where.size:
        return covered
    centre, heading = view.geometry["points"][where], view.geometry["heading"][where]
    width = view.geometry["width"][where]
    tree, reach = cKDTree(centre), 0.5 * float(width.max()) + STEP
    asked, count = np.arange(len(points)), 16
    while asked.size:
        near, at = tree.query(points[asked], k=[*range(1, count + 1)], distance_upper_bound=reach)
        at = np.where(np.isfinite(near), at, 0)
        off = points[asked, None] - centre[at]
        cosine, sine = np.cos(heading[at]), np.sin(heading[at])
        along = np.abs(off[..., 0] * cosine + off[..., 1] * sine)
        across = np.abs(off[..., 1] * cosine - off[..., 0] * sine)
        inside = np.isfinite(near) & (along <= 0.6 * STEP) & (np.abs(off[..., 2]) < 2.0)
        inside &= across < 0.5 * width[at]
        covered[asked] = inside.any(axis=1)
        # In a crossing many lanes lie over each other: look at more points where all were near.
        asked = asked[~covered[asked] & np.isfinite(near[:, -1])]
        count *= 4
    return covered


def _connections(view: _View) -> dict[str, Any]:
    """Return the ways through junctions and which way they turn."""
    rows, turns = [], []
    for before, lane in enumerate(view.lanes):
        if lane.kind not in DRIVABLE:
            continue
        for through in view.after[before]:
            inside = view.junction[through]
            if inside < 0 or view.junction[before] == inside:
                continue
            last, beyond = through, -1
            for _ in range(16):
                following = view.after[last]
                if not following:
                    break
                if view.junction[following[0]] != inside:
                    beyond = following[0]
                    break
                last = following[0]
            heading = view.geometry["heading"]
            turn = heading[view.part(last).stop - 1] - heading[view.part(through).start]
            turn = float((turn + np.pi) % (2 * np.pi) - np.pi)
            rows.append((inside, before, through, beyond))
            turns.append(0 if abs(turn) < TURN else 2 if turn > 0 else 1)
    return {
        "connections": np.array(rows, np.int32).reshape(-1, 4),
        "connection_turn": np.array(turns, np.int8),
    }


def _conflicts(view: _View, junctions: int) -> dict[str, Any]:
    """Return the pairs of lanes of a junction that come within :data:`TOUCH`, but do not part.

    Lanes that leave the same lane are no conflict: there one car follows the other.
    """
    from scipy.spatial import cKDTree

    members: list[list[int]] = [[] for _ in range(junctions)]
    entries: dict[int, set[int]] = {}
    for before, following in enumerate(view.after):
        for through in following:
            entries.setdefault(through, set()).add(before)
    for i, lane in enumerate(view.lanes):
        if view.junction[i] >= 0 and lane.kind in DRIVABLE:
            members[view.junction[i]].append(i)
    pairs, ranges = [], []
    for lanes in members:
        points = {i: view.geometry["points"][view.part(i)] for i in lanes}
        trees = {i: cKDTree(points[i]) for i in lanes}
        for a in lanes:
            s = view.geometry["s"][view.part(a)]
            for b in lanes:
                if a == b or entries.get(a, {-1}) & entries.get(b, {-2}):
                    continue
                if a in view.after[b] or b in view.after[a]:
                    continue
                near = np.flatnonzero(trees[b].query(points[a])[0] < TOUCH)
                if near.size:
                    pairs.append((a, b))
                    ranges.append((s[near[0]], s[near[-1]]))
    return {
        "conflicts": np.array(pairs, np.int32).reshape(-1, 2),
        "conflict_s": np.array(ranges, np.float64).reshape(-1, 2),
    }


def _signals(
    view: _View, signals: Sequence[Signal], index: dict[Key, int], junctions: int
) -> dict[str, Any]:
    """Return signals with their junctions and phases: approaches along one axis are green together."""
    inside, phases, stops = [], [], []
    axis: dict[int, float] = {}
    count = np.zeros(junctions, np.int32)
    for signal in signals:
        lanes = [(index[key], s) for key, s in signal.stops if key in index]
        stops.append(lanes)
        junction, heading = -1, signal.heading
        for lane, _ in lanes:
            around = [lane, *view.after[lane]]
            junction = max(view.junction[i] for i in around)
            part = view.part(lane)
            # The heading with which the junction is entered.
            at = part.start if view.junction[lane] >= 0 else part.stop - 1
            heading = float(view.geometry["heading"][at])
            if junction >= 0:
                break
        inside.append(junction)
        phase = -1
        if SIGNAL_KINDS[signal.kind] == "traffic_light":
            first = axis.setdefault(junction, heading) if junction >= 0 else heading
            phase = int(abs(np.sin(heading - first)) > np.sin(np.pi / 4))
            if junction >= 0:
                count[junction] = 2
        phases.append(phase)
    flat = [stop for lanes in stops for stop in lanes]
    return {
        "junction_phases": count,
        "signal_kind": np.array([s.kind for s in signals], np.int8),
        "signal_position": np.array([s.position for s in signals], np.float64).reshape(-1, 3),
        "signal_heading": np.array([s.heading for s in signals], np.float64),
        "signal_value": np.array([s.value for s in signals], np.float64),
        "signal_junction": np.array(inside, np.int32),
        "signal_phase": np.array(phases, np.int32),
        "stop_start": _starts([len(lanes) for lanes in stops]),
        "stop_lane": np.array([lane for lane, _ in flat], np.int32),
        "stop_s": np.array([s for _, s in flat], np.float64),
    }
