"""Commands of plans whose right answer is known."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from steerlab.openpilot.commands import Command, action_times, command, plan_curvature, smooth
from steerlab.openpilot.contracts import T_IDXS, contract, contract_ids, plan_column

RULE = contract("openpilot-0.10.0").command


def plan(v: float, curvature: float, slope: float = 0.0, a: float = 0.0) -> np.ndarray:
    """Return the (1, 33, 15) plan of a car whose curvature and speed change linearly in time."""
    values = np.zeros((1, 33, 15))
    values[0, :, plan_column("vx")] = v + a * T_IDXS
    values[0, :, plan_column("ax")] = a
    values[0, :, plan_column("yaw_rate")] = v * (curvature + slope * T_IDXS)
    values[0, :, plan_column("yaw")] = v * (curvature * T_IDXS + slope * T_IDXS**2 / 2)
    return values


@settings(deadline=None)
@given(st.floats(1, 40), st.floats(-0.1, 0.1), st.sampled_from(T_IDXS[5:20].tolist()))
def test_constant_curvature_is_exact(v: float, curvature: float, t: float) -> None:
    found = plan_curvature(RULE, plan(v, curvature), v, t)
    np.testing.assert_allclose(found, curvature, rtol=1e-9, atol=1e-12)


@settings(deadline=None)
@given(st.floats(1, 40), st.floats(-0.1, 0.1), st.floats(-0.01, 0.01))
def test_a_ramp_gives_its_value_at_the_action_time(v: float, k: float, slope: float) -> None:
    t = float(T_IDXS[8])
    found = plan_curvature(RULE, plan(v, k, slope), v, t)
    np.testing.assert_allclose(found, k + slope * t, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("id", contract_ids())
def test_acceleration_and_stop(id: str) -> None:
    rule = contract(id).command
    going = command(rule, {"plan": plan(20.0, 0.0, a=-1.5)}, 20.0, 0.4, 0.5)
    np.testing.assert_allclose(going.acceleration, -1.5)
    assert not going.should_stop.any()
    assert command(rule, {"plan": plan(0.0, 0.0)}, 0.0, 0.4, 0.5).should_stop.all()


def test_a_plan_that_starts_again_within_a_second_is_no_stop() -> None:
    """Slower than 0.05 m/s at the action time (0.5 s), and faster a second later."""
    rule = contract("openpilot-0.10.0").command
    assert rule.stop["speed"] == 0.05
    starting = plan(0.0, 0.0, a=0.06)  # 0.03 m/s, then 0.09 m/s
    assert not command(rule, {"plan": starting}, 0.0, 0.4, 0.5).should_stop.any()
    slow = plan(0.0, 0.0, a=0.02)  # 0.01 m/s, then 0.03 m/s
    assert command(rule, {"plan": slow}, 0.0, 0.4, 0.5).should_stop.all()


def test_action_head_is_a_lateral_acceleration() -> None:
    rule = contract("openpilot-supercombo-2026-06").command
    parsed = {"plan": plan(10.0, 0.05), "action": np.array([[2.0, -0.5]])}
    found = command(rule, parsed, 10.0, 0.4, 0.5)
    np.testing.assert_allclose(found.curvature, 0.02)
    np.testing.assert_allclose(found.acceleration, -0.5)
    without = command(rule, {"plan": plan(10.0, 0.05)}, 10.0, float(T_IDXS[8]), 0.5)
    np.testing.assert_allclose(without.curvature, 0.05)


def test_times_of_action() -> None:
    lateral, longitudinal = action_times(RULE, 0.2, 0.15)
    assert lateral == pytest.approx(0.35)
    assert longitudinal == pytest.approx(0.5)
    lateral, _ = action_times(contract("openpilot-supercombo-2026-06").command, 0.2, 0.15)
    assert lateral == pytest.approx(0.275)


def test_smoothing_closes_63_percent_in_one_time_constant() -> None:
    zero = Command(np.zeros(1), np.zeros(1), np.zeros(1, bool))
    target = Command(np.ones(1), np.ones(1), np.zeros(1, bool))
    state = zero
    for _ in range(2):  # 0.1 s, the lateral time constant
        state = smooth(RULE, target, state, 10.0)
    assert state.curvature.item() == pytest.approx(1 - np.exp(-1))
    assert state.acceleration.item() == pytest.approx(1 - np.exp(-1 / 3))
    assert smooth(RULE, target, zero, 0.2).curvature.item() == 0.0
    newer = contract("openpilot-0.11.0").command
    assert smooth(newer, target, zero, 10.0).curvature.item() == 1.0
