"""The shipped maps: against plain geometry, and against what carla.Map makes of their files."""

import time
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from steerlab.envs.maps import SHIPPED, RoadMap, load_map
from steerlab.envs.maps.opendrive import compile_text
from steerlab.envs.maps.plan import Drawing, LaneSpec, Piece, Road, Section, chain, sample
from steerlab.envs.maps.procedural import draw
from steerlab.envs.maps.road_map import COLOURS, MARKINGS, SIGNAL_KINDS, TURNS
from steerlab.envs.maps.xodr import to_xodr

#: What may differ: CARLA keeps single precision, and shifts lights that stand on a sidewalk.
CLOSE = {
    "points": 2e-3, "s": 2e-3, "heading": 1e-4, "curvature": 1e-4, "width": 1e-4,
    "edge_points": 2e-3, "conflict_s": 2e-3, "signal_position": 0.3, "signal_heading": 1e-4,
    "stop_s": 2e-3,
}  # fmt: skip


@pytest.mark.parametrize("name", SHIPPED)
def test_file_means_the_same_to_carla(name: str, tmp_path: Path) -> None:
    pytest.importorskip("carla")
    ours = load_map(name)
    theirs = compile_text(to_xodr(draw(name)).encode(), name, name, 120.0, tmp_path)
    for key, value in ours.arrays().items():
        other = getattr(theirs, key)
        assert value.shape == other.shape, key
        if key not in CLOSE:
            np.testing.assert_array_equal(value, other, err_msg=key)
            continue
        difference = np.abs(value - other)
        if key.endswith("heading"):
            difference = np.abs((value - other + np.pi) % (2 * np.pi) - np.pi)
        assert difference.max(initial=0) <= CLOSE[key], key


@pytest.mark.parametrize("name", SHIPPED)
def test_lanes_meet_where_they_are_linked(name: str) -> None:
    m = load_map(name)
    for lane in np.flatnonzero(m.drivable):
        end = m.lane(lane).stop - 1
        for other in m.successors[m.successor_start[lane] : m.successor_start[lane + 1]]:
            begin = m.lane(other).start
            assert np.abs(m.points[end] - m.points[begin]).max() < 1e-9
            turn = (m.heading[end] - m.heading[begin] + np.pi) % (2 * np.pi) - np.pi
            assert abs(turn) < 1e-6
            assert m.width[end] == pytest.approx(m.width[begin], abs=1e-9)
    open_ends = (np.diff(m.successor_start)[m.drivable] == 0).sum()
    assert open_ends == {"motorway": 1, "country_road": 2}.get(name, 0)


@pytest.mark.parametrize("name", SHIPPED)
def test_maps_are_made_fast(name: str) -> None:
    sample(draw(name))
    begun = time.process_time()
    sample(draw(name))
    assert time.process_time() - begun < 1.5


def test_lines_and_kinds_of_the_motorway() -> None:
    m = load_map("motorway")
    lane = next(i for i in range(m.lanes) if tuple(m.lane_source[i]) == (1, 0, -2))
    first = m.lane(lane).start
    assert MARKINGS[m.left_marking[first]] == "solid"
    assert COLOURS[m.left_colour[first]] == "yellow"
    assert MARKINGS[m.right_marking[first]] == "broken"
    assert COLOURS[m.right_colour[first]] == "white"
    assert m.lane_left[lane] == -1  # the median
    assert tuple(m.lane_source[m.lane_right[lane]]) == (1, 0, -3)
    assert m.lane_limit[lane] == pytest.approx(120 / 3.6)


def test_town_has_lights_in_two_phases_and_all_turns() -> None:
    m = load_map("urban_grid")
    assert len(m.junction_id) == 12
    assert (m.junction_phases == 2).all()
    lights = m.signal_kind == SIGNAL_KINDS.index("traffic_light")
    assert lights.sum() == 4 * 4 + 8 * 3  # four crossings and eight T-junctions
    assert set(m.connection_turn.tolist()) == {0, 1, 2}
    for junction, before, through, after in m.connections.tolist():
        assert m.lane_junction[through] == junction
        assert m.lane_junction[before] == m.lane_junction[after] == -1
    left = m.connections[m.connection_turn == TURNS.index("left")][0]
    end, begin = m.lane(left[3]).start, m.lane(left[1]).stop - 1
    assert np.sin(m.heading[end] - m.heading[begin]) == pytest.approx(-1.0)


def test_every_light_stands_ahead_of_the_cars_it_is_for() -> None:
    m = load_map("urban_grid")
    for signal in range(len(m.signal_kind)):
        for stop in range(m.stop_start[signal], m.stop_start[signal + 1]):
            lane = m.stop_lane[stop]
            at = np.array(
                [
                    np.interp(m.stop_s[stop], m.s[m.lane(lane)], m.points[m.lane(lane), c])
                    for c in range(2)
                ]
            )
            heading = m.heading[m.lane(lane).stop - 1]
            away = m.signal_position[signal, :2] - at
            forward = away @ [np.cos(heading), np.sin(heading)]
            right = away @ [-np.sin(heading), np.cos(heading)]
            assert 20 < forward < 35
            assert 0 < right < 9
            assert np.cos(m.signal_heading[signal] - heading) == pytest.approx(1.0)


def test_conflicts_of_a_plain_crossing() -> None:
    """Through lanes at right angles cross; opposite through lanes do not; neither do two right turns."""
    m = load_map("four_way_stop")
    centre = next(j for j in range(len(m.junction_id)) if (m.connections[:, 0] == j).sum() == 12)
    pairs = {tuple(pair) for pair in m.conflicts.tolist()}
    ways = [
        (int(lane), int(turn), float(m.heading[m.lane(lane).start]))
        for (junction, _, lane, _), turn in zip(m.connections, m.connection_turn, strict=True)
        if junction == centre
    ]
    for a, turn_a, heading_a in ways:
        for b, turn_b, heading_b in ways:
            if a == b or turn_a or turn_b:
                continue
            crossing = abs(np.sin(heading_a - heading_b)) > 0.5
            assert ((a, b) in pairs) == crossing
            if (
                crossing
            ):  # 12 m before the middle to 12 m behind; each lane keeps 1.75 m to the right
                begin, end = m.conflict_s[[tuple(p) for p in m.conflicts.tolist()].index((a, b))]
                middle = 12 + 1.75 * np.sin(heading_b - heading_a) * -1
                assert (begin + end) / 2 == pytest.approx(middle, abs=0.3)
                assert end - begin == pytest.approx(2 * 2.3, abs=1.1)
    assert pairs == {(b, a) for a, b in pairs}


def test_edges_leave_the_inside_of_a_crossing_free() -> None:
    m = load_map("urban_grid")
    node = np.array([110.0, 100.0])  # the first crossing of the town
    away = np.abs(m.edge_points[:, :2] - node)
    inside = (away < 12).all(axis=1)
    # Only the rounded corners are left: quarter circles 7.5 m from the middle of the turning lane's
    # circle, which meet the streets' edges 7.5 m (two lanes) and 4 m (one lane) from their middle.
    assert inside.sum() > 40
    assert ((away[inside] > (3.9, 7.4)) & (away[inside] < 12)).all()


def clothoid() -> Piece:
    return Piece((1.0, 2.0, 0.3), 80.0, 0.0, 1 / 60)


def test_pieces_against_a_plain_sum() -> None:
    n = 200_000
    ds = 80.0 / n
    s = (np.arange(n) + 0.5) * ds
    heading = 0.3 + 0.5 * s**2 / 60 / 80
    x, y = 1.0 + (np.cos(heading) * ds).sum(), 2.0 + (np.sin(heading) * ds).sum()
    found = clothoid().finish()
    assert found == pytest.approx((x, y, 0.3 + 0.5 * 80 / 60), abs=1e-8)
    arc = chain((0.0, 0.0, 0.0), [(50 * np.pi / 2, 1 / 50, 1 / 50)])[-1].finish()
    assert arc == pytest.approx((50.0, 50.0, np.pi / 2), abs=1e-9)  # to the right: y grows


def test_lane_of_a_circle() -> None:
    """A lane 3 m wide right of a circle to the right of radius 100 m runs at 98.5 m."""
    pieces = chain((0.0, 0.0, 0.0), [(150.0, 0.01, 0.01)])
    lanes = [
        LaneSpec(-1, "driving", (3.0, 0, 0, 0), "solid"),
        LaneSpec(1, "driving", (3.0, 0, 0, 0)),
    ]
    heights = [(0.0, (2.0, 0.1, 0.0, 0.0))]
    road = Road(4, pieces, [Section(0.0, lanes)], 10.0, heights=heights)
    m = sample(Drawing("circle", {4: road}))
    right, left = m.lane(0), m.lane(1)
    assert m.lane_source.tolist() == [[4, 0, -1], [4, 0, 1]]
    for part, radius in ((right, 98.5), (left, 101.5)):
        away = np.hypot(m.points[part, 0], m.points[part, 1] - 100.0)
        np.testing.assert_allclose(away, radius, atol=1e-9)
        np.testing.assert_allclose(m.s[part][-1], np.hypot(150 * radius / 100, 15.0), rtol=1e-4)
    np.testing.assert_allclose(m.curvature[right][1:-1], 1 / 98.5, rtol=0.01)
    np.testing.assert_allclose(m.curvature[left][1:-1], -1 / 101.5, rtol=0.01)
    assert m.points[right][0, 2] == pytest.approx(-2.0)  # z is down
    assert m.points[right][-1, 2] == pytest.approx(-17.0)
    assert m.lane_opposite.tolist() == [1, 0]


def test_every_field_is_filled() -> None:
    """No array of a map is empty in all shipped maps: then nothing would have tested it."""
    filled = {
        f.name for f in fields(RoadMap) for n in SHIPPED if np.size(getattr(load_map(n), f.name))
    }
    assert filled == {f.name for f in fields(RoadMap)}
