"""The task: rewards and ends, what pins and arguments do, and that copies drive on alike."""

import copy
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from steerlab.agents.classical.preview import PreviewDriver
from steerlab.compiled import has_numba
from steerlab.envs.carla_driver import traffic
from steerlab.envs.carla_driver.env import (
    LAYOUT,
    VIOLATIONS,
    CarlaDriverVectorEnv,
    pedals_to_actions,
)
from steerlab.envs.carla_driver.scenarios import SCENARIOS
from steerlab.envs.kinematic_driver.observation import LAYOUT as KINEMATIC
from steerlab.envs.kinematic_driver.record import drive_once
from steerlab.errors import InputError

STILL = np.array([[0.0, -1.0]], np.float32)


def one(**arguments: object) -> CarlaDriverVectorEnv:
    return CarlaDriverVectorEnv(1, compute="numpy", autoreset_mode="Disabled", **arguments)  # type: ignore[arg-type]


def test_observation_begins_as_kinematic_driver_does() -> None:
    assert LAYOUT.size == KINEMATIC.size + 9 == 224
    assert all(LAYOUT[name] == part for name, part in KINEMATIC.slices.items())


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_scenario_begins(name: str) -> None:
    env = CarlaDriverVectorEnv(4, scenario=name, compute="numpy")
    observation, info = env.reset(seed=0)
    parts = LAYOUT.split(observation)
    assert np.isfinite(observation).all()
    np.testing.assert_allclose(parts["lead_gap"][:, 0], info["lead_gap"], rtol=1e-6)
    low, high = SCENARIOS[name].speed
    assert ((info["cruise_speed"] >= low) & (info["cruise_speed"] <= high)).all()
    for weather, (lowest, highest) in SCENARIOS[name].weather.items():
        assert ((info[weather] >= lowest) & (info[weather] <= highest)).all()
    assert (env.cars[:, 1:, traffic.LANE] >= 0).mean() > 0.7


@pytest.mark.skipif(not has_numba(), reason="takes minutes without numba")
@pytest.mark.parametrize(
    "name",
    ["urban_intersection", *(pytest.param(n, marks=pytest.mark.slow) for n in SCENARIOS)],
)
def test_the_preview_driver_drives(name: str) -> None:
    env = CarlaDriverVectorEnv(32, scenario=name, threads=1)
    result = drive_once(env, PreviewDriver, 1000).end
    assert (result["violation"] > 0).sum() <= 1, [VIOLATIONS[v] for v in result["violation"]]
    assert result["cte_max"].max() < 1.3
    assert result["base_return"].mean() > 30


def test_pose_is_that_of_the_path() -> None:
    env = one(scenario="country_road")
    env.reset(seed=3)
    rng = np.random.default_rng(0)
    for _ in range(20):
        _, _, _, _, info = env.step(rng.uniform(-0.2, 0.2, (1, 2)).astype(np.float32))
        r, s = int(info["route"][0]), float(info["s"][0])
        knot = s / env.routes.spacing
        path = [
            np.interp(knot, np.arange(env.routes.knots), env.routes.pose[r, :, c]) for c in range(4)
        ]
        off = np.array([info["x"][0], info["y"][0]]) - path[:2]
        across = off[1] * np.cos(path[3]) - off[0] * np.sin(path[3])
        assert across == pytest.approx(info["cte"][0], abs=1e-3)
        assert info["yaw"][0] - path[3] == pytest.approx(info["heading_error"][0], abs=1e-5)
        assert info["z"][0] == pytest.approx(path[2])
        scene = env.scene(0)
        np.testing.assert_allclose(
            scene.ego[[0, 1, 2, 5]], [info[n][0] for n in ("x", "y", "z", "yaw")]
        )
        assert scene.ego[4] == pytest.approx(-np.arctan(info["slope"][0]))


def test_world_pose_moves_as_fast_as_the_car() -> None:
    env = one(scenario="urban_intersection", traffic=0)
    env.reset(seed=5, options={"signal_clock": 0.0})
    before = None
    for _ in range(30):
        _, _, terminated, truncated, info = env.step(np.zeros((1, 2), np.float32))
        here = np.array([info["x"][0], info["y"][0]])
        if before is not None:
            way = np.hypot(*(here - before)) / 0.05
            assert way == pytest.approx(info["speed"][0], rel=0.02, abs=0.02)
        before = here
        if terminated[0] or truncated[0]:
            break


def drive_until_over(env: CarlaDriverVectorEnv, action: np.ndarray) -> tuple[str, float, int]:
    for step in range(1, 700):
        _, reward, terminated, truncated, info = env.step(action)
        if terminated[0] or truncated[0]:
            return VIOLATIONS[info["violation"][0]], float(reward[0]), step
    raise AssertionError("no end")


def straight_route(env: CarlaDriverVectorEnv, signal: int) -> int:
    """Return a route that is straight for 90 m with a signal of that kind 25 to 75 m ahead."""
    r = env.routes
    kinds = env.road_map.signal_kind[np.maximum(r.stop_signal[:, 0], 0)]
    bend = np.abs(r.pose[:, 90, 3] - r.pose[:, 0, 3])
    good = (kinds == signal) & (bend < 0.01) & (r.stop_at[:, 0] > 30) & (r.stop_at[:, 0] < 75)
    assert good.any()
    return int(np.flatnonzero(good)[0])


CALM = {
    "start_offset": 0.0, "start_heading": 0.0, "superelevation": 0.0, "friction": 1.0, "mass": 1.0,
}  # fmt: skip


def test_running_a_red_light_ends_the_episode() -> None:
    ends = {}
    for clock in (0.0, 17.0):
        env = one(traffic=0)
        route = straight_route(env, 0)
        signal = env.routes.stop_signal[route, 0]
        # Green begins with the light's own phase; half a cycle later it is red.
        begin = (17.0 * env.road_map.signal_phase[signal] + clock) % 34.0
        env.reset(
            seed=1, options={"route": route, "signal_clock": begin, "cruise_speed": 12.0, **CALM}
        )
        fast = np.array([[0.0, 0.3]], np.float32)
        for _ in range(200):
            _, _, terminated, truncated, info = env.step(fast)
            if terminated[0] or truncated[0]:
                break
        ends[clock] = (VIOLATIONS[info["violation"][0]], float(info["s"][0]))
        line = env.routes.stop_at[route, 0]
    assert ends[0.0][0] != "red_light"
    assert ends[0.0][1] > line
    assert ends[17.0][0] == "red_light"
    assert ends[17.0][1] + 3.7 == pytest.approx(line, abs=1.0)


def test_stop_signs_ask_for_a_halt() -> None:
    env = one(scenario="suburban_four_way_stop", traffic=0)
    route = straight_route(env, 1)
    options = {"route": route, "cruise_speed": 8.0, **CALM}
    env.reset(seed=1, options=options)
    assert drive_until_over(env, np.array([[0.0, 0.2]], np.float32))[0] == "stop_sign"
    env.reset(seed=1, options=options)
    line, halted = env.routes.stop_at[route, 0], False
    for _ in range(400):
        gap, v = line - float(env.simulator.state.s[0]) - 3.7, float(env.simulator.state.v[0])
        halted = halted or (v < 0.1 and gap < 3.5)
        wanted = 6.0 if halted else min(6.0, np.sqrt(2 * max(gap - 1.5, 0.0)))
        pedal = np.clip(1.5 * (wanted - v) - (0 if halted else 0.3), -1, 1)
        _, _, terminated, _, info = env.step(np.array([[0.0, pedal]], np.float32))
        if terminated[0] or gap < -4:
            break
    assert halted
    assert gap < -4, VIOLATIONS[info["violation"][0]]
    assert not terminated[0]


def test_standing_is_a_fault_only_without_a_reason() -> None:
    env = one(scenario="country_road", traffic=0)
    env.reset(seed=0, options={"cruise_speed": 5.0, **CALM})
    assert drive_until_over(env, STILL)[0] == "stall"
    env = one(traffic=0, max_episode_steps=400)
    route = straight_route(env, 0)
    signal = env.routes.stop_signal[route, 0]
    red = (17.0 * env.road_map.signal_phase[signal] + 16.0) % 34.0
    env.reset(seed=1, options={"route": route, "signal_clock": red, "cruise_speed": 8.0, **CALM})
    line, stood = env.routes.stop_at[route, 0], 0
    for _ in range(300):
        gap, v = line - float(env.simulator.state.s[0]) - 3.7, float(env.simulator.state.v[0])
        pedal = np.clip(1.5 * (min(8.0, np.sqrt(3 * max(gap - 2.0, 0.0))) - v) - 0.3, -1, 1)
        _, _, terminated, _, info = env.step(np.array([[0.0, pedal]], np.float32))
        assert not terminated[0], VIOLATIONS[info["violation"][0]]
        stood += v < 0.1
        if info["light"][0] == traffic.GREEN:
            break
    assert stood > 60  # longer than the 40 steps of a stall


def test_collision_ends_the_episode_and_takes_the_potential_back() -> None:
    env = one(scenario="highway_follow")
    env.reset(seed=2)
    env.step(np.zeros((1, 2), np.float32))
    x, y, z, yaw = (float(v) for v in env.cars[0, 0, :4])
    car = env.cars[0, 1]
    lane = int(env.cars[0, 0, traffic.LANE])
    car[traffic.LANE], car[traffic.S] = lane, env.cars[0, 0, traffic.S] + 5.0
    car[traffic.V], car[traffic.SIZE], car[traffic.WIDTH] = 0.0, 4.6, 1.85
    potential = float(env.simulator.potential[0])
    _, reward, terminated, truncated, info = env.step(np.zeros((1, 2), np.float32))
    assert VIOLATIONS[info["violation"][0]] == "collision"
    assert terminated[0]
    assert not truncated[0]
    base = float(info["base_reward"][0])
    assert reward[0] == pytest.approx(base - potential, abs=1e-4)
    assert (x, y, z, yaw) != tuple(env.cars[0, 0, :4])


def test_desires_go_on_along_the_route() -> None:
    env = one(traffic=0)
    r = env.routes
    count = (r.desire_at[:, :, 1] < r.end[:, None]).sum(axis=1)
    route = int(np.argmax(count))
    assert count[route] >= 2
    env.reset(seed=0, options={"route": route, "signal_clock": 0.0})
    state, seen = env.simulator.state, []
    for s in np.arange(3.0, r.end[route], 1.0):
        env.simulator.state.s[:] = s
        env._wish_on()
        seen.append(int(env._desires(np.array([0]))[0]))
        inside = (s >= r.desire_at[route, :, 0]) & (s <= r.desire_at[route, :, 1])
        if inside.sum() <= 1:
            assert seen[-1] == (r.desire[route][inside][0] if inside.any() else 0)
    assert state is env.simulator.state
    assert len(set(seen) - {0}) >= 1


def test_pedals() -> None:
    v = np.array([2.0, 10.0, 10.0], np.float32)
    actions = np.array([[1.0, 0.5, 0.0], [0.1, 0.2, 0.7], [-2.0, 3.0, 0.0]], np.float32)
    found = pedals_to_actions(actions, v)
    # 0.2 1/m is the tightest curvature; at 10 m/s action 1 stands for 3.6 / 100 1/m.
    tight = np.tan(0.1 * np.arctan(2.7 * 0.2)) / 2.7
    np.testing.assert_allclose(found[:, 0], [1.0, tight / 0.036, -1.0], rtol=1e-5)
    np.testing.assert_allclose(found[:, 1], [0.5, -0.7, 1.0], rtol=1e-6)
    env = gym.make("CarlaDriver-v0", actions="pedals", compute="numpy")
    assert env.action_space.shape == (3,)
    env.reset(seed=0)
    env.step(np.array([0.0, 0.5, 0.0], np.float32))


def test_copies_and_pickles_drive_on_alike_and_apart() -> None:
    env = CarlaDriverVectorEnv(2, compute="numpy")
    env.reset(seed=4)
    action = np.zeros((2, 2), np.float32)
    for _ in range(5):
        env.step(action)
    others = [copy.deepcopy(env), pickle.loads(pickle.dumps(env))]
    frozen = copy.deepcopy(env)
    for _ in range(10):
        wanted = env.step(action)
        for other in others:
            found = other.step(action)
            np.testing.assert_array_equal(found[0], wanted[0])
            np.testing.assert_array_equal(other.cars, env.cars)
    assert (frozen.cars != env.cars).any()
    assert frozen.simulator.state.s[0] < env.simulator.state.s[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scenario": "urban"}, "unknown scenario 'urban'"),
        ({"map": "urban_gird"}, "did you mean 'urban_grid'"),
        ({"map": "country_road"}, "no junction to drive through"),
        ({"map": "absent.xodr"}, "cannot read map 'absent.xodr'"),
        ({"traffic": -1}, "traffic=-1 must be in"),
        ({"traffic": 2.5}, "traffic=2.5 must be a whole number"),
        ({"actions": "wheel"}, "unknown actions 'wheel'"),
        ({"backend": "gpu"}, "unknown backend 'gpu'"),
        ({"camera": "fisheye"}, "unknown camera 'fisheye'"),
        ({"compute": "fortran"}, "unknown backend 'fortran'"),
        ({"max_episode_steps": 5}, "max_episode_steps=5"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        gym.make("CarlaDriver-v0", **arguments)


def test_wrong_options_are_named() -> None:
    env = one()
    for options, message in (
        ({"desire": "turnLeft"}, "unknown reset option 'desire'"),
        ({"route": 10_000}, r"options\['route'\]=10000 must be within"),
        ({"wetness": [1, 2]}, r"options\['wetness'\] has shape"),
        ({"friction": 9}, r"options\['friction'\]"),
    ):
        with pytest.raises(InputError, match=message):
            env.reset(seed=0, options=options)
    _, info = env.reset(seed=0, options={"route": 3, "wetness": 40.0, "friction": 0.9})
    assert (info["route"][0], info["wetness"][0]) == (3, 40.0)
    assert info["friction"][0] == pytest.approx(0.9)


def test_length_of_an_episode_comes_from_the_scenario() -> None:
    usual: Any = gym.make("CarlaDriver-v0", compute="numpy").unwrapped
    assert usual.max_episode_steps == 600
    short: Any = gym.make("CarlaDriver-v0", compute="numpy", max_episode_steps=40).unwrapped
    assert short.max_episode_steps == 40


@pytest.mark.slow
def test_everything_works_without_carla(tmp_path: Path) -> None:
    """A fresh process in which the import of carla is blocked."""
    code = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name == "carla":
            raise ImportError("blocked")
sys.meta_path.insert(0, Block())
import gymnasium as gym, numpy as np, steerlab
env = gym.make("CarlaDriver-v0", compute="numpy", render_mode="rgb_array")
env.reset(seed=0)
env.step(np.zeros(2, np.float32))
assert env.render().shape == (480, 480, 3)
try:
    gym.make("CarlaDriver-v0", map=sys.argv[1])
except ValueError as error:
    assert "steerlab[carla]" in str(error), error
    print("named")
"""
    road = tmp_path / "road.xodr"
    road.write_text("<OpenDRIVE/>")
    done = subprocess.run(
        [sys.executable, "-c", code, str(road)], capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "named", done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("town", ["Town01", "Town04", "Town06", "Town10HD", "e6mini", "soderleden"])
def test_shared_maps_are_driven(town: str, shared: Path) -> None:
    pytest.importorskip("carla")
    path = shared / "opendrive" / f"{town}.xodr"
    env = CarlaDriverVectorEnv(8, scenario="country_road", map=path, threads=1)
    result = drive_once(env, PreviewDriver, 50).end
    assert (result["violation"] == 0).mean() >= 0.75, result["violation"]
