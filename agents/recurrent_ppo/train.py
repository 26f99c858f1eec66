"""RecurrentPPO on KinematicDriver-v0: for the mean of the return, or for its CVaR."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sb3_contrib import RecurrentPPO
from stable_baselines3.common.vec_env import VecMonitor, VecNormalize

from steerlab.agents.classical.preview import drive_once
from steerlab.agents.recurrent_ppo.policy import SequencePolicy
from steerlab.agents.run_log import RunLog
from steerlab.agents.sb3 import ResumableTraining, sb3_logger
from steerlab.devices import torch_device
from steerlab.envs.kinematic_driver.env import KinematicDriverVectorEnv
from steerlab.envs.sb3 import SB3VecEnv
from steerlab.envs.wrappers.cvar import CVaRVectorReward
from steerlab.errors import InputError
from steerlab.options import option

CHECKPOINT = "last.pt"
RETURN_SCALE = 100.0  # the return of a perfect drive


@dataclass(frozen=True)
class DriverConfig:
    """Options of :func:`train_driver`; a study's options inherit from it."""

    alpha: float = option(1.0, "share of the worst returns that counts; 1 = the mean")
    soften: float = option(0.6, "share of the training over which alpha falls from 1")
    total_steps: int = option(1_000_000, "control steps in all")
    num_envs: int = option(64, "rows of the task; each drives one episode an iteration")
    episode_steps: int = option(200, "steps of an episode (0.05 s each)")
    batch_size: int = option(1600, "steps a gradient step")
    n_epochs: int = option(6, "passes over the steps of an iteration")
    learning_rate: float = option(1e-3, "step size at the start; falls linearly to a tenth")
    gamma: float = option(1.0, "discount of the learner, and of the return whose CVaR is meant")
    gae_lambda: float = option(0.95, "decay of the advantage estimate")
    cell: str = option("lstm", "lstm or gru")
    hidden: int = option(64, "units of the recurrent layer, and of the layer after it")
    log_std: float = option(-1.0, "initial log of the action's standard deviation")
    seed: int = option(0, "seed of weights, episodes and exploration")
    device: str = option("cpu", "auto, cpu or cuda")


def make_driver_env(
    num_envs: int, episode_steps: int, autoreset_mode: str, gamma: float = 1.0, **risk: Any
) -> CVaRVectorReward:
    """Return the task with the budget and the time left in its observation.

    The reward is the base reward, without shaping. With ``alpha=1`` the threshold stays above every
    return, so that the plain reward is paid.
    """
    env: Any = KinematicDriverVectorEnv(
        num_envs, episode_steps, reward={"shaping": 0.0}, autoreset_mode=autoreset_mode
    )
    if risk["alpha"] == 1.0:
        risk |= {"threshold": 2 * RETURN_SCALE, "window": 10**9, "warm_up": 10**9, "soften": 0.0}
    return CVaRVectorReward(
        env, max_steps=episode_steps, budget_scale=RETURN_SCALE, discount=gamma, **risk
    )


def make_model(config: DriverConfig, env: CVaRVectorReward) -> RecurrentPPO:
    """Return an untrained learner on ``env``.

    Raises:
        InputError: The learner and the wrapper discount differently.
    """
    env.check_discount(config.gamma)
    adapter: Any = SB3VecEnv(env)
    return RecurrentPPO(
        SequencePolicy,
        VecNormalize(VecMonitor(adapter), gamma=config.gamma),
        n_steps=config.episode_steps,
        batch_size=config.batch_size,
        n_epochs=config.n_epochs,
        learning_rate=lambda left: config.learning_rate * (0.1 + 0.9 * left),
        gamma=config.gamma,
        gae_lambda=config.gae_lambda,
        seed=config.seed,
        device=torch_device(config.device),
        policy_kwargs={
            "cell": config.cell,
            "lstm_hidden_size": config.hidden,
            "net_arch": [config.hidden],
            "enable_critic_lstm": False,
            "log_std_init": config.log_std,
        },
    )


def train_driver(config: DriverConfig, output: str | Path) -> RecurrentPPO:
    """Train, or go on training, and return the learner.

    Writes ``last.pt`` after every iteration (weights, optimiser, normaliser, threshold), TensorBoard
    events and ``metrics.jsonl`` into ``output``. Every iteration drives whole episodes on fresh
    roads.

    Raises:
        InputError: An option is out of range.
    """
    iteration = config.num_envs * config.episode_steps
    if config.num_envs < 1 or config.total_steps < iteration:
        raise InputError(
            f"total_steps={config.total_steps} is less than one iteration of "
            f"num_envs={config.num_envs} episodes ({iteration} steps); raise it"
        )
    output = Path(output)
    env = make_driver_env(
        config.num_envs, config.episode_steps, "SameStep", config.gamma,
        alpha=config.alpha, soften=config.soften,
    )  # fmt: skip
    model = make_model(config, env)
    log: RunLog

    def iterated(steps: int) -> None:
        env.risk.set_progress(steps / config.total_steps)
        returns = list(env.risk.returns)[-config.num_envs :]
        log.scalars(
            steps,
            {
                "driver/return": float(np.mean(returns)) if returns else 0.0,
                "driver/threshold": env.risk.threshold,
                "driver/alpha": env.risk.alpha,
            },
        )

    training = ResumableTraining(
        output / CHECKPOINT, config.total_steps, config.seed, iterated, env.risk
    )
    first = training.resume_step()
    if first:
        env.risk.set_progress((first - 1) / config.total_steps)
    with RunLog(output, first) as log:
        model.set_logger(sb3_logger(log))
        model.learn(config.total_steps, callback=training)
    return model


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


@torch.no_grad()
def evaluate_driver(
    model: RecurrentPPO,
    episodes: int,
    episode_steps: int,
    seed: int,
    threshold: float | None = None,
    progress: Callable[[], Any] | None = None,
) -> dict[str, NDArray[Any]]:
    """Drive ``episodes`` held-out episodes, the same for every learner that gets the same seed.

    Args:
        model: Learner from :func:`train_driver`.
        episodes: Number of episodes, driven side by side.
        episode_steps: Length of an episode in steps.
        seed: Seed of the first episode.
        threshold: Budget that the policy is given; None for what it ended its training with.
        progress: Called after every step.

    Returns:
        See :func:`~steerlab.agents.classical.preview.drive_once`; ``base_return`` is the return.
    """
    wrapper: CVaRVectorReward = model.get_env().venv.venv.env  # type: ignore[union-attr]
    b = wrapper.risk.threshold if threshold is None else threshold
    env: Any = make_driver_env(
        episodes, episode_steps, "NextStep",
        alpha=0.5, threshold=b, window=10**9, warm_up=10**9,
    )  # fmt: skip
    return drive_once(env, lambda _: PolicyDriver(model, episodes), seed, progress=progress)
