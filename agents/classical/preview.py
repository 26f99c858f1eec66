"""A driver that knows the car and the road: the reference for KinematicDriver-v0.

It predicts where the car will be when a new command gets through the delay, and there applies an
LQR whose feedforward looks ahead along the path. It acts through the public action interface.
"""

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.signal import cont2discrete

from steerlab.agents.classical.lqr import lqr_gain
from steerlab.envs.batch import ALL
from steerlab.envs.kinematic_driver import dynamics, roads
from steerlab.envs.kinematic_driver.dynamics import DT, GRAVITY
from steerlab.envs.kinematic_driver.env import KinematicDriverVectorEnv
from steerlab.envs.kinematic_driver.numpy_backend import NUMPY
from steerlab.envs.kinematic_driver.observation import blur
from steerlab.types import Array

#: Square of the sideways acceleration (m/s^2) that is worth 1 m^2 of offset: sets the bandwidth.
CONTROL_COST = 0.3
SPEED_GAIN = 0.8  # 1/s
#: A cautious driver's speed falls by up to CAUTION as its commands act later, from the first to the
#: second of LATE (s), and it sees worse, from the first to the second of BLURRED (1 is 0.5 m at 100 m).
#: It does not fall below UNHURRIED (m/s).
CAUTION, LATE, BLURRED, UNHURRIED = 0.25, (0.4, 1.0), (0.5, 3.5), 12.0
_GRID = roads.HORIZON * 0.8 * np.linspace(0, 1, 48) ** 1.5  # m ahead, for a speed plan of its own
_LAGS = np.linspace(0.01, 1.0, 12)
_SMOOTHINGS = np.linspace(0.001, 1.0, 12)


class PreviewDriver:
    """Preview LQR on the delay-augmented bicycle, for all rows of an environment.

    Args:
        env: The environment that is driven; its true state and true path are what the driver sees.
        lateral: Lateral acceleration (m/s^2) within which bends are taken. None follows the road's
            speed plan, which knows the grip; a number plans as a driver who knows neither that nor
            the mass, and who goes slower where it acts late and sees badly.
        filters: Time constants (s) of filters that others apply to its commands, steering and
            pedals, before they are sent: openpilot's smoothing. It reckons with them.
    """

    def __init__(
        self,
        env: KinematicDriverVectorEnv,
        lateral: float | None = None,
        filters: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        self.env = env
        self.lateral, self.filters = lateral, filters
        n = env.num_envs
        self.steps = 22
        self.pipeline = np.zeros((self.steps, n))  # commands sent, newest first
        self.published = np.zeros(n)  # 1/m, what was sent last
        self.smooth = np.zeros(n)
        self.actuator = np.zeros(n)

    def reset(self, observation: Any, info: dict[str, Any], rows: Any = ALL) -> None:
        """Forget the past: new episodes have begun in ``rows``."""
        held = info["path_curvature"][rows]
        self.pipeline[:, rows], self.smooth[rows], self.actuator[rows] = held, held, held
        self.published[rows] = 0.0 if self.filters[0] else held

    def __call__(self, observation: Any, info: dict[str, Any]) -> NDArray[np.float32]:
        """Return actions (N, 2) for the state in ``info``, assumed to be carried out."""
        actions = self.decide(info)
        self.keep(info, actions)
        return actions

    def decide(self, info: dict[str, Any]) -> NDArray[np.float32]:
        """Return the actions (N, 2) for the state in ``info``."""
        v = info["speed"].astype(float)
        actions = dynamics.encode_action(NUMPY, *self.propose(info), v)
        return np.stack(actions, 1).astype(np.float32)

    def propose(self, info: dict[str, Any], observation: Any = None) -> tuple[Array, Array]:
        """Return the curvature (1/m) and the acceleration (m/s^2) that it would ask for, (N,).

        It goes by the true state in ``info``, not by the ``observation``.
        """
        v, a = info["speed"].astype(float), info["acceleration"].astype(float)
        delay, lag = info["lateral_delay"].astype(float), info["actuator_lag"].astype(float)
        # Two filters in a row are reckoned with as one: their times add up.
        own, (before, pedals) = info["smoothing"].astype(float), self.filters
        smoothing = own + before
        share = before / np.maximum(smoothing, 1e-9)
        smooth = share * self.published + (1 - share) * self.smooth
        count = int(np.ceil(delay.max() / DT)) + 1
        times = DT * np.arange(count + 1)
        ahead = v[:, None] * times + 0.5 * np.clip(a, -1, 1)[:, None] * times**2
        pull = lag + smoothing
        longitudinal = 0.5 * (info["brake_lag"] + info["drive_lag"]) + own + pedals
        moment = np.stack([(delay + pull) * v, longitudinal * v, longitudinal * v + 1.0], 1)
        seen = self.env.preview(np.concatenate([ahead, moment], 1).astype(np.float32))
        kappa, planned = seen["curvature"], seen["planned_speed"]

        d, psi, k = self._predict(info, v, a, delay, lag, kappa)
        # In terms of sideways acceleration the gains do not depend on speed.
        speed = np.maximum(v + np.clip(a, -1, 1) * delay, 0.5)
        at = np.minimum((delay / DT).astype(int), count)
        here = kappa[np.arange(len(v)), at]
        state = np.stack(
            [d, speed * np.sin(psi), speed**2 * (k - here), speed**2 * (smooth - here)]
        )
        gains = lqr_gains(lag, smoothing)
        feedback = -(gains * state).sum(0)
        wanted = kappa[:, -3] + feedback / speed**2

        if self.lateral is None:
            now, slope, mass = planned[:, -2], np.diff(planned[:, -2:] ** 2)[:, 0], info["mass"]
        else:
            cruise = _unhurried(info["cruise_speed"].astype(float), delay + pull, info)
            now, later = self._cautious(moment[:, 1:], cruise)
            now, slope, mass = np.minimum(now, v + 1.2), np.minimum(later**2 - now**2, 0.0), 1.1
        return wanted, mass * (0.5 * slope + SPEED_GAIN * (now - v))

    def _cautious(self, moments: Array, cruise: Array) -> Array:
        """Return the speed (2, N) at ``moments`` (N, 2) m ahead that the bends beyond allow."""
        kappa = self.env.preview(_GRID)["curvature"].astype(float)
        steep = np.abs(np.diff(kappa, axis=1, append=kappa[:, -1:])) / np.diff(_GRID, append=1e9)
        square = np.minimum(self.lateral / np.maximum(np.abs(kappa), 1e-6), cruise[:, None] ** 2)
        jerk = (roads.PLAN_LATERAL_JERK / np.maximum(steep, 1e-9)) ** (2 / 3)
        square = np.minimum(square, jerk)
        beyond = _GRID - moments.T[:, :, None]
        reach = square + 2 * roads.PLAN_ACCELERATION * np.maximum(beyond, 0.0)
        # A point that lies up to 2 m behind still counts: the grid is that coarse.
        return np.sqrt(np.where(beyond > -2.0, reach, np.inf).min(axis=2))

    def _predict(
        self, info: dict[str, Any], v: Array, a: Array, delay: Array, lag: Array, kappa: Array
    ) -> tuple[Array, Array, Array]:
        """Return offset, heading and curvature when the command of now reaches the actuator."""
        d, psi = info["cte"].astype(float), info["heading_error"].astype(float)
        k = self.actuator.copy()
        share = dynamics.lag(np, lag)
        grip = np.sqrt(np.maximum((GRAVITY * info["friction"]) ** 2 - a**2, 0.0))
        bank = GRAVITY * info["superelevation"]
        rows = np.arange(len(v))
        for j in range(int(np.ceil(delay.max() / DT))):
            left = np.clip(delay / DT - j, 0, 1)  # share of this step that lies within the delay
            back = delay / DT - j - 1  # age of the command in effect, in steps
            older = np.clip(np.floor(back).astype(int), 0, self.steps - 2)
            part = back - np.floor(back)
            command = (
                self.pipeline[older, rows] * (1 - part) + self.pipeline[older + 1, rows] * part
            )
            k = np.where(left > 0, k + share * (command - k), k)
            speed = np.maximum(v + a * DT * j, 0.0)
            driven = np.clip(
                k,
                (bank - grip) / np.maximum(speed, 0.1) ** 2,
                (bank + grip) / np.maximum(speed, 0.1) ** 2,
            )
            step = DT * speed * left
            turn = step * (
                driven - kappa[:, j] * np.cos(psi) / np.maximum(1 - kappa[:, j] * d, 0.2)
            )
            d = d + step * np.sin(psi + 0.5 * turn)
            psi = psi + turn
        return d, psi, k

    def keep(self, info: dict[str, Any], actions: Array) -> None:
        """Keep what the car's first stages will make of ``actions`` (N, 2), whoever chose them."""
        v = info["speed"].astype(float)
        curvature = np.clip(actions[:, 0], -1, 1).astype(float) * dynamics.curvature_scale(NUMPY, v)
        self.published = curvature
        self.smooth = self.smooth + dynamics.lag(np, info["smoothing"]) * (curvature - self.smooth)
        delay = info["lateral_delay"] / DT
        command = dynamics.clip_curvature(
            NUMPY, self.smooth, self.pipeline[0], v, info["superelevation"]
        )
        self.pipeline = np.roll(self.pipeline, 1, axis=0)
        self.pipeline[0] = command
        whole = np.floor(delay).astype(int)
        rows, part = np.arange(len(v)), delay - whole
        applied = self.pipeline[whole, rows] * (1 - part) + self.pipeline[whole + 1, rows] * part
        self.actuator = self.actuator + dynamics.lag(np, info["actuator_lag"]) * (
            applied - self.actuator
        )


def _unhurried(cruise: Array, late: Array, info: dict[str, Any]) -> Array:
    """Return the set speeds (N,) of a cautious driver whose commands act after ``late`` (N,) s."""
    blurred = blur(np, info["geometry_noise"].astype(float), info["brightness"].astype(float))
    shares = [
        np.clip((value - low) / (high - low), 0.0, 1.0)
        for value, (low, high) in ((late, LATE), (blurred, BLURRED))
    ]
    slower = cruise * (1.0 - CAUTION * shares[0] * shares[1])
    return np.maximum(slower, np.minimum(cruise, UNHURRIED))


@cache
def _gain_table() -> Array:
    """Return LQR gains (4, lags, smoothings) for offset, its rate, acceleration and command."""
    table = np.zeros((4, len(_LAGS), len(_SMOOTHINGS)))
    for i, lag in enumerate(_LAGS):
        for j, smoothing in enumerate(_SMOOTHINGS):
            a = np.zeros((4, 4))
            a[0, 1] = a[1, 2] = 1.0
            a[2, 2], a[2, 3] = -1 / lag, 1 / lag
            a[3, 3] = -1 / smoothing
            b = np.array([[0.0], [0.0], [0.0], [1 / smoothing]])
            discrete_a, discrete_b, *_ = cont2discrete((a, b, np.eye(4), np.zeros((4, 1))), DT)
            cost = np.diag([1.0, 0.1, 0.0, 0.0])
            gain, _ = lqr_gain(discrete_a, discrete_b, cost, [[CONTROL_COST]])
            table[:, i, j] = gain[0]
    return table


def lqr_gains(lag: Array, smoothing: Array) -> Array:
    """Return the gains (4, N), interpolated in the table."""
    table = _gain_table()
    x = np.clip((lag - _LAGS[0]) / (_LAGS[1] - _LAGS[0]), 0, len(_LAGS) - 1.001)
    y = np.clip(
        (smoothing - _SMOOTHINGS[0]) / (_SMOOTHINGS[1] - _SMOOTHINGS[0]),
        0,
        len(_SMOOTHINGS) - 1.001,
    )
    i, j = x.astype(int), y.astype(int)
    x, y = x - i, y - j
    low = table[:, i, j] * (1 - y) + table[:, i, j + 1] * y
    high = table[:, i + 1, j] * (1 - y) + table[:, i + 1, j + 1] * y
    return low * (1 - x) + high * x
