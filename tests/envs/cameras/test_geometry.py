"""The pinholes are openpilot's, and the direct model view is what its warp gives."""

import numpy as np
import pytest

from steerlab.envs.cameras import geometry
from steerlab.envs.cameras.geometry import NARROW, WIDE, Mount, MountErrors, Pose, View


def test_model_frames_as_crops_of_centred_cameras() -> None:
    narrow, wide = geometry.centred(NARROW), geometry.centred(WIDE)
    assert (narrow.width, narrow.height, narrow.top) == (512, 418, 161)
    assert (wide.width, wide.height, wide.top) == (512, 304, 0)
    assert narrow.field_of_view == pytest.approx(31.43, abs=0.01)
    assert wide.field_of_view == pytest.approx(58.73, abs=0.01)
    # What is left of a row: the axis of the crop is at 48.0 and 152.0, openpilot's at 47.6, 151.8.
    assert narrow.pitch * 910 == pytest.approx(-0.4, abs=1e-6)
    assert wide.pitch * 455 == pytest.approx(-0.2, abs=1e-6)


@pytest.mark.parametrize("frame", [NARROW, WIDE])
def test_crop_turned_by_its_pitch_shows_the_model_frame(frame: geometry.Pinhole) -> None:
    crop = geometry.centred(frame)
    camera = geometry.Pinhole(crop.width, crop.height, frame.focal, 256.0, crop.height / 2)
    turned = View(
        camera,
        view_from_world=geometry.VIEW_FROM_DEVICE @ geometry.rotation((0, crop.pitch, 0)).T,
    )
    points = np.random.default_rng(1).uniform([10, -3, -2], [80, 3, 1.3], (500, 3))
    expected = View(frame).project(points)[:, :2]
    inside = ((expected >= 0) & (expected < [512, 256])).all(axis=1)
    found = turned.project(points)[:, :2] - [0, crop.top]
    assert inside.sum() > 100
    np.testing.assert_allclose(found[inside], expected[inside], atol=0.05)


def test_points_on_a_flat_road() -> None:
    view = geometry.model_view(Pose(100.0, 50.0), Mount(forward=1.5, height=1.22), NARROW)
    u, v, depth = view.project([[121.5, 50.0, 0.0], [121.5, 51.85, 0.0]]).T
    # 20 m ahead of the lens: v = 47.6 + 910 * 1.22 / 20, u = 256 + 910 * 1.85 / 20.
    np.testing.assert_allclose(u, [256.0, 340.175])
    np.testing.assert_allclose(v, [103.11, 103.11])
    np.testing.assert_allclose(depth, 20.0)
    assert np.isnan(view.project([90.0, 50.0, 0.0])).all()


def test_signs_of_the_angles() -> None:
    point = [41.5, 0.0, -1.22]  # at eye level, 40 m ahead of the lens

    def seen(**changes: float) -> np.ndarray:
        return geometry.model_view(Pose(0.0, 0.0, **changes), Mount(), NARROW).project(point)

    assert seen(heading=0.01)[0] < 250  # the car turns right: ahead moves left
    assert seen(pitch=0.01)[1] > 55  # its nose rises: ahead sinks
    tilted = geometry.model_view(Pose(0.0, 0.0, roll=0.1), Mount(), NARROW)
    assert tilted.project([41.5, 5.0, -1.22])[1] < seen()[1]  # leans right: the right side rises


def test_calibration_takes_the_mount_out() -> None:
    pose = Pose(3.0, -2.0, 0.4, 0.3, 0.02, -0.01)
    points = np.random.default_rng(2).uniform([15, -8, -3], [90, 8, 1], (50, 3))
    plain, turned = Mount(), Mount(rpy=(0.0, 0.03, -0.02))
    for frame in (NARROW, WIDE):
        np.testing.assert_allclose(
            geometry.model_view(pose, turned, frame).project(points),
            geometry.model_view(pose, plain, frame).project(points),
        )
    wrong = Mount(rpy=turned.rpy, error=(0.002, 0.0))
    moved = geometry.model_view(pose, wrong, NARROW).project(points)[:, 1]
    right = geometry.model_view(pose, plain, NARROW).project(points)[:, 1]
    ahead = ~np.isnan(right)
    np.testing.assert_allclose(np.abs(moved - right)[ahead], 1.82, atol=0.5)


@pytest.mark.parametrize(
    ("sensor", "frame"),
    [(geometry.NARROW_SENSOR, NARROW), (geometry.WIDE_SENSOR, WIDE)],
)
def test_warp_and_model_view_put_points_at_the_same_pixels(
    sensor: geometry.Pinhole, frame: geometry.Pinhole
) -> None:
    rng = np.random.default_rng(3)
    for _ in range(20):
        mount = MountErrors().draw(rng)
        pose = Pose(*rng.normal(0, 30, 2), *rng.normal(0, 0.03, 4))
        points = np.array([pose.x, pose.y, 0]) + rng.uniform([15, -8, -3], [90, 8, 1], (50, 3))
        in_sensor = geometry.sensor_view(pose, mount, sensor, frame == WIDE).project(points)
        in_model = geometry.model_view(pose, mount, frame).project(points)
        homogeneous = np.column_stack([in_model[:, :2], np.ones(50)])
        back = homogeneous @ geometry.warp_matrix(sensor, frame, mount.calibration).T
        np.testing.assert_allclose(back[:, :2] / back[:, 2:], in_sensor[:, :2], atol=1e-6)


def test_warp_samples_between_pixels() -> None:
    v, u = np.mgrid[:1208, :1928]
    picture = np.stack([u // 8, v // 5, np.zeros_like(u)], -1).astype(np.uint8)
    matrix = geometry.warp_matrix(geometry.NARROW_SENSOR, NARROW, (0.0, 0.0, 0.0))
    frame = geometry.warp(picture, matrix, NARROW)
    # 2648 / 910 pixels of the sensor for one of the frame, about the optical axis.
    scale = 2648 / 910
    for column, row in ((256, 48), (100, 200), (400, 20)):
        assert abs(frame[row, column, 0] - (964 + scale * (column - 256)) / 8) <= 1.0
        assert abs(frame[row, column, 1] - (604 + scale * (row - 47.6)) / 5) <= 1.0


def test_drawn_mounts_are_of_the_stated_size() -> None:
    rng = np.random.default_rng(0)
    mounts = [MountErrors().draw(rng) for _ in range(2000)]
    assert np.std([m.height for m in mounts]) == pytest.approx(0.04, rel=0.15)
    assert np.degrees(np.std([m.rpy for m in mounts], axis=0)) == pytest.approx(
        [0.6, 1.2, 1.2], rel=0.15
    )
    assert max(abs(m.error[0]) for m in mounts) <= np.radians(0.2) + 1e-12
