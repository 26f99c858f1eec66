"""Records of drives on the roads of :mod:`tests.envs.labels.roads`, whose labels are known."""

from collections.abc import Sequence

import numpy as np

from steerlab.envs.cameras.geometry import Mount
from steerlab.envs.kinematic_driver.dynamics import State, Vehicle
from steerlab.envs.labels.corridor import corridor
from steerlab.envs.labels.record import Others, Record
from tests.envs.labels import roads

VEHICLE = Vehicle(
    lateral_delay=0.2, actuator_lag=0.1, smoothing=0.05, friction=0.9, mass=1.0, drive_lag=0.3,
    brake_lag=0.2, superelevation=0.0,
)  # fmt: skip


def drive(
    shape: str,
    ticks: int = 240,
    speed: float = 14.0,
    offset: float = 0.0,
    begin: float = 40.0,
    cars: Sequence[tuple[float, float, float]] = (),
    stop: float = np.inf,
    mount: Mount | None = None,
) -> Record:
    """Drive along lane -1 at a steady speed and offset; cars are (s at first, offset, speed)."""
    m = roads.road(shape)
    way = corridor(m, [roads.lane_of(m, -1)])
    zero = np.zeros(ticks)
    s = begin + speed * 0.05 * np.arange(ticks)
    bend = np.interp(s, way.path.s, way.path.curvature)
    v = speed * (1 - bend * offset)
    k = bend / (1 - bend * offset)
    state = State(s, zero + offset, zero, v, zero, k, k, k, k, zero)
    position, heading = place(way, s, offset)
    track = [s0 + u * 0.05 * np.arange(ticks) for s0, _, u in cars]
    placed = [place(way, t, d) for t, (_, d, _) in zip(track, cars, strict=True)]
    count = len(cars)
    others = Others(
        np.stack([p for p, _ in placed], 1) if count else np.zeros((ticks, 0, 3)),
        np.stack([h for _, h in placed], 1) if count else np.zeros((ticks, 0)),
        np.broadcast_to([float(u) for _, _, u in cars], (ticks, count)),
        np.zeros((ticks, count)), np.ones((ticks, count), bool),
        np.broadcast_to([4.6, 1.85, 1.5], (count, 3)),
    )  # fmt: skip
    return Record(
        way.path, (way,), np.zeros(ticks, int), mount or Mount(), VEHICLE, state, position,
        np.stack([zero, zero, heading], 1), np.stack([k, zero], 1), np.zeros(ticks, int),
        zero + stop, others, False,
    )  # fmt: skip


def place(way, s, offset):  # type: ignore[no-untyped-def]
    heading = np.interp(s, way.path.s, way.path.heading)
    centre = np.stack([np.interp(s, way.path.s, way.path.centre[:, i]) for i in range(3)], 1)
    centre[:, 0] -= offset * np.sin(heading)
    centre[:, 1] += offset * np.cos(heading)
    return centre, heading
