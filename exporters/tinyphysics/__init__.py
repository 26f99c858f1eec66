"""Policies for TinyPhysics as files of others: a controller file for comma's repository, and ONNX."""

import base64
import re
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from steerlab.agents.tinyphysics.model import AHEAD, Observation, PreviewPolicy
from steerlab.exporters.onnx import export_onnx
from steerlab.exporters.tinyphysics import numpy_controller
from steerlab.files import atomic_path
from steerlab.surrogates.plants.base import CONTEXT


def write_controller(policy: PreviewPolicy, path: str | Path, about: str = "") -> None:
    """Write one Python file for ``controllers/`` of commaai/controls_challenge.

    The file is :mod:`steerlab.exporters.tinyphysics.numpy_controller` with the weights filled in;
    it needs numpy alone.

    Args:
        policy: The policy.
        path: The file.
        about: Lines on how it was made, for a comment.
    """
    shape = policy.shape
    arrays = [*_first_layer(policy), *policy.second.parameters(), *policy.last.parameters()]
    flat = np.concatenate([a.detach().numpy().ravel() for a in arrays]).astype("<f4")
    sizes = {n: getattr(shape, n) for n in ("hidden", "preview", "history", "delta")}
    filled = {
        "SHAPE: dict[str, int]": repr(sizes).replace("'", '"'),
        "WEIGHTS": f'"{base64.b64encode(flat.tobytes()).decode()}"  # noqa: E501',
    }
    text = Path(numpy_controller.__file__).read_text(encoding="utf-8")
    for name, value in filled.items():
        text, found = re.subn(
            rf"^{re.escape(name)} = .*$", f"{name} = {value}", text, flags=re.MULTILINE
        )
        assert found == 1
    comment = "".join(f"# {line}\n" for line in about.splitlines())
    with atomic_path(path) as temporary:
        temporary.write_text(text.replace("# What follows", f"{comment}# What follows"), "utf-8")


def export_policy(policy: PreviewPolicy, path: str | Path) -> None:
    """Write the policy as ONNX.

    Inputs ``road`` (b, 50, 4), ``steer`` (b, 20), ``lataccel`` (b, 20), all float32 as
    :class:`~steerlab.agents.tinyphysics.model.Observation` has them; output ``action`` (b,).

    Raises:
        InputError: onnxruntime computes something else than torch.
    """
    rng = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return 0.3 * torch.randn(shape, generator=rng)

    road = draw(4, AHEAD, 4) + torch.tensor([0.0, 0.0, 20.0, 0.0])
    example = [road, draw(4, CONTEXT), draw(4, CONTEXT)]
    names = list(Observation._fields)
    export_onnx(_Flat(policy), example, path, names, ["action"])


def _first_layer(policy: PreviewPolicy) -> tuple[Tensor, Tensor]:
    """Return weight and bias of the first layer with the normalisation in them."""
    weights = [
        policy.first_road.weight.double() / policy.road_scale,
        policy.first_own.weight.double() / policy.own_scale,
    ]
    bias = policy.first_road.bias.double()
    bias = bias - weights[0] @ policy.road_mean.double() - weights[1] @ policy.own_mean.double()
    return torch.cat(weights, dim=1), bias


class _Flat(nn.Module):
    """A policy with one argument a tensor."""

    def __init__(self, policy: PreviewPolicy) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, road: Tensor, steer: Tensor, lataccel: Tensor) -> Tensor:
        """Return the steer (B,)."""
        return self.policy(Observation(road, steer, lataccel))
