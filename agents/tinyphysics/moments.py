"""The plant of two moments: learned from drives, and what a policy costs in it."""

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

import torch

from steerlab.agents.supervised import FitConfig, fit
from steerlab.agents.tinyphysics.model import PreviewPolicy
from steerlab.agents.tinyphysics.rollout import Roads, SoftRollout
from steerlab.envs.tinyphysics.dynamics import STEPS
from steerlab.seeds import generator_seed, initial_weights
from steerlab.surrogates.plants.moments import MomentData, MomentPlant, Transitions, moment_loss


def learn_plant(
    model: MomentPlant | None,
    paths: Sequence[Path],
    output: str | Path,
    *,
    epochs: int,
    seed: int,
    part: int = 0,
) -> MomentPlant:
    """Return a model that learned from all drives; every twentieth file validates it.

    Args:
        model: Where learning starts; None for a new one.
        paths: Files of drives.
        output: Folder of the results.
        epochs: Passes over the drives.
        seed: Seed of the weights, the order of the drives and the sample for the normaliser.
        part: Number of the training in a run with several; each draws other numbers.
    """
    drives = [Transitions.load(path) for path in paths]
    kept = [d for i, d in enumerate(drives) if i % 20] or drives
    train, valid = (MomentData(Transitions.join(some)) for some in (kept, drives[::20]))
    if model is None:
        with initial_weights(seed):
            model = MomentPlant()
        rng = torch.Generator().manual_seed(generator_seed("data", seed, part, 1))
        model.fit_normaliser(train[torch.randint(len(train), (20_000,), generator=rng)])
    model = deepcopy(model).requires_grad_(True)
    options = FitConfig(
        epochs=epochs,
        batch_size=1024,
        learning_rate=4e-3,
        warmup_steps=50,
        seed=seed + part,
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
