"""Train stable-baselines3's PPO on a tracking task and compare it with the exact optimum.

Every iteration is one whole episode of all environments. A checkpoint is written after each: after an
interruption the same command with the same output= continues. Writes ppo.pt, results.json,
metrics.jsonl and TensorBoard events.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecNormalize

from steerlab.agents.sb3 import train_sb3
from steerlab.agents.trc.evaluate import Policy, drive, optimal_cases
from steerlab.devices import torch_device
from steerlab.envs.sb3 import make_sb3_vec
from steerlab.envs.tracking.problem import TrackingProblem
from steerlab.envs.tracking.problems import ProblemOptions, chosen_problem
from steerlab.errors import InputError
from steerlab.files import write_json
from steerlab.options import option
from steerlab.seeds import unchanged_generators
from steerlab.study import study
from steerlab.tables import percent, print_table
from steerlab.types import Floats

CHECKPOINT = "ppo.pt"


@dataclass(frozen=True)
class Config(ProblemOptions):
    """Options of train-tracking-ppo."""

    total_steps: int = option(3_000_000, "steps of all environments together")
    num_envs: int = option(1024, "number of environments")
    batch_size: int = option(2048, "environment steps in each gradient step")
    epochs: int = option(10, "passes over the steps of an iteration")
    learning_rate: float = option(1e-3, "learning rate at the start; falls linearly to zero")
    gae_lambda: float = option(0.95, "decay of the advantage estimate; there is no discount")
    hidden: int = option(128, "units in each of the two layers of actor and critic")
    cases: int = option(1000, "test cases, those of seed 123")
    seed: int = option(0, "seed of weights, episodes and exploration")
    device: str = option("cpu", "auto, cpu or cuda; PPO with a small network is fastest on the CPU")


def run(config: Config, output: Path) -> dict[str, float]:
    """Train or go on training, then evaluate; return the results."""
    problem = chosen_problem(config)
    iteration = config.num_envs * problem.steps
    if config.num_envs < 1 or config.total_steps < iteration or config.cases < 1:
        raise InputError(
            f"total_steps={config.total_steps} must be at least one episode of all rows "
            f"({iteration} steps), and num_envs and cases at least 1"
        )
    model = _new_model(config, problem)
    train_sb3(model, output, config.total_steps, asdict(config), seed=config.seed)

    def policy(states: Floats, targets: Floats, left: int) -> Floats:
        remaining = np.full((len(states), 1), left / problem.steps)
        seen = np.concatenate([states, targets, remaining], axis=1).astype(np.float32)
        return model.predict(seen, deterministic=True)[0][:, None].astype(np.float64)

    results = _evaluate(problem, policy, config.cases)
    write_json(output / "results.json", results)
    print_table(
        f"PPO on {config.task} ({config.preset}), {config.cases:,} cases, cost above the optimum",
        ["method", "mean cost", "gap of means", "median", "p95", "final error", "success"],
        [
            [
                "ppo",
                f"{results['cost']:.3f}",
                *(percent(results[k]) for k in ("gap_of_means", "gap_median", "gap_p95")),
                f"{results['final_error']:.4f}",
                percent(results["success"], 1),
            ],
            ["exact optimum", f"{results['optimal_cost']:.3f}", *["-"] * 5],
        ],
    )
    Console().print(f"curves: tensorboard --logdir {output}", highlight=False)
    return results


def _new_model(config: Config, problem: TrackingProblem) -> PPO:
    rows = make_sb3_vec(config.task, config.num_envs, **asdict(problem))
    # Costs of hundreds early on would drown the critic; the states are of the order of one.
    venv = VecNormalize(rows, norm_obs=False, gamma=1.0, clip_reward=np.inf)
    with unchanged_generators():
        return PPO(
            "MlpPolicy",
            venv,
            n_steps=problem.steps,
            batch_size=config.batch_size,
            n_epochs=config.epochs,
            learning_rate=lambda left: config.learning_rate * left,
            gamma=1.0,
            gae_lambda=config.gae_lambda,
            seed=config.seed,
            device=torch_device(config.device),
            policy_kwargs={
                "net_arch": [config.hidden, config.hidden],
                "activation_fn": torch.nn.Tanh,
            },
        )


def _evaluate(problem: TrackingProblem, policy: Policy, cases: int) -> dict[str, float]:
    """Drive the test cases in closed loop; return costs and errors, held to the optimum."""
    data = optimal_cases(problem, cases, 123)
    best = data.arrays["optimal_costs"]
    costs, errors = drive(
        problem, policy, data.arrays["initial_states"], data.arrays["target_states"]
    )
    gap = (costs - best) / best
    return {
        "cost": float(costs.mean()),
        "optimal_cost": float(best.mean()),
        "gap_of_means": float(costs.mean() / best.mean() - 1),
        "gap_median": float(np.median(gap)),
        "gap_p95": float(np.percentile(gap, 95)),
        "final_error": float(errors.mean()),
        "success": float((errors < problem.tolerance).mean()),
    }


main = study(Config, run, resumes=True)

if __name__ == "__main__":
    main()
