"""Sensors of the ego vehicle: frames that belong to a tick, and events.

Callbacks run in the client's thread. They only keep what came, in queues that forget the oldest.
"""

import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from steerlab.envs.cameras.geometry import (
    NARROW,
    NARROW_SENSOR,
    WIDE,
    WIDE_SENSOR,
    Mount,
    Pinhole,
    centred,
    rotation,
    warp,
    warp_matrix,
)
from steerlab.envs.carla_driver.server.connection import ServerLost
from steerlab.envs.carla_driver.server.session import ROLE
from steerlab.types import Bytes, Floats

if TYPE_CHECKING:
    import carla


KEPT = 8  # frames of a camera
_HALF_BACK = np.array([[1.0, 0.0, -0.5], [0.0, 1.0, -0.5], [0.0, 0.0, 1.0]])
#: What is set of a camera where it has it: no blur that would smear the labels' lines.
PLAIN = {"sensor_tick": "0.0", "motion_blur_intensity": "0.0", "lens_flare_intensity": "0.0"}


class Frames:
    """The newest frames of one camera.

    Args:
        name: Of the camera, for messages.
        size: How many frames are kept.
    """

    def __init__(self, name: str, size: int = KEPT) -> None:
        self.name = name
        self._kept: deque[carla.Image] = deque(maxlen=size)
        self._came = threading.Condition()

    def put(self, image: "carla.Image") -> None:
        """Keep a frame; the oldest one goes."""
        with self._came:
            self._kept.append(image)
            self._came.notify_all()

    def at(self, frame: int, seconds: float) -> Bytes:
        """Return the picture of a tick as RGB (H, W, 3); wait for it if it is late.

        Raises:
            ServerLost: It did not come in time, or a later one came instead.
        """
        end = time.monotonic() + seconds
        with self._came:
            while True:
                newest = self._kept[-1].frame if self._kept else -1
                found = next((image for image in self._kept if image.frame == frame), None)
                if found is not None:
                    return rgb(found)
                left = end - time.monotonic()
                if newest > frame or left <= 0:
                    raise ServerLost(
                        f"the {self.name} camera of the CARLA server lost frame {frame} (its newest "
                        f"is {newest if newest >= 0 else 'none'}); the episode cannot go on"
                    )
                self._came.wait(left)


def rgb(image: "carla.Image") -> Bytes:
    """Return the pixels of an image, which come as BGRA, as RGB (H, W, 3)."""
    pixels = np.frombuffer(image.raw_data, np.uint8).reshape(image.height, image.width, 4)
    return pixels[:, :, 2::-1].copy()


class Events:
    """Counts of events, by whoever asks next."""

    def __init__(self) -> None:
        self._count = 0
        self._lock = threading.Lock()

    def put(self, event: Any) -> None:
        """Count one."""
        with self._lock:
            self._count += 1

    def take(self) -> int:
        """Return how many came since the last call."""
        with self._lock:
            count, self._count = self._count, 0
            return count


@dataclass(frozen=True)
class Camera:
    """A camera to ask of a server, and how its picture becomes a frame of the model.

    Attributes:
        name: For messages.
        frame: The model's frame.
        width: Of the picture, pixels.
        height: Of the picture, pixels.
        field_of_view: Horizontal, degrees.
        rpy: rad: ``rotation(rpy)`` takes directions of the camera to those of the car.
        top: First row of the frame in the picture, of cameras of the frame itself.
        matrix: From the frame's pixels to the picture's, of whole sensors.
    """

    name: str
    frame: Pinhole
    width: int
    height: int
    field_of_view: float
    rpy: tuple[float, float, float]
    top: int = 0
    matrix: Floats | None = None

    def model_frame(self, picture: Bytes) -> Bytes:
        """Return the model's frame (256, 512, 3) out of a picture."""
        if self.matrix is not None:
            return warp(picture, self.matrix, self.frame)
        return picture[self.top : self.top + self.frame.height]


def cameras_of(mount: Mount, kind: str) -> list[Camera]:
    """Return the narrow and the wide camera.

    A pixel of CARLA shows what is half a pixel further than in openpilot's way of counting. The warp of
    whole sensors takes that back; cameras of a frame are turned by it, which leaves 0.2 pixels in the
    corners of the wide one.

    Args:
        mount: Of the device.
        kind: ``model`` for pictures that are frames of the model but for some rows, ``full`` for whole
            sensors.
    """
    found = []
    for name, frame, sensor in (("narrow", NARROW, NARROW_SENSOR), ("wide", WIDE, WIDE_SENSOR)):
        car_from_camera = rotation(mount.rpy).T
        if frame == WIDE:
            car_from_camera = car_from_camera @ rotation(mount.wide).T
        if kind == "full":
            matrix = _HALF_BACK @ warp_matrix(sensor, frame, mount.calibration)
            found.append(
                Camera(name, frame, sensor.width, sensor.height, sensor.field_of_view,
                       angles(car_from_camera), matrix=matrix)
            )  # fmt: skip
            continue
        crop, half = centred(frame), 0.5 / frame.focal
        turned = (
            car_from_camera
            @ rotation(mount.calibration)
            @ rotation((0.0, crop.pitch + half, -half))
        )
        found.append(
            Camera(
                name, frame, crop.width, crop.height, crop.field_of_view, angles(turned), crop.top
            )
        )
    return found


def angles(turn: Floats) -> tuple[float, float, float]:
    """Return roll, pitch and yaw (rad) of a rotation (3, 3); see :func:`geometry.rotation`."""
    return (
        float(np.arctan2(turn[2, 1], turn[2, 2])),
        float(-np.arcsin(np.clip(turn[2, 0], -1, 1))),
        float(np.arctan2(turn[1, 0], turn[0, 0])),
    )


def camera_blueprint(library: "carla.BlueprintLibrary", camera: Camera) -> "carla.ActorBlueprint":
    """Return the blueprint of a camera."""
    blueprint = library.find("sensor.camera.rgb")
    asked = {
        "image_size_x": str(camera.width), "image_size_y": str(camera.height),
        "fov": f"{camera.field_of_view:.6f}", "role_name": ROLE, **PLAIN,
    }  # fmt: skip
    return with_attributes(blueprint, asked)


def with_attributes(
    blueprint: "carla.ActorBlueprint", asked: dict[str, str]
) -> "carla.ActorBlueprint":
    """Set the attributes that a blueprint has; versions differ in them."""
    for name, value in asked.items():
        if blueprint.has_attribute(name):
            blueprint.set_attribute(name, value)
    return blueprint


def placed(mount: Mount, camera: Camera, rear: float) -> "carla.Transform":
    """Return where a camera is on the car: CARLA's z is up, its angles are degrees.

    Args:
        mount: Of the device.
        camera: Which one.
        rear: m from the actor's origin to the rear axle.
    """
    import carla

    roll, pitch, yaw = (float(np.degrees(angle)) for angle in camera.rpy)
    return carla.Transform(
        carla.Location(x=rear + mount.forward, y=mount.right, z=mount.height),
        carla.Rotation(pitch=pitch, yaw=yaw, roll=roll),
    )
