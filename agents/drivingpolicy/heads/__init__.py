"""Plan heads on one interface: what is seen of a window to hypotheses of the plan's knots."""

from typing import Any

from steerlab.agents.drivingpolicy.heads.anchored import Anchored
from steerlab.agents.drivingpolicy.heads.base import HYPOTHESES, KNOTS, Hypotheses, PlanHead, Truth
from steerlab.agents.drivingpolicy.heads.flow import Flow
from steerlab.agents.drivingpolicy.heads.mdn import Mixture
from steerlab.agents.drivingpolicy.heads.regression import Regression
from steerlab.errors import unknown_name

HEADS: dict[str, type[PlanHead]] = {
    "anchored": Anchored, "mdn": Mixture, "regression": Regression, "flow": Flow,
}  # fmt: skip


def make_head(
    name: str, width: int, steps: int, schedule: str = "cosine", truncation: float = 0.2
) -> PlanHead:
    """Return a head by name.

    Args:
        name: One of :data:`HEADS`.
        width: Size of the vector that describes a window.
        steps: Rounds of refinement of ``anchored`` and ``flow``.
        schedule: Noise of ``anchored``.
        truncation: Noise of ``anchored``.

    Raises:
        InputError: There is no such head, or a number is out of range.
    """
    if name not in HEADS:
        raise unknown_name("plan head", name, HEADS)
    own: dict[str, Any] = {}
    if name == "anchored":
        own = {"schedule": schedule, "truncation": truncation}
    return HEADS[name](width, steps, **own)


__all__ = ["HEADS", "HYPOTHESES", "KNOTS", "Hypotheses", "PlanHead", "Truth", "make_head"]
