"""The teacher of the labels: what it costs to go without the commands that are on their way."""

import itertools

import numpy as np
import pytest
from scipy.linalg import solve_discrete_lyapunov

from steerlab.agents.classical.lqr import lqr_gain
from steerlab.agents.classical.preview import CONTROL_COST
from steerlab.agents.classical.route_driver import PUBLISHED, gains, steering
from steerlab.envs.kinematic_driver.dynamics import DT, Vehicle
from steerlab.envs.labels.plan import FAR, Situation
from steerlab.openpilot.contracts import contract
from steerlab.types import Floats

#: Delay, lag of the actuator and smoothing with openpilot's own, s: the corners of the randomisation.
CARS = list(itertools.product((0.1, 0.3, 0.5), (0.05, 0.3), (PUBLISHED, PUBLISHED + 0.2)))


def system(delay: float, lag: float, smoothing: float) -> tuple[Floats, Floats]:
    """Return the double integrator behind a delay and two lags, as matrices.

    Its state is offset, rate, sideways acceleration, smoothed command, and the commands in the delay.
    """
    waiting = round(delay / DT)
    last = 3 + waiting
    a, b = np.zeros((last + 1, last + 1)), np.zeros((last + 1, 1))
    b[3] = 1.0 - np.exp(-DT / smoothing)
    a[3, 3] = np.exp(-DT / smoothing)
    for i in range(4, last + 1):
        a[i, i - 1] = 1.0
    a[2, 2], a[2, last] = np.exp(-DT / lag), 1.0 - np.exp(-DT / lag)
    a[1] = DT * a[2]
    a[1, 1] += 1.0
    a[0] = DT * a[1]
    a[0, 0] += 1.0
    return a, b


def feedback(delay: float, pull: float, states: int) -> Floats:
    """Return the teacher's gains as a row (1, states)."""
    row = np.zeros((1, states))
    row[0, :3] = gains(np.array([delay]), np.array([pull]))[:, 0]
    return row


def radius(a: Floats, b: Floats, k: Floats) -> float:
    """Return the spectral radius of the closed loop."""
    return float(np.abs(np.linalg.eigvals(a - b @ k)).max())


@pytest.mark.parametrize("car", CARS)
def test_gains_cost_little_more_than_those_of_the_lqr_that_sees_all(
    car: tuple[float, float, float],
) -> None:
    a, b = system(*car)
    q, r = np.zeros_like(a), np.array([[CONTROL_COST]])
    q[0, 0], q[1, 1] = 1.0, 0.1
    _, best = lqr_gain(a, b, q, r)
    k = feedback(car[0], car[1] + car[2], len(a))
    assert radius(a, b, k) < 0.98
    ours = solve_discrete_lyapunov((a - b @ k).T, q + k.T @ r @ k)
    turning = np.r_[0.0, 0.0, np.ones(len(a) - 2)]
    starts = [np.eye(len(a))[0], 0.5 * np.eye(len(a))[1], turning]
    ratio = sum(x @ ours @ x for x in starts) / sum(x @ best @ x for x in starts)
    assert 1.0 <= ratio < 1.25


@pytest.mark.parametrize("car", CARS)
def test_a_student_that_errs_stays_stable(car: tuple[float, float, float]) -> None:
    """It may steer too much, or too late, or hardly see how sharply the car turns."""
    delay, lag, smoothing = car
    a, b = system(*car)
    k = feedback(delay, lag + smoothing, len(a))
    assert radius(a, b, 1.4 * k) < 1.0
    assert radius(a, b, k * np.r_[1.0, 1.0, 0.5, np.zeros(len(a) - 3)]) < 0.99
    later, b_later = system(delay + 0.1, lag, smoothing)
    assert radius(later, b_later, feedback(delay, lag + smoothing, len(later))) < 0.99


def beside_a_bend(delay: float) -> Situation:
    """Return a car whose steering acts after ``delay`` s, 0.5 m beside its path and before a bend."""
    one = np.ones(1)
    fields = dict.fromkeys(Vehicle._fields, one)
    fields |= {"lateral_delay": delay * one, "actuator_lag": 0.2 * one, "smoothing": 0.1 * one}
    return Situation(
        0.5 * one, 0.02 * one, 20.0 * one, 0.002 * one, Vehicle(**fields), FAR * one, 0.0 * one,
        FAR * one,
        lambda ahead: (np.where(ahead > 5.0, 0.003, 0.001), np.full_like(ahead, 30.0)),
    )  # fmt: skip


@pytest.mark.parametrize("delay", [0.1, 0.5])
def test_it_steers_with_the_bend_where_the_command_will_act_and_towards_the_path(
    delay: float,
) -> None:
    offset, rate, acceleration = 0.5, 20.0 * np.sin(0.02), 400.0 * (0.002 - 0.001)
    k = gains(np.array([delay]), np.array([0.2 + 0.1 + PUBLISHED]))[:, 0]
    wanted = 0.003 - k @ [offset, rate, acceleration] / 400.0
    assert float(steering(beside_a_bend(delay))[0]) == pytest.approx(wanted, rel=1e-9)


def test_openpilot_smooths_for_as_long_as_the_teacher_reckons_with() -> None:
    assert contract("openpilot-0.10.0").command.lat_smooth_s == PUBLISHED


def test_late_steering_is_corrected_more_gently() -> None:
    hard, soft = (float(steering(beside_a_bend(delay))[0]) for delay in (0.1, 0.5))
    assert hard < soft < 0.003


def test_far_from_the_path_it_steers_back_no_harder() -> None:
    """Plans from there would else begin with curvatures that belong to no road."""
    beside = beside_a_bend(0.3)
    far, farther = (float(steering(beside._replace(offset=np.array([d])))[0]) for d in (2.5, 6.0))
    near = float(steering(beside._replace(offset=np.array([2.0])))[0])
    assert far == farther < near
