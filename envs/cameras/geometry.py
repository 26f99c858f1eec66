"""Where things appear: openpilot's cameras and model frames as pinholes, and the warp between them.

Frames: world and car have x forward (the world's x), y right, z down. The device looks forward from
the windshield; its angles in the car are those of openpilot's ``rpyCalib``: a direction of the car
is ``rotation(rpy)`` times it in the device. The calibrated frame has the device's origin and roll,
and the car's pitch and yaw. A view has u right, v down and the depth forward.

Pixels count as openpilot's warp counts them: pixel ``i`` shows what is at coordinate ``i``.
Numbers: commaai/openpilot, ``common/transformations/camera.py`` and ``model.py``.
"""

from dataclasses import dataclass, field
from math import atan, ceil, degrees
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from steerlab.types import Floats

#: Takes forward, right, down to right, down, forward.
VIEW_FROM_DEVICE = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
NEAREST = 0.05  # m, what is nearer than this has no place in a picture


@dataclass(frozen=True)
class Pinhole:
    """A camera without distortion; lengths in pixels."""

    width: int
    height: int
    focal: float
    cx: float
    cy: float

    @property
    def matrix(self) -> Floats:
        """Return the intrinsic matrix (3, 3)."""
        return np.array([[self.focal, 0, self.cx], [0, self.focal, self.cy], [0, 0, 1.0]])

    @property
    def field_of_view(self) -> float:
        """Return the horizontal field of view of a centred camera of this width, degrees."""
        return degrees(2 * atan(0.5 * self.width / self.focal))


#: Model frames of the narrow camera (``img``) and of the wide one (``big_img``).
NARROW = Pinhole(512, 256, 910.0, 256.0, 47.6)
WIDE = Pinhole(512, 256, 455.0, 256.0, 0.5 * (256 + 47.6))
#: Whole sensors of the comma 3 and 3X (AR0231, OX03C10).
NARROW_SENSOR = Pinhole(1928, 1208, 2648.0, 964.0, 604.0)
WIDE_SENSOR = Pinhole(1928, 1208, 567.0, 964.0, 604.0)


class Crop(NamedTuple):
    """A model frame as rows of a picture whose optical axis is in its middle."""

    width: int
    height: int
    field_of_view: float  # degrees, horizontal
    top: int  # first row of the model frame
    pitch: float  # rad, positive up: turning the camera by this sets the rest of a row right


def centred(frame: Pinhole) -> Crop:
    """Return the picture to ask of a simulator whose cameras are centred, such as CARLA's.

    Args:
        frame: A model frame; its ``cx`` is in the middle.
    """
    height = 2 * ceil(max(frame.cy, frame.height - frame.cy))
    top = round(height / 2 - frame.cy)
    rest = frame.cy + top - height / 2
    return Crop(frame.width, height, frame.field_of_view, top, atan(rest / frame.focal))


@dataclass(frozen=True)
class Mount:
    """Where the device is on the car, and how well its angles are known."""

    forward: float = 1.5  # m, ahead of the rear axle
    right: float = 0.0  # m
    height: float = 1.22  # m above the road
    rpy: tuple[float, float, float] = (0.0, 0.0, 0.0)  # rad, of the device in the car (rpyCalib)
    #: rad, what the calibration takes pitch and yaw for, less what they are.
    error: tuple[float, float] = (0.0, 0.0)
    #: rad, of the wide camera in the device (wideFromDeviceEuler).
    wide: tuple[float, float, float] = (0.0, 0.0, 0.0)

    @property
    def calibration(self) -> tuple[float, float, float]:
        """Return the angles that the calibration knows: it takes the roll for zero, rad."""
        return (0.0, self.rpy[1] + self.error[0], self.rpy[2] + self.error[1])

    @property
    def calibrated_from_car(self) -> Floats:
        """Return the rotation (3, 3) into the calibrated frame: the device's roll remains."""
        return rotation((self.rpy[0], 0.0, 0.0))


@dataclass(frozen=True)
class MountErrors:
    """How far mounts differ: standard deviations, each cut at twice itself."""

    height: float = 0.04  # m
    roll: float = 0.6  # degrees
    pitch: float = 1.2
    yaw: float = 1.2
    calibration: float = 0.1  # degrees, of pitch and yaw as estimated
    wide: float = 0.15  # degrees

    def draw(self, rng: np.random.Generator, mount: Mount | None = None) -> Mount:
        """Return a mount about ``mount``."""
        mount = mount or Mount()
        z = np.clip(rng.standard_normal(9), -2, 2)
        angles = np.radians(
            z[1:] * [self.roll, self.pitch, self.yaw, *2 * [self.calibration], *3 * [self.wide]]
        )
        drawn = [float(x) for x in angles]
        roll, pitch, yaw = (a + b for a, b in zip(mount.rpy, drawn, strict=False))
        return Mount(
            mount.forward, mount.right, mount.height + self.height * float(z[0]),
            (roll, pitch, yaw), (drawn[3], drawn[4]), (drawn[5], drawn[6], drawn[7]),
        )  # fmt: skip


@dataclass(frozen=True)
class View:
    """A camera in the world."""

    camera: Pinhole
    origin: Floats = field(default_factory=lambda: np.zeros(3))  # in the world, m
    view_from_world: Floats = field(default_factory=lambda: VIEW_FROM_DEVICE)

    def project(self, points: Any) -> Floats:
        """Return u, v (pixels) and depth (m) of ``points`` (..., 3); nan where not in front."""
        seen = (np.asarray(points, float) - self.origin) @ self.view_from_world.T
        depth = np.where(seen[..., 2] > NEAREST, seen[..., 2], np.nan)
        u = self.camera.cx + self.camera.focal * seen[..., 0] / depth
        v = self.camera.cy + self.camera.focal * seen[..., 1] / depth
        return np.stack([u, v, depth], axis=-1)


@dataclass(frozen=True)
class Pose:
    """The rear axle of a car on the road, in the world."""

    x: float  # m
    y: float  # m, right
    z: float = 0.0  # m, down
    heading: float = 0.0  # rad, positive to the right
    pitch: float = 0.0  # rad, positive up
    roll: float = 0.0  # rad, positive to the right

    @property
    def world_from_car(self) -> Floats:
        """Return the rotation (3, 3)."""
        return rotation((self.roll, self.pitch, self.heading))


def rotation(euler: Any) -> Floats:
    """Return ``Rz(yaw) Ry(pitch) Rx(roll)`` (..., 3, 3) of roll, pitch, yaw (..., 3), rad."""
    angles = np.asarray(euler, float)
    (cr, cp, cy), (sr, sp, sy) = (
        (part[..., 0], part[..., 1], part[..., 2]) for part in (np.cos(angles), np.sin(angles))
    )
    out = np.empty((*angles.shape, 3))
    out[..., 0, 0], out[..., 0, 1], out[..., 0, 2] = (
        cy * cp,
        cy * sp * sr - sy * cr,
        cy * sp * cr + sy * sr,
    )
    out[..., 1, 0], out[..., 1, 1], out[..., 1, 2] = (
        sy * cp,
        sy * sp * sr + cy * cr,
        sy * sp * cr - cy * sr,
    )
    out[..., 2, 0], out[..., 2, 1], out[..., 2, 2] = -sp, cp * sr, cp * cr
    return out


def device_origin(pose: Pose, mount: Mount) -> Floats:
    """Return where the device is in the world (3,), m."""
    offset = np.array([mount.forward, mount.right, -mount.height])
    return np.array([pose.x, pose.y, pose.z]) + pose.world_from_car @ offset


def sensor_view(pose: Pose, mount: Mount, camera: Pinhole, wide: bool = False) -> View:
    """Return what a whole sensor sees; ``wide``: of the wide camera."""
    view = rotation(mount.rpy) @ pose.world_from_car.T
    if wide:
        view = rotation(mount.wide) @ view
    return View(camera, device_origin(pose, mount), VIEW_FROM_DEVICE @ view)


def model_view(pose: Pose, mount: Mount, frame: Pinhole) -> View:
    """Return what openpilot's warp makes of it: the calibrated view that the network gets.

    Args:
        pose: The car.
        mount: The device; what its calibration misses shows in the picture.
        frame: :data:`NARROW` or :data:`WIDE`.
    """
    seen = sensor_view(pose, mount, frame, frame == WIDE)
    back = rotation(mount.calibration).T @ VIEW_FROM_DEVICE.T
    return View(frame, seen.origin, VIEW_FROM_DEVICE @ back @ seen.view_from_world)


def warp_matrix(sensor: Pinhole, frame: Pinhole, calibration: Any) -> Floats:
    """Return the matrix (3, 3) from pixels of a model frame to those of a sensor."""
    turned = VIEW_FROM_DEVICE @ rotation(calibration) @ VIEW_FROM_DEVICE.T
    return np.asarray(sensor.matrix @ turned @ np.linalg.inv(frame.matrix))


def warp(picture: NDArray[np.uint8], matrix: Floats, frame: Pinhole) -> NDArray[np.uint8]:
    """Return a model frame (h, w, C) out of a sensor's picture (H, W, C), linear, edges held."""
    v, u = np.mgrid[: frame.height, : frame.width].astype(float)
    x, y, w = np.tensordot(matrix, np.stack([u, v, np.ones_like(u)]), axes=1)
    at = np.stack([y / w, x / w])
    channels = [
        map_coordinates(picture[..., c].astype(np.float32), at, order=1, mode="nearest")
        for c in range(picture.shape[-1])
    ]
    return np.clip(np.rint(np.stack(channels, -1)), 0, 255).astype(np.uint8)
