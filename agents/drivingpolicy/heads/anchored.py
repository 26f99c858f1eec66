"""Five anchors, refined by truncated diffusion (DiffusionDrive, Liao et al. 2025).

The anchors are the centres of k-means over the training's knots. Noise of a truncated schedule is
added to them, and a network says, from the noisy hypothesis and what is seen, the plan without
noise. With 0 steps it is asked once, of the anchors as they are: the same network without any diffusion.
With K steps it is asked K times (DDIM, Song et al. 2021). The noise of the steps is fixed, so asking is a
function and can be exported.

Which anchor is the likeliest follows from what is seen alone. In training only the hypothesis of the right
anchor is moved toward the truth, so whoever saw the hypotheses could tell the right one by that.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from steerlab.agents.drivingpolicy.anchors import anchors_of
from steerlab.agents.drivingpolicy.heads.base import (
    HYPOTHESES,
    KNOTS,
    Denoiser,
    Hypotheses,
    PlanHead,
    Truth,
)
from steerlab.errors import InputError, unknown_name

SCHEDULES = ("cosine", "linear")


class Anchored(PlanHead):
    """Anchors and their refinement.

    Args:
        width: Size of the vector that describes a window.
        steps: K, 0 to 8.
        schedule: How noise grows with time: ``cosine`` (Nichol and Dhariwal 2021) or ``linear``, in
            the variance.
        truncation: Time up to which noise is added, in (0, 1]; at 1 nothing of an anchor is left.
    """

    anchors: Tensor
    noise: Tensor

    def __init__(
        self, width: int, steps: int = 2, schedule: str = "cosine", truncation: float = 0.2
    ) -> None:
        super().__init__(width, steps)
        if schedule not in SCHEDULES:
            raise unknown_name("diffusion.schedule", schedule, SCHEDULES)
        if not 0 <= steps <= 8:
            raise InputError(f"diffusion.steps={steps} must be in 0..8")
        if not 0 < truncation <= 1:
            raise InputError(f"diffusion.truncation={truncation} must be in (0, 1]")
        self.schedule, self.truncation = schedule, truncation
        self.denoiser = Denoiser(width, HYPOTHESES, KNOTS)
        self.weights = nn.Linear(width, HYPOTHESES)
        fixed = torch.Generator().manual_seed(0)
        self.register_buffer("anchors", torch.zeros(HYPOTHESES, KNOTS))
        self.register_buffer("noise", torch.randn(HYPOTHESES, KNOTS, generator=fixed))

    def adapt(self, knots: NDArray[np.floating], seed: int) -> None:
        """Take the scales, and the anchors, of a training's knots (N, KNOTS)."""
        super().adapt(knots, seed)
        scaled = self.scaled(torch.as_tensor(knots, dtype=torch.float32)).numpy()
        self.anchors.copy_(torch.as_tensor(anchors_of(scaled, HYPOTHESES, seed)))

    def amounts(self, time: Tensor) -> tuple[Tensor, Tensor]:
        """Return what is left of the signal and how much noise there is at a time in [0, 1]."""
        if self.schedule == "cosine":
            angle = 0.5 * torch.pi * time
            return torch.cos(angle), torch.sin(angle)
        return torch.sqrt(1.0 - time), torch.sqrt(time)

    def forward(self, seen: Tensor) -> Hypotheses:
        """Return the hypotheses for the vectors that describe windows, (B, width)."""
        if not self.steps:
            clean = self._asked(self._start(len(seen)), seen, seen.new_zeros(1, 1))
            return Hypotheses(clean, self.spreads(seen), self.weights(seen))
        times = self.truncation * torch.linspace(1.0, 0.0, self.steps + 1, device=seen.device)
        signal, noise = self.amounts(times)
        knots = signal[0] * self._start(len(seen)) + noise[0] * self.noise
        for step in range(self.steps):
            clean = self._asked(knots, seen, times[step].reshape(1, 1))
            rest = (knots - signal[step] * clean) / noise[step]
            knots = signal[step + 1] * clean + noise[step + 1] * rest
        return Hypotheses(clean, self.spreads(seen), self.weights(seen))

    def loss(self, seen: Tensor, truth: Truth, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the losses of the anchor nearest to the truth, and of the choice of the anchor.

        What is denoised lies between the anchor, at the end of the schedule, and the truth, at its
        beginning: as the steps find it.
        """
        anchors = self._start(len(seen))
        with torch.no_grad():
            nearest = truth.distance(self.real(anchors)).argmin(dim=-1)
        rows = torch.arange(len(seen), device=seen.device)
        if self.steps:
            share = torch.rand(len(seen), 1, generator=generator, device=seen.device)
            drawn = torch.randn(anchors.shape, generator=generator, device=seen.device)
            # Times of which the steps make use count as much as all others together.
            step = torch.randint(self.steps, share.shape, generator=generator, device=seen.device)
            met = torch.rand(share.shape, generator=generator, device=seen.device) < 0.5
            share = torch.where(met, 1.0 - step / self.steps, share)
            time = self.truncation * share
            wanted = torch.where(truth.known > 0, self.scaled(truth.knots), anchors[rows, nearest])
            toward = torch.zeros_like(anchors)
            toward[rows, nearest] = (1.0 - share) * (wanted - anchors[rows, nearest])
            signal, noise = self.amounts(time)
            knots = signal[..., None] * (anchors + toward) + noise[..., None] * drawn
        else:
            time, knots = seen.new_zeros(1, 1), anchors
        clean = self._asked(knots, seen, time)
        best = self.real(clean[rows, nearest][:, None])
        spread = self.spreads(seen)[rows, nearest][:, None]
        return {
            "plan": truth.surprise(best, spread).mean(),
            "choice": nn.functional.cross_entropy(self.weights(seen), nearest),
        }

    def _start(self, rows: int) -> Tensor:
        return self.anchors[None].expand(rows, -1, -1)

    def _asked(self, knots: Tensor, seen: Tensor, time: Tensor) -> Tensor:
        """Return the hypotheses, estimated without noise."""
        return self.anchors + self.denoiser(knots, seen, time)
