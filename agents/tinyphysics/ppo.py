"""PPO on TinyPhysics-v0, and the recipe by PPO with the policy of the other recipes as its actor.

The actor's steer is the mean of a normal density, whose deviation is learned; a critic of its own sees
the same observation. Episodes run natively batched, with fresh noise in each.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3 import PPO
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecNormalize
from torch import Tensor, nn

from steerlab.agents.sb3 import train_sb3
from steerlab.agents.tinyphysics.model import STEER_PER_LATACCEL, Observation, PreviewPolicy
from steerlab.agents.tinyphysics.recipe import Bench, Trained
from steerlab.envs.sb3 import make_sb3_vec
from steerlab.envs.tinyphysics.dynamics import STEPS, Simulator
from steerlab.envs.tinyphysics.env import OBSERVATION
from steerlab.errors import InputError
from steerlab.options import option
from steerlab.seeds import unchanged_generators
from steerlab.surrogates.plants.base import CONTEXT, Plant
from steerlab.surrogates.plants.load import load_plant
from steerlab.surrogates.segments.data import CONTROL_START, Segments


@dataclass(frozen=True)
class PPOOptions:
    """Options of :func:`make_ppo`."""

    total_steps: int = option(400_000, "control steps in all")
    num_envs: int = option(16, "parallel environments; each drives one episode in an iteration")
    batch_size: int = option(800, "steps in each gradient step")
    epochs: int = option(10, "passes over the steps of an iteration")
    learning_rate: float = option(1e-3, "learning rate at the start; falls linearly to zero")
    gamma: float = option(0.95, "discount factor")
    gae_lambda: float = option(0.9, "decay of the advantage estimate")
    log_std: float = option(-2.0, "logarithm of the steer's standard deviation at the start")


@dataclass(frozen=True)
class PPOConfig(PPOOptions):
    """Options of :func:`train_by_ppo`."""

    total_steps: int = option(1_000_000, "control steps in all")
    num_envs: int = option(32, "parallel environments; each drives one episode in an iteration")
    batch_size: int = option(1600, "steps in each gradient step")
    epochs: int = option(5, "passes over the steps of an iteration")
    learning_rate: float = option(3e-4, "learning rate at the start; falls linearly to zero")
    log_std: float = option(-3.5, "logarithm of the steer's standard deviation at the start")
    target_kl: float = option(
        0.03, "KL divergence from the policy that drove, after which an iteration ends"
    )
    critic: int = option(128, "width of the critic's two hidden layers")


def train_by_ppo(bench: Bench, config: PPOConfig, output: Path) -> Trained:
    """Return the policy after the last iteration.

    Raises:
        InputError: An option is out of range.
    """
    check(config, "ppo.")
    if config.critic < 1:
        raise InputError(f"ppo.critic={config.critic} must be at least 1")
    venv = make_episodes(config, load_plant(bench.plant, "fast"), bench.train)
    model = make_ppo(
        PreviewActorCritic,
        VecNormalize(NotedSteers(venv), norm_obs=False, gamma=config.gamma),
        config,
        bench.seed,
        {"make_actor": bench.first_policy, "critic": config.critic},
        target_kl=config.target_kl,
    )
    settings = {**asdict(config), **asdict(bench.shape), "seed": bench.seed}
    train_sb3(model, output, config.total_steps, settings, seed=bench.seed)
    actor: Any = model.policy.action_net
    return Trained([actor.policy.requires_grad_(False)], model.num_timesteps)


def make_episodes(options: PPOOptions, plant: Plant, routes: Segments) -> VecEnv:
    """Return the task natively batched, with a random route and fresh noise in every episode."""
    return make_sb3_vec(
        "TinyPhysics-v0", options.num_envs, plant=plant, segments=routes, seeds="random"
    )


def make_ppo(
    policy: str | type[ActorCriticPolicy],
    env: VecEnv,
    options: PPOOptions,
    seed: int,
    policy_kwargs: Mapping[str, Any],
    device: torch.device | str = "cpu",
    target_kl: float | None = None,
) -> PPO:
    """Return stable-baselines3's PPO, untrained, whose iteration is one whole episode of every row."""
    with unchanged_generators():
        return PPO(
            policy,
            env,
            n_steps=STEPS,
            batch_size=options.batch_size,
            n_epochs=options.epochs,
            learning_rate=lambda left: options.learning_rate * left,
            gamma=options.gamma,
            gae_lambda=options.gae_lambda,
            target_kl=target_kl,
            seed=seed,
            device=device,
            policy_kwargs={**policy_kwargs, "log_std_init": options.log_std},
        )


class NotedSteers(VecEnvWrapper):
    """Puts the steers that a policy notes in the warm-up in the place of the logged ones.

    No controller is shown the logged steers, so a policy that learned from them would miss them.
    """

    def reset(self) -> Any:
        """Reset all rows."""
        return self._noted(self.venv.reset())

    def step_wait(self) -> Any:
        """Advance all rows by one step."""
        observations, *rest = self.venv.step_wait()
        return self._noted(observations), *rest

    def _noted(self, observations: Any) -> Any:
        return note_warmup(observations, self.venv.get_attr("simulator", [0])[0])


def note_warmup(observations: NDArray[np.float32], simulator: Simulator) -> NDArray[np.float32]:
    """Return the task's observations (N, 241) with other steers for the steps before control."""
    noted = OBSERVATION.split(observations)["past_steer"]
    for place in range(CONTEXT):
        time = simulator.time - CONTEXT + place
        rows = np.flatnonzero(time < CONTROL_START)
        if len(rows):
            target, state = simulator.road(time[rows], rows)
            noted[rows, place] = STEER_PER_LATACCEL * (target - state.roll_lataccel)
    return observations


def observed(flat: Tensor) -> Observation:
    """Return the observation of a policy from those of the task (N, 241)."""
    parts = OBSERVATION.split(flat)
    names = (("target", "lataccel"), *((n, n) for n in ("roll_lataccel", "v_ego", "a_ego")))
    signals = [torch.cat([parts[now], parts[f"plan_{planned}"]], dim=1) for now, planned in names]
    return Observation(torch.stack(signals, dim=-1), parts["past_steer"], parts["past_lataccel"])


class PreviewActorCritic(ActorCriticPolicy):
    """A stable-baselines3 policy whose actor is a :class:`PreviewPolicy`.

    Args:
        args: Those of stable-baselines3.
        make_actor: Returns where the actor begins.
        critic: Units of the critic's two layers.
        kwargs: Those of stable-baselines3.
    """

    def __init__(
        self, *args: Any, make_actor: Callable[[], PreviewPolicy], critic: int, **kwargs: Any
    ) -> None:
        self._make_actor, self._critic = make_actor, critic
        super().__init__(*args, **kwargs)

    def _build_mlp_extractor(self) -> None:
        self.mlp_extractor: Any = _Sides(self._critic)

    def _build(self, lr_schedule: Any) -> None:
        super()._build(lr_schedule)
        self.action_net = _Actor(self._make_actor())
        make: Any = self.optimizer_class
        self.optimizer = make(self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)


class _Sides(nn.Module):
    """The actor gets the observation as it is, the value's last layer what the critic makes of it."""

    scale: Tensor

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.latent_dim_pi, self.latent_dim_vf = OBSERVATION.size, hidden
        scale = torch.ones(OBSERVATION.size)
        for name, values in OBSERVATION.split(scale[None]).items():
            values.fill_(20.0 if name.endswith("v_ego") else 1.0)
        self.register_buffer("scale", scale)
        self.critic = nn.Sequential(
            nn.Linear(OBSERVATION.size, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU()
        )

    def forward(self, seen: Tensor) -> tuple[Tensor, Tensor]:
        return self.forward_actor(seen), self.forward_critic(seen)

    def forward_actor(self, seen: Tensor) -> Tensor:
        return seen

    def forward_critic(self, seen: Tensor) -> Tensor:
        return self.critic(seen / self.scale)


class _Actor(nn.Module):
    """Means (N, 1) of the steer from the task's observations (N, 241)."""

    def __init__(self, policy: PreviewPolicy) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, seen: Tensor) -> Tensor:
        return self.policy(observed(seen))[:, None]


def check(options: PPOOptions, group: str = "") -> None:
    """Check the options.

    Args:
        options: What is checked.
        group: Stands before the names of the options in a message.

    Raises:
        InputError: One is out of range.
    """
    for name in ("num_envs", "batch_size", "epochs"):
        if getattr(options, name) < 1:
            raise InputError(f"{group}{name}={getattr(options, name)} must be at least 1")
    if options.total_steps < options.num_envs * STEPS:
        raise InputError(
            f"{group}total_steps={options.total_steps} is less than one iteration of "
            f"{group}num_envs={options.num_envs} episodes ({options.num_envs * STEPS} steps); "
            "raise it"
        )
    if options.learning_rate <= 0:
        raise InputError(f"{group}learning_rate={options.learning_rate} must be positive")
