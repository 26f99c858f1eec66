"""Options of studies that change single parameters of a tracking problem."""

from dataclasses import asdict, dataclass, fields
from typing import Any

from steerlab.options import option


@dataclass(frozen=True, kw_only=True)
class ProblemChanges:
    """Parameters of a problem by name; those that are null stay as they are."""

    limit: float | None = option(None, "largest absolute input")
    position_weight: float | None = option(None, "weight of the squared position error, Q[0]")
    velocity_weight: float | None = option(None, "weight of the squared velocity error, Q[1]")
    input_weight: float | None = option(None, "weight of the squared input, R")
    terminal_factor: float | None = option(None, "factor on Q for the error at the end")
    spread: float | None = option(None, "half-width of the range of both initial states")
    target_spread: float | None = option(None, "half-width of the range of both target states")
    tolerance: float | None = option(None, "final error below which a case is a success")
    mu: float | None = option(None, "strength of the nonlinear damping (VanDerPol-v0)")


def given_changes(options: ProblemChanges) -> dict[str, Any]:
    """Return the parameters that ``options`` change, with their values."""
    named = {f.name for f in fields(ProblemChanges)}
    return {k: v for k, v in asdict(options).items() if k in named and v is not None}
