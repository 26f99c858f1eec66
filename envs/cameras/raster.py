"""Which triangle covers each sample of a picture: projecting, clipping and filling, in numba.

A picture has twice its width and height of samples, on a regular grid. Sample (X, Y) shows what is
at pixel ((X - 1/2) / 2, (Y - 1/2) / 2). Places are kept in homogeneous samples (hx, hy, z): the
place on the grid is (hx / z, hy / z), and z is the depth in metres. A value that is linear on a
triangle, divided by the depth, is linear on the grid, also where corners lie behind the camera
(M. Olano, T. Greer: Triangle scan conversion using 2D homogeneous coordinates, 1997). So only what
is covered has to be clipped.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from steerlab.compiled import compiled, has_numba

if has_numba():
    from numba.extending import register_jitable

    inlined: Callable[[Any], Any] = register_jitable(forceinline=True)
    shared: Callable[[Any], Any] = register_jitable(fastmath=True, error_model="numpy")
else:

    def inlined(function: Any) -> Any:
        """Leave ``function`` alone."""
        return function

    shared = inlined


NEAR = 0.3  # m, what is nearer is cut off
SAMPLES = 2  # along each side of a pixel
COEFFICIENTS = 9  # of a drawn triangle: see :func:`cover`
MISSING = -1  # no triangle covers the sample: the sky


def project(vertices: Any, ranges: Any, eye: Any, matrix: Any, out: Any) -> None:
    """Write homogeneous samples (V, 3) of those ``vertices`` (V, 3) that are in ``ranges`` (R, 2).

    Args:
        vertices: World, m.
        ranges: First and last-but-one vertices.
        eye: Of the camera, world (3,).
        matrix: Homogeneous samples from directions of the world (3, 3).
        out: (V, 3) float32.
    """
    for k in range(ranges.shape[0]):
        for i in range(ranges[k, 0], ranges[k, 1]):
            x, y, z = vertices[i, 0] - eye[0], vertices[i, 1] - eye[1], vertices[i, 2] - eye[2]
            for j in range(3):
                out[i, j] = matrix[j, 0] * x + matrix[j, 1] * y + matrix[j, 2] * z


@inlined
def cut(places: Any, i: int, j: int, k: int, corners: Any) -> int:
    """Write where a triangle's part beyond ``NEAR`` has its corners on the grid; return how many."""
    count = 0
    numbers = (i, j, k)
    for m in range(3):
        a, b = numbers[m], numbers[(m + 1) % 3]
        az, bz = np.float64(places[a, 2]), np.float64(places[b, 2])
        if az >= NEAR:
            corners[count, 0] = np.float64(places[a, 0]) / az
            corners[count, 1] = np.float64(places[a, 1]) / az
            count += 1
        if (az >= NEAR) != (bz >= NEAR):
            if az > bz:  # the same corner for both triangles that share the side
                a, b, az, bz = b, a, bz, az
            t = (NEAR - az) / (bz - az)
            for axis in range(2):
                ends = np.float64(places[a, axis]), np.float64(places[b, axis])
                corners[count, axis] = (ends[0] + t * (ends[1] - ends[0])) / NEAR
            count += 1
    return count


@inlined
def crossing(x0: float, y0: float, x1: float, y1: float, y: float) -> float:
    """Return where the side from the upper to the lower corner crosses a row."""
    return x0 + (y - y0) * ((x1 - x0) / (y1 - y0))


def cover(  # noqa: C901
    places: Any,
    triangles: Any,
    ranges: Any,
    nearer: Any,
    nearest: Any,
    who: Any,
    values: Any,
    numbers: Any,
    corners: Any,
) -> int:
    """Find out which triangle covers each sample; return how many triangles were tried.

    Args:
        places: Homogeneous samples (V, 3).
        triangles: (T, 3), clockwise on the grid where they face the camera.
        ranges: First and last-but-one triangles to draw (R, 2).
        nearer: Factor of one over the depth, for the triangles of each range (R,).
        nearest: Changed: one over the depth of what is nearest (H, W), of float32.
        who: Changed: place in ``values`` and ``numbers`` of what is nearest (H, W), of int32.
        values: Changed: what a triangle's values follow from (at least as many as triangles, 9).
            Each as factors of X, Y and 1: the share of the first corner over the depth, that of the
            second corner over the depth, and one over the depth.
        numbers: Changed: numbers of triangles.
        corners: Room for the corners of one triangle (4, 2).
    """
    height, width = nearest.shape
    nearest[:] = 0.0
    who[:] = MISSING
    slot = 0
    for r in range(ranges.shape[0]):
        for t in range(ranges[r, 0], ranges[r, 1]):
            i, j, k = triangles[t, 0], triangles[t, 1], triangles[t, 2]
            az, bz = np.float64(places[i, 2]), np.float64(places[j, 2])
            cz = np.float64(places[k, 2])
            if az < NEAR and bz < NEAR and cz < NEAR:
                continue
            ax, ay = np.float64(places[i, 0]), np.float64(places[i, 1])
            bx, by = np.float64(places[j, 0]), np.float64(places[j, 1])
            cx, cy = np.float64(places[k, 0]), np.float64(places[k, 1])
            px, py, pz = by * cz - bz * cy, bz * cx - bx * cz, bx * cy - by * cx
            determinant = ax * px + ay * py + az * pz
            if determinant <= 1e-9:  # seen from behind, or from the side
                continue
            count = 3
            if az >= NEAR and bz >= NEAR and cz >= NEAR:
                corners[0, 0], corners[0, 1] = ax / az, ay / az
                corners[1, 0], corners[1, 1] = bx / bz, by / bz
                corners[2, 0], corners[2, 1] = cx / cz, cy / cz
            else:
                count = cut(places, i, j, k, corners)
            left = right = corners[0, 0]
            top = bottom = corners[0, 1]
            for n in range(1, count):
                left, right = min(left, corners[n, 0]), max(right, corners[n, 0])
                top, bottom = min(top, corners[n, 1]), max(bottom, corners[n, 1])
            if right < 0 or bottom < 0 or left > width - 1 or top > height - 1:
                continue
            if np.ceil(left) > right or np.ceil(top) > bottom:
                continue  # between samples
            qx, qy, qz = cy * az - cz * ay, cz * ax - cx * az, cx * ay - cy * ax
            wx, wy = px + qx + ay * bz - az * by, py + qy + az * bx - ax * bz
            wz = pz + qz + ax * by - ay * bx
            scale = 1.0 / determinant
            wx, wy, wz = wx * scale, wy * scale, wz * scale
            values[slot, 0], values[slot, 1], values[slot, 2] = px * scale, py * scale, pz * scale
            values[slot, 3], values[slot, 4], values[slot, 5] = qx * scale, qy * scale, qz * scale
            values[slot, 6], values[slot, 7], values[slot, 8] = wx, wy, wz
            numbers[slot] = t
            step = np.float32(nearer[r] * wx)
            for p in range(1, count - 1):
                # From the top down, and of equal heights from the left: a side that two triangles
                # share comes out the same.
                ax, ay = corners[0, 0], corners[0, 1]
                bx, by = corners[p, 0], corners[p, 1]
                cx, cy = corners[p + 1, 0], corners[p + 1, 1]
                if by < ay or (by == ay and bx < ax):
                    ax, ay, bx, by = bx, by, ax, ay
                if cy < by or (cy == by and cx < bx):
                    bx, by, cx, cy = cx, cy, bx, by
                if by < ay or (by == ay and bx < ax):
                    ax, ay, bx, by = bx, by, ax, ay
                begin = np.int64(max(np.ceil(ay), 0.0))
                end = np.int64(min(np.ceil(cy), np.float64(height)))
                for y in range(begin, end):
                    row = np.float64(y)
                    one = crossing(ax, ay, cx, cy, row)
                    if row < by:
                        other = crossing(ax, ay, bx, by, row)
                    else:
                        other = crossing(bx, by, cx, cy, row)
                    low = np.int64(max(np.ceil(min(one, other)), 0.0))
                    high = np.int64(min(np.ceil(max(one, other)), np.float64(width)))
                    base = np.float32(nearer[r] * (wy * row + wz + wx * low))
                    # Small and unsigned numbers: no check for negative places, several at once.
                    v = np.uint64(y)
                    for n in range(np.int32(high - low)):
                        w = base + step * np.float32(np.int32(n))
                        u = np.uint64(low + n)
                        if w > nearest[v, u]:
                            nearest[v, u] = w
                            who[v, u] = np.int32(slot)
            slot += 1
    return slot


@cache
def loops() -> tuple[Any, Any]:
    """Return :func:`project` and :func:`cover`, compiled."""
    decorate = compiled(nogil=True, error_model="numpy")
    return decorate(project), decorate(cover)
