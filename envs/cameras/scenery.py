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
#: Materials, and how much nearer than they are those count that lie on others, in 1 / 65536 of the
#: range of depths. The renderer rounds corners to its pixels but keeps their depths, which moves a
#: surface by up to one row of the raw frame; on the road one row of the wide camera is 46. So a
#: marking can be seen through the lowest half pixel of what stands before it. None is negative:
#: depths at the far end of the range would turn over.
LAYERS = {
    "ground": 0, "asphalt": 10, "concrete": 10, "facade": 10, "plain": 10, "marking": 65,
    "shadow": 100,
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
