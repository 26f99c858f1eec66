"""From the renderer's raw frame to the picture: smoothing, haze and sky in one pass.

The raw frame has twice the picture's width and height, and in its alpha how much of a surface the
haze leaves (255 all of it); 0 is where nothing was drawn: the sky. Compiled where numba is
installed; numpy gives the same picture but for the rounding of single values.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from steerlab.compiled import compiled, has_numba
from steerlab.envs.cameras.geometry import View
from steerlab.types import Bytes


class Sky(NamedTuple):
    """What is behind everything, and the haze before it."""

    panorama: NDArray[np.float32]  # (E, A, 3): elevation from -10 degrees to 90, all azimuths
    haze: NDArray[np.float32]  # (3,) RGB


LOWEST = float(-np.pi / 18)  # rad, elevation of a panorama's first row
BAND = np.float32(4)  # grey levels: the sky has steps, which a disk holds far better than slopes
_GRID = 16  # pixels between places whose direction is worked out; the sky between is interpolated


def compose(raw: Bytes, sky: Sky, view: View) -> Bytes:
    """Return the picture (h, w, 3) RGB of a raw frame (2 h, 2 w, 4) BGRA whose rows run upwards.

    Height and width of the picture are multiples of 8.
    """
    h, w = raw.shape[0] // 2, raw.shape[1] // 2
    picture = np.empty((h, w, 3), np.uint8)
    _composer()(raw, sky.panorama, sky.haze, _directions(sky, view, h, w), picture)
    return picture


def _directions(sky: Sky, view: View, h: int, w: int) -> Any:
    """Return where in the panorama every 16th pixel looks, (2, h / 16 + 2, w / 16 + 2)."""
    camera = view.camera
    v, u = np.mgrid[: h // _GRID + 2, : w // _GRID + 2] * float(_GRID)
    rays = np.stack(
        [(u - camera.cx) / camera.focal, (v - camera.cy) / camera.focal, np.ones_like(u)]
    )
    x, y, z = np.tensordot(view.view_from_world.T, rays, axes=1)
    ahead = np.arctan2(*view.view_from_world[2, 1::-1])
    turned = np.arctan2(y, x) - ahead
    azimuth = ahead + np.arctan2(np.sin(turned), np.cos(turned))  # without jumps inside the view
    rows, columns = sky.panorama.shape[:2]
    elevation = (np.arctan2(-z, np.hypot(x, y)) - LOWEST) * (rows - 1) / (np.pi / 2 - LOWEST)
    around = (azimuth + 3 * np.pi) * columns / (2 * np.pi)
    return np.stack([np.clip(elevation, 0, rows - 1.001), around]).astype(np.float32)


@cache
def _composer() -> Callable[..., None]:
    if not has_numba():
        return _compose_arrays
    return compiled(nogil=True, fastmath=True)(_compose_pixels)


def _compose_pixels(raw: Any, panorama: Any, haze: Any, directions: Any, picture: Any) -> None:
    """Compose pixel by pixel: for numba."""
    h, w = picture.shape[:2]
    columns = panorama.shape[1]
    whole = np.int32(255)
    fog = np.empty(3, np.int32)
    for c in range(3):
        fog[c] = np.int32(haze[c])
    total = np.empty(3, np.float32)
    for v in range(h):
        high, low = raw[2 * (h - 1 - v) + 1], raw[2 * (h - 1 - v)]
        for u in range(w):
            a0, a1 = np.int32(high[2 * u, 3]), np.int32(high[2 * u + 1, 3])
            a2, a3 = np.int32(low[2 * u, 3]), np.int32(low[2 * u + 1, 3])
            open_ = (a0 == 0) + (a1 == 0) + (a2 == 0) + (a3 == 0)
            hidden = (4 - open_) * whole - a0 - a1 - a2 - a3
            for c in range(3):
                drawn = (
                    a0 * high[2 * u, 2 - c] + a1 * high[2 * u + 1, 2 - c]
                    + a2 * low[2 * u, 2 - c] + a3 * low[2 * u + 1, 2 - c]
                )  # fmt: skip
                total[c] = np.float32(drawn + hidden * fog[c]) * np.float32(1 / 255)
            if open_ > 0:
                i, j = v // _GRID, u // _GRID
                down, right = np.float32(v % _GRID) / _GRID, np.float32(u % _GRID) / _GRID
                w00, w01 = (1 - down) * (1 - right), (1 - down) * right
                w10, w11 = down * (1 - right), down * right
                e = (
                    w00 * directions[0, i, j] + w01 * directions[0, i, j + 1]
                    + w10 * directions[0, i + 1, j] + w11 * directions[0, i + 1, j + 1]
                )  # fmt: skip
                a = (
                    w00 * directions[1, i, j] + w01 * directions[1, i, j + 1]
                    + w10 * directions[1, i + 1, j] + w11 * directions[1, i + 1, j + 1]
                )  # fmt: skip
                ei, ai = np.int32(e), np.int32(a)
                es, as_ = np.float32(e - ei), np.float32(a - ai)
                here, there = ai % columns, (ai + 1) % columns
                for c in range(3):
                    below = panorama[ei, here, c] * (1 - as_) + panorama[ei, there, c] * as_
                    above = panorama[ei + 1, here, c] * (1 - as_) + panorama[ei + 1, there, c] * as_
                    shown = below * (1 - es) + above * es
                    total[c] += open_ * BAND * np.floor(shown / BAND)
            for c in range(3):
                value = total[c] * np.float32(0.25) + np.float32(0.5)
                picture[v, u, c] = np.uint8(min(value, np.float32(255)))


def _compose_arrays(raw: Any, panorama: Any, haze: Any, directions: Any, picture: Any) -> None:
    """Compose with numpy."""
    h, w = picture.shape[:2]
    seen = raw[::-1, :, 3:].astype(np.float32) / 255
    fog = np.floor(haze)
    colours = seen * raw[::-1, :, 2::-1] + np.where(seen > 0, (1 - seen) * fog, 0.0)
    quarter = (h, 2, w, 2, -1)
    total = colours.reshape(quarter).sum((1, 3))
    open_ = (raw[::-1, :, 3] == 0).reshape(quarter[:-1]).sum((1, 3))
    v, u = np.nonzero(open_)
    (i, down), (j, right) = (np.divmod(n, _GRID) for n in (v, u))
    down, right = down / _GRID, right / _GRID
    e, a = (
        (d[i, j] * (1 - right) + d[i, j + 1] * right) * (1 - down)
        + (d[i + 1, j] * (1 - right) + d[i + 1, j + 1] * right) * down
        for d in directions
    )
    total[v, u] += open_[v, u][:, None] * BAND * np.floor(_sky(panorama, e, a) / BAND)
    picture[:] = np.minimum(0.25 * total + 0.5, 255)


def _sky(panorama: Any, e: Any, a: Any) -> Any:
    """Return the colours (n, 3) at rows ``e`` and columns ``a``, linear between the points."""
    columns = panorama.shape[1]
    ei, ai = e.astype(int), a.astype(int)
    es, as_ = (e - ei)[:, None], (a - ai)[:, None]
    here, there = ai % columns, (ai + 1) % columns
    below = panorama[ei, here] * (1 - as_) + panorama[ei, there] * as_
    above = panorama[ei + 1, here] * (1 - as_) + panorama[ei + 1, there] * as_
    return below * (1 - es) + above * es


def haze_alpha(vertices: Any, colours: Any, ranges: Any, eye: Any, visibility: float) -> None:
    """Write into the alpha of ``colours`` (V, 4) what haze leaves of ``vertices`` (V, 3).

    Args:
        vertices: m, float32.
        colours: uint8, changed in place; never 0, which stands for the sky.
        ranges: First and last-but-one of the vertices that are to be done, (R, 2).
        eye: Where from, (3,).
        visibility: Distance at which 5 % is left, m.
    """
    _hazer()(vertices, colours, ranges, np.asarray(eye, np.float32), np.float32(-3.0 / visibility))


@cache
def _hazer() -> Callable[..., None]:
    if not has_numba():
        return _haze_arrays
    return compiled(nogil=True, fastmath=True)(_haze_points)


def _haze_points(vertices: Any, colours: Any, ranges: Any, eye: Any, rate: Any) -> None:
    for k in range(len(ranges)):
        for i in range(ranges[k, 0], ranges[k, 1]):
            x, y, z = vertices[i, 0] - eye[0], vertices[i, 1] - eye[1], vertices[i, 2] - eye[2]
            left = np.exp(rate * np.sqrt(x * x + y * y + z * z))
            colours[i, 3] = np.uint8(np.float32(1.5) + np.float32(254) * left)


def _haze_arrays(vertices: Any, colours: Any, ranges: Any, eye: Any, rate: Any) -> None:
    for begin, end in ranges:
        left = np.exp(rate * np.linalg.norm(vertices[begin:end] - eye, axis=1))
        colours[begin:end, 3] = (1.5 + 254 * left).astype(np.uint8)
