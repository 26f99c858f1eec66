"""The linear part of the policy by least squares, before anything is trained by gradients.

A tracking controller is nearly linear in what it sees and saw. Least squares finds that part exactly in a
minute, where gradient descent, on inputs that are as correlated as the points of a line, takes hours. As in
DAgger (Ross, Gordon and Bagnell 2011) the policy of now drives and the teacher says what is right; what
earlier drives taught fades. Errors weigh by their size, not its square: in the end a car spends its time
where they are small.
"""

from collections.abc import Callable, Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from steerlab.agents.policynet.losses import lateral_bound
from steerlab.agents.policynet.model import WINDOW, PolicyNet
from steerlab.agents.policynet.rollout import FRAME, BehaviorMix, Rollout, Teacher, collect
from steerlab.envs.kinematic_driver.env import KinematicDriverVectorEnv
from steerlab.openpilot.contracts import FEATURES, STRIDE

#: Share of the time that the teacher drives, and that commands are disturbed, in the first drives.
MIXES = (BehaviorMix(1.0, 0.4), BehaviorMix(0.5, 0.02), BehaviorMix(0.0, 0.02))
EVERY = 2  # of so many steps one gives equations
FADING = 0.8  # what earlier drives still count for after one more
RIDGE = 1e-4  # share of each column's own square that is added to it
SMALL = 0.02  # below this error, in commands of up to about 1, weights grow no more

Floats = NDArray[np.float64]


def fit_linear(
    network: PolicyNet,
    make_teacher: Callable[[KinematicDriverVectorEnv], Teacher],
    seeds: Iterable[int],
    rows: int = 128,
    steps: int = 300,
) -> None:
    """Set the linear part of a fresh network, whose other part says nothing yet.

    Args:
        network: The policy; its linear part changes.
        make_teacher: Makes the teacher of a drive.
        seeds: First seed of each drive.
        rows: Episodes that are driven side by side.
        steps: Steps of each row.
    """
    size = FEATURES + 1 + network.past.in_features
    gram, product, weights = np.zeros((2, size, size)), np.zeros((2, size)), np.zeros((2, size))
    for number, seed in enumerate(seeds):
        env = KinematicDriverVectorEnv(rows, autoreset_mode="Disabled")
        mix = MIXES[min(number, len(MIXES) - 1)]
        drive = collect(network.eval(), env, make_teacher(env), steps, seed, mix)
        inputs, wanted = _equations(network, drive)
        for j in range(2):
            missed = np.abs(wanted[:, j] - inputs @ weights[j])
            heavy = 1.0 / (SMALL + missed) if number else np.ones(len(missed))
            weighed = inputs * (heavy / heavy.mean())[:, None]
            gram[j] = FADING * gram[j] + weighed.T @ inputs
            product[j] = FADING * product[j] + weighed.T @ wanted[:, j]
            square = np.diag(gram[j])
            ridge = np.diag(RIDGE * (square + 1e-6 * square.mean()))
            weights[j] = np.linalg.solve(gram[j] + ridge, product[j])
        _set(network, torch.as_tensor(weights, dtype=torch.float32))


@torch.no_grad()
def _equations(network: PolicyNet, drive: Rollout) -> tuple[Floats, Floats]:
    """Return what the linear part sees (M, K) and what it ought to say (M, 2)."""
    features, given = drive.features.float(), FRAME.split(drive.frames)
    readings = network.frames(features, given["desire"]).readings
    # What is said is bounded by tanh afterwards.
    steer = given["wanted"][..., 0] / lateral_bound(network, given["car"]) / 2.0
    said = torch.stack(
        [2.0 * steer.clamp(-0.9, 0.9).atanh(), 5.0 * (given["wanted"][..., 1] / 5.0).atanh()], -1
    )
    inputs, wanted = [], []
    for step in range(0, len(features), EVERY):
        at = step - STRIDE * torch.arange(WINDOW - 1, -1, -1)
        known = (at[:, None] >= drive.first[step])[..., None]
        window = (readings[at.clamp(min=0)] * known).transpose(0, 1).flatten(1)
        inputs.append(torch.cat([features[step], torch.ones(len(window), 1), window], 1))
        wanted.append(said[step])
    return torch.cat(inputs).double().numpy(), torch.cat(wanted).double().numpy()


@torch.no_grad()
def _set(network: PolicyNet, weights: Tensor) -> None:
    """Write weights (2, K) of steering and pedals into the network."""
    now, constant, past = weights.split([FEATURES, 1, network.past.in_features], dim=1)
    network.direct.weight.copy_(now)
    network.direct.bias.copy_(constant[:, 0])
    network.past.weight.copy_(past)
