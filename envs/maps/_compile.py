"""The worker that reads one OpenDRIVE file: ``python -m steerlab.envs.maps._compile IN OUT NAME``.

``carla.Map`` may crash, hang or eat memory on a bad file, holds Python's lock and cannot be
pickled. So nothing else touches it, and :mod:`opendrive` runs this module in a process of its own.
Which roads, lane sections and lanes there are, their kinds and speed limits, comes from the XML;
their geometry, lines and links come from ``carla.Map``.
"""

import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

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
from steerlab.envs.maps.road_map import COLOURS, DRIVABLE, LANE_KINDS, MARKINGS, SIGNAL_KINDS, save
from steerlab.errors import InputError

MEMORY = 4 << 30  # bytes of address space that a worker may take
LONGEST = 100_000.0  # m of a road; more is a mistake in the file
EDGE = 1e-4  # m that the first and last point of a lane keep from the ends of its section
LINK = 0.02  # m that are looked beyond a lane's end for what follows
GAP = 3.0  # m between lanes, beyond which a link is a mistake in the file, or of CARLA

#: CARLA's kinds of special lanes, which are one kind here.
SPECIAL = ("special1", "special2", "special3")
SIGNALS = {"1000001": 0, "206": 1, "205": 2, "274": 3}
UNITS = {"mph": 0.44704, "km/h": 1 / 3.6, "m/s": 1.0}
#: m/s by kind of road, where the file states no limit.
LIMITS = {
    "motorway": 130 / 3.6,
    "rural": 100 / 3.6,
    "townExpressway": 70 / 3.6,
    "lowSpeed": 20 / 3.6,
}
LIMIT = 50 / 3.6


@dataclass
class _Entry:
    """A lane as the XML lists it, and where it is on its road."""

    key: Key
    begin: float  # m
    end: float  # m
    junction: int
    limit: float  # m/s


def compile_map(text: str, name: str) -> Any:
    """Return the :class:`RoadMap` of an OpenDRIVE text."""
    import carla

    root = ElementTree.fromstring(text)
    entries = {entry.key: entry for road in root.iter("road") for entry in _entries(road)}
    if not entries:
        raise InputError("the file has no roads with lanes")
    world, codes = carla.Map(name, text), _Codes(carla)
    found = {key: _lane(world, entry, codes) for key, entry in entries.items()}
    lanes = {key: lane for key, lane in found.items() if lane is not None}
    for key, lane in lanes.items():
        _link(world, entries[key], lane, lanes)
    signals = list(_signals(world, lanes, entries))
    first = next((w for e in entries.values() if (w := _at(world, e, 0.5)) is not None), None)
    return build(name, list(lanes.values()), signals, first is not None and not first.is_rht)


class _Codes:
    """CARLA's numbers of lane kinds, lines and colours as numbers of ours."""

    def __init__(self, carla: Any) -> None:
        ours = {name.replace("_", ""): code for code, name in enumerate(LANE_KINDS)}
        ours |= dict.fromkeys(SPECIAL, LANE_KINDS.index("special"))
        self.kinds = self._table(carla.LaneType, ours, 0)
        ours = {name.replace("_", ""): code for code, name in enumerate(MARKINGS)}
        self.lines = self._table(carla.LaneMarkingType, ours, MARKINGS.index("other"))
        ours = {name: code for code, name in enumerate(COLOURS)} | {"standard": 0}
        self.hues = self._table(carla.LaneMarkingColor, ours, COLOURS.index("other"))

    @staticmethod
    def _table(enum: Any, ours: dict[str, int], other: int) -> dict[int, int]:
        return {int(value): ours.get(name.lower(), other) for name, value in enum.names.items()}

    def line(self, marking: Any) -> tuple[int, int]:
        """Return type and colour of a line; CARLA has None where the file has no line."""
        if marking is None:
            return 0, 0
        return self.lines[int(marking.type)], self.hues[int(marking.color)]


def _entries(road: ElementTree.Element) -> Iterator[_Entry]:
    """Yield the lanes of a road."""
    length = float(road.get("length", "nan"))
    if not 0 < length < LONGEST:
        raise InputError(f"road {road.get('id')} has length {length:g} m")
    number, junction = int(road.get("id", "-1")), int(road.get("junction", "-1"))
    types = [(float(t.get("s", "0")), _limit(t)) for t in road.findall("type")]
    sections = road.findall("lanes/laneSection")
    places = [*(float(s.get("s", "0")) for s in sections), length]
    for count, (section, (begin, end)) in enumerate(zip(sections, pairwise(places), strict=True)):
        if end - begin < 4 * EDGE:
            continue
        limit = next((value for s, value in reversed(types) if s <= begin + EDGE), LIMIT)
        for side in ("left", "right"):
            for lane in section.findall(f"{side}/lane"):
                own = lane.find("speed")
                speed = limit if own is None else _speed(own) or limit
                key = (number, count, int(lane.get("id", "0")))
                yield _Entry(key, begin, end, junction, speed)


def _limit(kind: ElementTree.Element) -> float:
    speed = kind.find("speed")
    stated = None if speed is None else _speed(speed)
    return stated or LIMITS.get(kind.get("type", ""), LIMIT)


def _speed(element: ElementTree.Element) -> float | None:
    """Return a stated speed in m/s, None for words such as "no limit"."""
    try:
        value = float(element.get("max", "")) * UNITS.get(element.get("unit", "m/s"), 1.0)
    except ValueError:
        return None
    return value if 1.0 < value < 100.0 else None


def _at(world: Any, entry: _Entry, share: float) -> Any:
    """Return CARLA's waypoint at a share of the way from a lane's begin on its road to its end."""
    s = entry.begin + EDGE + share * (entry.end - entry.begin - 2 * EDGE)
    found = world.get_waypoint_xodr(entry.key[0], entry.key[2], s)
    return found if found is not None and found.section_id == entry.key[1] else None


def _lane(world: Any, entry: _Entry, codes: _Codes) -> Lane | None:
    """Return a lane without its links, or None if CARLA knows no such lane."""
    middle = _at(world, entry, 0.5)
    if middle is None:
        return None
    road, _, number = entry.key

    def locate(places: Any, lines_too: bool) -> Profile:
        rows, lines = [], np.zeros((len(places), 4), np.int8)
        for i, s in enumerate(places.tolist()):
            w = world.get_waypoint_xodr(road, number, s)
            if w is None:
                raise InputError(f"road {road} has no lane {number} at {s:.2f} m")
            pose = w.transform
            at = pose.location
            rows.append((at.x, at.y, -at.z, pose.rotation.yaw, w.lane_width))
            if lines_too:
                lines[i, 0::2] = codes.line(w.left_lane_marking)
                lines[i, 1::2] = codes.line(w.right_lane_marking)
        table = np.array(rows)
        if not np.isfinite(table).all() or np.abs(table[:, :3]).max() > 1e6:
            raise InputError(f"lane {number} of road {road} has points that are not on this earth")
        return Profile(table[:, :3], np.radians(table[:, 3]), table[:, 4], lines)

    begin, end = entry.begin + EDGE, entry.end - EDGE
    if number > 0:
        begin, end = end, begin
    kind = codes.kinds[int(middle.lane_type)]
    step = JUNCTION_STEP if entry.junction >= 0 else STEP
    profile = even_places(locate, begin, end, step)
    return Lane(entry.key, kind, profile, entry.junction, entry.limit)


def _link(world: Any, entry: _Entry, lane: Lane, lanes: dict[Key, Lane]) -> None:
    """Set the neighbours of a lane and what follows it."""
    if lane.kind not in DRIVABLE:
        return
    road, section, number = entry.key
    inner = number + 1 if number < 0 else number - 1
    outer = number - 1 if number < 0 else number + 1
    same = {side: (road, section, n) for side, n in (("left", inner), ("right", outer)) if n}
    for side, key in same.items():
        if key in lanes and lanes[key].kind in DRIVABLE:
            setattr(lane, side, key)
    if inner == 0:
        key = (road, section, 1 if number < 0 else -1)
        if key in lanes and lanes[key].kind in DRIVABLE:
            lane.opposite = key
    last = _at(world, entry, 1.0 if number < 0 else 0.0)
    for w in last.next(LINK) if last is not None else ():
        key = (w.road_id, w.section_id, w.lane_id)
        if key == entry.key or key not in lanes or lanes[key].kind not in DRIVABLE:
            continue
        gap = lanes[key].profile.points[0] - lane.profile.points[-1]
        if np.linalg.norm(gap) < GAP:
            lane.successors.append(key)


def _signals(world: Any, lanes: dict[Key, Lane], entries: dict[Key, _Entry]) -> Iterator[Signal]:
    """Yield the signals; references to one from several roads add their stops to it."""
    found: dict[str, Signal] = {}
    for mark in world.get_all_landmarks():
        kind = SIGNALS.get(mark.type)
        if kind is None:
            continue
        at = mark.transform.location
        speed = 0.0
        if SIGNAL_KINDS[kind] == "speed_limit":
            value = mark.value if mark.value > 0 else float(mark.sub_type)
            speed = value * UNITS.get(mark.unit, UNITS["km/h"])
        heading = float(np.radians(mark.transform.rotation.yaw))
        signal = found.setdefault(
            mark.id, Signal(kind, (at.x, at.y, -at.z), heading, max(speed, 0.0))
        )
        if SIGNAL_KINDS[kind] != "speed_limit":
            signal.stops += _stops(mark, lanes, entries)
    yield from found.values()


def _stops(
    mark: Any, lanes: dict[Key, Lane], entries: dict[Key, _Entry]
) -> Iterator[tuple[Key, float]]:
    """Yield the lanes that a landmark controls, and where along them."""
    ranges = mark.get_lane_validities()
    side = str(mark.orientation)
    for key, entry in entries.items():
        road, _, number = key
        if road != mark.road_id or not entry.begin - EDGE <= mark.s <= entry.end + EDGE:
            continue
        lane = lanes.get(key)
        if lane is None or lane.kind not in DRIVABLE:
            continue
        if ranges:
            if not any(min(r) <= number <= max(r) for r in ranges):
                continue
        elif side == ("Negative" if number < 0 else "Positive"):
            continue
        share = (mark.s - entry.begin) / (entry.end - entry.begin)
        share = share if number < 0 else 1 - share
        yield key, float(np.clip(share, 0, 1) * arc_lengths(lane.profile).sum())


def main(source: str, target: str, name: str, seconds: str) -> None:
    """Compile the file ``source`` into ``target`` in so many seconds of processor time."""
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        most = math.ceil(float(seconds))
        resource.setrlimit(resource.RLIMIT_CPU, (most, most + 1))
    except ImportError:  # not on Windows; the parent's own limit holds there too
        pass
    save(compile_map(Path(source).read_text(encoding="utf-8"), name), target)


if __name__ == "__main__":
    main(*sys.argv[1:])  # the last line of a traceback is the error message for the parent
