"""``InvertedPendulumWide-v0``: balance the pole for 4 s from far off, with harder variants."""

from typing import Any

import numpy as np
from gymnasium.spaces import Box
from numpy.typing import NDArray

from steerlab.envs.arguments import Setting, integer, not_negative, time_limit
from steerlab.envs.batch import BatchEnv, Info, Rows, SingleEnv, after_reset
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


def _range(name: str, value: Range) -> tuple[float, float]:
    bounds = (value, value) if isinstance(value, int | float) else tuple(value)
    if len(bounds) != 2 or not 0 < bounds[0] <= bounds[1]:
        raise InputError(f"{name}={value} must be a positive factor or a range (low, high) of them")
    return float(bounds[0]), float(bounds[1])


def _goals(name: str, value: Any) -> NDArray[np.float64]:
    goals = np.array(value, dtype=np.float64)
    if goals.ndim != 1 or not np.isfinite(goals).all():
        raise InputError(f"{name}={value!r} must be cart positions in m, as many as you like")
    return goals


def _obstacle(name: str, value: tuple[float, int] | None) -> tuple[float, int]:
    """Return half-width and first step; a width of 0 blocks nothing."""
    if value is None or tuple(value) == (0.0, 0):
        return 0.0, 0
    if len(value) != 2 or not 0 < value[0] < SLIDER_LIMIT or value[1] < 1 or value[1] % 1:
        raise InputError(
            f"{name}={value} must be (half-width in m, between 0 and {SLIDER_LIMIT:g}; step, from 1 on)"
        )
    return float(value[0]), int(value[1])


class InvertedPendulumVectorEnv(BatchEnv):
    """The cart-pole of ``InvertedPendulum-v5`` with the limits pi/4 and +-10 m, over N rows.

    Observation (4,) float64: cart position m, pole angle rad, cart velocity m/s, pole rate rad/s.
    Action (1,) float32 in [-3, 3], 100 N a unit, held for 0.04 s. The reward is 1 for each step
    that ends within the limits; with ``goals`` it is 1 only near one of them. An episode ends
    outside the limits and is truncated after ``max_episode_steps``. MuJoCo stops the cart at the
    ends of the rail; here the episode ends there. It also ends where an ``obstacle`` is, of which
    the observation says nothing.

    ``reset(options={"state": (N, 4) or (4,)})`` starts from given states.

    All arguments but ``num_envs``, ``max_episode_steps`` and ``autoreset_mode`` may change: what is
    drawn at a reset from the next episodes on, the others at once. A longer latency begins with
    steps without force.

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
        max_episode_steps: Steps after which an episode is truncated.
        kwargs: Further arguments of :class:`~steerlab.envs.batch.BatchEnv`.

    Raises:
        InputError: An argument is out of range.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 25}  # noqa: RUF012
    reset_options = ("state",)

    reset_noise = Setting(not_negative)
    process_noise = Setting(not_negative)
    observation_noise = Setting(not_negative)
    pole_mass = Setting(_range)
    pole_length = Setting(_range)
    gear = Setting(_range)
    goals = Setting(_goals)
    obstacle = Setting(_obstacle)

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
        max_episode_steps: int | None = None,
        **kwargs: Any,
    ) -> None:
        self.reset_noise, self.process_noise = reset_noise, process_noise
        self.observation_noise = observation_noise
        self.pole_mass, self.pole_length, self.gear = pole_mass, pole_length, gear
        self.goals, self.obstacle = goals, obstacle
        limit = np.array([np.inf, ANGLE_LIMIT * 2, np.inf, np.inf])
        self.single_observation_space = Box(-limit, limit, dtype=np.float64)
        self.single_action_space = Box(-MAX_ACTION, MAX_ACTION, (1,), np.float32)
        steps = time_limit(max_episode_steps, EPISODE_STEPS)
        super().__init__(num_envs, max_episode_steps=steps, **kwargs)
        num_envs = self.num_envs
        #: The true states (N, 4), and the factors on the plant (N, 3) in the order of ``FACTORS``.
        self.state = np.zeros((num_envs, 4))
        self.plant = np.tile([low for low, _ in self.factors.values()], (num_envs, 1))
        self._noise = np.zeros((num_envs, steps))
        self._observed = np.zeros((num_envs, 4))
        self._pending = np.zeros((num_envs, 0))
        self.latency = latency
        self._take_plant()

    def _take_plant(self) -> None:
        """Work out the constants of the plants, once for all rows that have the same."""
        same = (self.plant == self.plant[0]).all()
        factors = self.plant[0] if same else self.plant.T
        self._coefficients = PendulumParameters().scaled(*factors).coefficients()

    @property
    def elapsed(self) -> NDArray[np.intp]:
        """Steps of each row's episode so far (N,)."""
        return self._elapsed

    @property
    def factors(self) -> dict[str, tuple[float, float]]:
        """The range of each factor on the plant."""
        return {name: getattr(self, name) for name in FACTORS}

    @property
    def latency(self) -> int:
        """Steps between an action and its effect."""
        return self._pending.shape[1]

    @latency.setter
    def latency(self, steps: int) -> None:
        before, steps = self._pending, integer("latency", steps, 0)
        self._pending = np.zeros((self.num_envs, steps))
        if kept := min(steps, before.shape[1]):
            self._pending[:, -kept:] = before[:, -kept:]

    def _reset(self, rows: Rows, options: dict[str, Any]) -> None:
        ids = self.row_indices(rows)
        ranges = list(self.factors.values())
        varied = any(low != high for low, high in ranges)
        before = self.plant[ids].copy()
        start = options.get("state")
        if start is not None:
            start = np.broadcast_to(_states(start, self.num_envs), (self.num_envs, 4))
        for row in ids:
            rng = self.row_rng[row]
            self.state[row] = rng.uniform(-self.reset_noise, self.reset_noise, 4)
            self.plant[row] = [rng.uniform(*bounds) if varied else bounds[0] for bounds in ranges]
            self._noise[row] = 0.0
            if self.process_noise:  # the whole episode at once: one call a row instead of 100
                noise = rng.uniform(-self.process_noise, self.process_noise, self._noise.shape[1])
                self._noise[row] = noise
        if start is not None:
            self.state[ids] = start[ids]
        if (self.plant[ids] != before).any():
            self._take_plant()
        self._pending[ids] = 0.0
        self._sense(ids)

    def _step(
        self, rows: Rows, actions: NDArray[Any]
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_]]:
        force = actions[:, 0].astype(np.float64)
        if self.latency:
            queue = np.concatenate([self._pending[rows], force[:, None]], axis=1)
            force, self._pending[rows] = queue[:, 0], queue[:, 1:]
        ids = self.row_indices(rows)
        force = force + self._noise[ids, self._elapsed[ids] - 1]
        c = Coefficients(*(v[rows] if isinstance(v, np.ndarray) else v for v in self._coefficients))
        state = step(self.state[rows], force, c)
        self.state[rows] = state
        terminated = ~inside(state) | (np.abs(state[:, 0]) < self._blocked(rows))
        reward = ~terminated & at_goal(state, self.goals) if self.goals.size else ~terminated
        self._sense(rows)
        return reward.astype(np.float64), terminated, np.zeros_like(terminated)

    def _blocked(self, rows: Rows) -> NDArray[np.float64]:
        """Return the half-width of the obstacle in m (R,); 0 before it is there."""
        width, first = self.obstacle
        return np.where(self._elapsed[rows] >= first, width, 0.0)

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

    @after_reset
    def render_row(self, row: int) -> NDArray[np.uint8]:
        """Return the picture (H, W, 3) of one row: rail, cart, pole, goals, and a present obstacle."""
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


def _states(value: Any, rows: int) -> NDArray[np.float64]:
    state = np.asarray(value, dtype=np.float64)
    if state.shape not in ((4,), (rows, 4)) or not np.isfinite(state).all():
        raise InputError(
            f"options['state'] must be 4 finite numbers or ({rows}, 4) of them, "
            f"got shape {state.shape}"
        )
    return state
