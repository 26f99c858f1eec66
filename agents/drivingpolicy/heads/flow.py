"""Five plans by flow matching (Lipman et al. 2023), from fixed noise along straight ways."""

import torch
from torch import Tensor, nn

from steerlab.agents.drivingpolicy.heads.base import (
    HYPOTHESES,
    KNOTS,
    Denoiser,
    Hypotheses,
    PlanHead,
    Truth,
)
from steerlab.errors import InputError


class Flow(PlanHead):
    """Integrates a learned velocity from noise (time 1) to plans (time 0) in Euler steps.

    A second network says which of the five is the likeliest.

    Args:
        width: Size of the vector that describes a window.
        steps: Euler steps, 1 to 16.
    """

    noise: Tensor

    def __init__(self, width: int, steps: int = 4) -> None:
        super().__init__(width, steps)
        if not 1 <= steps <= 16:
            raise InputError(f"diffusion.steps={steps} must be in 1..16 for flow matching")
        self.velocity = Denoiser(width, None, KNOTS)
        self.judge = Denoiser(width, None, 1)
        fixed = torch.Generator().manual_seed(0)
        self.register_buffer("noise", torch.randn(HYPOTHESES, KNOTS, generator=fixed))

    def forward(self, seen: Tensor) -> Hypotheses:
        """Return the hypotheses for the vectors that describe windows, (B, width)."""
        knots = self.noise[None].expand(len(seen), -1, -1)
        for step in range(self.steps):
            time = seen.new_full((1, 1), 1.0 - step / self.steps)
            knots = knots - self.velocity(knots, seen, time) / self.steps
        logits = self.judge(knots.detach(), seen, seen.new_zeros(1, 1))[..., 0]
        return Hypotheses(knots, self.spreads(seen), logits)

    def loss(self, seen: Tensor, truth: Truth, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the losses of velocity, choice, and spread around the hypotheses."""
        wanted = self.scaled(truth.knots)
        # More times near the noise, where the ways part (as pi0 draws them): a power of 2/3 of
        # uniform is Beta(1.5, 1).
        share = torch.rand(len(seen), 1, generator=generator, device=seen.device)
        time = 0.001 + 0.999 * share ** (2 / 3)
        noise = torch.randn(wanted.shape, generator=generator, device=seen.device)
        knots = time * noise + (1.0 - time) * wanted
        found = self.velocity(knots[:, None], seen, time)[:, 0]
        missed = (found - (noise - wanted)) ** 2 * truth.known
        with torch.no_grad():
            said = self(seen)
            nearest = truth.distance(self.real(said.knots)).argmin(dim=-1)
        rows = torch.arange(len(seen), device=seen.device)
        logits = self.judge(said.knots, seen, seen.new_zeros(1, 1))[..., 0]
        spread = self.spreads(seen)[rows, nearest][:, None]
        return {
            "flow": missed.sum() / truth.known.sum().clamp(min=1.0),
            "choice": nn.functional.cross_entropy(logits, nearest),
            "plan": truth.surprise(self.real(said.knots[rows, nearest][:, None]), spread).mean(),
        }
