"""A small network for any contract, for tests and benchmarks: random weights, but drivable plans.

It is no driver: it has learned nothing. Its plans are arcs at a constant speed, so that every check
that a trained policy must pass has something to hold on to.
"""

import torch
from torch import Tensor, nn

from steerlab.exporters.unrolled_rnn import UnrolledRNN
from steerlab.openpilot.contracts import T_IDXS, Model, plan_column

SPEED = 15.0  # m/s, of every plan
_WIDTH = 16


class SampleNetwork(nn.Module):
    """Takes the inputs of ``model`` in order and returns its named tensors.

    Args:
        model: Network of a contract.
        seed: Seed of the weights.
        gru: Units of a layer-normalised, written-out GRU over the feature history; 0 for a linear
            map of it.
    """

    def __init__(self, model: Model, seed: int = 0, gru: int = 0) -> None:
        super().__init__()
        self.tensors = {n: s for h in model.heads.values() for n, s in h.tensors.items()}
        self.reads, self.heads = nn.ModuleDict(), nn.ModuleDict()
        for name, spec in model.inputs.items():
            if gru and spec.feed == "features":
                self.reads[name] = _History(spec.shape[-1], gru)
            else:
                self.reads[name] = nn.Linear(_values(spec.shape), _WIDTH)
        for name, shape in self.tensors.items():
            if name != "plan":
                self.heads[name] = nn.Linear(_WIDTH, _values(shape))
        self.curves = nn.Linear(_WIDTH, 5)
        generator = torch.Generator().manual_seed(seed)
        for name, weights in self.named_parameters():
            scale = weights.shape[-1] ** -0.5 if weights.ndim > 1 else 0.1
            offset = 1.0 if name.endswith("norm.weight") else 0.0
            nn.init.normal_(weights, mean=offset, std=scale, generator=generator)

    def forward(self, *inputs: Tensor) -> dict[str, Tensor]:
        """Return the tensors that :func:`~steerlab.openpilot.outputs.pack` takes."""
        parts = []
        for x, layer in zip(inputs, self.reads.values(), strict=True):
            if x.dtype == torch.uint8:
                x = nn.functional.avg_pool2d(x.float() / 255.0, 64)
            parts.append(layer(x if isinstance(layer, _History) else x.flatten(1)))
        context = torch.tanh(0.5 * torch.stack(parts).sum(dim=0))
        found = {n: h(context).unflatten(1, self.tensors[n]) for n, h in self.heads.items()}
        curves = torch.tanh(self.curves(context))
        # Bends of a motorway; the hypotheses differ a little. Sharper ones multiply
        # float32's rounding: with 0.004 torch and onnxruntime differed by 1.4e-5 in y at 7 s.
        curvature = 0.0005 * curves[:, :1] + 0.00003 * curves
        if "plan" in self.tensors:
            plans = arc(curvature)
            found["plan"] = plans if len(self.tensors["plan"]) == 3 else plans[:, 0]
        if "desired_curvature" in found:
            found["desired_curvature"] = curvature[:, :1]
        return {name: found[name] for name in self.tensors}


class _History(nn.Module):
    """A written-out GRU over (B, T, F), its inputs layer-normalised."""

    def __init__(self, features: int, units: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(features)
        self.cell = UnrolledRNN(nn.GRU(features, units))
        self.out = nn.Linear(units, _WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        state = x.new_zeros(x.shape[0], 1, self.cell.rnn.hidden_size)
        latent = state[:, 0]
        for t in range(x.shape[1]):
            latent, state = self.cell(x[:, t], state)
        return self.out(latent)


def arc(curvature: Tensor) -> Tensor:
    """Return plans (B, M, 33, 15) of constant curvature (B, M), positive to the right."""
    t = torch.as_tensor(T_IDXS, dtype=curvature.dtype)
    yaw_rate = (SPEED * curvature)[..., None].expand(*curvature.shape, len(t))
    yaw = yaw_rate * t
    columns = {
        "x": SPEED * t * torch.ones_like(yaw),
        "y": 0.5 * SPEED * yaw * t,
        "vx": SPEED * torch.ones_like(yaw),
        "vy": SPEED * yaw,
        "ay": SPEED * yaw_rate,
        "yaw": yaw,
        "yaw_rate": yaw_rate,
    }
    plan = [torch.zeros_like(yaw)] * 15
    for name, values in columns.items():
        plan[plan_column(name)] = values
    return torch.stack(plan, dim=-1)


def _values(shape: tuple[int, ...]) -> int:
    """Return how many values a flattened input has; images are pooled by 64 first."""
    if len(shape) == 4:
        return shape[0] * shape[1] * (shape[2] // 64) * (shape[3] // 64)
    size = 1
    for length in shape:
        size *= length
    return size
