"""A policy as a controller of the simulator: it keeps the history that the policy sees."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from steerlab.agents.tinyphysics.model import Observation, warmup_steer
from steerlab.envs.tinyphysics.dynamics import WARMUP_DRAWS, FuturePlan, State
from steerlab.surrogates.plants.base import CONTEXT
from steerlab.types import Floats


class PolicyController:
    """A batched controller that steers with a policy or a planner.

    Args:
        policy: What makes a steer (N,) of an observation of N rows.
        exploration: Deviation of a random steer on top, from ``rng``.
        rng: Needed for exploration.
    """

    shares_noise = False

    def __init__(
        self,
        policy: Callable[[Observation], Tensor],
        exploration: Floats | float = 0.0,
        rng: np.random.Generator | None = None,
    ) -> None:
        self.policy, self.exploration, self.rng = policy, exploration, rng

    def reset(self, noise: Sequence[Any]) -> None:
        """Start ``len(noise)`` rows."""
        self._calls = 0
        self._steer = torch.zeros(len(noise), CONTEXT)
        self._lataccel = torch.zeros(len(noise), CONTEXT)

    @torch.no_grad()
    def update(self, target: Floats, current: Floats, state: State, plan: FuturePlan) -> Floats:
        """Return the steer (N,)."""
        now = np.stack([target, *state], axis=-1)[:, None]
        road = torch.from_numpy(np.concatenate([now, np.stack(plan, axis=-1)], axis=1)).float()
        newest = torch.from_numpy(np.asarray(current)).float()
        self._lataccel = torch.cat([self._lataccel[:, 1:], newest[:, None]], dim=1)
        if self._calls < WARMUP_DRAWS:
            steer = warmup_steer(road[:, 0, 0], road[:, 0, 1])
        else:
            steer = self.policy(Observation(road, self._steer, self._lataccel))
            if self.rng is not None:
                noise = self.exploration * self.rng.standard_normal(len(steer))
                steer = (steer + torch.as_tensor(noise).float()).clamp(-2.0, 2.0)
        self._steer = torch.cat([self._steer[:, 1:], steer[:, None]], dim=1)
        self._calls += 1
        return steer.numpy().astype(np.float64)
