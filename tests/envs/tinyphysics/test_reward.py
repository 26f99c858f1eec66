"""The reward against numbers worked out by hand: 100 / 400 and 100 / 399 a step, 50 times the tracking."""

import numpy as np
import pytest

from steerlab.envs.tinyphysics.reward import official_costs, step_costs


def test_costs_of_a_step() -> None:
    # 0.5 m/s^2 off, after a change of 0.3 m/s^2 in 0.1 s; the change of the first step is free.
    found = step_costs(
        np.array([1.0, 1.0]), np.array([0.5, 0.5]), np.array([0.2, 0.2]), np.array([True, False])
    )
    np.testing.assert_allclose(found.lataccel_cost, [0.0625, 0.0625])
    np.testing.assert_allclose(found.jerk_cost, [0.0, 2.255639097744361])
    np.testing.assert_allclose(found.total_cost, [3.125, 5.380639097744361])


def test_steps_add_up_to_the_official_costs() -> None:
    """A ramp of 0.01 m/s^2 a step, 0.2 m/s^2 below its target, costs 50 * 4 + 1 over the 400 steps."""
    lataccel = np.array([0.01 * k for k in range(500)])
    target = lataccel + 0.2
    whole = official_costs(target[None], lataccel[None])
    assert whole.lataccel_cost[0] == pytest.approx(4.0)
    assert whole.jerk_cost[0] == pytest.approx(1.0)
    assert whole.total_cost[0] == pytest.approx(201.0)
    steps = np.arange(100, 500)
    found = step_costs(target[steps], lataccel[steps], lataccel[steps - 1], steps == 100)
    np.testing.assert_allclose(np.sum(found, axis=1), [4.0, 1.0, 201.0])
