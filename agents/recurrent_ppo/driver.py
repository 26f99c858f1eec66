"""A trained recurrent policy as a driver of all rows of the task, or as a teacher of another."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sb3_contrib import RecurrentPPO

from steerlab.envs.batch import ALL
from steerlab.envs.kinematic_driver import dynamics
from steerlab.envs.kinematic_driver.numpy_backend import NUMPY

RETURN_SCALE = 100.0  # the return of a perfect drive


class PolicyDriver:
    """A trained learner as a driver of all rows, with its mean action and a state of its own.

    It can teach as well: it then goes along with whoever drives, and says what it would do.

    Args:
        model: Learner from :func:`~steerlab.agents.recurrent_ppo.train.train_driver`.
        num_envs: Number of rows.
        threshold: Budget that is shown to the policy where the observations have none. Together with
            all the time left: what it was shown when an episode began.
    """

    def __init__(self, model: RecurrentPPO, num_envs: int, threshold: float = RETURN_SCALE) -> None:
        self.model, self.num_envs = model, num_envs
        self.extra = np.array([threshold / RETURN_SCALE, 1.0], np.float32)
        self.states: Any = None
        self.starts = np.ones(num_envs, bool)

    def reset(self, observation: Any, info: dict[str, Any], rows: Any = ALL) -> None:
        """Forget the past: new episodes have begun in ``rows``."""
        self.starts[rows] = True

    def __call__(self, observation: Any, info: dict[str, Any]) -> NDArray[np.float32]:
        """Return actions (N, 2) for observations (N, 217), or (N, 215) without budget and time."""
        normalizer = self.model.get_vec_normalize_env()
        assert normalizer is not None
        width = self.model.observation_space.shape[0]  # type: ignore[index]
        if observation.shape[1] < width:
            shown = np.broadcast_to(self.extra, (self.num_envs, len(self.extra)))
            observation = np.concatenate([observation, shown], axis=1)
        actions, self.states = self.model.predict(
            normalizer.normalize_obs(observation), self.states, self.starts, deterministic=True
        )
        self.starts[:] = False
        return actions

    def propose(
        self, info: dict[str, Any], observation: Any
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the curvature (1/m) and the acceleration (m/s^2) that it would ask for, (N,)."""
        actions = self(observation, info).astype(float)
        return dynamics.decode_action(NUMPY, actions, info["speed"].astype(float))

    def keep(self, info: dict[str, Any], actions: Any) -> None:
        """Nothing to note: the observation holds the last action."""
