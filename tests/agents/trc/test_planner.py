"""The planners: their plant against the task, no dead weights, no correction that makes it worse."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from steerlab.agents.classical.tracking import optimal_controls
from steerlab.agents.trc import SIZES, MlpPlanner, TinyRecursiveControl, TrcConfig
from steerlab.agents.trc.model import Planner, _InwardClamp
from steerlab.agents.trc.plant import Plant, make_plant
from steerlab.envs.tracking.double_integrator import DoubleIntegrator
from steerlab.envs.tracking.problem import TrackingProblem
from steerlab.envs.tracking.van_der_pol import VanDerPol
from steerlab.errors import InputError
from steerlab.exporters.planner import export_planner
from steerlab.openpilot.engines import session

LINEAR, NONLINEAR = DoubleIntegrator(), VanDerPol(steps=8, horizon=1.0)
PROBLEMS = {"linear": LINEAR, "nonlinear": NONLINEAR}
TINY = TrcConfig(latent_dim=8, hidden_dim=12, num_blocks=1)
BOTH = pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)


def cases(problem: TrackingProblem, count: int, seed: int = 0) -> tuple[torch.Tensor, ...]:
    rng = np.random.default_rng(seed)
    initial, targets = problem.sample(rng, count)
    controls = rng.uniform(-problem.limit, problem.limit, (count, problem.steps))
    left = torch.tensor(rng.integers(1, problem.steps + 1, count), dtype=torch.float64)
    return torch.tensor(initial), torch.tensor(targets), torch.tensor(controls), left


def double(problem: TrackingProblem) -> Plant:
    return make_plant(problem).double()


@BOTH
def test_plant_costs_what_the_task_costs(problem: TrackingProblem) -> None:
    initial, targets, controls, _ = cases(problem, 5)
    plant = double(problem)
    case = plant.case(initial, targets, torch.full((5,), float(problem.steps)).double())
    expected = problem.cost(initial, targets, controls[..., None])
    torch.testing.assert_close(plant.cost(case, controls), expected, rtol=1e-6, atol=1e-6)


@BOTH
def test_with_few_steps_left_it_is_a_shorter_problem(problem: TrackingProblem) -> None:
    initial, targets, controls, _ = cases(problem, 5)
    steps = 3
    shorter = type(problem)(steps=steps, horizon=steps * problem.dt)
    plant = double(problem)
    case = plant.case(initial, targets, torch.full((5,), float(steps)).double())
    expected = shorter.cost(initial, targets, controls[:, :steps, None])
    torch.testing.assert_close(
        plant.cost(case, controls * case.mask), expected, rtol=1e-6, atol=1e-6
    )


@BOTH
def test_gradient_is_that_of_the_cost(problem: TrackingProblem) -> None:
    initial, targets, controls, left = cases(problem, 6)
    plant = double(problem)
    case = plant.case(initial, targets, left)
    controls = (controls * case.mask).requires_grad_()
    (expected,) = torch.autograd.grad(plant.cost(case, controls).sum(), controls)
    view = plant.look(case, controls)
    torch.testing.assert_close(view.gradient, expected * case.mask)
    torch.testing.assert_close(view.error, plant.errors(case, controls))


def test_quadratic_is_the_excess_over_an_unbounded_optimum() -> None:
    problem = DoubleIntegrator(limit=1e6)
    initial, targets, change, _ = cases(LINEAR, 6)
    best = torch.tensor(optimal_controls(problem, initial.numpy(), targets.numpy()))[..., 0]
    plant = double(problem)
    case = plant.case(initial, targets, torch.full((6,), 15.0).double())
    excess = plant.cost(case, best + change) - plant.cost(case, best)
    torch.testing.assert_close(plant.quadratic(case, change), excess, rtol=1e-5, atol=1e-5)


def test_newton_step_leads_to_the_unbounded_optimum() -> None:
    problem = DoubleIntegrator(limit=1e6)
    initial, targets, controls, _ = cases(LINEAR, 6)
    plant = double(problem)
    case = plant.case(initial, targets, torch.full((6,), 15.0).double())
    best = optimal_controls(problem, initial.numpy(), targets.numpy())[..., 0]
    found = controls + plant.newton_step(plant.look(case, controls))
    np.testing.assert_allclose(found, best, atol=2e-3)


@BOTH
@given(seed=st.integers(0, 2**31), scale=st.floats(0.01, 3))
@settings(max_examples=20, deadline=None)
def test_safe_steps_never_raise_the_cost(problem: TrackingProblem, seed: int, scale: float) -> None:
    initial, targets, controls, left = cases(problem, 8, seed)
    plant = double(problem)
    case = plant.case(initial, targets, left)
    controls = 0.5 * controls * case.mask
    move = scale * torch.randn(controls.shape, generator=torch.Generator().manual_seed(seed))
    move = (controls + move).clamp(-problem.limit, problem.limit) * case.mask - controls
    part = plant.safe_step(case, plant.look(case, controls), controls, move)
    assert ((part >= 0) & (part <= 1)).all()
    before, after = plant.cost(case, controls), plant.cost(case, controls + part[:, None] * move)
    assert (after <= before * (1 + 1e-9)).all()
    if problem.linear:  # and it is the best length there is
        for other in (0.0, 0.3, 0.7, 1.0):
            assert (after <= plant.cost(case, controls + other * move) * (1 + 1e-9)).all()


@pytest.mark.parametrize(
    ("size", "count"), [("small", 105_000), ("medium", 530_000), ("large", 2_600_000)]
)
def test_sizes(size: str, count: int) -> None:
    assert TinyRecursiveControl.of_size(size).parameter_count() == pytest.approx(count, rel=0.05)
    assert TinyRecursiveControl.of_size(size, two_level=True).parameter_count() == pytest.approx(
        count, rel=0.05
    )


@BOTH
@pytest.mark.parametrize("two_level", [False, True])
@pytest.mark.parametrize("safe_steps", [False, True])
def test_no_weight_is_dead(problem: TrackingProblem, two_level: bool, safe_steps: bool) -> None:
    torch.manual_seed(0)
    config = TrcConfig(8, 12, 2, two_level=two_level, safe_steps=safe_steps)
    model = TinyRecursiveControl(problem, config).train()
    initial, targets, _, left = (t.float() for t in cases(problem, 64))
    left[0] = problem.steps
    case = model.plant.case(initial, targets, left)
    model.plant.cost(case, model.iterates(case, left)[-1]).sum().backward()
    for name, weight in model.named_parameters():
        assert weight.grad is not None, name
        assert (weight.grad != 0).all(), name


@BOTH
@given(seed=st.integers(0, 1000))
@settings(max_examples=8, deadline=None)
def test_no_iterate_of_any_network_is_worse(problem: TrackingProblem, seed: int) -> None:
    """Not only of a trained one: the weights are random and large."""
    torch.manual_seed(seed)
    model = TinyRecursiveControl(problem, TINY)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.3 * torch.randn_like(weight))
    initial, targets = problem.sample(np.random.default_rng(seed), 16)
    plans = model.plan(initial, targets, all_iterates=True)
    assert plans.shape == (4, 16, problem.steps, 1)
    assert (np.abs(plans) <= problem.limit).all()
    costs = np.stack([problem.cost(initial, targets, p) for p in plans])
    assert (np.diff(costs, axis=0) <= 1e-4 * costs[:-1]).all()


def test_clamp_lets_the_gradient_back_in() -> None:
    value = torch.tensor([-5.0, 0.0, 5.0], requires_grad=True)
    for sign, expected in ((1.0, [0.0, 1.0, 1.0]), (-1.0, [-1.0, -1.0, 0.0])):
        (gradient,) = torch.autograd.grad(sign * _InwardClamp.apply(value, 4.0).sum(), value)
        assert gradient.tolist() == expected


def test_dropout_is_for_training_only() -> None:
    torch.manual_seed(0)
    model = TinyRecursiveControl.of_size("small", latent_dim=8, hidden_dim=8, dropout=0.5)
    model.train()
    initial, targets = LINEAR.sample(np.random.default_rng(0), 4)
    np.testing.assert_array_equal(model.plan(initial, targets), model.plan(initial, targets))


def test_plain_networks_of_a_given_size() -> None:
    for count in (19_000, 530_000):
        model = MlpPlanner.with_parameters(LINEAR, count)
        assert model.parameter_count() == pytest.approx(count, rel=0.01)
    assert MlpPlanner.with_parameters(NONLINEAR, 19_000).parameter_count() == pytest.approx(
        19_000, rel=0.01
    )


@pytest.mark.parametrize(
    "kind",
    [
        "trc",
        pytest.param("two_level", marks=pytest.mark.slow),
        pytest.param("mlp", marks=pytest.mark.slow),
    ],
)
def test_exported_planner_drives_the_task_as_in_torch(tmp_path: Path, kind: str) -> None:
    torch.manual_seed(1)
    config = TrcConfig(8, 8, 1, num_outer_cycles=1, two_level=kind == "two_level")
    model: Planner = (
        MlpPlanner(LINEAR, 8) if kind == "mlp" else TinyRecursiveControl(LINEAR, config)
    )
    path = tmp_path / "planner.onnx"
    assert export_planner(model, path) < 1e-3
    runtime = session(path)

    env: Any = gym.make_vec("DoubleIntegrator-v0", 5)
    seen, _ = env.reset(seed=0)
    for k in range(15):
        left = np.full(5, 15 - k, np.float32)
        feed = {"initial_state": seen[:, :2], "target_state": seen[:, 2:4], "remaining": left}
        (plan,) = runtime.run(None, feed)
        # Step by step on the same states: the loop itself may amplify rounding.
        np.testing.assert_allclose(plan, model.plan(seen[:, :2], seen[:, 2:4], left), atol=1e-3)
        seen, _, terminated, _, _ = env.step(plan[:, 0])
    assert terminated.all()


def test_exported_planner_that_has_nothing_to_correct(tmp_path: Path) -> None:
    """Every input is at its bound and stays there: a move of nothing, over a cost of nothing."""
    torch.manual_seed(0)
    model = TinyRecursiveControl(LINEAR, TrcConfig(8, 8, 1, num_outer_cycles=1))
    with torch.no_grad():
        for bias in (model.first[-1].bias, model.correct[-1].bias):
            assert isinstance(bias, torch.Tensor)
            bias.fill_(1e4)
    export_planner(model, tmp_path / "planner.onnx")
    initial, targets = (a.astype(np.float32) for a in LINEAR.sample(np.random.default_rng(0), 4))
    left = np.array([1, 2, 8, 15], np.float32)
    feed = {"initial_state": initial, "target_state": targets, "remaining": left}
    (found,) = session(tmp_path / "planner.onnx").run(None, feed)
    np.testing.assert_allclose(found, model.plan(initial, targets, left), atol=1e-5)
    assert np.abs(found[0, 0, 0]) == LINEAR.limit


def test_bad_input(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="did you mean 'medium'"):
        TinyRecursiveControl.of_size("medum")
    with pytest.raises(InputError, match="did you mean 'latent_dim'"):
        TinyRecursiveControl.of_size("small", latent_dims=3)
    with pytest.raises(InputError, match="num_outer_cycles=0"):
        TinyRecursiveControl.of_size("small", num_outer_cycles=0)
    with pytest.raises(InputError, match="dropout"):
        TinyRecursiveControl.of_size("small", dropout=1.0)
    with pytest.raises(InputError, match="hidden_dim"):
        MlpPlanner(LINEAR, 0)
    with pytest.raises(InputError, match="nonlinear"):
        export_planner(TinyRecursiveControl(NONLINEAR, TINY), tmp_path / "x.onnx")
    assert not list(tmp_path.iterdir())
    assert set(SIZES) == {"small", "medium", "large"}
