"""Lane lines and edges are where closed forms have them."""

import numpy as np
import pytest

from steerlab.envs.cameras.geometry import Mount, Pose, device_origin
from steerlab.envs.labels.corridor import Corridor, corridor
from steerlab.envs.labels.lines import Boxes, Lines, hidden, lines
from steerlab.errors import InputError
from tests.envs.labels import roads
from tests.envs.labels.roads import pose_on

X_IDXS = 192.0 * (np.arange(33) / 32) ** 2
NO_CARS = Boxes(np.zeros((0, 3)), np.zeros(0), np.zeros((0, 3)))


def seen(
    shape: str, lane: int, s: float, offset: float = 0.0, turn: float = 0.0
) -> tuple[Lines, Pose]:
    m = roads.road(shape)
    way = corridor(m, [roads.lane_of(m, lane)])
    middle = (abs(lane) - 0.5) * roads.WIDTH
    x, y, heading = (float(v[0]) for v in roads.reference(shape, np.array([s])))
    right = middle + offset
    pose = Pose(x - right * np.sin(heading), y + right * np.cos(heading), 0.0, heading + turn)
    located = way.path.locate(np.array([[pose.x, pose.y]]), np.array([pose.heading]), 0.0, np.inf)
    np.testing.assert_allclose(located[1:, 0], [offset, turn], atol=2e-3)
    mount = Mount()
    to_frame = mount.calibrated_from_car @ pose.world_from_car.T
    return lines(way, float(located[0, 0]), device_origin(pose, mount), to_frame, NO_CARS), pose


def expected(shape: str, right: float, pose: Pose) -> np.ndarray:
    """y at X_IDXS of the line ``right`` m right of the reference line, by search along it."""
    points = roads.beside(shape, np.linspace(0, 400, 200_001), right)
    away = points - [pose.x, pose.y]
    c, s = np.cos(pose.heading), np.sin(pose.heading)
    x, y = c * away[:, 0] + s * away[:, 1] - 1.5, c * away[:, 1] - s * away[:, 0]
    return np.interp(X_IDXS, x, y)


@pytest.mark.parametrize("shape", roads.SHAPES)
def test_lines_and_edges_within_two_centimetres(shape: str) -> None:
    for lane, s, offset, turn in (
        (-1, 60.0, 0.0, 0.0),
        (-1, 100.3, 0.4, -0.03),
        (-2, 33.7, -0.3, 0.02),
    ):
        found, pose = seen(shape, lane, s, offset, turn)
        inner = (abs(lane) - 1) * roads.WIDTH  # left line of the lane, right of the reference line
        far_left = inner - roads.WIDTH
        near = X_IDXS <= 101
        for i, right in enumerate((far_left, inner, inner + roads.WIDTH)):
            assert found.lane_lines_valid[i, near].all()
            error = found.lane_lines[i, near, 0] - expected(shape, right, pose)[near]
            assert np.abs(error).max() < 0.02
        edge = 2 * roads.WIDTH + roads.SHOULDER
        for i, right in enumerate((-edge, edge)):
            assert found.road_edges_valid[i, near].all()
            assert (
                np.abs(found.road_edges[i, near, 0] - expected(shape, right, pose)[near]).max()
                < 0.02
            )
        np.testing.assert_allclose(found.lane_lines[1, near, 1], 1.22, atol=1e-6)
    assert lane == -2
    assert not found.lane_lines_valid[3].any()  # beyond the outermost lane there is none
    assert found.lane_lines_prob[3] == 0.0


def test_far_left_line_is_beyond_the_oncoming_lane() -> None:
    found, pose = seen("arc", -1, 80.0)
    error = found.lane_lines[0, :20, 0] - expected("arc", -roads.WIDTH, pose)[:20]
    assert np.abs(error).max() < 0.02
    np.testing.assert_allclose(found.lane_lines_prob[:3], 1.0)
    far_right = found.lane_lines[3, :20, 0] - expected("arc", 2 * roads.WIDTH, pose)[:20]
    assert np.abs(far_right).max() < 0.02


def test_lines_end_with_the_map() -> None:
    found, _ = seen("straight", -1, 300.0)
    # 400 - 300 - 1.5 m of road are ahead of the lens.
    np.testing.assert_array_equal(found.lane_lines_valid[1], X_IDXS <= 98.5)
    assert (found.lane_lines[1, ~found.lane_lines_valid[1]] == 0).all()


def test_lines_of_a_road_that_comes_back_behind_the_car() -> None:
    """The far end has a negative x too; the lines ahead are there all the same."""
    m = roads.road("horseshoe")
    way = corridor(m, [roads.lane_of(m, -1)])
    place = int(np.searchsorted(way.path.s, 30.0))
    pose = pose_on(way, place)
    to_frame = Mount().calibrated_from_car @ pose.world_from_car.T
    found = lines(way, way.path.s[place], device_origin(pose, Mount()), to_frame, NO_CARS)
    straight = X_IDXS < 28
    assert found.lane_lines_valid[:, straight].all()
    assert found.road_edges_valid[:, straight].all()
    for i, right in enumerate((-1.5, -0.5, 0.5, 1.5)):
        error = found.lane_lines[i, straight, 0] - right * roads.WIDTH
        assert np.abs(error).max() < 0.02
    assert not found.lane_lines_valid[:, X_IDXS > 90].any()


def test_a_car_hides_the_line_behind_it() -> None:
    # 20 m ahead and 2 m right: from 1.22 m up, the road up to far behind it is hidden.
    box = Boxes(np.array([[20.0, 2.0, -0.8]]), np.zeros(1), np.array([[4.0, 1.8, 1.6]]))
    eye = np.array([0.0, 0.0, -1.22])
    points = np.array([[10, 1, 0], [40, 4, 0], [40, -4, 0], [22, 2, 0], [17.9, 1.79, 0]], float)
    np.testing.assert_array_equal(hidden(eye, points, box), [False, True, False, True, False])
    m = roads.road("straight")
    way = corridor(m, [roads.lane_of(m, -1)])
    pose = pose_on(way, 50)
    to_frame = pose.world_from_car.T
    ahead = pose.world_from_car @ [12.0, 1.75, -0.8]
    cars = Boxes(np.array([[pose.x, pose.y, 0.0] + ahead]), np.array([pose.heading]), box.size)
    probs = [
        lines(way, way.path.s[50], device_origin(pose, Mount()), to_frame, c).lane_lines_prob
        for c in (NO_CARS, cars)
    ]
    assert probs[1][2] < 0.7 * probs[0][2]
    assert probs[1][1] == probs[0][1] == 1.0


def test_a_route_joins_lanes_without_a_gap() -> None:
    m = roads.road("straight")
    with pytest.raises(InputError, match="at least one lane"):
        corridor(m, [])
    way: Corridor = corridor(m, [roads.lane_of(m, -2)])
    np.testing.assert_allclose(
        np.diff(way.path.s), np.linalg.norm(np.diff(way.path.centre, axis=0), axis=1)
    )
    assert way.path.s[-1] == pytest.approx(400.0)
