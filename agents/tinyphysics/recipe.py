"""What every recipe for a TinyPhysics policy is given and returns."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

from steerlab.agents.checkpoint import fitting, load_checkpoint, save_checkpoint
from steerlab.agents.tinyphysics.controller import PolicyController
from steerlab.agents.tinyphysics.model import PolicyShape, PreviewPolicy
from steerlab.agents.tinyphysics.rollout import Roads
from steerlab.envs.tinyphysics.rollout import evaluate
from steerlab.files import write_json
from steerlab.readers.text import read_json
from steerlab.seeds import initial_weights
from steerlab.surrogates.segments.data import Segments
from steerlab.types import Floats

KIND = "TinyPhysics policy"  # of the checkpoints


@dataclass(frozen=True)
class Bench:
    """Where policies are trained and chosen.

    Attributes:
        plant: Path of the plant.
        train: Routes to learn from.
        select: Routes to choose on.
        processes: Processes that drive in the plant.
        shape: Of the policy.
        seed: Of the weights, the routes and the noise.
        start: A trained policy to begin with, of this shape; None begins with random weights.
    """

    plant: str
    train: Segments
    select: Segments
    processes: int
    shape: PolicyShape
    seed: int
    start: PreviewPolicy | None = None

    @cached_property
    def roads(self) -> Roads:
        """The routes to learn from as tensors."""
        return Roads.of(self.train)

    def first_policy(self) -> PreviewPolicy:
        """Return the policy with which training begins."""
        with initial_weights(self.seed):
            policy = PreviewPolicy(self.shape)
        if self.start is None:
            policy.fit_normaliser(self.roads.typical(self.seed))
        else:
            policy.load_state_dict(self.start.state_dict())
        return policy

    def selection_costs(self, policy: PreviewPolicy) -> Floats:
        """Return the total_cost of every route of ``select`` in the plant itself, official noise."""
        found = evaluate(
            lambda: PolicyController(policy),
            self.select,
            self.plant,
            "fast",
            batch_size=len(self.select),
            tail=False,
        )
        return found.costs.total_cost


@dataclass(frozen=True)
class Trained:
    """What a recipe returns.

    Attributes:
        policies: To choose from, in the order of their making.
        plant_steps: Steps of the plant that were learned from.
        model_steps: Steps of a learned model that were learned from.
    """

    policies: Sequence[PreviewPolicy]
    plant_steps: int
    model_steps: int = 0


def save_policy(path: str | Path, policy: PreviewPolicy) -> None:
    """Write a policy with its shape."""
    save_checkpoint(path, KIND, {"shape": asdict(policy.shape), "policy": policy.state_dict()})


def load_policy(path: str | Path) -> PreviewPolicy:
    """Read what :func:`save_policy` wrote.

    Raises:
        InputError: There is no such file, or it is something else.
    """
    state = load_checkpoint(path, KIND)
    with fitting(path, "PreviewPolicy"):
        policy = PreviewPolicy(PolicyShape(**state["shape"]))
        policy.load_state_dict(state["policy"])
    return policy


@contextmanager
def processor_time(path: Path) -> Iterator[None]:
    """Add the processor seconds of a block, its worker processes included, to those in a JSON file.

    A run that is interrupted adds what it took; one that is killed outright does not.
    """
    before = read_seconds(path)
    start = _processor_seconds()
    try:
        yield
    finally:
        write_json(path, {"seconds": before + _processor_seconds() - start})


def read_seconds(path: Path) -> float:
    """Return the seconds in a file of :func:`processor_time`; 0 if there is none."""
    return float(read_json(path)["seconds"]) if path.exists() else 0.0


def _processor_seconds() -> float:
    return sum(os.times()[:4])  # user and system time of this process, and of those it waited for
