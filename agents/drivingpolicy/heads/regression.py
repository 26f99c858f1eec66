"""One plan: the likeliest, as if there were no other."""

import torch
from torch import Tensor, nn

from steerlab.agents.drivingpolicy.heads.base import KNOTS, Hypotheses, PlanHead, Truth


class Regression(PlanHead):
    """Says one hypothesis, trained by its likelihood."""

    hypotheses = 1

    def __init__(self, width: int, steps: int = 0) -> None:
        super().__init__(width, steps)
        self.mean = nn.Linear(width, KNOTS)

    def forward(self, seen: Tensor) -> Hypotheses:
        """Return the hypothesis for the vectors that describe windows, (B, width)."""
        return Hypotheses(
            self.mean(seen)[:, None], self.spreads(seen), seen.new_zeros(len(seen), 1)
        )

    def loss(self, seen: Tensor, truth: Truth, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the negative log-likelihood."""
        said = self(seen)
        return {"plan": truth.surprise(self.real(said.knots), said.spread).mean()}
