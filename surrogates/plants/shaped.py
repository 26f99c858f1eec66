"""Learned plants with comma's signature: compact sequence models over the 1,024 tokens.

Two demands shape the network. It must be cheap, although its output of 20 x 1,024 logits is as wide
as that of comma's transformer; and it must be sharp, since a typical prediction spreads over fewer
than four bins. So the network predicts, for each position, a mean relative to the last
token, a width and a few coefficients of shape; logits are a sum of fixed functions over the bins,
the quadratic of a normal density and six harmonics of a period of 128 bins, which is one product
of small matrices, cut off below at a level that is predicted too, since real predictions have tails
that no normal density has. The form is differentiable in the inputs, for those who plan through it.
"""

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from steerlab.errors import unknown_name
from steerlab.surrogates.plants.base import TEMPERATURE, Plant
from steerlab.surrogates.plants.tokens import BINS, LIMIT, VOCABULARY
from steerlab.types import Singles

BIN_WIDTH = 2 * LIMIT / (VOCABULARY - 1)  # m/s^2
CENTER = (VOCABULARY - 1) / 2  # token of zero lateral acceleration, between two bins
STATE_NAMES = ("steer", "roll_lataccel", "v_ego", "a_ego")


class SurrogateModel(nn.Module, ABC):
    """What the training loop, the export and the simulator ask of an architecture.

    Lateral accelerations are given in tokens, as floats where gradients must pass.
    """

    @abstractmethod
    def forward(self, states: Tensor, tokens: Tensor) -> Tensor:
        """Return logits (B, T, 1024) from states (B, T, 4) and int64 tokens (B, T)."""

    def last(self, states: Tensor, tokens: Tensor) -> Tensor:
        """Return the logits (B, 1024) of the last position."""
        return self(states, tokens)[:, -1]

    @abstractmethod
    def band(self, states: Tensor, tokens: Tensor, start: Tensor, width: int) -> Tensor:
        """Return log probabilities (B, K, width) of the bins from ``start`` (B, K) on.

        Those of the last K positions, as :meth:`forward` has them, without most of the work. Where
        ``start`` is negative, those of ``width`` equal cells that span all bins.
        """

    @abstractmethod
    def forward_soft(self, states: Tensor, lataccel: Tensor) -> Tensor:
        """Return the last position's logits (B, 1024), differentiable in both inputs.

        ``lataccel`` (B, T) is in m/s^2 and need not lie on a bin.
        """

    @abstractmethod
    def fit_normaliser(self, states: Tensor, tokens: Tensor) -> None:
        """Set the normalisation from examples; it is kept among the weights."""

    def expect(self, logits: Tensor) -> Tensor:
        """Return the expected lateral acceleration (B,), m/s^2, at the sampling temperature."""
        bins = torch.tensor(BINS.tolist(), dtype=logits.dtype, device=logits.device)
        return torch.softmax(logits / TEMPERATURE, dim=-1) @ bins


class ShapedSurrogate(SurrogateModel):
    """A network over steps, and a small head that gives each step's distribution.

    A subclass has the network: ``width`` units for each size, made by ``_make_network``, and applied by
    ``_remember``.

    Args:
        size: small, medium or large.
    """

    #: Units of the network by size.
    SIZES: ClassVar[dict[str, int]]
    EMBEDDING = 8
    HARMONICS = 6
    PERIOD = 128  # bins of the longest harmonic
    LEAST_SPREAD = 0.25  # bins
    SIGNALS = 15  # derived from a step, before the token's embedding

    mean: Tensor
    scale: Tensor
    basis: Tensor

    def __init__(self, size: str = "medium") -> None:
        super().__init__()
        if size not in self.SIZES:
            raise unknown_name("size", size, self.SIZES)
        self.size, hidden, self.harmonics = size, self.SIZES[size], self.HARMONICS
        self.embedding = nn.Embedding(VOCABULARY, self.EMBEDDING)
        nn.init.normal_(self.embedding.weight, std=0.1)
        self._make_network(self.SIGNALS + self.EMBEDDING, hidden)
        last = nn.Linear(hidden, 3 + 2 * self.HARMONICS)
        with torch.no_grad():  # start near "as before, as wide as usual"
            last.weight *= 0.1
            last.bias.zero_()
        self.head = nn.Sequential(nn.Linear(hidden + self.SIGNALS, hidden), nn.SiLU(), last)
        self.register_buffer("mean", torch.zeros(self.SIGNALS))
        self.register_buffer("scale", torch.ones(self.SIGNALS))
        self.register_buffer("basis", _basis(self.HARMONICS, self.PERIOD), persistent=False)

    @abstractmethod
    def _make_network(self, inputs: int, hidden: int) -> None:
        """Make the layers between ``inputs`` numbers a step and ``hidden`` ones."""

    @abstractmethod
    def _remember(self, steps: Tensor) -> Tensor:
        """Return (B, T, hidden) from steps (B, T, inputs); no step sees a later one."""

    def forward(self, states: Tensor, tokens: Tensor) -> Tensor:
        """Return logits (B, T, 1024) from states (B, T, 4) and int64 tokens (B, T)."""
        values = tokens.float() - CENTER
        return self._logits(values, self._predict(states, values, self.embedding(tokens)))

    def last(self, states: Tensor, tokens: Tensor) -> Tensor:
        """Return the logits (B, 1024) of the last position."""
        values = tokens.float() - CENTER
        predicted = self._predict(states, values, self.embedding(tokens), 1)
        return self._logits(values[:, -1:], predicted)[:, 0]

    def forward_soft(self, states: Tensor, lataccel: Tensor) -> Tensor:
        """Return the last position's logits (B, 1024), differentiable in both inputs."""
        place = lataccel.clamp(-LIMIT, LIMIT) / BIN_WIDTH + CENTER
        lower = place.detach().floor().long().clamp(max=VOCABULARY - 2)
        share = (place - lower).unsqueeze(-1)
        embedded = (1 - share) * self.embedding(lower) + share * self.embedding(lower + 1)
        values = place - CENTER
        predicted = self._predict(states, values, embedded, 1)
        return self._logits(values[:, -1:], predicted)[:, 0]

    def band(self, states: Tensor, tokens: Tensor, start: Tensor, width: int) -> Tensor:
        """Return log probabilities (B, K, width) of the bins from ``start`` (B, K) on.

        The bins outside are taken to be at the floor. Where ``start`` is negative, those of ``width``
        equal cells that span all bins.
        """
        values = tokens.float() - CENTER
        predicted = self._predict(states, values, self.embedding(tokens), start.shape[1])
        shape = self._shape(values[:, -start.shape[1] :], predicted)
        found = self._band(shape, start.clamp(min=0), width)
        wide = start < 0
        if wide.any():
            some = tuple(part[wide] for part in shape)
            bins = self._band(some, torch.zeros_like(start[wide]), VOCABULARY)
            found[wide] = bins.unflatten(-1, (width, -1)).logsumexp(-1)
        return found

    def _band(self, shape: tuple[Tensor, ...], start: Tensor, width: int) -> Tensor:
        """Return log probabilities (..., width) of the bins from ``start`` (...) on."""
        mean, spread, amplitudes, floor = shape
        bins = torch.arange(width, device=start.device)
        distance = (start.float() - CENTER - mean).unsqueeze(-1) + bins
        logits = -0.5 * (distance / spread.unsqueeze(-1)).square()
        angle = distance * (2 * np.pi / self.PERIOD)
        turn, double = torch.sin(angle), 2 * torch.cos(angle)
        cosines, sines = [torch.ones_like(turn), double / 2], [torch.zeros_like(turn), turn]
        for k in range(1, self.harmonics + 1):
            logits = logits + amplitudes[..., k - 1 : k] * cosines[-1]
            place = self.harmonics + k - 1
            logits = logits + amplitudes[..., place : place + 1] * sines[-1]
            cosines.append(double * cosines[-1] - cosines[-2])
            sines.append(double * sines[-1] - sines[-2])
        logits = torch.maximum(logits, floor)
        total = logits.logsumexp(-1, keepdim=True)
        if width < VOCABULARY:
            total = torch.logaddexp(total, floor + float(np.log(VOCABULARY - width)))
        return logits - total

    def fit_normaliser(self, states: Tensor, tokens: Tensor) -> None:
        """Set mean and scale of the derived signals from examples (N, T, 4) and (N, T)."""
        signals = self._signals(states, tokens.float() - CENTER).flatten(0, 1)
        self.mean.copy_(signals.mean(dim=0))
        self.scale.copy_(signals.std(dim=0).clamp(min=1e-3))

    def _signals(self, states: Tensor, values: Tensor) -> Tensor:
        """Return what a step looks like: (B, T, SIGNALS).

        Small changes decide the next token at low speed, large ones at high speed, so changes are
        given on a linear and on a logarithmic scale.
        """
        steer, roll, speed, acceleration = states.unbind(-1)
        lataccel = values * BIN_WIDTH
        steps = torch.cat([torch.zeros_like(values[:, :1]), values[:, 1:] - values[:, :-1]], 1)
        turned = torch.cat([torch.zeros_like(steer[:, :1]), steer[:, 1:] - steer[:, :-1]], 1)
        return torch.stack(
            [
                steer,
                roll,
                speed,
                acceleration,
                lataccel,
                steps,
                turned,
                torch.asinh(steps),
                torch.asinh(50 * turned),
                torch.asinh(5 * steer),
                torch.asinh(5 * roll),
                torch.asinh(20 * lataccel),
                lataccel + roll - 2 * steer,
                1 / (speed.clamp(min=0) + 2),
                torch.asinh(5 * acceleration),
            ],
            dim=-1,
        )

    def _predict(self, states: Tensor, values: Tensor, embedded: Tensor, last: int = 0) -> Tensor:
        """Return the head's output for the last positions, 0 for all."""
        signals = (self._signals(states, values) - self.mean) / self.scale
        hidden = self._remember(torch.cat([signals, embedded], dim=-1))
        return self.head(torch.cat([hidden, signals], dim=-1)[:, -last:])

    def _shape(self, values: Tensor, predicted: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return mean and spread in bins from the center, amplitudes, and the floor of the logits.

        Logits are relative to those of the normal density at its mean.
        """
        mean = values + 10 * torch.sinh(predicted[..., 0])  # a car out of its limits jumps far
        spread = torch.exp(2 * predicted[..., 1] + 1.3) + self.LEAST_SPREAD
        floor = -4 - 32 * torch.sigmoid(predicted[..., 2:3])
        return mean, spread, 2 * torch.tanh(predicted[..., 3:]), floor

    def _logits(self, values: Tensor, predicted: Tensor) -> Tensor:
        """Return the logits of all bins: the shape, moved to its mean, on the basis."""
        mean, spread, amplitudes, floor = self._shape(values, predicted)
        curvature = 1 / spread.square()
        constants = torch.stack(
            [-0.5 * curvature, mean * curvature, -0.5 * mean.square() * curvature], dim=-1
        )
        orders = torch.arange(1, self.harmonics + 1, device=mean.device)
        phase = (2 * np.pi / self.PERIOD) * mean.unsqueeze(-1) * orders
        cosines, sines = amplitudes.split(self.harmonics, dim=-1)
        # cos(w (x - m)) = cos(wx) cos(wm) + sin(wx) sin(wm), and alike for the sine.
        turned = [
            cosines * torch.cos(phase) - sines * torch.sin(phase),
            cosines * torch.sin(phase) + sines * torch.cos(phase),
        ]
        return torch.maximum(torch.cat([constants, *turned], dim=-1) @ self.basis, floor)


def _basis(harmonics: int, period: int) -> Tensor:
    """Return the fixed functions over the bins (3 + 2 harmonics, 1024)."""
    x = torch.arange(VOCABULARY, dtype=torch.float64) - CENTER
    angles = torch.arange(1, harmonics + 1)[:, None] * x * (2 * np.pi / period)
    rows = [x.square()[None], x[None], torch.ones_like(x)[None], angles.cos(), angles.sin()]
    return torch.cat(rows).float()


class ModelPlant(Plant):
    """A model in torch as a plant, for a closed loop during training."""

    def __init__(self, model: SurrogateModel) -> None:
        self.model = model

    @torch.no_grad()
    def logits(self, states: NDArray[np.float32], tokens: NDArray[np.int64]) -> Singles:
        """Return the logits (B, 1024) of the next token."""
        device = next(self.model.parameters()).device
        inputs = (torch.from_numpy(np.ascontiguousarray(a)).to(device) for a in (states, tokens))
        return self.model.last(*inputs).cpu().numpy()
