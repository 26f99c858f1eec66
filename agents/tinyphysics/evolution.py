"""CMA-ES on a policy's weights, by the cost in the plant itself (Hansen 2016, the package ``cma``).

A generation is a population of policies. All of them drive the same routes with the same noise, side by
side, so that what differs between them is the weights alone. No gradient is needed, but the number of
weights has to be small: those of a small policy, or the output weights of a large one.
"""

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call, vmap
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from steerlab.agents.tinyphysics.controller import PolicyController
from steerlab.agents.tinyphysics.model import Observation, PreviewPolicy
from steerlab.agents.tinyphysics.recipe import Bench, Trained
from steerlab.agents.training_loop import TrainingLoop
from steerlab.envs.tinyphysics.dynamics import STEPS, Simulator
from steerlab.envs.tinyphysics.reward import official_costs
from steerlab.envs.tinyphysics.rollout import rollout
from steerlab.errors import InputError, unknown_name
from steerlab.options import option
from steerlab.seeds import generator_seed
from steerlab.surrogates.plants.base import Plant
from steerlab.surrogates.plants.load import load_plant
from steerlab.surrogates.segments.data import Segments
from steerlab.types import Floats

KIND = "policy by CMA-ES"  # of the checkpoints
WEIGHTS = ("all", "output")
LARGEST = 2000  # weights, whose covariance takes a second a generation


@dataclass(frozen=True)
class EvolutionConfig:
    """Options of :func:`train_by_evolution`."""

    generations: int = option(100, "number of generations")
    population: int = option(16, "policies in each generation")
    routes: int = option(16, "routes that each policy of a generation drives, the same for all")
    sigma: float = option(0.002, "standard deviation of the weights at the start")
    weights: str = option(
        "output", "weights that are searched: output (last layer and linear path) or all"
    )


def train_by_evolution(bench: Bench, config: EvolutionConfig, output: Path) -> Trained:
    """Return the policy at the mean of the last generation's density.

    Raises:
        InputError: An option is out of range, or the package cma is not installed.
    """
    check(config)
    policy = bench.first_policy().requires_grad_(False)
    place = searched(policy, config.weights)
    if len(place) > LARGEST:
        raise InputError(
            f"{len(place)} weights are too many for CMA-ES; search cma.weights=output, or take a "
            "smaller policy: hidden=, preview=, history="
        )
    plant = load_plant(bench.plant, "fast")
    search = Search(len(place), config, bench.seed)
    first = parameters_to_vector(policy.parameters())
    settings = {**asdict(config), **asdict(bench.shape), "seed": bench.seed}
    parts = {"search": search}
    with TrainingLoop(output, KIND, config.generations, parts, settings, unit="generation") as loop:
        for generation in loop:
            rng = np.random.default_rng([generator_seed("training", bench.seed), generation])
            routes = bench.train[rng.integers(0, len(bench.train), config.routes)]
            weights = first.repeat(config.population, 1)
            weights[:, place] += torch.from_numpy(search.ask()).float()
            seeds = rng.integers(0, 2**31, config.routes).tolist()
            costs = population_costs(policy, weights, plant, routes, seeds)
            search.tell(costs)
            scalars = {
                "train/total_cost": float(np.median(costs)),
                "train/best": float(costs.min()),
            }
            loop.done(scalars | {"train/sigma": search.sigma}, {"cost": f"{costs.min():.1f}"})
    first[place] += torch.from_numpy(search.mean).float()
    vector_to_parameters(first, policy.parameters())
    return Trained([policy], config.generations * config.population * config.routes * STEPS)


def searched(policy: PreviewPolicy, weights: str) -> Tensor:
    """Return which places (n,) of the vector of all parameters are searched.

    The output is linear in its weights: the last layer, and the last row of both parts of the first
    one, which is the linear path.
    """
    marks = []
    for name, parameter in policy.named_parameters():
        mark = torch.full_like(parameter, float(weights == "all"))
        if name.startswith("last."):
            mark.fill_(1.0)
        elif name.startswith("first_"):
            mark[-1] = 1.0
        marks.append(mark.flatten())
    return torch.nonzero(torch.cat(marks))[:, 0]


class Population:
    """P policies of one shape as one: each sees its own part of the rows.

    Args:
        policy: What has the shape and the normalisation.
        weights: (P, n) all parameters of each policy.
    """

    def __init__(self, policy: PreviewPolicy, weights: Tensor) -> None:
        self.policy, self.count = policy, len(weights)
        named = dict(policy.named_parameters())
        parts = weights.split([p.numel() for p in named.values()], dim=1)
        shapes = (p.shape for p in named.values())
        self._weights = {
            name: part.reshape(self.count, *shape)
            for name, part, shape in zip(named, parts, shapes, strict=True)
        }

    def __call__(self, seen: Observation) -> Tensor:
        """Return the steer (P * R,) for an observation of P * R rows."""
        parts = (part.unflatten(0, (self.count, -1)) for part in seen)
        return vmap(self._one)(self._weights, *parts).flatten()

    def _one(self, weights: dict[str, Tensor], *parts: Tensor) -> Tensor:
        return functional_call(self.policy, weights, (Observation(*parts),))


def population_costs(
    policy: PreviewPolicy, weights: Tensor, plant: Plant, routes: Segments, seeds: list[int]
) -> Floats:
    """Return the mean total_cost (P,) of policies with weights (P, n) over the same R routes."""
    count = len(weights)
    many = routes[np.tile(np.arange(len(routes)), count)]
    simulator = Simulator(plant, many, len(many))
    for _ in rollout(simulator, PolicyController(Population(policy, weights)), seeds * count):
        pass
    costs = official_costs(simulator.targets(), simulator.lataccel).total_cost
    return costs.reshape(count, -1).mean(axis=1)


class Search:
    """CMA-ES around zero, as a part of a training loop.

    What it has been told is its state: a search that is told the same again is the same.

    Args:
        size: Number of weights.
        config: Options.
        seed: Of its draws.
    """

    def __init__(self, size: int, config: EvolutionConfig, seed: int) -> None:
        try:
            import cma
        except ImportError:
            raise InputError(
                "recipe=cma needs the package cma: pip install 'steerlab[train]'"
            ) from None
        rng = np.random.default_rng([generator_seed("training", seed), size])
        options = {
            "popsize": config.population,
            "seed": math.nan,  # it would seed numpy's global generator
            "randn": lambda *shape: rng.standard_normal(shape),
            "verbose": -9,
        }
        self._strategy: Any = cma.CMAEvolutionStrategy(size * [0.0], config.sigma, options)
        self._asked: list[Floats] = []
        self._told: list[Floats] = []

    def ask(self) -> Floats:
        """Return the weights (P, n) of the next generation."""
        self._asked = self._strategy.ask()
        return np.stack(self._asked)

    def tell(self, costs: Floats) -> None:
        """Learn what the generation cost (P,)."""
        self._strategy.tell(self._asked, costs.tolist())
        self._told.append(costs)

    @property
    def mean(self) -> Floats:
        """The mean (n,) of the density."""
        return self._strategy.mean

    @property
    def sigma(self) -> float:
        """The overall deviation of the density."""
        return float(self._strategy.sigma)

    def state_dict(self) -> dict[str, Tensor]:
        """Return what every generation so far cost."""
        return {"told": torch.tensor(np.array(self._told))}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go through the generations again."""
        for costs in state["told"].numpy():
            self.ask()
            self.tell(costs)


def check(config: EvolutionConfig) -> None:
    """Check the options.

    Raises:
        InputError: One is out of range.
    """
    if config.weights not in WEIGHTS:
        raise unknown_name("cma.weights", config.weights, WEIGHTS)
    for name, least in (("generations", 1), ("population", 4), ("routes", 1)):
        if getattr(config, name) < least:
            raise InputError(f"cma.{name}={getattr(config, name)} must be at least {least}")
    if config.sigma <= 0:
        raise InputError(f"cma.sigma={config.sigma} must be positive")
