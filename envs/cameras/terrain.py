"""The land beside the road: kerbs and pavements, verges, and ground that follows the road's height."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, minimum_filter1d
from scipy.spatial import cKDTree

from steerlab.envs.cameras.mesh import Mesh, strip
from steerlab.envs.cameras.roadway import CONCRETE_SCALE, KERB, facing_up
from steerlab.envs.maps.road_map import EDGE_KINDS, LANE_KINDS, PAVED, RoadMap
from steerlab.types import Floats

CELL = 12.0  # m, of the ground
MARGIN = 240.0  # m of land beyond the outermost road
SIGHT = 340.0  # m from the road, up to which there is ground
DROP = 0.25  # m, by which the ground lies below the lowest road near by
GROUND_SCALE = 24.0  # m that the texture covers
PAVEMENT, SLOPE = 2.4, 6.0  # m, widths of a pavement and of a verge
_SOLID = [*PAVED, LANE_KINDS.index("sidewalk"), LANE_KINDS.index("median")]


class Surroundings:
    """Where the road is: how far from it, and at what height, any place lies."""

    def __init__(self, road_map: RoadMap) -> None:
        solid = np.isin(road_map.lane_kind, _SOLID)
        owner = np.repeat(np.arange(road_map.lanes), np.diff(road_map.lane_start))
        stride = np.maximum(1, (3.0 / road_map.s[road_map.lane_start[:-1] + 1]).astype(int))
        rank = np.arange(len(owner)) - road_map.lane_start[owner]
        kept = solid[owner] & (rank % stride[owner] == 0)
        self.points = road_map.points[kept]
        self.half = 0.5 * road_map.width[kept]
        self.tree = cKDTree(self.points[:, :2])

    def _nearest(self, places: Floats, count: int) -> tuple[Floats, NDArray[np.intp]]:
        """Return distances and indices (n, k) of the nearest points of the road."""
        away, index = self.tree.query(places, k=[*range(1, min(count, len(self.points)) + 1)])
        return away, index

    def clear(self, places: Floats) -> Floats:
        """Return how far ``places`` (n, 2) are from the nearest paving, about, m; negative on it."""
        away, nearest = self._nearest(places, 6)
        return np.asarray((away - self.half[nearest]).min(axis=1))

    def height(self, places: Floats) -> Floats:
        """Return z (n,) of the lowest road near ``places`` (n, 2), m down."""
        away, nearest = self._nearest(places, 24)
        z = self.points[nearest, 2]
        close = away < 1.3 * CELL
        lowest = np.where(close, z, -np.inf).max(axis=1)
        weight = 1.0 / np.maximum(away, 1.0) ** 2
        smooth = (weight * z).sum(axis=1) / weight.sum(axis=1)
        return np.where(close.any(axis=1), lowest, smooth)


def ground(surroundings: Surroundings, rng: np.random.Generator) -> Iterator[tuple[str, Mesh]]:
    """Yield the ground: below the road near it, hilly far from it."""
    low = surroundings.points[:, :2].min(axis=0) - MARGIN
    high = surroundings.points[:, :2].max(axis=0) + MARGIN
    xs, ys = (np.arange(a, b + CELL, CELL) for a, b in zip(low, high, strict=True))
    x, y = np.meshgrid(xs, ys, indexing="ij")
    places = np.stack([x.ravel(), y.ravel()], axis=1)
    away = np.maximum(surroundings.clear(places), 0.0).reshape(x.shape)
    hills = gaussian_filter(rng.standard_normal(x.shape), 5, mode="wrap")
    hills /= hills.std() + 1e-9
    far = np.clip((away - 25.0) / 150.0, 0.0, 1.0)
    z = surroundings.height(places).reshape(x.shape) + DROP - far * (4.0 + 5.0 * hills)
    vertices = np.stack([x, y, z], axis=-1)
    dz_dx, dz_dy = np.gradient(z, CELL)
    normals = np.stack([dz_dx, dz_dy, -np.ones_like(z)], axis=-1)
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    near = away < SIGHT  # what no camera on the road can see is left out
    i, j = np.nonzero(near[:-1, :-1] | near[1:, :-1] | near[:-1, 1:] | near[1:, 1:])
    a = i * len(ys) + j
    b, c, d = a + len(ys), a + len(ys) + 1, a + 1
    triangles = np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)])
    tint = np.clip(215 + 22 * hills, 150, 255)[..., None] * [1.0, 1.0, 0.97]
    yield "ground", Mesh(
        vertices.reshape(-1, 3).astype(np.float32), normals.reshape(-1, 3).astype(np.float32),
        np.clip(tint, 0, 255).astype(np.uint8).reshape(-1, 3),
        (places / GROUND_SCALE).astype(np.float32), triangles.astype(np.int32),
    )  # fmt: skip


def edges(road_map: RoadMap, surroundings: Surroundings) -> Iterator[tuple[str, Floats, Floats]]:
    """Yield kind, points (n, 3) and outward unit vectors (n, 2) of the road's edges."""
    for edge in range(len(road_map.edge_kind)):
        line = road_map.edge_points[road_map.edge_start[edge] : road_map.edge_start[edge + 1]]
        if len(line) < 2:
            continue
        along = np.gradient(line[:, :2], axis=0)
        along /= np.maximum(np.linalg.norm(along, axis=1, keepdims=True), 1e-9)
        right = np.stack([-along[:, 1], along[:, 0]], axis=1)
        free = [surroundings.clear(line[:, :2] + side * right) for side in (1.5, -1.5)]
        outward = right if np.median(free[0] - free[1]) > 0 else -right
        yield EDGE_KINDS[road_map.edge_kind[edge]], line, outward


def verges(road_map: RoadMap, surroundings: Surroundings) -> Iterator[tuple[str, Mesh]]:
    """Yield kerbs with their pavements, and the slopes from the road down to the ground."""
    for kind, line, outward in edges(road_map, surroundings):
        flat = kind == "verge"
        rise, width = (0.0, 0.0) if flat else (KERB, PAVEMENT)
        if not flat:
            stations = _room(surroundings, line, outward, width)
            top = _shifted(line, outward, 0.0 * stations, rise)
            back = _shifted(line, outward, stations, rise)
            yield "plain", strip(line, top, (176, 174, 168))
            uv = np.stack([top, back], 1)[..., :2] / CONCRETE_SCALE
            yield "concrete", facing_up(strip(top, back, (205, 203, 198), uv))
            line = back
        slope = _room(surroundings, line, outward, SLOPE)
        fall = np.minimum(0.25 * slope, DROP + rise + 0.4)
        foot = _shifted(line, outward, slope, -fall)
        uv = np.stack([line, foot], 1)[..., :2] / GROUND_SCALE
        yield "ground", facing_up(strip(line, foot, (215, 215, 208), uv))


def _room(surroundings: Surroundings, line: Floats, outward: Floats, width: float) -> Floats:
    """Return how far (n,) a band may reach outward: up to ``width``, less where paving is near."""
    steps = np.linspace(0.25, 1.0, 4) * width
    places = line[:, None, :2] + steps[:, None] * outward[:, None]
    free = surroundings.clear(places.reshape(-1, 2)).reshape(len(line), -1) > 0.3 * steps - 0.4
    reach = (np.cumprod(free, axis=1) * np.diff(steps, prepend=0.0)).sum(axis=1)
    return np.asarray(minimum_filter1d(reach, 7, mode="nearest"))  # no teeth


def _shifted(line: Floats, outward: Floats, distance: Floats, rise: float | Floats) -> Floats:
    moved = line.copy()
    moved[:, :2] += outward * distance[:, None]
    moved[:, 2] -= rise
    return moved
