"""Where the world of the task runs: what a backend is asked for.

The environment draws episodes, knows the routes over the map, shapes commands, rewards, judges, observes
and draws. A backend has the map, moves all vehicles, and reports where they are.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from steerlab.envs.batch import Info, Rows
from steerlab.envs.carla_driver import traffic as others
from steerlab.envs.carla_driver.routes import Routes
from steerlab.envs.carla_driver.windshield import Windshield
from steerlab.envs.kinematic_driver.reward import Reward
from steerlab.envs.kinematic_driver.simulator import Simulator
from steerlab.envs.maps.road_map import RoadMap
from steerlab.errors import InputError

STOP_MARGIN = 1.0  # m that the planned speed keeps from a line
PLAN_BRAKING = 1.2  # m/s^2, of the planned speed before a stop


class PlaceTaken(InputError):
    """There is no room where an episode was to begin; another one is drawn."""


class Task(Protocol):
    """What of the environment a backend works on."""

    num_envs: int
    threads: int
    traffic: int
    simulator: Simulator
    cars: NDArray[Any]  # (N, V, traffic.CAR), the ego vehicle first
    rows: NDArray[Any]  # (N, traffic.ROW)

    @property
    def routes(self) -> Routes:
        """The routes that episodes are driven on."""

    @property
    def tables(self) -> tuple[others.Ways, others.Roads]:
        """Routes and map as the loops over traffic take them."""


class World(Protocol):
    """A backend. What it reports is in the map's frame: y right, z down, m, rad, m/s."""

    road_map: RoadMap

    def make_simulator(
        self, compute: str, rows: int, steps: int, weights: Reward, threads: int, knots: int
    ) -> Simulator:
        """Return the simulator of the cars' motion along their routes."""

    def begin(
        self, task: Task, rows: NDArray[np.intp], own: Mapping[str, NDArray[np.float64]]
    ) -> None:
        """Begin episodes in ``rows`` (n,), whose simulators have been started.

        Args:
            task: The environment; its tables ``cars`` and ``rows`` are filled.
            rows: Which rows.
            own: What was drawn by the names of ``env.OWN``, (n,) each.

        Raises:
            PlaceTaken: There is no room where an episode was to begin.
        """

    def step(self, task: Task) -> None:
        """Go on to the tick after which the simulator's cars have moved; fill the tables again."""

    def poses(self, task: Task, rows: NDArray[np.intp]) -> NDArray[np.float64]:
        """Return x, y, z, yaw, slope and roll of the middle of the rear axle, (n, 6)."""

    def signals(self, task: Task, row: int) -> NDArray[np.int64]:
        """Return what each signal of the map shows, numbers of ``traffic.LIGHTS``, (G,)."""

    def windshield(self, row: int, seed: int, weather: dict[str, float]) -> Windshield:
        """Return the cameras of a row."""

    def info(self, task: Task, rows: Rows) -> Info:
        """Return the entries of ``info`` that only this backend has."""

    def close(self) -> None:
        """Release what the backend holds."""


def fastest_start(table: NDArray[Any], rows: NDArray[np.intp]) -> NDArray[np.float32]:
    """Return the speeds (n,) at which cars can still stop for what is ahead of them, m/s.

    Args:
        table: The rows' table, (N, traffic.ROW).
        rows: Which rows, (n,).
    """
    room = np.maximum(table[rows, others.STOP_GAP] - 2 * STOP_MARGIN, 0.0)
    fastest = np.where(room < 100.0, np.sqrt(2 * PLAN_BRAKING * room), np.inf)
    return fastest.astype(np.float32)
