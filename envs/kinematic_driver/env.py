"""KinematicDriver-v0 as gymnasium environments."""

import os
import time
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from steerlab.compiled import has_numba
from steerlab.envs.arguments import Setting, integer, time_limit
from steerlab.envs.batch import BatchEnv, Info, Rows, SingleEnv, after_reset
from steerlab.envs.kinematic_driver import episodes
from steerlab.envs.kinematic_driver.dynamics import DT
from steerlab.envs.kinematic_driver.numpy_backend import NUMPY
from steerlab.envs.kinematic_driver.observation import LAYOUT
from steerlab.envs.kinematic_driver.randomization import (
    INTEGERS,
    NAMES,
    Ranges,
    as_ranges,
    check_pins,
)
from steerlab.envs.kinematic_driver.reward import Reward, as_reward
from steerlab.envs.kinematic_driver.roads import Roads, knots
from steerlab.envs.kinematic_driver.simulator import Simulator
from steerlab.envs.kinematic_driver.threads import share
from steerlab.envs.kinematic_driver.violations import VIOLATIONS
from steerlab.envs.wrappers.risk_sampler import RiskSampler
from steerlab.errors import InputError, unknown_name
from steerlab.types import Bytes

BACKENDS = ("auto", "numba", "numpy")
VIEWS = ("both", "bird", "camera")
#: Steps of 0.05 s in an episode, and the fewest and most that a road is made for.
EPISODE_STEPS, LIMITS = 500, (10, 4000)


def _view(name: str, value: Any) -> str:
    if value not in VIEWS:
        raise unknown_name(name, str(value), VIEWS)
    return str(value)


class KinematicDriverVectorEnv(BatchEnv):
    """N cars with randomised bodies, actuators and sensors, each on a fresh road every episode.

    Observation (N, 215), float32: see :data:`~steerlab.envs.kinematic_driver.observation.LAYOUT`.

    Action (N, 2) in [-1, 1]: desired curvature as a share of
    :func:`~steerlab.envs.kinematic_driver.dynamics.curvature_scale` (positive to the right), and
    acceleration, 2 m/s^2 at 1 and -3.5 m/s^2 at -1.

    Reward: see :class:`~steerlab.envs.kinematic_driver.reward.Reward`; a perfect drive returns
    100 without shaping.

    An episode terminates at the first violation (a corner of the body outside of the boundaries,
    a turn cut, driving in oncoming traffic or backwards, standing still) and is truncated after
    ``max_episode_steps`` steps or at the end of the road.

    ``info`` has the true state (``s``, ``cte``, ``heading_error``, ``speed``, ``acceleration``,
    ``curvature``, ``path_curvature``, ``planned_speed``, ``room_left``, ``room_right``), everything
    that was drawn, the reward without shaping (``base_reward``), the kind of ``violation`` (a
    number of ``simulator.VIOLATIONS``) and the summary of the episode so far: ``cte_max``,
    ``heading_error_mean``, ``jerk_rms``, ``progress`` (percent), ``base_return``; ``cte_p50`` and
    ``cte_p95`` are -1 before the episode's last step.

    ``ranges`` and ``noise`` may change, for the next episodes; ``reward``, ``view`` and
    ``render_mode`` may change at once.

    Args:
        num_envs: Number of rows.
        max_episode_steps: Length of an episode in steps of 0.05 s, from 10 to 4000; 500 by default.
        ranges: Bounds of the randomisation, or a mapping of those that differ from the defaults.
        noise: False gives perfect sensors and perfect, prompt vision.
        reward: Weights of the reward, or a mapping of those that differ from the defaults.
        autoreset_mode: See gymnasium.
        render_mode: ``rgb_array`` or ``human``, or None.
        view: What is drawn: ``both``, ``bird`` or ``camera``.
        backend: ``numba`` (compiled loops, same numbers to rounding), ``numpy``, or ``auto``, which
            is numba where it is installed.
        threads: Threads that share the rows of a compiled loop, and the roads to be made; all
            cores by default. Batches of fewer than 512 rows use one.

    Raises:
        InputError: An argument is out of range, or numba is asked for and not installed.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array", "human"], "render_fps": 20}  # noqa: RUF012
    lockstep = True
    reset_options = NAMES
    #: Parts of the observation, and uniform numbers that an episode is made from.
    layout, uniforms = LAYOUT, episodes.UNIFORMS
    #: How an episode can fail, by number; 0 means it did not.
    violations: tuple[str, ...] = VIOLATIONS
    view = Setting(_view)
    max_episode_steps: int
    _window: Any = None  # the picture in it

    def __init__(
        self,
        num_envs: int = 1,
        max_episode_steps: int | None = None,
        ranges: Ranges | Mapping[str, Any] | None = None,
        noise: bool = True,
        reward: Reward | Mapping[str, Any] | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        render_mode: str | None = None,
        view: str = "both",
        backend: str = "auto",
        threads: int | None = None,
    ) -> None:
        self.single_observation_space = self.layout.box()
        self.single_action_space = self._action_space()
        steps = time_limit(max_episode_steps, EPISODE_STEPS, *LIMITS)
        super().__init__(num_envs, autoreset_mode, render_mode, steps)
        num_envs = self.num_envs
        self.view = view
        self._ranges, self._noise = as_ranges(ranges), bool(noise)
        self.weights = as_reward(reward)
        self.threads = integer("threads", os.cpu_count() if threads is None else threads, 1)
        self.simulator = self._make_simulator(backend, steps)
        self.base_reward = np.zeros(num_envs, np.float32)
        self._source = _Source(self)
        self._shown = -DT  # s, when
        self.importance = np.ones(num_envs)
        self.conditions = np.zeros((num_envs, 0))

    # A task on other roads replaces the next four, and what it makes of an episode in _start.

    def _make_simulator(self, backend: str, steps: int) -> Simulator:
        return make_simulator(
            backend, self.num_envs, steps, self.weights, self.threads, self._knots()
        )

    def _action_space(self) -> gym.spaces.Box:
        return gym.spaces.Box(-1.0, 1.0, (2,), np.float32)

    def _knots(self) -> int:
        """Return how many knots the roads have."""
        assert self.max_episode_steps is not None
        return knots(self.max_episode_steps)

    def make_episodes(
        self, uniforms: NDArray[np.float64], pins: Mapping[str, Any]
    ) -> tuple[NDArray[np.float32], Roads]:
        """Return N episodes, made from uniform numbers: a table of parameters (P, N), and their roads.

        Args:
            uniforms: Numbers in [0, 1), (N, ``self.uniforms``).
            pins: Parameters that have the given value, instead of the drawn one.
        """
        assert self.max_episode_steps is not None
        return episodes.make(self.ranges, uniforms, self.max_episode_steps, pins)

    def _start(self, rows: NDArray[np.intp], episode: NDArray[np.float32], made: Roads) -> None:
        self.simulator.store(rows, made)
        self.simulator.start(rows, rows, episode)
        self.base_reward[rows] = 0.0

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_window": None}  # a copy opens a window of its own

    @property
    def ranges(self) -> Ranges:
        """What the next episodes are drawn from."""
        return self._ranges if self._noise else self._ranges.without_noise()

    @ranges.setter
    def ranges(self, ranges: Ranges | Mapping[str, Any] | None) -> None:
        self._ranges = as_ranges(ranges)
        self._source.forget()

    @property
    def noise(self) -> bool:
        """Whether sensors and vision make errors."""
        return self._noise

    @noise.setter
    def noise(self, noise: bool) -> None:
        self._noise = bool(noise)
        self._source.forget()

    @property
    def reward(self) -> Reward:
        """The weights of the reward."""
        return self.weights

    @reward.setter
    def reward(self, reward: Reward | Mapping[str, Any] | None) -> None:
        self.weights = as_reward(reward)
        self.simulator.use_weights(self.weights)

    @after_reset
    def preview(self, distances: Any) -> dict[str, NDArray[np.float32]]:
        """Return the true path at ``distances`` (M,) or (N, M), in m ahead of each car.

        Returns:
            ``curvature`` (1/m) and ``planned_speed`` (m/s), each (N, M).
        """
        ahead = np.broadcast_to(
            np.asarray(distances, np.float32), (self.num_envs, np.shape(distances)[-1])
        )
        return self.simulator.preview(ahead)

    def use_sampler(self, sampler: RiskSampler) -> None:
        """Draw what the sampler names from it, from the next episodes on.

        ``importance`` (N,) then has the weights of the episodes, and ``conditions`` (N, D) the
        numbers drawn. An episode no longer depends on its own seed only.

        Raises:
            InputError: A name is none of ``randomization.NAMES``.
        """
        for name in sampler.names:
            if name not in NAMES:
                raise unknown_name("condition", name, NAMES)
        self.conditions = np.zeros((self.num_envs, len(sampler.names)))
        self._source.use(sampler, [NAMES.index(name) for name in sampler.names])

    def _pins(self, options: dict[str, Any], rows: int) -> dict[str, NDArray[Any]]:
        return check_pins(options, rows)

    def _reset(self, rows: Rows, options: dict[str, Any]) -> None:
        indices = self.row_indices(rows)
        pins = self._pins(options, len(indices))
        episode, made = self._source.take(indices, pins)
        self.importance[indices] = self._source.weights[indices]
        if self._source.sampler:
            self.conditions[indices] = self._source.uniforms[indices][:, self._source.columns]
        self._start(indices, episode, made)
        if self.render_mode == "human":
            self._show()

    def _step(
        self, rows: Rows, actions: NDArray[Any]
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_]]:
        outcome = self.simulator.step(np.asarray(actions, np.float32))
        self.base_reward = outcome.base
        if self.render_mode == "human":
            self._show()
        return outcome.reward.astype(np.float64), outcome.terminated, outcome.truncated

    def _observe(self, rows: Rows) -> NDArray[np.float32]:
        indices = self.row_indices(rows)
        out = np.empty((len(indices), LAYOUT.size), np.float32)
        for begin in range(0, len(indices), self.simulator.chunk):
            part: Any = slice(begin, begin + self.simulator.chunk)
            self.simulator.observe(part if isinstance(rows, slice) else indices[part], out[part])
        return out

    def _info(self, rows: Rows) -> Info:
        sim = self.simulator
        state, place = sim.state, sim.place
        offset = state.d[rows]
        info = {
            "s": state.s[rows],
            "cte": offset,
            "heading_error": state.psi[rows],
            "speed": state.v[rows],
            "acceleration": state.a[rows],
            "curvature": state.k[rows],
            "path_curvature": place.kappa[rows],
            "planned_speed": place.planned_speed[rows],
            "room_left": place.left[rows] + offset,
            "room_right": place.right[rows] - offset,
            "base_reward": self.base_reward[rows],
            "violation": sim.violation[rows],
        }
        if isinstance(rows, slice):  # views: a later reset must not change what was given out
            info = {name: values.copy() for name, values in info.items()}
        info |= sim.metrics(rows)
        drawn = sim.table[: len(NAMES), rows].copy()
        info |= dict(zip(NAMES, drawn, strict=True))
        for name in INTEGERS:
            info[name] = info[name].astype(np.int32)
        for name in ("cte_p50", "cte_p95"):
            info[name] = np.full(len(offset), -1.0, np.float32)
        ended = np.flatnonzero(self._done[rows] & (sim.time[rows] > 0))
        if ended.size:
            found = sim.offset_percentiles(self.row_indices(rows)[ended])
            info["cte_p50"][ended], info["cte_p95"][ended] = found
        return info

    @after_reset
    def planes(self, row: int) -> tuple[Bytes, Bytes]:
        """Return what openpilot's network takes of this moment, narrow and wide (6, 128, 256)."""
        from steerlab.envs.kinematic_driver.camera import planes

        return planes(self.simulator, row)

    @after_reset
    def render_row(self, row: int) -> NDArray[np.uint8]:
        """Return the picture of one row (H, W, 3)."""
        return self._picture(row)

    def _picture(self, row: int) -> NDArray[np.uint8]:
        from steerlab.envs.kinematic_driver.render import draw

        return draw(self.simulator, self._observe(np.array([row]))[0], row, self.view)

    def _show(self) -> None:
        """Show the first row in a window (``human``), at the pace of the road."""
        import matplotlib.pyplot as plt

        picture = self._picture(0)
        if self._window is None:
            if plt.get_backend().lower() not in interactive_backends():
                gym.logger.warn(
                    "render_mode='human' needs a display, and a matplotlib backend that opens "
                    f"windows; {plt.get_backend()!r} shows nothing"
                )
            figure = plt.figure(type(self).__name__, figsize=(9.4, 3.6))
            axes = figure.add_axes((0, 0, 1, 1))
            axes.axis("off")
            self._window = axes.imshow(picture)
        self._window.set_data(picture)
        left = self._shown + DT - time.monotonic()
        plt.pause(max(left, 1e-3))
        self._shown = time.monotonic()

    def close_extras(self, **kwargs: Any) -> None:
        """Close the window, if there is one."""
        if self._window is not None:
            import matplotlib.pyplot as plt

            plt.close(self._window.figure)
            self._window = None


def interactive_backends() -> set[str]:
    """Return the names of matplotlib's backends that open windows."""
    from matplotlib.backends import BackendFilter, backend_registry

    return {name.lower() for name in backend_registry.list_builtin(BackendFilter.INTERACTIVE)}


def make_simulator(
    backend: str,
    rows: int,
    max_steps: int,
    weights: Reward,
    threads: int,
    knots: int | None = None,
) -> Simulator:
    """Return the simulator of ``rows`` rows on numpy, compiled by numba if that is wanted."""
    if backend not in BACKENDS:
        raise unknown_name("backend", backend, BACKENDS)
    if backend == "numba" and not has_numba():
        raise InputError("backend='numba' needs numba: pip install 'steerlab[fast]'")
    if backend == "numpy" or not has_numba():
        return Simulator(rows, rows, max_steps, weights, NUMPY, knots)
    from steerlab.envs.kinematic_driver.compiled import CompiledSimulator

    return CompiledSimulator(rows, rows, max_steps, weights, threads, knots)


class KinematicDriverEnv(SingleEnv):
    """One car; see :class:`KinematicDriverVectorEnv` for the task and its arguments."""

    batch_type = KinematicDriverVectorEnv


class _Source:
    """Draws episodes; for many rows it makes each row's next one ahead, in blocks.

    Making a hundred roads at once costs little more than making one. The k-th reset of a row always
    uses the k-th block of uniform numbers of the row's generator, so what a row gets depends
    neither on when it was made nor on the other rows.
    """

    #: Number of rows from which, and up to which, episodes are made ahead: fewer rows rarely end
    #: together, and more end so often that their blocks are large enough.
    ahead_from, ahead_to = 32, 4096

    def __init__(self, env: KinematicDriverVectorEnv) -> None:
        self.env = env
        n = env.num_envs
        self.uniforms = np.zeros((n, env.uniforms))
        #: The generator that a row's waiting block of numbers came from, None if none waits.
        self.drawn_from: list[Any] = [None] * n
        self.ahead = self.ahead_from <= n <= self.ahead_to
        self.made = np.zeros(n, dtype=bool)  # the row's next episode is in `table` and `roads`
        self.table = np.zeros((0, 0), np.float32)
        self.roads: Roads | None = None
        self.sampler: RiskSampler | None = None
        self.columns: list[int] = []  # of the block, that the sampler draws
        self.weights = np.ones(n)

    def use(self, sampler: RiskSampler, columns: list[int]) -> None:
        """Bend ``columns`` of the blocks that are drawn from now on."""
        self.sampler, self.columns, self.ahead = sampler, columns, False

    def forget(self) -> None:
        """Make the episodes that wait again, from the ranges of now."""
        self.made[:] = False

    def take(
        self, rows: NDArray[np.intp], pins: Mapping[str, Any]
    ) -> tuple[NDArray[np.float32], Roads]:
        """Return the next episodes of ``rows`` (n,) and their roads."""
        self._draw(rows)
        if pins or not self.ahead:
            result = self.env.make_episodes(self.uniforms[rows], pins)
        else:
            if not self.made[rows].all():
                self._make_ahead()
            assert self.roads is not None
            result = self.table[:, rows], self.roads.take(rows)
        for row in rows.tolist():
            self.drawn_from[row] = None
        self.made[rows] = False
        return result

    def _draw(self, rows: NDArray[np.intp]) -> None:
        generators, drawn_from = self.env.row_rng, self.drawn_from
        fresh = [row for row in rows.tolist() if drawn_from[row] is not generators[row]]
        for row in fresh:
            generators[row].random(out=self.uniforms[row])
            drawn_from[row] = generators[row]
        self.made[fresh] = False
        if self.sampler and fresh:
            coins = np.array([generators[row].random() for row in fresh])
            where = np.ix_(fresh, self.columns)
            self.uniforms[where], self.weights[fresh] = self.sampler.draw(
                self.uniforms[where], coins
            )

    def _make_ahead(self) -> None:
        rows = np.flatnonzero(~self.made)
        self._draw(rows)

        def make(begin: int, end: int) -> None:
            part = rows[begin:end]
            table, made = self.env.make_episodes(self.uniforms[part], {})
            if self.roads is None:
                self.table, self.roads = table, made
            else:
                self.table[:, part] = table
                self.roads.put(part, made)

        share(make, len(rows), self.env.threads if self.roads else 1)
        self.made[rows] = True
