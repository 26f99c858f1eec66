"""PPO on the window policy itself: the reward is that of the plan it executes; mean or CVaR.

The policy is the command that the contract's rule reads from the plan, plus a disturbance of which each
step draws a part anew and keeps the rest from the step before (white noise would not get through the
smoothing and the lags). Given what is kept, a command is normal around the policy's, so the ratio of
PPO is exact (Schulman et al. 2017). Advantages come from a critic that sees the true state and the
budget of CVaR, which the policy does not: its inputs are the contract's.

As in the imitation one pass over a window gives 25 examples. A frame early in the window has less
history there than it had on the road. The ratio therefore compares the weights of now and those of the
drive on that same history: it is 1 before the first step, whatever the history.
"""

import copy
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from steerlab.agents.policynet.losses import (
    SCALE,
    WINDOW,
    WindowBatch,
    hindsight_losses,
    plan_error,
    random_windows,
    window_batch,
)
from steerlab.agents.policynet.model import PolicyNet
from steerlab.agents.policynet.rollout import BehaviorMix, Rollout, collect, sway_speed
from steerlab.agents.policynet.task import KINEMATIC, Task
from steerlab.agents.policynet.train import (
    ImitationConfig,
    check_shared,
    finish,
    first_policy,
    on_cpu,
)
from steerlab.agents.recurrent_ppo.driver import RETURN_SCALE
from steerlab.agents.recurrent_ppo.train import make_driver_env
from steerlab.agents.training_loop import (
    Stateful,
    TrainingLoop,
    moving_average,
    set_rate,
    step_generator,
)
from steerlab.devices import torch_device
from steerlab.envs.kinematic_driver.env import KinematicDriverVectorEnv
from steerlab.envs.kinematic_driver.randomization import Ranges
from steerlab.envs.wrappers.cvar import EXTRA, CVaRVectorReward
from steerlab.errors import InputError
from steerlab.openpilot.engines import Network
from steerlab.options import option
from steerlab.seeds import episode_seed, initial_weights

#: Frames that a window must hold before a command counts, unless the episode is younger.
HISTORY = 12
#: What the critic sees of the true state besides the observation, and times (s) of the true path.
TRUE_STATE = (
    "cte", "heading_error", "speed", "acceleration", "curvature", "path_curvature", "planned_speed",
    "room_left", "room_right", "friction", "mass", "lateral_delay", "actuator_lag", "smoothing",
    "drive_lag", "brake_lag", "superelevation", "cruise_speed",
)  # fmt: skip
AHEAD = np.array([0.3, 0.6, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0], np.float32)
#: Kind of the checkpoints of this training.
KIND = "PPO on PolicyNet"
#: Stream of its seeds.
STREAM = "reinforcement"


@dataclass(frozen=True)
class PPOConfig:
    """Options of :func:`train_ppo` besides those it shares with the imitation."""

    alpha: float = option(1.0, "share of the worst returns that counts; 1 = the mean")
    soften: float = option(0.5, "share of the training over which alpha falls from 1 to alpha=")
    num_envs: int = option(
        64, "parallel environments; each drives at least one episode in an iteration"
    )
    steps: int = option(500, "steps of an episode")
    epochs: float = option(4.0, "passes over the frames of an iteration")
    batch_size: int = option(64, "windows of 25 frames in each gradient step")
    learning_rate: float = option(3e-5, "largest step size of AdamW; falls linearly to a tenth")
    lateral: float = option(
        0.3, "standard deviation of the exploration in lateral acceleration, m/s^2"
    )
    pedal: float = option(0.3, "standard deviation of the exploration in acceleration, m/s^2")
    keep: float = option(0.95, "correlation of the exploration between one step and the next")
    clip: float = option(
        0.2,
        "PPO's clipping range: change of the probability ratio beyond which there is no gradient",
    )
    target_kl: float = option(
        0.03, "KL divergence from the policy that drove, after which an iteration ends"
    )
    gamma: float = option(1.0, "discount factor, also of the return whose CVaR is maximised")
    gae_lambda: float = option(0.95, "decay of the advantage estimate")
    hindsight: float = option(
        1.0, "weight of the loss that fits the rest of the plan to the path driven"
    )
    critic_first: int = option(
        1, "iterations at the start that train only the critic; their steps count, too"
    )
    critic_rate: float = option(1e-3, "learning rate of the critic")
    critic_epochs: int = option(6, "passes of the critic over the steps of an iteration")


class Critic(nn.Module):
    """The return to come, from the true state, the budget and the time that is left.

    Args:
        inputs: Number of values that it sees; the last one is the time left, as a share.
        hidden: Units of its two layers.
    """

    def __init__(self, inputs: int, hidden: int = 128) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(inputs, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(),
            nn.Linear(hidden, 1),
        )  # fmt: skip
        self.mean: Tensor
        self.var: Tensor
        self.count: Tensor
        self.register_buffer("mean", torch.zeros(inputs, dtype=torch.float64))
        self.register_buffer("var", torch.ones(inputs, dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))

    def normalize_by(self, seen: Tensor) -> None:
        """Take ``seen`` (..., inputs) into the statistics that scale the inputs."""
        seen = seen.flatten(0, -2).double()
        total = self.count + len(seen)
        mean, var = seen.mean(0), seen.var(0, unbiased=False)
        away, share = mean - self.mean, len(seen) / total
        self.var = self.var + share * (var - self.var) + share * (1 - share) * away**2
        self.mean, self.count = self.mean + share * away, total

    def forward(self, seen: Tensor) -> Tensor:
        """Return the value (...) of what is seen (..., inputs); 0 when no time is left."""
        scaled = (seen - self.mean.float()) / (self.var.float() + 1e-6).sqrt()
        return RETURN_SCALE * seen[..., -1] * self.net(scaled.clamp(-8.0, 8.0))[..., 0]


def true_state(
    task: KinematicDriverVectorEnv, observation: Any, info: dict[str, Any]
) -> NDArray[np.float32]:
    """Return what the critic sees, (N, K): observation, true state and path, budget, time left."""
    speed = np.maximum(info["speed"], 3.0)[:, None]
    path = task.preview(speed * AHEAD)
    state = np.stack([info[name] for name in TRUE_STATE], 1)
    bends = path["curvature"] * speed**2
    width = task.layout.size
    parts = [observation[:, :width], state, bends, path["planned_speed"] - speed]
    return np.concatenate([*parts, observation[:, width:]], 1, dtype=np.float32)


def critic_inputs(task: KinematicDriverVectorEnv) -> int:
    """Return how many values :func:`true_state` has in a row."""
    return task.layout.size + len(TRUE_STATE) + 2 * len(AHEAD) + len(EXTRA)


def train_ppo(
    config: ImitationConfig,
    ppo: PPOConfig,
    output: str | Path,
    start: str | Path | None = None,
    ranges: Ranges | None = None,
    vision: Network | None = None,
    task: Task = KINEMATIC,
) -> PolicyNet:
    """Train, or go on training, and return the policy with averaged weights.

    Writes and resumes as :func:`~steerlab.agents.policynet.train.train_imitation` does.

    Args:
        config: What both recipes share: contract, length, widths, seed.
        ppo: Options of PPO.
        output: Folder of the results.
        start: ``policy_model.pth`` to begin with; None begins with random weights.
        ranges: Ranges of the task; the defaults.
        vision: A vision network that looks at the rendered road and makes the features.
        task: What is driven.

    Raises:
        InputError: An option is out of range, or ``start`` is for another contract.
    """
    iterations = check_ppo(config, ppo)
    device = torch_device(config.device)
    network = first_policy(config, start, vision, task).to(device)
    env = _environment(ppo, ranges, task)
    critic = _critic(env, config.seed).to(device)
    average = moving_average(network, 0.99)
    optimizer = torch.optim.AdamW(network.parameters(), ppo.learning_rate, weight_decay=1e-4)
    critic_optimizer = torch.optim.Adam(critic.parameters(), ppo.critic_rate)
    parts: dict[str, Stateful] = {"model": network, "average": average, "optimizer": optimizer}
    parts |= {"critic": critic, "critic_optimizer": critic_optimizer, "risk": env.risk}
    settings = {**asdict(config), "ppo": asdict(ppo)}
    drives = TrainingLoop(output, KIND, iterations, parts, settings, unit="drive", device=device)
    with drives as loop:
        for iteration in loop:
            env.risk.set_progress(iteration / iterations)
            seed = episode_seed(STREAM, config.seed, iteration * ppo.num_envs, ppo.num_envs)
            drive = _drive(network, env, ppo, seed, vision).to(device)
            generator = step_generator(STREAM, config.seed, iteration)
            only_critic = iteration < ppo.critic_first
            advantage, targets = _credit(critic, drive, ppo, only_critic)
            scalars = {} if only_critic else _improve(
                network, average, optimizer, drive, advantage, ppo,
                _pace(ppo, iteration, iterations), generator,
            )  # fmt: skip
            scalars["critic/explained"] = float(1 - advantage.var() / targets.var().clamp(min=1e-9))
            scalars["critic/loss"] = _fit(
                critic, critic_optimizer, drive.critic_obs[:-1], targets, ppo.critic_epochs, generator
            )  # fmt: skip
            scalars |= {f"drive/{name}": value for name, value in drive.figures.items()}
            scalars |= {f"plan/{k}": v for k, v in plan_error(network, drive, generator).items()}
            scalars |= {"risk/threshold": env.risk.threshold, "risk/alpha": env.risk.alpha}
            loop.done(scalars, {name: drive.figures[name] for name in ("return", "violations")})
        policy = average.module.cpu()
        return finish(policy, loop.output, loop.log, iterations, config.film, vision, task)


def _critic(env: CVaRVectorReward, seed: int) -> Critic:
    task: Any = env.unwrapped
    with initial_weights(seed):
        return Critic(critic_inputs(task))


def _environment(ppo: PPOConfig, ranges: Ranges | None, task: Task) -> CVaRVectorReward:
    return make_driver_env(
        ppo.num_envs, ppo.steps, "Disabled", ppo.gamma, ranges, alpha=ppo.alpha, soften=ppo.soften,
        threshold=RETURN_SCALE, first_only=True, per_alpha=False, make=task.env,
    )  # fmt: skip


def _pace(ppo: PPOConfig, iteration: int, iterations: int) -> tuple[float, bool]:
    """Return the learning rate, and whether it rises first: Adam's first steps are its least certain."""
    rate = ppo.learning_rate * (1.0 - 0.9 * iteration / iterations)
    return rate, iteration == ppo.critic_first


def _drive(
    network: PolicyNet, env: CVaRVectorReward, ppo: PPOConfig, seed: int, vision: Network | None
) -> Rollout:
    """Return what the policy drives in an iteration, with exploration and what the critic sees."""
    mixture = BehaviorMix(0.0, 1.0, ppo.lateral, ppo.pedal, (ppo.keep, ppo.keep))
    return collect(on_cpu(network), env, None, ppo.steps, seed, mixture, vision, true_state)


def _credit(
    critic: Critic, drive: Rollout, ppo: PPOConfig, only_critic: bool
) -> tuple[Tensor, Tensor]:
    """Return advantages and the critic's targets, (T, N) each; the critic's scales see the drive."""
    # A critic that is not trained yet is no help: the rewards themselves are then the target.
    decay = 1.0 if only_critic else ppo.gae_lambda
    critic.normalize_by(drive.critic_obs)
    with torch.no_grad():
        values = critic(drive.critic_obs)
    advantage = advantages(drive.rewards, values, drive.dones, ppo.gamma, decay)
    return advantage, advantage + values[:-1]


def advantages(
    rewards: Tensor, values: Tensor, dones: Tensor, gamma: float, decay: float
) -> Tensor:
    """Return generalised advantage estimates (T, N) (Schulman et al. 2016).

    Args:
        rewards: Rewards, (T, N).
        values: Of the states before every step and after the last, (T + 1, N).
        dones: Whether the episode ended with the step, (T, N); nothing comes after it.
        gamma: Discount.
        decay: 0 leans on the values, 1 on the rewards.
    """
    found, coming = torch.empty_like(rewards), torch.zeros_like(rewards[0])
    for t in range(len(rewards) - 1, -1, -1):
        goes_on = (~dones[t]).float()
        surprise = rewards[t] + gamma * goes_on * values[t + 1] - values[t]
        found[t] = coming = surprise + gamma * decay * goes_on * coming
    return found


def moves(new: WindowBatch, old: WindowBatch, ppo: PPOConfig) -> Tensor:
    """Return how far the commands (B, 25, 2) moved, in standard deviations of what is drawn anew."""
    fresh = math.sqrt(1.0 - ppo.keep**2)
    true = new.given["speed"][..., 0]
    speed = torch.as_tensor(sway_speed(true.cpu().numpy()), device=true.device)
    steer = (new.curvature - old.curvature) * speed**2 / (ppo.lateral * fresh)
    return torch.stack([steer, (new.pedal - old.pedal) / (ppo.pedal * fresh)], -1)


def counting(seen: WindowBatch, drive: Rollout) -> Tensor:
    """Return which frames (B, 25) have history enough: HISTORY frames, or all of their episode."""
    count = seen.known.cumsum(1)
    whole = seen.at[:, :1] <= drive.first[seen.at[:, -1], seen.rows][:, None]
    return seen.known & ((count >= HISTORY) | whole)


def _improve(
    network: PolicyNet,
    average: AveragedModel,
    optimizer: torch.optim.Optimizer,
    drive: Rollout,
    advantage: Tensor,
    ppo: PPOConfig,
    schedule: tuple[float, bool],
    generator: torch.Generator,
) -> dict[str, float]:
    """Take an iteration's gradient steps on the policy; return what is logged of them.

    ``schedule`` is the step size, and whether it rises to that over the iteration.
    """
    old = copy.deepcopy(network)
    advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-6)
    updates = max(1, round(ppo.epochs * advantage.numel() / (WINDOW * ppo.batch_size)))
    sums: dict[str, float] = {}
    done = 0
    for update in range(updates):
        rate, rising = schedule
        set_rate(optimizer, rate * (update + 1) / updates if rising else rate)
        ends, who = random_windows(drive, ppo.batch_size, generator)
        seen = window_batch(network, drive, ends, who)
        with torch.no_grad():
            before = window_batch(old, drive, ends, who)
        losses = policy_losses(seen, before, drive, advantage, ppo)
        if float(losses["kl"].detach()) > ppo.target_kl:
            break
        side = hindsight_losses(network, drive, seen, generator)
        loss = losses["policy"] + ppo.hindsight * sum(SCALE[k] * v for k, v in side.items())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        average.update_parameters(network)
        done += 1
        for name, value in (losses | side).items():
            sums[name] = sums.get(name, 0.0) + float(value.detach())
    found = {f"loss/{name}": value / max(done, 1) for name, value in sums.items()}
    return found | {"ppo/kl": float(losses["kl"].detach()), "ppo/updates": float(done)}


def policy_losses(
    seen: WindowBatch, before: WindowBatch, drive: Rollout, advantage: Tensor, ppo: PPOConfig
) -> dict[str, Tensor]:
    """Return PPO's loss over the frames of windows, the divergence, and the share that is clipped.

    Args:
        seen: Windows and what the weights of now say, with gradient.
        before: The same windows with the weights of the drive.
        drive: What was driven.
        advantage: Normalised advantages, (T, N).
        ppo: Options.
    """
    who = seen.rows[:, None].expand_as(seen.at)
    mask = counting(seen, drive).float()
    mask = mask / mask.sum().clamp(min=1.0)
    moved, drawn = moves(seen, before, ppo), drive.chance[seen.at, who]
    divergence = 0.5 * (moved**2).sum(-1)
    ratio = torch.exp((drawn * moved).sum(-1) - divergence)
    value = advantage[seen.at, who]
    bounded = ratio.clamp(1 - ppo.clip, 1 + ppo.clip)
    gain = torch.minimum(ratio * value, bounded * value)
    return {
        "policy": -(mask * gain).sum(),
        "kl": (mask * divergence).sum(),
        "clipped": (mask * (ratio != bounded)).sum(),
    }


def _fit(
    critic: Critic,
    optimizer: torch.optim.Optimizer,
    seen: Tensor,
    targets: Tensor,
    epochs: int,
    generator: torch.Generator,
) -> float:
    """Fit the critic to the targets (T, N); return the loss of the last pass."""
    seen, targets = seen.flatten(0, 1), targets.flatten()
    loss = 0.0
    for _ in range(epochs):
        order = torch.randperm(len(targets), generator=generator)
        found = []
        for part in order.split(1024):
            error = (critic(seen[part]) - targets[part]) / RETURN_SCALE
            step = (error**2).mean()
            optimizer.zero_grad(set_to_none=True)
            step.backward()
            nn.utils.clip_grad_norm_(critic.parameters(), 0.5)
            optimizer.step()
            found.append(float(step.detach()))
        loss = float(np.mean(found))
    return loss


def check_ppo(config: ImitationConfig, ppo: PPOConfig) -> int:
    """Return the number of iterations.

    Raises:
        InputError: An option is out of range.
    """
    check_shared(config)
    for name in ("num_envs", "batch_size", "critic_epochs"):
        if getattr(ppo, name) < 1:
            raise InputError(f"ppo.{name}={getattr(ppo, name)} must be at least 1")
    for name in ("epochs", "learning_rate", "lateral", "pedal", "clip", "target_kl", "critic_rate"):
        if not getattr(ppo, name) > 0:
            raise InputError(f"ppo.{name}={getattr(ppo, name)} must be positive")
    if not 0 <= ppo.keep < 1:
        raise InputError(f"ppo.keep={ppo.keep} must be in [0, 1)")
    if not 0 <= ppo.gae_lambda <= 1:
        raise InputError(f"ppo.gae_lambda={ppo.gae_lambda} must be in [0, 1]")
    if ppo.hindsight < 0 or ppo.critic_first < 0:
        raise InputError("ppo.hindsight and ppo.critic_first must be at least 0")
    iterations = config.total_steps // (ppo.num_envs * ppo.steps)
    if iterations < 1:
        raise InputError(
            f"total_steps={config.total_steps} is less than one iteration of ppo.num_envs * ppo.steps "
            f"= {ppo.num_envs * ppo.steps}; raise it"
        )
    if ppo.critic_first >= iterations:
        raise InputError(
            f"ppo.critic_first={ppo.critic_first} leaves none of {iterations} iterations for the policy; "
            "raise total_steps"
        )
    # Range of alpha, soften, gamma and steps: the wrapper and the task say what is wrong with them.
    make_driver_env(1, ppo.steps, "Disabled", ppo.gamma, alpha=ppo.alpha, soften=ppo.soften)
    return iterations
