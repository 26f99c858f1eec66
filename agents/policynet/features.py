"""The feature vector of a frame: a fixed function of what the driver of KinematicDriver-v0 sees.

It stands where openpilot's vision network stands: 512 values that describe the road ahead and the
car, with all errors, latency and lost frames of the task's vision in them. Nothing in it is learned.
"""

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from steerlab.envs.kinematic_driver.observation import LAYOUT, LINES, POINTS, X_IDXS
from steerlab.openpilot.contracts import FEATURES
from steerlab.types import Singles

#: Times ahead at which the path is read off as well, s: where the car will be at its present speed.
TIMES = np.array(
    [0, 0.15, 0.3, 0.45, 0.6, 0.75, 0.9, 1.05, 1.2, 1.4, 1.6, 1.9, 2.2, 2.6, 3, 3.5, 4, 4.7, 5.5, 6.5]
)  # fmt: skip
#: The same from when a command of now takes effect, s after the delay.
ACTION_TIMES = np.array([0.0, 0.15, 0.3, 0.45, 0.6])
#: Lateral (m/s^2) and longitudinal acceleration (m/s^2) of the speeds that the bends suggest.
BEND, SLOW = 1.7, 1.0
REACHES = np.array([5.0, 10.0, 20.0, 40.0, 80.0, 192.0])  # m ahead, up to which bends count
_HORIZON = float(X_IDXS[-1])
_SEED = 512
_SENSORS = ("speed", "curvature", "lat_delay", "cruise_speed")
_LINES = [f"{line}_{what}" for line in LINES for what in ("offset", "heading")]


def encode(observation: Any) -> Singles:
    """Return the features (N, 512) of observations (N, LAYOUT.size), float32.

    In this order: sensors and the six seen lines, each scaled to about 1; the path over time at the
    present speed; the path when a command of now takes effect, seen from where the car will be then
    if it goes on turning as it does; the speeds that the bends suggest, less the present one; and
    random functions of all these (tanh of a seeded projection).

    Desire and traffic convention are left out: the policy gets them through inputs of their own. So
    are the previous action and the measured acceleration, which openpilot does not give its model
    either: a network that imitates would go on with what it did (de Haan et al. 2019).
    """
    parts = LAYOUT.split(np.asarray(observation, np.float32))
    speed = np.maximum(parts["speed"], 0.0)
    sensors = np.concatenate([parts[name] for name in _SENSORS], axis=1)
    # Curvature as lateral acceleration: its meaning for the car depends on the speed.
    sensors[:, 1:2] *= np.maximum(speed, 1.0) ** 2
    lines = np.concatenate([parts[name] for name in _LINES], axis=1)
    sensor_scale, line_scale, projection = _constants()
    seen = np.concatenate(
        [
            sensors / sensor_scale,
            lines / line_scale,
            _over_time(parts, speed),
            _at_action(parts, speed),
            _room_for_speed(parts, speed),
        ],
        axis=1,
    )
    return np.concatenate([seen, np.tanh(seen @ projection)], axis=1)


def speed_and_delay(features: Tensor) -> tuple[Tensor, Tensor]:
    """Return the speed (m/s) and delay (s) that :func:`encode` got: (..., 512) -> (...) each."""
    found = []
    for name in ("speed", "lat_delay"):
        index = _SENSORS.index(name)
        found.append(features[..., index] * float(_constants()[0][index]))
    return found[0], found[1]


def _over_time(parts: dict[str, Singles], speed: Singles) -> Singles:
    """Return offset, heading (0.1 rad) and lateral acceleration (3 m/s^2) at TIMES, (N, 100)."""
    speed = np.maximum(speed, 1.0)
    ahead = speed * TIMES.astype(np.float32)
    offset, heading, middle = _read(parts, ahead)
    steps = np.append(np.diff(TIMES), 1.0).astype(np.float32)
    bends = [np.diff(h, axis=1, append=h[:, -1:]) * speed / steps / 3.0 for h in (heading, middle)]
    return np.concatenate([offset / (1.0 + ahead / 10.0), heading / 0.1, middle / 0.1, *bends], 1)


def _at_action(parts: dict[str, Singles], speed: Singles) -> Singles:
    """Return offset (m), its rate (m/s) and lateral acceleration (m/s^2) after the delay, (N, 25)."""
    speed = np.maximum(speed, 1.0)
    t = np.maximum(parts["lat_delay"], 0.0) + ACTION_TIMES.astype(np.float32)
    turning = parts["curvature"] * speed**2
    offset, *headings = _read(parts, speed * t)
    further = _read(parts, speed * (t + 0.1))[1:]
    bends = [(b - a) * speed / 0.1 - turning for a, b in zip(headings, further, strict=True)]
    rates = [heading * speed - turning * t for heading in headings]
    return np.concatenate([offset - 0.5 * turning * t**2, *rates, *bends], axis=1)


def _room_for_speed(parts: dict[str, Singles], speed: Singles) -> Singles:
    """Return how much faster (5 m/s) bends up to each of REACHES let the car be now, (N, 7).

    The first value is the room up to the set speed.
    """
    bent = sum(parts[f"{line}_heading"] for line in LINES) / len(LINES)
    kappa = np.abs(np.diff(bent, axis=1)) / np.diff(X_IDXS).astype(np.float32)
    near = X_IDXS[:-1].astype(np.float32)
    allowed = np.sqrt(BEND / np.maximum(kappa, 1e-5) + 2 * SLOW * near)
    allowed = np.minimum(np.minimum.accumulate(allowed, axis=1), parts["cruise_speed"])
    last = np.searchsorted(near, REACHES, side="right") - 1
    return (np.concatenate([parts["cruise_speed"], allowed[:, last]], 1) - speed) / 5.0


def _read(parts: dict[str, Singles], ahead: NDArray[Any]) -> list[Singles]:
    """Return offset and heading of the path, and the boundaries' mean heading, at (N, M) m ahead."""
    # X_IDXS grow with the square of their index.
    at = np.clip(np.sqrt(ahead / _HORIZON) * (POINTS - 1), 0, POINTS - 1.001)
    index = at.astype(np.intp)
    knots = X_IDXS.astype(np.float32)
    share = np.clip((ahead - knots[index]) / (knots[index + 1] - knots[index]), 0.0, 1.0)

    def read(values: Singles) -> Singles:
        before = np.take_along_axis(values, index, 1)
        return before + share * (np.take_along_axis(values, index + 1, 1) - before)

    middle = 0.5 * (parts["left_heading"] + parts["right_heading"])
    return [read(values) for values in (parts["path_offset"], parts["path_heading"], middle)]


@cache
def _constants() -> tuple[Singles, Singles, Singles]:
    """Return the scales of sensors and lines, and the seeded projection."""
    sensors = np.array([15, 1, 0.3, 15], np.float32)
    offset = 0.5 + X_IDXS / 10
    heading = 0.05 + X_IDXS / 200
    lines = np.tile(np.concatenate([offset, heading]), len(LINES)).astype(np.float32)
    known = len(sensors) + len(lines) + 5 * (len(TIMES) + len(ACTION_TIMES)) + len(REACHES) + 1
    rng = np.random.default_rng(_SEED)
    projection = rng.normal(0, known**-0.5, (known, FEATURES - known))
    return sensors, lines, projection.astype(np.float32)
