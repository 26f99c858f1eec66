"""Compare plants with a teacher: predictions, closed loop and speed in one table.

comma's PID drives the routes in the teacher and in each plant, with the official noise. It drives in
the teacher once more with other noise, which shows how large a chance difference is. Every plant
also predicts each step of the teacher's drive. Columns:

  KL            divergence of the plant's prediction from the teacher's, nats per step, as it is (T 1)
                and at the temperature of the simulator's draws (T 0.8)
  NLL           of the real tokens in the first 100 rows, where the logged steer is known, nats
  total_cost    mean over the routes, and its difference from the teacher's
  median        of total_cost over the routes
  rank          Spearman correlation of the routes' total costs with the teacher's
  steps/s       on one core at batch 64, and the ratio to the teacher in the same run

Example:
  steerlab compare-surrogates teacher=comma segments=comma plants=[distilled.onnx,default]
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy.stats import spearmanr
from tqdm.auto import tqdm

from steerlab.agents.classical.comma import controller_factory
from steerlab.envs.tinyphysics.dynamics import STEPS
from steerlab.envs.tinyphysics.rollout import evaluate
from steerlab.errors import InputError
from steerlab.files import atomic_path
from steerlab.options import option
from steerlab.study import study
from steerlab.surrogates.plants.base import CONTEXT, TEMPERATURE, Plant
from steerlab.surrogates.plants.divergence import divergence, log_probabilities
from steerlab.surrogates.plants.load import load_plant
from steerlab.surrogates.segments.data import Segments
from steerlab.surrogates.segments.synthetic import find_segments
from steerlab.surrogates.training.dataset import from_segments
from steerlab.types import Singles

BATCH = 50


@dataclass(frozen=True)
class Config:
    """Options of the study."""

    teacher: str = option("comma", "plant with which the others are compared")
    plants: list[str] = option(["default"], "default, analytic, or ONNX files")
    segments: str = option("comma", "comma, or a folder or zip of comma CSVs")
    first: int = option(400, "number of the first route, by the order of names")
    count: int = option(100, "number of routes")
    controller: str = option("pid", "controller that drives")
    runtime: str = option("fast", "runtime of every plant: exact, fast or torch")


@dataclass(frozen=True)
class Figures:
    """What one plant does."""

    plant: str
    kl: float
    kl_draws: float
    nll: float
    lataccel_cost: float
    jerk_cost: float
    total_cost: float
    total_ratio: float
    median_cost: float
    rank: float
    steps_per_second: float
    speed_ratio: float


class TeacherComparison(Plant):
    """A teacher whose every prediction is held against those of some students."""

    def __init__(self, teacher: Plant, students: Sequence[Plant]) -> None:
        self.teacher, self.students = teacher, students
        self.sums = np.zeros((len(students), 2))
        self.count = 0

    def logits(self, states: NDArray[np.float32], tokens: NDArray[np.int64]) -> Singles:
        """Return the teacher's logits (B, 1024)."""
        logits = self.teacher.logits(states, tokens)
        self.count += len(logits)
        for place, student in enumerate(self.students):
            theirs = student.logits(states, tokens)
            for column, temperature in enumerate((1.0, TEMPERATURE)):
                self.sums[place, column] += divergence(logits, theirs, temperature).sum()
        return logits


def likelihood(plant: Plant, segments: Segments) -> float:
    """Return the mean NLL of the real tokens of steps 20 to 99, nats."""
    real = from_segments(segments)
    total, count = 0.0, 0
    for step in range(CONTEXT, real.tokens.shape[1]):
        states = np.ascontiguousarray(real.states[:, step - CONTEXT + 1 : step + 1])
        tokens = real.tokens[:, step - CONTEXT : step].astype(np.int64)
        found = log_probabilities(plant.logits(states, tokens))
        total -= found[np.arange(len(found)), real.tokens[:, step]].sum()
        count += len(found)
    return total / count


def speed(plants: Sequence[Plant], batch: int = 64, seconds: float = 1.0) -> list[float]:
    """Return model-steps a second of each plant, measured in turns on the same inputs."""
    rng = np.random.default_rng(0)
    states = rng.normal(0, 0.3, (batch, CONTEXT, 4)).astype(np.float32)
    states[..., 2] += 20
    tokens = rng.integers(480, 540, (batch, CONTEXT))
    times: list[list[float]] = [[] for _ in plants]
    for plant in plants:
        plant.logits(states, tokens)
    begin = time.perf_counter()
    while time.perf_counter() - begin < seconds * len(plants) or len(times[0]) < 5:
        for plant, taken in zip(plants, times, strict=True):
            start = time.perf_counter()
            plant.logits(states, tokens)
            taken.append(time.perf_counter() - start)
    return [batch / float(np.median(taken)) for taken in times]


def compare(
    teacher: Plant,
    students: dict[str, Plant],
    segments: Segments,
    controller: str = "pid",
    progress: Callable[..., Any] = lambda steps: None,
) -> tuple[list[Figures], pl.DataFrame]:
    """Return the figures of each plant and the costs of every route.

    The first row is the teacher, the second the teacher with other noise: how far two plants that
    are the same can be apart on these routes.
    """
    names = ["teacher", "teacher, other noise", *students]
    plants = [teacher, teacher, *students.values()]
    comparison = TeacherComparison(teacher, plants)
    factory = controller_factory(controller)
    drives = [
        evaluate(factory, segments, plant, seeds=seeds, batch_size=BATCH, progress=progress)
        for plant, seeds in zip(
            (comparison, *plants[1:]),
            ("official", "other", *["official"] * len(students)),
            strict=True,
        )
    ]
    totals = [drive.costs.total_cost for drive in drives]
    speeds = speed(plants)
    kl = comparison.sums / comparison.count
    figures = [
        Figures(
            name,
            float(kl[i, 0]),
            float(kl[i, 1]),
            likelihood(plants[i], segments),
            float(drive.costs.lataccel_cost.mean()),
            float(drive.costs.jerk_cost.mean()),
            float(totals[i].mean()),
            float(totals[i].mean() / totals[0].mean()),
            float(np.median(totals[i])),
            float(spearmanr(totals[i], totals[0]).statistic) if len(segments) > 1 else 1.0,
            speeds[i],
            speeds[i] / speeds[0],
        )
        for i, (name, drive) in enumerate(zip(names, drives, strict=True))
    ]
    columns = {f"{name} total_cost": total for name, total in zip(names, totals, strict=True)}
    return figures, pl.DataFrame({"route": segments.names, **columns})


#: Rows of the table: name of the figure, words, format.
_ROWS = (
    ("kl", "KL, nats a step (T = 1)", ".4f"),
    ("kl_draws", "KL at T = 0.8", ".4f"),
    ("nll", "NLL of logged tokens", ".3f"),
    ("lataccel_cost", "lataccel_cost", ".3f"),
    ("jerk_cost", "jerk_cost", ".2f"),
    ("total_cost", "total_cost, mean", ".2f"),
    ("total_ratio", "  to the teacher's", "+.1%"),
    ("median_cost", "total_cost, median", ".2f"),
    ("rank", "rank correlation", ".3f"),
    ("steps_per_second", "steps/s at batch 64", ",.0f"),
    ("speed_ratio", "  to the teacher's", ".1f"),
)


def show(figures: Sequence[Figures], title: str) -> None:
    """Print the table, a column a plant."""
    table = Table("", title=title, box=None, header_style="bold")
    for f in figures:
        table.add_column(Path(f.plant).name, justify="right")
    for name, words, form in _ROWS:
        values = [getattr(f, name) - (name == "total_ratio") for f in figures]
        table.add_row(words, *(format(value, form) for value in values))
    Console().print(table)


def choose(segments: Segments, first: int, count: int) -> Segments:
    """Return ``count`` routes from number ``first`` on.

    Raises:
        InputError: There are not so many.
    """
    if first < 0 or count < 2 or first + count > len(segments):
        raise InputError(
            f"first={first} count={count} needs {first + count} routes (and two at least), "
            f"there are {len(segments)}"
        )
    return segments[first : first + count]


def run(config: Config, output: Path) -> list[Figures]:
    """Compare, print, write figures.csv and costs.csv."""
    segments = choose(find_segments(config.segments), config.first, config.count)
    teacher = load_plant(config.teacher, config.runtime)
    students = {name: load_plant(name, config.runtime) for name in config.plants}
    total = (2 + len(students)) * STEPS * len(segments)
    with tqdm(total=total, unit="step", unit_scale=True, desc="driving") as bar:
        figures, costs = compare(teacher, students, segments, config.controller, bar.update)
    show(figures, f"{config.controller} on {len(segments)} routes from {segments.names[0]} on")
    for name, frame in (
        ("figures.csv", pl.DataFrame([asdict(f) for f in figures])),
        ("costs.csv", costs),
    ):
        with atomic_path(output / name) as temporary:
            frame.write_csv(temporary)
    print(f"figures: {output / 'figures.csv'}\ncosts:   {output / 'costs.csv'}")
    return figures


main = study(Config, run)

if __name__ == "__main__":
    main()
