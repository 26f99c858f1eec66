"""Train stable-baselines3's PPO on TinyPhysics-v0 and compare it with PID.

The task runs natively batched through the stable-baselines3 adapter, with fresh noise in every
episode. A checkpoint is written after every iteration: stop with Ctrl-C, and the same command with
the same output= continues with the numbers of an uninterrupted run. At the end the policy drives
every segment with the official noise, and its return is compared with the official cost.

Examples:
  steerlab train-tinyphysics-ppo
  steerlab train-tinyphysics-ppo plant=comma segments=comma runtime=fast total_steps=2000000
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecNormalize

from steerlab.agents.classical.comma import controller_factory
from steerlab.agents.sb3 import train_sb3
from steerlab.agents.tinyphysics.ppo import PPOOptions, check, make_episodes, make_ppo
from steerlab.devices import torch_device
from steerlab.envs.tinyphysics.dynamics import STEPS
from steerlab.envs.tinyphysics.reward import Costs, official_costs
from steerlab.envs.tinyphysics.rollout import evaluate
from steerlab.options import option
from steerlab.study import study
from steerlab.surrogates.plants.base import Plant
from steerlab.surrogates.plants.load import load_plant
from steerlab.surrogates.segments.data import Segments
from steerlab.surrogates.segments.synthetic import find_segments


@dataclass(frozen=True)
class Config(PPOOptions):
    """Options of the study."""

    plant: str = option("default", "default, comma, or an ONNX file with comma's signature")
    segments: str = option("default", "default, comma, or a folder or zip of comma CSVs")
    num_segments: int = option(0, "number of segments, the first ones; 0 = all")
    runtime: str = option("fast", "exact, fast (last position only) or torch")
    hidden: int = option(64, "units in each of the two layers of actor and critic")
    seed: int = option(0, "seed of weights, episodes and exploration")
    device: str = option("cpu", "auto, cpu or cuda; PPO with a small network is fastest on the CPU")


def run(config: Config, output: Path) -> dict[str, float]:
    """Train or go on training, then evaluate; return the mean total costs."""
    check(config)
    segments = find_segments(config.segments, config.num_segments)
    plant = load_plant(config.plant, config.runtime)
    model = make_ppo(
        "MlpPolicy",
        VecNormalize(make_episodes(config, plant, segments), gamma=config.gamma),
        config,
        config.seed,
        {"net_arch": [config.hidden, config.hidden], "activation_fn": torch.nn.ReLU},
        device=torch_device(config.device),
    )
    train_sb3(model, output, config.total_steps, asdict(config), seed=config.seed)
    costs, returns = drive(model, plant, segments)
    gap = float(np.max(np.abs(returns + costs.total_cost) / costs.total_cost))
    results = {"ppo": float(costs.total_cost.mean())}
    table = Table("", *costs._fields, title="mean costs, official noise", header_style="bold")
    table.add_row("ppo", *(f"{values.mean():.2f}" for values in costs))
    for name in ("pid", "zero"):
        other = evaluate(controller_factory(name), segments, plant).costs
        results[name] = float(other.total_cost.mean())
        table.add_row(name, *(f"{values.mean():.2f}" for values in other))
    console = Console()
    console.print(table)
    console.print(
        f"largest relative difference of return and minus cost: {gap:.1e}\n"
        f"curves: tensorboard --logdir {output}"
    )
    return results | {"gap": gap}


def drive(model: PPO, plant: Plant, segments: Segments) -> tuple[Costs, np.ndarray[Any, Any]]:
    """Drive every segment once with the mean action; return costs and returns (S,)."""
    count = len(segments)
    env: Any = gym.make_vec(
        "TinyPhysics-v0",
        num_envs=count,
        plant=plant,
        segments=segments,
        autoreset_mode="Disabled",
    )
    normalizer = model.get_vec_normalize_env()
    assert normalizer is not None
    observations, _ = env.reset(options={"segment": list(segments.names)})
    returns = np.zeros(count)
    for _ in range(STEPS):
        actions, _ = model.predict(normalizer.normalize_obs(observations), deterministic=True)
        observations, rewards, *_ = env.step(actions)
        returns += rewards
    simulator = env.unwrapped.simulator
    return official_costs(simulator.targets(), simulator.lataccel), returns


main = study(Config, run, resumes=True)

if __name__ == "__main__":
    main()
