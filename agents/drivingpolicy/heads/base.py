"""What all plan heads have in common: they speak of the plan's knots, and are judged by plans.

A hypothesis is 14 numbers: the yaw rates (rad/s) at the later knots of
:class:`~steerlab.openpilot.plan.PlanShape`, then the accelerations (m/s^2). Heads compute in units
of the training's standard deviation around its mean. Nothing in a head draws random numbers when it
is asked, so the whole of it becomes a graph.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from steerlab.openpilot.contracts import PLAN_COLUMNS
from steerlab.openpilot.plan import FREE

KNOTS = 2 * FREE
HYPOTHESES = 5
COLUMNS = len(PLAN_COLUMNS)


class Hypotheses(NamedTuple):
    """What a head says of B windows."""

    knots: Tensor  # (B, M, KNOTS) in units of the head's scale
    spread: Tensor  # (B, M, 15) change of the plan's log-stds
    logits: Tensor  # (B, M)


class Truth(NamedTuple):
    """What a head should have said, and how plans are judged."""

    knots: Tensor  # (B, KNOTS) rad/s and m/s^2
    known: Tensor  # (B, KNOTS) 1 where the label goes that far, else 0
    #: Mean negative log-likelihood of the true plan, (B, M), from knots (B, M, KNOTS) in rad/s and
    #: m/s^2 and spreads (B, M, 15).
    surprise: Callable[[Tensor, Tensor], Tensor]
    #: Mean distance (m) of plans from the true one, (B, M), from knots likewise.
    distance: Callable[[Tensor], Tensor]


class PlanHead(nn.Module):
    """Base of the plan heads.

    Args:
        width: Size of the vector that describes a window.
        steps: Rounds of refinement, for heads that have such.
    """

    hypotheses = HYPOTHESES
    center: Tensor
    scale: Tensor

    def __init__(self, width: int, steps: int = 0) -> None:
        super().__init__()
        self.steps = steps
        self.spread = nn.Linear(width, self.hypotheses * COLUMNS)
        with torch.no_grad():
            self.spread.weight *= 0.1
        self.register_buffer("center", torch.zeros(KNOTS))
        self.register_buffer("scale", torch.ones(KNOTS))

    def adapt(self, knots: NDArray[np.floating], seed: int) -> None:
        """Take the scales of a training's knots (N, KNOTS), before it begins."""
        center, scale = knots.mean(0), np.maximum(knots.std(0), 1e-3)
        self.center.copy_(torch.as_tensor(center))
        self.scale.copy_(torch.as_tensor(scale))

    def real(self, knots: Tensor) -> Tensor:
        """Return knots (..., KNOTS) in rad/s and m/s^2."""
        return self.center + self.scale * knots

    def scaled(self, knots: Tensor) -> Tensor:
        """Return knots (..., KNOTS) in the head's units."""
        return (knots - self.center) / self.scale

    def spreads(self, seen: Tensor) -> Tensor:
        """Return the changes of the log-stds, (B, M, 15)."""
        return self.spread(seen).unflatten(-1, (self.hypotheses, COLUMNS))

    def forward(self, seen: Tensor) -> Hypotheses:
        """Return the hypotheses for the vectors that describe windows, (B, width)."""
        raise NotImplementedError

    def loss(self, seen: Tensor, truth: Truth, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the losses that train the head, values by name."""
        raise NotImplementedError


class Denoiser(nn.Module):
    """Says something of every hypothesis from what is seen, a noisy version of it, and the time.

    Args:
        width: Size of the vector that describes a window.
        hypotheses: M; each has a place of its own, None makes them alike.
        outputs: Values that it says of each.
    """

    def __init__(self, width: int, hypotheses: int | None, outputs: int) -> None:
        super().__init__()
        self.of_seen = nn.Linear(width, width)
        self.of_knots = nn.Linear(KNOTS, width, bias=False)
        self.of_time = nn.Linear(TIMES, width, bias=False)
        places = 0.1 * torch.randn(hypotheses, width) if hypotheses else torch.zeros(1, width)
        self.place = nn.Parameter(places, requires_grad=bool(hypotheses))
        last = nn.Linear(width, outputs)
        with torch.no_grad():
            last.weight *= 0.1
        self.rest = nn.Sequential(nn.SiLU(), nn.Linear(width, width), nn.SiLU(), last)

    def forward(self, knots: Tensor, seen: Tensor, time: Tensor) -> Tensor:
        """Return (B, M, outputs) for knots (B, M, KNOTS), seen (B, width), time (B, 1) or (1, 1)."""
        told = self.of_seen(seen) + self.of_time(waves(time))
        return self.rest(told[:, None] + self.of_knots(knots) + self.place)


TIMES = 6


def waves(time: Tensor) -> Tensor:
    """Return cosines of a time in [0, 1], (..., 1) -> (..., TIMES)."""
    return torch.cos(torch.pi * time * torch.arange(1, TIMES + 1, device=time.device))
