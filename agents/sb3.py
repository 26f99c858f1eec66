"""Resumable training of stable-baselines3's and sb3-contrib's on-policy algorithms.

:func:`train_sb3` runs them in the one :class:`~steerlab.agents.training_loop.TrainingLoop`. Randomness
needs no state: every iteration is seeded from (seed, steps so far) and starts with fresh episodes, so a
resumed run repeats an uninterrupted one.
"""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecNormalize

from steerlab.agents.checkpoint import fitting, load_checkpoint
from steerlab.agents.training_loop import Stateful, TrainingLoop
from steerlab.seeds import (
    episode_seed,
    generator_seed,
    seed_generators,
    unchanged_generators,
)

#: Kind of the checkpoints of :func:`train_sb3`.
KIND = "reinforcement learning"
_EPISODE = ("r", "l", "t")  # what the learner remembers of an episode: return, length, time


class LearnerState:
    """Weights, optimiser, normaliser, counts and unwritten log of a learner, as a part of a loop."""

    def __init__(self, model: OnPolicyAlgorithm) -> None:
        self.model = model

    def state_dict(self) -> dict[str, Any]:
        """Return tensors and plain values."""
        model = self.model
        normalizer = model.get_vec_normalize_env()
        # What the last update logged; it is written out after the rollout that follows.
        logged = getattr(model, "_logger", None)
        pending = dict(logged.name_to_value) if logged else {}
        episodes = list(model.ep_info_buffer or ())
        return {
            "policy": model.policy.state_dict(),
            "optimizer": model.policy.optimizer.state_dict(),
            "num_timesteps": model.num_timesteps,
            "n_updates": model._n_updates,
            "normalizer": _normalizer_state(normalizer) if normalizer else {},
            "pending": {k: float(v) for k, v in pending.items() if _is_number(v)},
            # As arrays, which keep the type of the numbers: their mean depends on it.
            "episodes": {
                name: torch.as_tensor(np.array([e[name] for e in episodes])) for name in _EPISODE
            },
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put a saved state into the learner."""
        model = self.model
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
        if hasattr(model, "_logger"):  # not before it learns
            for key, value in state["pending"].items():
                model.logger.record(key, value)
        if model.ep_info_buffer is not None:
            columns = [state["episodes"][name].cpu().numpy() for name in _EPISODE]
            model.ep_info_buffer.extend(
                dict(zip(_EPISODE, row, strict=True)) for row in zip(*columns, strict=True)
            )


def load_sb3(path: str | Path, model: OnPolicyAlgorithm) -> dict[str, Any]:
    """Put the learner in a checkpoint of :func:`train_sb3`, or of a warm start, into ``model``.

    Returns:
        The checkpoint.

    Raises:
        InputError: The file has none, or another learner.
    """
    state = load_checkpoint(path, device=model.device)
    with fitting(path, type(model).__name__):
        LearnerState(model).load_state_dict(state["learner"])
    return state


def train_sb3(
    model: OnPolicyAlgorithm,
    output: str | Path,
    total_steps: int,
    config: Mapping[str, Any],
    *,
    seed: int = 0,
    figures: Callable[[float], Mapping[str, float]] = lambda share: {},
    also: Stateful | None = None,
) -> None:
    """Train ``model``, or go on training it, with a checkpoint after every iteration.

    Every iteration must begin with fresh episodes, so ``n_steps`` has to be a whole number of them.

    Args:
        model: PPO, A2C, RecurrentPPO and the like, on a vectorised environment.
        output: Folder of the checkpoint and the log; a stopped run goes on there.
        total_steps: Steps of all rows at which training ends.
        config: Plain values that a run must share with the one that it continues.
        seed: Of every iteration's episodes and exploration.
        figures: Called with the share of the training that is done, after every update and when a
            run goes on; returns what is logged besides.
        also: Something else that the checkpoint keeps.

    Raises:
        InputError: The checkpoint in ``output`` is damaged, or another training's.
    """
    with ExitStack() as stack:

        def start() -> TrainingLoop:
            parts = {"learner": LearnerState(model)} | ({"also": also} if also else {})
            loop = TrainingLoop(
                output, KIND, total_steps, parts, config, unit="step", device=model.device
            )
            return stack.enter_context(loop)

        training = _Iterations(start, seed, figures)
        model.set_logger(Logger(folder=None, output_formats=[_LogWriter(training)]))
        with unchanged_generators():  # stable-baselines3 draws from global ones
            model.learn(total_steps, callback=training)


class _Iterations(BaseCallback):
    """Runs an algorithm in a :class:`TrainingLoop`."""

    loop: TrainingLoop

    def __init__(
        self,
        start: Callable[[], TrainingLoop],
        seed: int,
        figures: Callable[[float], Mapping[str, float]],
    ) -> None:
        super().__init__()
        self.start, self.seed, self.figures = start, seed, figures
        self._updated = False

    def _on_training_start(self) -> None:
        self.loop = self.start()  # not earlier: the learner resets its counts before
        if self.loop.first:
            self.figures(self.model.num_timesteps / self.loop.total)

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
        self.loop.advance(self.training_env.num_envs)
        return True

    def _on_training_end(self) -> None:
        if self._updated:
            self._save()

    def _save(self) -> None:
        steps = self.model.num_timesteps
        if scalars := self.figures(steps / self.loop.total):
            self.loop.record(steps, scalars)
        self.loop.save(steps)


class _LogWriter(KVWriter):
    """Sends what stable-baselines3 logs to the run's one log."""

    def __init__(self, training: _Iterations) -> None:
        self.training = training

    def write(
        self, key_values: dict[str, Any], key_excluded: dict[str, Any], step: int = 0
    ) -> None:
        scalars = {k: float(v) for k, v in key_values.items() if _is_number(v)}
        # The learner counts from where it started; the run may have started earlier.
        model = self.training.model
        scalars["time/iterations"] = step / (model.n_steps * model.n_envs)  # type: ignore[attr-defined]
        self.training.loop.record(step, scalars)

    def close(self) -> None:
        pass  # whoever made the log closes it


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number)


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
