"""The one form in which everything reads a road map: a frozen dataclass of plain arrays.

The world frame is CARLA's with z turned over: x and y as there (y is to the right of x), z down,
metres. Headings turn from x to y, positive to the right. Lanes, edges, successors and stop lines
are lists of different lengths, kept as compressed rows: item ``i`` of ``points`` cut by
``lane_start`` is ``points[lane_start[i]:lane_start[i + 1]]``.
"""

import hashlib
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steerlab.errors import InputError
from steerlab.files import atomic_path
from steerlab.readers.arrays import read_arrays, require
from steerlab.types import Codes, Floats, Ints

#: What the small integers of a map mean.
LANE_KINDS = (
    "none", "driving", "stop", "shoulder", "biking", "sidewalk", "border", "restricted", "parking",
    "bidirectional", "median", "special", "road_works", "tram", "rail", "entry", "exit",
    "off_ramp", "on_ramp",
)  # fmt: skip
MARKINGS = (
    "none", "broken", "solid", "solid_solid", "solid_broken", "broken_solid", "broken_broken",
    "botts_dots", "grass", "curb", "other",
)  # fmt: skip
COLOURS = ("white", "yellow", "blue", "green", "red", "other")
EDGE_KINDS = ("verge", "kerb", "median")
SIGNAL_KINDS = ("traffic_light", "stop", "yield", "speed_limit")
TURNS = ("straight", "left", "right")

#: Lanes that cars drive on, and all that is paved for wheels.
DRIVABLE = tuple(
    LANE_KINDS.index(kind)
    for kind in ("driving", "bidirectional", "entry", "exit", "off_ramp", "on_ramp")
)
PAVED = (
    *DRIVABLE,
    *(LANE_KINDS.index(k) for k in ("stop", "shoulder", "biking", "restricted", "parking")),
)

SCHEMA = 1


@dataclass(frozen=True, eq=False)
class RoadMap:
    """A road network. L lanes of P points in all, K edges of Q points, J junctions, G signals.

    Every lane, of any kind, is a polyline along its centre in its direction of travel, whose points
    are equally far apart in the lane's own arc length; a lane has at least two points. A lane ends
    where its road, its lane section or its junction does.
    """

    name: str
    left_hand_traffic: bool

    lane_start: Ints  # (L + 1,) first point of each lane
    points: Floats  # (P, 3) centre of the lane, m
    s: Floats  # (P,) arc length from the lane's first point, m
    heading: Floats  # (P,) rad, without jumps of a whole turn inside a lane
    curvature: Floats  # (P,) 1/m, positive bends to the right
    width: Floats  # (P,) m; 0 where a lane tapers out
    left_marking: Codes  # (P,) line on the left edge of the lane, see MARKINGS
    right_marking: Codes  # (P,)
    left_colour: Codes  # (P,) its colour, see COLOURS
    right_colour: Codes  # (P,)

    lane_kind: Codes  # (L,) see LANE_KINDS
    lane_junction: Ints  # (L,) junction that the lane crosses, or -1
    lane_left: Ints  # (L,) drivable lane on the left in the same direction, or -1
    lane_right: Ints  # (L,) the same on the right
    lane_opposite: Ints  # (L,) drivable oncoming lane beside this one, or -1
    lane_limit: Floats  # (L,) speed limit, m/s
    lane_source: Ints  # (L, 3) road, lane section and lane number in the OpenDRIVE file
    successor_start: Ints  # (L + 1,)
    successors: Ints  # (E,) lanes that drivable lanes lead to

    edge_start: Ints  # (K + 1,) first point of each edge of the road surface
    edge_points: Floats  # (Q, 3) m
    edge_kind: Codes  # (K,) what lies beyond, see EDGE_KINDS

    junction_id: Ints  # (J,) number in the OpenDRIVE file
    junction_phases: Ints  # (J,) phases of its traffic lights, 0 without lights
    connections: Ints  # (C, 4) junction, incoming lane, lane through it, outgoing lane (or -1)
    connection_turn: Codes  # (C,) see TURNS
    conflicts: Ints  # (F, 2) pairs of lanes of a junction whose cars would touch
    conflict_s: Floats  # (F, 2) m along the first at which that begins and ends

    signal_kind: Codes  # (G,) see SIGNAL_KINDS
    signal_position: Floats  # (G, 3) m
    signal_heading: Floats  # (G,) rad, in which the traffic drives that it is meant for
    signal_value: Floats  # (G,) m/s of a speed limit, else 0
    signal_junction: Ints  # (G,) or -1
    signal_phase: Ints  # (G,) phase in which a traffic light is green, or -1
    stop_start: Ints  # (G + 1,)
    stop_lane: Ints  # (T,) lanes that a signal controls
    stop_s: Floats  # (T,) m along the lane where a car's front has to stop

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, np.ndarray):
                value.flags.writeable = False

    @property
    def lanes(self) -> int:
        """The number of lanes L."""
        return len(self.lane_kind)

    @cached_property
    def lane_length(self) -> Floats:
        """Length of each lane, m, (L,)."""
        return self.s[self.lane_start[1:] - 1]

    @cached_property
    def drivable(self) -> NDArray[np.bool_]:
        """Which lanes cars drive on, (L,)."""
        return np.isin(self.lane_kind, DRIVABLE)

    @cached_property
    def hash(self) -> str:
        """SHA-256 over all arrays: two maps with the same hash are the same map."""
        digest = hashlib.sha256(f"{SCHEMA} {self.left_hand_traffic}".encode())
        for name, value in self.arrays().items():
            digest.update(f"{name} {value.dtype.str} {value.shape}".encode())
            digest.update(np.ascontiguousarray(value).tobytes())
        return digest.hexdigest()

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return all arrays by name."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.type in _DTYPES}

    def lane(self, lane: int | np.integer[Any]) -> slice:
        """Return where the points of ``lane`` are in the arrays over P."""
        return slice(int(self.lane_start[lane]), int(self.lane_start[lane + 1]))

    def boundary(self, lane: int, side: str) -> Floats:
        """Return the ``left`` or ``right`` boundary of a lane at its points, (n, 3) in m."""
        part = self.lane(lane)
        half = 0.5 * self.width[part] * (1.0 if side == "right" else -1.0)
        heading = self.heading[part]
        line = self.points[part].copy()
        line[:, 0] -= half * np.sin(heading)
        line[:, 1] += half * np.cos(heading)
        return line


_DTYPES: dict[Any, Any] = {Floats: np.float64, Ints: np.int32, Codes: np.int8}


def _lengths(m: RoadMap) -> dict[str, tuple[int, ...]]:
    """Return the shape that every array must have."""
    lanes, points = m.lanes, len(m.points)
    edges, signals = len(m.edge_kind), len(m.signal_kind)
    shapes: dict[str, tuple[int, ...]] = {
        "points": (points, 3), "lane_start": (lanes + 1,), "lane_source": (lanes, 3),
        "successor_start": (lanes + 1,), "successors": (len(m.successors),),
        "edge_start": (edges + 1,), "edge_points": (len(m.edge_points), 3), "edge_kind": (edges,),
        "junction_id": (len(m.junction_id),), "junction_phases": (len(m.junction_id),),
        "connections": (len(m.connection_turn), 4), "connection_turn": (len(m.connection_turn),),
        "conflicts": (len(m.conflicts), 2), "conflict_s": (len(m.conflicts), 2),
        "signal_position": (signals, 3), "stop_start": (signals + 1,),
        "stop_lane": (len(m.stop_s),), "stop_s": (len(m.stop_s),),
    }  # fmt: skip
    for name in (
        "s", "heading", "curvature", "width", "left_marking", "right_marking", "left_colour",
        "right_colour",
    ):  # fmt: skip
        shapes[name] = (points,)
    for name in ("kind", "junction", "left", "right", "opposite", "limit"):
        shapes[f"lane_{name}"] = (lanes,)
    for name in ("kind", "heading", "value", "junction", "phase"):
        shapes[f"signal_{name}"] = (signals,)
    return shapes


def validate(m: RoadMap) -> RoadMap:
    """Return ``m`` if it keeps what :class:`RoadMap` promises.

    Raises:
        InputError: An array has the wrong type, shape or range, points are not finite or not
            equally far apart, or no lane is drivable.
    """

    def need(holds: Any, what: str) -> None:
        if not holds:
            raise InputError(f"map {m.name!r}: {what}")

    for field in fields(m):
        dtype = _DTYPES.get(field.type)
        value = getattr(m, field.name)
        if dtype is not None:
            need(value.dtype == dtype, f"{field.name} is {value.dtype}, must be {dtype.__name__}")
            need(np.isfinite(value).all(), f"{field.name} has a number that is not finite")
    for name, shape in _lengths(m).items():
        found = getattr(m, name).shape
        need(found == shape, f"{name} has shape {found}, must be {shape}")
    need(m.lanes > 0 and m.drivable.any(), "no lane that cars can drive on")
    _validate_indices(m, need)
    counts = np.diff(m.lane_start)
    need((counts >= 2).all(), "a lane has fewer than two points")
    owner = np.repeat(np.arange(m.lanes), counts)
    even = m.lane_length[owner] * (np.arange(len(m.s)) - m.lane_start[owner])
    need(np.allclose(m.s, even / (counts[owner] - 1), atol=1e-6), "s is not evenly spaced")
    need((m.lane_length > 0).all(), "a lane has no length")
    need((m.width >= 0).all(), "a width is negative")
    need((m.lane_limit > 0).all(), "a speed limit is not positive")
    return m


def _validate_indices(m: RoadMap, need: Any) -> None:
    """Check the numbers that stand for lanes, junctions and names."""
    for name, total in (
        ("lane_start", len(m.points)), ("successor_start", len(m.successors)),
        ("edge_start", len(m.edge_points)), ("stop_start", len(m.stop_s)),
    ):  # fmt: skip
        start = getattr(m, name)
        rising = start[0] == 0 and start[-1] == total and (np.diff(start) >= 0).all()
        need(rising, f"{name} does not rise from 0 to {total}")
    junctions, through = len(m.junction_id), m.connections[:, 1:]
    for name, values, low, high in (
        ("lane_left", m.lane_left, -1, m.lanes), ("lane_right", m.lane_right, -1, m.lanes),
        ("lane_opposite", m.lane_opposite, -1, m.lanes), ("successors", m.successors, 0, m.lanes),
        ("stop_lane", m.stop_lane, 0, m.lanes), ("conflicts", m.conflicts, 0, m.lanes),
        ("connections", through, -1, m.lanes), ("connections", m.connections[:, 0], 0, junctions),
        ("lane_junction", m.lane_junction, -1, junctions),
        ("signal_junction", m.signal_junction, -1, junctions),
        ("lane_kind", m.lane_kind, 0, len(LANE_KINDS)), ("edge_kind", m.edge_kind, 0, len(EDGE_KINDS)),
        ("left_marking", m.left_marking, 0, len(MARKINGS)),
        ("right_marking", m.right_marking, 0, len(MARKINGS)),
        ("left_colour", m.left_colour, 0, len(COLOURS)),
        ("right_colour", m.right_colour, 0, len(COLOURS)),
        ("signal_kind", m.signal_kind, 0, len(SIGNAL_KINDS)),
        ("connection_turn", m.connection_turn, 0, len(TURNS)),
    ):  # fmt: skip
        need(((values >= low) & (values < high)).all(), f"{name} leaves [{low}, {high})")


def save(m: RoadMap, path: str | Path) -> None:
    """Write a map to an ``.npz`` file, whole or not at all."""
    content: dict[str, Any] = m.arrays()
    content["about"] = np.array([str(SCHEMA), m.name, str(int(m.left_hand_traffic)), m.hash])
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **content)


def load(path: str | Path) -> RoadMap:
    """Return the map of an ``.npz`` file that :func:`save` wrote.

    Raises:
        InputError: The file is missing, damaged, of another version, or no map.
    """
    names = {f.name for f in fields(RoadMap) if f.type in _DTYPES}
    try:
        found = read_arrays(path)
        (about,) = require(found, ("about",), path)
        if about.shape != (4,) or about.dtype.kind != "U":
            raise InputError(f"'about' is {about.dtype} {about.shape}")
        schema, name, left, digest = about.tolist()
        if schema == str(SCHEMA):
            arrays = dict(zip(names, require(found, tuple(names), path), strict=True))
    except InputError as error:
        raise InputError(f"cannot read map {str(path)!r}: {error}") from error
    if schema != str(SCHEMA):
        raise InputError(f"{path}: map schema {schema}, this version reads {SCHEMA}")
    m = validate(RoadMap(name=name, left_hand_traffic=left == "1", **arrays))
    if m.hash != digest:
        raise InputError(f"map {str(path)!r} is damaged: its content does not match its hash")
    return m
