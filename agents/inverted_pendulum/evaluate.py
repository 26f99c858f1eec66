"""Figures of controllers on the pendulum: rates of success with intervals, over models or episodes."""

from dataclasses import dataclass
from math import sqrt
from pathlib import Path

import numpy as np
from scipy.stats import t as student

from steerlab.agents.inverted_pendulum.episodes import Rollouts, consecutive, reached
from steerlab.files import write_json


@dataclass(frozen=True)
class Cell:
    """Figures of one controller in one setting.

    Attributes:
        success: Percentages, one a model.
        convergence: Percentages, one a model.
        arrival: Percentages that succeed and end at a goal, one a model; empty without goals.
        settle_step: Mean step at which the pole converges.
        velocity_std: Standard deviation of the cart's velocity, m/s.
        right: Percentage of the successes that end on the right.
    """

    variant: str
    noise: float
    replan: int
    controller: str
    episodes: int
    success: list[float]
    convergence: list[float]
    arrival: list[float]
    settle_step: float
    velocity_std: float
    right: float


def interval(percentages: list[float], episodes: int) -> tuple[float, float]:
    """Return the 95 % interval of a rate, in percent.

    Of several models: Student's interval of their mean. Of one: Wilson's interval of a share.
    """
    n, mean = len(percentages), float(np.mean(percentages))
    if n > 1:
        half = student.ppf(0.975, n - 1) * float(np.std(percentages, ddof=1)) / sqrt(n)
        return max(mean - half, 0.0), min(mean + half, 100.0)
    z, p = 1.96, mean / 100
    centre = (p + z * z / (2 * episodes)) / (1 + z * z / episodes)
    half = z * sqrt(p * (1 - p) / episodes + z * z / (4 * episodes**2)) / (1 + z * z / episodes)
    return 100 * (centre - half), 100 * (centre + half)


def figures_of(
    runs: list[Rollouts], goals: tuple[float, ...], setting: tuple[str, float, int, str]
) -> Cell:
    """Return the figures of a controller in one setting.

    Args:
        runs: Rollouts of its models, one for each.
        goals: Places where the cart may end; empty where the task is to balance.
        setting: Variant, noise, replan interval and name of the controller.
    """
    success, convergence, arrival, settle, velocity, right = [], [], [], [], [], []
    for played in runs:
        good = played.survived
        upright = np.abs(played.states[:, :-1, 1]) < 0.02
        start = consecutive(upright & played.during())
        success.append(100 * float(good.mean()))
        convergence.append(100 * float((start >= 0).mean()))
        if goals:
            arrival.append(100 * float(reached(played, np.array(goals)).mean()))
        settle += start[start >= 0].tolist()
        if played.survived.any():
            velocity.append(float(played.states[played.survived, :, 2].std()))
        right += (played.states[good, -1, 0] > 0).tolist()
    return Cell(
        *setting,
        episodes=len(runs[0].survived),
        success=success,
        convergence=convergence,
        arrival=arrival,
        settle_step=float(np.mean(settle)) if settle else float("nan"),
        velocity_std=float(np.mean(velocity)) if velocity else float("nan"),
        right=100 * float(np.mean(right)) if right else float("nan"),
    )


def rates(cells: list[Cell]) -> tuple[str, str]:
    """Return the names of the two rates that are worth a look."""
    return ("success", "arrival" if cells[0].arrival else "convergence")


def write_cells(cells: list[Cell], path: Path) -> None:
    """Write figures with their intervals as JSON."""
    records = [
        vars(c)
        | {
            "success_interval": interval(c.success, c.episodes),
            "convergence_interval": interval(c.convergence, c.episodes),
            "arrival_interval": interval(c.arrival, c.episodes) if c.arrival else None,
        }
        for c in cells
    ]
    write_json(path, records)
