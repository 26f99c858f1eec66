"""A server that stays with us from episode to episode: connected, launched, given up and had again."""

import re
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Self

from filelock import FileLock, Timeout

from steerlab.envs.carla_driver.server import _guard
from steerlab.envs.carla_driver.server.capabilities import Capabilities
from steerlab.envs.carla_driver.server.connection import connect, listens, talking
from steerlab.envs.carla_driver.server.launch import Launched, launched
from steerlab.envs.carla_driver.server.options import TRAFFIC_PORT, ServerOptions
from steerlab.errors import InputError

if TYPE_CHECKING:
    import carla

PORTS = 20  # that are tried for a traffic manager


class InUse(InputError):
    """Another environment holds the server."""


class Link:
    """One server for one environment after the other; use it in a ``with`` block, or close it.

    Nothing happens before :meth:`open`. Only one link at a time holds a server: two that tick it would get
    half of the ticks each.

    Args:
        options: Where the server is, or how to launch it.
    """

    def __init__(self, options: ServerOptions) -> None:
        self.options = options
        self._held = ExitStack()  # the server if we launched it, and its lock
        self._server: Launched | None = None
        self._client: carla.Client | None = None
        self._can: Capabilities | None = None
        self._manager: carla.TrafficManager | None = None
        self.traffic_port = 0
        self.episodes = 0  # since the server was started

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def where(self) -> tuple[str, int]:
        """Host and port."""
        return self.options.host, self.options.port

    @property
    def is_open(self) -> bool:
        """Whether there is a connection."""
        return self._client is not None

    @property
    def can(self) -> Capabilities:
        """What server and client can do together; the link is open."""
        assert self._can
        return self._can

    @property
    def launches(self) -> bool:
        """Whether the server is started from here."""
        return self.options.carla_root is not None

    def open(self) -> "carla.Client":
        """Return the client; launch the server and connect if that was not done.

        Raises:
            InputError: The server cannot be launched or reached, is in use, or has another version.
        """
        if self._client is None:
            try:
                self._hold()
                self._client, self._can = connect(
                    *self.where, self.options.timeout, self.options.patience
                )
            except BaseException:
                self._held.close()
                raise
        return self._client

    def _hold(self) -> None:
        name = re.sub(r"[^\w.]", "-", "steerlab-carla-{}-{}".format(*self.where))
        lock = FileLock(Path(tempfile.gettempdir(), f"{name}.lock"))
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise InUse(
                "the CARLA server at {}:{} is in use by another environment of steerlab: close that "
                "one, or give another port".format(*self.where)
            ) from error
        self._held.callback(lock.release)
        if self.launches:
            o = self.options
            self._server = self._held.enter_context(
                launched(
                    o.carla_root, o.port, o.offscreen, o.quality, o.ready_timeout, o.keep_running,
                    reuse=o.keep_running,
                )
            )  # fmt: skip
            self.episodes = 0

    def traffic_manager(self) -> "carla.TrafficManager":
        """Return the traffic manager of this link, which listens on a port of its own.

        Raises:
            InputError: No port is free.
        """
        if self._manager is None:
            client = self.open()
            first = self.options.traffic_port or self.options.port + TRAFFIC_PORT
            ports = [p for p in range(first, first + PORTS) if not listens("127.0.0.1", p)]
            if not ports or (self.options.traffic_port and ports[0] != first):
                raise InputError(
                    f"another program, perhaps another traffic manager, listens on port {first}: give "
                    "another traffic_port"
                )
            with talking(*self.where):
                self._manager = client.get_trafficmanager(ports[0])
            self.traffic_port = ports[0]
        return self._manager

    def drop(self) -> None:
        """Give the connection up, and the server with it if it was launched from here."""
        server, self._server = self._server, None
        self._release()
        if server and server.process and server.process.poll() is None:
            _guard.stop(server.process)  # one that was to be kept: it is of no use

    def close(self) -> None:
        """Release the server; one that we launched ends unless it is to be kept."""
        self._release()

    def _release(self) -> None:
        manager, self._manager = self._manager, None
        if manager is not None:
            with suppress(RuntimeError):
                manager.shut_down()
        self._client = self._can = None
        self._held.close()
