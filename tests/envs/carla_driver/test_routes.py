"""Routes: their geometry against the map, their desires against the turns they take."""

import numpy as np
import pytest

from steerlab.envs.carla_driver.routes import Network, Routes, make_routes, routes_of, starts
from steerlab.envs.carla_driver.scenarios import SCENARIOS, Scenario
from steerlab.envs.kinematic_driver.dynamics import DT
from steerlab.envs.kinematic_driver.randomization import (
    CHANGE_LEFT,
    CHANGE_RIGHT,
    TURN_LEFT,
    TURN_RIGHT,
)
from steerlab.envs.maps import RoadMap, load_map
from steerlab.errors import InputError
from steerlab.openpilot.contracts import HISTORY


def routes(name: str) -> tuple[RoadMap, Routes]:
    scenario = SCENARIOS[name]
    m = load_map(scenario.map)
    return m, routes_of(m, scenario, scenario.steps)


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_path_is_one_smooth_curve(name: str) -> None:
    _, r = routes(name)
    step = np.diff(r.pose[:, :, :2], axis=1)
    np.testing.assert_allclose(np.linalg.norm(step, axis=2), r.spacing, rtol=2e-3)
    heading = np.arctan2(step[..., 1], step[..., 0])
    middle = 0.5 * (r.pose[:, 1:, 3] + r.pose[:, :-1, 3])
    turn = (heading - middle + np.pi) % (2 * np.pi) - np.pi
    assert np.abs(turn).max() < 0.01
    assert np.abs(r.curvature).max() < 0.12
    # Heading is the integral of curvature, which the car's frame relies on.
    total = np.cumsum(r.curvature[:, :-1] * r.spacing, axis=1)
    assert np.abs(r.view[:, 1:, 2] - r.view[:, :1, 2] - total).max() < 0.15


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_path_keeps_to_its_lanes(name: str) -> None:
    """Away from lane changes, the middle of the lane is near, and the boundaries are the lane's."""
    m, r = routes(name)
    rng = np.random.default_rng(0)
    for i in rng.integers(0, len(r.end), 12):
        for k in rng.integers(0, int(r.end[i] / r.spacing), 25):
            lane, s = r.lane[i, k], r.lane_s[i, k]
            part = m.lane(lane)
            centre = [np.interp(s, m.s[part], m.points[part, c]) for c in range(3)]
            heading = np.interp(s, m.s[part], m.heading[part])
            off = r.pose[i, k, :3] - centre
            along = off[0] * np.cos(heading) + off[1] * np.sin(heading)
            across = off[1] * np.cos(heading) - off[0] * np.sin(heading)
            assert abs(off[2]) < 0.05
            if r.other[i, k] >= 0:
                assert abs(across) < 4.2
                continue
            assert abs(along) < 0.6
            assert abs(across) < 0.35
            width = np.interp(s, m.s[part], m.width[part])
            left, right = r.view[i, k, 4], r.view[i, k, 6]
            near_change = (r.other[i, max(k - 20, 0) : k + 20] >= 0).any()
            if not near_change:
                extra = 7.0 * abs(r.curvature[i, k])
                assert left == pytest.approx(0.5 * width + across + extra, abs=0.3)
                assert right == pytest.approx(0.5 * width - across + extra, abs=0.3)


def test_desires_tell_the_branch() -> None:
    _, r = routes("urban_intersection")
    seen = {TURN_LEFT: 0, TURN_RIGHT: 0}
    for i in range(len(r.end)):
        for desire, (begin, end) in zip(r.desire[i], r.desire_at[i], strict=True):
            if desire not in seen or end > r.end[i]:
                continue
            a, b = int((end - 30) / r.spacing), int((end + 2) / r.spacing)
            turn = r.pose[i, b, 3] - r.pose[i, max(a, 0), 3]
            assert np.sign(turn) == (1 if desire == TURN_RIGHT else -1)
            assert abs(turn) > 1.2
            assert end - begin > 15
            seen[desire] += 1
    assert min(seen.values()) > 50


def test_lane_changes_go_to_the_side_that_they_say() -> None:
    m, r = routes("highway_follow")
    seen = 0
    for i in range(len(r.end)):
        for desire, (_, end) in zip(r.desire[i], r.desire_at[i], strict=True):
            if desire not in (CHANGE_LEFT, CHANGE_RIGHT) or end > r.end[i]:
                continue
            knot = int((end - 4) / r.spacing)
            lane, other = r.lane[i, knot], r.other[i, knot]
            assert other == (m.lane_left if desire == CHANGE_LEFT else m.lane_right)[lane]
            seen += 1
    assert seen > 50


def test_a_lane_change_ends_while_its_announcement_is_remembered() -> None:
    _, r = routes("highway_follow")
    for i in range(len(r.end)):
        changes = np.isin(r.desire[i], (CHANGE_LEFT, CHANGE_RIGHT))
        for begin, end in r.desire_at[i][changes]:
            if end > r.end[i]:
                continue
            limit = float(r.limit[i, max(int(begin / r.spacing), 0)])
            speed = min(limit, SCENARIOS["highway_follow"].speed[1])
            assert (end - begin) / speed < HISTORY * DT


def test_merging_leaves_the_lane_that_ends() -> None:
    m, r = routes("highway_merge")
    net = Network(m)
    ending = {int(i) for i in np.flatnonzero(m.drivable) if net.doomed(int(i), 0.0)}
    for i in range(len(r.end)):
        lanes = [int(lane) for lane in r.piece_lane[i] if lane >= 0]
        assert ending & set(lanes)
        assert lanes[-1] not in ending
        assert (r.desire[i] == CHANGE_LEFT).any()


def test_stops_lie_on_the_route() -> None:
    m, r = routes("suburban_four_way_stop")
    at = np.isfinite(r.stop_at)
    assert at.any(axis=1).mean() > 0.9
    for i in range(len(r.end)):
        for place, signal in zip(r.stop_at[i][at[i]], r.stop_signal[i][at[i]], strict=True):
            if place > r.end[i]:
                continue
            stop = m.stop_start[signal]
            part = m.lane(m.stop_lane[stop])
            line = [np.interp(m.stop_s[stop], m.s[part], m.points[part, c]) for c in range(2)]
            knot = int(place / r.spacing)
            assert np.hypot(*(r.pose[i, knot, :2] - line)) < 1.5


def test_reach_of_a_lane_that_ends() -> None:
    m = load_map("country_road")
    net = Network(m)
    last = next(i for i in range(m.lanes) if tuple(m.lane_source[i]) == (3, 0, -1))
    before = next(i for i in range(m.lanes) if tuple(m.lane_source[i]) == (2, 0, -1))
    assert net.reach[last] == pytest.approx(m.lane_length[last])
    assert m.lane_length[last] + m.lane_length[before] > net.reach[before] == 2000.0  # far enough
    assert not net.doomed(last, 0.0)  # no lane beside it leads on
    merge = load_map("motorway")
    net = Network(merge)
    accel = next(i for i in range(merge.lanes) if tuple(merge.lane_source[i]) == (2, 0, -5))
    assert net.doomed(accel, 0.0)


def test_routes_do_not_depend_on_what_ran_before() -> None:
    scenario = SCENARIOS["urban_intersection"]
    m = load_map(scenario.map)
    first = make_routes(m, scenario, 100, count=5)
    np.random.default_rng().random()
    second = make_routes(m, scenario, 100, count=5)
    np.testing.assert_array_equal(first.pose, second.pose)


def test_a_map_that_does_not_fit_is_named() -> None:
    m = load_map("country_road")
    with pytest.raises(InputError, match="'country_road' has no junction to drive through"):
        starts(Network(m), SCENARIOS["urban_intersection"])
    with pytest.raises(InputError, match="no lane that ends beside one that leads on"):
        starts(Network(m), SCENARIOS["highway_merge"])
    with pytest.raises(InputError, match="speed limit within"):
        starts(Network(m), Scenario("x", "country_road", limits=(50.0, 60.0)))
