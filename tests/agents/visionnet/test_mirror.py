"""The mirror: pixels against a plain reflection, labels against values written out by hand."""

import numpy as np
import pytest

from steerlab.agents.visionnet.mirror import mirror_labels, mirror_pictures
from steerlab.openpilot.images import image_pair, pack_yuv, unpack_yuv


def test_pixels_are_reflected_at_the_middle_of_the_picture() -> None:
    rng = np.random.default_rng(0)
    frames = []
    for _ in range(2):
        y = rng.integers(0, 256, (256, 512), dtype=np.uint8)
        u, v = rng.integers(0, 256, (2, 128, 256), dtype=np.uint8)
        frames.append(pack_yuv(y, u, v))
    turned = mirror_pictures(image_pair(*frames))
    for number, frame in enumerate(frames):
        before, u, v = unpack_yuv(frame)
        after, u_after, v_after = unpack_yuv(turned[6 * number : 6 * number + 6])
        for column in range(1, 512):
            np.testing.assert_array_equal(after[:, column], before[:, 512 - column])
        np.testing.assert_array_equal(u_after, u[:, ::-1])
        np.testing.assert_array_equal(v_after, v[:, ::-1])


def test_labels_change_sides() -> None:
    lines = np.zeros((4, 33, 2), np.float32)
    lines[:, :, 0] = np.array([-5.0, -1.5, 2.0, 6.0])[:, None]  # y to the right
    lines[..., 1] = 1.2
    valid = np.ones((4, 33), bool)
    valid[0] = False
    edges = np.zeros((2, 33, 2), np.float32)
    edges[:, :, 0] = np.array([-7.0, 9.0])[:, None]
    meta = np.zeros(55, np.float32)
    meta[31 + 2] = 1.0  # the left blinker now
    meta[31 + 4 + 3] = 0.5  # the right one in 2 s
    meta[31] = 0.25  # gas
    meta[4] = 0.125  # hard braking
    pred = np.zeros((4, 8), np.float32)
    pred[:, 3] = 0.75  # a lane change to the left
    pred[:, 7], pred[:, 0] = 0.15, 0.1  # null and none have no side
    labels = {
        "lane_lines": lines, "lane_lines_valid": valid,
        "lane_lines_prob": np.array([0.1, 0.2, 0.3, 0.4], np.float32),
        "road_edges": edges, "road_edges_valid": np.ones((2, 33), bool),
        "lead": np.tile(np.array([20.0, 1.5, 10.0, -0.5], np.float32), (3, 6, 1)),
        "pose": np.array([10.0, 0.1, 0.2, 0.01, 0.02, 0.03], np.float32),
        "road_transform": np.array([0.0, 0.0, 1.22, 0.04, 0.0, 0.0], np.float32),
        "wide_from_device_euler": np.array([0.01, 0.02, 0.03], np.float32),
        "desire_pred": pred, "meta": meta, "lead_prob": np.ones(3, np.float32),
        "plan": np.tile(np.arange(15, dtype=np.float32), (33, 1)), "desire_state": pred[0],
        "desire": pred, "traffic_convention": np.array([1.0, 0.0], np.float32),
    }  # fmt: skip
    found = mirror_labels(labels)
    assert found["lane_lines"][:, 5, 0] == pytest.approx([-6.0, -2.0, 1.5, 5.0])
    assert (found["lane_lines"][..., 1] == np.float32(1.2)).all()
    assert found["lane_lines_valid"][:, 0].tolist() == [True, True, True, False]
    assert found["lane_lines_prob"] == pytest.approx([0.4, 0.3, 0.2, 0.1])
    assert found["road_edges"][:, 0, 0] == pytest.approx([-9.0, 7.0])
    assert found["lead"][1, 2] == pytest.approx([20.0, -1.5, 10.0, -0.5])
    assert found["pose"] == pytest.approx([10.0, -0.1, 0.2, -0.01, 0.02, -0.03])
    assert found["road_transform"] == pytest.approx([0.0, 0.0, 1.22, -0.04, 0.0, 0.0])
    assert found["wide_from_device_euler"] == pytest.approx([-0.01, 0.02, -0.03])
    assert found["desire_pred"][0] == pytest.approx([0.1, 0, 0, 0, 0.75, 0, 0, 0.15])
    assert found["meta"][[31, 33, 34, 37, 38, 4]] == pytest.approx([0.25, 0, 1, 0.5, 0, 0.125])
    # x y z, their rates and accelerations, then roll pitch yaw and their rates
    assert found["plan"][3].tolist() == [
        0, -1, 2, 3, -4, 5, 6, -7, 8, -9, 10, -11, -12, 13, -14
    ]  # fmt: skip
    assert found["desire_state"] == pytest.approx([0.1, 0, 0, 0, 0.75, 0, 0, 0.15])
    assert found["desire"][2] == pytest.approx([0.1, 0, 0, 0, 0.75, 0, 0, 0.15])
    assert found["traffic_convention"].tolist() == [0.0, 1.0]
    assert found["lead_prob"] is labels["lead_prob"]
    again = mirror_labels(found)
    for name, values in labels.items():
        np.testing.assert_array_equal(again[name], values)
    assert lines[0, 0, 0] == -5.0  # what was handed in stays as it is
