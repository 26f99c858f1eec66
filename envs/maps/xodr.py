"""A drawing of roads as an OpenDRIVE 1.4 file."""

from typing import Any
from xml.etree import ElementTree

import numpy as np

from steerlab.envs.maps.plan import Drawing, Link, Road, Section, SignalSpec

_TYPES = {"traffic_light": "1000001", "stop": "206", "yield": "205", "speed_limit": "274"}


def to_xodr(drawing: Drawing) -> str:
    """Return the OpenDRIVE text; its y and angles are positive to the left."""
    root = ElementTree.Element("OpenDRIVE")
    _add(root, "header", revMajor=1, revMinor=4, name=drawing.name, version=1)
    names = _signal_names(drawing)
    for road in drawing.roads.values():
        _road(root, drawing, road, names)
    for number, ways in drawing.junctions.items():
        junction = _add(root, "junction", id=number, name=f"junction{number}")
        for count, way in enumerate(ways):
            forwards = way.lanes[0][1] < 0
            connection = _add(
                junction, "connection", id=count, incomingRoad=way.incoming,
                connectingRoad=way.connecting, contactPoint="start" if forwards else "end",
            )  # fmt: skip
            for begun, to in way.lanes:
                _add(connection, "laneLink", **{"from": begun, "to": to})
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _add(parent: Any, tag: str, **attributes: Any) -> Any:
    texts = {n: f"{v:.17g}" if isinstance(v, float) else str(v) for n, v in attributes.items()}
    return ElementTree.SubElement(parent, tag, texts)


def _signal_names(drawing: Drawing) -> dict[int, str]:
    """Return a number in the file for each signal, by its place in memory."""
    specs = [spec for road in drawing.roads.values() for spec in road.signals]
    return {id(spec): str(10_000 + count) for count, spec in enumerate(specs)}


def _road(root: Any, drawing: Drawing, road: Road, names: dict[int, str]) -> None:
    out = _add(
        root, "road", name=f"road{road.number}", length=road.length, id=road.number,
        junction=road.junction,
    )  # fmt: skip
    link = _add(out, "link")
    _link(link, "predecessor", road.before)
    _link(link, "successor", road.after)
    kind = _add(out, "type", s=0.0, type="motorway" if road.limit > 25 else "town")
    _add(kind, "speed", max=road.limit, unit="m/s")
    view, s = _add(out, "planView"), 0.0
    for piece in road.pieces:
        x, y, heading = piece.start
        part = _add(view, "geometry", s=s, x=x, y=-y, hdg=-heading, length=piece.length)
        if piece.begin == piece.end == 0.0:
            _add(part, "line")
        elif piece.begin == piece.end:
            _add(part, "arc", curvature=-piece.begin)
        else:
            _add(part, "spiral", curvStart=-piece.begin, curvEnd=-piece.end)
        s += piece.length
    profile = _add(out, "elevationProfile")
    for begin, (a, b, c, d) in road.heights:
        _add(profile, "elevation", s=begin, a=a, b=b, c=c, d=d)
    _add(out, "lateralProfile")
    lanes = _add(out, "lanes")
    _add(lanes, "laneOffset", s=0.0, a=0.0, b=0.0, c=0.0, d=0.0)
    for count, section in enumerate(road.sections):
        # A lane link at an end without a road link would lead CARLA to road 0.
        open_ends = (
            count == 0 and road.before is None,
            count == len(road.sections) - 1 and road.after is None,
        )
        _section(lanes, section, open_ends)
    _signals(out, drawing, road, names)


def _link(parent: Any, tag: str, link: Link | None) -> None:
    if link is None:
        return
    kind, number, contact = link
    more = {"contactPoint": contact} if kind == "road" else {}
    _add(parent, tag, elementType=kind, elementId=number, **more)


def _section(parent: Any, section: Section, open_ends: tuple[bool, bool]) -> None:
    out = _add(parent, "laneSection", s=float(section.begin))
    left = sorted((lane for lane in section.lanes if lane.number > 0), key=lambda n: -n.number)
    right = sorted((lane for lane in section.lanes if lane.number < 0), key=lambda n: -n.number)
    if left:
        _lanes(_add(out, "left"), left, open_ends)
    centre = _add(_add(out, "center"), "lane", id=0, type="none", level="false")
    _mark(centre, section.line, section.colour)
    if right:
        _lanes(_add(out, "right"), right, open_ends)


def _lanes(parent: Any, lanes: Any, open_ends: tuple[bool, bool]) -> None:
    for spec in lanes:
        out = _add(parent, "lane", id=spec.number, type=spec.kind, level="false")
        link = _add(out, "link")
        if spec.before is not None and not open_ends[0]:
            _add(link, "predecessor", id=spec.before)
        if spec.after is not None and not open_ends[1]:
            _add(link, "successor", id=spec.after)
        a, b, c, d = spec.width
        _add(out, "width", sOffset=0.0, a=a, b=b, c=c, d=d)
        _mark(out, spec.line, spec.colour)


def _mark(parent: Any, line: str, colour: str) -> None:
    kind = line.replace("_", " ")
    _add(parent, "roadMark", sOffset=0.0, type=kind, weight="standard", color=colour, width=0.15)


def _signals(parent: Any, drawing: Drawing, road: Road, names: dict[int, str]) -> None:
    """Write the signals beside a road, and references to those that control it."""
    out = _add(parent, "signals")
    for spec in road.signals:
        _signal(out, road, spec, names[id(spec)])
    for other in drawing.roads.values():
        for spec in other.signals:
            if spec.controls and spec.controls[0] == road.number and other is not road:
                _, s, numbers = spec.controls
                reference = _add(
                    out, "signalReference", id=names[id(spec)], s=s, t=0.0,
                    orientation="+" if numbers[0] < 0 else "-",
                )  # fmt: skip
                _add(reference, "validity", fromLane=min(numbers), toLane=max(numbers))


def _signal(parent: Any, road: Road, spec: SignalSpec, name: str) -> None:
    own = spec.controls is not None and spec.controls[0] == road.number
    _, _, heading, _ = road.reference(np.array([spec.s]))
    # A sign with orientation "+" is meant for traffic along the road, turned by hOffset.
    turned = float((spec.heading - heading[0] + np.pi) % (2 * np.pi) - np.pi)
    limit = spec.kind == "speed_limit"
    out = _add(
        parent, "signal", s=spec.s, t=-spec.t, id=name, name=spec.kind, zOffset=spec.up,
        dynamic="yes" if spec.kind == "traffic_light" else "no", orientation="+", country="OpenDRIVE",
        type=_TYPES[spec.kind], subtype=round(spec.value * 3.6) if limit else -1,
        value=spec.value * 3.6 if limit else -1.0, unit="km/h", hOffset=-turned, height=1.2, width=0.5,
        text="", pitch=0.0, roll=0.0,
    )  # fmt: skip
    if spec.controls:
        numbers = spec.controls[2] if own else (0,)  # lane 0 is none: references name the lanes
        _add(out, "validity", fromLane=min(numbers), toLane=max(numbers))
