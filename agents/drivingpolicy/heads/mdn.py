"""A mixture of five plans (mixture density network, Bishop 1994)."""

import torch
from torch import Tensor, nn

from steerlab.agents.drivingpolicy.heads.base import KNOTS, Hypotheses, PlanHead, Truth


class Mixture(PlanHead):
    """Says five hypotheses and their weights, trained by the likelihood of the mixture."""

    def __init__(self, width: int, steps: int = 0) -> None:
        super().__init__(width, steps)
        self.means = nn.Linear(width, self.hypotheses * KNOTS)
        self.weights = nn.Linear(width, self.hypotheses)

    def forward(self, seen: Tensor) -> Hypotheses:
        """Return the hypotheses for the vectors that describe windows, (B, width)."""
        means = self.means(seen).unflatten(-1, (self.hypotheses, KNOTS))
        return Hypotheses(means, self.spreads(seen), self.weights(seen))

    def loss(self, seen: Tensor, truth: Truth, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the mixture's negative log-likelihood.

        Likelihoods are means over the values of a plan: those of hundreds of values that depend on
        one another, added up, would leave one hypothesis of the mixture.
        """
        said = self(seen)
        surprise = truth.surprise(self.real(said.knots), said.spread)
        log_weights = torch.log_softmax(said.logits, dim=-1)
        return {"plan": -torch.logsumexp(log_weights - surprise, dim=-1).mean()}
