"""Gains against scipy's Riccati solver, against brute force, and against each other."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scipy.linalg import solve_discrete_are

from steerlab.agents.classical.lqr import finite_horizon_gains, linearize, lqr_gain
from steerlab.envs.tracking.double_integrator import DoubleIntegrator
from steerlab.envs.tracking.van_der_pol import VanDerPol
from steerlab.errors import InputError

DT = 1 / 3
A = np.array([[1, DT], [0, 1]])
B = np.array([[DT**2 / 2], [DT]])
Q, R = np.eye(2), np.array([[0.1]])


def test_gain_is_that_of_scipys_riccati_solution() -> None:
    gain, value = lqr_gain(A, B, Q, R)
    P = solve_discrete_are(A, B, Q, R)
    np.testing.assert_allclose(gain, np.linalg.solve(R + B.T @ P @ B, B.T @ P @ A), atol=1e-12)
    np.testing.assert_allclose(value, P, atol=1e-12)
    assert np.abs(np.linalg.eigvals(A - B @ gain)).max() < 1


@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(1, 2))
@settings(max_examples=25, deadline=None)
def test_long_horizon_tends_to_the_infinite_one(seed: int, n: int, m: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(n, n)) / n, rng.normal(size=(n, m))
    gain, value = lqr_gain(a, b, np.eye(n), np.eye(m))
    gains, values = finite_horizon_gains(a, b, np.eye(n), np.eye(m), np.eye(n), 400)
    np.testing.assert_allclose(gains[0], gain, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(values[0], value, rtol=1e-6, atol=1e-8)


def test_finite_horizon_beats_every_perturbation_and_costs_what_it_says() -> None:
    gains, values = finite_horizon_gains(A, B, Q, R, 100 * Q, 6)
    problem = DoubleIntegrator(steps=6, horizon=2.0, limit=1e9)
    x = np.array([[1.5, -0.5]])
    start, controls = x.copy(), []
    for gain in gains:
        controls.append(-(x @ gain.T))
        x = problem.step(x, controls[-1])
    best = np.stack(controls, axis=1)
    target = np.zeros((1, 2))
    cost = problem.cost(start, target, best)[0]
    np.testing.assert_allclose(cost, start[0] @ values[0] @ start[0], rtol=1e-12)
    noise = np.random.default_rng(0).normal(0, 0.01, (200, 6, 1))
    others = problem.cost(np.repeat(start, 200, 0), np.repeat(target, 200, 0), best + noise)
    assert (others > cost).all()


def test_time_varying_matrices() -> None:
    steps = 5
    same = finite_horizon_gains(A, B, Q, R, Q, steps)
    stacked = finite_horizon_gains(
        np.repeat(A[None], steps, 0), np.repeat(B[None], steps, 0), Q, R, Q, steps
    )
    for one, other in zip(same, stacked, strict=True):
        np.testing.assert_array_equal(one, other)


def test_linearize_is_exact_for_a_linear_plant() -> None:
    a, b = linearize(DoubleIntegrator().step, np.zeros(2), np.zeros(1))
    np.testing.assert_allclose(a, A, atol=1e-15)
    np.testing.assert_allclose(b, B, atol=1e-15)


@given(st.lists(st.floats(-3, 3), min_size=3, max_size=3))
@settings(max_examples=25, deadline=None)
def test_linearize_agrees_with_central_differences(point: list[float]) -> None:
    step, z = VanDerPol().step, np.array(point)
    a, b = linearize(step, z[:2], z[2:])
    for i in range(3):
        h = np.eye(3)[i] * 1e-6
        plus, minus = z + h, z - h
        difference = (step(plus[:2], plus[2:]) - step(minus[:2], minus[2:])) / 2e-6
        np.testing.assert_allclose(np.hstack([a, b])[:, i], difference, atol=1e-8)


def test_bad_input() -> None:
    with pytest.raises(InputError, match="do not fit"):
        lqr_gain(A, B.T, Q, R)
    with pytest.raises(InputError, match="stabilis"):
        lqr_gain(2 * np.eye(2), np.zeros((2, 1)), Q, R)
    with pytest.raises(InputError, match="steps=0"):
        finite_horizon_gains(A, B, Q, R, Q, 0)
