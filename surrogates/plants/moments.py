"""Mean and spread of a plant's next lateral acceleration: a plant that gradients pass cheaply.

Of a plant's 1,024 chances the cost of a controller sees two numbers, their mean and their variance.
A small network that predicts these two from the window that the plant sees is some hundred times
cheaper than the plant, forward and backward. It is taught by the plant itself: every step of every
rollout gives one window with the exact two numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from steerlab.readers.arrays import ArrayRecord
from steerlab.surrogates.plants.base import CONTEXT, Plant, probabilities
from steerlab.surrogates.plants.tokens import BINS
from steerlab.types import Singles

Batch = dict[str, Tensor]

_LARGE = 5.0  # nats, from which on an example's loss grows with the logarithm only


class MomentRecorder(Plant):
    """A plant that notes mean and deviation of what it predicts, at the sampling temperature.

    Attributes:
        mean: (N,) m/s^2, one array a call.
        deviation: (N,) m/s^2, one array a call.
    """

    def __init__(self, plant: Plant) -> None:
        self.plant = plant
        self.mean: list[Singles] = []
        self.deviation: list[Singles] = []

    def logits(self, states: Singles, tokens: NDArray[np.int64]) -> Singles:
        """Return the plant's logits (B, 1024) and note their moments."""
        logits = self.plant.logits(states, tokens)
        chances = probabilities(logits).astype(np.float64)
        mean = chances @ BINS
        variance = np.maximum(chances @ BINS**2 - mean**2, 0.0)
        self.mean.append(mean.astype(np.float32))
        self.deviation.append(np.sqrt(variance).astype(np.float32))
        return logits


@dataclass(frozen=True)
class Transitions(ArrayRecord):
    """R rollouts of T steps, the last K of which have labels.

    Attributes:
        steer: (R, T).
        lataccel: (R, T) m/s^2.
        road: (R, T, 3): roll_lataccel (m/s^2), v_ego (m/s), a_ego (m/s^2).
        mean: (R, K) of the plant's prediction, m/s^2.
        deviation: (R, K) of the plant's prediction, m/s^2.
    """

    steer: Singles
    lataccel: Singles
    road: Singles
    mean: Singles
    deviation: Singles


class MomentData:
    """Every labelled step of transitions: a data set for :func:`steerlab.agents.supervised.fit`."""

    def __init__(self, transitions: Transitions) -> None:
        self._parts = {n: torch.as_tensor(v) for n, v in transitions.__dict__.items()}
        self._labels = transitions.mean.shape[1]
        self._first = transitions.steer.shape[1] - self._labels

    def __len__(self) -> int:
        return self._parts["mean"].numel()

    def __getitem__(self, indices: Tensor) -> Batch:
        """Return steer, lataccel (B, 20), road (B, 20, 3), mean and deviation (B,)."""
        row, label = indices // self._labels, indices % self._labels
        steps = (label + self._first)[:, None] + torch.arange(-CONTEXT + 1, 1)
        parts = self._parts
        return {
            "steer": parts["steer"][row[:, None], steps],
            "lataccel": parts["lataccel"][row[:, None], steps - 1],
            "road": parts["road"][row[:, None], steps],
            "mean": parts["mean"][row, label],
            "deviation": parts["deviation"][row, label],
        }


class MomentPlant(nn.Module):
    """Mean and deviation of the next lateral acceleration from 20 steps of history.

    Two hidden layers beside a linear path. What the first layer makes of the road can be computed
    for many steps at once (:meth:`look_behind`), before the car has driven them.

    Args:
        hidden: Units of the two layers.
    """

    ROAD_LAGS = (0, 1, 2, 4, 8, 16)  # steps back at which the network sees the road's roll

    road_mean: Tensor
    road_scale: Tensor
    own_mean: Tensor
    own_scale: Tensor

    def __init__(self, hidden: Sequence[int] = (128, 64)) -> None:
        super().__init__()
        for name, size in (("road", len(self.ROAD_LAGS) + 4), ("own", 3 * CONTEXT + 2)):
            self.register_buffer(f"{name}_mean", torch.zeros(size))
            self.register_buffer(f"{name}_scale", torch.ones(size))
        # The first layer in two parts; its last two outputs are the linear path.
        self.first_road = nn.Linear(len(self.ROAD_LAGS) + 4, hidden[0] + 2)
        self.first_own = nn.Linear(3 * CONTEXT + 2, hidden[0] + 2, bias=False)
        self.second = nn.Linear(hidden[0], hidden[1])
        self.last = nn.Linear(hidden[1], 2)

    def forward(self, steer: Tensor, lataccel: Tensor, road: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and deviation (B,), m/s^2.

        Args:
            steer: (B, 20), the last is the one that acts now.
            lataccel: (B, 20) m/s^2, one step older.
            road: (B, 20, 3): roll_lataccel, v_ego, a_ego of the steps of ``steer``.
        """
        return self.predict(self.look_behind(road), steer, lataccel)

    def look_behind(self, road: Tensor) -> Tensor:
        """Return the road's part (..., H) of the first layer from road (..., 20, 3)."""
        return self.first_road((self._road_features(road) - self.road_mean) / self.road_scale)

    def predict(self, behind: Tensor, steer: Tensor, lataccel: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and deviation (B,) from the road's part and the two histories (B, 20)."""
        own = (self._own_features(steer, lataccel) - self.own_mean) / self.own_scale
        sums = behind + self.first_own(own)
        hidden = nn.functional.silu(self.second(nn.functional.silu(sums[:, :-2])))
        change, spread = (sums[:, -2:] + self.last(hidden)).unbind(-1)
        return lataccel[:, -1] + 0.1 * change, 0.035 * torch.exp(spread.clamp(-4, 4))

    def _road_features(self, road: Tensor) -> Tensor:
        roll, speed, acceleration = road.unbind(-1)
        v = speed[..., -1:]
        lags = [-1 - lag for lag in self.ROAD_LAGS]
        parts = [roll[..., lags], v, v - speed[..., -6:-5], 1 / (v.clamp(min=0) + 2)]
        return torch.cat([*parts, acceleration[..., -1:]], dim=-1)

    def _own_features(self, steer: Tensor, lataccel: Tensor) -> Tensor:
        now = lataccel[:, -1:]
        return torch.cat(
            [
                steer,
                # Small changes decide at low speed, large ones at high speed: both scales.
                torch.asinh(20 * (steer[:, 1:] - steer[:, :-1])),
                lataccel[:, :-1] - now,
                now,
                torch.asinh(5 * now),
                torch.asinh(5 * steer[:, -1:]),
                torch.asinh(20 * (now - lataccel[:, -2:-1])),
            ],
            dim=1,
        )

    def fit_normaliser(self, batch: Batch) -> None:
        """Set the normalisation from examples; it is kept among the weights."""
        seen = {
            "road": self._road_features(batch["road"]),
            "own": self._own_features(batch["steer"], batch["lataccel"]),
        }
        for name, inputs in seen.items():
            getattr(self, f"{name}_mean").copy_(inputs.mean(dim=0))
            getattr(self, f"{name}_scale").copy_(inputs.std(dim=0).clamp(min=1e-3))


def moment_loss(model: nn.Module, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
    """Return the divergence of two normal densities, the label's and the prediction's.

    A loss for :func:`steerlab.agents.supervised.fit`. ``error`` is the root mean square of the
    mean's error in m/s^2, ``spread`` that of the log of the deviation.
    """
    mean, deviation = model(batch["steer"], batch["lataccel"], batch["road"])
    label = batch["deviation"].clamp(min=0.01)
    apart = (mean - batch["mean"]).square()
    log_ratio = torch.log(deviation / label)
    divergence = log_ratio + (label.square() + apart) / (2 * deviation.square()) - 0.5
    damped = _LARGE * (1 + torch.log(divergence.clamp(min=_LARGE) / _LARGE))
    return {
        "loss": torch.where(divergence > _LARGE, damped, divergence).mean(),
        "error": apart.mean().sqrt(),
        "spread": log_ratio.square().mean().sqrt(),
    }
