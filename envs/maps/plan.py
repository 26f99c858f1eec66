"""Roads as a drawing: pieces of constant or steadily changing curvature, lanes across, links.

A :class:`Road` says as much as OpenDRIVE does, in our frame: y and offsets to the right, curvature
positive to the right; heights alone are positive upwards. :func:`sample` gives its lanes as points, and
:mod:`xodr` writes the same roads as a file.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from steerlab.envs.maps.network import (
    JUNCTION_STEP,
    STEP,
    Key,
    Lane,
    Profile,
    Signal,
    arc_lengths,
    build,
    even_places,
)
from steerlab.envs.maps.road_map import (
    COLOURS,
    DRIVABLE,
    LANE_KINDS,
    MARKINGS,
    SIGNAL_KINDS,
    RoadMap,
)
from steerlab.types import Floats

Pose = tuple[float, float, float]  # x (m), y (m), heading (rad)
Cubic = tuple[float, float, float, float]  # a + b s + c s^2 + d s^3
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(12)


@dataclass(frozen=True)
class Piece:
    """A part of a reference line whose curvature goes steadily from ``begin`` to ``end``."""

    start: Pose
    length: float  # m
    begin: float = 0.0  # 1/m
    end: float = 0.0  # 1/m

    def at(self, s: Floats) -> tuple[Floats, Floats, Floats, Floats]:
        """Return x, y (m), heading (rad) and curvature (1/m) ``s`` (n,) m after the start."""
        x, y, heading = self.start
        if self.begin == self.end == 0.0:
            along = (x + s * np.cos(heading), y + s * np.sin(heading))
            return *along, np.full(len(s), heading), np.zeros(len(s))
        slope = (self.end - self.begin) / self.length
        # Gauss-Legendre on four parts of the way: exact to far below a millimetre.
        parts = (np.arange(4)[:, None] + 0.5 * (1 + _NODES)).ravel() / 4
        way = s[:, None] * parts
        angle = heading + way * (self.begin + 0.5 * slope * way)
        weights = s[:, None] * np.tile(_WEIGHTS, 4) / 8
        return (
            x + (weights * np.cos(angle)).sum(1),
            y + (weights * np.sin(angle)).sum(1),
            heading + s * (self.begin + 0.5 * slope * s),
            self.begin + slope * s,
        )

    def finish(self) -> Pose:
        """Return the pose at the end."""
        x, y, heading, _ = self.at(np.array([self.length]))
        return float(x[0]), float(y[0]), float(heading[0])


def chain(start: Pose, parts: Iterable[tuple[float, float, float]]) -> list[Piece]:
    """Return pieces one after the other, of (length, first curvature, last curvature)."""
    pieces = []
    for length, begin, end in parts:
        pieces.append(Piece(start, length, begin, end))
        start = pieces[-1].finish()
    return pieces


@dataclass(frozen=True)
class LaneSpec:
    """A lane of a section: negative numbers lie right of the reference line, and count outwards."""

    number: int
    kind: str
    width: Cubic  # m, over the way from the begin of the section
    line: str = "none"  # on its outer edge
    colour: str = "white"
    before: int | None = None  # number of the lane that it continues
    after: int | None = None  # number of the lane that continues it


@dataclass(frozen=True)
class Section:
    """Lanes from ``begin`` (m) up to the next section."""

    begin: float
    lanes: Sequence[LaneSpec]
    line: str = "none"  # on the reference line
    colour: str = "white"

    def lane(self, number: int) -> LaneSpec | None:
        """Return a lane by its number."""
        return next((lane for lane in self.lanes if lane.number == number), None)


@dataclass(frozen=True)
class SignalSpec:
    """A signal that stands beside a road and controls lanes of that road or of another one."""

    kind: str
    s: float  # m along the road
    t: float  # m right of its reference line
    up: float  # m above the ground
    heading: float  # rad, in which the traffic drives that it is meant for
    value: float = 0.0  # m/s
    #: Road, place on it (m), lane numbers.
    controls: tuple[int, float, tuple[int, ...]] | None = None


#: What a road meets at an end: another road and its end, or a junction.
Link = tuple[str, int, str]


@dataclass
class Road:
    """A road with its lanes."""

    number: int
    pieces: list[Piece]
    sections: list[Section]
    limit: float  # m/s
    before: Link | None = None
    after: Link | None = None
    junction: int = -1
    heights: list[tuple[float, Cubic]] = field(default_factory=lambda: [(0.0, (0.0,) * 4)])
    signals: list[SignalSpec] = field(default_factory=list)

    @property
    def length(self) -> float:
        """Length of the reference line, m."""
        return sum(piece.length for piece in self.pieces)

    def reference(self, s: Floats) -> tuple[Floats, Floats, Floats, Floats]:
        """Return x, y, heading and curvature of the reference line at ``s`` (n,)."""
        starts = np.concatenate([[0.0], np.cumsum([piece.length for piece in self.pieces])])
        which = np.clip(np.searchsorted(starts, s, side="right") - 1, 0, len(self.pieces) - 1)
        out = np.zeros((4, len(s)))
        for i, piece in enumerate(self.pieces):
            mine = which == i
            if mine.any():
                out[:, mine] = piece.at(s[mine] - starts[i])
        return out[0], out[1], out[2], out[3]

    def height(self, s: Floats) -> Floats:
        """Return the height above the ground plane, m upwards."""
        begins = np.array([begin for begin, _ in self.heights])
        which = np.clip(np.searchsorted(begins, s, side="right") - 1, 0, None)
        table = np.array([cubic for _, cubic in self.heights])[which]
        return _cubic(table.T, s - begins[which])


@dataclass(frozen=True)
class Way:
    """A connection through a junction: lanes of one road go over into those of a connecting road."""

    incoming: int
    connecting: int
    lanes: tuple[tuple[int, int], ...]  # from, to


@dataclass
class Drawing:
    """A whole map: roads, and the ways through each junction."""

    name: str
    roads: dict[int, Road] = field(default_factory=dict)
    junctions: dict[int, list[Way]] = field(default_factory=dict)

    def add(self, road: Road) -> Road:
        """Add a road."""
        self.roads[road.number] = road
        return road


def _cubic(table: Any, s: Floats) -> Floats:
    a, b, c, d = table
    return np.asarray(a + s * (b + s * (c + s * d)), float)


def _slope(table: Any, s: Floats) -> Floats:
    _, b, c, d = table
    return np.asarray(b + s * (2 * c + s * 3 * d), float)


def sample(drawing: Drawing) -> RoadMap:
    """Return the map of a drawing."""
    lanes: list[Lane] = []
    for road in drawing.roads.values():
        ends = [*(section.begin for section in road.sections), road.length]
        for count, (section, (begin, end)) in enumerate(
            zip(road.sections, pairwise(ends), strict=True)
        ):
            for spec in section.lanes:
                lane = _lane(road, section, (road.number, count, spec.number), begin, end)
                lane.successors = _successors(drawing, road, count, spec)
                lanes.append(lane)
    return build(drawing.name, lanes, list(_signals(drawing, {ln.key: ln for ln in lanes})))


def _lane(road: Road, section: Section, key: Key, begin: float, end: float) -> Lane:
    number = key[2]
    side = 1.0 if number < 0 else -1.0
    inner = [spec for n in range(1, abs(number)) if (spec := section.lane(-int(side) * n))]
    spec = section.lane(number)
    assert spec is not None
    between = section.lane(number + int(side))
    left = (between.line, between.colour) if between else (section.line, section.colour)
    marks = (
        MARKINGS.index(left[0]), MARKINGS.index(spec.line),
        COLOURS.index(left[1]), COLOURS.index(spec.colour),
    )  # fmt: skip
    widths = np.array([lane.width for lane in inner] or [(0.0,) * 4]).sum(0)

    def locate(s: Floats, lines_too: bool) -> Profile:
        x, y, heading, curvature = road.reference(s)
        own = s - section.begin
        width = _cubic(spec.width, own)
        t = side * (_cubic(widths, own) + 0.5 * width)
        turned = side * (_slope(widths, own) + 0.5 * _slope(spec.width, own))
        points = np.stack([x - t * np.sin(heading), y + t * np.cos(heading), -road.height(s)], 1)
        heading = heading + np.arctan2(turned, 1 - curvature * t) + (0.0 if side > 0 else np.pi)
        return Profile(points, heading, width, np.tile(np.array(marks, np.int8), (len(s), 1)))

    places = (begin, end) if number < 0 else (end, begin)
    step = JUNCTION_STEP if road.junction >= 0 else STEP
    kind = LANE_KINDS.index(spec.kind)
    lane = Lane(key, kind, even_places(locate, *places, step), road.junction, road.limit)
    if kind in DRIVABLE:
        lane.left = _drivable(section, key, number + int(side))
        lane.right = _drivable(section, key, number - int(side))
        lane.opposite = _drivable(section, key, int(side)) if abs(number) == 1 else None
    return lane


def _drivable(section: Section, key: Key, number: int) -> Key | None:
    found = section.lane(number) if number else None
    same = found is not None and LANE_KINDS.index(found.kind) in DRIVABLE
    return (*key[:2], number) if same else None


def _successors(drawing: Drawing, road: Road, count: int, spec: LaneSpec) -> list[Key]:
    """Return the lanes that follow a lane in its direction of travel."""
    if LANE_KINDS.index(spec.kind) not in DRIVABLE:
        return []
    forwards = spec.number < 0
    following = spec.after if forwards else spec.before
    last = len(road.sections) - 1 if forwards else 0
    if count != last:
        step = 1 if forwards else -1
        return [] if following is None else [(road.number, count + step, following)]
    link = road.after if forwards else road.before
    if link is None:
        return []
    kind, number, contact = link
    if kind == "junction":
        return [
            _at_end(drawing.roads[way.connecting], to)
            for way in drawing.junctions[number]
            if way.incoming == road.number
            for begun, to in way.lanes
            if begun == spec.number
        ]
    if following is None:
        return []
    beyond = drawing.roads[number]
    section = 0 if contact == "start" else len(beyond.sections) - 1
    return [(number, section, following)]


def _at_end(road: Road, number: int) -> Key:
    """Return the lane of a connecting road that a car enters."""
    return road.number, 0 if number < 0 else len(road.sections) - 1, number


def _signals(drawing: Drawing, lanes: dict[Key, Lane]) -> Iterable[Signal]:
    for road in drawing.roads.values():
        for spec in road.signals:
            x, y, heading, _ = (float(v[0]) for v in road.reference(np.array([spec.s])))
            up = float(road.height(np.array([spec.s]))[0]) + spec.up
            place = (x - spec.t * np.sin(heading), y + spec.t * np.cos(heading), -up)
            signal = Signal(SIGNAL_KINDS.index(spec.kind), place, spec.heading, spec.value)
            if spec.controls:
                number, s, numbers = spec.controls
                other = drawing.roads[number]
                ends = [*(section.begin for section in other.sections), other.length]
                count = int(np.searchsorted(ends, s, side="right")) - 1
                for n in numbers:
                    key = (number, count, n)
                    share = (s - ends[count]) / (ends[count + 1] - ends[count])
                    length = arc_lengths(lanes[key].profile).sum()
                    signal.stops.append((key, (share if n < 0 else 1 - share) * length))
            yield signal
