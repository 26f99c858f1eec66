"""From a drive to the record that labels are made from."""

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from steerlab.envs.cameras.geometry import Mount
from steerlab.envs.carla_driver.routes import Routes
from steerlab.envs.carla_driver.scene import Scene
from steerlab.envs.carla_driver.traffic import NOTHING
from steerlab.envs.carla_driver.windshield import vehicles_of
from steerlab.envs.kinematic_driver.dynamics import DT, FRONT, State, Vehicle
from steerlab.envs.kinematic_driver.simulator import Simulator
from steerlab.envs.labels.corridor import Path, corridor
from steerlab.envs.labels.record import Others, Record
from steerlab.envs.maps.road_map import RoadMap
from steerlab.types import Floats

ONWARD = 230.0  # m that a lane is followed beyond the place where the route leaves it
JUMP = 4.0  # m beyond its way of a tick: the vehicle has left, and another one has come in


class Driven(Protocol):
    """What of an environment a record is made from."""

    simulator: Simulator

    @property
    def routes(self) -> Routes:
        """The routes that episodes are driven on."""


@dataclass(frozen=True)
class _Tick:
    scene: Scene
    state: tuple[float, ...]
    commands: tuple[float, float]
    stop_gap: float


@dataclass
class Recorder:
    """Follows one row of an environment; call :meth:`add` before every step."""

    env: Driven
    row: int = 0
    ticks: list[_Tick] = field(default_factory=list)

    def add(self, scene: Scene, commands: tuple[float, float], stop_gap: float) -> None:
        """Keep the present tick.

        Args:
            scene: What the row looks like.
            commands: Curvature (1/m) and acceleration (m/s^2) that are asked for now.
            stop_gap: m to where the car has to stop, ``NOTHING`` if nowhere: from ``info``.
        """
        state = tuple(float(part[self.row]) for part in self.env.simulator.state)
        self.ticks.append(_Tick(scene, state, commands, stop_gap))

    def finish(self, mount: Mount) -> Record:
        """Return the record of all ticks."""
        scenes = [tick.scene for tick in self.ticks]
        routes, row = self.env.routes, self.row
        path = path_of(routes, scenes[0].route)
        state = State(*np.array([tick.state for tick in self.ticks]).T)
        chains, of_knot = _chains(scenes[0].road_map, routes.lane[scenes[0].route])
        knots = np.clip(state.s / routes.spacing, 0, routes.knots - 1).astype(int)
        crossed = _crossed(scenes[0].road_map, routes, scenes[0].route, knots, state.d)
        chain = np.minimum(of_knot[knots] + crossed, len(chains) - 1)
        used, way_of = np.unique(chain, return_inverse=True)
        gaps = np.array([tick.stop_gap for tick in self.ticks])
        stop = np.where(gaps < NOTHING, state.s + FRONT + gaps, np.inf)
        ego = np.array([scene.ego for scene in scenes])
        vehicle = Vehicle(*(float(part[row]) for part in self.env.simulator.vehicle))
        return Record(
            path, tuple(corridor(scenes[0].road_map, chains[i]) for i in used), way_of, mount,
            vehicle, state, ego[:, :3], ego[:, 3:], np.array([t.commands for t in self.ticks]),
            np.array([scene.desire for scene in scenes]), stop, _others(scenes),
            scenes[0].road_map.left_hand_traffic,
        )  # fmt: skip


def path_of(routes: Routes, route: int) -> Path:
    """Return the planned path of a route."""
    last = int(min(routes.knots - 1, np.ceil(routes.end[route] / routes.spacing)))
    part = slice(0, last + 1)
    pose = routes.pose[route, part].astype(float)
    return Path(
        routes.spacing * np.arange(last + 1.0), pose[:, :3], np.unwrap(pose[:, 3]),
        routes.curvature[route, part].astype(float), routes.limit[route, part].astype(float),
    )  # fmt: skip


def _chains(
    road_map: RoadMap, lane: NDArray[np.integer]
) -> tuple[list[list[int]], NDArray[np.intp]]:
    """Return the chains of lanes between a route's lane changes, and which is at each knot (K,).

    A chain goes on beyond the change, straight ahead as far as it can.
    """
    change = np.flatnonzero(np.diff(lane)) + 1
    begins = np.concatenate([[0], change])
    chains: list[list[int]] = []
    of_knot = np.zeros(len(lane), np.intp)
    for begin, end in zip(begins, [*change, len(lane)], strict=True):
        here = int(lane[begin])
        if chains and here in _successors(road_map, chains[-1][-1]):
            chains[-1].append(here)
        else:
            chains.append([here])
        of_knot[begin:end] = len(chains) - 1
    for chain in chains:
        left = ONWARD
        while left > 0:
            following = _successors(road_map, chain[-1])
            if not following:
                break
            heading = road_map.heading[road_map.lane(chain[-1])][-1]
            ends = [road_map.heading[road_map.lane(n)][-1] for n in following]
            turned = [abs(np.angle(np.exp(1j * (end - heading)))) for end in ends]
            chain.append(int(following[int(np.argmin(turned))]))
            left -= float(road_map.lane_length[chain[-1]])
    return chains, of_knot


def _crossed(
    road_map: RoadMap, routes: Routes, route: int, knots: NDArray[np.intp], offset: Floats
) -> NDArray[np.bool_]:
    """Return where a lane change has taken the car nearer to the middle of the new lane, (T,).

    Args:
        road_map: The map.
        routes: The routes of the scenario.
        route: Which of them is driven.
        knots: Of the route, where the car is, (T,).
        offset: Of the car from the route's path, m to the right, (T,).
    """
    changing = np.flatnonzero(routes.other[route, knots] >= 0)
    crossed = np.zeros(len(knots), bool)
    for tick in changing:
        k = knots[tick]
        x, y, _, heading, _ = routes.pose[route, k]
        away = []
        for lane, along in ((routes.lane, routes.lane_s), (routes.other, routes.other_s)):
            part = road_map.lane(int(lane[route, k]))
            east, north = (
                np.interp(along[route, k], road_map.s[part], road_map.points[part, i])
                for i in (0, 1)
            )
            right = (north - y) * np.cos(heading) - (east - x) * np.sin(heading)
            away.append(abs(offset[tick] - right))
        crossed[tick] = away[1] < away[0]
    return crossed


def _successors(road_map: RoadMap, lane: int) -> list[int]:
    first, last = road_map.successor_start[lane : lane + 2]
    return [int(n) for n in road_map.successors[first:last]]


def _others(scenes: list[Scene]) -> Others:
    """Return the other vehicles, a column for each; whoever comes in anew has a column of its own."""
    ticks = len(scenes)
    columns: list[dict[str, NDArray[np.floating]]] = []
    current: dict[int, int] = {}  # vehicle -> column
    before: dict[int, tuple[int, NDArray[np.floating], float]] = {}
    for tick, scene in enumerate(scenes):
        drawn = vehicles_of(scene)
        for i, vehicle in enumerate(scene.vehicle_ids.tolist()):
            place, speed = drawn.position[i], float(scene.vehicle_speeds[i])
            known = before.get(vehicle)
            if (
                known is None
                or known[0] != tick - 1
                or _jumped(known[1], place, max(known[2], speed))
            ):
                current[vehicle] = len(columns)
                columns.append({"size": drawn.size[i], "values": np.full((ticks, 6), np.nan)})
            columns[current[vehicle]]["values"][tick] = (
                *place, drawn.heading[i], speed, scene.vehicle_accelerations[i],
            )  # fmt: skip
            before[vehicle] = (tick, place, speed)
    if not columns:
        empty = np.zeros((ticks, 0))
        return Others(
            np.zeros((ticks, 0, 3)),
            empty,
            empty,
            empty,
            np.zeros((ticks, 0), bool),
            np.zeros((0, 3)),
        )
    values = np.stack([column["values"] for column in columns], axis=1)
    present = ~np.isnan(values[..., 0])
    values = np.nan_to_num(values)
    return Others(
        values[..., :3], values[..., 3], values[..., 4], values[..., 5], present,
        np.stack([column["size"] for column in columns]),
    )  # fmt: skip


def _jumped(before: NDArray[np.floating], now: NDArray[np.floating], speed: float) -> bool:
    return bool(np.linalg.norm(now - before) > speed * DT + JUMP)
