"""Fixed-horizon tracking: a plant goes from a state to a target at quadratic cost, input bounded.

The cost of one episode is

    J = sum_{k<T} (e_k' Q e_k + R u_k^2) + F e_T' Q e_T,    e_k = x_k - target,

and the rewards of an episode add up to -J. A plant is one pure function ``step`` over the array
namespace, so numpy and torch share it, and so do the data generator, the task, the judge and the
exporter.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Self

import gymnasium as gym
import numpy as np
from array_api_compat import array_namespace
from numpy.typing import NDArray

from steerlab.envs.arguments import Setting, not_negative, time_limit
from steerlab.envs.batch import BatchEnv, Info, Rows, after_reset
from steerlab.envs.layout import Layout
from steerlab.errors import InputError, unknown_name

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class TrackingProblem(ABC):
    """A plant of two states and one input, the cost, and where the episodes start and aim."""

    steps: int = 15  # moves of the input
    horizon: float = 5.0  # s
    limit: float = 4.0  # largest absolute input
    position_weight: float = 1.0  # Q = diag(position_weight, velocity_weight)
    velocity_weight: float = 1.0
    input_weight: float = 0.1  # R
    terminal_factor: float = 100.0  # F: the final state costs this many times Q; 0 = nothing
    spread: float = 2.0  # both initial states are uniform within +- this
    target_spread: float = 2.0  # both target states likewise
    tolerance: float = 0.1  # final error (Euclidean norm) below which an episode is a success

    #: Whether ``step`` is linear in state and input: the optimum is then a quadratic program.
    linear: ClassVar[bool] = False
    #: Named changes of the defaults.
    presets: ClassVar[dict[str, dict[str, Any]]] = {"optimal": {}}

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise InputError(f"steps={self.steps} must be at least 1")
        for name in ("horizon", "limit", "input_weight", "tolerance"):
            if getattr(self, name) <= 0:
                raise InputError(f"{name}={getattr(self, name)} must be positive")
        for name in (
            "position_weight",
            "velocity_weight",
            "terminal_factor",
            "spread",
            "target_spread",
        ):
            if getattr(self, name) < 0:
                raise InputError(f"{name}={getattr(self, name)} must not be negative")

    @classmethod
    def preset(cls, name: str = "optimal", **changes: Any) -> Self:
        """Return the preset of that name, with ``changes`` of single parameters.

        Raises:
            InputError: The preset or a parameter is unknown, or a value is out of range.
        """
        if name not in cls.presets:
            raise unknown_name("preset", name, cls.presets)
        known = [field.name for field in fields(cls)]
        for key in changes:
            if key not in known:
                raise unknown_name("parameter", key, known)
        return cls(**{**cls.presets[name], **changes})

    @property
    def dt(self) -> float:
        """Length of a step, s."""
        return self.horizon / self.steps

    @property
    def state_weights(self) -> Floats:
        """The diagonal of Q (2,)."""
        return np.array([self.position_weight, self.velocity_weight])

    @abstractmethod
    def step(self, state: Any, control: Any) -> Any:
        """Return the states (..., 2) one step after ``state`` (..., 2) under ``control`` (..., 1).

        Works on arrays of any namespace that array-api-compat knows, complex ones included.
        """

    def rollout(self, initial: Any, controls: Any) -> Any:
        """Return the states (B, T+1, 2) from ``initial`` (B, 2) under ``controls`` (B, T, 1)."""
        xp = array_namespace(initial, controls)
        states = [initial]
        for k in range(controls.shape[1]):
            states.append(self.step(states[-1], controls[:, k]))
        return xp.stack(states, axis=1)

    def stage_costs(self, states: Any, controls: Any, targets: Any) -> Any:
        """Return the cost of every step (B, T+1), the last one being the terminal cost.

        Args:
            states: (B, T+1, 2), as :meth:`rollout` gives them.
            controls: (B, T, 1).
            targets: (B, 2).
        """
        xp = array_namespace(states, controls, targets)
        error = states - targets[:, None, :]
        q, v = self.position_weight, self.velocity_weight
        deviation = q * error[..., 0] ** 2 + v * error[..., 1] ** 2
        running = deviation[:, :-1] + self.input_weight * controls[..., 0] ** 2
        return xp.concat([running, self.terminal_factor * deviation[:, -1:]], axis=1)

    def cost(self, initial: Any, targets: Any, controls: Any) -> Any:
        """Return J (B,) of ``controls`` (B, T, 1) from ``initial`` (B, 2) to ``targets`` (B, 2)."""
        xp = array_namespace(initial, targets, controls)
        states = self.rollout(initial, controls)
        return xp.sum(self.stage_costs(states, controls, targets), axis=1)

    def sample(self, rng: Any, count: int) -> tuple[Floats, Floats]:
        """Draw initial states and targets, each (count, 2), from a numpy generator."""
        scale = np.array([self.spread, self.spread, self.target_spread, self.target_spread])
        both = rng.uniform(-1.0, 1.0, (count, 4)) * scale
        return both[:, :2], both[:, 2:]

    def clip(self, controls: Any) -> Any:
        """Return ``controls`` within the bounds."""
        xp = array_namespace(controls)
        return xp.clip(controls, -self.limit, self.limit)


def final_error(states: Floats, targets: Floats) -> Floats:
    """Return the Euclidean distance (B,) of the last of ``states`` (B, T+1, 2) to ``targets``."""
    error: Floats = np.linalg.norm(states[:, -1] - targets, axis=-1)
    return error


class TrackingVectorEnv(BatchEnv):
    """N episodes of a :class:`TrackingProblem`.

    Observation (float32): ``state`` (2), ``target`` (2) and ``remaining`` (1), the part of the
    horizon that is left, from 1 to 0. Action: the input (1), clipped to the bounds. The episode
    terminates after the last step, whose reward contains the terminal cost.

    Options of ``reset``: ``initial`` and ``target``, arrays (2,) or (rows, 2), replace the draws.

    Args:
        num_envs: Rows.
        preset: Name of a preset of the problem.
        disturbance: Standard deviation of a normal number added to every applied input. May change.
        max_episode_steps: Truncate earlier, without the terminal cost. An episode cannot be longer
            than the ``steps`` of the problem, after which it terminates.
        kwargs: Arguments of :class:`BatchEnv` and parameters of the problem.
    """

    problem_type: ClassVar[type[TrackingProblem]]
    layout = Layout(state=2, target=2, remaining=1)
    reset_options = ("initial", "target")
    disturbance = Setting(not_negative)

    def __init__(
        self,
        num_envs: int = 1,
        *,
        preset: str = "optimal",
        disturbance: float = 0.0,
        autoreset_mode: Any = gym.vector.AutoresetMode.NEXT_STEP,
        render_mode: str | None = None,
        max_episode_steps: int | None = None,
        **kwargs: Any,
    ) -> None:
        self.problem = self.problem_type.preset(preset, **kwargs)
        self.disturbance = disturbance
        limit = self.problem.limit
        self.single_observation_space = self.layout.box()
        self.single_action_space = gym.spaces.Box(-limit, limit, (1,), np.float32)
        steps = self.problem.steps
        cut = time_limit(max_episode_steps, steps)
        if cut > steps:
            raise InputError(
                f"max_episode_steps={cut} must be at most steps={steps}, the horizon of the problem: "
                "give more steps for a longer one"
            )
        limited = max_episode_steps is not None and max_episode_steps != -1
        super().__init__(num_envs, autoreset_mode, render_mode, cut if limited else None)
        num_envs = self.num_envs
        shape = (num_envs, self.problem.steps + 1, 2)
        self._states = np.zeros(shape)
        self._controls = np.zeros((num_envs, self.problem.steps, 1))
        self._targets = np.zeros((num_envs, 2))
        self._k = np.zeros(num_envs, dtype=np.intp)
        self._costs = np.zeros(num_envs)

    @classmethod
    def settings(cls) -> frozenset[str]:
        """Return the names of the constructor's arguments, those of the problem included."""
        return super().settings() | frozenset(field.name for field in fields(cls.problem_type))

    @property
    def longest_episode(self) -> int:
        """Steps after which an episode is over at the latest."""
        return self.max_episode_steps or self.problem.steps

    def _reset(self, rows: Rows, options: dict[str, Any]) -> None:
        indices = self.row_indices(rows)
        drawn = [self.problem.sample(self.row_rng[i], 1) for i in indices]
        for name, array, part in (
            ("initial", self._states[:, 0], 0),
            ("target", self._targets, 1),
        ):
            values = np.concatenate([d[part] for d in drawn])
            if name in options:
                given = np.asarray(options[name], dtype=np.float64)
                if given.shape not in ((2,), values.shape) or not np.isfinite(given).all():
                    raise InputError(
                        f"options[{name!r}] has shape {given.shape}; give finite numbers of shape "
                        f"(2,) or {values.shape}"
                    )
                values = np.broadcast_to(given, values.shape)
            array[rows] = values
        self._states[rows, 1:] = np.nan
        self._k[rows] = 0
        self._costs[rows] = 0.0

    def _step(
        self, rows: Rows, actions: NDArray[Any]
    ) -> tuple[Floats, NDArray[np.bool_], NDArray[np.bool_]]:
        problem, indices = self.problem, self.row_indices(rows)
        k = self._k[indices]
        control = problem.clip(np.asarray(actions, dtype=np.float64))
        if self.disturbance:
            noise = np.array([self.row_rng[i].normal() for i in indices])
            applied = control + self.disturbance * noise[:, None]
        else:
            applied = control
        state = self._states[indices, k]
        after = problem.step(state, applied)
        pair = np.stack([state, after], axis=1)
        costs = problem.stage_costs(pair, control[:, None], self._targets[indices])
        ended = k + 1 == problem.steps
        cost = costs[:, 0] + np.where(ended, costs[:, 1], 0.0)
        self._controls[indices, k] = control
        self._states[indices, k + 1] = after
        self._k[indices] += 1
        self._costs[indices] += cost
        return -cost, ended, np.zeros(len(indices), dtype=bool)

    def _observe(self, rows: Rows) -> NDArray[Any]:
        indices = self.row_indices(rows)
        k = self._k[indices]
        remaining = 1.0 - k / self.problem.steps
        parts = [self._states[indices, k], self._targets[indices], remaining[:, None]]
        return np.concatenate(parts, axis=1).astype(np.float32)

    def _info(self, rows: Rows) -> Info:
        indices = self.row_indices(rows)
        k = self._k[indices]
        error = np.linalg.norm(self._states[indices, k] - self._targets[indices], axis=1)
        return {
            "cost": self._costs[indices].copy(),
            "error": error,
            "is_success": (k == self.problem.steps) & (error < self.problem.tolerance),
        }

    @after_reset
    def render_row(self, row: int) -> NDArray[np.uint8]:
        """Return the phase plane of one row (400, 400, 3): path, target and the last input."""
        from steerlab.envs._phase_plane import draw

        k = int(self._k[row])
        return draw(
            self.problem, self._states[row, : k + 1], self._controls[row, :k], self._targets[row]
        )
