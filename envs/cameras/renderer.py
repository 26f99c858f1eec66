"""The renderer: triangles to pictures on one core, without a GPU, a display or a graphics library.

What is drawn comes as arrays, and pictures go out as arrays, so that no environment holds anything
of the renderer's: copies and pickles of environments need no care, and the rows of a batch render in
turn. A process keeps the arrays of the maps that it drew last, and room for one picture.
"""

import os
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steerlab.compiled import has_numba
from steerlab.envs.cameras import compose, raster
from steerlab.envs.cameras.compose import Air, Surfaces
from steerlab.envs.cameras.geometry import View
from steerlab.envs.cameras.looks import TEXTURE, TEXTURES, Look
from steerlab.envs.cameras.mesh import Mesh
from steerlab.envs.cameras.raster import SAMPLES
from steerlab.envs.cameras.scenery import LAYERS, Scenery
from steerlab.errors import InputError
from steerlab.types import Bytes

FAR = 320.0  # m, up to which things are drawn
SCENES = 4  # maps whose geometry is kept
PLAIN_EXPOSURE = np.arange(256, dtype=np.uint8)


@dataclass(frozen=True)
class Shot:
    """What one frame shows."""

    scene: Scenery
    look: Look
    moving: Mesh  # vehicles and lamps, in the world
    shadows: Mesh  # on the ground below vehicles
    views: Sequence[View]


def render(shot: Shot, exposure: Bytes = PLAIN_EXPOSURE) -> list[Bytes]:
    """Return the pictures (h, w, 3) RGB of all views of a shot.

    Args:
        shot: What to draw.
        exposure: What the cameras make of each brightness, (256,).

    Raises:
        InputError: numba is not installed or does not work.
    """
    return _renderer(os.getpid()).render(shot, exposure)


@cache
def _renderer(process: int) -> "Renderer":
    """Return this process's renderer; a forked process makes its own."""
    return Renderer()


class Renderer:
    """Room for samples, and loaded scenes; made through :func:`render` only."""

    def __init__(self) -> None:
        if not has_numba():
            raise InputError("pictures need numba: pip install 'steerlab[camera]'")
        self.project, self.cover = raster.loops()
        self.backdrop, self.compose = compose.loops()
        self.loaded: OrderedDict[str, _Loaded] = OrderedDict()
        self.samples: dict[tuple[int, int], tuple[Any, Any]] = {}
        self.values = np.zeros((0, raster.COEFFICIENTS))
        self.numbers = np.zeros(0, np.int32)
        self.looks = np.zeros((0, compose.ATTRIBUTES, 3), np.float32)
        self.places = np.zeros((0, 3), np.float32)
        self.corners = np.zeros((4, 2))

    def render(self, shot: Shot, exposure: Bytes) -> list[Bytes]:
        """See :func:`render`."""
        loaded = self._load(shot.scene)
        loaded.relight(shot.look)
        loaded.move((("plain", shot.moving), ("shadow", shot.shadows)))
        if len(self.places) < len(loaded.vertices):
            self.places = np.zeros((len(loaded.vertices), 3), np.float32)
        return [self._picture(loaded, shot.look, view, exposure) for view in shot.views]

    def _picture(self, loaded: "_Loaded", look: Look, view: View, exposure: Bytes) -> Bytes:
        """Return what one camera sees."""
        camera = view.camera
        corners, ranges, nearer = loaded.show(view)
        tried = int((ranges[:, 1] - ranges[:, 0]).sum())
        if len(self.numbers) < tried + 1:
            self.values = np.zeros((2 * tried + 1, raster.COEFFICIENTS))
            self.numbers = np.zeros(2 * tried + 1, np.int32)
            self.looks = np.zeros((2 * tried + 1, compose.ATTRIBUTES, 3), np.float32)
        size = camera.height, camera.width
        if size not in self.samples:
            raw = SAMPLES * size[0], SAMPLES * size[1]
            self.samples[size] = np.zeros(raw, np.float32), np.zeros(raw, np.int32)
        nearest, who = self.samples[size]
        # Pixel i shows what is at i: its samples lie a quarter left and right of that.
        grid = np.array([[SAMPLES, 0, 0.5], [0, SAMPLES, 0.5], [0, 0, 1.0]])
        matrix = grid @ camera.matrix @ view.view_from_world
        self.project(loaded.vertices, corners, view.origin, matrix, self.places)
        drawn = self.cover(
            self.places, loaded.triangles, ranges, nearer, nearest, who, self.values, self.numbers,
            self.corners,
        )  # fmt: skip
        air = Air(
            compose.clearness(look.visibility, FAR),
            look.sky.haze,
            compose.lengths(camera),
            exposure,
        )
        sky = np.empty((3, size[0] // compose.NODE + 2, size[1] // compose.NODE + 2), np.float32)
        self.backdrop(compose.directions(look.sky, view), look.sky.panorama, sky)
        picture = np.empty((*size, 3), np.uint8)
        self.compose(
            who, drawn, self.values, self.numbers, tuple(loaded.surfaces(look)), TEXTURE,
            tuple(air), sky, self.looks, picture,
        )  # fmt: skip
        return picture

    def _load(self, scene: Scenery) -> "_Loaded":
        """Return the arrays of ``scene``, and forget the one that was shown longest ago."""
        if scene.key not in self.loaded:
            self.loaded[scene.key] = _Loaded(scene)
            if len(self.loaded) > SCENES:
                self.loaded.popitem(last=False)
        self.loaded.move_to_end(scene.key)
        return self.loaded[scene.key]


class _Loaded:
    """A scene in a few arrays, with room behind the standing parts for what moves."""

    def __init__(self, scene: Scenery) -> None:
        self.tiles = scene.tiles
        meshes = [tile.mesh for tile in scene.tiles]
        self.centres = np.array([tile.centre for tile in scene.tiles])
        self.radii = np.array([tile.radius for tile in scene.tiles])
        self.corner = np.cumsum([0, *(len(mesh.vertices) for mesh in meshes)])
        self.start = np.cumsum([0, *(len(mesh.triangles) for mesh in meshes)])
        self.nearer = np.array([1.0 + LAYERS[tile.material] for tile in scene.tiles])
        self.vertices = np.concatenate([mesh.vertices for mesh in meshes])
        self.uv = np.concatenate([mesh.uv for mesh in meshes])
        self.triangles = np.concatenate(
            [_turned(mesh) + first for mesh, first in zip(meshes, self.corner, strict=False)]
        ).astype(np.int32)
        numbers = [TEXTURES.get(tile.material, -1) for tile in scene.tiles]
        self.material = np.repeat(np.array(numbers, np.int8), np.diff(self.start))
        self.colours = np.zeros((len(self.vertices), 3), np.uint8)
        self.look: Look | None = None
        self.lit = np.zeros(len(self.tiles), bool)
        self.moved: list[tuple[list[int], list[int], float]] = []

    def relight(self, look: Look) -> None:
        """Take the colours of ``look``, from now on as tiles come near."""
        if self.look is not look:
            self.look = look
            self.lit[:] = False

    def move(self, layers: Sequence[tuple[str, Mesh]]) -> None:
        """Put meshes behind the standing parts, each of one layer."""
        assert self.look is not None
        self.moved.clear()
        corner, start = int(self.corner[-1]), int(self.start[-1])
        for layer, mesh in layers:
            corners = [corner, corner + len(mesh.vertices)]
            triangles = [start, start + len(mesh.triangles)]
            self._grow(corners[1], triangles[1])
            part = slice(*corners)
            self.vertices[part], self.colours[part] = mesh.vertices, self.look.shade(mesh)
            self.uv[part] = mesh.uv
            self.triangles[slice(*triangles)] = _turned(mesh) + corner
            self.material[slice(*triangles)] = -1
            self.moved.append((corners, triangles, 1.0 + LAYERS[layer]))
            corner, start = corners[1], triangles[1]

    def _grow(self, corners: int, triangles: int) -> None:
        """Make the arrays as long as that, or longer."""
        if len(self.vertices) < corners:
            for name in ("vertices", "uv", "colours"):
                setattr(self, name, _longer(getattr(self, name), corners))
        if len(self.triangles) < triangles:
            for name in ("triangles", "material"):
                setattr(self, name, _longer(getattr(self, name), triangles))

    def show(self, view: View) -> tuple[Any, Any, Any]:
        """Light what can be in a view; return ranges of vertices and of triangles, (R, 2) each.

        The third result (R,) is by how much the triangles of each range count as nearer.
        """
        assert self.look is not None
        reach = min(FAR, self.look.visibility)
        shown = np.flatnonzero(_in_sight(view, self.centres, self.radii, reach))
        for i in shown[~self.lit[shown]]:
            part = slice(self.corner[i], self.corner[i + 1])
            self.colours[part] = self.look.shade(self.tiles[i].mesh)
        self.lit[shown] = True
        corners = np.stack([self.corner[shown], self.corner[shown + 1]], axis=1)
        triangles = np.stack([self.start[shown], self.start[shown + 1]], axis=1)
        return (
            np.concatenate([corners, [c for c, _, _ in self.moved]]),
            np.concatenate([triangles, [t for _, t, _ in self.moved]]),
            np.concatenate([self.nearer[shown], [n for _, _, n in self.moved]]),
        )

    def surfaces(self, look: Look) -> Surfaces:
        """Return what the triangles look like."""
        return Surfaces(self.triangles, self.material, self.colours, self.uv, look.texels)


def _turned(mesh: Mesh) -> NDArray[np.int32]:
    """Return the triangles (T, 3) of a mesh that is :func:`mesh.facing`, as ``raster.cover`` wants."""
    return mesh.triangles[:, ::-1]


def _longer(values: Any, count: int) -> Any:
    """Return ``values`` with room for ``count`` and half as many again."""
    out = np.zeros((count + count // 2, *values.shape[1:]), values.dtype)
    out[: len(values)] = values
    return out


def _in_sight(view: View, centres: Any, radii: Any, reach: float) -> NDArray[np.bool_]:
    """Return which balls reach into a view, up to ``reach`` m away."""
    at = (centres - view.origin) @ view.view_from_world.T
    inside = (at[:, 2] > -radii) & (at[:, 2] < reach + radii)
    camera = view.camera
    for axis, centre, size in ((0, camera.cx, camera.width), (1, camera.cy, camera.height)):
        for sign, side in ((-1.0, centre + 1), (1.0, size - centre + 1)):
            slope = side / camera.focal
            inside &= sign * at[:, axis] - slope * at[:, 2] < radii * np.hypot(1, slope)
    return np.asarray(inside)
