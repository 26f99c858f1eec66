"""CarlaDriver on a server: what is measured, what is told, and how everything is put back."""

import copy
import gc
import itertools
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from steerlab.agents.classical.preview import PreviewDriver
from steerlab.envs.carla_driver.env import VIOLATIONS, CarlaDriverVectorEnv
from steerlab.envs.carla_driver.server.capabilities import TABLE
from steerlab.envs.carla_driver.server.chassis import Chassis, chassis_of
from steerlab.envs.carla_driver.server.connection import ServerLost
from steerlab.errors import InputError
from tests.envs.carla_server import duck as ducks
from tests.envs.carla_server.duck import carla


def make(
    duck: ducks.Server, scenario: Any = "country_road", **changes: Any
) -> CarlaDriverVectorEnv:
    server = {"port": duck.port, "timeout": 1.0, "patience": 0.5, **changes.pop("server", {})}
    options: dict[str, Any] = {"max_episode_steps": 60, "traffic": 3, **changes}
    return CarlaDriverVectorEnv(1, scenario=scenario, backend="server", server=server, **options)


@pytest.fixture
def env(duck: ducks.Server) -> Iterator[CarlaDriverVectorEnv]:
    task = make(duck)
    yield task
    task.close()


def drive(
    env: CarlaDriverVectorEnv, seed: int = 0, steps: int = 1000
) -> tuple[dict[str, Any], int]:
    """Drive an episode; return the last info and the number of steps."""
    observation, info = env.reset(seed=seed)
    driver = PreviewDriver(env)
    driver.reset(observation, info)
    for step in itertools.count(1):
        observation, _, terminated, truncated, info = env.step(driver(observation, info))
        assert env.observation_space.contains(observation)
        if terminated[0] or truncated[0] or step == steps:
            return info, step
    raise AssertionError


def test_an_episode_through_the_public_interface(duck: ducks.Server) -> None:
    env = gym.make(
        "CarlaDriver-v0", scenario="country_road", backend="server", server={"port": duck.port},
        max_episode_steps=60, traffic=2,
    )  # fmt: skip
    observation, info = env.reset(seed=3)
    assert env.observation_space.contains(observation)
    assert duck.settings.synchronous_mode
    assert duck.settings.fixed_delta_seconds == pytest.approx(0.05)
    assert duck.settings.max_substep_delta_time * duck.settings.max_substeps >= 0.05
    assert duck.settings.no_rendering_mode
    assert duck.managers[0].synchronous
    assert len(duck.vehicles()) == 3
    ticks, truncated = duck.frame, False
    driver = PreviewDriver(env.unwrapped.batch)  # type: ignore[attr-defined]
    driver.reset(observation[None], {k: np.array([v]) for k, v in info.items()})
    while not truncated:
        row = {name: np.array([value]) for name, value in info.items()}
        *_, terminated, truncated, info = env.step(driver(observation[None], row)[0])
        assert not terminated
    assert duck.frame - ticks == 60
    assert info["lane_invasions"] == 0
    env.close()
    duck.untouched()


def test_the_teacher_keeps_the_lane_of_the_servers_car(
    duck: ducks.Server, env: CarlaDriverVectorEnv
) -> None:
    info, steps = drive(env)
    assert steps == 60
    assert VIOLATIONS[int(info["violation"][0])] == "none"
    assert abs(info["cte"][0]) < 0.3
    assert info["speed"][0] == pytest.approx(duck.vehicles()[0].v, abs=1e-3)
    # The pose is that of the rear axle, 1.45 m behind the actor's origin, y right, z down.
    pose = duck.vehicles()[0].pose
    yaw = np.radians(pose.rotation.yaw)
    assert info["x"][0] == pytest.approx(pose.location.x + ducks.REAR * np.cos(yaw), abs=1e-3)
    assert info["y"][0] == pytest.approx(pose.location.y + ducks.REAR * np.sin(yaw), abs=1e-3)
    assert info["z"][0] == pytest.approx(-pose.location.z, abs=1e-3)
    assert np.cos(info["yaw"][0] - yaw) == pytest.approx(1.0, abs=1e-6)
    # Offset and arc length lead back to the same place.
    routes, route = env.routes, int(info["route"][0])
    at = float(info["s"][0]) / routes.spacing
    below = routes.pose[route, int(at)] + (at - int(at)) * (
        routes.pose[route, int(at) + 1] - routes.pose[route, int(at)]
    )
    d = float(info["cte"][0])
    assert info["x"][0] == pytest.approx(below[0] - d * np.sin(below[3]), abs=0.02)
    assert info["y"][0] == pytest.approx(below[1] + d * np.cos(below[3]), abs=0.02)


def test_speed_acceleration_and_curvature_are_measured(
    duck: ducks.Server, env: CarlaDriverVectorEnv
) -> None:
    observation, info = env.reset(seed=1)
    driver = PreviewDriver(env)
    driver.reset(observation, info)
    before = duck.vehicles()[0].pose, info
    for _ in range(25):
        observation, *_, info = env.step(driver(observation, info))
        pose = duck.vehicles()[0].pose
        yaw, old = (np.radians(p.rotation.yaw) for p in (pose, before[0]))
        v, u = float(info["speed"][0]), float(before[1]["speed"][0])
        assert info["acceleration"][0] == pytest.approx((v - u) / 0.05, abs=1e-3)
        turned = np.angle(np.exp(1j * (yaw - old)))
        assert info["curvature"][0] == pytest.approx(turned / (0.025 * (v + u)), abs=1e-5)
        before = pose, info


def test_the_same_seed_asks_for_the_same_episode(duck: ducks.Server) -> None:
    asked = []
    for _ in range(2):
        duck.tried.clear()
        env = make(duck)
        env.reset(seed=7)
        asked.append(
            ([(p.location.x, p.location.y) for p in duck.tried], duck.managers[-1].seeds[-1])
        )
        env.close()
        duck.untouched()
    assert asked[0] == asked[1]
    assert len(asked[0][0]) == 4


@pytest.mark.slow
def test_a_route_through_lights(duck: ducks.Server) -> None:
    duck.maps["Town03"] = "urban_grid"
    env = make(duck, "urban_intersection", max_episode_steps=60)
    assert duck.calls["load_world"] == 1
    lights = np.flatnonzero(env.road_map.signal_kind == 0)
    env.reset(seed=2)
    world: Any = env.world
    assert set(world.lights) == set(lights.tolist())
    numbers = {carla.TrafficLightState.Green: 1, carla.TrafficLightState.Yellow: 2}
    for _ in range(2):
        shown = env.scene(0).signals
        for signal in lights:
            assert shown[signal] == numbers.get(world.lights[signal].get_state(), 3)
        duck.frame += 80
        env.step(np.zeros((1, 2), np.float32))
    info, _ = drive(env, seed=2)
    assert VIOLATIONS[int(info["violation"][0])] in ("none", "red_light", "stall")
    env.close()
    assert not duck.settings.synchronous_mode
    assert duck.ours() == []


def test_other_vehicles_as_they_really_are(duck: ducks.Server, env: CarlaDriverVectorEnv) -> None:
    env.reset(seed=0)
    env.step(np.zeros((1, 2), np.float32))
    scene, there = env.scene(0), duck.vehicles()[1:]
    assert len(scene.vehicles) == len(there) == 3
    for seen, size, vehicle in zip(scene.vehicles, scene.vehicle_sizes, there, strict=True):
        middle = vehicle.pose.transform(carla.Location(0.05, 0.0, 0.0))  # on the road
        np.testing.assert_allclose(seen[:2], [middle.x, middle.y], atol=1e-3)
        assert seen[2] == pytest.approx(-vehicle.pose.location.z, abs=1e-3)
        np.testing.assert_allclose(size, [4.8, 1.9], atol=1e-6)
    del duck.actors[there[0].id]  # the server took it away
    env.step(np.zeros((1, 2), np.float32))
    assert len(env.scene(0).vehicles) == 2
    assert {vehicle.autopilot for vehicle in there} == {env.world.link.traffic_port}  # type: ignore[attr-defined]


@pytest.mark.slow
def test_who_is_ahead_on_the_route(duck: ducks.Server) -> None:
    duck.maps["Town04"] = "motorway"
    env = make(duck, "highway_follow", traffic=1)
    _, info = env.reset(seed=0)
    ego, lead = duck.vehicles()
    bumpers = ego.pose.location.distance(lead.pose.location) - 0.5 * 4.8 - 2.35
    # The task's body is 4.7 m long about a point 1.35 m ahead of the rear axle.
    assert info["lead_gap"][0] == pytest.approx(bumpers, abs=0.6)
    assert info["lead_speed"][0] == pytest.approx(lead.v, abs=0.05)
    env.close()


def test_events_of_sensors(duck: ducks.Server, env: CarlaDriverVectorEnv) -> None:
    env.reset(seed=0)
    duck.tell("lane_invasion")
    duck.tell("lane_invasion")
    *_, info = env.step(np.zeros((1, 2), np.float32))
    assert info["lane_invasions"][0] == 2
    duck.tell("collision")
    _, _, terminated, _, info = env.step(np.zeros((1, 2), np.float32))
    assert terminated[0]
    assert VIOLATIONS[int(info["violation"][0])] == "collision"


def test_weather_of_the_episode(duck: ducks.Server, env: CarlaDriverVectorEnv) -> None:
    env.reset(seed=0, options={"fog_density": 12.0, "sun_altitude_angle": 33.0})
    assert duck.weather.fog_density == pytest.approx(12.0)
    assert duck.weather.sun_altitude_angle == pytest.approx(33.0)
    assert duck.weather.scattering_intensity == 1.0  # what we do not draw stays


@pytest.mark.parametrize("sensors", ["model", pytest.param("full", marks=pytest.mark.slow)])
def test_pictures_belong_to_their_tick(duck: ducks.Server, sensors: str) -> None:
    env = make(duck, camera="rgb", server={"sensors": sensors}, noise=False)
    observation, _ = env.reset(seed=0)
    for _ in range(2):
        for name in ("narrow", "wide"):
            picture = observation[name][0]
            assert picture.shape == (256, 512, 3)
            assert (picture == ducks.colour(duck.frame, name == "narrow")).all()
        observation, *_ = env.step(np.zeros((1, 2), np.float32))
    assert not duck.settings.no_rendering_mode
    narrow, wide = duck.sensors("camera")
    size = ("512", "418") if sensors == "model" else ("1928", "1208")
    assert (narrow.attributes["image_size_x"], narrow.attributes["image_size_y"]) == size
    assert narrow.relative.location.x == pytest.approx(ducks.REAR + 1.5, abs=0.01)
    assert narrow.relative.location.z == pytest.approx(1.22, abs=0.09)
    assert narrow.attributes["motion_blur_intensity"] == "0.0"
    assert wide.parent is duck.vehicles()[0]
    env.close()
    duck.untouched()


def test_late_pictures_are_waited_for_and_lost_ones_end_the_episode(duck: ducks.Server) -> None:
    env = make(duck, camera="model")
    duck.delay = 0.05
    env.reset(seed=0)
    observation, *_ = env.step(np.zeros((1, 2), np.float32))
    assert observation["img"].shape == (1, 12, 128, 256)
    duck.delay = 0.0
    duck.lose = 1
    with pytest.raises(ServerLost, match="camera of the CARLA server lost frame"):
        env.step(np.zeros((1, 2), np.float32))
    duck.untouched()
    env.reset(seed=1)  # it connects again by itself
    env.step(np.zeros((1, 2), np.float32))
    env.close()
    duck.untouched()


def test_without_cameras(duck: ducks.Server, env: CarlaDriverVectorEnv) -> None:
    env.reset(seed=0)
    assert not duck.sensors("camera")
    with pytest.raises(InputError, match=r"no cameras.*'cameras': True"):
        env.windshield(0).planes(env.scene(0))
    again = make_after(env, duck, server={"cameras": True})
    again.reset(seed=0)
    assert again.windshield(0).planes(again.scene(0))[0].shape == (6, 128, 256)
    again.close()


def make_after(env: Any, duck: ducks.Server, **changes: Any) -> CarlaDriverVectorEnv:
    env.close()
    return make(duck, **changes)


def test_room_is_looked_for(duck: ducks.Server, env: CarlaDriverVectorEnv) -> None:
    duck.blocked = 5  # the sixth place of the same route has room
    env.reset(seed=0, options={"route": 3})
    routes = env.routes.pose[3, :, :2]
    for pose in duck.tried[:6]:
        assert np.linalg.norm(routes - [pose.location.x, pose.location.y], axis=1).min() < 1.0
    duck.tried.clear()
    duck.blocked = 9 + 2  # nothing on this route: another episode is drawn
    env.reset(seed=0)
    starts = np.array([[p.location.x, p.location.y] for p in duck.tried[:12]])
    assert np.linalg.norm(starts[11] - starts[0]) > 20
    duck.blocked = 1000
    with pytest.raises(
        InputError, match="no room for the car where route 3 of map 'Town07' begins"
    ):
        env.reset(seed=0, options={"route": 3})
    duck.blocked = 0
    env.reset(seed=0)


def test_leftovers_of_a_run_that_died(duck: ducks.Server) -> None:
    world, library = ducks.World(duck), duck.library()
    settings = world.get_settings()
    settings.synchronous_mode, settings.fixed_delta_seconds = True, 0.05
    world.apply_settings(settings)
    for number, role in enumerate(("steerlab", "steerlab", "hero")):
        car = library.find("vehicle.audi.tt")
        car.set_attribute("role_name", role)
        pose = carla.Transform(carla.Location(50.0 * number, 900.0, 0.0), carla.Rotation())
        assert world.try_spawn_actor(car, pose)
    env = make(duck)
    env.reset(seed=0)
    assert [v.attributes["role_name"] for v in duck.vehicles()].count("hero") == 1
    assert len(duck.vehicles()) == 1 + 4
    env.close()
    (hero,) = duck.ours()
    assert hero.attributes["role_name"] == "hero"
    assert not duck.settings.synchronous_mode  # nobody was left who would have ticked it


def test_a_server_that_stands_still(duck: ducks.Server) -> None:
    """Somebody left it synchronous, on another map: loading ours would hang."""
    duck.settings.synchronous_mode, duck.settings.fixed_delta_seconds = True, 0.05
    duck.maps["Town03"] = "country_road"
    duck.load("Town03")
    env = make(duck)
    env.reset(seed=0)
    env.close()
    duck.untouched()


def test_settings_of_others_are_put_back(duck: ducks.Server) -> None:
    duck.settings.fixed_delta_seconds = 0.02
    duck.settings.no_rendering_mode = True
    before = ducks.settings_like(duck.settings)
    env = make(duck, camera="rgb")
    env.reset(seed=0)
    assert duck.settings != before
    env.close()
    assert duck.settings == before


CALLS = (
    "get_server_version", "get_world", "get_actors", "get_map", "get_available_maps", "get_settings",
    "get_weather", "apply_settings", "get_trafficmanager", "set_weather", "get_blueprint_library", "spawn",
    "get_physics_control", "listen", "set_autopilot", "apply_control", "tick", "get_snapshot", "stop",
    "apply_batch_sync",
)  # fmt: skip


def test_the_list_of_calls_is_complete(duck: ducks.Server) -> None:
    env = make(duck)
    drive(env, steps=2)
    env.reset(seed=1)
    env.close()
    assert set(duck.calls) == set(CALLS)


def test_a_version_without_a_sensor_of_lines(duck: ducks.Server) -> None:
    full = duck.library()
    with pytest.MonkeyPatch.context() as patch:
        few = ducks.Library(b for b in full if b.id != "sensor.other.lane_invasion")
        patch.setattr(duck, "library", lambda: few)
        env = make(duck)
        env.reset(seed=0)
        assert [sensor.type_id for sensor in duck.sensors("sensor")] == ["sensor.other.collision"]
        env.close()


@pytest.mark.parametrize(("call", "how"), [*itertools.product(CALLS, ("time-out", "error"))])
def test_any_call_may_fail(duck: ducks.Server, call: str, how: str) -> None:
    """One call fails once: the error says so, nothing of ours stays, and the next episode works."""
    duck.how = how
    env: CarlaDriverVectorEnv | None = None
    for count in (0, 1):  # its first and its second occurrence
        duck.fail, error = {call: count}, None
        try:
            env = env or make(duck, traffic=1)
            drive(env, steps=2)
            env.reset(seed=1)
        except InputError as raised:
            error = raised
        # Connecting is tried again, and a call that is made once only fails once.
        assert isinstance(error, ServerLost) or call == "get_server_version" or call in duck.fail
        if error is not None:
            assert str(duck.port) in str(error)
            duck.untouched()
        duck.fail = {}
        env = env or make(duck, traffic=1)
        drive(env, steps=1)
    assert env is not None
    env.close()
    duck.untouched()


def test_a_call_that_fails_while_closing(duck: ducks.Server) -> None:
    for call in ("stop", "apply_batch_sync", "set_weather", "apply_settings"):
        env = make(duck)
        env.reset(seed=0)
        duck.fail = {call: 0}
        env.close()
        assert not duck.settings.synchronous_mode  # the most important one is done all the same
        env = make(duck)  # and what was left behind is cleared away
        env.reset(seed=0)
        env.close()
        assert duck.ours() == []


def test_death_in_mid_episode(duck: ducks.Server, env: CarlaDriverVectorEnv) -> None:
    duck.fail, duck.how = {"tick": 13 + 5}, "death"
    with pytest.raises(
        ServerLost, match=rf"127\.0\.0\.1:{duck.port} does not answer.*launch-carla"
    ):
        drive(env)
    with pytest.raises(InputError, match="no CARLA server answers"):
        env.reset(seed=1)
    duck.boot()
    env.reset(seed=1)
    env.step(np.zeros((1, 2), np.float32))
    env.close()
    duck.untouched()


def test_another_client_that_ticks(duck: ducks.Server, env: CarlaDriverVectorEnv) -> None:
    env.reset(seed=0)
    duck.intruder = 1
    with pytest.raises(ServerLost, match="let no other client tick it"):
        env.step(np.zeros((1, 2), np.float32))
    duck.intruder = 0
    duck.untouched()


def test_the_ego_vehicle_vanishes(duck: ducks.Server, env: CarlaDriverVectorEnv) -> None:
    env.reset(seed=0)
    del duck.actors[duck.vehicles()[0].id]
    with pytest.raises(ServerLost, match="the ego vehicle is gone"):
        env.step(np.zeros((1, 2), np.float32))
    duck.untouched()


def test_ctrl_c_and_forgotten_environments(duck: ducks.Server) -> None:
    env = make(duck)
    env.reset(seed=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(duck, "advance", lambda: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            env.step(np.zeros((1, 2), np.float32))
    del env
    gc.collect()
    duck.untouched()


@pytest.mark.slow
def test_another_map_behind_our_back(duck: ducks.Server, env: CarlaDriverVectorEnv) -> None:
    env.reset(seed=0)
    duck.fail = {"tick": 0}
    with pytest.raises(ServerLost):
        env.step(np.zeros((1, 2), np.float32))
    ducks._MAPS.pop("Town07")
    duck.maps = {"Town07": "four_way_stop"}
    duck.load("Town07")
    try:
        with pytest.raises(InputError, match="another map"):
            env.reset(seed=1)
    finally:
        ducks._MAPS.pop("Town07")
    env.close()
    assert not duck.settings.synchronous_mode


def test_maps_and_vehicles_that_are_not_there(duck: ducks.Server) -> None:
    with pytest.raises(InputError, match=r"no map 'Town99': give map= one of Town07"):
        make(duck, map="Town99")
    duck.untouched()
    env = make(duck, server={"vehicle": "vehicle.moon.*"})
    with pytest.raises(
        InputError, match=r"no vehicle 'vehicle\.moon\.\*': give one of vehicle\.audi"
    ):
        env.reset(seed=0)
    env.close()
    duck.untouched()
    env = make(duck, server={"vehicle": "vehicle.audi.*"})
    env.reset(seed=0)
    assert duck.vehicles()[0].type_id == "vehicle.audi.tt"
    env.close()


def test_no_copies(duck: ducks.Server, env: CarlaDriverVectorEnv) -> None:
    with pytest.raises(InputError, match="cannot be copied"):
        copy.deepcopy(env)


@pytest.mark.slow
def test_the_other_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """0.10.0: other maps, vehicles and physics, no night, fewer calls."""
    import sys

    monkeypatch.setitem(sys.modules, "carla", ducks.module("0.10.0"))
    town = {"Town10HD_Opt": "country_road"}
    for duck in ducks.serve(version="0.10.0", town="Town10HD_Opt", maps=town):
        with pytest.warns(UserWarning, match="lacks 'Town07': driving 'Town10HD_Opt'"):
            env = make(duck)
        env.reset(seed=0, options={"sun_altitude_angle": -30.0})
        assert duck.weather.sun_altitude_angle == 10.0
        assert duck.vehicles()[0].type_id == "vehicle.dodge.charger"
        world: Any = env.world
        assert world.chassis.rear == pytest.approx(ducks.REAR, abs=1e-3)
        assert world.chassis.wheelbase == pytest.approx(ducks.WHEELBASE, abs=1e-3)
        info, _ = drive(env)
        assert VIOLATIONS[int(info["violation"][0])] == "none"
        env.close()
        duck.untouched()


def test_chassis_from_what_the_server_tells(duck: ducks.Server) -> None:
    can = TABLE["0.9.16"]
    car: Any = ducks.World(duck).try_spawn_actor(
        duck.library()[0],
        carla.Transform(carla.Location(3.0, 4.0, 0.0), carla.Rotation(yaw=40.0)),
    )
    for duck.unit in (100.0, 1.0):  # cm or m
        found = chassis_of(car, can)
        assert (found.rear, found.wheelbase) == pytest.approx((-1.45, 2.85), abs=2e-3)
        assert found.most == pytest.approx(np.radians(60.0))
        assert found.curve == ([0.0, 60.0, 120.0], pytest.approx([1.0, 0.8, 0.7]))
    duck.unit = 0.0  # no places at all: from the body, 4.8 m long about 0.05 m
    found = chassis_of(car, can)
    assert (found.rear, found.wheelbase) == pytest.approx((0.05 - 1.44, 2.88))
    for curve in ([(0, 1), (0, 0.5)], [(0, 1), (50, 1e9)], []):  # damaged
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ducks, "CURVE", [(float(x), float(y)) for x, y in curve])
            assert chassis_of(car, can).curve == ([0.0], [1.0])


def test_controls() -> None:
    chassis = Chassis(-1.45, 2.85, np.radians(60.0), ([0.0, 72.0], [1.0, 0.8]))
    control = chassis.control((0.01, 0.0), (20.0, 0.01, 0.0))
    assert control.steer == pytest.approx(np.arctan(0.0285) / np.radians(60.0) / 0.8)
    assert control.throttle == pytest.approx(0.02 * 20 / 4)
    assert chassis.control((0.0, -4.0), (20.0, 0.0, -4.0)).brake == pytest.approx(3.6 / 8)
    assert chassis.control((9.0, 9.0), (0.0, 0.0, 9.0)).steer == 1.0
    held = chassis.control((0.0, -1.0), (0.0, 0.0, 0.0))
    assert (held.throttle, held.brake) == (0.0, 0.5)
    # A car that turns half as far as it should is turned further.
    for _ in range(400):
        steer = chassis.control((0.01, 0.0), (20.0, 0.005, 0.0)).steer
    assert steer == pytest.approx(2 * np.arctan(0.0285) / np.radians(60.0) / 0.8, rel=0.05)
