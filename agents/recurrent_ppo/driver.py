"""A trained recurrent policy as a driver of all rows of the task."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sb3_contrib import RecurrentPPO

RETURN_SCALE = 100.0  # the return of a perfect drive


class PolicyDriver:
    """A trained learner as a driver of all rows, with its mean action.

    Args:
        model: Learner from :func:`train_driver`.
        num_envs: Number of rows.
    """

    def __init__(self, model: RecurrentPPO, num_envs: int) -> None:
        self.model, self.num_envs = model, num_envs
        self.states: Any = None

    def reset(self, observation: Any, info: dict[str, Any]) -> None:
        """Forget the past."""
        self.states = None

    def __call__(self, observation: Any, info: dict[str, Any]) -> NDArray[np.float32]:
        """Return actions (N, 2) for observations (N, 217)."""
        normalizer = self.model.get_vec_normalize_env()
        assert normalizer is not None
        starts = np.full(self.num_envs, self.states is None)
        actions, self.states = self.model.predict(
            normalizer.normalize_obs(observation), self.states, starts, deterministic=True
        )
        return actions
