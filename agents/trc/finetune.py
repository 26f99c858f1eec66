"""Fine-tuning of a planner for a reward, by its gradient or by PPO."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor, nn

from steerlab.agents.checkpoint import save_checkpoint
from steerlab.agents.sb3 import train_sb3
from steerlab.agents.supervised import KIND, Batch, FitConfig, TensorData, fit
from steerlab.agents.training_loop import BEST
from steerlab.agents.trc.model import Planner
from steerlab.agents.trc.reward import PlanReward, Reward, check_differentiable
from steerlab.devices import torch_device
from steerlab.envs.tracking.problem import TrackingProblem
from steerlab.envs.tracking.problems import dump_problem
from steerlab.errors import InputError
from steerlab.options import option
from steerlab.seeds import episode_seed, unchanged_generators


@dataclass(frozen=True)
class GradientConfig(FitConfig):
    """Options of :func:`tune_by_gradient`."""

    epochs: int = option(20, "passes over the cases")
    batch_size: int = option(128, "cases in each gradient step")
    learning_rate: float = option(1e-4, "largest step size of AdamW")
    supervision: float = option(0.3, "weight of every plan before the last; 0 = only the last")


@dataclass(frozen=True)
class PlanPPOConfig:
    """Options of :func:`tune_by_ppo`."""

    total_plans: int = option(200_000, "plans that are tried in all")
    num_envs: int = option(512, "parallel environments, each with one plan")
    rounds: int = option(4, "plans of each environment in an iteration")
    batch_size: int = option(512, "plans in each gradient step")
    epochs: int = option(4, "passes over the plans of an iteration")
    learning_rate: float = option(1e-4, "learning rate of Adam")
    exploration: float = option(
        0.05, "standard deviation of the plans that are tried, in well-conditioned coordinates"
    )
    target_kl: float = option(0.02, "KL divergence after which an iteration ends")


def cases_from(problem: TrackingProblem, count: int, seed: int, device: Any) -> tuple[Tensor, ...]:
    """Return random starts and targets, each (count, 2), as float32 tensors."""
    drawn = problem.sample(np.random.default_rng(seed), count)
    initial, targets = (torch.tensor(a, dtype=torch.float32, device=device) for a in drawn)
    return initial, targets


def tune_by_gradient(
    model: Planner,
    reward: Reward,
    config: GradientConfig,
    output: str | Path,
    *,
    cases: int = 10_000,
    name: str = "reward",
) -> None:
    """Raise the mean reward of a planner's plans along its gradient, in the shared loop.

    The loss is the mean of what the plans lose to those of the network of now, in units of what these
    are worth, so that rewards of any size take the same learning rate. ``best.pt`` is a planner's
    checkpoint. The model keeps the best weights.

    Args:
        model: The planner; it is changed.
        reward: Differentiable in states and controls; see :data:`~steerlab.agents.trc.reward.Reward`.
        config: Options.
        output: Folder of the results; an interrupted run goes on there.
        cases: Cases to learn from; a tenth as many are held out to choose the best epoch.
        name: What messages call the reward.

    Raises:
        InputError: An option is out of range, or the reward is no such function.
    """
    device = torch_device(config.device)
    model.to(device)
    first = PlanReward(deepcopy(model), reward, name)
    parts: list[TensorData] = []
    scale = 1.0
    for stream, count in (("training", cases), ("validation", max(cases // 10, 1))):
        drawn = cases_from(model.problem, count, episode_seed(stream, config.seed, 0, 1), device)
        worth = first.of_planner(*drawn)
        if not parts:
            check_differentiable(first, *(t[:4] for t in drawn))
            scale = _scale(worth)
        parts.append(TensorData(initial=drawn[0], targets=drawn[1], worth=worth))

    def loss(network: nn.Module, batch: Batch, rng: torch.Generator) -> Batch:
        assert isinstance(network, Planner)
        own = PlanReward(network, reward, name)
        lost = [
            ((batch["worth"] - own(batch["initial"], batch["targets"], plan)) / scale).mean()
            for plan in own.plans(batch["initial"], batch["targets"])
        ]
        before = config.supervision * sum(lost[:-1], torch.zeros_like(lost[-1]))
        return {"loss": lost[-1] + before if network.training else lost[-1]}

    fit(model, loss, parts[0], parts[1], config, output, describe=describe(model))


def tune_by_ppo(
    model: Planner,
    reward: Reward,
    config: PlanPPOConfig,
    output: str | Path,
    *,
    seed: int = 0,
    device: str = "auto",
    name: str = "reward",
) -> None:
    """Raise the mean reward of a planner's plans by stable-baselines3's PPO.

    An episode is one plan: the action is a whole plan, normally distributed around that of the network
    in well-conditioned coordinates, and the reward is its gain over the
    plan of the first network for the same case. The reward need not be differentiable. ``best.pt``,
    a planner's checkpoint, has the weights that were best on 500 validation cases, those of the
    beginning included. The model keeps them.

    Args:
        model: The planner; it is changed.
        reward: See :data:`~steerlab.agents.trc.reward.Reward`.
        config: Options.
        output: Folder of the results; an interrupted run goes on there.
        seed: Of cases and exploration.
        device: Where torch computes.
        name: What messages call the reward.

    Raises:
        InputError: An option is out of range, or the reward is no such function.
    """
    _check_ppo(config)
    model.to(torch_device(device)).eval()
    best = _Best(PlanReward(model, reward, name), seed)
    rows = PlanEnv(PlanReward(deepcopy(model), reward, name), config.num_envs)
    learner = _learner(model, rows, config, seed)
    settings = asdict(config) | {"seed": seed}
    train_sb3(
        learner, output, config.total_plans, settings, seed=seed, figures=best.figures, also=best
    )
    model.load_state_dict(best.weights)
    contents = {"model": model.state_dict(), "describe": describe(model)}
    save_checkpoint(Path(output) / BEST, KIND, contents)


def _learner(model: Planner, rows: "PlanEnv", config: PlanPPOConfig, seed: int) -> PPO:
    """Return PPO whose actor is the planner; its critic is new."""
    with unchanged_generators():
        learner = PPO(
            "MlpPolicy",
            rows,
            n_steps=config.rounds,
            batch_size=config.batch_size,
            n_epochs=config.epochs,
            learning_rate=config.learning_rate,
            target_kl=config.target_kl,
            seed=seed,
            device=model.plant.forced.device,
            policy_kwargs={
                "net_arch": {"pi": [], "vf": [64, 64]},
                "log_std_init": float(np.log(config.exploration)),
            },
        )
    policy = learner.policy
    policy.action_net = _PlanMean(model)
    policy.optimizer = torch.optim.Adam(policy.parameters(), config.learning_rate, eps=1e-5)
    return learner


def describe(model: Planner) -> dict[str, Any]:
    """Return what a checkpoint says of a planner."""
    return {"problem": dump_problem(model.problem), "model": model.describe()}


class PlanEnv(VecEnv):
    """Episodes of one plan, for stable-baselines3.

    Observation (5,): initial state, target, steps that are left. Action (T,): a plan in parts
    of the limit and in well-conditioned coordinates, H^(1/2) u / limit, with H of the linearised plant.

    Args:
        first: Reward of the network of the beginning, whose plans are the measure.
        num_envs: Rows.
    """

    def __init__(self, first: PlanReward, num_envs: int) -> None:
        self.first, problem = first, first.planner.problem
        box = gym.spaces.Box(-np.inf, np.inf, (5,), np.float32)
        # stable-baselines3 wants finite bounds; those of the plan itself are kept in step_wait.
        actions = gym.spaces.Box(-1e6, 1e6, (problem.steps,), np.float32)
        super().__init__(num_envs, box, actions)
        self.rng = np.random.default_rng(0)
        drawn = cases_from(problem, 1000, 0, first.planner.plant.forced.device)
        self.scale = _scale(first.of_planner(*drawn))

    def reset(self) -> NDArray[Any]:
        """Draw a case for each row."""
        seeds = [s for s in self._seeds if s is not None]
        if seeds:
            self.rng = np.random.default_rng(seeds[0])
            self._reset_seeds()
        problem = self.first.planner.problem
        drawn = problem.sample(self.rng, self.num_envs)
        left = np.full((self.num_envs, 1), problem.steps)
        device = self.first.planner.plant.forced.device
        self.cases = [torch.tensor(a, dtype=torch.float32, device=device) for a in drawn]
        self.worth = self.first.of_planner(*self.cases)
        return np.concatenate([*drawn, left], axis=1).astype(np.float32)

    def step_async(self, actions: NDArray[Any]) -> None:
        """Keep the actions for :meth:`step_wait`."""
        self.actions = actions

    @torch.no_grad()
    def step_wait(self) -> tuple[Any, NDArray[Any], NDArray[Any], list[dict[str, Any]]]:
        """Pay the plans and draw new cases."""
        planner = self.first.planner
        action = torch.as_tensor(
            self.actions, dtype=torch.float32, device=planner.plant.whitening.device
        )
        plans = planner.problem.clip(planner.problem.limit * action @ planner.plant.whitening)
        gained = (self.first(self.cases[0], self.cases[1], plans) - self.worth) / self.scale
        done = np.ones(self.num_envs, dtype=bool)
        return self.reset(), gained.cpu().numpy(), done, [{} for _ in done]

    def close(self) -> None:
        """Do nothing."""

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """Return an attribute once for each row asked for."""
        return [getattr(self, attr_name, None) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Set an attribute of all rows."""
        setattr(self, attr_name, value)

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> Any:
        """Call a method, once for each row asked for."""
        return [getattr(self, method_name)(*args, **kwargs) for _ in self._get_indices(indices)]

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        """Tell that no row is wrapped."""
        return [False for _ in self._get_indices(indices)]


class _PlanMean(nn.Module):
    """The planner as the mean of PPO's actions: its plan in well-conditioned coordinates."""

    inverse: Tensor

    def __init__(self, planner: Planner) -> None:
        super().__init__()
        self.planner = planner
        inverse = torch.linalg.inv(planner.plant.whitening.double())
        self.register_buffer("inverse", inverse.to(planner.plant.whitening), persistent=False)

    def forward(self, seen: Tensor) -> Tensor:
        plans = self.planner(seen[:, :2], seen[:, 2:4], seen[:, 4])[..., 0]
        return plans @ self.inverse / self.planner.problem.limit


class _Best:
    """The weights with the highest reward on validation cases, as a part of a training."""

    def __init__(self, reward: PlanReward, seed: int) -> None:
        device = reward.planner.plant.forced.device
        self.reward = reward
        self.cases = cases_from(
            reward.planner.problem, 500, episode_seed("validation", seed, 0, 1), device
        )
        self.value, self.weights = -np.inf, dict[str, Tensor]()
        self.figures(0.0)

    def figures(self, share: float) -> Mapping[str, float]:
        """Hold the network of now to the best so far."""
        now = float(self.reward.of_planner(*self.cases).mean())
        if now > self.value:
            kept = self.reward.planner.state_dict()
            self.value, self.weights = now, {k: v.detach().clone() for k, v in kept.items()}
        return {"valid/reward": now, "valid/best": self.value}

    def state_dict(self) -> dict[str, Any]:
        return {"value": self.value, "weights": self.weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.value, self.weights = state["value"], state["weights"]


def _scale(worth: Tensor) -> float:
    """Return the size of rewards."""
    return max(float(worth.abs().mean()), 1e-6)


def _check_ppo(config: PlanPPOConfig) -> None:
    for key in ("num_envs", "rounds", "batch_size", "epochs"):
        if getattr(config, key) < 1:
            raise InputError(f"{key}={getattr(config, key)} must be at least 1")
    for key in ("learning_rate", "exploration", "target_kl"):
        if not getattr(config, key) > 0:
            raise InputError(f"{key}={getattr(config, key)} must be positive")
    iteration = config.num_envs * config.rounds
    if iteration < 2 or config.total_plans < iteration:
        raise InputError(
            f"total_plans={config.total_plans} must be at least one iteration, num_envs * rounds = "
            f"{iteration} plans, and that at least 2"
        )
