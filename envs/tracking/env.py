"""The tracking tasks as environments: N episodes of a problem."""

from dataclasses import fields
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from steerlab.envs.arguments import Setting, not_negative, time_limit
from steerlab.envs.batch import BatchEnv, Info, Rows, after_reset
from steerlab.envs.layout import Layout
from steerlab.envs.tracking.problem import TrackingProblem
from steerlab.errors import InputError
from steerlab.types import Floats


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
        from steerlab.envs.tracking.render import draw

        k = int(self._k[row])
        return draw(
            self.problem, self._states[row, : k + 1], self._controls[row, :k], self._targets[row]
        )
