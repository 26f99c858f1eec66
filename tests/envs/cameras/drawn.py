"""Small scenes with known places, and where they come out in pictures."""

import numpy as np

from steerlab.envs.cameras.geometry import View
from steerlab.envs.cameras.looks import Look, Weather
from steerlab.envs.cameras.mesh import EMPTY, Mesh, facing, quads
from steerlab.envs.cameras.renderer import Shot, render
from steerlab.envs.cameras.scenery import Scenery, Tile

CLEAR = Look(Weather(visibility=1e7, cloud=1.0, sun_elevation=1.2), seed=1)


def scene(key: str, *meshes: Mesh) -> Scenery:
    tiles = [Tile("plain", facing(m), m.vertices.mean(axis=0), 1e4) for m in meshes]
    return Scenery(key, tuple(tiles))


def boards(view: View, places: np.ndarray, half: np.ndarray) -> Mesh:
    """White boards (N, 4 corners) at pixels ``places`` (N, 2), depth (N,), across the view."""
    right, down, ahead = view.view_from_world
    centre = view.origin + places[:, 2:] * (
        ahead
        + (places[:, :1] - view.camera.cx) / view.camera.focal * right
        + (places[:, 1:2] - view.camera.cy) / view.camera.focal * down
    )
    h = half[:, None]
    corners = np.stack(
        [
            centre + sx * h * right + sy * h * down
            for sx, sy in ((-1, -1), (1, -1), (1, 1), (-1, 1))
        ],
        1,
    )
    mesh = quads(corners, (255, 255, 255))
    towards = np.broadcast_to((-ahead).astype(np.float32), mesh.normals.shape)
    return Mesh(mesh.vertices, towards, mesh.colours, mesh.uv, mesh.triangles)


def backdrop(view: View) -> Mesh:
    """A black wall behind everything."""
    far = boards(view, np.array([[view.camera.cx, view.camera.cy, 150.0]]), np.array([200.0]))
    return Mesh(far.vertices, far.normals, 0 * far.colours, far.uv, far.triangles)


def edge_errors(view: View, seed: int) -> np.ndarray:
    """Draw boards at random places; return errors (N, 4) of their edges: left, right, top, bottom."""
    rng = np.random.default_rng(seed)
    camera = view.camera
    u, v = np.meshgrid(
        np.arange(40.0, camera.width - 30, 40), np.arange(30.0, camera.height - 20, 40)
    )
    places = np.column_stack([u.ravel(), v.ravel(), rng.uniform(4, 90, u.size)])
    places[:, :2] += rng.uniform(-5, 5, (u.size, 2))
    half = rng.uniform(5, 8, u.size) * places[:, 2] / camera.focal
    made = scene(f"boards {seed} {camera}", boards(view, places, half), backdrop(view))
    picture = render(Shot(made, CLEAR, EMPTY, EMPTY, [view]))[0].astype(float).mean(axis=2)
    cover = picture / picture.max()
    pixels = half / places[:, 2] * camera.focal
    errors = []
    for (x, y, _), size in zip(places, pixels, strict=True):
        cx, cy = round(x), round(y)
        row, column = cover[cy - 1 : cy + 2].mean(axis=0), cover[:, cx - 1 : cx + 2].mean(axis=1)
        errors.append([
            (cx + 0.5 - row[cx - 12 : cx + 1].sum()) - (x - size),
            (cx + 0.5 + row[cx + 1 : cx + 13].sum()) - (x + size),
            (cy + 0.5 - column[cy - 12 : cy + 1].sum()) - (y - size),
            (cy + 0.5 + column[cy + 1 : cy + 13].sum()) - (y + size),
        ])  # fmt: skip
    return np.array(errors)
