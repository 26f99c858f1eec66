"""Fine-tune a planner of train-trc for a reward of your own, by its gradient or by PPO.

reward= is module:function or path/file.py:function; '' is the task's own, -J. The function is called as
reward(problem, states, controls, targets) with tensors (B, T+1, 2), (B, T, 1) and (B, 2), and returns
the reward of each plan (B,). problem has the parameters, such as dt and limit. method=gradient
follows the gradient through the plant, for which the reward must be written with torch operations;
method=ppo tries plans and accepts any function. A module that is named in reward= is executed.

Writes best.pt, which export-trc, evaluate-trc and compare-trc accept, results.json, metrics.jsonl and
TensorBoard events. After an interruption the same command with the same output= continues.

Examples:
  steerlab finetune-trc checkpoint=runs/trc/medium/best.pt reward=my_rewards:smooth
  steerlab finetune-trc checkpoint=runs/trc/medium/best.pt reward=my_rewards.py:arrive method=ppo
"""

from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from steerlab.agents.trc.data import PlanData
from steerlab.agents.trc.evaluate import judge, optimal_cases
from steerlab.agents.trc.finetune import (
    GradientConfig,
    PlanPPOConfig,
    tune_by_gradient,
    tune_by_ppo,
)
from steerlab.agents.trc.model import Planner, TinyRecursiveControl
from steerlab.agents.trc.reward import PlanReward, Reward, task_reward
from steerlab.agents.trc.train import load_planner
from steerlab.callables import import_callable
from steerlab.errors import InputError, unknown_name
from steerlab.files import write_json
from steerlab.options import option
from steerlab.study import latest_result, study
from steerlab.tables import percent, print_table

METHODS = ("gradient", "ppo")


@dataclass(frozen=True)
class Config(GradientConfig):
    """Options of finetune-trc."""

    checkpoint: str = option("", "checkpoint of train-trc; '' = that of the last one")
    reward: str = option("", "module:function or path/file.py:function; '' = the task's own, -J")
    method: str = option("gradient", "gradient (through plant and reward) or ppo (any reward)")
    safe_steps: bool = option(
        True,
        "false lets corrections raise the cost J, for a reward that favours plans of higher cost",
    )
    cases: int = option(10_000, "training cases of method=gradient")
    ppo: PlanPPOConfig = field(default_factory=PlanPPOConfig)
    test_cases: int = option(1000, "test cases, those of seed 123")


def run(config: Config, output: Path) -> dict[str, Any]:
    """Fine-tune or go on, then hold the planner to what it was; return the results."""
    if config.method not in METHODS:
        raise unknown_name("method", config.method, METHODS)
    for name in ("cases", "test_cases"):
        if getattr(config, name) < 10:
            raise InputError(f"{name}={getattr(config, name)} must be at least 10")
    reward: Reward = task_reward
    if config.reward:
        reward = import_callable(config.reward, "reward")
    name = f"reward={config.reward}" if config.reward else "the task's reward"
    checkpoint = config.checkpoint or latest_result("train_trc", "best.pt")
    before, model = load_planner(checkpoint), load_planner(checkpoint)
    if isinstance(model, TinyRecursiveControl) and not config.safe_steps:
        model.config = replace(model.config, safe_steps=False)
    if config.method == "gradient":
        options = {f.name: getattr(config, f.name) for f in fields(GradientConfig)}
        tune_by_gradient(
            model, reward, GradientConfig(**options), output, cases=config.cases, name=name
        )
    else:
        tune_by_ppo(
            model, reward, config.ppo, output, seed=config.seed, device=config.device, name=name
        )
    results = _compare(before, model.cpu().eval(), reward, name, config.test_cases)
    write_json(output / "results.json", results | {"checkpoint": checkpoint, "reward": name})
    _print(results, name, config.test_cases)
    Console().print(f"[bold]{output / 'best.pt'}[/]", highlight=False)
    return results


def _compare(
    before: Planner, after: Planner, reward: Reward, name: str, count: int
) -> dict[str, Any]:
    """Return what both planners are worth on the same cases, and the gain with its interval."""
    data = optimal_cases(before.problem, count, 123)
    worth = [_worth(planner, reward, name, data) for planner in (before, after)]
    gain = worth[1] - worth[0]
    half = 1.96 * float(gain.std(ddof=1)) / np.sqrt(count)
    results: dict[str, Any] = {
        "gain": float(gain.mean()),
        "gain_interval": [float(gain.mean()) - half, float(gain.mean()) + half],
        "improved": float((gain > 0).mean()),
    }
    initial, targets = data.arrays["initial_states"], data.arrays["target_states"]
    for label, planner, values in zip(("before", "after"), (before, after), worth, strict=True):
        told = judge(data, planner.plan(initial, targets))
        results[label] = {"reward": float(values.mean())} | {
            key: told[key] for key in ("gap_of_means", "gap_mean", "final_error", "success")
        }
    return results


def _worth(planner: Planner, reward: Reward, name: str, data: PlanData) -> Any:
    cases = (data.arrays["initial_states"], data.arrays["target_states"])
    drawn = [torch.tensor(a, dtype=torch.float32) for a in cases]
    return PlanReward(planner, reward, name).of_planner(*drawn).double().numpy()


def _print(results: dict[str, Any], name: str, count: int) -> None:
    low, high = results["gain_interval"]
    print_table(
        f"{name} on {count:,} test cases",
        ["planner", "reward", "cost above the optimum", "final error", "success"],
        [
            [
                label,
                f"{r['reward']:.4f}",
                percent(r["gap_of_means"]),
                f"{r['final_error']:.4f}",
                percent(r["success"], 1),
            ]
            for label, r in ((label, results[label]) for label in ("before", "after"))
        ],
    )
    Console().print(
        f"gain {results['gain']:.4g} (95 %: {low:.4g} to {high:.4g}), more in "
        f"{percent(results['improved'], 1)} of the cases",
        highlight=False,
    )


main = study(Config, run, resumes=True)

if __name__ == "__main__":
    main()
