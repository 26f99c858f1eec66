"""Buildings, trees, lamp posts, signs and the housings of traffic lights, placed along the road."""

from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from steerlab.envs.cameras.mesh import Mesh, boxes, facing, merge, quads
from steerlab.envs.cameras.terrain import DROP, Surroundings, edges
from steerlab.envs.maps.road_map import SIGNAL_KINDS, RoadMap
from steerlab.types import Floats

SPACING = 11.0  # m between places along an edge where something may stand
BUILT_UP = 16.0  # m/s, limit up to which a road has buildings
WALLS = np.array(
    [
        [206, 170, 140],
        [178, 120, 96],
        [214, 208, 196],
        [160, 160, 164],
        [226, 205, 160],
        [140, 120, 110],
    ]
)
LAMP_HEIGHT, LAMP_SIZE = 4.6, 0.30  # m, of the middle lamp of a traffic light
LAMP_GAP = 0.36  # m between lamps
LAMPS_OFF = np.array([[70, 18, 16], [74, 62, 14], [12, 62, 24]])
LAMPS_ON = np.array([[255, 46, 40], [255, 196, 40], [60, 255, 120]])
STATES = ("red", "yellow", "green", "off")  # of a traffic light, by number


def furnish(
    road_map: RoadMap, surroundings: Surroundings, rng: np.random.Generator
) -> Iterator[tuple[str, Mesh]]:
    """Yield material and mesh of everything that stands beside the road."""
    slow = float(np.median(road_map.lane_limit[road_map.drivable])) <= BUILT_UP
    for kind, line, outward in edges(road_map, surroundings):
        length = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])
        if kind == "median" or length[-1] < SPACING:
            continue
        at = np.arange(rng.uniform(0, SPACING), length[-1], SPACING)
        places = np.stack([np.interp(at, length, line[:, i]) for i in range(3)], axis=1)
        out = np.stack([np.interp(at, length, outward[:, i]) for i in range(2)], axis=1)
        built = slow and kind == "kerb"
        yield from _buildings(places, out, surroundings, rng, 0.75 if built else 0.06)
        yield from _trees(places, out, surroundings, rng, 0.45 if built else 0.8)
        yield from _posts(places, out, surroundings, built)
    yield "plain", merge([_sign(road_map, i) for i in range(len(road_map.signal_kind))])


def _scattered(
    places: Floats, out: Floats, rng: np.random.Generator, share: float, near: float, far: float
) -> Floats:
    """Return some of the places (n, 3), moved outward by ``near`` to ``far`` m."""
    chosen = rng.random(len(places)) < share
    moved = places[chosen].copy()
    moved[:, :2] += out[chosen] * rng.uniform(near, far, (len(moved), 1))
    moved[:, :2] += rng.normal(0, 1.5, (len(moved), 2))
    return moved


def _buildings(
    places: Floats, out: Floats, surroundings: Surroundings, rng: np.random.Generator, share: float
) -> Iterator[tuple[str, Mesh]]:
    sites = _scattered(places, out, rng, share, 14.0, 26.0)
    sizes = rng.uniform([9, 9, 4], [18, 16, 22], (len(sites), 3))
    free = surroundings.clear(sites[:, :2]) > 0.5 * np.hypot(*sizes[:, :2].T) + 1.0
    sites, sizes = sites[free], sizes[free]
    if not len(sites):
        return
    sites[:, 2] = surroundings.height(sites[:, :2]) + DROP + 2.0
    sizes[:, 2] += 2.0
    paint = WALLS[rng.integers(len(WALLS), size=len(sites))] * rng.uniform(
        0.8, 1.1, (len(sites), 1)
    )
    headings = np.arctan2(*_facing(sites, surroundings).T[::-1])
    yield "facade", boxes(sites, sizes, headings, np.clip(paint, 0, 255), scale=14.0)


def _facing(sites: Floats, surroundings: Surroundings) -> Floats:
    """Return the directions (n, 2) from sites to the nearest road."""
    _, nearest = surroundings.tree.query(sites[:, :2])
    return np.asarray(surroundings.points[nearest, :2] - sites[:, :2])


def _trees(
    places: Floats, out: Floats, surroundings: Surroundings, rng: np.random.Generator, share: float
) -> Iterator[tuple[str, Mesh]]:
    sites = np.concatenate(
        [
            _scattered(places, out, rng, s, *reach)
            for s, reach in ((share, (3.5, 12)), (share, (14, 60)))
        ]
    )
    sites = sites[surroundings.clear(sites[:, :2]) > 2.5]
    if not len(sites):
        return
    sites[:, 2] = surroundings.height(sites[:, :2]) + DROP
    tall = rng.uniform(3.5, 9.0, len(sites))
    yield "plain", boxes(
        sites, np.stack([0.35 + 0 * tall, 0.35 + 0 * tall, 0.5 * tall], 1), 0 * tall,
        np.broadcast_to([92, 70, 50], (len(sites), 3)),
    )  # fmt: skip
    yield "plain", _crowns(sites, tall, rng)


def _crowns(sites: Floats, tall: Floats, rng: np.random.Generator, sides: int = 7) -> Mesh:
    """Return lumpy crowns, each three rings of ``sides`` corners and a top."""
    rings = np.array([[0.30, 0.55], [0.55, 1.0], [0.82, 0.72], [1.0, 0.02]])  # height, radius
    pointed = rng.random(len(sites)) < 0.3
    radius = tall * rng.uniform(0.24, 0.36, len(sites))
    angle = np.arange(sides) * 2 * np.pi / sides
    shape = np.where(pointed[:, None], [1.15, 0.75, 0.4, 0.02], rings[:, 1])
    lumps = rng.uniform(0.78, 1.2, (len(sites), 4, sides))
    out = (radius[:, None] * shape)[..., None] * lumps
    x, y = out * np.cos(angle), out * np.sin(angle)
    z = -(tall[:, None] * rings[:, 0])[..., None] + 0.0 * out
    vertices = np.stack([x, y, z], -1)
    normals = np.stack([x, y, -0.8 * out * (rings[:, 0] - 0.45)[None, :, None] * 4], -1)
    normals /= np.maximum(np.linalg.norm(normals, axis=-1, keepdims=True), 1e-9)
    green = np.array([66, 96, 46]) * rng.uniform(0.7, 1.35, (len(sites), 3)) * [1, 1, 0.9]
    colours = green[:, None, None] * rng.uniform(0.75, 1.2, (len(sites), 4, sides, 1))
    k, j = (n.ravel() for n in np.mgrid[:3, :sides])
    a, b = k * sides + j, k * sides + (j + 1) % sides
    one = np.concatenate([np.stack([a, b, b + sides], 1), np.stack([a, b + sides, a + sides], 1)])
    triangles = one[None] + (np.arange(len(sites)) * 4 * sides)[:, None, None]
    vertices = (vertices + sites[:, None, None]).reshape(-1, 3).astype(np.float32)
    return Mesh(
        vertices, normals.reshape(-1, 3).astype(np.float32),
        np.clip(colours, 0, 255).astype(np.uint8).reshape(-1, 3),
        np.zeros((len(vertices), 2), np.float32), triangles.reshape(-1, 3).astype(np.int32),
    )  # fmt: skip


def _posts(
    places: Floats, out: Floats, surroundings: Surroundings, lamps: bool
) -> Iterator[tuple[str, Mesh]]:
    """Yield lamp posts in towns and reflector posts elsewhere."""
    sites = places[:: 3 if lamps else 4].copy()
    sites[:, :2] += out[:: 3 if lamps else 4] * 0.8
    free = surroundings.clear(sites[:, :2]) > 0.3
    sites, arms = sites[free], out[:: 3 if lamps else 4][free]
    if not len(sites):
        return
    zero = np.zeros(len(sites))
    if not lamps:
        yield "plain", boxes(sites, (0.12, 0.12, 1.0), zero, np.full((len(sites), 3), 230))
        return
    yield "plain", boxes(sites, (0.16, 0.16, 7.0), zero, np.full((len(sites), 3), 110))
    heads = sites - np.column_stack([arms * 0.9, zero + 6.9])
    headings = np.arctan2(arms[:, 1], arms[:, 0])
    yield "plain", boxes(heads, (2.0, 0.25, 0.15), headings, np.full((len(sites), 3), 120))


def _disc(sides: int, radius: float, turn: float = 0.0) -> Floats:
    """Return the corners (sides, 2), right and down, of a regular polygon."""
    angle = turn + 2 * np.pi * np.arange(sides) / sides
    return radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def _plate(corners: Floats, colour: tuple[int, int, int], ahead: float) -> Mesh:
    """Return a plate that faces traffic, in the sign's frame: x with the traffic, y right, z down."""
    middle = np.zeros((len(corners), 2))
    fan = np.stack([middle, corners, np.roll(corners, -1, 0), np.roll(corners, -1, 0)], axis=1)
    return quads(np.insert(fan, 0, -ahead, axis=-1), colour)


def _sign(road_map: RoadMap, signal: int) -> Mesh:
    """Return one sign, or the housing of a traffic light, with its post."""
    kind = SIGNAL_KINDS[road_map.signal_kind[signal]]
    grey = [(120, 120, 122)]
    if kind == "traffic_light":
        head = boxes([[0, 0, -(LAMP_HEIGHT - 0.6)]], (0.25, 0.46, 1.25), [0.0], [(32, 34, 34)])
        parts = [boxes([[0.25, 0, 0]], (0.16, 0.16, 5.3), [0.0], grey), head]
    else:
        red, white = (196, 32, 36), (240, 240, 240)
        if kind == "stop":
            plates = [(_disc(8, 0.42, np.pi / 8), white), (_disc(8, 0.38, np.pi / 8), red)]
        elif kind == "yield":
            plates = [(_disc(3, 0.5, np.pi / 2), red), (_disc(3, 0.32, np.pi / 2), white)]
        else:
            plates = [(_disc(16, 0.4), red), (_disc(16, 0.31), white)]
        up = np.array([0.0, 0.0, -2.3])
        parts = [boxes([[0.08, 0, 0]], (0.08, 0.08, 2.7), [0.0], grey)]
        parts += [
            _plate(corners, colour, 0.03 * i).moved(np.eye(3), up)
            for i, (corners, colour) in enumerate(plates)
        ]
        if kind == "stop":
            parts.append(quads([[[-0.06, y, z - 2.3] for y, z in _BAR]], white))
    return merge(parts).moved(*_standing(road_map, signal))


_BAR = [(-0.25, -0.08), (0.25, -0.08), (0.25, 0.08), (-0.25, 0.08)]


def _standing(road_map: RoadMap, signal: int) -> tuple[Floats, Floats]:
    """Return rotation (3, 3) and foot (3,) of a sign; maps give its middle, not its foot."""
    heading = road_map.signal_heading[signal]
    c, s = np.cos(heading), np.sin(heading)
    x, y = road_map.signal_position[signal, :2]
    _, nearest = _places(road_map).query([x, y])
    foot = np.array([x, y, road_map.points[nearest, 2]])
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]]), foot


@lru_cache(maxsize=8)
def _places(road_map: RoadMap) -> cKDTree:
    return cKDTree(road_map.points[:, :2])


class Lamps(NamedTuple):
    """The lamps of a map's traffic lights: red, yellow, green of one signal after the other."""

    mesh: Mesh
    signals: NDArray[np.intp]  # (S,) which signals have lamps


@lru_cache(maxsize=8)
def lamps_of(road_map: RoadMap) -> Lamps:
    """Return the lamps of a map, dark."""
    signals = np.flatnonzero(road_map.signal_kind == SIGNAL_KINDS.index("traffic_light"))
    parts = []
    for signal in signals:
        turn, foot = _standing(road_map, int(signal))
        for lamp in range(3):
            plate = _plate(_disc(8, 0.5 * LAMP_SIZE), (0, 0, 0), 0.14)
            up = [0.0, 0.0, -(LAMP_HEIGHT + (1 - lamp) * LAMP_GAP)]
            parts.append(plate.moved(turn, foot + up))
    return Lamps(facing(merge(parts)), signals)


def lamps(road_map: RoadMap, states: NDArray[np.integer]) -> Mesh:
    """Return the lamps of all traffic lights.

    Args:
        road_map: The map.
        states: Number in :data:`STATES` of each signal (G,).
    """
    mesh, signals = lamps_of(road_map)
    if not len(signals):
        return mesh
    on = states[signals][:, None] == np.arange(3)
    colours = np.where(on[..., None], LAMPS_ON, LAMPS_OFF).astype(np.uint8)
    each = len(mesh.vertices) // (3 * len(signals))
    return replace(mesh, colours=np.repeat(colours.reshape(-1, 3), each, axis=0))
