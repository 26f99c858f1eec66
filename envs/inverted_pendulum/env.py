"""``InvertedPendulumWide-v0``: balance the pole for 4 s from far off, with harder variants."""

from typing import Any

import numpy as np
from gymnasium.spaces import Box
from numpy.typing import NDArray

from steerlab.envs.batch import BatchEnv, Info, Rows, SingleEnv
from steerlab.envs.inverted_pendulum.dynamics import (
    EPISODE_STEPS,
    MAX_ACTION,
    Coefficients,
    PendulumParameters,
    step,
)
from steerlab.errors import InputError

ANGLE_LIMIT = np.pi / 4
SLIDER_LIMIT = 10.0
#: A row counts as at a goal within this many metres of it.
GOAL_TOLERANCE = 0.25
#: What may differ from plant to plant, in the order of ``InvertedPendulumVectorEnv.plant``.
FACTORS = ("pole_mass", "pole_length", "gear")
Range = float | tuple[float, float]


class InvertedPendulumVectorEnv(BatchEnv):
    """The cart-pole of ``InvertedPendulum-v5`` with the limits pi/4 and +-10 m, over N rows.

    Observation (4,) float64: cart position m, pole angle rad, cart velocity m/s, pole rate rad/s.
    Action (1,) float32 in [-3, 3], 100 N a unit, held for 0.04 s. The reward is 1 for each step
    that ends within the limits; with ``goals`` it is 1 only near one of them. An episode ends
    outside the limits and is cut after ``episode_steps``. MuJoCo stops the cart at the ends of the
    rail; here the episode ends there. It also ends where an ``obstacle`` is, of which the observation
    says nothing.

    ``reset(options={"state": (N, 4) or (4,)})`` starts from given states.

    Args:
        num_envs: Number of rows.
        reset_noise: Half-width of the uniform start state, in every component.
        process_noise: Half-width of the uniform noise on every action.
        observation_noise: Standard deviation of the noise on every observed component.
        latency: Steps between an action and its effect; until then the force is 0.
        pole_mass: Factor on the pole's mass, or a range to draw it from at each reset.
        pole_length: Factor on the pole's length, or a range.
        gear: Factor on the force of an action, or a range.
        goals: Cart positions of which one is to be reached; none = anywhere.
        obstacle: Half-width in m of what blocks the middle of the rail, and the step from which it
            does; none = nothing does.
        episode_steps: Steps after which an episode is cut.
        kwargs: Arguments of :class:`~steerlab.envs.batch.BatchEnv`.

    Raises:
        InputError: An argument is out of range.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 25}  # noqa: RUF012

    def __init__(
        self,
        num_envs: int = 1,
        *,
        reset_noise: float = 0.5,
        process_noise: float = 0.0,
        observation_noise: float = 0.0,
        latency: int = 0,
        pole_mass: Range = 1.0,
        pole_length: Range = 1.0,
        gear: Range = 1.0,
        goals: tuple[float, ...] = (),
        obstacle: tuple[float, int] | None = None,
        episode_steps: int = EPISODE_STEPS,
        **kwargs: Any,
    ) -> None:
        for name, value in (
            ("reset_noise", reset_noise),
            ("process_noise", process_noise),
            ("observation_noise", observation_noise),
            ("latency", latency),
        ):
            if not value >= 0:
                raise InputError(f"{name}={value} must not be negative")
        if episode_steps < 1:
            raise InputError(f"episode_steps={episode_steps} must be at least 1")
        self.factors = {
            name: _range(name, value)
            for name, value in zip(FACTORS, (pole_mass, pole_length, gear), strict=True)
        }
        self.reset_noise, self.process_noise = reset_noise, process_noise
        self.observation_noise, self.latency = observation_noise, latency
        self.goals = np.array(goals, dtype=np.float64)
        self.obstacle = _obstacle(obstacle)
        self.episode_steps = episode_steps
        limit = np.array([np.inf, ANGLE_LIMIT * 2, np.inf, np.inf])
        self.single_observation_space = Box(-limit, limit, dtype=np.float64)
        self.single_action_space = Box(-MAX_ACTION, MAX_ACTION, (1,), np.float32)
        super().__init__(num_envs, **kwargs)
        #: The true states (N, 4), and the factors on the plant (N, 3) in the order of ``factors``.
        self.state = np.zeros((num_envs, 4))
        self.plant = np.ones((num_envs, len(self.factors)))
        self.elapsed = np.zeros(num_envs, dtype=np.int64)
        self._noise = np.zeros((num_envs, episode_steps if process_noise else 0))
        self._observed = np.zeros((num_envs, 4))
        self._pending = np.zeros((num_envs, latency))
        self._same_plant = all(low == high for low, high in self.factors.values())
        self.plant[:] = [low for low, _ in self.factors.values()]
        self._coefficients = PendulumParameters().scaled(*self.plant[0]).coefficients()

    def _reset(self, rows: Rows, options: dict[str, Any]) -> None:
        ids = self.row_indices(rows)
        start = options.get("state")
        if start is not None:
            start = np.broadcast_to(_states(start, self.num_envs), (self.num_envs, 4))
        for row in ids:
            rng = self.row_rng[row]
            self.state[row] = rng.uniform(-self.reset_noise, self.reset_noise, 4)
            if not self._same_plant:
                self.plant[row] = [rng.uniform(low, high) for low, high in self.factors.values()]
            if self.process_noise:  # the whole episode at once: one call a row instead of 100
                self._noise[row] = rng.uniform(
                    -self.process_noise, self.process_noise, self.episode_steps
                )
        if start is not None:
            self.state[ids] = start[ids]
        if not self._same_plant:
            self._coefficients = PendulumParameters().scaled(*self.plant.T).coefficients()
        self.elapsed[ids] = 0
        self._pending[ids] = 0.0
        self._sense(ids)

    def _step(
        self, rows: Rows, actions: NDArray[Any]
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_]]:
        force = actions[:, 0].astype(np.float64)
        if self.latency:
            queue = np.concatenate([self._pending[rows], force[:, None]], axis=1)
            force, self._pending[rows] = queue[:, 0], queue[:, 1:]
        if self.process_noise:
            ids = self.row_indices(rows)
            force = force + self._noise[ids, self.elapsed[ids]]
        c = self._coefficients
        if not self._same_plant:
            c = Coefficients(*(v[rows] if isinstance(v, np.ndarray) else v for v in c))
        state = step(self.state[rows], force, c)
        self.state[rows] = state
        self.elapsed[rows] += 1
        terminated = ~inside(state) | (np.abs(state[:, 0]) < self._blocked(rows))
        truncated = (self.elapsed[rows] >= self.episode_steps) & ~terminated
        reward = ~terminated & at_goal(state, self.goals) if self.goals.size else ~terminated
        self._sense(rows)
        return reward.astype(np.float64), terminated, truncated

    def _blocked(self, rows: Rows) -> NDArray[np.float64]:
        """Return the half-width of the obstacle in m (R,); 0 before it is there."""
        width, first = self.obstacle
        return np.where(self.elapsed[rows] >= first, width, 0.0)

    def _sense(self, rows: Rows) -> None:
        """Draw what is observed; once a step, so that observing twice shows the same."""
        self._observed[rows] = self.state[rows]
        if self.observation_noise:
            for row in self.row_indices(rows):
                self._observed[row] += self.observation_noise * self.row_rng[row].normal(size=4)

    def _observe(self, rows: Rows) -> NDArray[np.float64]:
        return self._observed[rows].copy()

    def _info(self, rows: Rows) -> Info:
        return {"state": self.state[rows].copy()}

    def render_row(self, row: int) -> NDArray[np.uint8]:
        """Return the picture of one row: rail, cart, pole, goals, and the obstacle once it is there."""
        from steerlab.envs.inverted_pendulum.render import draw

        length, blocked = 0.6 * self.plant[row, 1], float(self._blocked(np.array([row]))[0])
        return draw(self.state[row], length, self.goals, blocked)


class InvertedPendulumEnv(SingleEnv):
    """One row of :class:`InvertedPendulumVectorEnv`; takes the same arguments."""

    batch_type = InvertedPendulumVectorEnv


def inside(state: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Tell which states (..., 4) are within the limits; a state that is not finite is not."""
    within = (np.abs(state[..., 1]) <= ANGLE_LIMIT) & (np.abs(state[..., 0]) <= SLIDER_LIMIT)
    return np.asarray(within & np.isfinite(state).all(axis=-1))


def at_goal(state: NDArray[np.float64], goals: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Tell which carts of ``state`` (..., 4) are within 0.25 m of one of ``goals`` (G,)."""
    distance = np.abs(state[..., :1] - goals)
    return np.asarray((distance <= GOAL_TOLERANCE).any(axis=-1))


def _range(name: str, value: Range) -> tuple[float, float]:
    bounds = (value, value) if isinstance(value, int | float) else tuple(value)
    if len(bounds) != 2 or not 0 < bounds[0] <= bounds[1]:
        raise InputError(f"{name}={value} must be a positive factor or a range (low, high) of them")
    return float(bounds[0]), float(bounds[1])


def _obstacle(value: tuple[float, int] | None) -> tuple[float, int]:
    """Return half-width and first step; a width of 0 blocks nothing."""
    if value is None:
        return 0.0, 0
    if len(value) != 2 or not 0 < value[0] < SLIDER_LIMIT or value[1] < 1 or value[1] % 1:
        raise InputError(
            f"obstacle={value} must be (half-width in m, between 0 and {SLIDER_LIMIT:g}; step, from 1 on)"
        )
    return float(value[0]), int(value[1])


def _states(value: Any, rows: int) -> NDArray[np.float64]:
    state = np.asarray(value, dtype=np.float64)
    if state.shape not in ((4,), (rows, 4)) or not np.isfinite(state).all():
        raise InputError(
            f"options['state'] must be 4 finite numbers or ({rows}, 4) of them, "
            f"got shape {state.shape}"
        )
    return state
