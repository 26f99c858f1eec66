"""Camera frames as the vision network takes them: six half-resolution planes for each frame."""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from steerlab.compiled import compiled, has_numba
from steerlab.errors import InputError
from steerlab.openpilot.contracts import YUV_PHASES
from steerlab.types import Bytes

HEIGHT, WIDTH = 256, 512  # of a model frame
I420 = (HEIGHT * 3 // 2, WIDTH)


def pack_yuv(y: Bytes, u: Bytes, v: Bytes) -> Bytes:
    """Return the planes of frames in YUV 4:2:0.

    The brightness goes to channels 0..3 in the order (even row, even column), (odd, even),
    (even, odd), (odd, odd), as the code of openpilot's ``loadyuv.cl`` has it (the README of its
    models swaps the middle two); the colours follow.

    Args:
        y: (..., 256, 512) uint8.
        u: (..., 128, 256) uint8.
        v: (..., 128, 256) uint8.

    Returns:
        (..., 6, 128, 256) uint8.

    Raises:
        InputError: A plane has another size or is not uint8.
    """
    half = (HEIGHT // 2, WIDTH // 2)
    for name, plane, size in (("y", y, (HEIGHT, WIDTH)), ("u", u, half), ("v", v, half)):
        if plane.shape[-2:] != size or plane.dtype != np.uint8:
            raise InputError(
                f"plane {name} is {plane.dtype} {plane.shape}; give uint8 of {size[0]}x{size[1]}"
            )
    phases = [y[..., row::2, column::2] for row, column in YUV_PHASES]
    return np.stack([*phases, u, v], axis=-3)


def unpack_yuv(planes: Bytes) -> tuple[Bytes, Bytes, Bytes]:
    """Return y, u, v of :func:`pack_yuv`'s result."""
    y = np.empty((*planes.shape[:-3], HEIGHT, WIDTH), dtype=np.uint8)
    for channel, (row, column) in enumerate(YUV_PHASES):
        y[..., row::2, column::2] = planes[..., channel, :, :]
    return y, planes[..., 4, :, :], planes[..., 5, :, :]


def pack_i420(frame: Bytes) -> Bytes:
    """Return the planes of frames stored as I420, (..., 384, 512) -> (..., 6, 128, 256).

    Raises:
        InputError: The frame has another size or is not uint8.
    """
    if frame.shape[-2:] != I420:
        raise InputError(f"an I420 frame is {I420[0]}x{I420[1]}, not {frame.shape[-2:]}")
    half = (*frame.shape[:-2], HEIGHT // 2, WIDTH // 2)
    rows = HEIGHT // 4  # two rows of a colour plane lie in one row of the frame
    u, v = frame[..., HEIGHT : HEIGHT + rows, :], frame[..., HEIGHT + rows :, :]
    return pack_yuv(frame[..., :HEIGHT, :], u.reshape(half), v.reshape(half))


def pack_rgb(picture: Bytes) -> Bytes:
    """Return the planes of RGB pictures, (..., 256, 512, 3) -> (..., 6, 128, 256).

    BT.601 in full range, in whole numbers: the constants are those of JPEG (ITU-T T.871) times
    2**16. A colour is that of the mean of its four pixels. Compiled where numba is installed; both
    ways give the same bytes.

    Raises:
        InputError: The picture has another size or is not uint8.
    """
    if picture.shape[-3:] != (HEIGHT, WIDTH, 3) or picture.dtype != np.uint8:
        raise InputError(
            f"picture is {picture.dtype} {picture.shape}; give uint8 RGB of {HEIGHT}x{WIDTH}"
        )
    rows = np.ascontiguousarray(picture).reshape(-1, HEIGHT, WIDTH, 3)
    planes = np.empty((len(rows), 6, HEIGHT // 2, WIDTH // 2), np.uint8)
    for row, out in zip(rows, planes, strict=True):
        _rgb_packer()(row, out)
    return planes.reshape(*picture.shape[:-3], *planes.shape[1:])


@cache
def _rgb_packer() -> Callable[[Bytes, Bytes], None]:
    """Return what packs one picture."""
    if not has_numba():
        return _pack_arrays
    return compiled(nogil=True)(_pack_pixels)


def _pack_pixels(picture: Any, planes: Any) -> None:
    """Pack one picture pixel by pixel: for numba."""
    for i in range(picture.shape[0] // 2):
        for j in range(picture.shape[1] // 2):
            red: Any = np.int64(0)
            green: Any = np.int64(0)
            blue: Any = np.int64(0)
            for channel in range(4):  # YUV_PHASES: down first
                row, column = 2 * i + channel % 2, 2 * j + channel // 2
                r = np.int64(picture[row, column, 0])
                g = np.int64(picture[row, column, 1])
                b = np.int64(picture[row, column, 2])
                planes[channel, i, j] = (19595 * r + 38470 * g + 7471 * b + 32768) >> 16
                red, green, blue = red + r, green + g, blue + b
            u = (-11059 * red - 21709 * green + 32768 * blue + (257 << 17)) >> 18
            v = (32768 * red - 27439 * green - 5329 * blue + (257 << 17)) >> 18
            planes[4, i, j], planes[5, i, j] = min(u, 255), min(v, 255)


def _pack_arrays(picture: Bytes, planes: Bytes) -> None:
    """Pack one picture with numpy."""
    r, g, b = np.moveaxis(picture.astype(np.int64), -1, 0)
    y = (19595 * r + 38470 * g + 7471 * b + 32768) >> 16
    quarter = (HEIGHT // 2, 2, WIDTH // 2, 2)
    r, g, b = (c.reshape(quarter).sum((1, 3)) for c in (r, g, b))
    u = (-11059 * r - 21709 * g + 32768 * b + (257 << 17)) >> 18
    v = (32768 * r - 27439 * g - 5329 * b + (257 << 17)) >> 18
    colours = (np.minimum(c, 255).astype(np.uint8) for c in (u, v))
    planes[:] = pack_yuv(y.astype(np.uint8), *colours)


def image_pair(older: Bytes, newer: Bytes) -> Bytes:
    """Return the network's input from planes 200 ms apart, (..., 12, 128, 256)."""
    return np.concatenate([older, newer], axis=-3)
