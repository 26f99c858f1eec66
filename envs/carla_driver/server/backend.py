"""The backend that drives on a CARLA server.

The server moves the ego vehicle by the steering and pedals that it is sent, moves everybody else by its
traffic manager, runs the traffic lights and takes the pictures. Its map is fetched as OpenDRIVE text and
compiled as any other; routes, observations, reward, rules, labels and recording are those of the embedded
backend, over what is measured on the server. Delay, smoothing, limits and lag of the drawn vehicle act on
the commands before they are sent; its mass and pedal lags, and friction, are those of the server's car.
"""

import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from steerlab.envs.batch import Info, Rows
from steerlab.envs.cameras.geometry import NARROW, WIDE, Pinhole
from steerlab.envs.carla_driver import traffic as others
from steerlab.envs.carla_driver.recording import path_of
from steerlab.envs.carla_driver.scenarios import WEATHER, Scenario
from steerlab.envs.carla_driver.scene import Scene
from steerlab.envs.carla_driver.server.chassis import Chassis, chassis_of
from steerlab.envs.carla_driver.server.crowd import Crowd
from steerlab.envs.carla_driver.server.link import Link
from steerlab.envs.carla_driver.server.options import ServerOptions
from steerlab.envs.carla_driver.server.sensors import (
    Camera,
    Events,
    Frames,
    camera_blueprint,
    cameras_of,
    placed,
    with_attributes,
)
from steerlab.envs.carla_driver.server.session import ROLE, Session
from steerlab.envs.carla_driver.server.simulator import Measured, Motion
from steerlab.envs.carla_driver.windshield import Windshield, exposed
from steerlab.envs.carla_driver.world import PlaceTaken, Task, fastest_start
from steerlab.envs.kinematic_driver.dynamics import DT, State, lag
from steerlab.envs.kinematic_driver.reward import Reward
from steerlab.envs.kinematic_driver.roads import START
from steerlab.envs.kinematic_driver.simulator import Simulator
from steerlab.envs.labels.corridor import Path
from steerlab.envs.maps.opendrive import compile_text
from steerlab.envs.maps.road_map import SIGNAL_KINDS
from steerlab.errors import InputError
from steerlab.types import Bytes

if TYPE_CHECKING:
    import carla


#: Where the ego vehicle is tried to be put: m ahead of the route's start, and above the road.
PLACES = [(ahead, up) for ahead in (0.0, 4.0, 8.0) for up in (0.3, 0.8, 1.5)]
AXLE = 1.4  # m from the rear axle to the origin of a vehicle, before it is known
SETTLE = 12  # ticks in which a vehicle comes to rest on its wheels
LIGHT = SIGNAL_KINDS.index("traffic_light")
BEHIND, BEYOND = 10.0, 20.0  # m around the last place on the route, in which the car is looked for
SAME_PLACE = 1.0  # m between a landmark and the signal of the map that was made from it


@dataclass(frozen=True)
class ServerWindshield(Windshield):
    """Cameras whose pictures a server takes. They are those of the present tick, whatever the scene."""

    take: Callable[[], list[Bytes]] | None = None

    def pictures(self, scene: Scene, cameras: tuple[Pinhole, ...] = (NARROW, WIDE)) -> list[Bytes]:
        """Return what the cameras see, RGB (256, 512, 3) each."""
        assert self.take
        narrow, wide = (exposed(picture, scene.brightness) for picture in self.take())
        return [{NARROW: narrow, WIDE: wide}[camera] for camera in cameras]


class Server:
    """A CARLA server; see :class:`~world.World`. It has one row.

    Args:
        link: The server, which stays open after :meth:`close`, or options, by which one is opened here.
        scenario: What is driven.
        town: Map of the server; that of the scenario by default.
        cameras: Whether observations have pictures.

    Raises:
        InputError: There is no server, or its map does not do.
    """

    def __init__(
        self, link: Link | ServerOptions, scenario: Scenario, town: Any, cameras: bool
    ) -> None:
        owned = not isinstance(link, Link)
        self.link = link if isinstance(link, Link) else Link(link)
        self.scenario, self.town = scenario, town
        self.with_cameras = cameras or self.link.options.cameras
        self.session = Session(self.link)
        # Runs when the environment is closed or forgotten, at the latest when Python ends.
        self._finish = weakref.finalize(self, _finish, self.session, self.link if owned else None)
        try:
            server_map = self._enter()
            text = server_map.to_opendrive().encode()
            name = server_map.name.rpartition("/")[2]
            self.road_map = compile_text(text, name, f"{name} of the CARLA server")
        except BaseException:
            self.close()
            raise
        # Of the present episode.
        self.chassis: Chassis | None = None
        self.crowd: Crowd
        self.snapshot: carla.WorldSnapshot
        self.motion = Motion()
        self.lights: dict[int, carla.TrafficLight] = {}
        self._signals = np.zeros((0, 3), np.int64)
        self.frames: list[tuple[Camera, Frames]] = []
        self.hits, self.crossings = Events(), Events()
        self.crossed = 0
        self._path: Path | None = None

    def __getstate__(self) -> dict[str, Any]:
        raise InputError(
            "an environment on a CARLA server cannot be copied or pickled: make another one, on a server "
            "of its own"
        )

    def _enter(self) -> "carla.Map":
        asked = self.scenario.town if self.town is None else str(self.town)
        found = self.session.enter(asked, self.town is None, self.with_cameras)
        name = found.name.rpartition("/")[2]
        if name not in (asked, f"{asked}_Opt"):
            gym.logger.warn(
                f"the CARLA server {self.link.can.version} lacks {asked!r}: driving {name!r}"
            )
        self._landmarks = [
            (mark.id, np.array([at.x, at.y, -at.z]))
            for mark in found.get_all_landmarks_of_type("1000001")
            for at in [mark.transform.location]
        ]
        return found

    def make_simulator(
        self, compute: str, rows: int, steps: int, weights: Reward, threads: int, knots: int
    ) -> Simulator:
        """Return a simulator whose car the server moves."""
        return Measured(self._drive, steps, weights, knots)

    # One episode.

    def begin(
        self, task: Task, rows: NDArray[np.intp], own: Mapping[str, NDArray[np.float64]]
    ) -> None:
        """Put the ego vehicle, its sensors and the traffic into a clean world; let all come to rest."""
        values = {name: float(value[0]) for name, value in own.items()}
        self._count_episode()
        with self.session.careful():
            if not self.session.entered:
                self._enter_again()
            self.session.clear()
            world = self.session.world
            self._weather(values)
            self._path = path_of(task.routes, int(values["route"]))
            ego = self._spawn(task)
            self._attach(ego, values)
            rng = np.random.default_rng([int(values["traffic_seed"]), 6])
            manager = self.link.traffic_manager()
            manager.set_random_device_seed(int(values["traffic_seed"]))
            self.crowd = Crowd(self.session, self.road_map, rng)
            lead = values["lead_at"]
            at = None if lead < 0 else self._route_pose(task, lead)
            self.crowd.fill(task.tables[1], task.traffic, ego, at)
            self._find_lights(world)
            self._settle(task, ego, at is not None)

    def _count_episode(self) -> None:
        """Let a launched server that has had enough episodes be started again."""
        limit = self.link.options.restart_every
        if limit and self.link.episodes >= limit:
            self.session.leave()
            self.link.drop()
        self.link.episodes += 1

    def _enter_again(self) -> None:
        found = self._enter()
        name = found.name.rpartition("/")[2]
        text = found.to_opendrive().encode()
        if compile_text(text, name, name).hash != self.road_map.hash:
            raise InputError(
                f"the CARLA server now has another map ({name}): make the environment again"
            )

    def _weather(self, values: Mapping[str, float]) -> None:
        weather = self.session.world.get_weather()  # what is not drawn stays
        drawn = {name: values[name] for name in WEATHER}
        drawn["sun_altitude_angle"] = max(drawn["sun_altitude_angle"], self.link.can.lowest_sun)
        for name, value in drawn.items():
            setattr(weather, name, value)
        self.session.world.set_weather(weather)

    def _route_pose(self, task: Task, s: float) -> NDArray[np.float64]:
        """Return x, y, z, heading and slope of the route ``s`` m after its begin."""
        routes, route = task.routes, int(task.rows[0, others.ROUTE])
        at = float(np.clip(s / routes.spacing, 0, routes.knots - 1.001))
        first, second = routes.pose[route, int(at)], routes.pose[route, int(at) + 1]
        return np.asarray(first + (at - int(at)) * (second - first), float)

    def _spawn(self, task: Task) -> "carla.Vehicle":
        """Return the ego vehicle, put where the episode begins and there is room."""
        library = self.session.world.get_blueprint_library()
        blueprint = self._blueprint(library)
        offset, turned = float(task.simulator.state.d[0]), float(task.simulator.state.psi[0])
        for ahead, up in PLACES:
            x, y, z, heading, slope = self._route_pose(task, START + AXLE + ahead)
            pose = transform(
                x - offset * np.sin(heading), y + offset * np.cos(heading), z - up, heading + turned,
                -np.arctan(slope),
            )  # fmt: skip
            actor = self.session.world.try_spawn_actor(blueprint, pose)
            if actor is not None:
                vehicle = cast("carla.Vehicle", actor)
                self.session.vehicles.append(vehicle)
                return vehicle
        raise PlaceTaken(
            f"no room for the car where route {int(task.rows[0, others.ROUTE])} of map "
            f"{self.road_map.name!r} begins"
        )

    def _blueprint(self, library: "carla.BlueprintLibrary") -> "carla.ActorBlueprint":
        asked = self.link.options.vehicle
        patterns = self.link.can.vehicles if asked is None else (asked,)
        for pattern in patterns if asked is not None else (*patterns, "vehicle.*"):
            found = sorted(library.filter(pattern), key=lambda blueprint: blueprint.id)
            four = [b for b in found if _wheels(b) == 4]
            if four:
                return with_attributes(four[0], {"role_name": ROLE})
        known = sorted(b.id for b in library.filter("vehicle.*") if _wheels(b) == 4)
        raise InputError(
            f"the CARLA server has no vehicle {asked!r}: give one of {', '.join(known)}"
        )

    def _attach(self, ego: "carla.Vehicle", values: Mapping[str, float]) -> None:
        """Give the ego vehicle its sensors."""
        import carla

        self.chassis = chassis_of(ego, self.link.can)
        world, library = self.session.world, self.session.world.get_blueprint_library()
        self.hits, self.crossings, self.frames = Events(), Events(), []

        def add(blueprint: "carla.ActorBlueprint", pose: "carla.Transform", heard: Any) -> None:
            sensor = cast("carla.Sensor", world.spawn_actor(blueprint, pose, attach_to=ego))
            self.session.sensors.append(sensor)
            sensor.listen(heard)

        for name, events in (("collision", self.hits), ("lane_invasion", self.crossings)):
            for blueprint in library.filter(f"sensor.other.{name}"):  # some version may lack it
                blueprint = with_attributes(blueprint, {"role_name": ROLE})
                add(blueprint, carla.Transform(), events.put)
        if not self.with_cameras:
            return
        mount = Windshield(int(values["traffic_seed"]), {}).mount
        for camera in cameras_of(mount, self.link.options.sensors):
            frames = Frames(camera.name)
            self.frames.append((camera, frames))
            pose = placed(mount, camera, self.chassis.rear)
            add(camera_blueprint(library, camera), pose, frames.put)

    def _find_lights(self, world: "carla.World") -> None:
        """Find the server's light of each of the map's signals, by the landmark that both are made from."""
        found: list[carla.TrafficLight] = list(
            cast("Any", world.get_actors().filter("traffic.traffic_light*"))
        )
        actors = {light.get_opendrive_id(): light for light in found}
        road_map = self.road_map
        kinds = np.where(road_map.signal_kind == LIGHT, 2, road_map.signal_kind)  # 2 shows nothing
        self._signals = np.stack([kinds, 0 * kinds, 0 * kinds], axis=1).astype(np.int64)
        self.lights = {}
        if not (road_map.signal_kind == LIGHT).any() or not len(road_map.signal_kind):
            return
        for name, place in self._landmarks:
            away = np.linalg.norm(road_map.signal_position - place, axis=1)
            away[road_map.signal_kind != LIGHT] = np.inf
            nearest = int(away.argmin())
            light = actors.get(name)
            if light is not None and away[nearest] < SAME_PLACE:
                self.lights[nearest] = light

    def _settle(self, task: Task, ego: "carla.Vehicle", lead: bool) -> None:
        """Let all come to rest, then let them drive; take the car's place over into the simulator."""
        import carla

        ego.apply_control(carla.VehicleControl(brake=1.0))
        for _ in range(SETTLE):
            snapshot = self.session.tick()
        v = float(task.simulator.state.v[0])
        self._begin_at(task, snapshot)
        v = min(v, float(fastest_start(task.rows, np.array([0]))[0]))
        yaw = self.motion.yaw
        ego.apply_control(carla.VehicleControl())
        ego.set_target_velocity(carla.Vector3D(x=v * np.cos(yaw), y=v * np.sin(yaw), z=0.0))
        self.crowd.start(task.tables[1], self.link.traffic_port, v if lead else None)
        self._begin_at(task, self.session.tick())

    def _begin_at(self, task: Task, snapshot: "carla.WorldSnapshot") -> None:
        """Let the episode begin at what is measured now."""
        assert isinstance(task.simulator, Measured)
        self._measure(snapshot)
        task.simulator.begin_at(*self._locate(START), self.motion.v)
        self.hits.take()  # of wheels that met the ground
        self.crossings.take()
        self._fill(task, first=True)

    def _measure(self, snapshot: "carla.WorldSnapshot") -> None:
        """Keep where the ego vehicle is, and everybody else."""
        assert self.chassis
        ego = self.session.vehicles[0]
        if not snapshot.has_actor(ego.id):
            raise RuntimeError("the ego vehicle is gone")
        self.snapshot = snapshot
        self.motion = Motion.of(snapshot.find(ego.id), self.chassis.rear)

    def _locate(self, near: float) -> tuple[float, float, float]:
        """Return s, offset and heading error of the ego vehicle on its route."""
        assert self._path
        here = np.array([[self.motion.x, self.motion.y]])
        low, high = near - BEHIND, near + BEYOND
        s, d, psi = self._path.locate(here, np.array([self.motion.yaw]), low, high)
        return float(s[0]), float(d[0]), float(psi[0])

    # One tick.

    def _drive(
        self, old: State, vehicle: Any, shaped: tuple[Any, ...], delayed: Any
    ) -> dict[str, float]:
        """Send the commands of a tick, let it pass, and return what has become of the car."""
        assert self.chassis
        k_smooth, a_smooth, k_command = (float(part[0]) for part in shaped)
        share = float(lag(np, vehicle.actuator_lag)[0])
        k_actuator = float(old.k_actuator[0]) + share * (
            float(delayed[0]) - float(old.k_actuator[0])
        )
        v, k, a = (float(part[0]) for part in (old.v, old.k, old.a))
        with self.session.careful():
            control = self.chassis.control((k_actuator, a_smooth), (v, k, a))
            before = self.motion
            self.session.vehicles[0].apply_control(control)
            self._measure(self.session.tick())
        now = self.motion
        s, d, psi = self._locate(float(old.s[0]))
        way = DT * 0.5 * (before.v + now.v)
        turned = float(np.angle(np.exp(1j * (now.yaw - before.yaw))))
        return {
            "s": s, "d": d, "psi": psi, "v": now.v, "a": (now.v - before.v) / DT,
            # Standing still, a car has the curvature that its wheels are turned to.
            "k": turned / way if way > 0.5 * DT else k_actuator,
            "k_actuator": k_actuator, "k_command": k_command, "k_smooth": k_smooth,
            "a_smooth": a_smooth,
        }  # fmt: skip

    def step(self, task: Task) -> None:
        """Fill the tables from what was measured after the tick."""
        with self.session.careful():
            self._fill(task)

    def _fill(self, task: Task, first: bool = False) -> None:
        roads, ways = task.tables[1], task.tables[0]
        cars, row = task.cars[0], task.rows[0]
        state, route = task.simulator.state, int(row[others.ROUTE])
        s, d, psi, v = (float(part[0]) for part in (state.s, state.d, state.psi, state.v))
        self._look_at_lights()
        if first:
            row[others.NEXT_STOP] = 0.0
            cars[:], cars[:, others.LANE] = 0.0, -1.0
            cars[0, others.SIZE], cars[0, others.WIDTH] = others.EGO_LENGTH, others.EGO_WIDTH
            cars[0, others.V] = v
        else:
            row[others.CLOCK] += DT
        row[others.EVENT] = 0.0
        pieces = ways.piece_lane[route], ways.piece_other[route], ways.piece_at[route]
        others.place_ego(ways.pose[route], ways.spacing, cars, (s, d, psi, v))
        others.ego_lanes(*pieces, roads.links, cars, row, s + others.CENTRE)
        others.watch_signals(
            ways.stop_at[route], ways.stop_signal[route], self._signals, cars, row,
            s + others.CENTRE + 0.5 * others.EGO_LENGTH,
        )  # fmt: skip
        if first:
            row[others.EVENT] = 0.0
        self.crowd.place(cars, self.snapshot, roads, ways.piece_lane[route])
        others.look(*pieces, cars, row, s + others.CENTRE)
        row[others.STOP_GAP] = others.must_stop(
            roads.links, roads.sizes, roads.cross, roads.until, self._signals, cars, row, 0
        )
        near = row[others.STOP_GAP] < 12.0 or row[others.LEAD_GAP] < 12.0
        row[others.HELD] = 1.0 if first or near else 0.0
        if self.hits.take():
            row[others.EVENT] = others.COLLISION
        self.crossed = self.crossings.take()

    def _look_at_lights(self) -> None:
        import carla

        shown = {
            carla.TrafficLightState.Green: others.GREEN,
            carla.TrafficLightState.Yellow: others.YELLOW,
            carla.TrafficLightState.Red: others.RED,
        }
        for signal, light in self.lights.items():
            self._signals[signal, 0] = others.GIVEN + shown.get(light.get_state(), 0)

    # What is reported.

    def poses(self, task: Task, rows: NDArray[np.intp]) -> NDArray[np.float64]:
        """Return where the car was measured."""
        m = self.motion
        return np.array([[m.x, m.y, m.z, m.yaw, -np.tan(m.pitch), m.roll]])[: len(rows)]

    def signals(self, task: Task, row: int) -> NDArray[np.int64]:
        """Return what the server's lights show."""
        count = len(self._signals)
        return np.array([others.shows(self._signals, i, 0.0) for i in range(count)], np.int64)

    def windshield(self, row: int, seed: int, weather: dict[str, float]) -> Windshield:
        """Return the cameras of the server's car."""
        return ServerWindshield(seed, weather, take=self._pictures)

    def _pictures(self) -> list[Bytes]:
        """Return the model's frames of the present tick."""
        if not self.frames:
            raise InputError(
                "this environment has no cameras: make it with camera='rgb' or 'model', or with "
                "server={'cameras': True}"
            )
        with self.session.careful():
            patience = self.link.options.timeout
            now = self.snapshot.frame
            return [camera.model_frame(frames.at(now, patience)) for camera, frames in self.frames]

    def info(self, task: Task, rows: Rows) -> Info:
        """Return how many lane lines were crossed in the last step."""
        return {"lane_invasions": np.array([self.crossed], np.int32)[rows]}

    def close(self) -> None:
        """Give the server back as it was; end it if it was launched for this environment."""
        self._finish()


def _finish(session: Session, link: Link | None) -> None:
    session.leave()
    if link is not None:
        link.close()


def _wheels(blueprint: "carla.ActorBlueprint") -> int:
    if not blueprint.has_attribute("number_of_wheels"):
        return 4
    return blueprint.get_attribute("number_of_wheels").as_int()


def transform(x: float, y: float, z: float, heading: float, pitch: float) -> "carla.Transform":
    """Return a pose of ours (z down, rad) as CARLA's (z up, degrees)."""
    import carla

    return carla.Transform(
        carla.Location(x=float(x), y=float(y), z=float(-z)),
        carla.Rotation(pitch=float(np.degrees(pitch)), yaw=float(np.degrees(heading)), roll=0.0),
    )
