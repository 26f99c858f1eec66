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

import numpy as np
from array_api_compat import array_namespace

from steerlab.errors import InputError, unknown_name
from steerlab.types import Floats, Paths, PerCase, States


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

    def sample(self, rng: Any, count: int) -> tuple[States, States]:
        """Draw initial states and targets, each (count, 2), from a numpy generator."""
        scale = np.array([self.spread, self.spread, self.target_spread, self.target_spread])
        both = rng.uniform(-1.0, 1.0, (count, 4)) * scale
        return both[:, :2], both[:, 2:]

    def clip(self, controls: Any) -> Any:
        """Return ``controls`` within the bounds."""
        xp = array_namespace(controls)
        return xp.clip(controls, -self.limit, self.limit)


def final_error(states: Paths, targets: States) -> PerCase:
    """Return the Euclidean distance (B,) of the last of ``states`` (B, T+1, 2) to ``targets``."""
    error: PerCase = np.linalg.norm(states[:, -1] - targets, axis=-1)
    return error
