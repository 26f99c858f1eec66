"""A CARLA server in this process, as far as CARLA's client lets one be made.

Worlds, actors, sensors, snapshots and blueprints cannot be constructed outside of a server, so they are
duck types here. Everything that can be is the real thing: transforms, vectors, boxes, controls, settings,
weather, physics, commands, states of lights, and the map, which is a ``carla.Map`` of an OpenDRIVE text.
The server moves cars by a bicycle model of its own, and fails as it is told to.
"""

import fnmatch
import socket
import sys
import threading
import types
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from steerlab.envs.maps.procedural import draw
from steerlab.envs.maps.xodr import to_xodr

if TYPE_CHECKING:
    import carla
else:
    carla = pytest.importorskip("carla")

DT = 0.05
REAR, WHEELBASE, ANGLE = -1.45, 2.85, 60.0  # m, m, degrees: of the ego vehicle
CURVE = [(0.0, 1.0), (60.0, 0.8), (120.0, 0.7)]  # km/h, share
LATE = "time-out of 20000ms while waiting for the simulator, make sure the simulator is ready"
MISSING = ("Osm2Odr", "GearPhysicsControl")

CARS = {
    "vehicle.lincoln.mkz_2020": (4, "car"), "vehicle.audi.tt": (4, "car"),
    "vehicle.carlamotors.firetruck": (4, "truck"), "vehicle.yamaha.yzf": (2, "motorcycle"),
}  # fmt: skip
CARS_UE5 = {"vehicle.dodge.charger": (4, "car"), "vehicle.taxi.ford": (4, "car")}
CAMERA = (
    "image_size_x",
    "image_size_y",
    "fov",
    "sensor_tick",
    "motion_blur_intensity",
    "role_name",
)


@dataclass
class Attribute:
    value: str

    def as_int(self) -> int:
        return int(self.value)

    def as_str(self) -> str:
        return self.value


class Blueprint:
    def __init__(self, name: str, attributes: dict[str, str]) -> None:
        self.id, self.values = name, dict(attributes)

    def has_attribute(self, name: str) -> bool:
        return name in self.values

    def get_attribute(self, name: str) -> Attribute:
        return Attribute(self.values[name])

    def set_attribute(self, name: str, value: str) -> None:
        assert type(value) is str, f"{name}={value!r}: the client takes texts only"
        if name not in self.values:
            raise IndexError(f"blueprint '{self.id}' has no attribute '{name}'")
        self.values[name] = value


class Library(list[Blueprint]):
    def filter(self, pattern: str) -> "Library":
        return Library(b for b in self if fnmatch.fnmatch(b.id, pattern))

    def find(self, name: str) -> Blueprint:
        found = [b for b in self if b.id == name]
        if not found:
            raise IndexError(f"blueprint '{name}' not found")
        return found[0]


class Actors(list["Actor"]):
    def filter(self, pattern: str) -> "Actors":
        return Actors(a for a in self if fnmatch.fnmatch(a.type_id, pattern))


class Actor:
    def __init__(self, server: "Server", blueprint: Blueprint, pose: carla.Transform) -> None:
        self.server, self.type_id = server, blueprint.id
        self.attributes = dict(blueprint.values)
        server.last_id += 1
        self.id = server.last_id
        self.pose = pose
        server.actors[self.id] = self

    def get_transform(self) -> carla.Transform:
        return self.pose


class Light(Actor):
    """A traffic light that turns green, yellow and red, 4 s each."""

    def __init__(self, server: "Server", mark: carla.Landmark, number: int) -> None:
        super().__init__(server, Blueprint("traffic.traffic_light", {}), mark.transform)
        self.name, self.number = mark.id, number

    def get_opendrive_id(self) -> str:
        return self.name

    def get_state(self) -> carla.TrafficLightState:
        states = carla.TrafficLightState
        turn = (self.server.frame // 80 + self.number) % 3
        return [states.Green, states.Yellow, states.Red][turn]


class Vehicle(Actor):
    def __init__(self, server: "Server", blueprint: Blueprint, pose: carla.Transform) -> None:
        super().__init__(server, blueprint, pose)
        self.v, self.autopilot = 0.0, 0
        self.control = carla.VehicleControl()
        self.bounding_box = carla.BoundingBox(
            carla.Location(0.05, 0.0, 0.7), carla.Vector3D(2.4, 0.95, 0.7)
        )
        self.controls: list[carla.VehicleControl] = []

    def set_autopilot(self, enabled: bool, port: int) -> None:
        self.server.rpc("set_autopilot")
        assert enabled
        self.autopilot = port

    def apply_control(self, control: carla.VehicleControl) -> None:
        self.server.rpc("apply_control")
        assert 0 <= control.throttle <= 1
        assert 0 <= control.brake <= 1
        assert -1 <= control.steer <= 1
        self.control = control
        self.controls.append(control)

    def set_target_velocity(self, velocity: carla.Vector3D) -> None:
        self.v = float(np.hypot(velocity.x, velocity.y))

    def get_physics_control(self) -> Any:
        self.server.rpc("get_physics_control")
        return self.server.physics(self)

    def wheel_places(self) -> list[carla.Vector3D]:
        """Where the wheels are in the world, m."""
        return [
            self.pose.transform(carla.Location(a, b, 0.3))
            for a in (REAR + WHEELBASE, REAR)
            for b in (-0.8, 0.8)
        ]

    def move(self) -> None:
        """Advance by a tick."""
        if self.autopilot:
            self.follow()
            return
        pull = 4.0 * self.control.throttle - 8.0 * self.control.brake - 0.02 * self.v
        v = max(self.v + DT * pull, 0.0)
        share = float(np.interp(3.6 * v, *np.array(CURVE).T))
        bend = np.tan(self.control.steer * share * np.radians(ANGLE)) / WHEELBASE
        way, yaw = DT * 0.5 * (self.v + v), np.radians(self.pose.rotation.yaw)
        turned = yaw + 0.5 * way * bend
        new = yaw + way * bend
        x = self.pose.location.x + REAR * np.cos(yaw) + way * np.cos(turned) - REAR * np.cos(new)
        y = self.pose.location.y + REAR * np.sin(yaw) + way * np.sin(turned) - REAR * np.sin(new)
        self.v = v
        self.pose = carla.Transform(
            carla.Location(x, y, self.server.ground(x, y, self.pose.location.z)),
            carla.Rotation(yaw=float(np.degrees(new))),
        )

    def follow(self) -> None:
        """Go along the lane, at no less than 8 m/s."""
        self.v = max(self.v, 8.0)
        here = self.server.map.get_waypoint(self.pose.location)
        ahead = here.next(self.v * DT) if here else []
        self.v = self.v if ahead else 0.0
        if ahead:
            self.pose = ahead[0].transform


def colour(frame: int, narrow: bool) -> tuple[int, int, int]:
    """Return red, green and blue of all pixels of a tick's picture."""
    return 37 * frame % 256, frame // 256 % 256, 100 if narrow else 200


class Sensor(Actor):
    def __init__(
        self, server: "Server", blueprint: Blueprint, pose: carla.Transform, parent: Vehicle
    ) -> None:
        super().__init__(server, blueprint, pose)
        self.parent, self.heard, self.stopped = parent, None, False
        self.relative = pose

    heard: Callable[[Any], None] | None

    def listen(self, callback: Callable[[Any], None]) -> None:
        self.server.rpc("listen")
        self.heard = callback

    def stop(self) -> None:
        self.server.rpc("stop")
        self.heard, self.stopped = None, True

    def shoot(self, frame: int) -> None:
        """Take the picture of a tick, in a colour that tells which and whose."""
        if self.heard is None:
            return
        shape = (int(self.attributes["image_size_y"]), int(self.attributes["image_size_x"]), 4)
        pixels = np.empty(shape, np.uint8)
        pixels[:] = (*colour(frame, float(self.attributes["fov"]) < 45)[::-1], 255)
        image = types.SimpleNamespace(
            frame=frame, width=shape[1], height=shape[0], raw_data=pixels.tobytes(),
            fov=float(self.attributes["fov"]),
        )  # fmt: skip
        if self.server.delay:
            threading.Timer(self.server.delay, self.heard, (image,)).start()
        else:
            self.heard(image)


@dataclass(frozen=True)
class Seen:
    """An actor in a snapshot."""

    id: int
    pose: carla.Transform
    v: float

    def get_transform(self) -> carla.Transform:
        return self.pose

    def get_velocity(self) -> carla.Vector3D:
        forward = self.pose.get_forward_vector()
        return carla.Vector3D(self.v * forward.x, self.v * forward.y, self.v * forward.z)


class Snapshot:
    def __init__(self, frame: int, actors: list[Vehicle]) -> None:
        self.frame = frame
        self.seen = {a.id: Seen(a.id, a.pose, a.v) for a in actors}

    def has_actor(self, actor: int) -> bool:
        return actor in self.seen

    def find(self, actor: int) -> Seen:
        return self.seen[actor]


class Manager:
    def __init__(self, port: int) -> None:
        self.port, self.synchronous, self.seeds, self.shut = port, False, [], False

    seeds: list[int]

    def set_synchronous_mode(self, on: bool) -> None:
        self.synchronous = on

    def set_random_device_seed(self, seed: int) -> None:
        self.seeds.append(seed)

    def shut_down(self) -> None:
        self.shut = True


def settings_like(old: carla.WorldSettings) -> carla.WorldSettings:
    new = carla.WorldSettings()
    for name in (
        "synchronous_mode", "no_rendering_mode", "fixed_delta_seconds", "substepping",
        "max_substep_delta_time", "max_substeps", "max_culling_distance", "deterministic_ragdolls",
        "tile_stream_distance", "actor_active_distance", "spectator_as_ego",
    ):  # fmt: skip
        setattr(new, name, getattr(old, name))
    return new


class World:
    def __init__(self, server: "Server") -> None:
        self.server = server

    def get_settings(self) -> carla.WorldSettings:
        self.server.rpc("get_settings")
        return settings_like(self.server.settings)

    def apply_settings(self, settings: carla.WorldSettings) -> int:
        self.server.rpc("apply_settings")
        self.server.settings = settings_like(settings)
        return self.server.frame

    def get_weather(self) -> carla.WeatherParameters:
        self.server.rpc("get_weather")
        now, new = self.server.weather, carla.WeatherParameters()
        for name in ("cloudiness", "wetness", "sun_altitude_angle", "scattering_intensity"):
            setattr(new, name, getattr(now, name))
        return new

    def set_weather(self, weather: carla.WeatherParameters) -> None:
        self.server.rpc("set_weather")
        assert isinstance(weather, carla.WeatherParameters)
        self.server.weather = weather

    def get_map(self) -> carla.Map:
        self.server.rpc("get_map")
        return self.server.map

    def get_actors(self) -> Actors:
        self.server.rpc("get_actors")
        return Actors(self.server.actors.values())

    def get_blueprint_library(self) -> Library:
        self.server.rpc("get_blueprint_library")
        return self.server.library()

    def spawn_actor(
        self, blueprint: Blueprint, pose: carla.Transform, attach_to: Vehicle | None = None
    ) -> Actor:
        actor = self.try_spawn_actor(blueprint, pose, attach_to)
        if actor is None:
            raise RuntimeError("Spawn failed because of collision at spawn position")
        return actor

    def try_spawn_actor(
        self, blueprint: Blueprint, pose: carla.Transform, attach_to: Vehicle | None = None
    ) -> Actor | None:
        server = self.server
        server.rpc("spawn")
        if blueprint.id.startswith("sensor."):
            assert attach_to is not None
            return Sensor(server, blueprint, pose, attach_to)
        server.tried.append(pose)
        if server.blocked > 0:
            server.blocked -= 1
            return None
        if any(v.pose.location.distance(pose.location) < 5.0 for v in server.vehicles()):
            return None
        return Vehicle(server, blueprint, pose)

    def tick(self, seconds: float) -> int:
        server = self.server
        server.rpc("tick")
        if not server.settings.synchronous_mode:
            raise RuntimeError("tick() of a server that is not synchronous")
        assert server.settings.fixed_delta_seconds == DT
        server.advance()
        return server.frame

    def get_snapshot(self) -> Snapshot:
        self.server.rpc("get_snapshot")
        return Snapshot(self.server.frame + self.server.intruder, self.server.vehicles())


class Client:
    def __init__(self, host: str, port: int, worker_threads: int = 0) -> None:
        self.host, self.port = host, port
        self.timeout = 5.0

    @property
    def server(self) -> "Server":
        if self.port not in SERVERS:
            raise RuntimeError(LATE)
        return SERVERS[self.port]

    def set_timeout(self, seconds: float) -> None:
        self.timeout = seconds

    def get_client_version(self) -> str:
        return CLIENT_VERSION[0]

    def get_server_version(self) -> str:
        self.server.rpc("get_server_version")
        return self.server.version

    def get_available_maps(self) -> list[str]:
        self.server.rpc("get_available_maps")
        return [f"/Game/Carla/Maps/{name}" for name in self.server.maps]

    def get_world(self) -> World:
        self.server.rpc("get_world")
        return World(self.server)

    def load_world(self, name: str) -> World:
        self.server.rpc("load_world")
        assert not self.server.settings.synchronous_mode, "loading in synchronous mode hangs"
        self.server.load(name)
        return World(self.server)

    def get_trafficmanager(self, port: int) -> Manager:
        self.server.rpc("get_trafficmanager")
        self.server.managers.append(Manager(port))
        return self.server.managers[-1]

    def apply_batch_sync(self, commands: list[Any]) -> list[Any]:
        self.server.rpc("apply_batch_sync")
        for command in commands:
            assert isinstance(command, carla.command.DestroyActor)
            actor = self.server.actors.pop(command.actor_id, None)
            if isinstance(actor, Sensor) and actor.heard is not None:
                self.server.unstopped += 1
        return [types.SimpleNamespace(error="") for _ in commands]


SERVERS: dict[int, "Server"] = {}
CLIENT_VERSION = ["0.9.16"]


@dataclass
class Server:
    """One server, and how it is to fail.

    Attributes:
        fail: Name of a call to the number of calls after which it fails, once.
        how: What the failure is: ``time-out``, an ``error``, or ``death``, after which nothing answers.
        lose: Frames from now on that no camera delivers.
        delay: s by which pictures come late.
        blocked: Vehicles that find no room, from now on.
        intruder: Frames that somebody else ticks between two of ours.
    """

    town: str = "Town07"
    version: str = "0.9.16"
    maps: dict[str, str] = field(default_factory=lambda: {"Town07": "country_road"})
    port: int = 0
    fail: dict[str, int] = field(default_factory=dict)
    how: str = "time-out"
    lose: int = 0
    delay: float = 0.0
    blocked: int = 0
    intruder: int = 0
    unit: float = 100.0  # of wheels' places, from m

    def __post_init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.tried: list[carla.Transform] = []
        self.managers: list[Manager] = []
        self.last_id, self.unstopped = 0, 0
        self.actors: dict[int, Actor] = {}
        self.listener: socket.socket | None = None
        self.boot()

    def boot(self) -> None:
        """Start, or start again, with nothing of what was."""
        self.frame, self.dead = 1000, False
        self.settings = carla.WorldSettings()
        self.settings.max_culling_distance = 123.0  # something of a user's own
        self.weather = carla.WeatherParameters(cloudiness=7.0, scattering_intensity=1.0)
        self.actors.clear()
        self.load(self.town)
        self.listener = socket.socket()
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.bind(("127.0.0.1", self.port))
        self.listener.listen(64)
        self.port = self.listener.getsockname()[1]
        SERVERS[self.port] = self

    def shut(self) -> None:
        """End the process: nothing listens any more."""
        self.dead = True
        SERVERS.pop(self.port, None)
        if self.listener is not None:
            self.listener.close()

    def load(self, name: str) -> None:
        self.town = name.rpartition("/")[2]
        self.actors.clear()
        self.map = _map(self.town, self.maps[self.town])
        marks = {m.id: m for m in self.map.get_all_landmarks_of_type("1000001")}
        for number, mark in enumerate(marks.values()):
            Light(self, mark, number)

    def rpc(self, name: str) -> None:
        """Count a call; fail if it is time to."""
        if self.dead:
            raise RuntimeError(LATE)
        self.calls[name] += 1
        if name in self.fail:
            self.fail[name] -= 1
            if self.fail[name] < 0:
                del self.fail[name]
                if self.how == "death":
                    self.shut()
                raise RuntimeError("std::exception" if self.how == "error" else LATE)

    def vehicles(self) -> list[Vehicle]:
        return [actor for actor in self.actors.values() if isinstance(actor, Vehicle)]

    def ours(self) -> list[Actor]:
        """What was spawned: all but the lights."""
        return [actor for actor in self.actors.values() if not isinstance(actor, Light)]

    def sensors(self, kind: str) -> list[Sensor]:
        return [a for a in self.actors.values() if isinstance(a, Sensor) and kind in a.type_id]

    def ground(self, x: float, y: float, z: float) -> float:
        found = self.map.get_waypoint(carla.Location(x, y, z))
        return float(found.transform.location.z) if found else z

    def advance(self) -> None:
        self.frame += 1
        for vehicle in self.vehicles():
            vehicle.move()
        if self.lose:
            self.lose -= 1
            return
        for camera in self.sensors("camera"):
            camera.shoot(self.frame)

    def tell(self, kind: str) -> None:
        """Let the sensors of a kind report an event."""
        for sensor in self.sensors(kind):
            if sensor.heard:
                sensor.heard(types.SimpleNamespace(frame=self.frame))

    def physics(self, vehicle: Vehicle) -> Any:
        places = vehicle.wheel_places()
        angles = (ANGLE, ANGLE, 0.0, 0.0)
        curve: Any = [carla.Vector2D(x, y) for x, y in CURVE]
        if self.version == "0.10.0":  # another schema: no place under the old name
            wheels = [
                types.SimpleNamespace(max_steer_angle=angle, location=place, axle_type=0)
                for place, angle in zip(places, angles, strict=True)
            ]
            return types.SimpleNamespace(wheels=wheels, steering_curve=curve)
        return carla.VehiclePhysicsControl(
            steering_curve=curve,
            wheels=[
                carla.WheelPhysicsControl(
                    max_steer_angle=angle,
                    position=carla.Vector3D(
                        self.unit * place.x, self.unit * place.y, self.unit * place.z
                    ),
                )
                for place, angle in zip(places, angles, strict=True)
            ],
        )

    def library(self) -> Library:
        cars = CARS_UE5 if self.version == "0.10.0" else CARS
        found = Library()
        for name, (wheels, kind) in cars.items():
            attributes = {
                "number_of_wheels": str(wheels),
                "base_type": kind,
                "role_name": "autopilot",
            }
            found.append(Blueprint(name, attributes))
        found.append(Blueprint("sensor.camera.rgb", dict.fromkeys(CAMERA, "0")))
        for kind in ("collision", "lane_invasion"):
            found.append(Blueprint(f"sensor.other.{kind}", {"role_name": "front"}))
        return found

    def untouched(self) -> None:
        """Check that everything is as it was before anybody came."""
        assert self.ours() == []
        assert self.unstopped == 0
        fresh = carla.WorldSettings()
        fresh.max_culling_distance = 123.0
        assert self.settings == fresh
        assert self.weather.cloudiness == 7.0
        assert not any(manager.synchronous for manager in self.managers)


_MAPS: dict[str, carla.Map] = {}


def _map(town: str, drawing: str) -> carla.Map:
    if town not in _MAPS:
        _MAPS[town] = carla.Map(f"Carla/Maps/{town}", to_xodr(draw(drawing)))
    return _MAPS[town]


def module(version: str = "0.9.16") -> types.ModuleType:
    """Return what ``import carla`` gives: the real package, with the client of the tests."""
    fake = types.ModuleType("carla")
    fake.__spec__ = sys.modules["carla"].__spec__
    for name, value in vars(carla).items():
        if not name.startswith("__") and not (version == "0.10.0" and name in MISSING):
            setattr(fake, name, value)
    CLIENT_VERSION[0] = version
    vars(fake)["Client"] = Client
    return fake


def serve(**options: Any) -> Iterator[Server]:
    """Yield a server and shut it down afterwards."""
    server = Server(**options)
    try:
        yield server
    finally:
        server.shut()
