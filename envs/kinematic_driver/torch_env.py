"""KinematicDriver-v0 whose state lives in torch, on the CPU or a GPU: no copy to the host a step."""

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from torch import Tensor

from steerlab.devices import torch_device
from steerlab.envs.arguments import integer, time_limit
from steerlab.envs.kinematic_driver import episodes
from steerlab.envs.kinematic_driver.env import EPISODE_STEPS, LIMITS
from steerlab.envs.kinematic_driver.observation import LAYOUT
from steerlab.envs.kinematic_driver.randomization import Ranges, as_ranges
from steerlab.envs.kinematic_driver.reward import Reward, as_reward
from steerlab.envs.kinematic_driver.simulator import Simulator
from steerlab.envs.kinematic_driver.torch_backend import TorchBackend
from steerlab.errors import InputError


class KinematicDriverTorchEnv(VectorEnv[Any, Any, Any]):
    """The same task over torch tensors, with same-step reset.

    Episodes come from a pool that numpy draws at :meth:`reset` and that stays on the device: a row
    walks through the pool from a place and with a stride of its own, and every visit of an episode
    has other noise. ``reset(seed=...)`` draws a new pool. Actions, observations, rewards and ends
    are tensors on the device; ``info`` has, for the rows that ended, ``final_rows`` (n,),
    ``final_obs`` (n, 215) and the summaries of their episodes (n,).

    Args:
        num_envs: Number of rows.
        device: ``auto``, ``cpu`` or ``cuda``.
        pool_size: Number of episodes in the pool.
        max_episode_steps: Length of an episode in steps of 0.05 s, from 10 to 4000; 500 by default.
        ranges: Bounds of the randomisation, or a mapping of those that differ from the defaults.
        noise: False gives perfect sensors and perfect, prompt vision.
        reward: Weights of the reward, or a mapping of those that differ from the defaults.

    Raises:
        InputError: An argument is out of range.
    """

    def __init__(
        self,
        num_envs: int,
        device: str = "auto",
        pool_size: int = 8192,
        max_episode_steps: int | None = None,
        ranges: Ranges | Mapping[str, Any] | None = None,
        noise: bool = True,
        reward: Reward | Mapping[str, Any] | None = None,
    ) -> None:
        self.num_envs = num_envs = integer("num_envs", num_envs, 1)
        self.pool_size = pool_size = integer("pool_size", pool_size, 1)
        self.max_episode_steps = time_limit(max_episode_steps, EPISODE_STEPS, *LIMITS)
        ranges = as_ranges(ranges)
        self.ranges = ranges if noise else ranges.without_noise()
        self.metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}
        self.single_observation_space = LAYOUT.box()
        self.single_action_space = Box(-1.0, 1.0, (2,), np.float32)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.device = torch_device(device)
        self.backend = TorchBackend(self.device)
        self.simulator = Simulator(
            num_envs, pool_size, self.max_episode_steps, as_reward(reward), self.backend
        )
        self._seeds = np.random.SeedSequence()
        self._pool: Tensor | None = None

    @torch.no_grad()
    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Tensor, dict[str, Any]]:
        """Draw a new pool and start episodes in all rows; return observations (N, D), float32."""
        if options:
            raise InputError(f"reset takes no options here, got {sorted(options)}")
        if seed is not None:
            self._seeds = np.random.SeedSequence(integer("seed", seed, 0))
        rng = np.random.default_rng(self._seeds.spawn(1)[0])
        tables = []
        for begin in range(0, self.pool_size, 1024):  # in parts, for the sake of memory
            slots = np.arange(begin, min(begin + 1024, self.pool_size))
            uniforms = rng.random((len(slots), episodes.UNIFORMS))
            table, made = episodes.make(self.ranges, uniforms, self.max_episode_steps, {})
            self.simulator.store(self.backend.integers(slots), made)
            tables.append(table)
        self._pool = self.backend.asarray(np.concatenate(tables, axis=1))
        rows = self.backend.arange(self.num_envs)
        self._place = self.backend.integers(rng.integers(0, self.pool_size, self.num_envs))
        stride = 2 * rng.integers(0, self.pool_size, self.num_envs) + 1
        self._stride = self.backend.integers(stride)
        self._visit = self.backend.integers(rng.integers(0, 1 << 16, self.num_envs))
        self._start(rows)
        return self._observe(slice(None), self.num_envs), {}

    @torch.no_grad()
    def step(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, dict[str, Any]]:
        """Advance all rows; those that end are reset at once.

        Args:
            actions: (N, 2) in [-1, 1], as in :class:`KinematicDriverVectorEnv`.

        Returns:
            Observations (N, D), rewards, terminations and truncations (N,), and the info.

        Raises:
            InputError: The actions have another shape, or are not finite.
        """
        if self._pool is None:
            raise gym.error.ResetNeeded("call reset() before step()")
        if tuple(actions.shape) != self.action_space.shape:
            raise InputError(
                f"actions have shape {tuple(actions.shape)}, need {(self.num_envs, 2)}"
            )
        actions = actions.to(self.device, torch.float32)
        if not bool(actions.isfinite().all()):
            raise InputError("an action is not finite; check the policy for NaN")
        outcome = self.simulator.step(actions)
        ended = (outcome.terminated | outcome.truncated).nonzero()[:, 0]
        info: dict[str, Any] = {"base_reward": outcome.base}
        if len(ended):
            info["final_rows"] = ended
            info["final_obs"] = self._observe(ended, len(ended))
            info["violation"] = self.simulator.violation[ended]
            info |= self.simulator.metrics(ended)
            self._start(ended)
        observation = self._observe(slice(None), self.num_envs)
        return observation, outcome.reward, outcome.terminated, outcome.truncated, info

    def _start(self, rows: Tensor) -> None:
        """Begin the next episode of the pool in ``rows``."""
        assert self._pool is not None
        self._place[rows] = (self._place[rows] + self._stride[rows]) % self.pool_size
        self._visit[rows] += 977
        slots = self._place[rows]
        table = self._pool[:, slots].clone()
        noise = episodes.EPISODE.index("noise_start")
        table[noise] = (table[noise] + self._visit[rows]) % 65536
        self.simulator.start(rows, slots, table)

    def _observe(self, rows: Any, count: int) -> Tensor:
        out = self.backend.empty(count, LAYOUT.size)
        self.simulator.observe(rows, out)
        return out
