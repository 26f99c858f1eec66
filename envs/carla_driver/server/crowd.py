"""The other vehicles of a server: where they come in, and where they are on our map."""

from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from steerlab.envs.carla_driver import traffic as others
from steerlab.envs.carla_driver.server.sensors import with_attributes
from steerlab.envs.carla_driver.server.session import ROLE, Session
from steerlab.envs.maps.road_map import RoadMap

if TYPE_CHECKING:
    import carla

UP = 0.4  # m above the road at which a vehicle comes in
ROOM = 12.0  # m between two that come in
NEAREST = 15.0  # m to the ego vehicle
TRIES = 4  # places that are tried for a vehicle
CANDIDATES = 8  # points of lanes that a vehicle may be on
TURN_COST, ROUTE_BONUS = 3.0, 0.7  # m that a radian of error counts, and that the route is ahead
#: Our kinds of vehicles by CARLA's base types.
KINDS = {"car": "car", "truck": "truck", "van": "van", "bus": "bus", "motorcycle": "motorcycle"}


class Crowd:
    """The vehicles that the traffic manager drives.

    Args:
        session: The world.
        road_map: Its map.
        rng: Chooses vehicles and places.
    """

    def __init__(self, session: Session, road_map: RoadMap, rng: np.random.Generator) -> None:
        self.session, self.road_map, self.rng = session, road_map, rng
        self.known: dict[int, tuple[float, float, int, float, float]] = {}
        drivable = np.repeat(road_map.drivable, np.diff(road_map.lane_start))
        self.points = np.flatnonzero(drivable)
        self.tree = cKDTree(road_map.points[self.points])
        self.owner = np.repeat(np.arange(road_map.lanes), np.diff(road_map.lane_start))
        self.speeds: dict[int, float] = {}

    def fill(
        self,
        roads: others.Roads,
        count: int,
        ego: "carla.Vehicle",
        lead: NDArray[np.float64] | None,
    ) -> None:
        """Let up to ``count`` vehicles come in; one that finds no room is left out.

        Args:
            roads: The map's tables, with places to come in.
            count: Number of vehicles.
            ego: The ego vehicle.
            lead: x, y, z, heading of the vehicle that is put ahead, or None.
        """
        blueprints = self._blueprints()
        here = ego.get_transform().location
        if not blueprints or not count:
            return
        places = self._places(roads, np.array([here.x, here.y]))
        if lead is not None:
            places.insert(0, lead[:4])
        taken: list[NDArray[np.float64]] = []
        tries = TRIES * count
        for place in places:
            if len(taken) == count or not tries:
                break
            if any(np.hypot(*(place[:2] - other[:2])) < ROOM for other in taken):
                continue
            tries -= 1
            blueprint = blueprints[int(self.rng.integers(len(blueprints)))]
            if self._come_in(blueprint, place):
                taken.append(place)

    def _blueprints(self) -> "list[carla.ActorBlueprint]":
        library = self.session.world.get_blueprint_library().filter("vehicle.*")
        found = [b for b in library if _attribute(b, "number_of_wheels", "4") == "4"]
        found.sort(key=lambda blueprint: blueprint.id)
        return [with_attributes(b, {"role_name": ROLE}) for b in found]

    def _places(self, roads: others.Roads, here: NDArray[np.float64]) -> list[NDArray[np.float64]]:
        """Return x, y, z, heading of places to come in, in the order in which they are tried."""
        road_map = self.road_map
        lanes, at = roads.spawn_lane, roads.spawn_s
        if not len(lanes):
            return []
        first = road_map.lane_start[lanes]
        steps = np.diff(road_map.lane_start)[lanes] - 1
        index = first + np.rint(at / road_map.lane_length[lanes] * steps).astype(int)
        away = np.linalg.norm(road_map.points[index, :2] - here, axis=1)
        near = index[(away > NEAREST) & (away < others.FAR)]
        table = np.column_stack([road_map.points, road_map.heading])
        return list(table[self.rng.permutation(near)])

    def _come_in(self, blueprint: "carla.ActorBlueprint", place: NDArray[np.float64]) -> bool:
        import carla

        x, y, z, heading = (float(value) for value in place)
        pose = carla.Transform(
            carla.Location(x=x, y=y, z=UP - z), carla.Rotation(yaw=float(np.degrees(heading)))
        )
        actor = self.session.world.try_spawn_actor(blueprint, pose)
        if actor is None:
            return False
        vehicle = cast("carla.Vehicle", actor)
        self.session.vehicles.append(vehicle)
        box, kind = vehicle.bounding_box, vehicle.attributes.get("base_type", "car").lower()
        size = (2 * box.extent.x, 2 * box.extent.y)
        number = others.KINDS.index(KINDS.get(kind, "car"))
        self.known[vehicle.id] = (*size, number, box.location.x, box.location.y)
        return True

    def start(self, roads: others.Roads, port: int, lead: float | None) -> None:
        """Let the vehicles drive, as fast as others do there.

        Args:
            roads: The map's tables.
            port: Of the traffic manager.
            lead: Speed of the first one, m/s, or None.
        """
        import carla

        for number, vehicle in enumerate(self.session.vehicles[1:]):
            pose = vehicle.get_transform()
            at = pose.location
            _, nearest = self.tree.query([at.x, at.y, -at.z])
            speed = 0.8 * float(roads.points[self.points[nearest], others.CRUISE])
            if number == 0 and lead is not None:
                speed = lead
            forward = pose.get_forward_vector()
            vehicle.set_target_velocity(
                carla.Vector3D(x=speed * forward.x, y=speed * forward.y, z=speed * forward.z)
            )
            vehicle.set_autopilot(True, port)

    def place(
        self,
        cars: NDArray[np.float64],
        snapshot: "carla.WorldSnapshot",
        roads: others.Roads,
        route: NDArray[np.integer[Any]],
    ) -> None:
        """Write where the vehicles are into the table of a row.

        Args:
            cars: The row's vehicles; number 0 is left alone.
            snapshot: Of the present tick.
            roads: The map's tables.
            route: Lanes of the ego vehicle's route.
        """
        cars[1:, others.LANE] = -1.0
        for number, (actor, known) in enumerate(self.known.items(), start=1):
            if not snapshot.has_actor(actor):
                self.speeds.pop(actor, None)
                continue
            seen = snapshot.find(actor)
            pose, velocity = seen.get_transform(), seen.get_velocity()
            forward, right = pose.get_forward_vector(), pose.get_right_vector()
            length, width, kind, ahead, aside = known
            car = cars[number]
            car[others.X] = pose.location.x + ahead * forward.x + aside * right.x
            car[others.Y] = pose.location.y + ahead * forward.y + aside * right.y
            car[others.Z] = -pose.location.z
            car[others.HEADING] = np.radians(pose.rotation.yaw)
            speed = max(velocity.x * forward.x + velocity.y * forward.y, 0.0)
            car[others.A] = (speed - self.speeds.get(actor, speed)) / others.DT
            car[others.V] = self.speeds[actor] = speed
            car[others.SIZE], car[others.WIDTH], car[others.KIND] = length, width, kind
            car[others.EAGER] = 1.0
            lane, s = self._lane(car, route)
            car[others.LANE], car[others.S] = lane, s
            car[others.AHEAD0 : others.AHEAD0 + others.AHEAD] = -1.0
            first, many = roads.links[lane, others.NEXT], roads.links[lane, others.NEXTS]
            if many == 1:  # where it may go two ways nobody knows which one it takes
                car[others.AHEAD0] = roads.following[first]

    def _lane(self, car: NDArray[np.float64], route: NDArray[np.integer[Any]]) -> tuple[int, float]:
        """Return the lane that a vehicle is on, and how far along it is, m."""
        road_map = self.road_map
        count = min(CANDIDATES, len(self.points))
        away, nearest = self.tree.query(car[[others.X, others.Y, others.Z]], k=count)
        index = self.points[np.atleast_1d(nearest)]
        turned = np.angle(np.exp(1j * (road_map.heading[index] - car[others.HEADING])))
        cost = np.atleast_1d(away) + TURN_COST * np.abs(turned)
        cost -= ROUTE_BONUS * np.isin(self.owner[index], route)
        point = index[int(cost.argmin())]
        off = car[[others.X, others.Y]] - road_map.points[point, :2]
        heading = road_map.heading[point]
        s = road_map.s[point] + off[0] * np.cos(heading) + off[1] * np.sin(heading)
        lane = int(self.owner[point])
        return lane, float(np.clip(s, 0.0, road_map.lane_length[lane]))


def _attribute(blueprint: "carla.ActorBlueprint", name: str, default: str) -> str:
    if not blueprint.has_attribute(name):
        return default
    return blueprint.get_attribute(name).as_str()
