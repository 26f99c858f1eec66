"""What ends an episode: the hard constraints."""

from typing import Any

import numpy as np

from steerlab.envs.kinematic_driver.dynamics import State, corners
from steerlab.envs.kinematic_driver.randomization import TURN_LEFT, TURN_RIGHT
from steerlab.envs.kinematic_driver.roads import Place
from steerlab.types import AnyArray

#: How an episode can fail, by number; 0 means it did not.
VIOLATIONS = ("none", "boundary", "cut", "wrong_way", "stall")
BOUNDARY, CUT, WRONG_WAY, STALL = range(1, 5)

STALL_SPEED = 0.5  # m/s
STALL_STEPS = 40
QUARTER = 0.5 * np.pi  # rad from the path, beyond which a car drives backwards


def stalled(xp: Any, steps: AnyArray, v: AnyArray) -> AnyArray:
    """Return for how many steps a car has been below the stall speed, this one included."""
    return xp.where(v < STALL_SPEED, steps + 1, 0 * steps)


def judge(
    xp: Any,
    state: State,
    place: Place,
    front: tuple[AnyArray, AnyArray],
    stalled: AnyArray,
    desire: tuple[AnyArray, AnyArray, AnyArray],
    traffic: tuple[AnyArray, AnyArray],
) -> AnyArray:
    """Return what each row has done wrong, by number of :data:`VIOLATIONS`.

    Args:
        xp: Backend.
        state: Where the cars are.
        place: The road at their rear axles.
        front: Distance to the left and to the right boundary at the front bumper, m.
        stalled: Steps below the stall speed.
        desire: The desire, and the arc lengths (m) between which it holds.
        traffic: Whether traffic keeps left, and the offset (m) beyond which it is oncoming.
    """
    front_right, front_left, rear_right, rear_left = corners(xp, state.d, state.psi, place.kappa)
    right = (front_right > front[1]) | (rear_right > place.right)
    left = (front_left < -front[0]) | (rear_left < -place.left)
    wanted, begin, end = desire
    turning = (state.s >= begin) & (state.s <= end)
    cut = turning & ((right & (wanted == TURN_RIGHT)) | (left & (wanted == TURN_LEFT)))
    keeps_left, oncoming = traffic
    side = xp.where(keeps_left > 0, state.d, -state.d)
    wrong = (xp.abs(state.psi) > QUARTER) | (side > oncoming)
    code = xp.where(stalled > STALL_STEPS, STALL, 0)
    code = xp.where(wrong, WRONG_WAY, code)
    code = xp.where(right | left, BOUNDARY, code)
    return xp.where(cut, CUT, code)
