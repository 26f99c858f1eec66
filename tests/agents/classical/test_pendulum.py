"""Classical pendulum control against published gains, a QP solver, and the task itself."""

import numpy as np
import pytest

from steerlab.agents.classical.pendulum import (
    BALANCE_ANGLE,
    NearestGoal,
    NestedPID,
    PredictiveControl,
    StateFeedback,
    feedback_gain,
    linearized,
    rolled_out,
)
from steerlab.envs.inverted_pendulum.dynamics import step
from steerlab.envs.inverted_pendulum.env import InvertedPendulumVectorEnv


def final_states(controller: object, rows: int = 40) -> np.ndarray:
    env = InvertedPendulumVectorEnv(rows, process_noise=0.01)
    states, _ = env.reset(seed=0)
    for _ in range(99):
        actions = controller(states)  # type: ignore[operator]
        states, _, terminated, _, _ = env.step(actions[:, None].astype(np.float32))
        assert not terminated.any()
    return states


def test_linear_model_and_gain_are_the_measured_ones() -> None:
    a, b = linearized()
    np.testing.assert_allclose(np.abs(np.linalg.eigvals(a)).max(), 1.199, atol=1e-3)
    np.testing.assert_allclose(b[:, 0], [0.0067, -0.0154, 0.3317, -0.7606], atol=1e-4)
    np.testing.assert_allclose(feedback_gain(), [-0.747, -10.404, -1.392, -1.865], atol=1e-3)


def test_pid_by_hand() -> None:
    states = np.array([[0.0, 0.1, 0.2, 0.0]])
    pid = NestedPID()
    lean = 0.08 * -0.2 + 0.05 * -0.2 * 0.02 + 0.001 * -0.2 / 0.02
    error = lean + BALANCE_ANGLE - 0.1
    expected = -3 * error - 0.01 * error * 0.02 - 0.15 * error / 0.02
    assert pid(states)[0] == pytest.approx(expected)
    # Nothing moves: the outer derivative is gone, the integrals have grown.
    later = 0.08 * -0.2 + 0.05 * -0.2 * 0.04 + BALANCE_ANGLE - 0.1
    second = -3 * later - 0.01 * (error + later) * 0.02 - 0.15 * (later - error) / 0.02
    assert pid(states)[0] == pytest.approx(second)
    pid.reset()
    assert pid(states)[0] == pytest.approx(expected)


@pytest.mark.parametrize("make", [NestedPID, StateFeedback, PredictiveControl])
def test_each_balances(make: type) -> None:
    assert np.abs(final_states(make())[:, 1]).max() < 0.03


def test_nearest_goal_reaches_both() -> None:
    gain = feedback_gain((3.0, 10.0, 1.0, 0.5))
    ends = final_states(NearestGoal((-1.0, 1.0), gain))[:, 0]
    np.testing.assert_allclose(np.abs(ends), 1.0, atol=0.1)
    assert {-1, 1} == set(np.sign(ends))


def test_nearest_goal_keeps_its_choice() -> None:
    feedback = NearestGoal((-1.0, 1.0))
    states = np.array([[0.2, 0.0, 0.0, 0.0], [-0.2, 0.0, 0.0, 0.0]])
    first = feedback(states)
    np.testing.assert_array_equal(feedback.goal, [1.0, -1.0])
    # On the other side of the middle each still goes where it was going.
    np.testing.assert_array_equal(feedback(-states), StateFeedback(goal=feedback.goal)(-states))
    np.testing.assert_array_equal(NearestGoal((-1.0, 1.0))(states), first)


def test_predictive_control_equals_lqr_without_limits_and_the_solver_with_them() -> None:
    osqp = pytest.importorskip("osqp")
    from scipy import sparse

    mpc = PredictiveControl(30, iterations=2000)
    rng = np.random.default_rng(0)
    small = rng.uniform(-0.02, 0.02, (5, 4))
    np.testing.assert_allclose(mpc(small), StateFeedback()(small), atol=1e-9)
    large = rng.uniform(-0.5, 0.5, (5, 4))
    actions, _ = mpc.plan(large)
    for row, state in enumerate(large):
        ideal = mpc.free @ (state - [0, BALANCE_ANGLE, 0, 0])
        solver = osqp.OSQP()
        solver.setup(
            sparse.csc_matrix(np.eye(30)), np.zeros(30), sparse.csc_matrix(mpc.forced),
            -3 - ideal, 3 - ideal, verbose=False, eps_abs=1e-9, eps_rel=1e-9, max_iter=100_000,
        )  # fmt: skip
        theirs = ideal + mpc.forced @ solver.solve().x
        np.testing.assert_allclose(actions[row], theirs, atol=1e-4)


def test_rolled_out_chunk_is_the_feedback_in_closed_loop() -> None:
    states = np.random.default_rng(2).uniform(-0.3, 0.3, (6, 4))
    feedback = StateFeedback()
    chunk = rolled_out(feedback, 8)(states)
    from steerlab.agents.classical.pendulum import NOMINAL

    for k in range(8):
        np.testing.assert_array_equal(chunk[:, k], feedback(states))
        states = step(states, chunk[:, k], NOMINAL)
