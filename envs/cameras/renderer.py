"""The one renderer of a process: Panda3D's software renderer, or a GPU's through EGL.

What is drawn comes as arrays, and pictures go out as arrays, so that no environment holds anything
of Panda3D's: copies and pickles of environments need no care, and the rows of a batch render in
turn. Opened buffers are never given back by Panda3D, so each kind of camera gets one for good.
"""

import os
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steerlab.envs.cameras.compose import compose, haze_alpha
from steerlab.envs.cameras.geometry import Pinhole, View
from steerlab.envs.cameras.looks import Look
from steerlab.envs.cameras.mesh import Mesh
from steerlab.envs.cameras.scenery import LAYERS, Scenery
from steerlab.errors import InputError, unknown_name
from steerlab.types import Bytes

NEAR, FAR = 0.8, 320.0  # m
SUPERSAMPLING = 2
SCENES = 4  # maps whose geometry is kept
BACKENDS = {"software": "p3tinydisplay", "egl": "p3headlessgl"}
BACKEND_VARIABLE = "STEERLAB_RENDERER"
#: Pixels of the picture by which things come out too far left and too low: the software renderer
#: cuts off the fractions of corners. Measured by tests/envs/cameras/test_renderer.py.
SNAP = {"software": 0.125, "egl": 0.0}


@dataclass(frozen=True)
class Shot:
    """What one frame shows."""

    scene: Scenery
    look: Look
    moving: Mesh  # vehicles and lamps, in the world
    shadows: Mesh  # on the ground below vehicles
    views: Sequence[View]  # of distinct cameras, all from about the same place


def render(shot: Shot) -> list[Bytes]:
    """Return the pictures (h, w, 3) RGB of all views of a shot.

    Raises:
        InputError: Panda3D is not installed, or ``STEERLAB_RENDERER`` asks for what does not work.
    """
    return _renderer(os.getpid()).render(shot)


@cache
def _renderer(process: int) -> "Renderer":
    """Return this process's renderer; a forked process makes its own."""
    return Renderer(os.environ.get(BACKEND_VARIABLE, "software"))


class Renderer:
    """Buffers, textures and loaded scenes; made through :func:`render` only."""

    def __init__(self, backend: str) -> None:
        if backend not in BACKENDS:
            raise unknown_name(BACKEND_VARIABLE, backend, BACKENDS)
        if find_spec("panda3d") is None:
            raise InputError("pictures need Panda3D: pip install 'steerlab[camera]'")
        from panda3d import core

        self.core, self.backend = core, backend
        self.pipe = _pipe(core, BACKENDS[backend])
        if self.pipe is None:
            raise InputError(
                f"{BACKEND_VARIABLE}={backend}: {BACKENDS[backend]} does not start here; "
                "unset it for the software renderer"
            )
        self.engine = core.GraphicsEngine(self.pipe)
        self.root = core.NodePath("scene")
        self.cameras: dict[Pinhole, _Camera] = {}
        self.loaded: OrderedDict[str, _Loaded] = OrderedDict()
        self.moving = {layer: _Batch(core, self.root, layer, -1) for layer in ("plain", "shadow")}
        self.shown: _Loaded | None = None

    def render(self, shot: Shot) -> list[Bytes]:
        """See :func:`render`."""
        loaded = self._load(shot.scene)
        loaded.relight(shot.look)
        eye = shot.views[0].origin
        loaded.show(shot.views, shot.look)
        for layer, mesh in (("plain", shot.moving), ("shadow", shot.shadows)):
            colours = np.empty((len(mesh.vertices), 4), np.uint8)
            colours[:, :3] = shot.look.shade(mesh)
            whole = np.array([[0, len(colours)]])
            haze_alpha(mesh.vertices, colours, whole, eye, shot.look.visibility)
            self.moving[layer].fill(mesh)
            self.moving[layer].colour(colours)
        used = [self._camera(view.camera) for view in shot.views]
        for camera in self.cameras.values():
            camera.buffer.set_active(camera in used)
        for camera, view in zip(used, shot.views, strict=True):
            camera.look(view)
        self.engine.render_frame()
        sky = shot.look.sky
        return [compose(c.raw(), sky, v) for c, v in zip(used, shot.views, strict=True)]

    def _camera(self, camera: Pinhole) -> "_Camera":
        if camera not in self.cameras:
            self.cameras[camera] = _Camera(self, camera)
        return self.cameras[camera]

    def _load(self, scene: Scenery) -> "_Loaded":
        """Show ``scene``, and forget the one that was shown longest ago."""
        if scene.key not in self.loaded:
            self.loaded[scene.key] = _Loaded(self.core, self.root, scene)
            if len(self.loaded) > SCENES:
                self.loaded.popitem(last=False)[1].node.remove_node()
        self.loaded.move_to_end(scene.key)
        wanted = self.loaded[scene.key]
        if wanted is not self.shown:
            if self.shown is not None:
                self.shown.node.stash()
            wanted.node.unstash()
            self.shown = wanted
        return wanted


def _pipe(core: Any, module: str) -> Any:
    """Return the door to a graphics system that needs no display, or None."""
    core.load_prc_file_data("steerlab", f"load-display {module}\nnotify-level-display error\n")
    selection = core.GraphicsPipeSelection.get_global_ptr()
    for kind in selection.get_pipe_types():
        if "Offscreen" in kind.get_name():
            return selection.make_pipe(kind)
    return selection.make_module_pipe(module)


class _Camera:
    """A buffer for pictures of one size, and the lens that fills it."""

    def __init__(self, renderer: Renderer, camera: Pinhole) -> None:
        core = renderer.core
        self.camera, self.core = camera, core
        size = core.WindowProperties.size(
            *(SUPERSAMPLING * n for n in (camera.width, camera.height))
        )
        kind = core.FrameBufferProperties()
        kind.set_rgba_bits(8, 8, 8, 8)
        kind.set_depth_bits(24)
        self.buffer = renderer.engine.make_output(
            renderer.pipe, f"camera {len(renderer.cameras)}", len(renderer.cameras), kind, size,
            core.GraphicsPipe.BF_refuse_window,
        )  # fmt: skip
        if self.buffer is None:
            raise InputError(
                f"{BACKEND_VARIABLE}={renderer.backend} cannot open a picture of "
                f"{camera.width}x{camera.height} here; unset it for the software renderer"
            )
        self.texture = core.Texture()
        self.buffer.add_render_texture(self.texture, core.GraphicsOutput.RTM_copy_ram)
        self.buffer.set_clear_color((0, 0, 0, 0))
        self.lens = core.PerspectiveLens()
        self.lens.set_near_far(NEAR, FAR)
        self.lens.set_film_size(camera.width, camera.height)
        self.lens.set_focal_length(camera.focal)
        # Pixel i of the picture shows what is at i, so that its left rim is at i - 1/2.
        shift = 0.5 + SNAP[renderer.backend]
        self.lens.set_film_offset(
            0.5 * camera.width - camera.cx - shift, camera.cy - 0.5 * camera.height + shift
        )
        self.node = renderer.root.attach_new_node(core.Camera("camera", self.lens))
        self.buffer.make_display_region().set_camera(self.node)

    def look(self, view: View) -> None:
        """Turn to ``view``; Panda3D's axes are right, forward, up."""
        right, down, ahead = view.view_from_world
        matrix = np.eye(4)
        matrix[:, :3] = _turned(np.stack([right, ahead, -down, view.origin]))
        self.node.set_mat(self.core.LMatrix4(*matrix.ravel().tolist()))

    def raw(self) -> Bytes:
        """Return the raw frame (2 h, 2 w, 4) BGRA, rows upwards."""
        shape = (SUPERSAMPLING * self.camera.height, SUPERSAMPLING * self.camera.width, 4)
        return np.frombuffer(self.texture.get_ram_image(), np.uint8).reshape(shape)


def _turned(points: Any) -> Any:
    """Return points (..., 3) of the world in Panda3D's axes."""
    return np.asarray(points)[..., [1, 0, 2]] * np.array([1, 1, -1], np.asarray(points).dtype)


class _Batch:
    """Triangles of one material in Panda3D's arrays."""

    def __init__(self, core: Any, parent: Any, layer: str, rank: int) -> None:
        self.core = core
        self.geometry = core.GeomNode(layer)
        self.node = parent.attach_new_node(self.geometry)
        # One order for ever: where surfaces are equally deep, the first one drawn stays.
        self.node.set_bin("fixed", rank)
        self.node.set_depth_offset(LAYERS[layer])

    def fill(self, mesh: Mesh) -> None:
        """Take the triangles of ``mesh``."""
        core = self.core
        self.geometry.remove_all_geoms()
        if not len(mesh.triangles):
            return
        data = core.GeomVertexData("", _format(core), core.Geom.UH_dynamic)
        data.unclean_set_num_rows(len(mesh.vertices))
        _write(data.modify_array(0), np.hstack([_turned(mesh.vertices), mesh.uv]))
        triangles = core.GeomTriangles(core.Geom.UH_static)
        triangles.set_index_type(core.Geom.NT_uint32)
        index = triangles.modify_vertices()
        index.unclean_set_num_rows(mesh.triangles.size)
        _write(index, mesh.triangles.astype(np.uint32))
        geometry = core.Geom(data)
        geometry.add_primitive(triangles)
        self.geometry.add_geom(geometry)

    def colour(self, colours: Bytes) -> None:
        """Give the vertices ``colours`` (V, 4)."""
        if self.geometry.get_num_geoms():
            data = self.geometry.modify_geom(0).modify_vertex_data()
            _write(data.modify_array(1), colours)


class _Loaded:
    """A scene in Panda3D's arrays; what the tiles share lies in one array, cut by ``start``."""

    def __init__(self, core: Any, root: Any, scene: Scenery) -> None:
        self.core, self.tiles = core, scene.tiles
        self.node = root.attach_new_node(scene.key)
        self.node.stash()
        self.batches = [
            _Batch(core, self.node, tile.material, rank) for rank, tile in enumerate(scene.tiles)
        ]
        self.centres = np.array([tile.centre for tile in scene.tiles])
        self.radii = np.array([tile.radius for tile in scene.tiles])
        self.vertices = np.concatenate([tile.mesh.vertices for tile in scene.tiles])
        self.colours = np.zeros((len(self.vertices), 4), np.uint8)
        self.start = np.cumsum([0, *(len(tile.mesh.vertices) for tile in scene.tiles)])
        self.look: Look | None = None
        self.filled = np.zeros(len(self.tiles), bool)
        self.lit = np.zeros(len(self.tiles), bool)
        self.seen = np.ones(len(self.tiles), bool)
        self.textures: dict[str, Any] = {}

    def relight(self, look: Look) -> None:
        """Take the colours and textures of ``look``, from now on as tiles come near."""
        if self.look is not look:
            self.look = look
            self.lit[:] = False
            for material, pixels in look.textures.items():
                self._paint(material, pixels)

    def _paint(self, material: str, pixels: Bytes) -> None:
        """Change a texture in place: nothing is left behind for Panda3D to collect."""
        core = self.core
        if material not in self.textures:
            texture = self.textures[material] = core.Texture(material)
            height, width = pixels.shape[:2]
            texture.setup_2d_texture(
                width, height, core.Texture.T_unsigned_byte, core.Texture.F_rgb
            )
            texture.set_minfilter(core.SamplerState.FT_nearest_mipmap_nearest)
            texture.set_magfilter(core.SamplerState.FT_nearest)
            for tile, batch in zip(self.tiles, self.batches, strict=True):
                if tile.material == material:
                    batch.node.set_texture(texture)
        self.textures[material].set_ram_image(np.ascontiguousarray(pixels[::-1, :, ::-1]).tobytes())

    def show(self, views: Sequence[View], look: Look) -> None:
        """Show what can be in one of the ``views``, lit and in haze, and hide the rest."""
        seen = np.zeros(len(self.tiles), bool)
        reach = min(FAR, look.visibility)
        for view in views:
            seen |= _in_sight(view, self.centres, self.radii, reach)
        for i in np.flatnonzero(seen != self.seen):
            (self.batches[i].node.show if seen[i] else self.batches[i].node.hide)()
        self.seen = seen
        shown = np.flatnonzero(seen)
        for i in shown[~self.filled[shown]]:
            self.batches[i].fill(self.tiles[i].mesh)
        self.filled |= seen
        for i in shown[~self.lit[shown]]:
            part = slice(self.start[i], self.start[i + 1])
            self.colours[part, :3] = look.shade(self.tiles[i].mesh)
        self.lit |= seen
        ranges = np.stack([self.start[shown], self.start[shown + 1]], axis=1)
        haze_alpha(self.vertices, self.colours, ranges, views[0].origin, look.visibility)
        for i, (begin, end) in zip(shown, ranges, strict=True):
            self.batches[i].colour(self.colours[begin:end])


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


@cache
def _format(core: Any) -> Any:
    """Return the layout of vertices: places in one array, colours, which change, in another."""
    places, colours = core.GeomVertexArrayFormat(), core.GeomVertexArrayFormat()
    names = core.InternalName
    places.add_column(names.get_vertex(), 3, core.Geom.NT_float32, core.Geom.C_point)
    places.add_column(names.get_texcoord(), 2, core.Geom.NT_float32, core.Geom.C_texcoord)
    colours.add_column(names.get_color(), 4, core.Geom.NT_uint8, core.Geom.C_color)
    layout = core.GeomVertexFormat()
    layout.add_array(places)
    layout.add_array(colours)
    return core.GeomVertexFormat.register_format(layout)


def _write(array: Any, values: NDArray[Any]) -> None:
    """Write all of ``values`` into one of Panda3D's arrays."""
    np.frombuffer(memoryview(array), np.uint8)[:] = (
        np.ascontiguousarray(values).view(np.uint8).reshape(-1)
    )
