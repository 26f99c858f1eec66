"""From what covers each sample to the picture: textures, light, haze and sky in one pass, in numba.

A pixel has four samples. Each triangle that covers some of them is shaded once, in their middle, and
counts by their number. Rows of pixels are done one after the other, by a few loops over each.

numba counts references to arrays whenever a function gets one. So what is called for every pixel gets
numbers only.
"""

import math
from functools import cache, lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from steerlab.compiled import compiled
from steerlab.envs.cameras.geometry import Pinhole, View
from steerlab.envs.cameras.raster import MISSING, inlined, shared
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


class Air(NamedTuple):
    """What is between the camera and things, and how bright the picture comes out."""

    clear: NDArray[np.float32]  # from :func:`clearness`
    fog: NDArray[np.float32]  # (3,) RGB
    lengths: NDArray[np.float32]  # (h, w) from :func:`lengths`
    shown: Bytes  # (256,) what the camera makes of each brightness


LOWEST = float(-np.pi / 18)  # rad, elevation of a panorama's first row
BAND = 4.0  # grey levels between those of the sky: steps take less room on a disk than slopes
HAZE_STEP = 1.0  # m, for which haze is the same
RUN = 16  # pixels in a row that may share one size of a texture
ATTRIBUTES = 6  # of a triangle, see :func:`attributes`
_GRID = 16  # pixels between places whose direction is worked out
NODE = 4  # pixels between places whose colour of the sky is looked up; a divisor of _GRID
#: Kinds of numbers in compiled code: whole numbers and constants would turn singles into doubles.
_ZERO, _ONE, _QUARTER, _HALF = (np.float32(x) for x in (0.0, 1.0, 0.25, 0.5))
_TWO, _FOUR, _MOST = (np.float32(x) for x in (2.0, 4.0, 255.0))
_PER_STEP, _BAND, _PER_BAND = (np.float32(x) for x in (1 / HAZE_STEP, BAND, 1 / BAND))
_PER_LEVEL, _RUN = np.float32(1 / 255), np.float32(2 * RUN)


def pyramid(texture: Bytes) -> Bytes:
    """Return the texels (N, 3) of a texture (S, S, 3) in full size, in half of it, and so on to 1."""
    levels, level = [], texture.astype(np.float32)
    while True:
        levels.append(level.reshape(-1, 3))
        size = len(level) // 2
        if not size:
            return np.rint(np.concatenate(levels)).astype(np.uint8)
        level = level.reshape(size, 2, size, 2, 3).mean(axis=(1, 3))


@lru_cache(maxsize=16)
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


@lru_cache(maxsize=8)
def _rays(camera: Pinhole) -> NDArray[np.float64]:
    """Return the directions in the view that every 16th pixel looks to, (3, h / 16 + 2, w / 16 + 2)."""
    v, u = np.mgrid[: camera.height // _GRID + 2, : camera.width // _GRID + 2] * float(_GRID)
    return np.stack(
        [(u - camera.cx) / camera.focal, (v - camera.cy) / camera.focal, np.ones_like(u)]
    )


def directions(sky: Sky, view: View) -> NDArray[np.float32]:
    """Return where in the panorama every 16th pixel looks, (2, h / 16 + 2, w / 16 + 2)."""
    rays = _rays(view.camera)
    x, y, z = (view.view_from_world.T @ rays.reshape(3, -1)).reshape(rays.shape)
    ahead = np.arctan2(*view.view_from_world[2, 1::-1])
    turned = np.arctan2(y, x) - ahead
    azimuth = ahead + np.arctan2(np.sin(turned), np.cos(turned))  # without jumps inside the view
    rows, columns = sky.panorama.shape[:2]
    elevation = (np.arctan2(-z, np.hypot(x, y)) - LOWEST) * (rows - 1) / (np.pi / 2 - LOWEST)
    around = (azimuth + 3 * np.pi) * columns / (2 * np.pi)
    return np.stack([np.clip(elevation, 0, rows - 1.001), around]).astype(np.float32)


@inlined
def blend(a: Any, b: Any, c: Any, d: Any, down: Any, right: Any) -> Any:
    """Return what lies between four values, linear both ways: ``a b`` above, ``c d`` below."""
    upper, lower = a + right * (b - a), c + right * (d - c)
    return upper + down * (lower - upper)


def backdrop(where: Any, panorama: Any, out: Any) -> None:
    """Write the sky's colours at every 4th pixel, (3, h / 4 + 2, w / 4 + 2).

    Args:
        where: From :func:`directions`.
        panorama: Of the sky.
        out: Changed.
    """
    per = _GRID // NODE
    columns = panorama.shape[1]
    for i in range(out.shape[1]):
        for j in range(out.shape[2]):
            down = np.float32(i % per) / np.float32(per)
            right = np.float32(j % per) / np.float32(per)
            m, n = i // per, j // per
            row = blend(
                where[0, m, n], where[0, m, n + 1], where[0, m + 1, n], where[0, m + 1, n + 1],
                down, right,
            )  # fmt: skip
            column = blend(
                where[1, m, n], where[1, m, n + 1], where[1, m + 1, n], where[1, m + 1, n + 1],
                down, right,
            )  # fmt: skip
            top, left = np.int64(row), np.int64(column)
            low, across = row - np.float32(top), column - np.float32(left)
            here, there = left % columns, (left + 1) % columns
            for c in range(3):
                out[c, i, j] = blend(
                    panorama[top, here, c], panorama[top, there, c],
                    panorama[top + 1, here, c], panorama[top + 1, there, c], low, across,
                )  # fmt: skip


@shared
def attributes(
    count: int, values: Any, numbers: Any, triangles: Any, colours: Any, uv: Any, looks: Any
) -> None:
    """Write what the looks of drawn triangles follow from, (S, 6, 3).

    One over the depth; red, green, blue, and both places in the texture, each over the depth: as
    factors of X, Y and 1, since these are linear on the grid of samples.
    """
    for slot in range(count):
        t = numbers[slot]
        i, j, k = triangles[t, 0], triangles[t, 1], triangles[t, 2]
        for n in range(3):
            first, second, whole = values[slot, n], values[slot, 3 + n], values[slot, 6 + n]
            third = whole - first - second
            looks[slot, 0, n] = whole
            for c in range(3):
                looks[slot, 1 + c, n] = (
                    first * colours[i, c] + second * colours[j, c] + third * colours[k, c]
                )
            for c in range(2):
                # Textures repeat: counted from the corner's whole number, singles are exact enough.
                corner = np.floor(uv[k, c])
                looks[slot, 4 + c, n] = (
                    first * (uv[i, c] - corner) + second * (uv[j, c] - corner)
                    + third * (uv[k, c] - corner)
                )  # fmt: skip


@shared
def fragments(who: Any, v: int, owner: Any, pixel: Any, place: Any) -> int:
    """List what has to be shaded in a row of pixels; return how many there are.

    Args:
        who: From :func:`raster.cover` (2 h, 2 w).
        v: The row.
        owner: Changed: the triangle's slot, or ``MISSING`` (4 w,).
        pixel: Changed: the column (4 w,).
        place: Changed: the middle of the samples that it covers, X and Y, and their number (4 w, 3).
    """
    count = 0
    y = _TWO * np.float32(v)
    for u in range(who.shape[1] // 2):
        x = _TWO * np.float32(u)
        a, b, c, d = (
            who[2 * v, 2 * u], who[2 * v, 2 * u + 1], who[2 * v + 1, 2 * u], who[2 * v + 1, 2 * u + 1],
        )  # fmt: skip
        if (a == b) & (a == c) & (a == d):
            owner[count], pixel[count] = a, u
            place[count, 0], place[count, 1], place[count, 2] = x + _HALF, y + _HALF, _FOUR
            count += 1
            continue
        begin = count
        for n in range(4):
            here = a if n == 0 else (b if n == 1 else (c if n == 2 else d))
            f = begin
            while f < count and owner[f] != here:
                f += 1
            if f == count:
                owner[f], pixel[f] = here, u
                place[f, 0], place[f, 1], place[f, 2] = _ZERO, _ZERO, _ZERO
                count += 1
            place[f, 0] += x + np.float32(n % 2)
            place[f, 1] += y + np.float32(n // 2)
            place[f, 2] += _ONE
        for f in range(begin, count):
            place[f, 0] /= place[f, 2]
            place[f, 1] /= place[f, 2]
    return count


@shared
def see_sky(count: int, owner: Any, pixel: Any, place: Any, v: int, sky: Any, row: Any) -> None:
    """Add the sky's share to a ``row`` (w, 3) of pixels, on few grey levels.

    Args:
        count: From :func:`fragments`, like the next three.
        owner: Slots.
        pixel: Columns.
        place: Where, and how many samples.
        v: The row.
        sky: From :func:`backdrop`.
        row: Changed.
    """
    i, down = v // NODE, np.float32(v % NODE) * np.float32(1 / NODE)
    for f in range(count):
        if owner[f] != MISSING:
            continue
        u = pixel[f]
        j, right = u // NODE, np.float32(u % NODE) * np.float32(1 / NODE)
        share = _QUARTER * _BAND * place[f, 2]
        for c in range(3):
            value = blend(
                sky[c, i, j], sky[c, i, j + 1], sky[c, i + 1, j], sky[c, i + 1, j + 1], down, right
            )
            row[u, c] += share * np.float32(math.floor(value * _PER_BAND))


@inlined
def spread(z: Any, u: Any, v: Any, w: Any, across: Any, down: Any) -> Any:
    """Return the square of what a pixel (two samples) covers of a texture, along the longer way.

    Args:
        z: Depth.
        u: Place in the texture.
        v: Place in the texture.
        w: Slopes along X and Y of one over the depth.
        across: Likewise of the place ``u`` over the depth.
        down: Likewise of ``v``.
    """
    ux, uy = across[0] - u * w[0], across[1] - u * w[1]
    vx, vy = down[0] - v * w[0], down[1] - v * w[1]
    return _FOUR * z * z * max(ux * ux + vx * vx, uy * uy + vy * vy)


@inlined
def texture_size(covered: Any, side: int) -> Any:
    """Return where the size of a :func:`pyramid` begins that goes with a pixel, and its side.

    Args:
        covered: From :func:`spread`.
        side: Of the texture in full size, texels; a power of two.
    """
    covered *= np.float32(side * side)
    begin = 0
    while covered > _TWO and side > 1:
        covered *= _QUARTER
        begin += side * side
        side >>= 1
    return begin, side


@inlined
def texel(u: Any, v: Any, begin: int, side: int) -> Any:
    """Return the number of the texel at a place in the texture; see :func:`texture_size`."""
    mask, wide = side - 1, np.float32(side)
    return begin + (math.floor(v * wide) & mask) * side + (math.floor(u * wide) & mask)


@shared
def see_surfaces(
    count: int, owner: Any, pixel: Any, place: Any, looks: Any, numbers: Any, material: Any,
    texels: Any, side: int, clear: Any, fog: Any, length: Any, row: Any,
) -> None:  # fmt: skip
    """Add what triangles show to a ``row`` (w, 3) of pixels, through the haze.

    Args:
        count: From :func:`fragments`, like the next three.
        owner: Slots.
        pixel: Columns.
        place: Where, and how many samples.
        looks: From :func:`attributes`.
        numbers: Numbers of the triangles.
        material: Number of each triangle's texture, -1 for none.
        texels: All textures (M, N, 3).
        side: Of a texture, texels.
        clear: From :func:`clearness`.
        fog: The haze's RGB.
        length: From :func:`lengths`, of this row.
        row: Changed.
    """
    before, since, kind, begin, size = np.uint64(len(looks)), _ZERO, -1, 0, 1
    last = len(clear) - 1
    for f in range(count):
        if owner[f] == MISSING:
            continue
        # Unsigned numbers: numba then has no check for negative places.
        o, u = np.uint64(owner[f]), np.uint64(pixel[f])
        x, y, share = place[f, 0], place[f, 1], _QUARTER * place[f, 2]
        z = _ONE / (looks[o, 0, 0] * x + looks[o, 0, 1] * y + looks[o, 0, 2])
        r = z * (looks[o, 1, 0] * x + looks[o, 1, 1] * y + looks[o, 1, 2])
        g = z * (looks[o, 2, 0] * x + looks[o, 2, 1] * y + looks[o, 2, 2])
        b = z * (looks[o, 3, 0] * x + looks[o, 3, 1] * y + looks[o, 3, 2])
        if o != before:
            kind = material[numbers[o]]
        if kind >= 0:
            s = z * (looks[o, 4, 0] * x + looks[o, 4, 1] * y + looks[o, 4, 2])
            t = z * (looks[o, 5, 0] * x + looks[o, 5, 1] * y + looks[o, 5, 2])
            if o != before or x - since > _RUN:
                w = looks[o, 0, 0], looks[o, 0, 1]
                across = looks[o, 4, 0], looks[o, 4, 1]
                down = looks[o, 5, 0], looks[o, 5, 1]
                begin, size = texture_size(spread(z, s, t, w, across, down), side)
                since = x
            q, m = np.uint64(texel(s, t, begin, size)), np.uint64(kind)
            r *= np.float32(texels[m, q, 0]) * _PER_LEVEL
            g *= np.float32(texels[m, q, 1]) * _PER_LEVEL
            b *= np.float32(texels[m, q, 2]) * _PER_LEVEL
        before = o
        distance: Any = min(np.int64(z * length[u] * _PER_STEP), last)
        left = share * clear[np.uint64(distance)]
        lost = share - left
        row[u, 0] += left * r + lost * fog[0]
        row[u, 1] += left * g + lost * fog[1]
        row[u, 2] += left * b + lost * fog[2]


def compose(
    who: Any, count: int, values: Any, numbers: Any, surfaces: Any, side: int, air: Any, sky: Any,
    looks: Any, picture: Any,
) -> None:  # fmt: skip
    """Write the picture (h, w, 3) RGB.

    Args:
        who: From :func:`raster.cover` (2 h, 2 w), like the next three.
        count: How many triangles were drawn.
        values: (S, 9).
        numbers: (S,).
        surfaces: The fields of :class:`Surfaces`.
        side: Texels along the side of a texture.
        air: The fields of :class:`Air`.
        sky: From :func:`backdrop`.
        looks: Room for what :func:`attributes` gives (S, 6, 3) of float32.
        picture: Changed.
    """
    triangles, material, colours, uv, texels = surfaces
    clear, fog, far, shown = air
    attributes(count, values, numbers, triangles, colours, uv, looks)
    height, width = picture.shape[:2]
    owner, pixel = np.empty(4 * width, np.int32), np.empty(4 * width, np.int32)
    place, row = np.empty((4 * width, 3), np.float32), np.empty((width, 3), np.float32)
    for v in range(height):
        row[:] = _ZERO
        parts = fragments(who, v, owner, pixel, place)
        see_sky(parts, owner, pixel, place, v, sky, row)
        see_surfaces(
            parts, owner, pixel, place, looks, numbers, material, texels, side, clear, fog, far[v],
            row,
        )  # fmt: skip
        for u in range(width):
            for c in range(3):
                picture[v, u, c] = shown[np.uint8(min(max(row[u, c] + _HALF, _ZERO), _MOST))]


@cache
def loops() -> tuple[Any, Any]:
    """Return :func:`backdrop` and :func:`compose`, compiled."""
    decorate = compiled(nogil=True, error_model="numpy", fastmath=True)
    return decorate(backdrop), decorate(compose)
