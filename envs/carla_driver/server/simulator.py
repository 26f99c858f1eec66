"""KinematicDriver's simulator for a car that somebody else moves."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from steerlab.envs.kinematic_driver.dynamics import State
from steerlab.envs.kinematic_driver.numpy_backend import NUMPY
from steerlab.envs.kinematic_driver.reward import Reward, potential
from steerlab.envs.kinematic_driver.simulator import Simulator

if TYPE_CHECKING:
    import carla

#: Gets the old state, the vehicle, the shaped commands and the delayed one; returns the new state.
Drive = Callable[[State, Any, tuple[Any, ...], Any], dict[str, float]]


@dataclass(frozen=True)
class Motion:
    """A car as it was measured: the middle of its rear axle on the road, y right, z down."""

    x: float = 0.0  # m
    y: float = 0.0
    z: float = 0.0
    roll: float = 0.0  # rad
    pitch: float = 0.0
    yaw: float = 0.0
    v: float = 0.0  # m/s, forwards; a car that rolls back stands

    @classmethod
    def of(cls, seen: "carla.ActorSnapshot", rear: float) -> "Motion":
        """Return the motion of an actor whose rear axle is ``rear`` m ahead of its origin."""
        pose, velocity = seen.get_transform(), seen.get_velocity()
        at, turned, forward = pose.location, pose.rotation, pose.get_forward_vector()
        roll, pitch, yaw = (
            float(np.angle(np.exp(1j * np.radians(a))))
            for a in (turned.roll, turned.pitch, turned.yaw)
        )
        speed = velocity.x * forward.x + velocity.y * forward.y + velocity.z * forward.z
        return cls(
            at.x + rear * forward.x, at.y + rear * forward.y, -(at.z + rear * forward.z), roll, pitch,
            yaw, max(float(speed), 0.0),
        )  # fmt: skip


class Measured(Simulator):
    """One row whose car moves as ``drive`` says.

    Args:
        drive: Lets a tick pass; see :data:`Drive`.
        steps: Length of an episode.
        weights: Weights of the reward.
        knots: Knots of a road.
    """

    def __init__(self, drive: Drive, steps: int, weights: Reward, knots: int) -> None:
        super().__init__(1, 1, steps, weights, NUMPY, knots)
        self.drive = drive

    def _advance(self, old: State, shaped: tuple[Any, Any, Any], delayed: Any, here: Any) -> State:
        new = self.drive(old, self.vehicle, shaped, delayed)
        return State(**{name: np.array([new[name]], np.float32) for name in State._fields})

    def begin_at(self, s: float, d: float, psi: float, v: float) -> None:
        """Let the episode that was just started begin where the car really is."""
        state = self.state
        dv = v - state.v[0]
        for part, value in ((state.s, s), (state.d, d), (state.psi, psi), (state.v, v)):
            part[0] = value
        place = self._place(state.s, self.base, self.episode["spacing"])
        dk = place.kappa[0] - self.place.kappa[0]
        for part, value in zip(self.place, place, strict=True):
            part[:] = value
        for part in (state.k, state.k_actuator, state.k_command, state.k_smooth):
            part[0] = place.kappa[0]
        self.commands[:, 0] = place.kappa[0]
        for kept, seen, value in zip(self.poses, self.seen, (s, d, psi), strict=True):
            kept[:, 0] = value
            seen[0] = value
        self.sensors[0, 0] += dv
        self.sensors[0, 2] += dk
        self.potential[:] = potential(self.xp, self.weights, state.d, state.psi)
