"""Time the pendulum: the batched task against MuJoCo, and pi0 and pi0-FAST per chunk.

Prints steps per second of the native vector task and of gymnasium's SyncVectorEnv over MuJoCo's
InvertedPendulum-v5, which alternate, and the largest difference between the two dynamics over
1,000 starts. With pi0= and pi0_fast= it also exports both samplers to ONNX and times a chunk in torch
and in onnxruntime. MuJoCo is optional: pip install "steerlab[mujoco]".
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import SyncVectorEnv
from rich.console import Console
from rich.table import Table

from steerlab.agents.classical.pendulum import StateFeedback
from steerlab.agents.inverted_pendulum.sampling import Sampling, members_of, randomness, sampler_of
from steerlab.agents.pi0.model import Pi0
from steerlab.agents.pi0_fast.model import Pi0Fast
from steerlab.envs.inverted_pendulum.dynamics import PendulumParameters, step
from steerlab.envs.inverted_pendulum.env import InvertedPendulumVectorEnv
from steerlab.envs.inverted_pendulum.mujoco import make_mujoco
from steerlab.errors import InputError
from steerlab.exporters.chunk_policy import export_sampler
from steerlab.files import write_json
from steerlab.openpilot.engines import session
from steerlab.options import option
from steerlab.study import study


@dataclass(frozen=True)
class Config(Sampling):
    """Options of the benchmark."""

    rows: int = option(256, "environments in the batch")
    seconds: float = option(3.0, "time of each measurement, s; the best of five counts")
    starts: int = option(1000, "starts of the comparison with MuJoCo; 0 = leave MuJoCo out")
    threads: int = option(1, "threads of torch and onnxruntime")


def run(config: Config, output: Path) -> dict[str, Any]:
    """Measure, print, and write results.json and the exported models."""
    for name, least in (("rows", 1), ("threads", 1), ("longest", 1), ("starts", 0)):
        if getattr(config, name) < least:
            raise InputError(f"{name}={getattr(config, name)} must be at least {least}")
    torch.set_num_threads(config.threads)
    results: dict[str, Any] = environments(config)
    if config.starts:
        results["parity"] = parity(config.starts)
    table = Table("quantity", "value", title=f"{config.rows} environments, one process")
    for name, value in results.items():
        table.add_row(name, f"{value:,.0f}" if value > 1000 else f"{value:.3g}")
    console = Console()
    console.print(table)
    chunks = Table("model", "runtime", "batch", "ms a chunk (median)", title="latency")
    for kind, members in members_of(config, torch.device("cpu")).items():
        name, model = next(iter(members.items()))
        for (runtime, batch), value in latencies(model, output / f"{name}.onnx", config).items():
            results[f"{kind}, {runtime}, batch {batch}, ms"] = value
            chunks.add_row(kind, runtime, str(batch), f"{value:.2f}")
    if chunks.row_count:
        console.print(chunks)
    write_json(output / "results.json", results)
    return results


def environments(config: Config) -> dict[str, float]:
    """Return the steps a second of both, taking turns, and their ratio."""
    ours: Any = InvertedPendulumVectorEnv(config.rows)
    envs: dict[str, Any] = {"native, steps/s": ours}
    if config.starts:
        make: Callable[[], gym.Env[Any, Any]] = make_mujoco
        envs["MuJoCo SyncVectorEnv, steps/s"] = SyncVectorEnv([make] * config.rows)
    rng = np.random.default_rng(0)
    actions = rng.uniform(-3, 3, (64, config.rows, 1)).astype(np.float32)
    for env in envs.values():
        env.reset(seed=0)
    rates = dict.fromkeys(envs, 0.0)
    for _ in range(5):
        for name, env in envs.items():
            count, start = 0, time.perf_counter()
            while time.perf_counter() - start < config.seconds / 5:
                env.step(actions[count % 64])
                count += 1
            rate = count * config.rows / (time.perf_counter() - start)
            rates[name] = max(rates[name], rate)
    if config.starts:
        first, second = rates.values()
        rates["ratio"] = first / second
    return rates


def parity(starts: int) -> float:
    """Return the largest difference of any state to MuJoCo's: LQR plus noise, 50 steps."""
    env = make_mujoco()
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    states = rng.uniform(-0.5, 0.5, (starts, 4))
    noise = rng.uniform(-0.05, 0.05, (50, starts))
    feedback, c = StateFeedback(), PendulumParameters().coefficients()
    actions = np.empty((50, starts), np.float32)
    ours = np.empty((51, starts, 4))
    ours[0] = states
    for k in range(50):
        actions[k] = np.clip(feedback(ours[k]) + noise[k], -3, 3)
        ours[k + 1] = step(ours[k], actions[k].astype(np.float64), c)
    worst = 0.0
    for row in range(starts):
        env.set_state(states[row, :2], states[row, 2:])
        for k in range(50):
            theirs = env.step(actions[k, row : row + 1])[0]
            worst = max(worst, float(np.abs(theirs - ours[k + 1, row]).max()))
    return worst


def latencies(model: Pi0 | Pi0Fast, path: Path, config: Config) -> dict[tuple[str, int], float]:
    """Export a model; return milliseconds a chunk by runtime and batch."""
    policy = sampler_of(model, config)
    rng = np.random.default_rng(config.seed)
    export_sampler(policy, path, rng)
    runtime = session(path, config.threads)
    found = {}
    for batch in (1, 256):
        state = torch.as_tensor(rng.uniform(-0.2, 0.2, (batch, 4)), dtype=torch.float32)
        noise = randomness(policy, batch, rng)
        feeds = {"state": state.numpy(), "noise": noise.numpy()}
        with torch.inference_mode():
            found["torch", batch] = _milliseconds(lambda s=state, n=noise: policy(s, n))  # type: ignore[misc]
        found["onnxruntime", batch] = _milliseconds(lambda f=feeds: runtime.run(None, f))  # type: ignore[misc]
    return found


def _milliseconds(call: Callable[[], Any], budget: float = 3.0) -> float:
    """Return the median time of a call."""
    for _ in range(3):
        call()
    times: list[float] = []
    while sum(times) < budget and len(times) < 300:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return 1000 * float(np.median(times))


main = study(Config, run)
