"""Measure steps per second of KinematicDriver-v0 against highway-env's lane-keeping-v0.

The runs use random actions, default noise, full observation, reward and automatic reset. The two tasks
alternate; the table gives the median of each. The peer is optional: pip install highway-env.

Example:
  steerlab benchmark-kinematic-driver seconds=10 repeats=5
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from tqdm.auto import tqdm

from steerlab.errors import InputError
from steerlab.options import option
from steerlab.study import study


@dataclass(frozen=True)
class Config:
    """Options of the study."""

    sizes: tuple[int, ...] = option((1024, 16384), "numbers of environments")
    cuda_sizes: tuple[int, ...] = option(
        (16384, 65536, 262144),
        "numbers of environments of the torch version, if there is a CUDA GPU",
    )
    seconds: float = option(10.0, "length of a run, s")
    repeats: int = option(5, "runs of each task")
    peer: bool = option(True, "also run highway-env")


def run(config: Config, output: Path | None) -> dict[str, float]:
    """Measure and print; return the median steps per second by runner."""
    runners: dict[str, Callable[[float], float]] = {}
    if config.peer:
        runners["highway-env lane-keeping-v0"] = highway()
    for size in config.sizes:
        runners[f"KinematicDriver-v0, N = {size}"] = native(size)
    if torch.cuda.is_available():
        for size in config.cuda_sizes:
            runners[f"torch on {torch.cuda.get_device_name()}, N = {size}"] = resident(size)
    speeds: dict[str, list[float]] = {name: [] for name in runners}
    with tqdm(total=config.repeats * len(runners), unit="run") as bar:
        for _ in range(config.repeats):
            for name, runner in runners.items():
                speeds[name].append(runner(config.seconds))
                bar.update()
    medians = {name: float(np.median(values)) for name, values in speeds.items()}
    table = Table("runner", "steps/s", "lowest", "highest", "x peer", header_style="bold")
    peer = next(iter(medians.values())) if config.peer else float("nan")
    for name, values in speeds.items():
        middle = medians[name]
        table.add_row(
            name, f"{middle:,.0f}", f"{min(values):,.0f}", f"{max(values):,.0f}",
            f"{middle / peer:.1f}",
        )  # fmt: skip
    Console().print(table)
    return medians


def highway() -> Callable[[float], float]:
    """Return a runner of the peer."""
    try:
        import highway_env
    except ImportError as error:
        raise InputError("the peer is missing: pip install highway-env, or peer=false") from error
    gym.register_envs(highway_env)
    env = gym.make("lane-keeping-v0")
    env.action_space.seed(0)
    env.reset(seed=0)
    actions = [env.action_space.sample() for _ in range(256)]

    def measure(seconds: float) -> float:
        count, start = 0, time.perf_counter()
        while time.perf_counter() - start < seconds:
            _, _, terminated, truncated, _ = env.step(actions[count % 256])
            if terminated or truncated:
                env.reset()
            count += 1
        return count / (time.perf_counter() - start)

    measure(0.2)
    return measure


def native(size: int) -> Callable[[float], float]:
    """Return a runner of the numpy environment."""
    env = gym.make_vec("KinematicDriver-v0", num_envs=size)
    env.reset(seed=0)
    actions = np.random.default_rng(0).uniform(-1, 1, (32, size, 2)).astype(np.float32)

    def measure(seconds: float) -> float:
        count, start = 0, time.perf_counter()
        while time.perf_counter() - start < seconds:
            env.step(actions[count % 32])
            count += 1
        return count * size / (time.perf_counter() - start)

    measure(2.0)  # until episodes end at different times
    return measure


def resident(size: int) -> Callable[[float], float]:
    """Return a runner of the torch environment on the GPU."""
    from steerlab.envs.kinematic_driver.torch_env import KinematicDriverTorchEnv

    env = KinematicDriverTorchEnv(size, device="cuda")
    env.reset(seed=0)
    actions = 2 * torch.rand(32, size, 2, device="cuda") - 1

    def measure(seconds: float) -> float:
        torch.cuda.synchronize()
        count, start = 0, time.perf_counter()
        while time.perf_counter() - start < seconds:
            for _ in range(10):
                env.step(actions[count % 32])
                count += 1
            torch.cuda.synchronize()
        return count * size / (time.perf_counter() - start)

    measure(2.0)
    return measure


main = study(Config, run, folder=False)

if __name__ == "__main__":
    main()
