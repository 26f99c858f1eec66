"""Camera frames as the vision network takes them: six half-resolution planes for each frame."""

import numpy as np
from numpy.typing import NDArray

from steerlab.errors import InputError
from steerlab.openpilot.contracts import YUV_PHASES

Bytes = NDArray[np.uint8]

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


def image_pair(older: Bytes, newer: Bytes) -> Bytes:
    """Return the network's input from planes 200 ms apart, (..., 12, 128, 256)."""
    return np.concatenate([older, newer], axis=-3)
