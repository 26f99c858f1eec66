"""The optimum: solvers against each other, against conditions it must meet, and published numbers."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scipy.optimize import minimize

from steerlab.agents.classical.qp import box_qp, choose_solver, condense
from steerlab.agents.classical.sqp import solve_sqp
from steerlab.agents.classical.tracking import (
    finite_horizon_lqr,
    infinite_horizon_lqr,
    optimal_controls,
    random_controls,
)
from steerlab.envs.tracking.double_integrator import DoubleIntegrator
from steerlab.envs.tracking.problem import final_error
from steerlab.envs.tracking.van_der_pol import VanDerPol
from steerlab.errors import InputError

OPTIMAL = DoubleIntegrator()


def cases(problem: DoubleIntegrator | VanDerPol, count: int, seed: int = 123) -> tuple[Any, Any]:
    return problem.sample(np.random.RandomState(seed), count)


@pytest.mark.parametrize("other", ["osqp", "scipy"])
def test_solvers_agree(other: str) -> None:
    for name in ("daqp", other):
        if name != "scipy":
            pytest.importorskip(name)
    initial, targets = cases(OPTIMAL, 200)
    one = optimal_controls(OPTIMAL, initial, targets, "daqp")
    two = optimal_controls(OPTIMAL, initial, targets, other)
    np.testing.assert_allclose(one, two, atol=1e-6)
    np.testing.assert_allclose(
        OPTIMAL.cost(initial, targets, one), OPTIMAL.cost(initial, targets, two), rtol=1e-9
    )


def test_solvers_agree_on_a_hundred_inputs() -> None:
    """With half of them at a bound."""
    pytest.importorskip("daqp")
    hessian = condense(VanDerPol()).hessian
    f = 300 * np.random.default_rng(0).normal(size=(3, 100))
    bound = np.full(100, 2.0)
    one, two = (box_qp(hessian, f, -bound, bound, name) for name in ("daqp", "scipy"))
    assert (np.abs(one) == 2).mean() > 0.4
    np.testing.assert_allclose(one, two, atol=1e-6)


@given(st.integers(0, 2**32 - 1), st.integers(1, 12))
@settings(max_examples=25, deadline=None)
def test_programs_meet_the_optimality_conditions(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(n, n))
    hessian, f = root @ root.T + 0.1 * np.eye(n), 3 * rng.normal(size=(4, n))
    lower, upper = -rng.uniform(0, 1, n), rng.uniform(0, 1, n)
    for u, gradient in [
        (u, hessian @ u + g) for u, g in zip(box_qp(hessian, f, lower, upper), f, strict=True)
    ]:
        assert (lower <= u).all()
        assert (u <= upper).all()
        inside = (u > lower + 1e-9) & (u < upper - 1e-9)
        np.testing.assert_allclose(gradient[inside], 0, atol=1e-6)
        assert (gradient[u <= lower + 1e-9] >= -1e-6).all()
        assert (gradient[u >= upper - 1e-9] <= 1e-6).all()


@pytest.mark.parametrize("preset", ["optimal", "published"])
def test_condensed_cost_is_the_cost_of_the_rollout(preset: str) -> None:
    problem = DoubleIntegrator.preset(preset, steps=7)
    initial, targets = cases(problem, 20)
    controls = random_controls(problem, initial, targets)
    np.testing.assert_allclose(
        condense(problem).cost(initial, targets, controls),
        problem.cost(initial, targets, controls),
        rtol=1e-12,
    )


def test_finite_horizon_lqr_is_optimal_without_bounds() -> None:
    free = DoubleIntegrator(limit=1e6)
    initial, targets = cases(free, 50)
    controls = finite_horizon_lqr(free, initial, targets)
    np.testing.assert_allclose(controls, condense(free).unconstrained(initial, targets), atol=1e-8)


def test_published_numbers() -> None:
    """Figures of the published evaluation and of a measurement of the optimum, 1,000 cases."""
    published = DoubleIntegrator.preset("published")
    initial, targets = cases(published, 1000)
    labels = infinite_horizon_lqr(published, initial, targets)
    judge = DoubleIntegrator.preset("published_judge")
    error = final_error(judge.rollout(initial, labels), targets)
    assert error.mean() == pytest.approx(1.7824, abs=5e-5)
    assert (error < 0.1).mean() == pytest.approx(0.016)
    error = final_error(published.rollout(initial, labels), targets)
    assert error.mean() == pytest.approx(1.7992, abs=5e-5)
    assert (error < 0.1).mean() == pytest.approx(0.029)
    assert published.cost(initial, targets, labels).mean() == pytest.approx(55.041, abs=5e-4)
    for problem, cost in ((published, 32.778), (OPTIMAL, 39.173)):
        best = optimal_controls(problem, initial, targets)
        assert problem.cost(initial, targets, best).mean() == pytest.approx(cost, abs=5e-4)


def test_labels_are_optimal_where_the_target_rests() -> None:
    problem = DoubleIntegrator.preset("published")
    initial, targets = cases(problem, 200)
    targets[:, 1] = 0
    best = problem.cost(initial, targets, optimal_controls(problem, initial, targets))
    labels = problem.cost(initial, targets, infinite_horizon_lqr(problem, initial, targets))
    assert (labels >= best - 1e-9).all()
    assert labels.mean() / best.mean() - 1 < 1e-4


def test_sqp_on_a_linear_plant_is_the_quadratic_program() -> None:
    initial, targets = cases(OPTIMAL, 20)
    start = random_controls(OPTIMAL, initial, targets)
    result = solve_sqp(OPTIMAL, initial, targets, start)
    assert result.converged.all()
    np.testing.assert_allclose(
        result.controls, optimal_controls(OPTIMAL, initial, targets), atol=1e-5
    )


def test_sqp_agrees_with_a_general_solver_on_the_oscillator() -> None:
    problem = VanDerPol(steps=12, horizon=3.0)
    initial, targets = cases(problem, 2)
    starts = (finite_horizon_lqr(problem, initial, targets), np.zeros((2, 12, 1)))
    results = [solve_sqp(problem, initial, targets, s) for s in starts]
    np.testing.assert_allclose(results[0].costs, results[1].costs, rtol=1e-8)
    for i in range(2):
        one = slice(i, i + 1)
        found = minimize(
            lambda z, one=one: problem.cost(initial[one], targets[one], z[None, :, None])[0],
            starts[0][i, :, 0],
            bounds=[(-problem.limit, problem.limit)] * 12,
            method="L-BFGS-B",
            options={"maxfun": 100_000, "ftol": 1e-14},
        )
        assert results[0].costs[i] == pytest.approx(found.fun, rel=1e-6)
        assert results[0].costs[i] <= found.fun * (1 + 1e-9)


def test_bad_input() -> None:
    coarse = VanDerPol(steps=5)
    with np.errstate(all="ignore"), pytest.raises(InputError, match="steps of 1 s"):
        optimal_controls(coarse, np.full((1, 2), 2.0), np.zeros((1, 2)))
    with pytest.raises(InputError, match="did you mean 'daqp'"):
        choose_solver("dapq")
    with pytest.raises(InputError, match="do not fit"):
        box_qp(np.eye(2), np.zeros((1, 3)), -np.ones(2), np.ones(2))
    with pytest.raises(InputError, match="above"):
        box_qp(np.eye(2), np.zeros((1, 2)), np.ones(2), -np.ones(2))
