"""RecurrentPPO on KinematicDriver-v0: for the mean of the return, or for its CVaR."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sb3_contrib import RecurrentPPO
from stable_baselines3.common.vec_env import VecMonitor, VecNormalize

from steerlab.agents.checkpoint import fitting, load_checkpoint
from steerlab.agents.recurrent_ppo.driver import RETURN_SCALE, PolicyDriver
from steerlab.agents.recurrent_ppo.policy import SequencePolicy
from steerlab.agents.recurrent_ppo.warm_start import imitate
from steerlab.agents.sb3 import KIND, load_sb3, train_sb3
from steerlab.agents.training_loop import LAST
from steerlab.devices import torch_device
from steerlab.envs.kinematic_driver.env import KinematicDriverVectorEnv
from steerlab.envs.kinematic_driver.randomization import Ranges
from steerlab.envs.kinematic_driver.record import Record, drive_once
from steerlab.envs.sb3 import SB3VecEnv
from steerlab.envs.wrappers.cvar import CVaRVectorReward
from steerlab.envs.wrappers.risk_sampler import RiskSampler
from steerlab.errors import InputError
from steerlab.options import option
from steerlab.seeds import episode_seed, unchanged_generators

#: What the sampler may draw differently.
CONDITIONS = (
    "kind", "cruise_speed", "desire", "friction", "lateral_delay", "turn_radius",
    "start_offset", "start_heading", "lane_width", "geometry_noise",
)  # fmt: skip
PASSES = 8  # over what was gathered, after each round of imitation
ROWS = 256  # episodes a round of imitation


@dataclass(frozen=True)
class DriverConfig:
    """Options of :func:`train_driver`; a study's options inherit from it."""

    alpha: float = option(1.0, "share of the worst returns that counts; 1 = the mean")
    soften: float = option(0.6, "share of the training over which alpha falls from 1")
    total_steps: int = option(1_000_000, "control steps of all environments together")
    num_envs: int = option(64, "parallel environments; each drives one episode in an iteration")
    episode_steps: int = option(200, "steps of an episode (0.05 s each)")
    batch_size: int = option(1600, "steps in each gradient step")
    epochs: int = option(6, "passes over the steps of an iteration")
    learning_rate: float = option(1e-3, "learning rate at the start; falls linearly to a tenth")
    gamma: float = option(1.0, "discount factor, also of the return whose CVaR is maximised")
    gae_lambda: float = option(0.95, "decay of the advantage estimate")
    cell: str = option("lstm", "recurrent layer: lstm or gru")
    hidden: int = option(64, "width of the recurrent layer, and of the layer after it")
    log_std: float = option(-1.0, "logarithm of the action's standard deviation at the start")
    frozen: bool = option(False, "train only the actor's last layer, and the critic")
    sampler: bool = option(False, "draw harder episodes more often (only with alpha below 1)")
    imitation: int = option(0, "rounds of imitating the preview driver before PPO; 0 = none")
    seed: int = option(0, "seed of weights, episodes and exploration")
    device: str = option("cpu", "auto, cpu or cuda")


def make_driver_env(
    num_envs: int,
    episode_steps: int,
    autoreset_mode: str,
    gamma: float = 1.0,
    ranges: Ranges | None = None,
    make: Callable[..., KinematicDriverVectorEnv] = KinematicDriverVectorEnv,
    **risk: Any,
) -> CVaRVectorReward:
    """Return the task, which ``make`` makes, with the budget and the time left in its observation.

    The reward is the base reward, without shaping. With ``alpha=1`` the threshold stays above every
    return, so that the wrapper returns the plain reward.
    """
    env: Any = make(
        num_envs, max_episode_steps=episode_steps, ranges=ranges, reward={"shaping": 0.0},
        autoreset_mode=autoreset_mode,
    )  # fmt: skip
    if risk.get("sampler"):
        env.use_sampler(risk["sampler"])
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
    with unchanged_generators():
        return RecurrentPPO(
            SequencePolicy,
            VecNormalize(VecMonitor(adapter), gamma=config.gamma),
            n_steps=config.episode_steps,
            batch_size=config.batch_size,
            n_epochs=config.epochs,
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


def _freeze(policy: Any) -> None:
    """Keep what the actor has learnt to see; what it does with it remains to be trained."""
    for part in (policy.lstm_actor, policy.mlp_extractor.policy_net):
        part.requires_grad_(False)


def warm_start(config: DriverConfig, output: str | Path) -> Path:
    """Let a learner imitate the preview driver, or go on with it; see :mod:`warm_start`.

    Args:
        config: ``imitation`` rounds, and what the learner is.
        output: Folder of the checkpoint, written after every round, and of the log.

    Returns:
        The checkpoint, which :func:`train_driver` begins with.

    Raises:
        InputError: The checkpoint in ``output`` is damaged, or another training's.
    """
    env = make_driver_env(1, config.episode_steps, "SameStep", config.gamma, alpha=1.0)
    model = make_model(config, env)
    seed = episode_seed("imitation", config.seed)
    rows = make_driver_env(ROWS, config.episode_steps, "NextStep", config.gamma, alpha=1.0)
    imitate(model, rows, output, config.imitation, PASSES, seed, asdict(config))
    return Path(output, LAST)


def train_driver(
    config: DriverConfig, output: str | Path, start: str | Path | None = None
) -> RecurrentPPO:
    """Train, or go on training, and return the learner.

    It begins with the learner in the file ``start``, which arms of a comparison share. Without one, and
    with ``imitation``, it begins with a :func:`warm_start` of its own, in the folder ``imitation`` of
    ``output``.

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
    sampler = RiskSampler(CONDITIONS) if config.sampler and config.alpha < 1 else None
    env = make_driver_env(
        config.num_envs, config.episode_steps, "SameStep", config.gamma,
        alpha=config.alpha, soften=config.soften, first_only=True, sampler=sampler,
        per_alpha=False,
    )  # fmt: skip
    model = make_model(config, env)
    if not (output / LAST).exists():
        if not start and config.imitation:
            start = warm_start(config, output / "imitation")
        if start:
            load_sb3(start, model)
    if config.frozen:
        _freeze(model.policy)

    def figures(share: float) -> dict[str, float]:
        env.risk.set_progress(share)
        returns = list(env.risk.returns)[-config.num_envs :]
        return {
            "driver/return": float(np.mean(returns)) if returns else 0.0,
            "driver/threshold": env.risk.threshold,
            "driver/alpha": env.risk.alpha,
            "driver/effective_samples": env.risk.effective,
        }

    train_sb3(
        model, output, config.total_steps, asdict(config),
        seed=config.seed, figures=figures, also=env.risk,
    )  # fmt: skip
    return model


def load_driver(folder: str | Path) -> tuple[RecurrentPPO, float]:
    """Return the learner in a folder of :func:`train_driver`, and the threshold that it ended with.

    Cell and width are read from the weights.

    Raises:
        InputError: The folder has no checkpoint of such a learner.
    """
    path = Path(folder, LAST)
    state = load_checkpoint(path, KIND)
    with fitting(path, "a recurrent driver of steerlab train-kinematic-driver"):
        gates, hidden = state["learner"]["policy"]["lstm_actor.weight_hh_l0"].shape
        threshold = float(state["also"]["threshold"])
    config = DriverConfig(cell="gru" if gates == 3 * hidden else "lstm", hidden=hidden)
    model = make_model(config, make_driver_env(1, config.episode_steps, "SameStep", alpha=1.0))
    load_sb3(path, model)
    return model, threshold


@torch.no_grad()
def evaluate_driver(
    model: RecurrentPPO,
    episodes: int,
    episode_steps: int,
    seed: int,
    threshold: float | None = None,
    progress: Callable[[], Any] = lambda: None,
) -> Record:
    """Drive ``episodes`` held-out episodes, the same for every learner that gets the same seed.

    Args:
        model: Learner from :func:`train_driver`.
        episodes: Number of episodes, driven side by side.
        episode_steps: Length of an episode in steps.
        seed: Seed of the first episode.
        threshold: Budget that the policy is given; None for what it ended its training with.
        progress: Called after every step.

    Returns:
        What was driven; ``base_return`` is the return.
    """
    wrapper: CVaRVectorReward = model.get_env().venv.venv.env  # type: ignore[union-attr]
    b = wrapper.risk.threshold if threshold is None else threshold
    env: Any = make_driver_env(
        episodes, episode_steps, "NextStep",
        alpha=0.5, threshold=b, window=10**9, warm_up=10**9,
    )  # fmt: skip
    return drive_once(env, lambda _: PolicyDriver(model, episodes), seed, progress=progress)
