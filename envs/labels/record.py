"""What is known of a driven episode, tick by tick, from which all labels follow."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from steerlab.envs.cameras.geometry import Mount, Pose, device_origin, rotation
from steerlab.envs.kinematic_driver.dynamics import State, Vehicle
from steerlab.envs.labels.corridor import SAME_LEVEL, Corridor, Path
from steerlab.envs.labels.lines import Boxes
from steerlab.types import Floats

LANE = 1.7  # m from the middle of the route, within which a vehicle is in the way


@dataclass(frozen=True, eq=False)
class Others:
    """M other vehicles over T ticks; the point is the middle of the body, on the road."""

    position: Floats  # (T, M, 3) m, world
    heading: Floats  # (T, M) rad
    speed: Floats  # (T, M) m/s
    acceleration: Floats  # (T, M) m/s^2
    present: NDArray[np.bool_]  # (T, M)
    size: Floats  # (M, 3) length, width, height, m


@dataclass(frozen=True, eq=False)
class Record:
    """T ticks of 0.05 s of one episode."""

    path: Path  # of the route
    ways: tuple[Corridor, ...]  # of the lanes that the car was on
    way_of: NDArray[np.integer]  # (T,) which of them
    mount: Mount
    vehicle: Vehicle  # its parameters, one number each
    state: State  # of the car along the route, (T,) each
    position: Floats  # (T, 3) of the rear axle, world, m
    rpy: Floats  # (T, 3) roll, pitch, heading of the car in the world, rad
    commands: Floats  # (T, 2) curvature (1/m) and acceleration (m/s^2) that were asked for
    desire: NDArray[np.integer]  # (T,) number in DESIRES
    stop: Floats  # (T,) s on the route where the front must stop, as far as known; inf if nowhere
    others: Others
    left_hand_traffic: bool

    @property
    def ticks(self) -> int:
        """Return T."""
        return len(self.position)

    @property
    def yaw_rate(self) -> Floats:
        """Return v k, (T,) rad/s."""
        return np.asarray(self.state.v * self.state.k)

    def pose(self, tick: int) -> Pose:
        """Return where the car is."""
        x, y, z = (float(a) for a in self.position[tick])
        roll, pitch, heading = (float(a) for a in self.rpy[tick])
        return Pose(x, y, z, heading, pitch, roll)

    def frame(self, tick: int) -> tuple[Floats, Floats]:
        """Return the calibrated frame: its origin (3,) and its rotation (3, 3) from the world."""
        pose = self.pose(tick)
        turn = self.mount.calibrated_from_car @ rotation(self.rpy[tick]).T
        return device_origin(pose, self.mount), turn

    @cached_property
    def on_path(self) -> tuple[Floats, Floats, Floats]:
        """Return s, offset and heading error of the other vehicles along the route, (T, M) each.

        Only what is within 50 m behind and 250 m ahead of the car counts as near the route.
        """
        here = np.repeat(np.asarray(self.state.s), self.others.heading.shape[1])
        flat = self.path.locate(
            self.others.position.reshape(-1, 3), self.others.heading.ravel(), here - 50, here + 250
        )
        s, offset, turned = (x.reshape(self.others.heading.shape) for x in flat)
        return s, offset, turned

    @cached_property
    def in_lane(self) -> NDArray[np.bool_]:
        """Return which other vehicles are on the car's lane along the route, (T, M)."""
        s, offset, _ = self.on_path
        level = np.interp(s, self.path.s, self.path.centre[:, 2]) - self.others.position[..., 2]
        here = np.asarray(self.state.s)[:, None]
        inside = (s > np.maximum(here - 49, 0.5)) & (
            s < np.minimum(here + 249, self.path.s[-1] - 0.5)
        )
        return self.others.present & inside & (np.abs(offset) < LANE) & (np.abs(level) < SAME_LEVEL)

    def boxes(self, tick: int) -> Boxes:
        """Return the other vehicles that are there."""
        there = self.others.present[tick]
        centre = self.others.position[tick, there].copy()
        size = self.others.size[there]
        centre[:, 2] -= 0.5 * size[:, 2]
        return Boxes(centre, self.others.heading[tick, there], size)
