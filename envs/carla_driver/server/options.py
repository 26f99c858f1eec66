"""Options of the backend that drives on a CARLA server."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from steerlab.envs.arguments import integer
from steerlab.errors import InputError, unknown_name

SENSORS = ("model", "full")
TRAFFIC_PORT = 6000  # from the server's port to that of its traffic manager: 2000 and 8000


@dataclass(frozen=True)
class ServerOptions:
    """Where the server is, or how to launch it, and how it is used.

    Raises:
        InputError: A value is out of range.
    """

    host: str = "127.0.0.1"
    port: int = 2000
    traffic_port: int | None = None  #: of the traffic manager; the port plus 6000 by default
    timeout: float = 20.0  #: s that the server may take for an answer
    patience: float = 10.0  #: s over which a connection is tried
    vehicle: str | None = None  #: blueprint of the ego vehicle, with * for anything
    #: ``model``: cameras that take the model's frames; ``full``: whole sensors and openpilot's warp.
    sensors: str = "model"
    cameras: bool = False  #: cameras even if observations have none: for recording
    carla_root: str | None = None  #: launch a server from this folder
    offscreen: bool = True
    quality: str = "Epic"
    ready_timeout: float = 120.0  #: s that a launched server may take until it answers
    keep_running: bool = False  #: leave a launched server running, and take one that was left
    restart_every: int = 0  #: episodes after which a launched server is restarted; 0 for never

    def __post_init__(self) -> None:
        integer("port", self.port, 1024)
        if self.traffic_port is not None:
            integer("traffic_port", self.traffic_port, 1024)
        integer("restart_every", self.restart_every, 0)
        for name in ("timeout", "patience", "ready_timeout"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name}={getattr(self, name)!r} must be a positive number of s")
        if self.sensors not in SENSORS:
            raise unknown_name("sensors", str(self.sensors), SENSORS)
        if self.restart_every and self.carla_root is None:
            raise InputError("restart_every needs carla_root: only a launched server is restarted")


def as_options(options: ServerOptions | Mapping[str, Any] | None) -> ServerOptions:
    """Return options as they are, from a mapping of those that differ, or the defaults.

    Raises:
        InputError: A name is unknown, or a value out of range.
    """
    if isinstance(options, ServerOptions):
        return options
    known = {field.name for field in fields(ServerOptions)}
    for name in options or {}:
        if name not in known:
            raise unknown_name("option of server", str(name), known)
    return ServerOptions(**(options or {}))
