"""Train RecurrentPPO on KinematicDriver-v0, for the mean return or for its CVaR.

All randomisation is on from the first episode. A checkpoint is written after every iteration: stop
with Ctrl-C, and the same command with the same output= continues with the numbers of an
uninterrupted run. At the end the policy and the preview driver drive the same held-out roads.

Examples:
  steerlab train-kinematic-driver
  steerlab train-kinematic-driver alpha=0.05 cell=gru total_steps=3000000
"""

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Column, Table
from tqdm.auto import tqdm

from steerlab.agents.classical.preview import PreviewDriver
from steerlab.agents.recurrent_ppo.train import DriverConfig, evaluate_driver, train_driver
from steerlab.envs.kinematic_driver.env import KinematicDriverVectorEnv
from steerlab.envs.kinematic_driver.record import (
    CTE_CAPTION,
    CTE_KEYS,
    Record,
    drive_once,
    offset_figures,
)
from steerlab.envs.wrappers.cvar import cvar
from steerlab.errors import InputError
from steerlab.options import option
from steerlab.seeds import HELD_OUT_ROADS
from steerlab.study import study


@dataclass(frozen=True)
class Config(DriverConfig):
    """Options of the study."""

    roads: int = option(500, "held-out episodes that are driven at the end")
    threads: int = option(1, "threads of torch; more of them slow small networks down")


def run(config: Config, output: Path) -> dict[str, float]:
    """Train or go on training, then evaluate; return the learner's figures."""
    if config.roads < 1:
        raise InputError(f"roads={config.roads} must be at least 1")
    torch.set_num_threads(config.threads)
    model = train_driver(config, output)
    with tqdm(total=config.episode_steps, unit="step", desc="evaluation") as bar:
        learned = evaluate_driver(
            model, config.roads, config.episode_steps, HELD_OUT_ROADS, progress=bar.update
        )
    env = KinematicDriverVectorEnv(config.roads, config.episode_steps)
    found = {"learned": learned, "preview": drive_once(env, PreviewDriver, HELD_OUT_ROADS)}
    table = Table(
        Column("driver", no_wrap=True, min_width=7), "return", "CVaR_0.05", "violations", "CTE P95", "start", "steady", "front, steady",
        "jerk RMS", "progress", header_style="bold", title=f"{config.roads} held-out roads",
        caption=CTE_CAPTION,
    )  # fmt: skip
    figures = {name: summary(r) for name, r in found.items()}
    for name, f in figures.items():
        table.add_row(
            name, f"{f['return']:.1f}", f"{f['cvar']:.1f}", f"{100 * f['violations']:.1f} %",
            *(f"{f[key]:.3f} m" for key in CTE_KEYS), f"{f['jerk_rms']:.2f} m/s^3", f"{f['progress']:.1f} %",
        )  # fmt: skip
    console = Console()
    console.print(table)
    console.print(f"curves: tensorboard --logdir {output}")
    return figures["learned"]


def summary(record: Record) -> dict[str, float]:
    """Return the figures of the table for the episodes of one driver."""
    found = record.end
    return {
        "return": float(found["base_return"].mean()),
        "cvar": cvar(found["base_return"], 0.05),
        "violations": float((found["violation"] > 0).mean()),
        **asdict(offset_figures(record)),
        "jerk_rms": float(np.median(found["jerk_rms"])),
        "progress": float(found["progress"].mean()),
    }


main = study(Config, run, resumes=True)

if __name__ == "__main__":
    main()
