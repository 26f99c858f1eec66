"""The ego vehicle as it is measured, and from curvature and acceleration to its pedals."""

from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from steerlab.envs.carla_driver.server.capabilities import Capabilities
from steerlab.envs.kinematic_driver.dynamics import DT

if TYPE_CHECKING:
    import carla

FULL_THROTTLE, FULL_BRAKE = 4.0, 8.0  # m/s^2 that a pedal is taken to give at most
DRAG = 0.02  # 1/s: throttle that holds a speed, over the speed and FULL_THROTTLE
PEDAL_GAIN, PEDAL_MOST = 0.5, 2.0  # 1/s and m/s^2 of the integral of what the pedals miss
HELD, HOLD = 0.1, 0.5  # m/s below which the brake holds the car, and how firmly
STEER_GAIN, STEER_MOST = 0.5, 2.0  # 1/s and most of the correction of what the wheels miss
SURE_SPEED, SURE_BEND = 3.0, 0.004  # m/s and 1/m from which on that is measured
WHEELBASES = (1.5, 6.0)  # m that make sense
ANGLES = (10.0, 80.0)  # degrees of the wheels that make sense
USUAL_ANGLE = 70.0  # degrees, CARLA's default


@dataclass
class Chassis:
    """Geometry of the ego vehicle, and the two controllers that make it follow the commands.

    Steering is the bicycle's angle for a curvature, over the wheels' largest angle and over what the
    vehicle's own curve leaves of it at speed; a slow factor takes out what that misses. The pedals are
    feedforward and an integral.
    """

    rear: float  # m from the actor's origin to the rear axle, negative behind
    wheelbase: float  # m
    most: float  # rad of the wheels at steer 1
    curve: tuple[list[float], list[float]]  # km/h, and the share of the steering that is left there
    factor: float = 1.0
    missing: float = field(default=0.0)  # m/s^2, integral

    def control(
        self, wanted: tuple[float, float], driven: tuple[float, float, float]
    ) -> "carla.VehicleControl":
        """Return the ``VehicleControl`` of a tick.

        Args:
            wanted: Curvature (1/m) and acceleration (m/s^2).
            driven: Speed (m/s), curvature and acceleration as measured.
        """
        import carla

        (k, a), (v, k_now, a_now) = wanted, driven
        if v > SURE_SPEED and abs(k) > SURE_BEND:
            miss = float(np.clip((k - k_now) / k, -0.5, 0.5))
            self.factor *= 1 + STEER_GAIN * DT * miss
            self.factor = float(np.clip(self.factor, 1 / STEER_MOST, STEER_MOST))
        left = float(np.interp(3.6 * v, *self.curve))
        steer = self.factor * np.arctan(self.wheelbase * k) / self.most / left
        throttle = brake = 0.0
        if a <= 0 and v < HELD:
            self.missing, brake = 0.0, HOLD
        else:
            miss = PEDAL_GAIN * DT * (a - a_now)
            self.missing = float(np.clip(self.missing + miss, -PEDAL_MOST, PEDAL_MOST))
            effort = a + self.missing + DRAG * v
            throttle = float(np.clip(effort / FULL_THROTTLE, 0, 1))
            brake = float(np.clip(-effort / FULL_BRAKE, 0, 1))
        # The client does not limit values.
        return carla.VehicleControl(
            throttle=throttle, steer=float(np.clip(steer, -1, 1)), brake=brake
        )


def chassis_of(vehicle: "carla.Vehicle", can: Capabilities) -> Chassis:
    """Return what the server reports of a vehicle; values that make no sense are replaced."""
    physics = vehicle.get_physics_control()
    rear, wheelbase = _axles(vehicle, physics, can)
    angles = [wheel.max_steer_angle for wheel in physics.wheels]
    angle = max(angles, default=0.0)
    if not ANGLES[0] <= angle <= ANGLES[1]:
        angle = USUAL_ANGLE
    points = [(point.x, point.y) for point in physics.steering_curve]
    return Chassis(rear, wheelbase, float(np.radians(angle)), _sound(points))


def _sound(points: list[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """Return a curve of steering, none where it makes no sense: some vehicles of 0.10.0 have such."""
    speeds, shares = [p[0] for p in points], [p[1] for p in points]
    rising = all(a < b for a, b in pairwise(speeds))
    if points and rising and all(0.05 <= share <= 1.0 for share in shares):
        return speeds, shares
    return [0.0], [1.0]


def _axles(
    vehicle: "carla.Vehicle", physics: "carla.VehiclePhysicsControl", can: Capabilities
) -> tuple[float, float]:
    """Return where the rear axle is from the actor's origin, and the wheelbase, m.

    Servers give wheels in the world's frame, some versions in cm; where neither makes sense the axles follow
    from the length of the body.
    """
    here = vehicle.get_transform()
    forward = here.get_forward_vector()
    for unit in (0.01, 1.0):
        along = []
        for wheel in physics.wheels:
            place: carla.Vector3D | None = getattr(wheel, can.wheel_place, None)
            if place is not None:
                away = (
                    unit * place.x - here.location.x,
                    unit * place.y - here.location.y,
                    unit * place.z - here.location.z,
                )
                along.append(float(np.dot(away, (forward.x, forward.y, forward.z))))
        if len(along) >= 4 and WHEELBASES[0] <= max(along) - min(along) <= WHEELBASES[1]:
            return min(along), max(along) - min(along)
    box = vehicle.bounding_box
    return box.location.x - 0.6 * box.extent.x, 1.2 * box.extent.x
