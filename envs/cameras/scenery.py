"""The standing part of what a camera sees, built from a map: one set of meshes, in tiles."""

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from steerlab.envs.cameras import furniture, roadway, terrain
from steerlab.envs.cameras.mesh import Mesh, facing, merge
from steerlab.envs.maps.road_map import RoadMap

TILE = 60.0  # m, size of the squares that are drawn or left out as a whole
#: Materials, and by which share nearer than they are those count that lie on others. Lines on the
#: road follow its bends and slopes in other pieces than the road itself, up to a centimetre off it.
#: A share of the depth is the same share of the camera's height above the road, at any distance.
LAYERS = {
    "ground": 0.0, "asphalt": 0.002, "concrete": 0.002, "facade": 0.002, "plain": 0.002,
    "marking": 0.02, "shadow": 0.03,
}  # fmt: skip


class Tile(NamedTuple):
    """The triangles of one material in one square."""

    material: str
    mesh: Mesh
    centre: NDArray[np.float64]  # (3,) m
    radius: float  # m


@dataclass(frozen=True, eq=False)
class Scenery:
    """What stands on a map, by ``key``."""

    key: str
    tiles: tuple[Tile, ...]

    @property
    def triangles(self) -> int:
        """Return their number."""
        return sum(len(tile.mesh.triangles) for tile in self.tiles)


@lru_cache(maxsize=8)
def scenery_of(road_map: RoadMap) -> Scenery:
    """Return the scene of a map; the same map always has the same buildings and trees."""
    rng = np.random.default_rng(int(road_map.hash[:12], 16))
    surroundings = terrain.Surroundings(road_map)
    meshes: dict[str, list[Mesh]] = {material: [] for material in LAYERS}
    for parts in (
        roadway.surface(road_map),
        roadway.markings(road_map, rng),
        terrain.verges(road_map, surroundings),
        terrain.ground(surroundings, rng),
        furniture.furnish(road_map, surroundings, rng),
    ):
        for material, mesh in parts:
            meshes[material].append(mesh)
    tiles = [
        tile for material in LAYERS for tile in _cut(material, facing(merge(meshes[material])))
    ]
    return Scenery(road_map.hash, tuple(tiles))


def _cut(material: str, mesh: Mesh) -> list[Tile]:
    """Return ``mesh`` in squares by the middles of its triangles."""
    if not len(mesh.triangles):
        return []
    middles = mesh.vertices[mesh.triangles, :2].mean(axis=1)
    squares, where = np.unique(np.floor(middles / TILE).astype(int), axis=0, return_inverse=True)
    order = np.argsort(where.ravel(), kind="stable")
    ends = np.cumsum(np.bincount(where.ravel(), minlength=len(squares)))
    tiles = []
    for part in np.split(order, ends[:-1]):
        used, triangles = np.unique(mesh.triangles[part], return_inverse=True)
        piece = Mesh(
            mesh.vertices[used], mesh.normals[used], mesh.colours[used], mesh.uv[used],
            triangles.reshape(-1, 3).astype(np.int32),
        )  # fmt: skip
        low, high = piece.vertices.min(axis=0), piece.vertices.max(axis=0)
        tiles.append(
            Tile(material, piece, (low + high) / 2.0, 0.5 * float(np.linalg.norm(high - low)))
        )
    return tiles
