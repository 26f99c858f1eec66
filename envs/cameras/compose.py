"""From what covers each sample to the picture: textures, light, haze and sky in one pass, in numba.

A pixel has four samples. What covers all of them is shaded once, in the pixel's middle; at edges
each triangle is shaded where it was sampled.
"""

from functools import cache, lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from steerlab.compiled import compiled
from steerlab.envs.cameras.geometry import Pinhole, View
from steerlab.envs.cameras.raster import MISSING, inlined
from steerlab.types import Bytes


class Sky(NamedTuple):
    """What is behind everything, and the haze before it."""

    panorama: NDArray[np.float32]  # (E, A, 3): elevation from -10 degrees to 90, all azimuths
    haze: NDArray[np.float32]  # (3,) RGB


class Surfaces(NamedTuple):
    """What triangles look like."""

    triangles: NDArray[np.int32]  # (T, 3)
    material: NDArray[np.int8]  # (T,) number of a texture, -1 for none
    colours: Bytes  # (V, 3) RGB in this light
    uv: NDArray[np.float32]  # (V, 2)
    texels: Bytes  # (M, N, 3) textures, each in full size, then in halves: see :func:`pyramid`


LOWEST = float(-np.pi / 18)  # rad, elevation of a panorama's first row
BAND = np.float32(4)  # grey levels: the sky has steps, which a disk holds far better than slopes
HAZE_STEP = 1.0  # m, for which haze is the same
_GRID = 16  # pixels between places whose direction is worked out; the sky between is interpolated


def pyramid(texture: Bytes) -> Bytes:
    """Return the texels (N, 3) of a texture (S, S, 3) in full size, in half of it, and so on to 1."""
    levels, level = [], texture.astype(np.float32)
    while True:
        levels.append(level.reshape(-1, 3))
        size = len(level) // 2
        if not size:
            return np.rint(np.concatenate(levels)).astype(np.uint8)
        level = level.reshape(size, 2, size, 2, 3).mean(axis=(1, 3))


def clearness(visibility: float, reach: float) -> NDArray[np.float32]:
    """Return what haze leaves, from each ``HAZE_STEP`` to the next, up to ``reach`` m.

    Args:
        visibility: Distance at which 5 % is left, m.
        reach: m, of the farthest thing; what is still farther counts as that far.
    """
    middle = (np.arange(int(reach / HAZE_STEP) + 2) + 0.5) * HAZE_STEP
    return np.exp(-3.0 / visibility * middle).astype(np.float32)


@lru_cache(maxsize=8)
def lengths(camera: Pinhole) -> NDArray[np.float32]:
    """Return the distance of what is at depth 1 in each pixel, (h, w)."""
    v, u = np.mgrid[: camera.height, : camera.width].astype(float)
    across = ((u - camera.cx) ** 2 + (v - camera.cy) ** 2) / camera.focal**2
    return np.sqrt(1.0 + across).astype(np.float32)


def directions(sky: Sky, view: View) -> Any:
    """Return where in the panorama every 16th pixel looks, (2, h / 16 + 2, w / 16 + 2)."""
    camera = view.camera
    v, u = np.mgrid[: camera.height // _GRID + 2, : camera.width // _GRID + 2] * float(_GRID)
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


@inlined
def banded(value: float) -> float:
    """Return a brightness of the sky on its levels."""
    return BAND * np.floor(value / BAND)


@inlined
def level(value: float) -> Any:
    """Return the grey level of a brightness."""
    return np.int64(min(max(value + 0.5, 0.0), 255.0))


@inlined
def texel(u: float, v: float, spread: float, side: int) -> Any:
    """Return which texel of a :func:`pyramid` is seen: of the size that goes with the pixel's.

    Args:
        u: Place in the texture, 1 is its whole width.
        v: Place down.
        spread: Square of what a pixel covers of it.
        side: Of the texture in full size, texels; a power of two.
    """
    spread *= side * side
    at = 0
    while spread > 2.0 and side > 1:
        spread *= 0.25
        at += side * side
        side >>= 1
    return (
        at
        + (np.int64(np.floor(v * side)) & (side - 1)) * side
        + (np.int64(np.floor(u * side)) & (side - 1))
    )


def compose(
    who: Any,
    values: Any,
    numbers: Any,
    surfaces: Any,
    side: int,
    far: Any,
    air: Any,
    fog: Any,
    panorama: Any,
    where: Any,
    shown: Any,
    picture: Any,
) -> None:
    """Write the picture (h, w, 3) RGB.

    Args:
        who: From :func:`raster.cover` (2 h, 2 w), like the next two.
        values: (S, 9).
        numbers: (S,).
        surfaces: The fields of :class:`Surfaces`.
        side: Texels along the side of a texture.
        far: From :func:`lengths` (h, w).
        air: From :func:`clearness`.
        fog: (3,) RGB.
        panorama: Of the sky.
        where: From :func:`directions`.
        shown: What a camera makes of each brightness (256,) uint8.
        picture: Changed.
    """
    triangles, material, colours, uv, texels = surfaces
    columns = panorama.shape[1]
    for v in range(picture.shape[0]):
        down = np.float32(v % _GRID) / np.float32(_GRID)
        for u in range(picture.shape[1]):
            a, b = who[2 * v, 2 * u], who[2 * v, 2 * u + 1]
            c, d = who[2 * v + 1, 2 * u], who[2 * v + 1, 2 * u + 1]
            whole = a == b and a == c and a == d
            red = green = blue = r = g = s = 0.0
            before = -2
            for n in range(1 if whole else 4):
                owner = a if n == 0 else (b if n == 1 else (c if n == 2 else d))
                if owner == before:
                    pass
                elif owner == MISSING:
                    i, j = v // _GRID, u // _GRID
                    right = np.float32(u % _GRID) / np.float32(_GRID)
                    w00, w01 = (1 - down) * (1 - right), (1 - down) * right
                    w10, w11 = down * (1 - right), down * right
                    e = (
                        w00 * where[0, i, j] + w01 * where[0, i, j + 1]
                        + w10 * where[0, i + 1, j] + w11 * where[0, i + 1, j + 1]
                    )  # fmt: skip
                    f = (
                        w00 * where[1, i, j] + w01 * where[1, i, j + 1]
                        + w10 * where[1, i + 1, j] + w11 * where[1, i + 1, j + 1]
                    )  # fmt: skip
                    row, column = np.int64(e), np.int64(f)
                    down_, right_ = e - row, f - column
                    here, there = column % columns, (column + 1) % columns
                    w00, w01 = (1 - down_) * (1 - right_), (1 - down_) * right_
                    w10, w11 = down_ * (1 - right_), down_ * right_
                    r = banded(
                        w00 * panorama[row, here, 0] + w01 * panorama[row, there, 0]
                        + w10 * panorama[row + 1, here, 0] + w11 * panorama[row + 1, there, 0]
                    )  # fmt: skip
                    g = banded(
                        w00 * panorama[row, here, 1] + w01 * panorama[row, there, 1]
                        + w10 * panorama[row + 1, here, 1] + w11 * panorama[row + 1, there, 1]
                    )  # fmt: skip
                    s = banded(
                        w00 * panorama[row, here, 2] + w01 * panorama[row, there, 2]
                        + w10 * panorama[row + 1, here, 2] + w11 * panorama[row + 1, there, 2]
                    )  # fmt: skip
                else:
                    x, y = 2.0 * u + n % 2, 2.0 * v + n // 2
                    if whole:
                        x, y = x + 0.5, y + 0.5
                    o, t = owner, numbers[owner]
                    z = 1.0 / (values[o, 6] * x + values[o, 7] * y + values[o, 8])
                    first = (values[o, 0] * x + values[o, 1] * y + values[o, 2]) * z
                    second = (values[o, 3] * x + values[o, 4] * y + values[o, 5]) * z
                    third = 1.0 - first - second
                    i, j, k = triangles[t, 0], triangles[t, 1], triangles[t, 2]
                    r = first * colours[i, 0] + second * colours[j, 0] + third * colours[k, 0]
                    g = first * colours[i, 1] + second * colours[j, 1] + third * colours[k, 1]
                    s = first * colours[i, 2] + second * colours[j, 2] + third * colours[k, 2]
                    m = material[t]
                    if m >= 0:
                        u2, v2 = uv[k, 0], uv[k, 1]
                        u0, v0, u1, v1 = uv[i, 0] - u2, uv[i, 1] - v2, uv[j, 0] - u2, uv[j, 1] - v2
                        du, dv = first * u0 + second * u1, first * v0 + second * v1
                        ux = u0 * values[o, 0] + u1 * values[o, 3] - du * values[o, 6]
                        uy = u0 * values[o, 1] + u1 * values[o, 4] - du * values[o, 7]
                        vx = v0 * values[o, 0] + v1 * values[o, 3] - dv * values[o, 6]
                        vy = v0 * values[o, 1] + v1 * values[o, 4] - dv * values[o, 7]
                        # Texels a pixel (two samples), along the longer way.
                        spread = 4.0 * z * z * max(ux * ux + vx * vx, uy * uy + vy * vy)
                        q = texel(u2 + du, v2 + dv, spread, side)
                        r *= texels[m, q, 0] * (1.0 / 255)
                        g *= texels[m, q, 1] * (1.0 / 255)
                        s *= texels[m, q, 2] * (1.0 / 255)
                    clear = air[min(np.int64(z * far[v, u] * (1.0 / HAZE_STEP)), air.shape[0] - 1)]
                    r = clear * (r - fog[0]) + fog[0]
                    g = clear * (g - fog[1]) + fog[1]
                    s = clear * (s - fog[2]) + fog[2]
                before = owner
                red, green, blue = red + r, green + g, blue + s
            part = 1.0 if whole else 0.25
            picture[v, u, 0] = shown[level(part * red)]
            picture[v, u, 1] = shown[level(part * green)]
            picture[v, u, 2] = shown[level(part * blue)]


@cache
def composer() -> Any:
    """Return :func:`compose`, compiled."""
    return compiled(nogil=True, error_model="numpy", fastmath=True)(compose)
