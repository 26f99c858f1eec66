"""Drive fresh randomised episodes of KinematicDriver-v0 and print errors, violations and returns.

The drivers are the preview LQR, which knows the car and the road; no action at all; and random
actions. A plot of the preview driver's offsets and speeds goes into the output folder, and with
``video=true`` a video of its first episode.

Examples:
  steerlab evaluate-kinematic-driver
  steerlab evaluate-kinematic-driver episodes=5000 ranges.friction=[0.3,0.4]
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Column, Table
from tqdm.auto import tqdm

from steerlab.agents.classical.preview import PreviewDriver
from steerlab.agents.policynet.evaluate import film_drive
from steerlab.envs.kinematic_driver.env import KinematicDriverVectorEnv
from steerlab.envs.kinematic_driver.randomization import KINDS, Ranges
from steerlab.envs.kinematic_driver.record import (
    CTE_CAPTION,
    CTE_KEYS,
    Record,
    drive_once,
    offset_figures,
)
from steerlab.envs.kinematic_driver.violations import VIOLATIONS
from steerlab.errors import InputError, unknown_name
from steerlab.files import atomic_path
from steerlab.line_styles import line_styles
from steerlab.options import option
from steerlab.study import study


class ZeroDriver:
    """Does nothing."""

    def __init__(self, env: KinematicDriverVectorEnv) -> None:
        self.count = env.num_envs

    def reset(self, observation: Any, info: dict[str, Any]) -> None:
        """Begin."""

    def __call__(self, observation: Any, info: dict[str, Any]) -> NDArray[np.float32]:
        """Return zeros (N, 2)."""
        return np.zeros((self.count, 2), np.float32)


class RandomDriver(ZeroDriver):
    """Does anything."""

    def reset(self, observation: Any, info: dict[str, Any]) -> None:
        """Begin."""
        self.rng = np.random.default_rng(0)

    def __call__(self, observation: Any, info: dict[str, Any]) -> NDArray[np.float32]:
        """Return uniform actions (N, 2)."""
        return self.rng.uniform(-1, 1, (self.count, 2)).astype(np.float32)


DRIVERS: dict[str, Any] = {"preview": PreviewDriver, "zero": ZeroDriver, "random": RandomDriver}


@dataclass(frozen=True)
class Config:
    """Options of the study."""

    drivers: tuple[str, ...] = option(("preview", "zero", "random"), "drivers to compare")
    episodes: int = option(1000, "episodes of each driver, in one batch")
    max_episode_steps: int = option(500, "length of an episode, in steps of 0.05 s")
    seed: int = option(0, "seed of the first episode; later episodes count up from it")
    ranges: Ranges = option(Ranges(), "")
    video: bool = option(
        False, "film the preview driver's first episode (mp4, or GIF without imageio)"
    )


def run(config: Config, output: Path) -> dict[str, Record]:
    """Drive, print and plot; return what was driven."""
    for name in config.drivers:
        if name not in DRIVERS:
            raise unknown_name("driver", name, DRIVERS)
    if config.episodes < 1:
        raise InputError(f"episodes={config.episodes} must be at least 1")
    results = {}
    for name in config.drivers:
        env = KinematicDriverVectorEnv(config.episodes, config.max_episode_steps, config.ranges)
        with tqdm(total=config.max_episode_steps, unit="step", desc=name) as bar:
            results[name] = drive_once(env, DRIVERS[name], config.seed, progress=bar.update)
    _print(results)
    _plot(results, output / "drivers.png")
    if config.video:
        seeds = range(config.seed, config.seed + 1)
        film_drive(
            PreviewDriver, output / "preview", seeds, config.ranges, config.max_episode_steps
        )
    return results


def _print(results: dict[str, Record]) -> None:
    table = Table(
        Column("driver", no_wrap=True, min_width=7), Column("roads", no_wrap=True, min_width=12), "violations", *VIOLATIONS[1:], "CTE P95", "start", "steady",
        "front, steady", "max", "heading", "jerk RMS", "progress", "return", header_style="bold",
        caption=f"{CTE_CAPTION}. CTE in m; heading in rad; jerk in m/s^3; progress and return in percent",
    )  # fmt: skip
    for name, found in results.items():
        for kind in (None, *range(len(KINDS))):
            kinds = found.end["kind"]
            rows = np.ones(len(kinds), bool) if kind is None else kinds == kind
            if rows.any():
                table.add_row(
                    name if kind is None else "", "all" if kind is None else KINDS[kind],
                    *_cells(found.of(rows)),
                )  # fmt: skip
        table.add_section()
    Console(width=150).print(table)


def _cells(record: Record) -> list[str]:
    found, offset = record.end, asdict(offset_figures(record))
    violation = found["violation"]
    kinds = [str((violation == i).sum()) for i in range(1, len(VIOLATIONS))]
    return [
        f"{(violation > 0).sum()} of {len(violation)}",
        *kinds,
        *(f"{offset[key]:.3f}" for key in CTE_KEYS),
        f"{offset['cte_max']:.2f}",
        f"{found['heading_error_mean'].mean():.4f}",
        f"{np.median(found['jerk_rms']):.2f}",
        f"{found['progress'].mean():.1f}",
        f"{found['base_return'].mean():.1f}",
    ]


def _plot(results: dict[str, Record], path: Path) -> None:
    """Draw how the drivers' episodes spread in offset and return."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes = figure.subplots(1, 2)
    styles = line_styles(results)
    for name, found in results.items():
        for axis, key in zip(axes, ("cte_p95", "base_return"), strict=True):
            values = np.sort(found.end[key])
            share = np.linspace(0, 1, len(values))
            axis.plot(values, share, label=name, markevery=0.1, markersize=4, **styles[name])
    axes[0].set(xlabel="P95 of the offset in an episode (m)", ylabel="share of episodes below")
    axes[1].set(xlabel="return (% of a perfect drive)")
    for axis in axes:
        axis.grid(alpha=0.3)
    axes[1].legend()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120)


main = study(Config, run)

if __name__ == "__main__":
    main()
