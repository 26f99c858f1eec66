"""Planes are where loadyuv.cl puts them."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from steerlab.errors import InputError
from steerlab.openpilot.images import image_pair, pack_i420, pack_yuv, unpack_yuv


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
