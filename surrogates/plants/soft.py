"""A plant of tokens where gradients need a plant of two moments: exact, and some hundred times dearer.

:class:`~steerlab.surrogates.plants.moments.MomentPlant` learns mean and deviation of what a plant of
1,024 chances predicts. :class:`TokenMoments` computes both from the chances themselves, with the
lateral accelerations as floats, so that the gradient is that of the plant's own network.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from steerlab.errors import InputError
from steerlab.surrogates.plants.base import TEMPERATURE
from steerlab.surrogates.plants.load import load_plant
from steerlab.surrogates.plants.moments import MomentPlant
from steerlab.surrogates.plants.tokens import BINS
from steerlab.surrogates.plants.torch import TorchPlant


class TokenMoments(nn.Module):
    """Mean and deviation of the next lateral acceleration from a network over tokens.

    Args:
        network: Has ``forward_soft``, as :class:`~steerlab.surrogates.plants.torch.CommaGPT` has.
    """

    bins: Tensor

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("bins", torch.tensor(BINS.tolist()))

    @classmethod
    def of(cls, plant: str | Path) -> "TokenMoments":
        """Return those of a plant that :func:`~steerlab.surrogates.plants.load.load_plant` finds.

        Raises:
            InputError: The plant is no network over tokens that torch can run.
        """
        loaded = load_plant(plant, "torch", "cpu")
        if not isinstance(loaded, TorchPlant):
            raise InputError(f"plant={str(plant)!r} has no network that gradients could pass")
        return cls(loaded.model)

    def look_behind(self, road: Tensor) -> Tensor:
        """Return the road (..., 20, 3) as it is: nothing of the network can be computed before."""
        return road

    def predict(self, behind: Tensor, steer: Tensor, lataccel: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and deviation (B,), m/s^2, from road (B, 20, 3) and two histories (B, 20)."""
        states = torch.cat([steer[..., None], behind], dim=-1)
        logits = self.network.forward_soft(states, lataccel)  # type: ignore[operator]
        chances = torch.softmax(logits / TEMPERATURE, dim=-1)
        mean = chances @ self.bins
        variance = (chances * (self.bins - mean[:, None]).square()).sum(dim=-1)
        return mean, variance.clamp(min=1e-8).sqrt()


#: What a policy is trained in by gradient.
DifferentiablePlant = MomentPlant | TokenMoments
