"""Cameras show what the model's frames show; frames belong to their tick."""

import threading
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from steerlab.envs.cameras.geometry import NARROW, WIDE, MountErrors, Pose, model_view, rotation
from steerlab.envs.carla_driver.server.connection import ServerLost
from steerlab.envs.carla_driver.server.sensors import (
    Events,
    Frames,
    angles,
    cameras_of,
    placed,
    rgb,
)
from tests.envs.carla_server.duck import carla

MOUNT = MountErrors(roll=3.0, pitch=3.0, yaw=3.0, calibration=1.0, wide=1.0).draw(
    np.random.default_rng(4)
)
REAR = -1.45


def in_carla(points: np.ndarray, car: carla.Transform, camera: Any) -> np.ndarray:
    """Project points of the world (ours: z down) as CARLA's documentation says that its cameras do."""
    world_from_car = np.array(car.get_matrix())
    car_from_camera = np.array(placed(MOUNT, camera, REAR).get_matrix())
    world = np.column_stack([points * [1, 1, -1], np.ones(len(points))])
    seen = (np.linalg.inv(world_from_car @ car_from_camera) @ world.T).T
    focal = camera.width / (2 * np.tan(np.radians(camera.field_of_view) / 2))
    u = camera.width / 2 + focal * seen[:, 1] / seen[:, 0]
    v = camera.height / 2 - focal * seen[:, 2] / seen[:, 0]
    return np.column_stack([u, v]) - 0.5  # the middle of pixel 0 is at 0.5


@pytest.mark.parametrize("kind", ["model", "full"])
def test_the_server_is_asked_for_what_the_model_is_to_see(kind: str) -> None:
    yaw, pitch, roll = 0.7, 0.03, -0.02
    rear = np.array([30.0, -12.0, 2.0])  # the rear axle, z down
    forward = rotation((roll, pitch, yaw))[:, 0]
    origin = rear - REAR * forward
    car = carla.Transform(
        carla.Location(float(origin[0]), float(origin[1]), float(-origin[2])),
        carla.Rotation(*(float(np.degrees(a)) for a in (pitch, yaw, roll))),
    )
    pose = Pose(float(rear[0]), float(rear[1]), float(rear[2]), yaw, pitch, roll)
    local = np.random.default_rng(1).uniform([8, -6, -3], [90, 6, 1.2], (400, 3))
    points = rear + local @ rotation((roll, pitch, yaw)).T
    for camera, frame in zip(cameras_of(MOUNT, kind), (NARROW, WIDE), strict=True):
        expected = model_view(pose, MOUNT, frame).project(points)[:, :2]
        inside = ((expected > 2) & (expected < [509, 253])).all(axis=1)
        assert inside.sum() > 100
        found = in_carla(points, car, camera)  # pixels, counted as array indices
        if camera.matrix is None:
            found -= [0, camera.top]
        else:  # where the warp takes a pixel of the frame from
            pixels = np.column_stack([expected, np.ones(len(expected))]) @ camera.matrix.T
            expected = pixels[:, :2] / pixels[:, 2:]
        off = np.abs(found - expected)[inside]
        assert off.max() < (0.22 if kind == "model" else 0.02)
        assert np.median(off) < 0.06


def test_sizes_that_are_asked_for() -> None:
    narrow, wide = cameras_of(MOUNT, "model")
    assert (narrow.width, narrow.height, narrow.top) == (512, 418, 161)
    assert (wide.width, wide.height, wide.top) == (512, 304, 0)
    assert narrow.field_of_view == pytest.approx(31.43, abs=0.01)
    assert narrow.model_frame(np.zeros((418, 512, 3), np.uint8)).shape == (256, 512, 3)
    for camera in cameras_of(MOUNT, "full"):
        assert (camera.width, camera.height) == (1928, 1208)
        picture = np.full((1208, 1928, 3), 90, np.uint8)
        assert (camera.model_frame(picture) == 90).all()
        assert camera.model_frame(picture).shape == (256, 512, 3)


def test_angles_of_a_rotation() -> None:
    for rpy in ((0.1, -0.2, 2.9), (-0.3, 0.4, -1.0)):
        np.testing.assert_allclose(angles(rotation(rpy)), rpy, atol=1e-12)


def image(frame: int) -> Any:
    pixels = np.zeros((2, 3, 4), np.uint8)
    pixels[..., 0], pixels[..., 1], pixels[..., 2], pixels[..., 3] = 1, 2, frame % 256, 255
    return SimpleNamespace(frame=frame, width=3, height=2, raw_data=pixels.tobytes())


def test_blue_comes_first_on_a_server() -> None:
    np.testing.assert_array_equal(rgb(image(9))[0, 0], [9, 2, 1])


def test_frames_by_their_tick() -> None:
    frames = Frames("narrow", size=4)
    for number in range(10, 20):
        frames.put(image(number))
    assert frames.at(18, 0.0)[0, 0, 0] == 18
    assert frames.at(16, 0.0)[0, 0, 0] == 16
    with pytest.raises(ServerLost, match=r"narrow camera.*lost frame 15.*newest is 19"):
        frames.at(15, 5.0)  # forgotten: the queue is bounded, and it does not wait in vain
    threading.Timer(0.2, frames.put, (image(20),)).start()
    assert frames.at(20, 10.0)[0, 0, 0] == 20  # late
    before = time.monotonic()
    with pytest.raises(ServerLost, match="lost frame 21"):
        frames.at(21, 0.2)
    assert 0.15 < time.monotonic() - before < 5


def test_events_are_counted_once() -> None:
    events = Events()
    for _ in range(3):
        events.put(None)
    assert (events.take(), events.take()) == (3, 0)
