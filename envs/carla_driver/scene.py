"""What a picture or a label of one row is made from: the true state of everything in it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from steerlab.envs.maps.road_map import RoadMap


@dataclass(frozen=True)
class Scene:
    """One moment of one row, in the frame of its map (y right, z down; m, rad, m/s).

    Attributes:
        road_map: The map.
        ego: x, y, z of the middle of the rear axle on the road, roll, pitch (nose up) and yaw, (6,).
        ego_speed: m/s.
        ego_acceleration: m/s^2, forwards.
        ego_curvature: 1/m, of the way that the ego vehicle drives.
        route_s: Where it is on its route, m: the index into the tables of the environment's ``routes``
            is this over their spacing.
        route: Number of the route.
        desire: openpilot's desire now, by number.
        vehicles: x, y, z of the middle of each other vehicle on the road, roll, pitch and yaw, (M, 6).
        vehicle_sizes: Length and width, m, (M, 2).
        vehicle_kinds: Numbers of ``traffic.KINDS``, (M,).
        vehicle_speeds: m/s, (M,).
        vehicle_accelerations: m/s^2, (M,).
        vehicle_ids: Which of the row's vehicles they are; a vehicle that has left and come in again
            has the same number, (M,).
        lead: Index into ``vehicles`` of the one ahead on the path, or -1.
        lead_gap: m from bumper to bumper.
        signals: What each signal of the map shows, numbers of ``traffic.LIGHTS``, (G,).
        weather: Values by the names of ``scenarios.WEATHER``.
        brightness: Gain of the picture, as KinematicDriver draws it.
        time: s since the episode began.
    """

    road_map: RoadMap
    ego: NDArray[np.float64]
    ego_speed: float
    ego_acceleration: float
    ego_curvature: float
    route_s: float
    route: int
    desire: int
    vehicles: NDArray[np.float64]
    vehicle_sizes: NDArray[np.float64]
    vehicle_kinds: NDArray[np.int8]
    vehicle_speeds: NDArray[np.float64]
    vehicle_accelerations: NDArray[np.float64]
    vehicle_ids: NDArray[np.intp]
    lead: int
    lead_gap: float
    signals: NDArray[np.int64]
    weather: dict[str, float]
    brightness: float
    time: float
