"""The reward's promises: never negative, and shaping that leaves the best policy alone."""

import numpy as np
import pytest
from hypothesis import given, strategies as st

from steerlab.envs.kinematic_driver.numpy_backend import NUMPY
from steerlab.envs.kinematic_driver.reward import Reward, base_reward, potential, shaping

SIZE, GAMMA = 5, 0.9


def solve(shaped: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return the optimal values and actions on a corridor of offsets with a cliff at each end.

    Offsets -2..2 m; an action moves by -1, 0 or 1 m and slips one further to the right with
    probability 0.2. Beyond the ends the episode terminates.
    """
    weights = Reward(shaping=3.0, discount=GAMMA, off_centre_full=2.0)
    offsets = np.arange(SIZE) - 2.0
    phi = potential(NUMPY, weights, offsets, 0 * offsets)
    q = np.zeros((SIZE, 3))
    for _ in range(500):
        value = q.max(1)
        new = np.zeros_like(q)
        for s in range(SIZE):
            for i, move in enumerate((-1, 0, 1)):
                for slip, chance in ((0, 0.8), (1, 0.2)):
                    t = s + move + slip
                    over = not 0 <= t < SIZE
                    away = np.array([0.0 if over else offsets[t]])
                    r = 0.0
                    if (
                        not over
                    ):  # progress is worth most on one side, so the best place is not phi's
                        r = base_reward(NUMPY, weights, 0.5 + 0.2 * away, 0 * away, away)[0]
                    if shaped:
                        r += shaping(weights, phi[s], 0.0 if over else phi[t])
                    new[s, i] += chance * (r + (0 if over else GAMMA * value[t]))
        q = new
    return q.max(1), q.argmax(1)


def test_base_reward_by_hand() -> None:
    """Half way, half of the discomfort at weight 0.2, half off-centre at 0.6: 0.5 * 0.9 * 0.7."""
    weights = Reward(comfort=0.2, centring=0.6, jerk_free=2.0, jerk_full=8.0, off_centre_full=1.0)
    found = base_reward(NUMPY, weights, np.array([0.5]), np.array([5.0]), np.array([-0.5]))
    assert found[0] == pytest.approx(0.315)


def test_shaping_leaves_the_optimal_policy() -> None:
    plain, shaped = solve(False), solve(True)
    np.testing.assert_array_equal(plain[1], shaped[1])
    assert len(set(plain[1].tolist())) > 1
    # Values differ by exactly the potential of the start.
    weights = Reward(shaping=3.0, discount=GAMMA, off_centre_full=2.0)
    offsets = np.arange(SIZE) - 2.0
    phi = potential(NUMPY, weights, offsets, 0 * offsets)
    np.testing.assert_allclose(shaped[0], plain[0] - phi, atol=1e-9)


@given(
    progress=st.floats(-5, 5),
    jerk=st.floats(0, 1e4),
    offset=st.floats(-100, 100),
    heading=st.floats(-3, 3),
)
def test_bounds(progress: float, jerk: float, offset: float, heading: float) -> None:
    weights = Reward()
    given = [np.array([x]) for x in (progress, jerk, offset, heading)]
    r = base_reward(NUMPY, weights, *given[:3])
    assert 0 <= r[0] <= 1
    assert 0 <= potential(NUMPY, weights, *given[2:])[0] <= weights.shaping


def test_known_values() -> None:
    weights = Reward()
    one, zero = np.ones(1), np.zeros(1)
    assert base_reward(NUMPY, weights, one, zero + 2, zero)[0] == 1
    assert base_reward(NUMPY, weights, one, zero + 5, zero)[0] == pytest.approx(0.75)
    assert base_reward(NUMPY, weights, one, zero + 99, zero + 9)[0] == pytest.approx(0.25)
    assert potential(NUMPY, weights, zero, zero)[0] == 1
    assert potential(NUMPY, weights, zero + 1, zero + 0.1)[0] == pytest.approx(0.3)
