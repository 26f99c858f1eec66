"""Chunk policies that call themselves plain: maps from a state to fifty actions, to compare with."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from steerlab.agents.pi0.model import Normalizer


class LinearChunks(nn.Module):
    """The least-squares map from state to chunk.

    Args:
        states: (N, 4).
        chunks: (N, H).
    """

    weights: Tensor

    def __init__(self, states: NDArray[Any], chunks: NDArray[Any]) -> None:
        super().__init__()
        known = np.column_stack([states, np.ones(len(states))])
        weights = np.linalg.lstsq(known, chunks, rcond=None)[0]
        self.register_buffer("weights", torch.as_tensor(weights, dtype=torch.float32))

    def forward(self, states: Tensor) -> Tensor:
        """Return chunks (B, H) of states (B, 4)."""
        return states @ self.weights[:-1] + self.weights[-1]


class MLPChunks(nn.Module):
    """A network with two hidden layers that regresses the mean chunk.

    Args:
        horizon: Actions of a chunk.
        width: Units of a hidden layer.
    """

    def __init__(self, horizon: int = 50, width: int = 128) -> None:
        super().__init__()
        self.normalizer = Normalizer(4, horizon)
        self.net = nn.Sequential(
            nn.Linear(4, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(),
            nn.Linear(width, horizon),
        )  # fmt: skip

    def forward(self, states: Tensor) -> Tensor:
        """Return chunks (B, H) of states (B, 4)."""
        return self.normalizer.to_action(self.net(self.normalizer.state(states)))


def mlp_loss(model: nn.Module, batch: dict[str, Tensor], rng: torch.Generator) -> dict[str, Tensor]:
    """Squared error of :class:`MLPChunks`, in units of the actions' standard deviation."""
    assert isinstance(model, MLPChunks)
    error = (model(batch["state"]) - batch["chunk"]) / model.normalizer.action_std
    return {"loss": error.square().mean()}
