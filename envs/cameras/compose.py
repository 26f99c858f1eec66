"""From the renderer's raw frame to the picture: smoothing, haze and sky in one pass.

The raw frame has twice the picture's width and height, and in its alpha how much of a surface the
haze leaves (255 all of it); 0 is where nothing was drawn: the sky. Compiled where numba is
installed; numpy gives the same picture but for the rounding of single values.
"""

from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from steerlab.envs.cameras.geometry import View

Bytes = NDArray[np.uint8]


class Sky(NamedTuple):
    """What is behind everything, and the haze before it."""

    panorama: NDArray[np.float32]  # (E, A, 3): elevation from -10 degrees to 90, all azimuths
    haze: NDArray[np.float32]  # (3,) RGB


LOWEST = np.float32(-np.pi / 18)  # rad, elevation of a panorama's first row


def compose(raw: Bytes, sky: Sky, view: View) -> Bytes:
    """Return the picture (h, w, 3) RGB of a raw frame (2 h, 2 w, 4) BGRA whose rows run upwards."""
    h, w = raw.shape[0] // 2, raw.shape[1] // 2
    picture = np.empty((h, w, 3), np.uint8)
    camera = view.camera
    rays = view.view_from_world.T @ np.diag([1 / camera.focal, 1 / camera.focal, 1.0])
    rays[:, 2] -= rays[:, 0] * camera.cx + rays[:, 1] * camera.cy
    _composer()(raw, sky.panorama, sky.haze, rays.astype(np.float32), picture)
    return picture


@cache
def _composer() -> Callable[..., None]:
    if find_spec("numba") is None:
        return _compose_arrays
    from numba import njit

    return njit(cache=True, nogil=True, fastmath=True)(_compose_pixels)  # type: ignore[no-any-return]


def _compose_pixels(raw: Any, panorama: Any, haze: Any, rays: Any, picture: Any) -> None:
    """Compose pixel by pixel: for numba."""
    h, w = picture.shape[:2]
    rows, columns = panorama.shape[:2]
    up, round_ = (rows - 1) / (np.pi / 2 - LOWEST), columns / (2 * np.pi)
    for v in range(h):
        for u in range(w):
            red, green, blue, open_ = np.float32(0), np.float32(0), np.float32(0), 0
            for k in range(4):
                i, j = 2 * (h - 1 - v) + k // 2, 2 * u + k % 2
                alpha = raw[i, j, 3]
                if alpha == 0:
                    open_ += 1
                    continue
                seen = np.float32(alpha) * np.float32(1 / 255)
                hidden = np.float32(1) - seen
                red += seen * np.float32(raw[i, j, 2]) + hidden * haze[0]
                green += seen * np.float32(raw[i, j, 1]) + hidden * haze[1]
                blue += seen * np.float32(raw[i, j, 0]) + hidden * haze[2]
            if open_:
                x = rays[0, 0] * u + rays[0, 1] * v + rays[0, 2]
                y = rays[1, 0] * u + rays[1, 1] * v + rays[1, 2]
                z = rays[2, 0] * u + rays[2, 1] * v + rays[2, 2]
                rise = np.arctan2(-z, np.sqrt(x * x + y * y))
                e = (rise - LOWEST) * up
                a = (np.arctan2(y, x) + np.pi) * round_
                ei, ai = min(max(int(e), 0), rows - 2), int(a) % columns
                es, as_ = np.float32(min(max(e - ei, 0.0), 1.0)), np.float32(a - np.floor(a))
                nxt = (ai + 1) % columns
                for c in range(3):
                    low = panorama[ei, ai, c] * (1 - as_) + panorama[ei, nxt, c] * as_
                    high = panorama[ei + 1, ai, c] * (1 - as_) + panorama[ei + 1, nxt, c] * as_
                    value = open_ * (low * (1 - es) + high * es)
                    if c == 0:
                        red += value
                    elif c == 1:
                        green += value
                    else:
                        blue += value
            picture[v, u, 0] = np.uint8(min(red * np.float32(0.25) + np.float32(0.5), 255.0))
            picture[v, u, 1] = np.uint8(min(green * np.float32(0.25) + np.float32(0.5), 255.0))
            picture[v, u, 2] = np.uint8(min(blue * np.float32(0.25) + np.float32(0.5), 255.0))


def _compose_arrays(raw: Any, panorama: Any, haze: Any, rays: Any, picture: Any) -> None:
    """Compose with numpy."""
    h, w = picture.shape[:2]
    seen = raw[::-1, :, 3:].astype(np.float32) / 255
    colours = seen * raw[::-1, :, 2::-1] + np.where(seen > 0, (1 - seen) * haze, 0.0)
    quarter = (h, 2, w, 2, -1)
    total = colours.reshape(quarter).sum((1, 3))
    open_ = (raw[::-1, :, 3] == 0).reshape(quarter[:-1]).sum((1, 3))
    v, u = np.nonzero(open_)
    total[v, u] += open_[v, u][:, None] * _sky(panorama, rays @ np.stack([u, v, np.ones_like(u)]))
    picture[:] = np.minimum(0.25 * total + 0.5, 255)


def _sky(panorama: Any, rays: Any) -> Any:
    """Return the colours (n, 3) of the sky along ``rays`` (3, n), linear between its points."""
    rows, columns = panorama.shape[:2]
    rise = np.arctan2(-rays[2], np.hypot(rays[0], rays[1]))
    e = (rise - LOWEST) * (rows - 1) / (np.pi / 2 - LOWEST)
    a = (np.arctan2(rays[1], rays[0]) + np.pi) * columns / (2 * np.pi)
    ei, ai = np.clip(e.astype(int), 0, rows - 2), np.floor(a).astype(int) % columns
    es, as_ = np.clip(e - ei, 0, 1)[:, None], (a - np.floor(a))[:, None]
    following = (ai + 1) % columns
    low = panorama[ei, ai] * (1 - as_) + panorama[ei, following] * as_
    high = panorama[ei + 1, ai] * (1 - as_) + panorama[ei + 1, following] * as_
    return low * (1 - es) + high * es


def haze_alpha(vertices: Any, colours: Any, eye: Any, visibility: float) -> None:
    """Write into the alpha of ``colours`` (V, 4) what haze leaves of ``vertices`` (V, 3).

    Args:
        vertices: m.
        colours: uint8, changed in place; never 0, which stands for the sky.
        eye: Where from, (3,).
        visibility: Distance at which 5 % is left, m.
    """
    _hazer()(vertices, colours, np.asarray(eye, np.float32), np.float32(-3.0 / visibility))


@cache
def _hazer() -> Callable[..., None]:
    if find_spec("numba") is None:
        return _haze_arrays
    from numba import njit

    return njit(cache=True, nogil=True, fastmath=True)(_haze_points)  # type: ignore[no-any-return]


def _haze_points(vertices: Any, colours: Any, eye: Any, rate: Any) -> None:
    for i in range(len(vertices)):
        x, y, z = vertices[i, 0] - eye[0], vertices[i, 1] - eye[1], vertices[i, 2] - eye[2]
        left = np.exp(rate * np.sqrt(x * x + y * y + z * z))
        colours[i, 3] = np.uint8(np.float32(1.5) + np.float32(254) * left)


def _haze_arrays(vertices: Any, colours: Any, eye: Any, rate: Any) -> None:
    left = np.exp(rate * np.linalg.norm(vertices - eye, axis=1))
    colours[:, 3] = (1.5 + 254 * left).astype(np.uint8)
