"""The maps that ship with the package: a few lines of code each, made in a fraction of a second."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise

import numpy as np

from steerlab.envs.maps.plan import (
    Cubic,
    Drawing,
    LaneSpec,
    Link,
    Piece,
    Pose,
    Road,
    Section,
    SignalSpec,
    Way,
    chain,
    sample,
)
from steerlab.envs.maps.road_map import RoadMap
from steerlab.errors import unknown_name

KMH = 1 / 3.6
WIDTH, SHOULDER, SIDEWALK = 3.5, 0.5, 2.0  # m, in towns
LIGHT_HEIGHT, SIGN_HEIGHT = 4.5, 2.2  # m
STOP_BEFORE = 1.0  # m from a stop line to the end of its road
EAST, SOUTH, WEST, NORTH = range(4)  # directions by quarter turns to the right


def constant(width: float) -> Cubic:
    """Return the polynomial of a width that does not change."""
    return width, 0.0, 0.0, 0.0


def taper(first: float, last: float, length: float) -> Cubic:
    """Return the polynomial of a width that goes smoothly from ``first`` to ``last``."""
    rise = last - first
    return first, 0.0, 3 * rise / length**2, -2 * rise / length**3


def town_lanes(
    right: int, left: int, kerb_right: bool = True, kerb_left: bool = True, lines: bool = True
) -> Section:
    """Return a section with so many lanes to either side, shoulders, kerbs and sidewalks."""
    lanes = []
    for count, sign, kerb in ((right, -1, kerb_right), (left, 1, kerb_left)):
        for n in range(1, count + 1):
            line = "broken" if lines and n < count else "solid" if lines and n == count else "none"
            number = sign * n
            lanes.append(
                LaneSpec(number, "driving", constant(WIDTH), line, before=number, after=number)
            )
        if kerb:
            for more, kind, width, line in (
                (1, "shoulder", SHOULDER, "curb"), (2, "sidewalk", SIDEWALK, "none"),
            ):  # fmt: skip
                number = sign * (count + more)
                lanes.append(
                    LaneSpec(number, kind, constant(width), line, before=number, after=number)
                )
    divided = lines and right and left
    centre = "solid_solid" if min(right, left) > 1 else "broken" if divided else "none"
    return Section(0.0, lanes, centre if divided else "none", "yellow")


@dataclass(frozen=True)
class Arm:
    """The end of a road at a crossing."""

    road: int
    contact: str  # which end of the road
    direction: int  # in which it leaves the crossing
    lanes: int  # each way

    def incoming(self, lane: int) -> int:
        """Return the number of the incoming lane ``lane``, counted from 1 at the centre line."""
        return -lane if self.contact == "end" else lane

    def outgoing(self, lane: int) -> int:
        """Return the number of an outgoing lane."""
        return -self.incoming(lane)

    def link(self) -> Link:
        """Return the link to this end."""
        return "road", self.road, self.contact


def _beside(pose: Pose, right: float) -> Pose:
    x, y, heading = pose
    return x - right * np.sin(heading), y + right * np.cos(heading), heading


def _ahead(pose: Pose, way: float) -> Pose:
    x, y, heading = pose
    return x + way * np.cos(heading), y + way * np.sin(heading), heading


class Lattice:
    """A town on a rectangular grid: crossings, T-junctions at its border, bends at its corners.

    Args:
        name: Name of the map.
        columns: Distances between the columns of nodes, m.
        rows: Distances between the rows of nodes, m.
        lanes: Lanes each way of a street, by the coordinates of its two nodes.
        limit: Speed limit, m/s.
        radius: How far from a node its roads end, m.
        control: Kind of signals at a node with so many arms: name -> lights, stops or nothing.
    """

    def __init__(
        self,
        name: str,
        columns: Iterable[float],
        rows: Iterable[float],
        lanes: Callable[[tuple[int, int], tuple[int, int]], int],
        limit: float,
        radius: float,
        control: Callable[[int], str],
    ) -> None:
        self.drawing = Drawing(name)
        self.limit, self.radius, self.control = limit, radius, control
        self.x = np.concatenate([[0.0], np.cumsum(list(columns))])
        self.y = np.concatenate([[0.0], np.cumsum(list(rows))])
        self.arms: dict[tuple[int, int], list[Arm]] = {
            (i, j): [] for i in range(len(self.x)) for j in range(len(self.y))
        }
        self.number = 0
        for i, j in list(self.arms):
            for di, dj, direction in ((1, 0, EAST), (0, 1, SOUTH)):
                if (i + di, j + dj) in self.arms:
                    self._street((i, j), (i + di, j + dj), direction, lanes)
        for count, (node, arms) in enumerate(self.arms.items()):
            if len(arms) == 2:
                self._bend(node, arms)
            else:
                self._crossing(node, arms, 1000 + count)

    def _next(self) -> int:
        self.number += 1
        return self.number

    def _pose(self, node: tuple[int, int], direction: int, away: float) -> Pose:
        """Return the pose ``away`` m from a node in a direction, looking away from it."""
        return _ahead((self.x[node[0]], self.y[node[1]], direction * np.pi / 2), away)

    def _street(
        self,
        a: tuple[int, int],
        b: tuple[int, int],
        direction: int,
        lanes: Callable[[tuple[int, int], tuple[int, int]], int],
    ) -> None:
        count = lanes(a, b)
        start, finish = (
            self._pose(a, direction, self.radius),
            self._pose(b, direction, -self.radius),
        )
        length = float(np.hypot(finish[0] - start[0], finish[1] - start[1]))
        number = self._next()
        section = town_lanes(count, count)
        self.drawing.add(Road(number, [Piece(start, length)], [section], self.limit))
        self.arms[a].append(Arm(number, "start", direction, count))
        self.arms[b].append(Arm(number, "end", (direction + 2) % 4, count))

    def _bend(self, node: tuple[int, int], arms: list[Arm]) -> None:
        """Join the two roads at a corner of the town by a bend."""
        first, second = arms
        if (second.direction - first.direction) % 4 == 1:
            first, second = second, first  # then a left turn leads from the first to the second
        start = self._arrive(node, first)
        number, r = self._next(), self.radius
        pieces = chain(start, [(r * np.pi / 2, *_turn(first, second, r))])
        section = town_lanes(first.lanes, second.lanes)
        road = Road(number, pieces, [section], self.limit, first.link(), second.link())
        self.drawing.add(road)
        for arm, contact in ((first, "start"), (second, "end")):
            self._set_link(arm, ("road", number, contact))
        self._follow(road, first, second)

    def _arrive(self, node: tuple[int, int], arm: Arm) -> Pose:
        """Return the pose of the centre line where ``arm`` meets the node, looking to the node."""
        x, y, _ = self._pose(node, arm.direction, self.radius)
        return x, y, (arm.direction + 2) * np.pi / 2

    def _set_link(self, arm: Arm, link: Link) -> None:
        road = self.drawing.roads[arm.road]
        if arm.contact == "start":
            road.before = link
        else:
            road.after = link

    def _follow(self, road: Road, first: Arm, second: Arm) -> None:
        """Set the lane links between a bend and the streets that it joins."""
        flipped = (first.contact == "start", second.contact == "end")
        section = road.sections[0]
        lanes = [
            replace(
                lane,
                before=-lane.number if flipped[0] else lane.number,
                after=-lane.number if flipped[1] else lane.number,
            )
            for lane in section.lanes
        ]
        road.sections[0] = replace(section, lanes=lanes)
        for arm, turned in ((first, flipped[0]), (second, flipped[1])):
            street = self.drawing.roads[arm.road]
            own = street.sections[0]
            numbers: dict[int, int | None] = {
                n.number: -n.number if turned else n.number for n in own.lanes
            }
            side = "before" if arm.contact == "start" else "after"
            lanes = _linked(list(own.lanes), **{side: numbers})
            street.sections[0] = replace(own, lanes=lanes)

    def _crossing(self, node: tuple[int, int], arms: list[Arm], number: int) -> None:
        ways: list[Way] = []
        self.drawing.junctions[number] = ways
        for arm in arms:
            self._set_link(arm, ("junction", number, ""))
        taken = {arm.direction for arm in arms}
        for arm in arms:
            for other in arms:
                if other is not arm:
                    self._connect(node, arm, other, number, taken)
        control = self.control(len(arms))
        for arm in arms:
            through = any((other.direction - arm.direction) % 4 == 2 for other in arms)
            # At a T-junction only who comes from the stem has to give way to signs.
            if control == "traffic_light" or (
                control == "stop" and (len(arms) == 4 or not through)
            ):
                self._signal(node, arm, control, number)

    def _connect(
        self, node: tuple[int, int], arm: Arm, other: Arm, number: int, taken: set[int]
    ) -> None:
        """Add the road that leads from ``arm`` to ``other`` through a junction."""
        turn = (other.direction - arm.direction) % 4  # 1 left, 2 straight on, 3 right
        r = self.radius
        if turn == 2:
            lanes = min(arm.lanes, other.lanes)
            start, parts = self._arrive(node, arm), [(2 * r, 0.0, 0.0)]
            kerb = (arm.direction - 1) % 4 not in taken  # no road on the right
            pairs = [(n, n) for n in range(1, lanes + 1)]
        else:
            left = turn == 1
            begin, end = (1, 1) if left else (arm.lanes, other.lanes)
            first, second = (begin - 1) * WIDTH, (end - 1) * WIDTH
            start = _beside(self._arrive(node, arm), first)
            # How far the turn goes along its first and its second direction.
            along, across = (r + second, r + first) if left else (r - second, r - first)
            arc = min(along, across)
            parts = [
                (along - arc, 0.0, 0.0), (arc * np.pi / 2, *_turn(arm, other, arc)),
                (across - arc, 0.0, 0.0),
            ]  # fmt: skip
            kerb, lanes, pairs = not left, 1, [(begin, end)]
        section = town_lanes(lanes, 0, kerb_right=kerb, kerb_left=False, lines=False)
        if turn != 2 and (arm.direction + 2) % 4 not in taken:
            # The stem of a T-junction: pave what would be left free between the turns.
            apron = LaneSpec(1, "restricted", constant(3.0))
            section = replace(section, lanes=[*section.lanes, apron])
        links = {-(n + 1): pair for n, pair in enumerate(pairs)}
        section = replace(
            section,
            lanes=[
                replace(
                    lane,
                    before=arm.incoming(links[lane.number][0]),
                    after=other.outgoing(links[lane.number][1]),
                )
                if lane.number in links
                else replace(lane, before=None, after=None)
                for lane in section.lanes
            ],
        )
        pieces = chain(start, [part for part in parts if part[0] > 1e-9])
        road = Road(self._next(), pieces, [section], self.limit, arm.link(), other.link(), number)
        self.drawing.add(road)
        pairs = [(arm.incoming(n), -(i + 1)) for i, (n, _) in enumerate(pairs)]
        self.drawing.junctions[number].append(Way(arm.road, road.number, tuple(pairs)))

    def _signal(self, node: tuple[int, int], arm: Arm, kind: str, number: int) -> None:
        """Set up a light beyond the junction, or a sign before it, for the lanes of ``arm``."""
        road = self.drawing.roads[arm.road]
        at_end = arm.contact == "end"
        line = road.length - STOP_BEFORE if at_end else STOP_BEFORE
        controls = (arm.road, line, tuple(arm.incoming(n) for n in range(1, arm.lanes + 1)))
        heading = (arm.direction + 2) * np.pi / 2
        aside = arm.lanes * WIDTH + SHOULDER + 0.8
        if kind == "stop":
            t = aside if at_end else -aside
            road.signals.append(SignalSpec(kind, line, t, SIGN_HEIGHT, heading, controls=controls))
            return
        ways = [self.drawing.roads[way.connecting] for way in self.drawing.junctions[number]]
        straight = next(road for road in ways if len(road.pieces) == 1 and not road.pieces[0].begin)
        x, y, _ = _beside(_ahead(self._arrive(node, arm), 2 * self.radius - 0.5), aside)
        ox, oy, turned = straight.pieces[0].start
        s = (x - ox) * np.cos(turned) + (y - oy) * np.sin(turned)
        t = (y - oy) * np.cos(turned) - (x - ox) * np.sin(turned)
        s = float(np.clip(s, 0.0, straight.length))
        straight.signals.append(
            SignalSpec(kind, s, float(t), LIGHT_HEIGHT, heading, controls=controls)
        )


def _turn(arm: Arm, other: Arm, radius: float) -> tuple[float, float]:
    """Return the curvature of an arc from ``arm`` to ``other``, at its begin and its end."""
    k = (1 if (other.direction - arm.direction) % 4 == 3 else -1) / radius
    return k, k


def urban_grid() -> Drawing:
    """Return a town of sixteen nodes; the two avenues in its middle have two lanes each way."""

    def lanes(a: tuple[int, int], b: tuple[int, int]) -> int:
        return 2 if a[1] == b[1] and a[1] in (1, 2) else 1

    return Lattice(
        "urban_grid", (110, 130, 110), (100, 120, 100), lanes, 50 * KMH, 15.0,
        lambda arms: "traffic_light",
    ).drawing  # fmt: skip


def four_way_stop() -> Drawing:
    """Return a suburb of nine nodes: an all-way stop in the middle, T-junctions with stop signs."""
    return Lattice(
        "four_way_stop", (120, 120), (110, 110), lambda a, b: 1, 40 * KMH, 12.0, lambda arms: "stop"
    ).drawing


def country_road() -> Drawing:
    """Return four kilometres of winding two-lane road over hills."""
    rng = np.random.default_rng(7)
    parts: list[tuple[float, float, float]] = [(150.0, 0.0, 0.0)]
    heading = 0.0
    while sum(length for length, *_ in parts) < 4000:
        radius = float(rng.choice((90.0, 130.0, 180.0, 260.0, 400.0)))
        angle = float(rng.uniform(0.35, 1.1))
        # Back towards east, where the road has turned away from it.
        sign = -np.sign(heading) if abs(heading) > 0.5 else rng.choice((-1.0, 1.0))
        clothoid = 0.35 * radius
        arc = max(radius * angle - clothoid, 10.0)
        k = float(sign) / radius
        heading += float(sign) * (arc + clothoid) / radius
        parts += [(clothoid, 0.0, k), (arc, k, k), (clothoid, k, 0.0)]
        parts.append((float(rng.uniform(30, 160)), 0.0, 0.0))
    lanes = [
        LaneSpec(sign * n, kind, constant(width), line, before=sign * n, after=sign * n)
        for sign in (1, -1)
        for n, kind, width, line in ((1, "driving", 3.4, "solid"), (2, "shoulder", 0.8, "none"))
    ]
    drawing = Drawing("country_road")
    pieces = chain((0.0, 0.0, 0.0), parts)
    # In parts of a kilometre, each a road, as surveyors would have it.
    starts = np.concatenate([[0.0], np.cumsum([piece.length for piece in pieces])])
    cuts = [0, *(int(np.searchsorted(starts, km)) for km in (1000, 2000, 3000)), len(pieces)]
    knots = np.arange(0.0, starts[-1] + 400, 160.0)
    hills = np.concatenate([[0.0, 0.0], rng.uniform(-7, 7, len(knots) - 2)])
    for number, (first, last) in enumerate(pairwise(cuts)):
        road = Road(number, pieces[first:last], [Section(0.0, lanes, "broken", "yellow")], 80 * KMH)
        road.heights = _hills(knots, hills, float(starts[first]), float(starts[last]))
        road.before = ("road", number - 1, "end") if number else None
        road.after = ("road", number + 1, "start") if number < len(cuts) - 2 else None
        for s, right in ((60.0, True), (road.length - 60.0, False)):
            turned = float(road.reference(np.array([s]))[2][0]) + (0 if right else np.pi)
            t = 5.2 if right else -5.2
            sign = SignalSpec("speed_limit", s, t, SIGN_HEIGHT, turned, 80 * KMH)
            road.signals.append(sign)
        drawing.add(road)
    return drawing


def _hills(
    knots: np.ndarray[tuple[int], np.dtype[np.float64]],
    hills: np.ndarray[tuple[int], np.dtype[np.float64]],
    begin: float,
    end: float,
) -> list[tuple[float, Cubic]]:
    """Return heights with continuous slopes (Catmull-Rom) between two places of the whole way."""
    slopes = np.gradient(hills, knots)
    found: list[tuple[float, Cubic]] = []
    for i in range(len(knots) - 1):
        low, high = knots[i], knots[i + 1]
        if high <= begin or low >= end:
            continue
        h, rise = high - low, hills[i + 1] - hills[i]
        b = slopes[i]
        c = (3 * rise / h - 2 * slopes[i] - slopes[i + 1]) / h
        d = (slopes[i] + slopes[i + 1] - 2 * rise / h) / h**2
        u = max(begin - low, 0.0)  # the cubic, written around where the road begins
        moved = (
            hills[i] + u * (b + u * (c + u * d)), b + u * (2 * c + 3 * d * u), c + 3 * d * u, d,
        )  # fmt: skip
        found.append((max(low - begin, 0.0), tuple(float(v) for v in moved)))  # type: ignore[arg-type]
    return found


def _carriageways(extra: tuple[LaneSpec, ...] = (), shoulder: bool = True) -> list[LaneSpec]:
    """Return three lanes each way with median and shoulders; ``extra`` lies right of lane -4."""
    lanes = []
    for sign in (-1, 1):
        lanes.append(LaneSpec(sign, "median", constant(2.0), "solid", "yellow"))
        for n in (2, 3, 4):
            outer = n == 4 and not (extra and sign < 0)
            lanes.append(
                LaneSpec(sign * n, "driving", constant(3.7), "solid" if outer else "broken")
            )
        if sign < 0:
            lanes += extra
        if shoulder or sign > 0:
            number = 6 if extra and sign < 0 else 5
            lanes.append(LaneSpec(sign * number, "shoulder", constant(2.5)))
    return [replace(lane, before=lane.number, after=lane.number) for lane in lanes]


def _linked(lanes: list[LaneSpec], **links: dict[int, int | None]) -> list[LaneSpec]:
    """Return lanes whose links ``before`` or ``after`` differ from their own numbers."""
    for side, table in links.items():
        lanes = [
            replace(lane, **{side: table[lane.number]}) if lane.number in table else lane  # type: ignore[arg-type]
            for lane in lanes
        ]
    return lanes


MAIN, SIDE, REST = 3.7, 250.0, 120 * KMH  # m of a lane, m of extra lanes, m/s


def motorway() -> Drawing:
    """Return a motorway ring of three lanes each way with an exit, a slip road and an entry.

    Roads: 0 with the lane of the exit, 1 between exit and entry, 2 with the lane of the entry, 3 and 4
    close the ring; 5 is the slip road; 10 to 13 lead through the two junctions.
    """
    drawing = Drawing("motorway")
    r, clothoid, gap, through = 280.0, 120.0, 900.0, 30.0
    bend = [(clothoid, 0.0, 1 / r), (np.pi * r - clothoid, 1 / r, 1 / r), (clothoid, 1 / r, 0.0)]
    first = SIDE + 150.0

    def main(number: int, start: Pose, parts: Iterable[tuple[float, float, float]]) -> Road:
        road = Road(number, chain(start, parts), [Section(0.0, _carriageways())], REST)
        return drawing.add(road)

    exit_road = main(0, (0.0, 0.0, 0.0), [(first, 0.0, 0.0)])
    over = main(10, exit_road.pieces[-1].finish(), [(through, 0.0, 0.0)])
    between = main(1, over.pieces[-1].finish(), [(gap, 0.0, 0.0)])
    into = main(11, between.pieces[-1].finish(), [(through, 0.0, 0.0)])
    entry_road = main(2, into.pieces[-1].finish(), [(first + 200.0, 0.0, 0.0)])
    straight = 2 * first + 200.0 + gap + 2 * through
    bend_one = main(3, entry_road.pieces[-1].finish(), bend)
    main(4, bend_one.pieces[-1].finish(), [(straight, 0.0, 0.0), *bend])

    ring = [0, 10, 1, 11, 2, 3, 4]
    for a, b in zip(ring, [*ring[1:], ring[0]], strict=True):
        drawing.roads[a].after = ("road", b, "start")
        drawing.roads[b].before = ("road", a, "end")
    over.junction, into.junction = 100, 101
    exit_road.after = between.before = ("junction", 100, "")
    between.after = entry_road.before = ("junction", 101, "")

    _extra_lanes(exit_road, entry_road, first)
    for road, before, after in ((over, None, -5), (into, -5, None)):
        road.sections = [
            Section(0.0, _linked(_carriageways(), before={-5: before}, after={-5: after}))
        ]
    between.sections = [Section(0.0, _carriageways())]
    _slip(drawing, exit_road, entry_road, gap + 2 * through)
    numbers = (-2, -3, -4, 2, 3, 4)
    same = tuple((n, n) for n in numbers)
    drawing.junctions[100] = [
        Way(0, 10, tuple(p for p in same if p[0] < 0)), Way(1, 10, tuple(p for p in same if p[0] > 0)),
        Way(0, 12, ((-5, -1),)),
    ]  # fmt: skip
    drawing.junctions[101] = [
        Way(1, 11, tuple(p for p in same if p[0] < 0)), Way(2, 11, tuple(p for p in same if p[0] > 0)),
        Way(5, 13, ((-1, -1),)),
    ]  # fmt: skip
    return drawing


def _extra_lanes(exit_road: Road, entry_road: Road, first: float) -> None:
    """Open a lane before the exit at ``first`` m, and close one after the entry."""

    def extra(width: Cubic, kind: str = "driving") -> tuple[LaneSpec, ...]:
        return (LaneSpec(-5, kind, width, "solid"),)

    opening = taper(0.0, MAIN, 100.0)
    exit_road.sections = [
        Section(0.0, _linked(_carriageways(), after={-5: -6})),
        Section(first - SIDE, _linked(_carriageways(extra(opening)), before={-5: None, -6: -5})),
        Section(
            first - SIDE + 100, _linked(_carriageways(extra(constant(MAIN))), after={-6: None})
        ),
    ]
    entry_road.sections = [
        Section(0.0, _linked(_carriageways(extra(constant(MAIN))), before={-6: None})),
        Section(
            SIDE - 100,
            _linked(_carriageways(extra(taper(MAIN, 0.0, 100.0))), after={-5: None, -6: -5}),
        ),
        Section(SIDE, _linked(_carriageways(), before={-5: -6})),
    ]


def _slip(drawing: Drawing, exit_road: Road, entry_road: Road, between: float) -> None:
    """Add the slip road: out of lane -5 of one road, aside, and into lane -5 of the other."""
    # Its reference line is the left edge of lane -5.
    start = _beside(exit_road.pieces[-1].finish(), 2.0 + 3 * MAIN)
    k, ramp, arc = 1 / 200.0, 40.0, 40.0
    turn = [(ramp, 0.0, k), (arc, k, k), (ramp, k, 0.0)]
    back = [(length, -b, -e) for length, b, e in turn]
    shift = [*turn, *back]
    through = 30.0
    reach = chain((0.0, 0.0, 0.0), shift)[-1].finish()
    middle = between - 2 * through - 2 * reach[0]
    lead_out = chain(start, [(through, 0.0, 0.0)])
    slip = chain(
        lead_out[-1].finish(),
        [*shift, (middle, 0.0, 0.0), *back, *turn],
    )
    lead_in = chain(slip[-1].finish(), [(through, 0.0, 0.0)])
    limit = 70 * KMH
    for number, pieces, links, junction in (
        (12, lead_out, (("road", 0, "end"), ("road", 5, "start")), 100),
        (5, slip, (("junction", 100, ""), ("junction", 101, "")), -1),
        (13, lead_in, (("road", 5, "end"), ("road", 2, "start")), 101),
    ):
        before, after = (-5 if number == 12 else -1), (-5 if number == 13 else -1)
        lanes = [
            LaneSpec(-1, "driving", constant(MAIN), "solid", before=before, after=after),
            LaneSpec(-2, "shoulder", constant(2.0)),
        ]
        section = Section(0.0, lanes, "solid")
        drawing.add(Road(number, pieces, [section], limit, *links, junction))
    entry_road.limit = REST


DRAWINGS: dict[str, Callable[[], Drawing]] = {
    "urban_grid": urban_grid,
    "four_way_stop": four_way_stop,
    "motorway": motorway,
    "country_road": country_road,
}


def draw(name: str) -> Drawing:
    """Return the drawing of a shipped map.

    Raises:
        InputError: There is no such map.
    """
    if name not in DRAWINGS:
        raise unknown_name("map", name, DRAWINGS)
    return DRAWINGS[name]()


@cache
def shipped(name: str) -> RoadMap:
    """Return a shipped map, made at its first use.

    Raises:
        InputError: There is no such map.
    """
    return sample(draw(name))
