"""Export a network of every contract, verify and time it; compare RecurrentPPO's export with SB3.

The networks have random weights, because no trained policy is part of the package. The policies are a
layer-normalised, unrolled GRU over the feature history, the others small linear maps. For each the
study prints the checks that passed, the differences of torch, float16 and tinygrad from onnxruntime
(relative above 1), and the time of a run with one thread. It loads the pickles that it has made, each
in a separate process. Then a RecurrentPPO LSTM policy runs for 1,000 steps beside `model.predict`.

Examples:
  steerlab benchmark-export
  steerlab benchmark-export contracts=[openpilot-0.10.0] tinygrad=false
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from sb3_contrib import RecurrentPPO
from torch import nn
from tqdm.auto import tqdm

from steerlab.errors import InputError
from steerlab.exporters.openpilot import export_model
from steerlab.exporters.sample import SampleNetwork
from steerlab.exporters.sb3 import export_sb3
from steerlab.exporters.verify import PASS, Check, Options, failed, verify_export
from steerlab.openpilot.contracts import Contract, Model, contract, contract_ids
from steerlab.openpilot.engines import session
from steerlab.openpilot.in_graph import HistoryInGraph, Packed
from steerlab.options import option
from steerlab.study import study


@dataclass(frozen=True)
class Config:
    """Options of the study."""

    contracts: tuple[str, ...] = option((), "contracts to try; [] = all")
    gru: int = option(256, "units of the policies' GRU; 0 = none")
    tinygrad: bool = option(True, "compare with tinygrad and make its pickles (needs clang)")
    steps: int = option(1000, "steps that are compared with model.predict")
    lstm: int = option(256, "units of the RecurrentPPO policy's LSTM")


def run(config: Config, output: Path) -> dict[str, list[Check]]:
    """Export, verify, print both tables."""
    if config.steps < 1 or config.gru < 0 or config.lstm < 1:
        raise InputError("steps and lstm must be at least 1, gru at least 0")
    torch.set_num_threads(1)
    chosen = [contract(id) for id in config.contracts or contract_ids()]
    results: dict[str, list[Check]] = {}
    columns = ("network", "checks", "torch", "float16", "tinygrad", "pickle", "ms a run")
    table = Table(*columns, title="every contract, random weights", header_style="bold")
    pairs = [(c, name) for c in chosen for name in c.model_names]
    for c, name in tqdm(pairs, desc="export and verify"):
        checks = _one(config, c, name, output / c.id)
        results[f"{c.id} {name}"] = checks
        found = {r.name: (r.found if r.status == PASS else r.status) for r in checks}
        passed = f"{sum(r.status == PASS for r in checks)}/{len(checks)}"
        if failed(checks):
            passed += f", FAIL: {', '.join(r.name for r in failed(checks))}"
        table.add_row(
            f"{c.id.removeprefix('openpilot-')}\n  {name.removeprefix('driving_')}",
            passed,
            found["torch parity"].partition(" ")[0],
            found["float16"].removeprefix("finite, differs by "),
            found["tinygrad"].partition(" ")[0],
            found["tinygrad pickle"].partition(" ")[0],
            found["latency"].removeprefix("median ").partition(" ")[0],
        )
    console = Console()
    console.print(table)
    difference, ours, theirs = beside_predict(config.steps, config.lstm, output)
    console.print(
        f"RecurrentPPO, LSTM {config.lstm}, {config.steps} steps: largest difference to "
        f"model.predict {difference:.1e}; {1e3 * ours:.3f} ms a step in onnxruntime, "
        f"{1e3 * theirs:.3f} ms in model.predict ({theirs / ours:.1f}x)"
    )
    return results


def _one(config: Config, c: Contract, name: str, folder: Path) -> list[Check]:
    model = c.model(name)
    done = export_model(_network(model, config.gru), c, model, folder, tinygrad=config.tinygrad)
    options = Options(tinygrad=config.tinygrad, trust_pickle=True)  # made a moment ago
    return verify_export(done.onnx, c, name, options)


def _network(model: Model, gru: int) -> nn.Module:
    if not model.states:
        return SampleNetwork(model, gru=gru)
    inner = contract("openpilot-supercombo-2026-06").model(model.name)
    return HistoryInGraph(Packed(SampleNetwork(inner), inner), inner.slices["hidden_state"])


def beside_predict(steps: int, lstm: int, folder: Path) -> tuple[float, float, float]:
    """Return the largest difference of actions, and seconds a step of ours and of SB3's."""
    env = gym.make("Pendulum-v1")
    model = RecurrentPPO(
        "MlpLstmPolicy", env, policy_kwargs={"lstm_hidden_size": lstm}, device="cpu", seed=0
    )
    policy: Any = model.policy
    with torch.no_grad():
        for weights in policy.lstm_actor.parameters():
            weights.mul_(2.0)  # a fresh policy acts nearly as zero
        policy.action_net.weight.mul_(100.0)
    actor = export_sb3(model, folder / "recurrent_ppo.onnx")
    run = session(folder / "recurrent_ppo.onnx").run
    state: Any = None
    carried = {n: np.zeros((1, 1, lstm), np.float32) for n in actor.state_names}
    largest, ours, theirs = 0.0, 0.0, 0.0
    observation, _ = env.reset(seed=0)
    for step in range(steps):
        start = step % 200 == 0
        if start:
            carried = {n: np.zeros_like(v) for n, v in carried.items()}
        clock = time.perf_counter()
        expected, state = model.predict(
            observation, state, episode_start=np.array([start]), deterministic=True
        )
        theirs += time.perf_counter() - clock
        clock = time.perf_counter()
        feeds = {"observation": observation[None], **carried}
        action, *after = run(actor.output_names, feeds)
        ours += time.perf_counter() - clock
        carried = dict(zip(carried, after, strict=True))
        largest = max(largest, float(np.abs(action[0] - expected).max()))
        observation, *_ = env.step(expected)
    return largest, ours / steps, theirs / steps


main = study(Config, run)

if __name__ == "__main__":
    main()
