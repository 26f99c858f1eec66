"""The recipe by gradient: rounds of driving in the plant, modelling it, and improving in the model.

The first drives are those of many random controllers; the policy of a round makes the drives of the
next. The model learns from all of them, so that it is right where the policy drives.
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import torch

from steerlab.agents.supervised import FitConfig, fit
from steerlab.agents.tinyphysics.exploration import MomentExploration, explore
from steerlab.agents.tinyphysics.model import PreviewPolicy
from steerlab.agents.tinyphysics.recipe import Bench, Trained
from steerlab.agents.tinyphysics.rollout import Roads, SoftRollout
from steerlab.agents.tinyphysics.train import GradientConfig, improve
from steerlab.envs.tinyphysics.dynamics import STEPS
from steerlab.files import writable_folder
from steerlab.options import option
from steerlab.seeds import generator_seed, initial_weights
from steerlab.surrogates.plants.moments import MomentData, MomentPlant, Transitions, moment_loss


@dataclass(frozen=True)
class RoundsConfig(GradientConfig):
    """Options of :func:`train_by_gradient`."""

    rounds: int = option(2, "rounds of driving, modelling and improving")
    rollouts: int = option(600, "drives in the plant a round, 50 s each")
    plant_epochs: int = option(10, "passes over the drives that the model makes in a round")
    updates: int = option(600, "gradient steps a round")


def train_by_gradient(bench: Bench, config: RoundsConfig, output: Path) -> Trained:
    """Return the policy of each round."""
    trial = Roads.of(bench.select)
    policies: list[PreviewPolicy] = []
    paths: list[Path] = []
    model: MomentPlant | None = None
    for number in range(config.rounds):
        folder = writable_folder(output / f"round_{number + 1}")
        driver = policies[-1] if policies else bench.start
        paths += explore_moments(bench, config.rollouts, number, folder, driver)
        model = learn_plant(model, paths, config, number, folder / "plant")
        policy = bench.first_policy()
        if policies:
            policy.load_state_dict(policies[-1].state_dict())

        def metrics(policy: PreviewPolicy, plant: MomentPlant = model) -> dict[str, float]:
            soft = soft_costs(policy, plant, trial)
            exact = float(bench.selection_costs(policy).mean())
            return {"soft_cost": float(soft.mean()), "total_cost": exact}

        policies.append(
            improve(policy, model, bench.roads, config, folder / "policy", metrics, number)
        )
    return Trained(
        policies,
        plant_steps=config.rounds * config.rollouts * STEPS,
        model_steps=config.rounds * config.updates * config.rows * config.horizon,
    )


def explore_moments(
    bench: Bench, rollouts: int, number: int, folder: Path, policy: PreviewPolicy | None = None
) -> list[Path]:
    """Return the files of a round's drives with the moments of every prediction of the plant.

    Args:
        bench: Plant and routes.
        rollouts: How many drives.
        number: Of the round.
        folder: Where the drives are kept.
        policy: Drives with a little noise on top; None for controllers drawn at random.
    """
    seed = generator_seed("data", bench.seed, number)
    exploration = MomentExploration(bench.plant, bench.train, rollouts, seed, policy)
    return explore(exploration, writable_folder(folder / "drives"), bench.processes)


def learn_plant(
    model: MomentPlant | None, paths: Sequence[Path], config: RoundsConfig, part: int, output: Path
) -> MomentPlant:
    """Return a model that learned from all drives; every twentieth file validates it.

    Args:
        model: Where learning starts; None for a new one.
        paths: Files of drives.
        config: Options of the study.
        part: Tells trainings of one run apart.
        output: Folder of the results.
    """
    drives = [Transitions.load(path) for path in paths]
    kept = [d for i, d in enumerate(drives) if i % 20] or drives
    train, valid = (MomentData(Transitions.join(some)) for some in (kept, drives[::20]))
    if model is None:
        with initial_weights(config.seed):
            model = MomentPlant()
        rng = torch.Generator().manual_seed(generator_seed("data", config.seed, part, 1))
        model.fit_normaliser(train[torch.randint(len(train), (20_000,), generator=rng)])
    model = deepcopy(model).requires_grad_(True)
    options = FitConfig(
        epochs=config.plant_epochs,
        batch_size=1024,
        learning_rate=4e-3,
        warmup_steps=50,
        seed=config.seed + part,
        device="cpu",
    )
    fit(model, moment_loss, train, valid, options, output)
    return model.requires_grad_(False)


@torch.no_grad()
def soft_costs(policy: PreviewPolicy, plant: MomentPlant, roads: Roads) -> torch.Tensor:
    """Return the total_cost (N,) of every route in the model, always with the same noise."""
    rng = torch.Generator().manual_seed(generator_seed("validation"))
    noise = torch.randn(STEPS, len(roads.road), generator=rng)
    return torch.stack(list(SoftRollout(plant, roads).drive(policy, noise))).sum(dim=0)
