"""The tracking tasks: the plants against other integrators, the rewards against the cost."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from hypothesis import given, settings, strategies as st
from scipy.integrate import solve_ivp

from steerlab.envs.sb3 import make_sb3_vec
from steerlab.envs.tracking.double_integrator import DoubleIntegrator, double_integrator
from steerlab.envs.tracking.problem import TrackingProblem, final_error
from steerlab.envs.tracking.van_der_pol import VanDerPol
from steerlab.errors import InputError

TASKS = {"DoubleIntegrator-v0": DoubleIntegrator(), "VanDerPol-v0": VanDerPol()}
NUMBERS = st.floats(-3, 3)


@given(NUMBERS, NUMBERS, st.floats(-4, 4), st.floats(0.01, 1))
@settings(max_examples=25, deadline=None)
def test_double_integrator_is_exact(p: float, v: float, u: float, dt: float) -> None:
    out = double_integrator(np.array([p, v]), np.array([u]), dt)
    np.testing.assert_allclose(out, [p + v * dt + u * dt**2 / 2, v + u * dt], atol=1e-12)
    halves = double_integrator(np.array([p, v]), np.array([u]), dt / 2)
    halves = double_integrator(halves, np.array([u]), dt / 2)
    np.testing.assert_allclose(out, halves, atol=1e-12)
    judge = double_integrator(np.array([p, v]), np.array([u]), dt, "semi_implicit_euler")
    np.testing.assert_allclose(judge, [p + (v + u * dt) * dt, v + u * dt], atol=1e-12)


@given(NUMBERS, NUMBERS, st.floats(-2, 2))
@settings(max_examples=15, deadline=None)
def test_van_der_pol_agrees_with_an_adaptive_integrator(x: float, v: float, u: float) -> None:
    problem = VanDerPol(steps=500)  # one step of the method errs by dt^5: here up to 3e-7

    def slope(_: float, s: Any) -> list[float]:
        return [s[1], (1 - s[0] ** 2) * s[1] - s[0] + u]

    exact = solve_ivp(slope, (0, problem.dt), [x, v], rtol=1e-10, atol=1e-12).y[:, -1]
    np.testing.assert_allclose(problem.step(np.array([x, v]), np.array([u])), exact, atol=2e-6)


@pytest.mark.parametrize("problem", TASKS.values(), ids=TASKS)
def test_torch_repeats_numpy_and_its_gradients_are_right(problem: TrackingProblem) -> None:
    rng = np.random.default_rng(0)
    initial, targets = problem.sample(rng, 3)
    controls = rng.uniform(-1, 1, (3, 4, 1))
    tensors = [torch.tensor(a) for a in (initial, targets, controls)]
    np.testing.assert_allclose(
        problem.cost(*tensors), problem.cost(initial, targets, controls), rtol=1e-13
    )
    for t in tensors:
        t.requires_grad_()
    assert torch.autograd.gradcheck(problem.cost, tensors)


def test_the_cost_of_a_case_worked_out_by_hand() -> None:
    """dt = 1 s, from (1, 0) to (0, 0) with u = -1, then 1: (0.5, -1), then (0, 0).

    J = (1 + 0 + 0.1) + (0.25 + 1 + 0.1) + 0 = 2.45; to (0, 1) with weights 2, 3, 0.5 and F = 10:
    (2 + 3 + 0.5) + (0.5 + 12 + 0.5) + 10 * 3 = 48.5.
    """
    initial, controls = np.array([[1.0, 0.0]]), np.array([[[-1.0], [1.0]]])
    problem = DoubleIntegrator(steps=2, horizon=2.0)
    assert problem.cost(initial, np.zeros((1, 2)), controls) == pytest.approx([2.45])
    problem = DoubleIntegrator(
        steps=2, horizon=2.0, position_weight=2.0, velocity_weight=3.0, input_weight=0.5,
        terminal_factor=10.0,
    )  # fmt: skip
    assert problem.cost(initial, np.array([[0.0, 1.0]]), controls) == pytest.approx([48.5])
    env = gym.make("DoubleIntegrator-v0", steps=2, horizon=2.0)
    env.reset(seed=0, options={"initial": [1.0, 0.0], "target": [0.0, 0.0]})
    rewards = [env.step(np.array([u], np.float32))[1] for u in (-1.0, 1.0)]
    assert rewards == pytest.approx([-1.1, -1.35])


@pytest.mark.parametrize("name", TASKS)
def test_return_is_minus_the_cost_and_rows_repeat_the_single_task(name: str) -> None:
    problem, rng = TASKS[name], np.random.default_rng(1)
    rows: Any = gym.make_vec(name, 4, autoreset_mode=AutoresetMode.DISABLED)
    controls = rng.uniform(-1, 1, (4, problem.steps, 1)).astype(np.float32)
    seen, _ = rows.reset(seed=5)
    initial = np.array([problem.sample(np.random.default_rng(5 + i), 1)[0][0] for i in range(4)])
    np.testing.assert_allclose(seen[:, :2], initial, rtol=1e-6)
    targets = rows.unwrapped._targets
    total = np.zeros(4)
    history = [seen]
    for k in range(problem.steps):
        seen, rewards, terminated, truncated, info = rows.step(controls[:, k])
        total += rewards
        history.append(seen)
        assert (terminated == (k == problem.steps - 1)).all()
        assert not truncated.any()
    expected = problem.cost(initial, targets, controls.astype(float))
    np.testing.assert_allclose(-total, expected, rtol=1e-12)
    np.testing.assert_allclose(info["cost"], expected, rtol=1e-12)
    error = final_error(problem.rollout(initial, controls.astype(float)), targets)
    np.testing.assert_allclose(info["error"], error, atol=1e-12)
    np.testing.assert_array_equal(info["is_success"], error < problem.tolerance)
    np.testing.assert_allclose(seen[:, 4], 0.0)

    single = gym.make(name)
    first, _ = single.reset(seed=7)
    np.testing.assert_array_equal(first, history[0][2])
    for k in range(problem.steps):
        first, *_ = single.step(controls[2, k])
        np.testing.assert_array_equal(first, history[k + 1][2])


def test_actions_beyond_the_bounds_are_clipped_and_disturbances_are_seeded() -> None:
    def run(action: float, **kwargs: Any) -> tuple[Any, float]:
        env = gym.make("DoubleIntegrator-v0", **kwargs).unwrapped
        env.reset(seed=3, options={"initial": [1.0, 0.0], "target": [0.0, 0.0]})
        seen, reward, *_ = env.step(np.array([action], np.float32))
        return seen, float(reward)

    np.testing.assert_array_equal(run(9.0)[0], run(4.0)[0])
    assert run(9.0)[1] == run(4.0)[1]
    assert run(1.0, disturbance=0.5)[0][1] != run(1.0)[0][1]
    np.testing.assert_array_equal(run(1.0, disturbance=0.5)[0], run(1.0, disturbance=0.5)[0])


def test_trains_through_the_adapter() -> None:
    env = make_sb3_vec("DoubleIntegrator-v0", 3, seed=0)
    env.reset()
    for _ in range(15):
        *_, dones, infos = env.step(np.zeros((3, 1), np.float32))
    assert dones.all()
    assert [info["episode"]["r"] for info in infos] == pytest.approx(
        [-info["cost"] for info in infos], rel=1e-5
    )


def test_presets() -> None:
    published = DoubleIntegrator.preset("published", steps=20)
    assert (published.terminal_factor, published.steps) == (0.0, 20)
    assert DoubleIntegrator.preset("published_judge").dt == pytest.approx(0.33)
    env: Any = gym.make("DoubleIntegrator-v0", preset="published", horizon=4.0).unwrapped
    assert env.batch.problem == DoubleIntegrator(terminal_factor=0.0, horizon=4.0)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"preset": "publishd"}, "did you mean 'published'"),
        ({"horizn": 3.0}, "did you mean 'horizon'"),
        ({"steps": 0}, "steps=0"),
        ({"limit": 0.0}, "limit=0.0"),
        ({"terminal_factor": -1.0}, "terminal_factor"),
        ({"integrator": "euler"}, "integrator"),
        ({"disturbance": -1.0}, "disturbance"),
        ({"position_weight": 0.0, "velocity_weight": 0.0}, "both"),
    ],
)
def test_bad_parameters(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        gym.make("DoubleIntegrator-v0", **kwargs)


def test_bad_reset_options() -> None:
    env = gym.make("DoubleIntegrator-v0").unwrapped
    with pytest.raises(InputError, match="shape"):
        env.reset(options={"initial": [1.0, 2.0, 3.0]})
    with pytest.raises(InputError, match="unknown reset option"):
        env.reset(options={"start": [1.0, 2.0]})
