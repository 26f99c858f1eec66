"""Cars that do not exist, held against closed forms of the bicycle."""

from dataclasses import fields, replace

import numpy as np
import pytest

from steerlab.surrogates.plants.tokens import decode
from steerlab.surrogates.simulated_cars import (
    RANGES,
    Cars,
    Motion,
    _tyre,
    advance,
    draw_cars,
    synthetic_drives,
)

QUIET = np.zeros((10, 50))


def quiet_cars(seed: int = 0) -> Cars:
    cars = draw_cars(np.random.default_rng(seed), 50)
    return replace(cars, disturbance=np.zeros(50), rack_friction=np.zeros(50))


def settle(cars: Cars, steer: float, speed: float, roll: float = 0.0, steps: int = 150) -> Motion:
    motion = Motion.rest(50)
    command = np.full(50, steer)
    for _ in range(steps):
        motion = advance(
            cars, motion, (command, command), np.full(50, speed), np.full(50, roll), QUIET
        )
    return motion


def test_every_parameter_is_in_its_range() -> None:
    cars = draw_cars(np.random.default_rng(0), 500)
    for field in fields(Cars):
        low, high, _ = RANGES[field.name]
        values = getattr(cars, field.name)
        if field.name == "rear_stiffness":
            values = values / cars.front_stiffness
        assert low <= values.min() < values.max() <= high


@pytest.mark.parametrize("speed", [8.0, 20.0, 32.0])
def test_steady_turn_of_the_bicycle(speed: float) -> None:
    """Wheel angle = L/R + understeer * lateral acceleration (Rajamani, eq. 3.3), small slips."""
    cars = quiet_cars()
    motion = settle(cars, 0.05, speed)
    lataccel = motion.yaw_rate * speed
    radius = speed / motion.yaw_rate
    understeer = (1 / cars.front_stiffness - 1 / cars.rear_stiffness) / 9.81
    expected = cars.wheelbase / radius + understeer * lataccel
    np.testing.assert_allclose(motion.wheel, expected, rtol=0.02)


@pytest.mark.parametrize("speed", [10.0, 20.0, 32.0])
def test_response_to_steer_and_road(speed: float) -> None:
    """Balance of assistance, aligning force and spring at rest, with the wheel angle of a turn."""
    cars = quiet_cars()
    understeer = (1 / cars.front_stiffness - 1 / cars.rear_stiffness) / 9.81
    firm = 400.0 / (cars.wheelbase * 1.8)
    angle = cars.wheelbase / speed**2  # per lateral acceleration, without slip
    assistance = 2 * cars.gain * speed / (speed + cars.gain_speed) * 0.2
    expected = assistance / (1 + firm * (angle + understeer))
    found = settle(cars, 0.2, speed, steps=300).yaw_rate * speed
    np.testing.assert_allclose(found, expected, rtol=0.03)
    # A bank to the right pulls the car to the right.
    expected = 0.3 * (1 + firm * understeer) / (1 + firm * (angle + understeer))
    found = settle(cars, 0.0, speed, roll=0.3, steps=300).yaw_rate * speed
    np.testing.assert_allclose(found, expected, rtol=0.03)


def test_dead_step_and_lag() -> None:
    cars = quiet_cars()
    before, after = np.zeros(50), np.ones(50) * 0.5
    motion, response = settle(cars, 0.0, 25.0), []
    for _ in range(30):
        motion = advance(cars, motion, (before, after), np.full(50, 25.0), np.zeros(50), QUIET)
        response.append(motion.yaw_rate * 25.0)
        before = after
    share = np.array(response) / response[-1]
    assert np.median(share[0]) < 0.25
    assert (share[9] > 0.7).all()


def test_left_and_right_are_alike() -> None:
    cars = quiet_cars()
    right, left = settle(cars, 0.7, 18.0, 0.2), settle(cars, -0.7, 18.0, -0.2)
    np.testing.assert_allclose(right.yaw_rate, -left.yaw_rate)


def test_a_parked_car_does_not_turn() -> None:
    assert not settle(quiet_cars(), 1.0, 0.0).yaw_rate.any()


def test_grip_is_limited() -> None:
    slip = np.linspace(-1, 1, 201)
    force = _tyre(np.full(201, 12.0), np.full(201, 0.9), slip)
    np.testing.assert_allclose(force[99:102] / slip[[99, 101, 101]], [12, 0, 12], rtol=0.01)
    assert np.abs(force).max() <= 0.9
    np.testing.assert_allclose(force, -force[::-1], rtol=1e-12)


def test_drives_are_repeatable_and_plausible() -> None:
    drives = synthetic_drives(40, seed=5)
    again = synthetic_drives(40, seed=5)
    np.testing.assert_array_equal(drives.tokens, again.tokens)
    assert drives.routes == again.routes
    assert len(drives) > 30
    assert not np.array_equal(drives.tokens[:30], synthetic_drives(40, seed=6).tokens[:30])
    lataccel = decode(drives.tokens.astype(int))
    assert np.abs(lataccel).max() < 5
    assert 0.02 < np.abs(np.diff(lataccel)).mean() < 0.1
    steer, roll = drives.states[..., 0], drives.states[..., 1]
    assert np.abs(steer).max() <= 2
    # Steer and bank both push the car to the right.
    fast = drives.states[..., 2] > 15
    slopes = np.linalg.lstsq(np.stack([steer[fast], roll[fast]], 1), lataccel[fast], rcond=None)[0]
    assert 0.8 < slopes[0] < 2.5
    assert slopes[1] > 0.3
