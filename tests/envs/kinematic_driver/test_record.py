"""The offset's figures: reference point, start and steady state, and what a crash counts as."""

import math
from typing import Any

import numpy as np
import pytest

from steerlab.envs.kinematic_driver import dynamics
from steerlab.envs.kinematic_driver.env import KinematicDriverVectorEnv
from steerlab.envs.kinematic_driver.record import (
    Record,
    drive_once,
    front_offset,
    join,
    offset_figures,
)


def record(offset: list[list[float]], violation: list[int]) -> Record:
    """Return a record of rows given episode by episode."""
    values = np.array(offset, np.float32).T
    return Record(values, 2 * values, values, values, {"violation": np.array(violation)})


def test_start_and_steady_state_are_told_apart() -> None:
    found = offset_figures(record([[0.5] * 40 + [0.1] * 60], [0]))
    assert found.cte_p95 == pytest.approx(0.5)
    assert found.cte_p95_start == pytest.approx(0.5)
    assert found.cte_p95_steady == pytest.approx(0.1)
    assert found.front_p95_steady == pytest.approx(0.2)
    assert found.cte_max == pytest.approx(0.5)


def test_who_crashes_early_does_not_look_precise() -> None:
    nan = math.nan
    careful, crash = [0.1] * 100, [0.01] * 10 + [nan] * 90
    found = offset_figures(record([crash], [1]))
    assert found.cte_p95 == found.cte_p95_start == found.cte_p95_steady == math.inf
    assert found.cte_max == pytest.approx(0.01)
    # One of 30: less than a twentieth of all steps is lost. Two of 30: more.
    rest = [careful] * 28
    assert offset_figures(record([crash, careful, *rest], [1, 0] + 28 * [0])).cte_p95 < 0.2
    assert offset_figures(record([crash, crash, *rest], [1, 2] + 28 * [0])).cte_p95 == math.inf
    # An episode that arrives before its time is up lacks nothing.
    arrived = [0.1] * 60 + [nan] * 40
    assert offset_figures(record([arrived], [0])).cte_p95_steady == pytest.approx(0.1)


def test_the_front_bumper_is_where_the_body_is() -> None:
    """Against the corners that violations are judged by: their middle, but for the angle's cosine."""
    d, psi, kappa = 0.3, 0.05, 0.02
    right, left, *_ = dynamics.corners(np, d, psi, kappa)
    assert front_offset(d, psi, kappa) == pytest.approx(0.5 * (right + left))
    assert front_offset(0.0, 0.1, 0.0) == pytest.approx(3.7 * math.sin(0.1))
    assert front_offset(0.0, 0.0, 0.01) == pytest.approx(-0.5 * 3.7**2 * 0.01)


def test_of_a_drive_that_ends_in_violations() -> None:
    class Idle:
        def __init__(self, env: KinematicDriverVectorEnv) -> None:
            self.rows = env.num_envs

        def reset(self, observation: Any, info: dict[str, Any]) -> None:
            pass

        def __call__(self, observation: Any, info: dict[str, Any]) -> Any:
            return np.zeros((self.rows, 2), np.float32)

    parts = [drive_once(KinematicDriverVectorEnv(6, 80), Idle, seed) for seed in (3, 9)]
    found = join(parts)
    whole = drive_once(KinematicDriverVectorEnv(12, 80), Idle, 3)
    np.testing.assert_allclose(found.offset, whole.offset, atol=1e-5)
    assert found.offset.shape == (80, 12)
    driven = (~np.isnan(found.offset)).sum(0)
    np.testing.assert_array_equal(driven, found.end["steps"])
    crashed = found.end["violation"] > 0
    assert crashed.sum() == 5
    assert offset_figures(found).cte_p95 == math.inf
    assert math.isfinite(offset_figures(found.of(crashed)).cte_max)
