"""Resumable checkpoints of stable-baselines3 and sb3-contrib on-policy algorithms.

One file in the format of :mod:`steerlab.agents.checkpoint` holds weights, optimiser, normaliser
and step count. Randomness needs no state: :class:`ResumableTraining` seeds every iteration from
(seed, iteration) and starts it with fresh episodes, so a resumed run repeats an uninterrupted one.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecNormalize
from tqdm.auto import tqdm

from steerlab.agents.checkpoint import load_checkpoint, save_checkpoint
from steerlab.agents.run_log import RunLog
from steerlab.seeds import (
    episode_seed,
    generator_seed,
    seed_generators,
    unchanged_generators,
)


def save_sb3(path: str | Path, model: OnPolicyAlgorithm, **describe: Any) -> None:
    """Write the state of ``model`` and of its ``VecNormalize``, if it has one."""
    normalizer = model.get_vec_normalize_env()
    save_checkpoint(
        path,
        {
            "policy": model.policy.state_dict(),
            "optimizer": model.policy.optimizer.state_dict(),
            "num_timesteps": model.num_timesteps,
            "n_updates": model._n_updates,
            "normalizer": _normalizer_state(normalizer) if normalizer else {},
            "describe": describe,
        },
    )


def load_sb3(path: str | Path, model: OnPolicyAlgorithm) -> dict[str, Any]:
    """Put a saved state into ``model``; return what was stored as description."""
    state = load_checkpoint(path, model.device)
    model.policy.load_state_dict(state["policy"])
    model.policy.optimizer.load_state_dict(state["optimizer"])
    model.num_timesteps, model._n_updates = state["num_timesteps"], state["n_updates"]
    normalizer = model.get_vec_normalize_env()
    if normalizer:
        for name, values in state["normalizer"].items():
            statistics = getattr(normalizer, name)
            statistics.mean = values["mean"].cpu().numpy()
            statistics.var = values["var"].cpu().numpy()
            statistics.count = values["count"]
    return state["describe"]


class _LogWriter(KVWriter):
    """Sends what stable-baselines3 logs to the run's one log."""

    def __init__(self, log: RunLog) -> None:
        self.log = log

    def write(
        self, key_values: dict[str, Any], key_excluded: dict[str, Any], step: int = 0
    ) -> None:
        numbers = (int, float, np.number)
        self.log.scalars(
            step, {k: float(v) for k, v in key_values.items() if isinstance(v, numbers)}
        )

    def close(self) -> None:
        pass  # whoever made the log closes it


def sb3_logger(log: RunLog) -> Logger:
    """Return a logger for ``model.set_logger`` that writes into ``log``."""
    return Logger(folder=None, output_formats=[_LogWriter(log)])


def learn(model: OnPolicyAlgorithm, total_steps: int, training: "ResumableTraining") -> None:
    """Train ``model``; stable-baselines3 draws from global generators, which are put back."""
    with unchanged_generators():
        model.learn(total_steps, callback=training)


class ResumableTraining(BaseCallback):
    """Checkpoints after every iteration, a progress bar, and randomness by iteration.

    Args:
        path: The checkpoint; loaded before the first iteration if it exists.
        total_steps: Steps at which training ends, for the progress bar.
        seed: Seed of the run.
        on_iteration: Called with the step count after every update.
        also: Something with ``state_dict`` and ``load_state_dict`` that the checkpoint keeps too.
    """

    def __init__(
        self,
        path: str | Path,
        total_steps: int,
        seed: int = 0,
        on_iteration: Callable[[int], None] = lambda steps: None,
        also: Any = None,
    ) -> None:
        super().__init__()
        self.path, self.total_steps, self.seed = Path(path), total_steps, seed
        self.on_iteration, self.also = on_iteration, also
        self._updated = False

    def resume_step(self) -> int | None:
        """Return the first step that is not behind us, for :class:`RunLog`; None at the start."""
        return load_checkpoint(self.path)["num_timesteps"] + 1 if self.path.exists() else None

    def _on_training_start(self) -> None:
        if self.path.exists():
            described = load_sb3(self.path, self.model)  # type: ignore[arg-type]
            if self.also:
                self.also.load_state_dict(described["also"])
        self._bar = tqdm(total=self.total_steps, initial=self.model.num_timesteps, unit="step")

    def _on_rollout_start(self) -> None:
        if self._updated:  # the update of the iteration before is behind us
            self._save()
        self._updated = True
        steps = self.model.num_timesteps
        rows = self.training_env.num_envs
        seed_generators(generator_seed("training", self.seed, steps))
        episodes = steps // self.model.n_steps  # type: ignore[attr-defined]
        self.training_env.seed(episode_seed("training", self.seed, episodes, rows))
        self.model._last_obs = self.training_env.reset()  # type: ignore[assignment]
        self.model._last_episode_starts = np.ones(rows, dtype=bool)
        normalizer = self.model.get_vec_normalize_env()
        if normalizer:
            normalizer.returns[:] = 0.0

    def _on_step(self) -> bool:
        self._bar.update(self.training_env.num_envs)
        return True

    def _on_training_end(self) -> None:
        if self._updated:
            self._save()
        self._bar.close()

    def _save(self) -> None:
        kept = {"also": self.also.state_dict()} if self.also else {}
        save_sb3(self.path, self.model, **kept)  # type: ignore[arg-type]
        self.on_iteration(self.model.num_timesteps)


def _normalizer_state(normalizer: VecNormalize) -> dict[str, dict[str, Any]]:
    def plain(statistics: RunningMeanStd) -> dict[str, Any]:
        return {
            "mean": torch.as_tensor(statistics.mean),
            "var": torch.as_tensor(statistics.var),
            "count": float(statistics.count),
        }

    state = {"ret_rms": plain(normalizer.ret_rms)}
    if isinstance(getattr(normalizer, "obs_rms", None), RunningMeanStd):
        state["obs_rms"] = plain(normalizer.obs_rms)  # type: ignore[arg-type]
    return state
