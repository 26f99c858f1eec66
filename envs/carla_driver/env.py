"""CarlaDriver-v0 as gymnasium environments."""

from collections.abc import Mapping
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from steerlab.envs.arguments import integer, time_limit
from steerlab.envs.batch import Info, Rows, SingleEnv, after_reset
from steerlab.envs.carla_driver import traffic as others
from steerlab.envs.carla_driver.cameras import Cameras
from steerlab.envs.carla_driver.embedded import Embedded
from steerlab.envs.carla_driver.routes import Routes, knots_for, routes_of
from steerlab.envs.carla_driver.scenarios import WEATHER, Scenario, as_scenario
from steerlab.envs.carla_driver.scene import Scene
from steerlab.envs.carla_driver.server.link import Link
from steerlab.envs.carla_driver.server.options import ServerOptions, as_options
from steerlab.envs.carla_driver.windshield import Windshield
from steerlab.envs.carla_driver.world import PLAN_BRAKING, STOP_MARGIN, PlaceTaken, World
from steerlab.envs.kinematic_driver import randomization, roads
from steerlab.envs.kinematic_driver.dynamics import DT, MAX_CURVATURE, encode_action
from steerlab.envs.kinematic_driver.env import LIMITS, KinematicDriverVectorEnv
from steerlab.envs.kinematic_driver.episodes import EPISODE
from steerlab.envs.kinematic_driver.numpy_backend import NUMPY
from steerlab.envs.kinematic_driver.observation import LAYOUT as KINEMATIC
from steerlab.envs.kinematic_driver.randomization import (
    INTERSECTION,
    LANE,
    NAMES,
    NONE,
    Ranges,
    check_pins,
)
from steerlab.envs.kinematic_driver.reward import Reward
from steerlab.envs.kinematic_driver.roads import Roads
from steerlab.envs.kinematic_driver.simulator import Simulator
from steerlab.envs.kinematic_driver.violations import VIOLATIONS as KINEMATIC_VIOLATIONS
from steerlab.envs.layout import Layout
from steerlab.envs.maps import load_map
from steerlab.envs.maps.road_map import RoadMap
from steerlab.errors import InputError, unknown_name
from steerlab.types import Bytes

#: How an episode can fail, by number; 0 means it did not.
VIOLATIONS = (*KINEMATIC_VIOLATIONS, "collision", "red_light", "stop_sign")
#: KinematicDriver's observation, then what is ahead: distances are 200 m where there is nothing.
LAYOUT = Layout(
    **{name: part.stop - part.start for name, part in KINEMATIC.slices.items()},
    lead_gap=1,  # m to the vehicle ahead on the path, bumper to bumper
    lead_speed=1,  # m/s
    stop_gap=1,  # m to where the car has to stop now, for a signal or to give way
    signal_gap=1,  # m to the next stop line
    signal=len(others.LIGHTS),  # what the signal there shows, one-hot
)
BACKENDS, CAMERAS = ("embedded", "server"), ("none", "rgb", "model")
ACTIONS = ("curvature", "pedals")

#: What an episode has besides KinematicDriver's values.
OWN = ("route", "traffic_seed", "signal_clock", "lead_at", *WEATHER)
#: Names that ``reset(options=...)`` can pin; the road decides on the others.
PINS = (
    *(name for name in NAMES if name not in ("kind", "lanes", "lane", "desire", "lane_width")),
    "route", "signal_clock", *WEATHER,
)  # fmt: skip
#: Entries of ``info`` about traffic and signals.
SEEN = {
    "lead_gap": others.LEAD_GAP, "lead_speed": others.LEAD_V, "lead_acceleration": others.LEAD_A,
    "stop_gap": others.STOP_GAP, "signal_gap": others.SIGNAL_GAP,
}  # fmt: skip
WHEELBASE, FULL_STEER = 2.7, np.arctan(2.7 * MAX_CURVATURE)  # m, rad of the wheels at steer 1
FOLLOW_MARGIN = 3.0  # m that the planned speed keeps from a car
DRAWS = 8  # episodes that are drawn until one finds room to begin


class CarlaDriverVectorEnv(KinematicDriverVectorEnv):
    """N cars on routes over a road map, among other vehicles, signals and weather.

    The car, its actuators, sensors, limits, reward and violations are KinematicDriver's.
    Observation (N, 224), float32: see :data:`LAYOUT`. Everything else is on the page
    ``docs/carla_driver.md``.

    Args:
        num_envs: Number of rows.
        scenario: Name of a scenario, path of a ``.yaml`` file, a mapping, or a :class:`Scenario`.
        map: Name of a shipped map or path of an ``.xodr`` file; that of the scenario by default. On a
            server: one of its maps.
        traffic: Number of other vehicles in a row; that of the scenario by default.
        actions: ``curvature`` for desired curvature and acceleration as in KinematicDriver, or
            ``pedals`` for steer in [-1, 1], throttle and brake in [0, 1].
        camera: ``none``: the state only. ``rgb`` and ``model`` make observations dictionaries of
            ``state`` and both windshield cameras: ``narrow`` and ``wide`` (256, 512, 3) RGB, or
            ``img`` and ``big_img`` (12, 128, 256) as openpilot's network takes them. They need the
            extra ``camera``.
        backend: ``embedded``: everything runs in this process. ``server``: a CARLA server moves the
            car and all others and takes the pictures, see ``docs/carla_server.md``.
        max_episode_steps: Length of an episode in steps of 0.05 s, from 10 to 4000; that of the
            scenario by default.
        ranges: Bounds of what is drawn of the car, as for KinematicDriver.
        noise: False gives perfect sensors and perfect, prompt vision.
        reward: Weights of the reward, as for KinematicDriver.
        autoreset_mode: See gymnasium.
        render_mode: ``rgb_array`` or ``human``: the scene from above.
        compute: ``numba`` (compiled loops), ``numpy``, or ``auto``, which is numba where it works.
        threads: Threads that share the rows of a compiled loop; all cores by default.
        server: Options of the backend ``server``: a mapping of those that differ from the defaults of
            :class:`~steerlab.envs.carla_driver.server.options.ServerOptions`; or a link to a server.

    Raises:
        InputError: An argument is out of range, the map does not offer what the scenario needs, or
            there is no server.
    """

    layout, violations = LAYOUT, VIOLATIONS
    reset_options = PINS
    uniforms = KinematicDriverVectorEnv.uniforms + len(OWN)

    def __init__(
        self,
        num_envs: int = 1,
        scenario: str | Path | Scenario | Mapping[str, Any] = "urban_intersection",
        map: str | Path | None = None,
        traffic: int | None = None,
        actions: str = "curvature",
        camera: str = "none",
        backend: str = "embedded",
        max_episode_steps: int | None = None,
        ranges: Ranges | Mapping[str, Any] | None = None,
        noise: bool = True,
        reward: Reward | Mapping[str, Any] | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        render_mode: str | None = None,
        compute: str = "auto",
        threads: int | None = None,
        server: Link | ServerOptions | Mapping[str, Any] | None = None,
    ) -> None:
        for name, value, known in (
            ("backend", backend, BACKENDS), ("camera", camera, CAMERAS), ("actions", actions, ACTIONS),
        ):  # fmt: skip
            if value not in known:
                raise unknown_name(name, str(value), known)
        self.backend, self.camera, self.actions = backend, camera, actions
        self.scenario = as_scenario(scenario)
        self.map = map
        self.steps = time_limit(max_episode_steps, self.scenario.steps, *LIMITS)
        count = self.scenario.traffic if traffic is None else traffic
        self.traffic = integer("traffic", count, 0, 100)
        self.compute = compute
        if server is not None and backend != "server":
            raise InputError(f"server= is for backend='server', not for {backend!r}: leave it out")
        if backend == "server" and num_envs != 1:
            raise InputError(
                f"num_envs={num_envs}: a CARLA server has one environment; use a vector of "
                "processes, each with a server on a port of its own"
            )
        self.server = server if isinstance(server, Link) else as_options(server)
        self.world = self._make_world()
        self.road_map = self.world.road_map
        try:
            _ = self.routes  # made before anything else, so that a map that does not fit is refused
            super().__init__(
                num_envs, self.steps, ranges, noise, reward, autoreset_mode, render_mode, "bird",
                compute, threads,
            )  # fmt: skip
        except BaseException:
            self.world.close()
            raise
        self.cars, self.rows = others.empty(self.num_envs, self.traffic + 1)
        self._wish = np.zeros(self.num_envs, np.intp)  # number of the row's desire on its route
        self.own = np.zeros((len(OWN), self.num_envs), np.float32)
        self._shields: dict[int, Windshield] = {}
        self.cameras = None if camera == "none" else Cameras(self, camera)
        if self.cameras is not None:
            self.single_observation_space = self.cameras.space(self.single_observation_space)
            self.observation_space = batch_space(self.single_observation_space, self.num_envs)

    def _make_world(self) -> World:
        if self.backend == "embedded":
            return Embedded(load_map(self.scenario.map if self.map is None else self.map))
        from steerlab.envs.carla_driver.server.backend import Server

        return Server(self.server, self.scenario, self.map, self.camera != "none")

    def _make_simulator(self, backend: str, steps: int) -> Simulator:
        return self.world.make_simulator(
            backend, self.num_envs, steps, self.weights, self.threads, self._knots()
        )

    # What follows from the arguments is left out of copies and pickles, and made again.

    @cached_property
    def routes(self) -> Routes:
        """The routes that episodes are driven on."""
        return routes_of(self.road_map, self.scenario, self.steps)

    @cached_property
    def tables(self) -> tuple[others.Ways, others.Roads]:
        """Routes and map as the loops over traffic take them."""
        return others.ways_of(self.routes), others.roads_of(self.road_map)

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        kept = {name: part for name, part in state.items() if name not in ("routes", "tables")}
        return kept | {"_shields": {}}  # made again from the episode's values

    def _action_space(self) -> gym.spaces.Box:
        low = [-1.0, -1.0] if self.actions == "curvature" else [-1.0, 0.0, 0.0]
        return gym.spaces.Box(np.array(low, np.float32), np.ones(len(low), np.float32))

    def _knots(self) -> int:
        return knots_for(self.scenario, self.steps)[0]

    @after_reset
    def preview(self, distances: Any) -> dict[str, NDArray[np.float32]]:
        """Return the true path at ``distances`` (M,) or (N, M), in m ahead of each car.

        Returns:
            ``curvature`` (1/m) and ``planned_speed`` (m/s), each (N, M). The planned speed stops for
            signals and whoever has priority, and does not run into the vehicle ahead.
        """
        seen = super().preview(distances)
        ahead = np.broadcast_to(np.asarray(distances, float), seen["curvature"].shape)
        stop_gap, lead_gap, lead_v = (
            self.rows[:, column] for column in (others.STOP_GAP, others.LEAD_GAP, others.LEAD_V)
        )
        line = np.maximum(stop_gap - STOP_MARGIN, 0.0)[:, None] - ahead
        stop = np.where(stop_gap[:, None] < others.NOTHING, line, np.inf)
        own = self.simulator.state.v.astype(float)
        room = lead_gap - FOLLOW_MARGIN - others.TIME_GAP * np.minimum(own, lead_v)
        follow = np.where(
            lead_gap[:, None] < others.NOTHING,
            lead_v[:, None] ** 2 + 2 * PLAN_BRAKING * (room[:, None] - ahead),
            np.inf,
        )
        square = np.maximum(np.minimum(2 * PLAN_BRAKING * stop, follow), 0.0)
        seen["planned_speed"] = np.minimum(seen["planned_speed"], np.sqrt(square)).astype(
            np.float32
        )
        return seen

    @after_reset
    def scene(self, row: int) -> Scene:
        """Return the true state of everything in a row: what cameras and labels are made from."""
        return self._scene(row)

    def _scene(self, row: int) -> Scene:
        sim, cars, now = self.simulator, self.cars[row], self.rows[row]
        there = np.flatnonzero(cars[1:, others.LANE] >= 0) + 1
        vehicles = np.zeros((len(there), 6))
        vehicles[:, [0, 1, 2, 5]] = cars[there, :4]
        for i, vehicle in enumerate(there):
            s, slope = _slope(self.road_map, int(cars[vehicle, others.LANE]))
            vehicles[i, 4] = -np.arctan(np.interp(cars[vehicle, others.S], s, slope))
        x, y, z, yaw, slope, roll = self.world.poses(self, np.array([row]))[0]
        lead = int(now[others.LEAD])
        return Scene(
            road_map=self.road_map,
            ego=np.array([x, y, z, roll, -np.arctan(slope), yaw]),
            ego_speed=float(sim.state.v[row]),
            ego_acceleration=float(sim.state.a[row]),
            ego_curvature=float(sim.state.k[row]),
            route_s=float(sim.state.s[row]),
            route=int(now[others.ROUTE]),
            desire=int(self._desires(np.array([row]))[0]),
            vehicles=vehicles,
            vehicle_sizes=cars[there][:, [others.SIZE, others.WIDTH]],
            vehicle_kinds=cars[there, others.KIND].astype(np.int8),
            vehicle_speeds=cars[there, others.V],
            vehicle_accelerations=cars[there, others.A],
            vehicle_ids=there,
            lead=int(np.flatnonzero(there == lead)[0]) if lead in there else -1,
            lead_gap=float(now[others.LEAD_GAP]),
            signals=self.world.signals(self, row),
            weather={name: float(self.own[OWN.index(name), row]) for name in WEATHER},
            brightness=float(sim.episode["brightness"][row]),
            time=float(sim.time[row]) * DT,
        )

    def make_episodes(
        self, uniforms: NDArray[np.float64], pins: Mapping[str, Any]
    ) -> tuple[NDArray[np.float32], Roads]:
        """Return N episodes, made from uniform numbers: a table of parameters (P, N), and their roads.

        Args:
            uniforms: Numbers in [0, 1), (N, ``self.uniforms``).
            pins: Parameters that have the given value, instead of the drawn one.
        """
        base, drawn = np.split(uniforms, [KinematicDriverVectorEnv.uniforms], axis=1)
        u = dict(zip(OWN, drawn.T, strict=True))
        named = {name: value for name, value in pins.items() if name in NAMES}
        values = randomization.draw(self.ranges, base[:, : randomization.UNIFORMS], named)
        own = self._own(u, pins)
        route = own["route"].astype(np.intp)
        if "cruise_speed" not in pins:
            low, high = self.scenario.speed
            column = base[:, NAMES.index("cruise_speed")]
            values["cruise_speed"] = (low + (high - low) * column).astype(np.float32)
        made = self._roads(values, route)
        turns = np.isin(
            self.routes.desire[route], (randomization.TURN_LEFT, randomization.TURN_RIGHT)
        )
        values["kind"] = np.where(turns.any(axis=1), INTERSECTION, LANE).astype(np.int32)
        values["desire"] = np.maximum(self.routes.desire[route, 0], NONE)
        values["lanes"], values["lane"] = np.ones((2, len(route)), np.int32)
        if "start_heading" not in pins:
            values["start_heading"] = roads.recoverable_heading(values, made)
        values |= made.scalars
        values["spacing"], values["end"] = made.spacing, made.end
        values["noise_start"] = np.floor(base[:, -2] * 65536)
        values["noise_stride"] = 2 * np.floor(base[:, -1] * 2048) + 1
        rows = [*(values[name] for name in EPISODE), *(own[name] for name in OWN)]
        return np.stack(rows).astype(np.float32), made

    def _own(
        self, u: Mapping[str, NDArray[np.float64]], pins: Mapping[str, Any]
    ) -> dict[str, NDArray[np.float64]]:
        """Return what an episode has besides KinematicDriver's values, each (n,)."""
        count = len(self.routes.end)
        lead = self.scenario.lead
        own = {
            "route": np.floor(u["route"] * count),
            "traffic_seed": 1 + np.floor(u["traffic_seed"] * (1 << 23)),
            "signal_clock": u["signal_clock"] * 2 * others.PHASE,
            "lead_at": -1.0 + 0 * u["lead_at"],
        }
        if lead is not None:
            own["lead_at"] = roads.START + lead[0] + (lead[1] - lead[0]) * u["lead_at"]
        for name, (low, high) in self.scenario.weather.items():
            own[name] = low + (high - low) * u[name]
        own |= {name: 0 * u[name] + pins[name] for name in OWN if name in pins}
        return own

    def _roads(self, values: randomization.Values, route: NDArray[np.intp]) -> Roads:
        """Return the roads of ``route`` (n,) for cars with these values."""
        routes, spacing = self.routes, self.routes.spacing
        view = routes.view[route]
        view[:, :, 4::2] += values["shoulder"][:, None, None]
        kappa, slope = routes.curvature[route], routes.slope[route]
        s = (spacing * np.arange(routes.knots)).astype(np.float32)[None]
        top = np.minimum(routes.limit[route], values["cruise_speed"][:, None])
        plan = np.empty((*kappa.shape, 4), np.float32)
        roads.with_slopes(
            plan, (kappa, roads.plan_speed(values, kappa, slope, s, top)), np.float32(spacing)
        )
        first = routes.desire_at[route, 0]
        scalars = {
            "desire_from": first[:, 0].astype(np.float32),
            "desire_to": np.where(np.isfinite(first[:, 1]), first[:, 1], -np.inf).astype(
                np.float32
            ),
            "oncoming": np.full(len(route), np.inf, np.float32),
        }
        distance = np.full(len(route), spacing, np.float32)
        return Roads(distance, view, plan, routes.end[route].astype(np.float32), scalars)

    def _pins(self, options: dict[str, Any], rows: int) -> dict[str, NDArray[Any]]:
        mine = {name: options[name] for name in options if name in OWN}
        pins = check_pins({n: v for n, v in options.items() if n not in mine}, rows)
        for name, given in mine.items():
            low, high = WEATHER.get(name, (0.0, 2 * others.PHASE))
            if name == "route":
                high = len(self.routes.end) - 1
            value = np.asarray(given)
            if value.shape not in ((), (rows,)):
                raise InputError(
                    f"options[{name!r}] has shape {value.shape}; give one value or one for each of "
                    f"the {rows} rows that are reset"
                )
            if value.dtype.kind not in "biuf" or not ((value >= low) & (value <= high)).all():
                raise InputError(f"options[{name!r}]={given!r} must be within [{low:g}, {high:g}]")
            pins[name] = np.floor(value) if name == "route" else value
        return pins

    def _reset(self, rows: Rows, options: dict[str, Any]) -> None:
        for left in reversed(range(DRAWS)):
            try:
                return super()._reset(rows, options)
            except PlaceTaken:
                if not left:
                    raise

    def _start(self, rows: NDArray[np.intp], episode: NDArray[np.float32], made: Roads) -> None:
        super()._start(rows, episode[: len(EPISODE)], made)
        self.own[:, rows] = episode[len(EPISODE) :]
        own = dict(zip(OWN, self.own[:, rows].astype(float), strict=True))
        for column, name in (
            (others.ROUTE, "route"), (others.RANDOM, "traffic_seed"), (others.CLOCK, "signal_clock"),
        ):  # fmt: skip
            self.rows[rows, column] = own[name]
        self._wish[rows] = 0
        for row in rows.tolist():
            self._shields.pop(row, None)
        if self.cameras is not None:
            self.cameras.begin(rows)
        self.world.begin(self, rows, own)

    def _step(
        self, rows: Rows, actions: NDArray[Any]
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_]]:
        sim = self.simulator
        if self.actions == "pedals":
            actions = pedals_to_actions(actions, sim.state.v)
        reward, terminated, truncated = super()._step(rows, actions)
        self.world.step(self)
        event = self.rows[:, others.EVENT]
        new = (event > 0) & ~terminated
        sim.violation[new] = event[new]
        if self.weights.shaping:
            # The reward was that of an episode that goes on: take back the potential behind it.
            reward[new] -= self.weights.discount * sim.potential[new].astype(np.float64)
        truncated &= ~new | (sim.time >= sim.max_steps)
        sim.stalled[self.rows[:, others.HELD] > 0] = 0.0
        self._wish_on()
        return reward, terminated | new, truncated

    def _wish_on(self) -> None:
        """Go on to the next desire of the route where the present one is over."""
        over = np.flatnonzero(self.simulator.state.s > self.simulator.episode["desire_to"])
        route = self._route(over)
        more = over[self.routes.desire[route, np.minimum(self._wish[over], 0)] >= 0]
        if not more.size:
            return
        self._wish[more] = np.minimum(self._wish[more] + 1, self.routes.desire.shape[1] - 1)
        route, wish = self._route(more), self._wish[more]
        begin, end = self.routes.desire_at[route, wish].T
        episode = self.simulator.episode
        episode["desire"][more] = np.maximum(self.routes.desire[route, wish], NONE)
        episode["desire_from"][more] = begin
        # Behind the last one there is none, and nothing to go on to.
        episode["desire_to"][more] = end

    def _route(self, rows: NDArray[np.intp]) -> NDArray[np.intp]:
        return self.rows[rows, others.ROUTE].astype(np.intp)

    def _desires(self, rows: NDArray[np.intp]) -> NDArray[np.int64]:
        episode, s = self.simulator.episode, self.simulator.state.s[rows]
        wanted = (s >= episode["desire_from"][rows]) & (s <= episode["desire_to"][rows])
        return np.where(wanted, episode["desire"][rows], NONE).astype(np.int64)

    @after_reset
    def windshield(self, row: int) -> Windshield:
        """Return how the cameras of a row are mounted and how its world looks in this episode."""
        if row not in self._shields:
            weather = {name: float(self.own[OWN.index(name), row]) for name in WEATHER}
            seed = int(self.own[OWN.index("traffic_seed"), row])
            self._shields[row] = self.world.windshield(row, seed, weather)
        return self._shields[row]

    @after_reset
    def planes(self, row: int) -> tuple[Bytes, Bytes]:
        """Return what openpilot's network takes of this moment, narrow and wide (6, 128, 256)."""
        return self.windshield(row).planes(self._scene(row))

    def _observe(self, rows: Rows) -> Any:
        state = self._states(rows)
        return (
            state if self.cameras is None else self.cameras.observe(self.row_indices(rows), state)
        )

    def _states(self, rows: Rows) -> NDArray[np.float32]:
        indices, mine = self.row_indices(rows), self.rows[rows]
        out = np.zeros((len(indices), LAYOUT.size), np.float32)
        out[:, : KINEMATIC.size] = KinematicDriverVectorEnv._observe(self, rows)
        gaps = [others.LEAD_GAP, others.LEAD_V, others.STOP_GAP, others.SIGNAL_GAP]
        out[:, KINEMATIC.size : LAYOUT["signal"].start] = mine[:, gaps]
        light = mine[:, others.LIGHT].astype(np.intp)
        out[np.arange(len(indices)), LAYOUT["signal"].start + light] = 1.0
        return out

    def _info(self, rows: Rows) -> Info:
        info = super()._info(rows)
        pose = self.world.poses(self, self.row_indices(rows)).T
        info |= dict(zip(("x", "y", "z", "yaw", "slope"), pose, strict=False))
        info |= {"desire": self._desires(self.row_indices(rows)).astype(np.int32)}
        now = self.rows[rows].T.copy()
        info |= {name: now[column] for name, column in SEEN.items()}
        own = self.own[:, rows].copy()
        info |= {name: own[OWN.index(name)] for name in WEATHER}
        for name, column in (("route", others.ROUTE), ("light", others.LIGHT)):
            info[name] = now[column].astype(np.int32)
        return info | self.world.info(self, rows)

    def close_extras(self, **kwargs: Any) -> None:
        """Close the window and what the backend holds."""
        super().close_extras(**kwargs)
        self.world.close()

    def _picture(self, row: int) -> NDArray[np.uint8]:
        from steerlab.envs.carla_driver.render import draw

        above = draw(self._scene(row), self.routes, VIOLATIONS[int(self.simulator.violation[row])])
        return above if self.cameras is None else self.cameras.picture(row, above)


@lru_cache(maxsize=4096)
def _slope(road_map: RoadMap, lane: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the arc length (m) and the slope (down) at each point of a lane."""
    part = road_map.lane(lane)
    return road_map.s[part], np.gradient(road_map.points[part, 2], road_map.s[part])


def pedals_to_actions(actions: NDArray[np.float32], v: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return KinematicDriver's actions (N, 2) for steer, throttle and brake (N, 3) at speeds v (N,).

    The wheels turn by ``steer`` times 28 degrees, which is the tightest curvature of the vehicle; the
    brake takes the throttle's place as soon as it is pressed.
    """
    steer = np.clip(actions[:, 0], -1, 1)
    throttle, brake = np.clip(actions[:, 1], 0, 1), np.clip(actions[:, 2], 0, 1)
    curvature = np.tan(FULL_STEER * steer) / WHEELBASE
    share, _ = encode_action(NUMPY, curvature, 0 * v, v)
    return np.stack([share, np.where(brake > 0, -brake, throttle)], 1).astype(np.float32)


class CarlaDriverEnv(SingleEnv):
    """One car; see :class:`CarlaDriverVectorEnv` for the task and its arguments."""

    batch_type = CarlaDriverVectorEnv
