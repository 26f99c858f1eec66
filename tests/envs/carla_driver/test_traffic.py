"""Traffic: single rules against plain numbers, and whole rows watched from outside."""

import math
from typing import Any

import numpy as np
import pytest

from steerlab.agents.classical.preview import PreviewDriver
from steerlab.compiled import has_numba
from steerlab.envs.carla_driver import traffic
from steerlab.envs.carla_driver.env import CarlaDriverVectorEnv
from steerlab.envs.carla_driver.traffic import (
    AHEAD0,
    CAR,
    CRUISE,
    GREEN,
    LANE,
    LEAD_GAP,
    RED,
    ROW,
    SIZE,
    STOP,
    WIDTH,
    YELLOW,
    S,
    V,
    follow,
    roads_of,
    shows,
    touch,
)
from steerlab.envs.maps import load_map


def test_lights_follow_their_cycle() -> None:
    """Two phases of 12 s green, 3 s yellow and 2 s all red: 34 s in all."""
    signals = np.array([[0, 0, 2], [0, 1, 2], [1, -1, 0], [3, -1, 0]])
    for second in range(102):
        u = second % 34
        first = GREEN if u < 12 else YELLOW if u < 15 else RED
        other = (u + 17) % 34
        second_phase = GREEN if other < 12 else YELLOW if other < 15 else RED
        clock = second + 0.01
        assert shows(signals, 0, clock) == first
        assert shows(signals, 1, clock) == second_phase
        assert not (first in (GREEN, YELLOW) and second_phase in (GREEN, YELLOW))
        assert shows(signals, 2, clock) == STOP
        assert shows(signals, 3, clock) == 0


def test_intelligent_driver() -> None:
    """By hand, with 1.6 and 2 m/s^2, 1.3 s and 2 m."""
    assert follow(0.0, 10.0, 200.0, 0.0, 2.0) == pytest.approx(1.6 * (1 - (2 / 200) ** 2))
    assert follow(10.0, 10.0, 1e9, 0.0, 2.0) == pytest.approx(0.0, abs=1e-9)
    # 15 m/s behind 10 m/s at 40 m: s* = 2 + 19.5 + 15 * 5 / (2 sqrt 3.2) = 42.463
    wanted = 1.6 * (1 - (15 / 20) ** 4 - (42.463 / 40) ** 2)
    assert follow(15.0, 20.0, 40.0, 10.0, 2.0) == pytest.approx(wanted, rel=1e-4)
    assert follow(20.0, 20.0, 1.0, 0.0, 2.0) == -7.0


def corners(
    x: float, y: float, heading: float, length: float, width: float
) -> np.ndarray[Any, Any]:
    along, across = np.meshgrid(np.linspace(-0.5, 0.5, 41), np.linspace(-0.5, 0.5, 41))
    a, b = along.ravel() * length, across.ravel() * width
    return np.stack(
        [
            x + a * math.cos(heading) - b * math.sin(heading),
            y + a * math.sin(heading) + b * math.cos(heading),
        ],
        1,
    )


def test_bodies_touch_where_their_areas_do() -> None:
    """Against a grid of points over one body, looked up in the other."""
    rng = np.random.default_rng(1)
    seen = {True: 0, False: 0}
    for _ in range(300):
        cars = np.zeros((2, CAR))
        cars[0, :4] = (0, 0, 0, rng.uniform(-4, 4))
        cars[1, :4] = (*rng.uniform(-6, 6, 2), 0, rng.uniform(-4, 4))
        cars[:, SIZE], cars[:, WIDTH] = (4.7, 8.0), (1.84, 2.5)
        x, y, yaw = cars[1, [0, 1, 3]]
        points = corners(x, y, yaw, 8.0, 2.5)
        heading = cars[0, 3]
        forward = points @ [math.cos(heading), math.sin(heading)]
        right = points @ [-math.sin(heading), math.cos(heading)]
        inside = ((np.abs(forward) < 2.35) & (np.abs(right) < 0.92)).any()
        outside = ((np.abs(forward) < 2.6) & (np.abs(right) < 1.2)).any()
        if inside == outside:  # else too close to tell by a grid
            assert touch(cars, 1) == inside
            seen[bool(inside)] += 1
    assert min(seen.values()) > 50


def test_cruise_speed_brakes_for_bends() -> None:
    m = load_map("urban_grid")
    roads = roads_of(m)
    speed, curvature = roads.points[:, CRUISE], np.abs(m.curvature)
    driven = np.repeat(m.drivable, np.diff(m.lane_start))
    assert (speed[driven] ** 2 * curvature[driven] < 2.01).all()
    assert (speed <= np.repeat(m.lane_limit, np.diff(m.lane_start)) + 1e-9).all()
    for lane in np.flatnonzero(m.drivable):
        part = m.lane(lane)
        braking = -np.diff(speed[part] ** 2) / (2 * np.diff(m.s[part]))
        assert braking.max() < 1.21


def watch(scenario: str, rows: int, steps: int, seed: int) -> Any:
    """Yield the environment after every step of a drive by the preview driver."""
    env = CarlaDriverVectorEnv(rows, scenario=scenario, compute="auto", threads=1)
    driver = PreviewDriver(env)
    observation, info = env.reset(seed=seed)
    driver.reset(observation, info)
    yield env
    for _ in range(steps):
        observation, *_, info = env.step(driver(observation, info))
        yield env


@pytest.mark.skipif(not has_numba(), reason="takes minutes without numba")
def test_traffic_keeps_the_rules() -> None:
    """No vehicle crosses a stop line on red, and no two vehicles come to overlap."""
    crossed, before = 0, None
    for env in watch("urban_intersection", 12, 400, 3):
        m, cars, clock = env.road_map, env.cars, env.rows[:, traffic.CLOCK]
        lane, front = cars[:, 1:, LANE].astype(int), cars[:, 1:, S] + 0.5 * cars[:, 1:, SIZE]
        if before is not None:
            old_lane, old_front = before
            for signal in range(len(m.signal_kind)):
                for stop in range(m.stop_start[signal], m.stop_start[signal + 1]):
                    here = (lane == m.stop_lane[stop]) & (old_lane == lane)
                    here &= front - old_front < 1.5  # no other vehicle that has come in
                    at = m.stop_s[stop]
                    for i, _ in np.argwhere(here & (old_front < at) & (front >= at)):
                        u = (clock[i] - 17 * m.signal_phase[signal]) % 34
                        assert not u > 15.3, "on red"
                        crossed += 1
        before = lane.copy(), front.copy()
        length, width = cars[:, 1:, SIZE], cars[:, 1:, WIDTH]
        for i in range(len(cars)):
            for j in np.flatnonzero(lane[i] >= 0):
                others = np.flatnonzero(lane[i, :j] >= 0)
                off = cars[i, 1 + others, :2] - cars[i, 1 + j, :2]
                # Inscribed circles: where they meet, the bodies overlap for sure.
                apart = np.hypot(*off.T) - 0.5 * (width[i, others] + width[i, j])
                assert (apart > 0).all(), (i, j)
        assert (length > 0)[lane >= 0].all()
    assert crossed > 15


@pytest.mark.skipif(not has_numba(), reason="takes minutes without numba")
def test_everyone_halts_at_a_stop_sign_and_goes_on() -> None:
    halted: dict[tuple[int, int], int] = {}  # lane of the last halt
    entered = 0
    for env in watch("suburban_four_way_stop", 16, 600, 4):
        m, cars = env.road_map, env.cars
        stop_of = {int(lane): float(s) for lane, s in zip(m.stop_lane, m.stop_s, strict=True)}
        for i, j in np.argwhere(cars[:, 1:, LANE] >= 0):
            lane, s, v = int(cars[i, j + 1, LANE]), cars[i, j + 1, S], cars[i, j + 1, V]
            gap = stop_of.get(lane, np.inf) - s - 0.5 * cars[i, j + 1, SIZE]
            if gap < 3.0 and gap > -1.0 and v < 0.3:
                halted[i, j] = lane
            if lane in stop_of and -3.0 < gap < -1.0 and cars[i, j + 1, V] > 0.5:
                assert halted.get((i, j)) == lane, (i, j)
                entered += 1
    assert entered > 10


@pytest.mark.skipif(not has_numba(), reason="needs numba")
@pytest.mark.parametrize("scenario", ["urban_intersection", "highway_merge"])
def test_compiled_loops_give_the_same_numbers(scenario: str) -> None:
    """Over some seconds, until rounding in single precision of the ego vehicle has grown."""
    first, second = (
        CarlaDriverVectorEnv(2, scenario=scenario, compute=compute, threads=1)
        for compute in ("numba", "numpy")
    )
    a, b = first.reset(seed=7)[0], second.reset(seed=7)[0]
    np.testing.assert_allclose(a, b, atol=1e-4)
    rng = np.random.default_rng(0)
    for _ in range(60):
        actions = rng.uniform(-0.1, 0.1, (2, 2)).astype(np.float32)
        a, b = first.step(actions)[0], second.step(actions)[0]
        np.testing.assert_allclose(a, b, atol=2e-3)
        np.testing.assert_allclose(first.cars, second.cars, atol=1e-3)
    assert first.rows.shape == (2, ROW)


def test_the_vehicle_ahead_is_seen_on_the_path() -> None:
    env = CarlaDriverVectorEnv(3, scenario="highway_follow", compute="numpy")
    env.reset(seed=1)
    for _ in range(3):
        env.step(np.zeros((3, 2), np.float32))
        for i in range(3):
            gaps = []
            s, route = float(env.simulator.state.s[i]), int(env.rows[i, traffic.ROUTE])
            for car in env.cars[i, 1:]:
                if car[LANE] < 0:
                    continue
                # Nearest point of the path, by brute force.
                path = env.routes.pose[route]
                away = np.hypot(*(path[:, :2] - car[:2]).T)
                knot = int(np.argmin(away))
                ahead = knot * env.routes.spacing - s - 1.35 - 0.5 * (4.7 + car[SIZE])
                if away[knot] < 1.9 and 0 < ahead < 190:
                    gaps.append(ahead)
            seen = env.rows[i, LEAD_GAP]
            if seen < 190:
                assert gaps
                assert seen == pytest.approx(min(gaps), abs=1.6)
            else:
                assert not gaps


def test_next_lanes_are_linked() -> None:
    env = CarlaDriverVectorEnv(4, scenario="urban_intersection", compute="numpy")
    env.reset(seed=2)
    m = env.road_map
    for car in env.cars.reshape(-1, CAR):
        if car[LANE] >= 0 and car[AHEAD0] >= 0:
            lane = int(car[LANE])
            after = m.successors[m.successor_start[lane] : m.successor_start[lane + 1]]
            beside = [m.lane_left[lane], m.lane_right[lane]]
            both = [
                n
                for k in beside
                if k >= 0
                for n in m.successors[m.successor_start[k] : m.successor_start[k + 1]]
            ]
            assert int(car[AHEAD0]) in (*after, *both)
