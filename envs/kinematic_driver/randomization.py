"""What differs from episode to episode: one dataclass of ranges, drawn from uniform numbers."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steerlab.errors import InputError, unknown_name
from steerlab.options import option

KINDS = ("lane", "laneless", "intersection", "chicane")
LANE, LANELESS, INTERSECTION, CHICANE = range(4)
#: openpilot's desire, by index of its one-hot vector.
DESIRES = (
    "none",
    "turnLeft",
    "turnRight",
    "laneChangeLeft",
    "laneChangeRight",
    "keepLeft",
    "keepRight",
)
NONE, TURN_LEFT, TURN_RIGHT, CHANGE_LEFT, CHANGE_RIGHT, KEEP_LEFT, KEEP_RIGHT = range(7)

#: What a kind of road may ask for, and how often: none, turns, lane changes, keep left or right.
_DESIRE_SHARES = {
    LANE: (0.45, 0.0, 0.0, 0.2, 0.2, 0.075, 0.075),
    LANELESS: (1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
    INTERSECTION: (0.1, 0.35, 0.35, 0.0, 0.0, 0.1, 0.1),
    CHICANE: (1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
}
_SHARES = np.array([_DESIRE_SHARES[kind] for kind in range(4)])

Range = tuple[float, float]
Values = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Ranges:
    """Bounds between which each episode draws, uniformly and independently.

    The drawn values are in ``info`` under the same names, and ``reset(options=...)`` pins them.
    """

    lateral_delay: Range = option(
        (0.1, 0.5), "pure delay between curvature command and actuator, s"
    )
    actuator_lag: Range = option((0.05, 0.3), "first-order lag of the steering actuator, s")
    smoothing: Range = option(
        (0.0, 0.2), "first-order smoothing of both commands before the delay, s"
    )
    friction: Range = option((0.3, 1.1), "friction coefficient of tyre and road")
    mass: Range = option((0.8, 1.4), "mass over nominal mass; divides the acceleration")
    drive_lag: Range = option((0.1, 0.4), "first-order lag of the engine, s")
    brake_lag: Range = option((0.05, 0.4), "first-order lag of the brakes, s")
    superelevation: Range = option(
        (-0.06, 0.06), "slope across the road; positive falls to the right"
    )
    lane_width: Range = option((2.7, 3.9), "width of a lane, m")
    shoulder: Range = option((0.4, 0.9), "how far a car may reach over the lane's edge, m")
    speed_lane: Range = option((8.0, 35.0), "set speed on roads with lanes, m/s")
    speed_laneless: Range = option((5.0, 20.0), "set speed on roads without lanes, m/s")
    speed_intersection: Range = option((3.0, 15.0), "set speed at intersections, m/s")
    speed_chicane: Range = option((6.0, 22.0), "set speed in chicanes, m/s")
    turn_radius: Range = option((8.0, 25.0), "radius of turns at intersections, m")
    start_offset: Range = option((-0.5, 0.5), "distance from the path at the start, m")
    start_heading: Range = option(
        (-math.radians(3), math.radians(3)), "angle to the path at the start, rad"
    )
    start_speed: Range = option((0.7, 1.0), "speed at the start over the planned speed")
    speed_bias: Range = option((-0.2, 0.2), "constant error of the speed sensor, m/s")
    speed_noise: Range = option((0.0, 0.1), "standard deviation of the speed sensor's noise, m/s")
    acceleration_noise: Range = option(
        (0.0, 0.2), "standard deviation of the acceleration sensor's noise, m/s^2"
    )
    curvature_bias: Range = option((-2e-4, 2e-4), "constant error of the measured curvature, 1/m")
    curvature_noise: Range = option((0.0, 2e-4), "standard deviation of the curvature's noise, 1/m")
    delay_error: Range = option(
        (-0.05, 0.05), "error of the delay that the agent is told (lat_delay), s"
    )
    geometry_noise: Range = option(
        (0.0, 1.5), "scale of the error of the observed lines; 1 is 0.5 m at 100 m"
    )
    brightness: Range = option(
        (0.4, 2.5), "image gain; the observed lines err more the further it is from 1"
    )
    vision_latency: Range = option((0.0, 0.15), "age of the observed lines, s")
    dropout: Range = option((0.0, 0.05), "share of frames lost, in bursts of 1 to 5")
    left_hand_traffic: float = option(0.5, "share of episodes with traffic on the left")
    kinds: tuple[float, float, float, float] = option(
        (0.4, 0.2, 0.25, 0.15), "shares of lane, laneless, intersection and chicane roads"
    )

    def __post_init__(self) -> None:
        for name, (lowest, highest) in _LIMITS.items():
            bounds = tuple(float(v) for v in getattr(self, name))
            if len(bounds) != 2 or not lowest <= bounds[0] <= bounds[1] <= highest:
                raise InputError(
                    f"{name}={list(bounds)} must be two numbers in rising order "
                    f"within [{lowest:g}, {highest:g}]"
                )
            object.__setattr__(self, name, bounds)
        kinds = tuple(float(share) for share in self.kinds)
        if len(kinds) != 4 or min(kinds) < 0 or not math.isclose(sum(kinds), 1, abs_tol=1e-6):
            raise InputError(f"kinds={list(kinds)} must be four shares of {KINDS} that sum to 1")
        object.__setattr__(self, "kinds", kinds)
        if not 0 <= self.left_hand_traffic <= 1:
            raise InputError(f"left_hand_traffic={self.left_hand_traffic} must be in [0, 1]")

    def without_noise(self) -> "Ranges":
        """Return the same ranges with perfect sensors and perfect, prompt vision."""
        off: Any = dict.fromkeys(_NOISES, (0.0, 0.0)) | {"brightness": (1.0, 1.0)}
        return replace(self, **off)


#: What each range may span: wider values break the model they feed.
_LIMITS: dict[str, Range] = {
    "lateral_delay": (0.0, 1.0),
    "actuator_lag": (0.01, 1.0),
    "smoothing": (0.0, 1.0),
    "friction": (0.2, 1.5),
    "mass": (0.5, 2.0),
    "drive_lag": (0.01, 1.0),
    "brake_lag": (0.01, 1.0),
    "superelevation": (-0.08, 0.08),
    "lane_width": (2.5, 4.5),
    "shoulder": (0.0, 2.0),
    "speed_lane": (3.0, 45.0),
    "speed_laneless": (3.0, 30.0),
    "speed_intersection": (3.0, 20.0),
    "speed_chicane": (3.0, 30.0),
    "turn_radius": (8.0, 60.0),
    "start_offset": (-1.0, 1.0),
    "start_heading": (-0.3, 0.3),
    "start_speed": (0.3, 1.2),
    "speed_bias": (-2.0, 2.0),
    "speed_noise": (0.0, 2.0),
    "acceleration_noise": (0.0, 2.0),
    "curvature_bias": (-0.01, 0.01),
    "curvature_noise": (0.0, 0.01),
    "delay_error": (-0.5, 0.5),
    "geometry_noise": (0.0, 10.0),
    "brightness": (0.1, 10.0),
    "vision_latency": (0.0, 0.2),
    "dropout": (0.0, 0.5),
}
_NOISES = (
    "speed_bias",
    "speed_noise",
    "acceleration_noise",
    "curvature_bias",
    "curvature_noise",
    "delay_error",
    "geometry_noise",
    "vision_latency",
    "dropout",
)
_CONTINUOUS = tuple(name for name in _LIMITS if not name.startswith("speed_") or name in _NOISES)
#: Values of an episode besides the continuous ones.
INTEGERS = ("kind", "left_hand_traffic", "lanes", "lane", "desire")
#: Everything that ``reset(options=...)`` can pin and ``info`` reports.
NAMES = (*_CONTINUOUS, "cruise_speed", *INTEGERS)
#: Uniform numbers that :func:`draw` takes for an episode.
UNIFORMS = len(NAMES)
_COLUMN = {name: column for column, name in enumerate(NAMES)}


def draw(ranges: Ranges, uniforms: NDArray[np.float64], pins: Mapping[str, Any]) -> Values:
    """Return the values of n episodes.

    Each value takes the column of ``uniforms`` that belongs to it, so that pinning one leaves the
    others as they were.

    Args:
        ranges: Bounds.
        uniforms: Numbers in [0, 1), shape (n, UNIFORMS).
        pins: Values to set instead of drawing them, from :func:`check_pins`.

    Returns:
        An array (n,) for each of :data:`NAMES`; float32, the discrete ones int32.
    """
    n = len(uniforms)
    u = {name: uniforms[:, column] for name, column in _COLUMN.items()}
    values: Values = {}

    def pinned(name: str, drawn: Any, dtype: Any = np.float32) -> None:
        chosen = pins.get(name, drawn)
        values[name] = np.broadcast_to(np.asarray(chosen), (n,)).astype(dtype)

    for name in _CONTINUOUS:
        low, high = getattr(ranges, name)
        pinned(name, low + (high - low) * u[name])
    edges = np.cumsum(ranges.kinds)[:3]
    pinned("kind", (u["kind"][:, None] >= edges).sum(1), np.int32)
    pinned("left_hand_traffic", u["left_hand_traffic"] < ranges.left_hand_traffic, np.int32)
    kind = values["kind"]
    speeds = np.array([getattr(ranges, f"speed_{name}") for name in KINDS])[kind]
    pinned("cruise_speed", speeds[:, 0] + (speeds[:, 1] - speeds[:, 0]) * u["cruise_speed"])

    shares = np.cumsum(_SHARES[kind], axis=1)[:, :-1]
    pinned("desire", (u["desire"][:, None] >= shares).sum(1), np.int32)
    changes = np.isin(values["desire"], (CHANGE_LEFT, CHANGE_RIGHT))
    lanes = np.where(kind == LANELESS, 1, 1 + np.floor(4 * u["lanes"]))
    pinned("lanes", np.where(changes, np.maximum(lanes, 2), lanes), np.int32)
    # Lanes count from the left; a lane change needs one to go to.
    first = values["desire"] == CHANGE_LEFT
    last = values["lanes"] - 1 - (values["desire"] == CHANGE_RIGHT)
    pinned("lane", first + np.floor((last - first + 1) * u["lane"]), np.int32)
    return values


def check_pins(options: Mapping[str, Any], rows: int) -> dict[str, NDArray[Any]]:
    """Return the options of a reset as arrays that :func:`draw` takes.

    Args:
        options: Names of :data:`NAMES` with one value for all rows or one for each. ``kind`` and
            ``desire`` may be given by name.
        rows: Number of rows that are reset.

    Raises:
        InputError: A name is unknown, or a value is of the wrong shape, out of the range in which
            the model holds, or at odds with another.
    """
    pins: dict[str, NDArray[Any]] = {}
    for name, given in options.items():
        if name not in NAMES:
            raise unknown_name("reset option", name, (*NAMES, "reset_mask"))
        value = np.asarray(given)
        if value.dtype.kind in "US":
            table = {"kind": KINDS, "desire": DESIRES}.get(name, ())
            for text in set(value.ravel().tolist()) - set(table):
                raise unknown_name(name, text, table)
            value = np.vectorize(table.index)(value)
        if value.shape not in ((), (rows,)):
            raise InputError(
                f"options[{name!r}] has shape {value.shape}; give one value or one for each of "
                f"the {rows} rows that are reset"
            )
        low, high = _pin_limits(name)
        if value.dtype.kind not in "biuf" or not ((value >= low) & (value <= high)).all():
            raise InputError(f"options[{name!r}]={given!r} must be within [{low:g}, {high:g}]")
        pins[name] = value
    _check_consistent(pins)
    return pins


def _pin_limits(name: str) -> Range:
    discrete = {"kind": (0, 3), "left_hand_traffic": (0, 1), "lanes": (1, 4), "lane": (0, 3)}
    if name in discrete:
        return discrete[name]
    if name == "desire":
        return 0, len(DESIRES) - 1
    return (3.0, 45.0) if name == "cruise_speed" else _LIMITS[name]


def _check_consistent(pins: Mapping[str, NDArray[Any]]) -> None:
    """Refuse a desire that the road does not offer, and a lane that it does not have."""
    if "desire" in pins:
        if "kind" not in pins:
            raise InputError("options['desire'] needs options['kind']: not every road offers it")
        desire, kind = np.broadcast_arrays(pins["desire"], pins["kind"])
        for d, k in zip(desire.ravel().tolist(), kind.ravel().tolist(), strict=True):
            if not _SHARES[k, d]:
                offered = [DESIRES[i] for i in np.flatnonzero(_SHARES[k])]
                raise InputError(
                    f"a road of kind {KINDS[k]!r} has no desire {DESIRES[d]!r}; it has {offered}"
                )
        changing = np.isin(desire, (CHANGE_LEFT, CHANGE_RIGHT))
        if (changing & (pins.get("lanes", np.array(2)) < 2)).any():
            raise InputError("a lane change needs options['lanes'] of at least 2")
    if "lane" in pins:
        if "lanes" not in pins or "desire" not in pins:
            raise InputError("options['lane'] needs options['lanes'] and options['desire']")
        desire = pins["desire"]
        first, last = desire == CHANGE_LEFT, pins["lanes"] - 1 - (desire == CHANGE_RIGHT)
        if ((pins["lane"] < first) | (pins["lane"] > last)).any():
            raise InputError(
                f"options['lane']={pins['lane']} leaves no room; lanes count from 0 at the left, "
                f"and there are {pins['lanes']}"
            )


def as_ranges(ranges: "Ranges | Mapping[str, Any] | None") -> Ranges:
    """Return ``ranges`` as a :class:`Ranges`; a mapping changes the defaults it names.

    Raises:
        InputError: A name is unknown or a range is out of bounds.
    """
    if isinstance(ranges, Ranges):
        return ranges
    known = {f.name for f in fields(Ranges)}
    for name in ranges or {}:
        if name not in known:
            raise unknown_name("range", name, known)
    return Ranges(**(ranges or {}))
