"""What every road and every draw has to keep."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from steerlab.envs.kinematic_driver import episodes, randomization, roads
from steerlab.envs.kinematic_driver.dynamics import GRAVITY, HALF_WIDTH
from steerlab.envs.kinematic_driver.randomization import KINDS, Ranges, check_pins
from steerlab.errors import InputError

STEPS = 500


def make(seed: int, n: int = 64, **pins: Any) -> tuple[dict[str, Any], roads.Roads]:
    uniforms = np.random.default_rng(seed).random((n, episodes.UNIFORMS))
    table, made = episodes.make(Ranges(), uniforms, STEPS, check_pins(pins, n))
    return dict(zip(episodes.EPISODE, table, strict=True)), made


seeds = st.integers(0, 2**32 - 1)


@settings(max_examples=15, deadline=None)
@given(seed=seeds)
def test_values_are_in_range(seed: int) -> None:
    values, _ = make(seed)
    ranges = Ranges()
    for name in randomization._CONTINUOUS:
        low, high = getattr(ranges, name)
        assert (values[name] >= np.float32(low)).all(), name
        assert (values[name] <= np.float32(high)).all(), name
    for kind, name in enumerate(KINDS):
        speed = values["cruise_speed"][values["kind"] == kind]
        low, high = getattr(ranges, f"speed_{name}")
        assert ((speed >= np.float32(low)) & (speed <= np.float32(high))).all()
    assert ((values["lane"] >= 0) & (values["lane"] < values["lanes"])).all()


@settings(max_examples=15, deadline=None)
@given(seed=seeds)
def test_roads_are_smooth(seed: int) -> None:
    _, made = make(seed)
    kappa, spacing = made.plan[:, :, 0].astype(float), made.spacing[:, None].astype(float)
    heading = made.view[:, :, 2].astype(float)
    # Clothoids: the curvature changes gradually, and the heading is its integral.
    assert np.abs(np.diff(kappa, axis=1) / spacing).max() < 0.03
    assert np.abs(kappa).max() <= 1 / 8 + 0.01
    mean = 0.5 * (kappa[:, 1:] + kappa[:, :-1])
    np.testing.assert_allclose(np.diff(heading, axis=1), mean * spacing, atol=2e-6)
    steps = np.hypot(np.diff(made.view[:, :, 0], axis=1), np.diff(made.view[:, :, 1], axis=1))
    assert (steps <= spacing * (1 + 1e-3)).all()
    assert (steps >= spacing * 0.99).all()
    left, right = made.view[:, :, 4], made.view[:, :, 6]
    assert min(left.min(), right.min()) > HALF_WIDTH + 0.4
    assert np.abs(made.view[:, :, [5, 7]]).max() < 0.5


@settings(max_examples=15, deadline=None)
@given(seed=seeds)
def test_roads_do_not_cross_themselves(seed: int) -> None:
    """All headings lie within half a turn, so the path moves on in one direction for good.

    Boundaries do so too as long as they are nearer than the centre of each bend.
    """
    _, made = make(seed)
    heading = made.view[:, :, 2].astype(float)
    assert np.ptp(heading, axis=1).max() < np.pi - 0.05
    kappa, left, right = made.plan[:, :, 0], made.view[:, :, 4], made.view[:, :, 6]
    assert (kappa * right < 0.95).all()
    assert (-kappa * left < 0.95).all()


def test_the_crossing_argument_holds() -> None:
    """The same by brute force on a few roads: no two segments of path or boundary intersect."""
    _, made = make(11, n=8)
    for road in made.view.astype(float):
        for offset in (0 * road[:, 4], -road[:, 4], road[:, 6]):
            x = road[:, 0] - offset * np.sin(road[:, 2])
            y = road[:, 1] + offset * np.cos(road[:, 2])
            p, q = np.stack([x, y], 1)[:-1], np.stack([x, y], 1)[1:]

            def side(a: Any, b: Any, c: Any) -> Any:
                ab, ac = b - a, c - a
                return ab[..., 0] * ac[..., 1] - ab[..., 1] * ac[..., 0]

            a, b, c, d = p[:, None], q[:, None], p[None], q[None]
            cross = (side(a, b, c) * side(a, b, d) < 0) & (side(c, d, a) * side(c, d, b) < 0)
            assert not cross.any()


@settings(max_examples=15, deadline=None)
@given(seed=seeds)
def test_a_perfect_driver_can_comply(seed: int) -> None:
    values, made = make(seed)
    kappa, speed = made.plan[:, :, 0].astype(float), made.plan[:, :, 2].astype(float)
    assert (speed > 2.0).all()
    assert (speed <= values["cruise_speed"][:, None] * (1 + 1e-4)).all()
    lateral = kappa * speed**2
    bank = GRAVITY * values["superelevation"][:, None]
    assert np.abs(lateral).max() <= 3.0
    curved = np.abs(kappa) > 1e-4
    tyres = np.abs(lateral - bank) * curved
    assert (tyres <= np.minimum(3.0, 0.6 * GRAVITY * values["friction"][:, None]) * 1.01).all()
    gain = np.diff(speed**2, axis=1) / (2 * made.spacing[:, None])
    assert np.abs(gain).max() <= roads.PLAN_ACCELERATION * 1.05


@pytest.mark.parametrize("kind", KINDS)
def test_pins_hold_and_leave_the_rest(kind: str) -> None:
    free, _ = make(5)
    pinned, made = make(5, kind=kind, friction=0.5, start_heading=0.05)
    assert (pinned["kind"] == KINDS.index(kind)).all()
    assert (pinned["friction"] == 0.5).all()
    assert (pinned["start_heading"] == np.float32(0.05)).all()
    for name in ("lateral_delay", "mass", "lane_width", "noise_start"):
        np.testing.assert_array_equal(free[name], pinned[name])
    assert len(made.view) == 64


def test_turns_turn_where_the_desire_tells() -> None:
    for desire, sign in (("turnLeft", -1), ("turnRight", 1)):
        values, made = make(3, kind="intersection", desire=desire)
        heading = made.view[:, :, 2]
        s = made.spacing[:, None] * np.arange(heading.shape[1])
        at = [np.searchsorted(row, end) for row, end in zip(s, values["desire_to"], strict=True)]
        turned = sign * heading[np.arange(64), np.minimum(at, heading.shape[1] - 1)]
        assert turned.min() > 1.0
        tightest = np.abs(made.plan[:, :, 0]).max(1)
        assert (1 / tightest > 7.9).all()
        assert (1 / tightest).min() < 11


def test_lane_changes_end_one_lane_over() -> None:
    values, made = make(4, kind="lane", desire="laneChangeLeft", lanes=3)
    s = made.spacing[:, None] * np.arange(made.view.shape[1])
    bend = 2 * roads.WIDENING * np.abs(made.plan[:, :, 0])
    width = made.view[:, :, 4] + made.view[:, :, 6] - bend
    during = (s > values["desire_from"][:, None]) & (s < values["desire_to"][:, None])
    widest = np.where(during, width, 0).max(1)
    np.testing.assert_allclose(widest - width[:, 0], values["lane_width"], atol=1e-3)


def test_dead_time_shrinks_the_start_heading() -> None:
    slow, _ = make(6, kind="lane", cruise_speed=8.0, lateral_delay=0.1, lane_width=3.9)
    fast, _ = make(6, kind="lane", cruise_speed=35.0, lateral_delay=0.5, lane_width=2.7)
    limit = np.radians(3)
    assert np.abs(slow["start_heading"]).max() > 0.8 * limit
    assert np.abs(fast["start_heading"]).mean() < 0.6 * np.abs(slow["start_heading"]).mean()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frition": 0.5}, "did you mean 'friction'"),
        ({"friction": 3.0}, r"within \[0.2, 1.5\]"),
        ({"friction": np.full(3, 0.5)}, "shape"),
        ({"kind": "motorway"}, "unknown kind"),
        ({"desire": "turnLeft"}, "needs options"),
        ({"desire": "turnLeft", "kind": "lane"}, "has no desire"),
        ({"desire": "laneChangeLeft", "kind": "lane", "lanes": 1}, "at least 2"),
        ({"lane": 2}, "needs options"),
        ({"lane": 1, "lanes": 2, "kind": "lane", "desire": "laneChangeRight"}, "no room"),
        ({"friction": "low"}, "unknown friction"),
    ],
)
def test_bad_pins_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_pins(options, 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"friction": (1.0, 0.5)}, "rising order"),
        ({"friction": (0.5, 5.0)}, "within"),
        ({"kinds": (0.5, 0.5, 0.5, 0.0)}, "sum to 1"),
        ({"left_hand_traffic": 2.0}, "left_hand_traffic"),
        ({"fricton": (0.1, 0.2)}, "did you mean"),
    ],
)
def test_bad_ranges_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        randomization.as_ranges(change)
