"""The backend that runs in this process."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from steerlab.envs.batch import Info, Rows
from steerlab.envs.carla_driver import traffic as others
from steerlab.envs.carla_driver.windshield import Windshield
from steerlab.envs.carla_driver.world import Task, fastest_start
from steerlab.envs.kinematic_driver.env import make_simulator
from steerlab.envs.kinematic_driver.reward import Reward
from steerlab.envs.kinematic_driver.simulator import Simulator
from steerlab.envs.kinematic_driver.threads import share
from steerlab.envs.maps.road_map import RoadMap


class Embedded:
    """KinematicDriver's cars among vehicles and signals of ours; see :class:`~world.World`."""

    def __init__(self, road_map: RoadMap) -> None:
        self.road_map = road_map

    def make_simulator(
        self, compute: str, rows: int, steps: int, weights: Reward, threads: int, knots: int
    ) -> Simulator:
        """Return the simulator of the cars, compiled if ``compute`` says so."""
        return make_simulator(compute, rows, steps, weights, threads, knots)

    def begin(
        self, task: Task, rows: NDArray[np.intp], own: Mapping[str, NDArray[np.float64]]
    ) -> None:
        """Fill the rows with vehicles; let no car begin too fast to stop for what is ahead."""
        others.loops(_fast(task)).start(
            rows, own["lead_at"], *task.tables, task.cars, task.rows, _ego(task)
        )
        task.simulator.slow_down(rows, fastest_start(task.rows, rows))

    def step(self, task: Task) -> None:
        """Advance vehicles and signals."""
        fast = _fast(task)
        work = (*task.tables, task.cars, task.rows, _ego(task))
        share(others.loops(fast).step, task.num_envs, task.threads if fast else 1, work)

    def poses(self, task: Task, rows: NDArray[np.intp]) -> NDArray[np.float64]:
        """Return where the cars are beside their routes; they do not roll."""
        state, routes = task.simulator.state, task.routes
        s, d = state.s[rows].astype(float), state.d[rows].astype(float)
        at = np.clip(s / routes.spacing, 0, routes.knots - 1.001)
        whole = at.astype(int)
        table, route = routes.pose, task.rows[rows, others.ROUTE].astype(np.intp)
        first, second = table[route, whole], table[route, whole + 1]
        pose = first + (at - whole)[:, None] * (second - first)
        pose[:, 0] -= d * np.sin(pose[:, 3])
        pose[:, 1] += d * np.cos(pose[:, 3])
        pose[:, 3] += state.psi[rows]
        return np.column_stack([pose, np.zeros(len(pose))])

    def signals(self, task: Task, row: int) -> NDArray[np.int64]:
        """Return what the signals show after the row's clock."""
        table, clock = task.tables[1].signals, task.rows[row, others.CLOCK]
        return np.array([others.shows(table, i, clock) for i in range(len(table))], np.int64)

    def windshield(self, row: int, seed: int, weather: dict[str, float]) -> Windshield:
        """Return cameras whose pictures are rendered here."""
        return Windshield(seed, weather)

    def info(self, task: Task, rows: Rows) -> Info:
        """Return nothing more."""
        return {}

    def close(self) -> None:
        """Do nothing: there is nothing to release."""


def _ego(task: Task) -> tuple[NDArray[np.float32], ...]:
    state = task.simulator.state
    return state.s, state.d, state.psi, state.v


def _fast(task: Task) -> bool:
    """Tell whether the simulator is compiled: so are the loops then."""
    return isinstance(task.simulator.view, np.ndarray) and task.simulator.chunk > 1 << 32
