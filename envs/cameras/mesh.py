"""Triangles in arrays, and the few shapes that scenes are made of; world frame, z down."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steerlab.types import Singles


@dataclass(frozen=True, eq=False)
class Mesh:
    """V vertices and T triangles of one material."""

    vertices: Singles  # (V, 3) m
    normals: Singles  # (V, 3)
    colours: NDArray[np.uint8]  # (V, 3) RGB in full light; multiplies the texture
    uv: Singles  # (V, 2) place in the texture, 1 is its whole width
    triangles: NDArray[np.int32]  # (T, 3)

    def moved(self, rotation: Any, offset: Any) -> "Mesh":
        """Return the mesh turned by ``rotation`` (3, 3), then shifted by ``offset`` (3,)."""
        turned = np.asarray(rotation, np.float32).T
        return Mesh(
            self.vertices @ turned + np.asarray(offset, np.float32),
            self.normals @ turned, self.colours, self.uv, self.triangles,
        )  # fmt: skip


EMPTY = Mesh(
    np.zeros((0, 3), np.float32), np.zeros((0, 3), np.float32), np.zeros((0, 3), np.uint8),
    np.zeros((0, 2), np.float32), np.zeros((0, 3), np.int32),
)  # fmt: skip


def merge(meshes: Sequence[Mesh]) -> Mesh:
    """Return all ``meshes`` as one."""
    meshes = [m for m in meshes if len(m.triangles)]
    if not meshes:
        return EMPTY
    first = np.cumsum([0, *(len(m.vertices) for m in meshes[:-1])])
    return Mesh(
        np.concatenate([m.vertices for m in meshes]),
        np.concatenate([m.normals for m in meshes]),
        np.concatenate([m.colours for m in meshes]),
        np.concatenate([m.uv for m in meshes]),
        np.concatenate([m.triangles + n for m, n in zip(meshes, first, strict=True)]).astype(
            np.int32
        ),
    )


def facing(mesh: Mesh) -> Mesh:
    """Return the mesh with the corners of each triangle counter-clockwise, seen from its normals.

    What faces away from a camera is then left out.
    """
    a, b, c = (mesh.vertices[mesh.triangles[:, k]] for k in range(3))
    outward = mesh.normals[mesh.triangles].sum(axis=1)
    wrong = (np.cross(b - a, c - a) * outward).sum(axis=1) < 0
    triangles = mesh.triangles.copy()
    triangles[wrong] = triangles[wrong][:, ::-1]
    return Mesh(mesh.vertices, mesh.normals, mesh.colours, mesh.uv, triangles)


def quads(corners: Any, colours: Any, uv: Any = None) -> Mesh:
    """Return flat quadrilaterals.

    Args:
        corners: (Q, 4, 3) in order round each; its normal is that of the first three, turned by the
            right hand (z is down: corners that run clockwise from above look up).
        colours: RGB (3,), (Q, 3) or (Q, 4, 3).
        uv: (Q, 4, 2), zeros by default.
    """
    corners = np.asarray(corners, np.float32).reshape(-1, 4, 3)
    count = len(corners)
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-9)
    colours = np.asarray(colours, np.uint8)
    if colours.ndim == 2:
        colours = colours[:, None]
    at = np.arange(count)[:, None] * 4
    return Mesh(
        corners.reshape(-1, 3),
        np.repeat(-normals, 4, axis=0),
        np.broadcast_to(colours, (count, 4, 3)).reshape(-1, 3),
        np.zeros((4 * count, 2), np.float32)
        if uv is None
        else np.asarray(uv, np.float32).reshape(-1, 2),
        np.concatenate([at + [0, 1, 2], at + [0, 2, 3]], axis=1).reshape(-1, 3).astype(np.int32),
    )


def strip(left: Any, right: Any, colour: Any, uv: Any = None) -> Mesh:
    """Return a band between two lines (n, 3), looking up where ``left`` is left of ``right``.

    Args:
        left: (n, 3).
        right: (n, 3).
        colour: RGB (3,).
        uv: Place in the texture of both lines, (n, 2, 2); by default ground coordinates (m).
    """
    both = np.stack([left, right], axis=1).astype(np.float32)
    n = len(both)
    along = np.gradient(both.mean(axis=1), axis=0) if n > 1 else np.zeros((n, 3), np.float32)
    normals = np.cross(both[:, 1] - both[:, 0], along)
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-9)
    at = np.arange(max(n - 1, 0))[:, None] * 2
    triangles = np.concatenate([at + [0, 2, 3], at + [0, 3, 1]], axis=1).reshape(-1, 3)
    vertices = both.reshape(-1, 3)
    return Mesh(
        vertices,
        np.repeat(normals, 2, axis=0).astype(np.float32),
        np.broadcast_to(np.asarray(colour, np.uint8), vertices.shape),
        vertices[:, :2] if uv is None else np.asarray(uv, np.float32).reshape(-1, 2),
        triangles.astype(np.int32),
    )


#: Corners of a cube of half-width 1 on the ground plane (z from 0 up to -1), and its five faces.
_CUBE = np.array(
    [[x, y, z] for z in (0.0, -1.0) for x, y in ((-1, -1), (1, -1), (1, 1), (-1, 1))], np.float32
)
_FACES = np.array([[4, 5, 6, 7], [0, 1, 5, 4], [1, 2, 6, 5], [2, 3, 7, 6], [3, 0, 4, 7]])


def boxes(centres: Any, sizes: Any, headings: Any, colours: Any, scale: float = 1.0) -> Mesh:
    """Return boxes that stand on their centres, without floors.

    Args:
        centres: (B, 3) middle of the floor.
        sizes: (B, 3) length along the heading, width, height, m.
        headings: (B,) rad.
        colours: (B, 3), or (B, 5, 3) for the roof and the four walls.
        scale: Metres of wall that the texture's width covers; the roof has the texture's corner.
    """
    centres, sizes = np.asarray(centres, float).reshape(-1, 3), np.asarray(sizes, float)
    count = len(centres)
    sizes = np.broadcast_to(sizes, (count, 3))
    corners = _CUBE * (sizes * [0.5, 0.5, 1.0])[:, None]
    cosine, sine = np.cos(headings), np.sin(headings)
    turn = np.stack([cosine, -sine, sine, cosine], -1).reshape(-1, 2, 2)
    corners[..., :2] = np.einsum(
        "bij,bkj->bki", np.broadcast_to(turn, (count, 2, 2)), corners[..., :2]
    )
    corners += centres[:, None]
    faces = corners[:, _FACES].reshape(-1, 4, 3)
    walls = np.linalg.norm(faces[:, 1] - faces[:, 0], axis=-1) / scale
    rise = np.linalg.norm(faces[:, 3] - faces[:, 0], axis=-1) / scale
    zero = np.zeros_like(walls)
    uv = np.stack([zero, zero, walls, zero, walls, rise, zero, rise], -1).reshape(-1, 4, 2)
    uv.reshape(count, 5, 4, 2)[:, 0] *= 0.0
    colours = np.asarray(colours, np.uint8)
    if colours.ndim == 2:
        colours = np.broadcast_to(colours[:, None], (count, 5, 3))
    made = quads(faces, np.broadcast_to(colours, (count, 5, 3)).reshape(-1, 3), uv)
    middle = np.repeat(centres - [0, 0, 0.5] * sizes, 20, axis=0)
    outward = np.sign(((made.vertices - middle) * made.normals).sum(1, keepdims=True))
    return Mesh(made.vertices, (made.normals * outward).astype(np.float32), made.colours, made.uv,
                made.triangles)  # fmt: skip
