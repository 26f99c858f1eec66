"""The world of a server while it is in our hands, and how it was before.

Between :meth:`Session.enter` and :meth:`Session.leave` the server is synchronous at 20 Hz, its traffic
manager too, and all that was spawned is known, so that it can be destroyed.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

from steerlab.envs.carla_driver.server.connection import ServerLost, talking
from steerlab.envs.carla_driver.server.link import Link
from steerlab.envs.kinematic_driver.dynamics import DT
from steerlab.errors import InputError

if TYPE_CHECKING:
    import carla

ROLE = "steerlab"  # role_name of all that we spawn
LOADING = 120.0  # s that the server may take for a map
BRIEF = 2.0  # s for an answer while cleaning up, once one has not come
SUBSTEP, SUBSTEPS = 0.01, 10  # s, of the server's physics: together no less than a tick


class Session:
    """A server's world, taken over and given back.

    Args:
        link: The connection.
    """

    def __init__(self, link: Link) -> None:
        self.link = link
        self._world: carla.World | None = None
        self._before: tuple[carla.WorldSettings, carla.WeatherParameters] | None = None
        self.vehicles: list[carla.Vehicle] = []
        self.sensors: list[carla.Sensor] = []

    @property
    def world(self) -> "carla.World":
        """The world; the session has been entered."""
        assert self._world
        return self._world

    @property
    def entered(self) -> bool:
        """Whether the world is in our hands."""
        return self._world is not None

    @contextmanager
    def careful(self) -> Iterator[None]:
        """Give the server up if it fails during the block: what can be put right is put right first.

        Raises:
            ServerLost: It failed. The next :meth:`enter` connects, or launches, again.
        """
        try:
            with talking(*self.link.where):
                yield
        except ServerLost:
            self.leave()
            self.link.drop()
            raise

    def enter(self, town: str, substitute: bool, rendering: bool) -> "carla.Map":
        """Take the world over, on a map, and return the map.

        Args:
            town: Name of the map.
            substitute: Whether another map may take its place on a version that lacks it.
            rendering: Whether there will be cameras.

        Raises:
            InputError: There is no server, or no such map.
        """
        client = self.link.open()
        with self.careful():
            world = client.get_world()
            self._clear(client, world)
            road_map = world.get_map()
            name = self._choose(client, town, substitute)
            if _short(road_map.name) != name:
                client.set_timeout(max(self.link.options.timeout, LOADING))
                world = client.load_world(name)
                client.set_timeout(self.link.options.timeout)
                road_map = world.get_map()
            before, settings = world.get_settings(), world.get_settings()
            self._world, self._before = world, (before, world.get_weather())
            settings.synchronous_mode, settings.fixed_delta_seconds = True, DT
            settings.substepping = True
            settings.max_substep_delta_time, settings.max_substeps = SUBSTEP, SUBSTEPS
            settings.no_rendering_mode = not rendering
            world.apply_settings(settings)
            self.link.traffic_manager().set_synchronous_mode(True)
        return road_map

    def _choose(self, client: "carla.Client", town: str, substitute: bool) -> str:
        """Return the name of the map that the server has for ``town``."""
        names = sorted({_short(path) for path in client.get_available_maps()})
        for name in (town, f"{town}_Opt"):
            if name in names:
                return name
        other = self.link.can.substitute
        if substitute and other in names:
            return str(other)
        raise InputError(
            f"the CARLA server {self.link.can.version} has no map {town!r}: give map= one of "
            f"{', '.join(names)}, or install the release's additional maps"
        )

    def _clear(self, client: "carla.Client", world: "carla.World") -> None:
        """Put right what an earlier run left behind.

        Whoever made the server synchronous ticks it no more, as we hold it: it would stand still.
        """
        import carla

        settings = world.get_settings()
        if settings.synchronous_mode:
            settings.synchronous_mode, settings.fixed_delta_seconds = False, None
            world.apply_settings(settings)
        everyone: list[carla.Actor] = list(cast("Any", world.get_actors()))
        left = [actor for actor in everyone if actor.attributes.get("role_name") == ROLE]
        left.sort(key=lambda actor: not actor.type_id.startswith("sensor."))
        if left:
            client.apply_batch_sync([carla.command.DestroyActor(actor.id) for actor in left])

    def tick(self) -> "carla.WorldSnapshot":
        """Advance the world by one step and return what is in it then.

        Raises:
            ServerLost: The server does not answer, or somebody else ticks it, too.
        """
        patience = self.link.options.timeout
        frame = self.world.tick(patience)
        end = time.monotonic() + patience
        snapshot = self.world.get_snapshot()
        while snapshot.frame < frame and time.monotonic() < end:
            time.sleep(1e-3)
            snapshot = self.world.get_snapshot()
        if snapshot.frame != frame:
            host, port = self.link.where
            raise ServerLost(
                f"the CARLA server at {host}:{port} shows frame {snapshot.frame} after tick {frame}: let "
                "no other client tick it"
            )
        return snapshot

    def clear(self) -> None:
        """Destroy all that we spawned: sensors first, and stopped before."""
        for sensor in self.sensors:
            sensor.stop()
        self._destroy()

    def _destroy(self) -> None:
        import carla

        ids = [actor.id for actor in (*self.sensors, *self.vehicles)]
        if ids:
            self.link.open().apply_batch_sync([carla.command.DestroyActor(i) for i in ids])
        self.sensors, self.vehicles = [], []

    def leave(self) -> None:
        """Destroy what is ours and put the settings back; a server that is gone is let go."""
        world, before = self._world, self._before
        if world is None or before is None:
            return
        self._world = self._before = None
        done = [
            *[self._twice(sensor.stop) for sensor in self.sensors],
            self._twice(self._destroy),
            self._twice(lambda: self.link.traffic_manager().set_synchronous_mode(False)),
            self._twice(lambda: world.set_weather(before[1])),
            self._twice(lambda: world.apply_settings(before[0])),
        ]
        if not all(done):
            self.sensors, self.vehicles = [], []
            self.link.drop()

    def _twice(self, action: "Callable[[], object]") -> bool:
        """Do something, and again if it fails: others find a server that was left synchronous standing still."""
        return self._try(action) or self._try(action)

    def _try(self, action: "Callable[[], object]") -> bool:
        """Do something; once the server has failed at it, waste no more time on it."""
        try:
            action()
            return True
        except (RuntimeError, InputError):
            if self.link.is_open:
                self.link.open().set_timeout(BRIEF)
            return False


def _short(path: str) -> str:
    return path.rpartition("/")[2]
