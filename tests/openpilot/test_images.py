"""Planes are where loadyuv.cl puts them."""

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from steerlab.errors import InputError
from steerlab.openpilot import images
from steerlab.openpilot.images import (
    image_pair,
    pack_i420,
    pack_rgb,
    pack_yuv,
    unpack_yuv,
)


def test_order_of_the_phases() -> None:
    y = np.zeros((256, 512), np.uint8)
    y[0::2, 0::2], y[1::2, 0::2], y[0::2, 1::2], y[1::2, 1::2] = 10, 20, 30, 40
    u, v = np.full((128, 256), 50, np.uint8), np.full((128, 256), 60, np.uint8)
    planes = pack_yuv(y, u, v)
    assert planes.shape == (6, 128, 256)
    assert [int(p.min()) for p in planes] == [int(p.max()) for p in planes]
    assert [int(p[0, 0]) for p in planes] == [10, 20, 30, 40, 50, 60]


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**31))
def test_round_trip(seed: int) -> None:
    frame = np.random.default_rng(seed).integers(0, 256, (2, 384, 512)).astype(np.uint8)
    planes = pack_i420(frame)
    y, u, v = unpack_yuv(planes)
    np.testing.assert_array_equal(y, frame[:, :256])
    np.testing.assert_array_equal(u.reshape(2, 64, 512), frame[:, 256:320])
    np.testing.assert_array_equal(v.reshape(2, 64, 512), frame[:, 320:])
    pair = image_pair(planes[0], planes[1])
    assert pair.shape == (12, 128, 256)
    np.testing.assert_array_equal(pair[6:], planes[1])


def test_wrong_frames_are_refused() -> None:
    with pytest.raises(InputError, match="256x512"):
        pack_yuv(np.zeros((256, 256), np.uint8), np.zeros((1, 1)), np.zeros((1, 1)))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="384x512"):
        pack_i420(np.zeros((256, 512), np.uint8))


@cache
def plain_pack(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A picture, and its packing pixel by pixel: the matrix of BT.601 times 65536."""
    picture = np.random.default_rng(seed).integers(0, 256, (256, 512, 3)).astype(np.uint8)
    picture[:2, :8] = np.repeat([[0, 0, 255], [255, 0, 0], [0, 255, 0], [255, 255, 255]], 2, 0)
    planes = np.zeros((6, 128, 256), int)
    for i in range(128):
        for j in range(256):
            block = [
                [[int(c) for c in picture[2 * i + a, 2 * j + b]] for b in (0, 1)] for a in (0, 1)
            ]
            for channel, (a, b) in enumerate([(0, 0), (1, 0), (0, 1), (1, 1)]):
                red, green, blue = block[a][b]
                planes[channel, i, j] = (19595 * red + 38470 * green + 7471 * blue + 32768) // 65536
            red, green, blue = (
                sum(block[a][b][c] for a in (0, 1) for b in (0, 1)) for c in range(3)
            )
            u = (-11059 * red - 21709 * green + 32768 * blue) / (4 * 65536)
            v = (32768 * red - 27439 * green - 5329 * blue) / (4 * 65536)
            planes[4, i, j] = min(255, int(u + 128.5))
            planes[5, i, j] = min(255, int(v + 128.5))
    return picture, planes


@pytest.mark.parametrize("packer", ["chosen", "numpy"])
def test_packing_of_rgb_is_that_of_a_plain_loop(
    packer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if packer == "numpy":
        monkeypatch.setattr(images, "_rgb_packer", lambda: images._pack_arrays)
    picture, planes = plain_pack(5)
    np.testing.assert_array_equal(pack_rgb(picture), planes)


def test_colours_of_jpeg() -> None:
    # ITU-T T.871: grey has no colour, pure blue and red are at the ends of the scale.
    colours = {
        (128, 128, 128): (128, 128, 128),
        (0, 0, 255): (29, 255, 107),
        (255, 0, 0): (76, 85, 255),
    }
    for colour, (y, u, v) in colours.items():
        planes = pack_rgb(np.full((2, 256, 512, 3), colour, np.uint8))
        assert planes.shape == (2, 6, 128, 256)
        assert planes[1, :, 5, 7].tolist() == [y, y, y, y, u, v]
    with pytest.raises(InputError, match="256x512"):
        pack_rgb(np.zeros((3, 256, 512), np.uint8))
