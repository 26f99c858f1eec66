"""Measure RecurrentPPO with whole sequences against sb3-contrib's own policy.

Both policies are trained in the same run on the same seeds, in alternation: 8 environments, LSTM 256,
128 steps, minibatches of 128. The table gives the speed of the whole training, rollouts included, and
the last returns.

Example:
  steerlab benchmark-recurrent-ppo steps=8192 seeds=2
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from sb3_contrib import RecurrentPPO
from stable_baselines3.common.env_util import make_vec_env
from tqdm.auto import tqdm

from steerlab.agents.recurrent_ppo.policy import SequencePolicy
from steerlab.options import option
from steerlab.study import study

POLICIES: dict[str, tuple[Any, dict[str, Any]]] = {
    "sb3-contrib": ("MlpLstmPolicy", {}),
    "steerlab": (SequencePolicy, {}),
    "steerlab, GRU": (SequencePolicy, {"cell": "gru"}),
}


@dataclass(frozen=True)
class Config:
    """Options of the study."""

    tasks: tuple[str, ...] = option(("CartPole-v1", "Pendulum-v1"), "tasks to train on")
    steps: int = option(8192, "environment steps of each training")
    seeds: int = option(2, "trainings of each policy on each task")
    envs: int = option(8, "environments")
    hidden: int = option(256, "units of the LSTM")
    n_steps: int = option(128, "steps of each environment between updates")
    batch_size: int = option(128, "steps in a minibatch")
    threads: int = option(1, "threads of torch")


def run(config: Config, output: Path | None) -> dict[str, dict[str, float]]:
    """Train, print, and return steps per second by task and policy."""
    torch.set_num_threads(config.threads)
    speeds: dict[str, dict[str, float]] = {}
    table = Table("task", "policy", "steps/s", "x sb3-contrib", "last returns", header_style="bold")
    jobs = len(config.tasks) * config.seeds * len(POLICIES)
    with tqdm(total=jobs, unit="training") as bar:
        for task in config.tasks:
            seconds: dict[str, list[float]] = {name: [] for name in POLICIES}
            returns: dict[str, list[float]] = {name: [] for name in POLICIES}
            for seed in range(config.seeds):
                for name in POLICIES:
                    took, last = train(config, task, name, seed)
                    seconds[name].append(took)
                    returns[name].append(last)
                    bar.update()
            speeds[task] = {n: config.steps / float(np.median(s)) for n, s in seconds.items()}
            for name, speed in speeds[task].items():
                ratio = speed / speeds[task]["sb3-contrib"]
                shown = ", ".join(f"{r:.1f}" for r in returns[name])
                table.add_row(task, name, f"{speed:.0f}", f"{ratio:.2f}", shown)
    Console().print(table)
    return speeds


def train(config: Config, task: str, name: str, seed: int) -> tuple[float, float]:
    """Return the seconds of one training and the mean return of its last episodes."""
    policy, kwargs = POLICIES[name]
    model = RecurrentPPO(
        policy,
        make_vec_env(task, config.envs, seed=seed),
        n_steps=config.n_steps,
        batch_size=config.batch_size,
        seed=seed,
        policy_kwargs={"lstm_hidden_size": config.hidden, **kwargs},
        device="cpu",
    )
    start = time.perf_counter()
    model.learn(config.steps)
    took = time.perf_counter() - start
    return took, float(np.mean([e["r"] for e in model.ep_info_buffer or [{"r": np.nan}]]))


main = study(Config, run, folder=False)

if __name__ == "__main__":
    main()
