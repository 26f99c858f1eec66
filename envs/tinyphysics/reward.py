"""The official costs, and the reward whose sum over an episode is minus their total.

total = 50 * 100 mean((target - c)^2) + 100 mean((diff(c) / 0.1)^2) over the 400 steps from 100;
the jerk has 399 terms, since the step into the window is free.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from steerlab.surrogates.segments.data import CONTROL_START, COST_END, DT
from steerlab.types import Floats

LATACCEL_WEIGHT = 50.0
STEPS = COST_END - CONTROL_START


class Costs(NamedTuple):
    """The three official costs; arrays (N,) for N rows."""

    lataccel_cost: Floats
    jerk_cost: Floats
    total_cost: Floats


def official_costs(target: Floats, lataccel: Floats) -> Costs:
    """Return the costs of whole rollouts.

    Args:
        target: (N, 500) targets, m/s^2.
        lataccel: (N, 500) lateral accelerations, m/s^2.
    """
    window = slice(CONTROL_START, COST_END)
    rows = []
    for wanted, driven in zip(target[:, window], lataccel[:, window], strict=True):
        # Row by row, so that the sums round exactly as in the official script.
        tracking = np.mean((wanted - driven) ** 2) * 100
        jerk = np.mean((np.diff(driven) / DT) ** 2) * 100
        rows.append((tracking, jerk, tracking * LATACCEL_WEIGHT + jerk))
    return Costs(*np.array(rows).T)


def step_costs(target: Floats, lataccel: Floats, before: Floats, first: NDArray[np.bool_]) -> Costs:
    """Return what one step adds to each cost.

    Args:
        target: (N,) target of the step, m/s^2.
        lataccel: (N,) lateral acceleration of the step, m/s^2.
        before: (N,) lateral acceleration of the step before, m/s^2.
        first: (N,) whether the step is the first that counts, whose change is free.
    """
    tracking = 100 / STEPS * (target - lataccel) ** 2
    jerk = np.where(first, 0.0, 100 / (STEPS - 1) * ((lataccel - before) / DT) ** 2)
    return Costs(tracking, jerk, LATACCEL_WEIGHT * tracking + jerk)
