"""The car against hand-worked numbers and against a fine integration on the plane."""

from typing import Any

import numpy as np
import pytest

from steerlab.envs.kinematic_driver import dynamics
from steerlab.envs.kinematic_driver.dynamics import DT, GRAVITY, State, Vehicle
from steerlab.envs.kinematic_driver.numpy_backend import NUMPY

ZERO = np.zeros(1, np.float32)


def state(**values: float) -> State:
    fields = dict.fromkeys(State._fields, 0.0) | values
    return State(**{name: np.array([v], np.float64) for name, v in fields.items()})


def vehicle(**values: float) -> Vehicle:
    fields = {
        "lateral_delay": 0.2,
        "actuator_lag": 0.1,
        "smoothing": 0.0,
        "friction": 1.0,
        "mass": 1.0,
        "drive_lag": 0.2,
        "brake_lag": 0.2,
        "superelevation": 0.0,
    } | values
    return Vehicle(**{name: np.array([v], np.float64) for name, v in fields.items()})


def advance(car: Vehicle, now: State, k: float, a: float, road: tuple[float, float]) -> State:
    shaped = dynamics.shape_commands(NUMPY, now, car, np.array([k]), np.array([a]))
    here = (np.array([road[0]]), np.array([road[1]]))
    return dynamics.advance(NUMPY, now, car, shaped, np.array([k]), here)


@pytest.mark.parametrize(
    ("curvature", "last", "v", "bank", "expected"),
    [
        (0.1, 0.0, 10.0, 0.0, 5.0 * 0.05 / 100),  # jerk: 5 / v^2 a second
        (0.1, 0.03, 10.0, 0.0, 0.03),  # 3 m/s^2 / v^2
        (0.1, 0.03, 10.0, 0.06, 0.0325),  # the bank adds 0.59 m/s^2, so jerk limits first
        (-0.1, -0.03, 10.0, 0.06, -(3 - 0.06 * GRAVITY) / 100),  # and takes it on the other side
        (1.0, 0.19, 0.0, 0.0, 0.2),  # below 1 m/s as at 1 m/s; then the radius
    ],
)
def test_clip_curvature(
    curvature: float, last: float, v: float, bank: float, expected: float
) -> None:
    args = (np.array([value]) for value in (curvature, last, v, bank))
    found = dynamics.clip_curvature(NUMPY, *args)
    assert found[0] == pytest.approx(expected, rel=1e-9)


def test_actions_survive_the_way_there_and_back() -> None:
    rng = np.random.default_rng(0)
    actions, v = rng.uniform(-1, 1, (100, 2)), rng.uniform(0, 40, 100)
    k, a = dynamics.decode_action(NUMPY, actions, v)
    again = np.stack(dynamics.encode_action(NUMPY, k, a, v), 1)
    np.testing.assert_allclose(again, actions, atol=1e-12)
    assert np.abs(k).max() <= dynamics.MAX_CURVATURE
    assert a.max() <= dynamics.MAX_ACCELERATION
    assert a.min() >= -dynamics.MAX_BRAKING


def test_path_frame_equals_the_plane() -> None:
    """Half a minute on a winding path: the same place as a fine integration in x and y."""
    wave, length = 0.02, 60.0
    now = state(v=12.0, d=0.4, psi=0.05)
    car = vehicle(friction=1.5)

    def kappa(s: float) -> float:
        return wave * np.sin(s / length)

    def command(t: float) -> float:
        return 0.02 * np.sin(0.2 * t) + 0.004

    # The plane: the path and the car, each integrated with 100 steps a step.
    fine = DT / 100
    heading, x, y = 0.05, -0.4 * np.sin(0.0), 0.4
    k = 0.0
    for step in range(200):
        before = now
        now = advance(car, now, command(step * DT), 0.0, (
            kappa(float(before.s[0])), wave / length * np.cos(before.s[0] / length)))  # fmt: skip
        k = float(now.k[0])
        for _ in range(100):
            middle = heading + 0.5 * fine * 12.0 * k
            x, y = x + fine * 12.0 * np.cos(middle), y + fine * 12.0 * np.sin(middle)
            heading += fine * 12.0 * k
    s = np.linspace(0, float(now.s[0]), 200_001)
    h = s[1] - s[0]
    turned = wave * length * (1 - np.cos(s / length))
    px = h * (np.cos(turned).sum() - 0.5 * (np.cos(turned[0]) + np.cos(turned[-1])))
    py = h * (np.sin(turned).sum() - 0.5 * (np.sin(turned[0]) + np.sin(turned[-1])))
    d = float(now.d[0])
    assert abs(px - d * np.sin(turned[-1]) - x) < 0.02
    assert abs(py + d * np.cos(turned[-1]) - y) < 0.02
    assert float(now.psi[0]) == pytest.approx(heading - turned[-1], abs=2e-3)
    assert abs(d) > 1  # it was a real drive, not one along the path


@pytest.mark.parametrize("bank", [-0.06, 0.0, 0.06])
def test_grip_bounds_what_the_tyres_carry(bank: float) -> None:
    car, now = vehicle(friction=0.3, superelevation=bank), state(v=20.0)
    for _ in range(100):
        now = advance(car, now, 0.02, -1.0, (0.0, 0.0))
        v = float(now.v[0]) - 0.5 * DT * float(now.a[0])
        side = float(now.k[0]) * v * v - GRAVITY * bank
        assert np.hypot(side, float(now.a[0])) <= 0.3 * GRAVITY * (1 + 1e-6)
    assert float(now.k[0]) < 0.02


def test_actuator_follows_what_leaves_the_delay() -> None:
    """Two steps of 0.05 s with a lag of 0.1 s: 1 - 1/e of the delayed command, whatever the new one."""
    car, now, here = vehicle(actuator_lag=0.1), state(v=5.0), (np.zeros(1), np.zeros(1))
    for _ in range(2):
        shaped = dynamics.shape_commands(NUMPY, now, car, np.array([0.15]), np.array([0.0]))
        now = dynamics.advance(NUMPY, now, car, shaped, np.array([0.01]), here)
    assert float(now.k_actuator[0]) == pytest.approx(0.01 * 0.6321205588, rel=1e-6)
    assert float(now.k_command[0]) > 0.015


def test_mass_and_lag_shape_the_acceleration() -> None:
    car, now = vehicle(mass=1.25, drive_lag=0.3), state(v=10.0)
    for _ in range(6):  # one lag of 0.3 s
        now = advance(car, now, 0.0, 1.0, (0.0, 0.0))
    assert float(now.a[0]) == pytest.approx(0.8 * (1 - np.exp(-1)), rel=1e-6)


def test_brakes_stop_and_do_not_reverse() -> None:
    car, now = vehicle(), state(v=3.0)
    for _ in range(100):
        now = advance(car, now, 0.0, -3.5, (0.0, 0.0))
        assert float(now.v[0]) >= 0
    assert float(now.v[0]) == pytest.approx(0.0, abs=1e-9)
    assert float(now.s[0]) < 4.0


def test_corners() -> None:
    straight = dynamics.corners(NUMPY, ZERO + 1, ZERO, ZERO)
    np.testing.assert_allclose(np.ravel(straight), [1.92, 0.08, 1.92, 0.08], rtol=1e-6)
    # On a bend to the right of 10 m radius the front reaches out to the left by about l^2 / 2r.
    front_right, front_left, *_ = dynamics.corners(NUMPY, ZERO, ZERO, ZERO + 0.1)
    exact = 10 - np.hypot(10 + 0.92, dynamics.FRONT)
    assert front_left[0] == pytest.approx(exact, abs=0.1)
    assert front_right[0] == pytest.approx(front_left[0] + 1.84, rel=1e-6)


def test_inputs_are_left_alone() -> None:
    now: Any = state(v=5.0)
    copy = State(*(v.copy() for v in now))
    advance(vehicle(), now, 0.1, 1.0, (0.01, 0.0))
    np.testing.assert_array_equal(now, copy)
