"""The connection to a CARLA server: patience, versions, and clear errors.

CARLA's client raises a plain ``RuntimeError`` for everything, a time-out included, and never says which
server it means. All calls of this folder are made inside of :func:`talking`, which does.
"""

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from steerlab.envs.carla_driver.server.capabilities import Capabilities, capabilities
from steerlab.envs.maps.opendrive import has_carla
from steerlab.errors import InputError

if TYPE_CHECKING:
    import carla

NEEDS_CARLA = (
    "a CARLA server needs the package carla of the server's version: pip install 'steerlab[carla]' for "
    "0.9.16 (Linux and Windows on x86-64, up to Python 3.12), the wheel in PythonAPI/carla/dist of the "
    "release for 0.10.0"
)
PAUSE = 0.25  # s between two tries


class ServerLost(InputError):
    """A CARLA server that answered before does not answer any more, or only with errors."""


@contextmanager
def talking(host: str, port: int) -> Iterator[None]:
    """Name the server in whatever CARLA's client complains about during the block.

    Raises:
        ServerLost: The client raised a ``RuntimeError``.
    """
    try:
        yield
    except RuntimeError as error:
        text = " ".join(str(error).split())
        late = "time-out" in text
        what = "does not answer" if late else f"answers with an error ({text})"
        raise ServerLost(
            f"the CARLA server at {host}:{port} {what}; see its window or log, and start it again "
            f"(steerlab launch-carla port={port}), with carla_timeout= raised if it is only slow"
        ) from error


def need_carla() -> None:
    """Check that CARLA's client is installed.

    Raises:
        InputError: It is not.
    """
    if not has_carla():
        raise InputError(NEEDS_CARLA)


def listens(host: str, port: int) -> bool:
    """Tell whether a program accepts connections at a port."""
    try:
        with socket.create_connection((host, port), timeout=2.0):
            return True
    except OSError:
        return False


def server_version(host: str, port: int, timeout: float) -> str | None:
    """Return the version of the CARLA server at a port, None if what is there does not answer."""
    need_carla()
    import carla

    try:
        client = carla.Client(host, port)
        client.set_timeout(timeout)
        return client.get_server_version()
    except RuntimeError:
        return None


def connect(
    host: str, port: int, timeout: float = 10.0, patience: float = 10.0
) -> "tuple[carla.Client, Capabilities]":
    """Return a client of the server, and what both can do.

    Args:
        host: Name or address of the machine.
        port: Of the server.
        timeout: s that the server may take for an answer.
        patience: s over which to try again while the server is not there.

    Raises:
        InputError: The client is not installed, there is no server, or their versions do not fit.
    """
    need_carla()
    import carla

    end, tries = time.monotonic() + patience, 0
    while True:
        tries += 1
        version = server_version(host, port, timeout) if listens(host, port) else None
        if version is not None:
            break
        if time.monotonic() >= end:
            there = "what listens there is no CARLA server, or it hangs"
            raise InputError(
                f"no CARLA server answers at {host}:{port} after {tries} tries in {patience:.0f} s"
                f"{f': {there}' if listens(host, port) else ''}; start one (steerlab launch-carla "
                f"carla_root=FOLDER port={port}), or give carla_host= and carla_port="
            )
        time.sleep(PAUSE)
    with talking(host, port):
        client = carla.Client(host, port)
        client.set_timeout(timeout)
        return client, capabilities(client.get_client_version(), version)
