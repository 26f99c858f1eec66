"""Train RecurrentPPO for CVaR and for the mean on KinematicDriver-v0, and compare their tails.

Both trainings begin with the same policy, which has imitated the preview driver (once, with the first
seed). They have the same steps, seeds and network, and are evaluated on the same held-out roads. The
table gives mean and CVaR of the return and the violations with 95 % intervals: bootstrap over seeds,
and within a seed over the roads. After an interruption the same command continues.

Example:
  steerlab compare-cvar
  steerlab compare-cvar total_steps=1000000 sampler=true
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from tqdm.auto import tqdm

from steerlab.agents.paired_comparison import (
    Episodes,
    Summary,
    paired_intervals,
    plot_returns,
    print_intervals,
)
from steerlab.agents.recurrent_ppo.train import (
    DriverConfig,
    evaluate_driver,
    train_driver,
    warm_start,
)
from steerlab.envs.wrappers.cvar import cvar
from steerlab.files import write_json
from steerlab.options import option
from steerlab.readers.arrays import read_arrays, require, write_arrays
from steerlab.seeds import HELD_OUT_ROADS
from steerlab.study import study


@dataclass(frozen=True)
class Config(DriverConfig):
    """Options of the study; ``alpha`` is that of the CVaR arm."""

    alpha: float = option(0.05, "share of the worst returns that counts")
    total_steps: int = option(153_600, "control steps of each training")
    num_envs: int = option(128, "environments; each drives one episode in an iteration")
    batch_size: int = option(3200, "environment steps in each gradient step")
    epochs: int = option(4, "passes over the steps of an iteration")
    learning_rate: float = option(1e-4, "learning rate at the start; falls linearly to a tenth")
    log_std: float = option(-2.0, "initial log of the action's standard deviation")
    cell: str = option("gru", "lstm or gru")
    imitation: int = option(
        6, "rounds of imitating the preview driver before the training; 0 = none"
    )
    seeds: int = option(5, "trainings for each objective")
    roads: int = option(2000, "held-out episodes that each policy drives")
    resamples: int = option(2000, "resamples of the bootstrap")
    threads: int = option(1, "threads of torch")


def run(config: Config, output: Path) -> dict[str, Any]:
    """Train what is missing, evaluate, print; return the intervals."""
    torch.set_num_threads(config.threads)
    arms = {"mean": 1.0, "cvar": config.alpha}
    results: dict[str, list[dict[str, NDArray[Any]]]] = {name: [] for name in arms}
    start = warm_start(driver_config(config), output / "start") if config.imitation else None
    for seed in range(config.seeds):
        for name, alpha in arms.items():
            results[name].append(one(config, output, name, alpha, seed, start))
    summary = intervals(config, results)
    titles = {
        "mean": "mean return",
        "cvar": f"CVaR_{config.alpha:g} of the return",
        "violations": "episodes with a violation",
    }
    print_intervals(
        summary, titles,
        f"{config.seeds} seeds, {config.total_steps:,} steps, {config.roads} held-out roads, "
        "95 % intervals",
    )  # fmt: skip
    plot_returns(results, output / "returns.png")
    write_json(output / "summary.json", summary)
    return summary


def driver_config(config: Config) -> DriverConfig:
    """Return the options of a training; those of :class:`Config` are more."""
    return DriverConfig(**{f.name: getattr(config, f.name) for f in fields(DriverConfig)})


def one(
    config: Config, output: Path, name: str, alpha: float, seed: int, start: Path | None
) -> dict[str, NDArray[Any]]:
    """Return the returns and violations (roads,) of one learner, trained unless it is there."""
    folder = output / f"{name}_{seed}"
    done = folder / "evaluation.npz"
    if not done.exists():
        training = replace(driver_config(config), alpha=alpha, seed=seed)
        model = train_driver(training, folder, start)
        with tqdm(total=config.episode_steps, unit="step", desc="evaluation") as bar:
            found = evaluate_driver(
                model, config.roads, config.episode_steps, HELD_OUT_ROADS, progress=bar.update
            )
        write_arrays(
            done, {"returns": found.end["base_return"], "violation": found.end["violation"]}
        )
    returns, violation = require(read_arrays(done), ("returns", "violation"), done)
    return {"returns": returns, "violation": violation}


def intervals(config: Config, results: dict[str, list[Episodes]]) -> Summary:
    """Return estimate and 95 % interval by quantity and arm; see :func:`paired_intervals`."""
    measures: dict[str, Callable[[Episodes], float]] = {
        "mean": lambda found: float(found["returns"].mean()),
        "cvar": lambda found: cvar(found["returns"], config.alpha),
        "violations": lambda found: float((found["violation"] > 0).mean()),
    }
    return paired_intervals(results, measures, config.resamples)


main = study(Config, run, resumes=True)

if __name__ == "__main__":
    main()
