"""Pictures of a row's windshield cameras, from its :class:`~scene.Scene`."""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from steerlab.envs.cameras.furniture import lamps
from steerlab.envs.cameras.geometry import (
    NARROW,
    WIDE,
    Mount,
    MountErrors,
    Pinhole,
    Pose,
    View,
    model_view,
)
from steerlab.envs.cameras.looks import Look, weather_of
from steerlab.envs.cameras.mesh import merge
from steerlab.envs.cameras.renderer import Shot, render
from steerlab.envs.cameras.scenery import scenery_of
from steerlab.envs.cameras.vehicles import PAINTS, Vehicles, bodies, shadows
from steerlab.envs.carla_driver.scene import Scene
from steerlab.envs.carla_driver.traffic import GREEN, KINDS, RED, YELLOW
from steerlab.openpilot.images import pack_rgb
from steerlab.types import Bytes

#: Heights of the kinds of vehicles, m.
HEIGHTS = {"car": 1.5, "van": 2.1, "truck": 3.2, "bus": 3.1, "motorcycle": 1.4}
_HEIGHT = np.array([HEIGHTS[kind] for kind in KINDS])
_LAMP = {RED: 0, YELLOW: 1, GREEN: 2}  # which lamp shines
EXPOSURE = 0.3  # power of the brightness that remains
BRAKING = -0.4  # m/s^2, below which brake lamps shine


@dataclass(frozen=True)
class Windshield:
    """The cameras of one episode: how they are mounted, and how the world looks.

    Args:
        seed: Of the episode's own look and mount.
        weather: By the names of ``scenarios.WEATHER``.
        errors: How far the mount may be from where it should be.
    """

    seed: int
    weather: dict[str, float]
    errors: MountErrors = field(default_factory=MountErrors)

    @cached_property
    def mount(self) -> Mount:
        """Return where the device is."""
        return self.errors.draw(np.random.default_rng([self.seed, 3]))

    @cached_property
    def look(self) -> Look:
        """Return light, sky and textures."""
        return Look(weather_of(self.weather), self.seed)

    def views(self, scene: Scene, cameras: tuple[Pinhole, ...] = (NARROW, WIDE)) -> list[View]:
        """Return where the cameras are in the world."""
        return [model_view(pose_of(scene), self.mount, camera) for camera in cameras]

    def pictures(self, scene: Scene, cameras: tuple[Pinhole, ...] = (NARROW, WIDE)) -> list[Bytes]:
        """Return what the cameras see, RGB (256, 512, 3) each."""
        others = vehicles_of(scene)
        lights = np.array([_LAMP.get(int(shown), 3) for shown in scene.signals], int)
        moving = merge([bodies(others), lamps(scene.road_map, lights)])
        scenery = scenery_of(scene.road_map)
        shot = Shot(scenery, self.look, moving, shadows(others), self.views(scene, cameras))
        return [exposed(picture, scene.brightness) for picture in render(shot)]

    def planes(self, scene: Scene) -> tuple[Bytes, Bytes]:
        """Return what openpilot's network takes of one moment, narrow and wide (6, 128, 256)."""
        narrow, wide = pack_rgb(np.stack(self.pictures(scene)))
        return narrow, wide


def exposed(picture: Bytes, brightness: float) -> Bytes:
    """Return a picture exposed by ``brightness``, of which the camera takes back the most part."""
    if brightness == 1.0:
        return picture
    table = np.clip(np.arange(256) * brightness**EXPOSURE, 0, 255).astype(np.uint8)
    return table[picture]


def pose_of(scene: Scene) -> Pose:
    """Return where the car is."""
    x, y, z, roll, pitch, yaw = (float(value) for value in scene.ego)
    return Pose(x, y, z, yaw, pitch, roll)


def vehicles_of(scene: Scene) -> Vehicles:
    """Return the other vehicles as the renderer takes them."""
    height = _HEIGHT[scene.vehicle_kinds]
    return Vehicles(
        position=scene.vehicles[:, :3],
        heading=scene.vehicles[:, 5],
        size=np.column_stack([scene.vehicle_sizes, height]),
        paint=(7 * scene.vehicle_ids + 3) % len(PAINTS),
        braking=scene.vehicle_accelerations < BRAKING,
        pitch=scene.vehicles[:, 4],
    )
