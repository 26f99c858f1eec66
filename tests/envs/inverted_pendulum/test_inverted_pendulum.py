"""The wide pendulum against MuJoCo, physics, and its own options."""

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from steerlab.envs.inverted_pendulum.dynamics import (
    BALANCE_ANGLE,
    PendulumParameters,
    accelerations,
    step,
)
from steerlab.envs.inverted_pendulum.env import InvertedPendulumVectorEnv
from steerlab.errors import InputError

NOMINAL = PendulumParameters()
GAIN = np.array([-0.747, -10.404, -1.392, -1.865])


def zeros(count: int) -> np.ndarray:
    return np.zeros((count, 1), np.float32)


def test_parity_with_mujoco() -> None:
    pytest.importorskip("mujoco")
    from steerlab.envs.inverted_pendulum.mujoco import make_mujoco

    env = make_mujoco()
    env.reset(seed=0)
    rng, worst = np.random.default_rng(0), 0.0
    c = NOMINAL.coefficients()
    for _ in range(20):
        state = rng.uniform(-0.5, 0.5, 4)
        env.set_state(state[:2], state[2:])
        for _ in range(50):
            action = np.float32(np.clip(-GAIN @ state + rng.uniform(-0.05, 0.05), -3, 3))
            theirs, _, _, _, _ = env.step(np.array([action]))
            state = step(state, np.float64(action), c)
            worst = max(worst, float(np.abs(theirs - state).max()))
    assert worst < 1e-9


def test_masses_of_the_packaged_model() -> None:
    # As MuJoCo compiles them: a steel-grey cart of 10.47 kg and a pole of 5.02 kg.
    assert NOMINAL.pole_mass == pytest.approx(5.01859164, abs=1e-8)
    assert NOMINAL.coefficients().total_mass == pytest.approx(10.47197551 + 5.01859164, abs=1e-7)


def test_constants_of_the_packaged_model() -> None:
    """Those of the file that gymnasium ships for MuJoCo; MuJoCo itself need not be there."""
    place = Path(gym.__file__).parent / "envs/mujoco/assets/inverted_pendulum.xml"
    model = ElementTree.parse(place).getroot()

    def value(path: str, name: str) -> str:
        found = model.find(path)
        assert found is not None
        return found.attrib[name]

    down = -float(value("option", "gravity").split()[2])
    damping, gear = float(value("default/joint", "damping")), float(value("actuator/motor", "gear"))
    assert (down, damping, gear, value("option", "timestep")) == (9.81, 1.0, 100.0, "0.02")
    assert (NOMINAL.gravity, NOMINAL.gear, NOMINAL.timestep) == (down, gear, 0.02)
    assert NOMINAL.slider_damping == NOMINAL.hinge_damping == damping
    # An upright pole that turns at 1 rad/s is slowed by 1 N m; a cart at 1 m/s by 1 N.
    c = NOMINAL.coefficients()
    upright, one, none = -c.lean, np.float64(1.0), np.float64(0.0)
    mass = np.array([[15.49056715, 1.50558], [1.50558, c.hinge_inertia]])
    for rates, forces in (((none, one), (0.0, -1.0)), ((one, none), (-1.0, 0.0))):
        found = accelerations(np.float64(upright), *rates, none, c)
        np.testing.assert_allclose(mass @ np.array(found), forces, atol=1e-4)


def test_balance_is_an_equilibrium_and_zero_is_not() -> None:
    c = NOMINAL.coefficients()
    state = np.array([0.3, BALANCE_ANGLE, 0.0, 0.0])
    np.testing.assert_allclose(step(state, np.float64(0.0), c), state, atol=1e-15)
    assert step(np.zeros(4), np.float64(0.0), c)[1] > 1e-5


@settings(max_examples=50, deadline=None)
@given(st.tuples(*[st.floats(-0.7, 0.7)] * 4), st.floats(-3, 3))
def test_power_equals_change_of_energy(values: tuple[float, ...], action: float) -> None:
    _, theta, v, w = values
    c = NOMINAL.coefficients()
    angle, speed, rate, force = (np.array([q]) for q in (theta, v, w, 100 * action))
    a, b = accelerations(angle, speed, rate, force, c)
    sine, cosine = np.sin(theta + c.lean), np.cos(theta + c.lean)
    change = (
        c.total_mass * v * a
        + c.hinge_inertia * w * b
        + c.coupling * (cosine * (a * w + v * b) - sine * w * v * w)
        - c.weight * sine * w
    )
    power = 100 * action * v - c.slider_damping * v * v - c.hinge_damping * w * w
    np.testing.assert_allclose(change, power, atol=1e-9)


def test_numpy_and_torch_agree_and_torch_differentiates() -> None:
    rng = np.random.default_rng(1)
    state, action = rng.uniform(-0.5, 0.5, (7, 4)), rng.uniform(-3, 3, 7)
    c = NOMINAL.coefficients()
    tensor = torch.tensor(action, requires_grad=True)
    theirs = step(torch.tensor(state), tensor, c)
    np.testing.assert_allclose(theirs.detach().numpy(), step(state, action, c), atol=1e-14)
    theirs.sum().backward()
    assert tensor.grad is not None
    assert tensor.grad.abs().min() > 0


def test_error_of_the_integrator_falls_with_the_fourth_power() -> None:
    state, c = np.array([0.1, 0.4, -0.3, 0.5]), NOMINAL.coefficients()
    exact = step(state, np.float64(2.0), c, 0.04 / 512, 512)
    errors = [np.abs(step(state, np.float64(2.0), c, 0.04 / n, n) - exact).max() for n in (1, 2, 4)]
    assert errors[0] / errors[1] == pytest.approx(16, rel=0.3)
    assert errors[1] / errors[2] == pytest.approx(16, rel=0.3)


def test_scaled_mass_and_length_are_independent() -> None:
    plant = NOMINAL.scaled(1.5, np.array([0.5, 2.0]), 0.8)
    np.testing.assert_allclose(plant.pole_mass, 1.5 * NOMINAL.pole_mass)
    np.testing.assert_allclose(plant.pole_length, [0.3, 1.2])
    assert plant.coefficients().gear == pytest.approx(80)


def test_episode_ends_at_the_limits_and_after_the_time() -> None:
    env = InvertedPendulumVectorEnv(3, autoreset_mode="Disabled")
    start = [[0, 0.7, 0, 8.0], [9.99, 0, 9.0, 0], [0, BALANCE_ANGLE, 0, 0]]
    env.reset(seed=0, options={"state": start})
    _, reward, terminated, truncated, _ = env.step(zeros(3))
    assert terminated.tolist() == [True, True, False]
    assert reward.tolist() == [0, 0, 1]
    assert not truncated.any()
    single = gym.make("InvertedPendulumWide-v0", max_episode_steps=5)
    single.reset(seed=0, options={"state": [0, BALANCE_ANGLE, 0, 0]})
    assert [single.step(np.zeros(1, np.float32))[3] for _ in range(5)] == [False] * 4 + [True]


def test_latency_delays_the_force() -> None:
    prompt, late = (InvertedPendulumVectorEnv(1, latency=k) for k in (0, 2))
    start = {"state": [0, BALANCE_ANGLE, 0, 0]}
    for env in (prompt, late):
        env.reset(seed=0, options=start)
    push = np.full((1, 1), 2.0, np.float32)
    first = prompt.step(push)[0]
    np.testing.assert_allclose(late.step(push)[0], [start["state"]], atol=1e-12)
    np.testing.assert_allclose(late.step(zeros(1))[0], [start["state"]], atol=1e-12)
    np.testing.assert_allclose(late.step(zeros(1))[0], first, atol=1e-12)


def test_process_noise_moves_the_state_and_observation_noise_only_the_view() -> None:
    clean = InvertedPendulumVectorEnv(2)
    pushed = InvertedPendulumVectorEnv(2, process_noise=0.1)
    blurred = InvertedPendulumVectorEnv(2, observation_noise=0.1)
    views, states = [], []
    for env in (clean, pushed, blurred):
        env.reset(seed=3)
        env.state[:] = 0.1
        view, _, _, _, info = env.step(zeros(2))
        views.append(view)
        states.append(info["state"])
    assert (states[0] != states[1]).any()
    np.testing.assert_array_equal(states[0], states[2])
    assert (np.abs(views[2] - states[2]) > 1e-3).any()


def test_ranges_draw_a_plant_for_each_row_and_rows_do_not_mix() -> None:
    options: dict[str, Any] = {
        "pole_mass": (0.5, 2.0),
        "pole_length": (0.8, 1.2),
        "process_noise": 0.05,
    }
    many = InvertedPendulumVectorEnv(4, **options)
    many.reset(seed=10)
    assert len(np.unique(many.plant[:, 0])) == 4
    alone = InvertedPendulumVectorEnv(1, **options)
    alone.reset(seed=12)
    for _ in range(5):
        together = many.step(zeros(4))[0]
        np.testing.assert_allclose(alone.step(zeros(1))[0][0], together[2], atol=1e-14)


def test_goals_pay_only_near_them() -> None:
    env = InvertedPendulumVectorEnv(3, goals=(-1.5, 1.5))
    start = np.tile([0, BALANCE_ANGLE, 0, 0], (3, 1))
    start[:, 0] = [-1.4, 0.0, 1.6]
    env.reset(seed=0, options={"state": start})
    assert env.step(zeros(3))[1].tolist() == [1, 0, 1]


def test_obstacle_ends_what_is_in_its_way_from_its_step_on() -> None:
    env = InvertedPendulumVectorEnv(3, obstacle=(0.3, 4), autoreset_mode="Disabled")
    start = np.tile([0, BALANCE_ANGLE, 0, 0], (3, 1))
    start[:, 0] = [-0.31, -0.29, 0.0]
    env.reset(seed=0, options={"state": start})
    ended = [env.step(zeros(3))[1:3] for _ in range(3)]
    assert all(reward.all() and not terminated.any() for reward, terminated in ended)
    before = env.render_row(1)
    _, reward, terminated, truncated, _ = env.step(zeros(3))
    assert terminated.tolist() == [False, True, True]
    assert reward.tolist() == [1, 0, 0]
    assert not truncated.any()
    # The bottom row, below cart and rail: shaded from -0.3 m to 0.3 m.
    changed = (env.render_row(1) != before).any(axis=2)
    assert changed[-1].sum() == pytest.approx(0.6 / 4 * 600, abs=1)


def test_picture_follows_the_state() -> None:
    env = gym.make("InvertedPendulumWide-v0", render_mode="rgb_array", goals=(-1.0, 1.0))
    env.reset(seed=0)
    first = env.render()
    env.step(np.ones(1, np.float32))
    second = env.render()
    assert isinstance(first, np.ndarray)
    assert first.shape == (300, 600, 3)
    assert (first != second).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"process_noise": -1.0}, "process_noise"),
        ({"pole_mass": (2.0, 1.0)}, "pole_mass"),
        ({"gear": 0.0}, "gear"),
        ({"latency": -1}, "latency"),
        ({"max_episode_steps": 0}, "max_episode_steps"),
        ({"obstacle": (-0.1, 40)}, "obstacle"),
        ({"obstacle": (0.3, 1.6)}, "obstacle"),
        ({"obstacle": (0.3,)}, "obstacle"),
    ],
)
def test_bad_arguments(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        InvertedPendulumVectorEnv(1, **options)
    with pytest.raises(InputError, match="state"):
        InvertedPendulumVectorEnv(2).reset(seed=0, options={"state": [1.0, 2.0]})
