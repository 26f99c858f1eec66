"""Learned plants with comma's signature: a compact recurrent classifier over the 1,024 tokens.

Two demands shape the network. It must be cheap, although its output of 20 x 1,024 logits is as wide
as that of comma's transformer; and it must be sharp, since a typical prediction spreads over fewer
than four bins. So the recurrent network predicts, for each position, a mean relative to the last
token, a width and a few coefficients of shape; logits are a sum of fixed functions over the bins,
the quadratic of a normal density and six harmonics of a period of 128 bins, which is one product
of small matrices, cut off below at a level that is predicted too, since real predictions have tails
that no normal density has. The form is differentiable in the inputs, for those who plan through it.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor, nn

from steerlab.errors import InputError, unknown_name
from steerlab.surrogates.plants.base import TEMPERATURE, Logits, Plant
from steerlab.surrogates.plants.tokens import BINS, LIMIT, VOCABULARY

BIN_WIDTH = 2 * LIMIT / (VOCABULARY - 1)  # m/s^2
CENTER = (VOCABULARY - 1) / 2  # token of zero lateral acceleration, between two bins
FORM = "2"  # of what the network's numbers mean; a file of another form cannot be read back
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


@dataclass(frozen=True)
class GruSize:
    """Sizes of :class:`GruSurrogate`."""

    hidden: int
    embedding: int = 8
    harmonics: int = 6


SIZES = {"small": GruSize(48), "medium": GruSize(64), "large": GruSize(88)}


class GruSurrogate(SurrogateModel):
    """One GRU layer over steps, and a small head that gives each step's distribution.

    Args:
        size: small, medium or large.
    """

    PERIOD = 128  # bins of the longest harmonic
    LEAST_SPREAD = 0.25  # bins
    SIGNALS = 15  # derived from a step, before the token's embedding

    mean: Tensor
    scale: Tensor
    basis: Tensor

    def __init__(self, size: str = "medium") -> None:
        super().__init__()
        if size not in SIZES:
            raise unknown_name("size", size, SIZES)
        self.size = size
        sizes = SIZES[size]
        self.harmonics = sizes.harmonics
        self.embedding = nn.Embedding(VOCABULARY, sizes.embedding)
        nn.init.normal_(self.embedding.weight, std=0.1)
        self.gru = nn.GRU(self.SIGNALS + sizes.embedding, sizes.hidden, batch_first=True)
        last = nn.Linear(sizes.hidden, 3 + 2 * sizes.harmonics)
        with torch.no_grad():  # start near "as before, as wide as usual"
            last.weight *= 0.1
            last.bias.zero_()
        self.head = nn.Sequential(
            nn.Linear(sizes.hidden + self.SIGNALS, sizes.hidden), nn.SiLU(), last
        )
        self.register_buffer("mean", torch.zeros(self.SIGNALS))
        self.register_buffer("scale", torch.ones(self.SIGNALS))
        self.register_buffer("basis", _basis(sizes.harmonics, self.PERIOD), persistent=False)

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
        hidden, _ = self.gru(torch.cat([signals, embedded], dim=-1))
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
    def logits(self, states: NDArray[np.float32], tokens: NDArray[np.int64]) -> Logits:
        """Return the logits (B, 1024) of the next token."""
        device = next(self.model.parameters()).device
        inputs = (torch.from_numpy(np.ascontiguousarray(a)).to(device) for a in (states, tokens))
        return self.model.last(*inputs).cpu().numpy()


ARCHITECTURES: dict[str, type[SurrogateModel]] = {"gru": GruSurrogate}


def build(architecture: str, size: str) -> SurrogateModel:
    """Return an untrained model.

    Raises:
        InputError: There is no such architecture or size.
    """
    if architecture not in ARCHITECTURES:
        raise unknown_name("architecture", architecture, ARCHITECTURES)
    return ARCHITECTURES[architecture](size)


def read_surrogate(
    proto: onnx.ModelProto, metadata: Mapping[str, str], path: object
) -> SurrogateModel:
    """Return the model that an ONNX file of ours holds, with its weights.

    Args:
        proto: The file.
        metadata: Its ``metadata_props``.
        path: Where it came from, for messages.

    Raises:
        InputError: The file is of another version, or the graph does not hold the weights that its
            metadata promises.
    """
    if metadata.get("steerlab.form") != FORM:
        raise InputError(
            f"plant {str(path)!r} was exported by another version of steerlab, whose numbers mean "
            "something else; it runs with runtime=exact or fast, for torch train it again"
        )
    try:
        model = build(metadata["steerlab.architecture"], metadata["steerlab.size"])
        model.load_state_dict(_gru_weights(proto.graph), strict=False)
    except (KeyError, StopIteration, RuntimeError) as error:
        raise InputError(
            f"plant {str(path)!r} says it is one of steerlab's, but its weights are not where they "
            f"belong ({type(error).__name__}: {error}); export it again"
        ) from error
    return model.eval()


def _gru_weights(graph: onnx.GraphProto) -> dict[str, Tensor]:
    """Return the weights of a graph under the names of :class:`GruSurrogate`."""
    stored = {i.name: torch.from_numpy(numpy_helper.to_array(i).copy()) for i in graph.initializer}
    names = ("embedding.weight", "head.0.bias", "head.2.bias", "mean", "scale")
    weights = {name: stored[name] for name in names}
    matrices = [n.input[1] for n in graph.node if n.op_type == "MatMul" and n.input[1] in stored]
    for name, matrix in zip(("head.0.weight", "head.2.weight"), matrices, strict=False):
        weights[name] = stored[matrix].T
    gru = next(node for node in graph.node if node.op_type == "GRU")
    inputs, recurrent, biases = (stored[name][0] for name in gru.input[1:4])
    hidden = recurrent.shape[1]

    def reset_first(values: Tensor) -> Tensor:
        """Turn ONNX's order of gates (update, reset, new) into torch's (reset, update, new)."""
        update, reset, new = values.split(hidden)
        return torch.cat([reset, update, new])

    weights["gru.weight_ih_l0"] = reset_first(inputs)
    weights["gru.weight_hh_l0"] = reset_first(recurrent)
    for name, values in zip(("ih", "hh"), biases.split(3 * hidden), strict=True):
        weights[f"gru.bias_{name}_l0"] = reset_first(values)
    return weights
