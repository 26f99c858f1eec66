"""Small networks with a contract's shapes: random weights, but plans a car could drive."""

import torch
from torch import Tensor, nn

from steerlab.exporters.openpilot.contracts import T_IDXS, Model, plan_column

SPEED = 15.0  # m/s, of every plan


class Driver(nn.Module):
    """Every head is a linear map of the inputs; the plan is an arc at constant speed."""

    def __init__(self, model: Model, seed: int = 0) -> None:
        super().__init__()
        self.model = model
        generator = torch.Generator().manual_seed(seed)

        def linear(width: int, to: int) -> nn.Linear:
            layer = nn.Linear(width, to)
            nn.init.normal_(layer.weight, std=width**-0.5, generator=generator)
            nn.init.normal_(layer.bias, std=0.1, generator=generator)
            return layer

        def values(shape: tuple[int, ...]) -> int:
            return 12 * 8 if len(shape) == 4 else int(torch.tensor(shape).prod())

        width = 16
        self.reads = nn.ModuleDict(
            {n: linear(values(i.shape), width) for n, i in model.inputs.items()}
        )
        self.tensors = {n: s for h in model.heads.values() for n, s in h.tensors.items()}
        self.heads = nn.ModuleDict(
            {
                n: linear(width, int(torch.tensor(s).prod()))
                for n, s in self.tensors.items()
                if n != "plan"
            }
        )
        self.curves = linear(width, 5)

    def forward(self, *inputs: Tensor) -> dict[str, Tensor]:
        context: Tensor | float = 0.0
        for x, layer in zip(inputs, self.reads.values(), strict=True):
            if x.dtype == torch.uint8:
                x = nn.functional.avg_pool2d(x.float() / 255.0, 64)
            context = context + layer(x.flatten(1))
        assert isinstance(context, Tensor)
        context = torch.tanh(0.5 * context)
        found = {n: h(context).unflatten(1, self.tensors[n]) for n, h in self.heads.items()}
        curves = torch.tanh(self.curves(context))
        curvature = 0.02 * curves[:, :1] + 0.001 * curves  # the hypotheses differ a little
        plans = arc(curvature)
        found["plan"] = plans if len(self.tensors["plan"]) == 3 else plans[:, 0]
        if "desired_curvature" in found:
            found["desired_curvature"] = curvature[:, :1]
        return found


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


class Flat(nn.Module):
    """A flat output that a wrong exporter would make, from the same network."""

    def __init__(self, network: Driver, pack: object) -> None:
        super().__init__()
        self.network, self.pack = network, pack

    def forward(self, *inputs: Tensor) -> Tensor:
        assert callable(self.pack)
        return self.pack(self.network.model, self.network(*inputs))
