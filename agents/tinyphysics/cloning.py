"""Cloning a planner, and DAgger on it.

First the planner drives, then the policy, and the planner says at every step what it would have done
there; the policy learns from all drives so far (Ross et al. 2011). So it also learns to recover from
its own mistakes, which the planner never makes.
"""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from steerlab.agents.supervised import FitConfig, fit
from steerlab.agents.tinyphysics.controller import PolicyController
from steerlab.agents.tinyphysics.exploration import Exploration, driven, explore, noise_levels
from steerlab.agents.tinyphysics.model import ACTION_SCALE, AHEAD, Observation, PreviewPolicy
from steerlab.agents.tinyphysics.moments import learn_plant
from steerlab.agents.tinyphysics.planners import GradientPlans, LinearModel, PreviewRegulator
from steerlab.agents.tinyphysics.recipe import Bench, Trained
from steerlab.agents.tinyphysics.rounds import explore_moments
from steerlab.envs.tinyphysics.dynamics import STEPS
from steerlab.errors import InputError, unknown_name
from steerlab.files import writable_folder
from steerlab.options import option
from steerlab.readers.arrays import ArrayRecord
from steerlab.seeds import generator_seed
from steerlab.surrogates.plants.base import CONTEXT, Plant
from steerlab.surrogates.plants.moments import Transitions
from steerlab.surrogates.segments.data import Segments
from steerlab.types import Singles

TEACHERS = ("regulator", "gradient")
#: Says the steer (N,) for an observation of N rows.
Planner = Callable[[Observation], Tensor]


@dataclass(frozen=True)
class CloningConfig:
    """Options of :func:`train_by_cloning`."""

    teacher: str = option(
        "regulator",
        "planner that is imitated: regulator, or gradient (plans improved by gradient steps)",
    )
    identify: int = option(
        300, "drives of random controllers to which the planner's model is fitted"
    )
    rounds: int = option(4, "rounds of driving and learning; the planner drives in the first")
    rollouts: int = option(150, "drives in each round, 50 s each")
    epochs: int = option(6, "passes over all drives so far, in each round")
    batch_size: int = option(512, "driven steps in each gradient step")
    learning_rate: float = option(
        2e-3, "learning rate at the start of a round; falls along a cosine"
    )


def train_by_cloning(
    bench: Bench, config: CloningConfig, output: Path, plant_epochs: int = 10
) -> Trained:
    """Return the policy of each round.

    Args:
        bench: Plant, routes and shape of the policy.
        config: Options.
        output: Folder of the results.
        plant_epochs: Passes over its drives that a planner's model makes.

    Raises:
        InputError: An option is out of range.
    """
    check(config)
    planner = make_planner(bench, config, plant_epochs, writable_folder(output / "planner"))
    policies: list[PreviewPolicy] = []
    paths: list[Path] = []
    for number in range(config.rounds):
        folder = writable_folder(output / f"round_{number + 1}")
        seed = generator_seed("imitation", bench.seed, number)
        last = policies[-1] if policies else None
        labelled = LabelledExploration(
            bench.plant, bench.train, config.rollouts, seed, planner, last
        )
        paths += explore(labelled, folder / "drives", bench.processes)
        policy = deepcopy(last) if last else bench.first_policy()
        policies.append(learn(policy, paths, config, bench.seed + number, folder / "policy"))
    return Trained(policies, STEPS * (config.identify + config.rounds * config.rollouts))


def make_planner(bench: Bench, config: CloningConfig, epochs: int, output: Path) -> Planner:
    """Return the teacher, whose model is made of drives of random controllers."""
    paths = explore_moments(bench, config.identify, 0, output)
    regulator = PreviewRegulator(LinearModel(Transitions.join(map(Transitions.load, paths))))
    if config.teacher == "regulator":
        return regulator
    model = learn_plant(None, paths, output / "plant", epochs=epochs, seed=bench.seed)
    return GradientPlans(model, regulator)


@dataclass(frozen=True)
class LabelledDrives(ArrayRecord):
    """R drives of 400 steps, and what a teacher would have done at each of them.

    Attributes:
        road: (R, 449, 4), see :class:`~steerlab.agents.tinyphysics.model.Observation`.
        steer: (R, 419) as the policy notes them, from 20 steps before the first.
        lataccel: (R, 419) m/s^2, from 20 steps before the first.
        label: (R, 400) steers of the teacher.
    """

    road: Singles
    steer: Singles
    lataccel: Singles
    label: Singles


@dataclass(frozen=True)
class LabelledExploration(Exploration):
    """How drives with a teacher's answers are made.

    Attributes:
        planner: The teacher.
        policy: Drives; None for the teacher itself. Some drives have a little noise on top.
    """

    planner: Planner
    policy: PreviewPolicy | None

    def record(self, rng: np.random.Generator, plant: Plant, segments: Segments) -> LabelledDrives:
        """Drive segments; return what was seen and the teacher's answers."""
        labelled = _Labelled(self.planner, self.policy)
        driven(rng, plant, segments, PolicyController(labelled, noise_levels(rng, segments), rng))
        return labelled.drives()


class _Labelled:
    """A policy that drives and notes what the teacher says."""

    def __init__(self, planner: Planner, policy: PreviewPolicy | None) -> None:
        self.planner, self.policy = planner, policy
        self._seen: list[Observation] = []
        self._labels: list[Tensor] = []

    def __call__(self, seen: Observation) -> Tensor:
        label = self.planner(seen)
        # Of what is seen one column is new, but at the first step all of it.
        new = slice(-1, None) if self._seen else slice(None)
        self._seen.append(Observation(*(part[:, new] for part in seen)))
        self._labels.append(label)
        return label if self.policy is None else self.policy(seen)

    def drives(self) -> LabelledDrives:
        label = torch.stack(self._labels, dim=1).numpy()
        seen = {
            n: torch.cat([getattr(s, n) for s in self._seen], dim=1).numpy()
            for n in Observation._fields
        }
        return LabelledDrives(**seen, label=label)


class LabelledSteps:
    """Every step of labelled drives: a data set for :func:`steerlab.agents.supervised.fit`."""

    def __init__(self, drives: LabelledDrives, rows: Sequence[int]) -> None:
        self._parts = {n: torch.as_tensor(v[rows]) for n, v in vars(drives).items()}

    def __len__(self) -> int:
        return self._parts["label"].numel()

    def __getitem__(self, indices: Tensor) -> dict[str, Tensor]:
        """Return road (B, 50, 4), steer, lataccel (B, 20) and label (B,)."""
        steps = self._parts["label"].shape[1]
        row, step = (indices // steps)[:, None], (indices % steps)[:, None]
        past = step + torch.arange(CONTEXT)
        return {
            "road": self._parts["road"][row, step + torch.arange(AHEAD)],
            "steer": self._parts["steer"][row, past],
            "lataccel": self._parts["lataccel"][row, past],
            "label": self._parts["label"][row[:, 0], step[:, 0]],
        }


def learn(
    policy: PreviewPolicy, paths: Sequence[Path], config: CloningConfig, seed: int, output: Path
) -> PreviewPolicy:
    """Return the policy that learned from all drives; every twentieth drive validates it."""
    drives = LabelledDrives.join(map(LabelledDrives.load, paths))
    valid = range(0, len(drives.label), 20)
    train = [i for i in range(len(drives.label)) if i % 20] or [0]
    options = FitConfig(
        epochs=config.epochs,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        ema_decay=0.99,
        seed=seed,
        device="cpu",
    )
    train_data, valid_data = (LabelledSteps(drives, list(rows)) for rows in (train, valid))
    fit(policy, steer_loss, train_data, valid_data, options, output)
    return policy


def steer_loss(
    model: nn.Module, batch: dict[str, Tensor], rng: torch.Generator
) -> dict[str, Tensor]:
    """Return how far the policy's steer is from the label, in units of the network's output.

    A loss for :func:`steerlab.agents.supervised.fit`; ``error`` is the root mean square in steer.
    """
    steer = model(Observation(batch["road"], batch["steer"], batch["lataccel"]))
    apart = steer - batch["label"]
    loss = nn.functional.huber_loss(apart / ACTION_SCALE, torch.zeros_like(apart))
    return {"loss": loss, "error": apart.square().mean().sqrt()}


def check(config: CloningConfig) -> None:
    """Check the options.

    Raises:
        InputError: One is out of range.
    """
    if config.teacher not in TEACHERS:
        raise unknown_name("teacher", config.teacher, TEACHERS)
    for name in ("identify", "rounds", "rollouts", "epochs", "batch_size"):
        if getattr(config, name) < 1:
            raise InputError(f"cloning.{name}={getattr(config, name)} must be at least 1")
    if config.learning_rate <= 0:
        raise InputError(f"cloning.learning_rate={config.learning_rate} must be positive")
