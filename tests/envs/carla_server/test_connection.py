"""Connecting: patience, versions, and errors that name the server and the remedy."""

import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from steerlab.envs.carla_driver import server as folder
from steerlab.envs.carla_driver.env import CarlaDriverVectorEnv
from steerlab.envs.carla_driver.server import connection, link as links
from steerlab.envs.carla_driver.server.capabilities import TABLE, capabilities
from steerlab.envs.carla_driver.server.connection import ServerLost, connect, talking
from steerlab.envs.carla_driver.server.launch import Launched
from steerlab.envs.carla_driver.server.link import InUse, Link
from steerlab.envs.carla_driver.server.options import ServerOptions, as_options
from steerlab.errors import InputError
from tests.envs.carla_server import duck as ducks


def test_a_server_of_the_same_version(duck: ducks.Server) -> None:
    client, can = connect("127.0.0.1", duck.port)
    assert can is TABLE["0.9.16"]
    assert isinstance(client, ducks.Client)


def test_nobody_there(duck: ducks.Server) -> None:
    duck.shut()
    before = time.monotonic()
    with pytest.raises(
        InputError, match=rf"at 127\.0\.0\.1:{duck.port} after \d tries.*launch-carla"
    ):
        connect("127.0.0.1", duck.port, patience=0.6)
    assert time.monotonic() - before >= 0.6


def test_a_server_that_comes_late(duck: ducks.Server) -> None:
    duck.shut()
    threading.Timer(0.5, duck.boot).start()
    connect("127.0.0.1", duck.port, patience=20.0)


def test_another_program_at_the_port(duck: ducks.Server) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(InputError, match="no CARLA server, or it hangs"):
            connect("127.0.0.1", other.getsockname()[1], patience=0.1)


def test_time_outs_are_told_apart_from_errors() -> None:
    late = pytest.raises(ServerLost, match=r"at box:2000 does not answer.*carla_timeout=")
    with late, talking("box", 2000):
        raise RuntimeError(ducks.LATE)
    wrong = pytest.raises(ServerLost, match=r"answers with an error \(std::exception\)")
    with wrong, talking("box", 2000):
        raise RuntimeError("std::exception")
    with pytest.raises(KeyError), talking("box", 2000):  # a defect stays one
        raise KeyError


def test_versions_must_be_the_same_and_known() -> None:
    assert capabilities("0.9.16", "0.9.16-12-gabcdef").version == "0.9.16"
    with pytest.raises(
        InputError, match=r"client has version 0\.9\.16 and the server 0\.10\.0.*dist"
    ):
        capabilities("0.9.16", "0.10.0")
    with pytest.raises(
        InputError, match=r"client has version 0\.10\.0.*pip install 'steerlab\[carla\]'"
    ):
        capabilities("0.10.0", "0.9.16")
    with pytest.raises(InputError, match=r"0\.9\.13; steerlab knows 0\.9\.16, 0\.10\.0"):
        capabilities("0.9.13", "0.9.13")
    with pytest.raises(InputError, match="abcdef"):
        capabilities("abcdef", "abcdef")


def test_a_version_mismatch_leaves_the_server_alone(duck: ducks.Server) -> None:
    duck.version = "0.9.15"
    with pytest.raises(InputError, match=r"0\.9\.15"):
        CarlaDriverVectorEnv(1, backend="server", server={"port": duck.port})
    assert set(duck.calls) == {"get_server_version"}
    duck.untouched()


def test_without_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "has_carla", lambda: False)
    with pytest.raises(InputError, match=r"pip install 'steerlab\[carla\]'.*dist"):
        connect("127.0.0.1", 2000)


def test_one_environment_at_a_time(duck: ducks.Server) -> None:
    options = ServerOptions(port=duck.port)
    with Link(options) as first:
        first.open()
        with pytest.raises(InUse, match="in use by another environment"):
            Link(options).open()
    with Link(options) as second:
        second.open()


def test_a_traffic_manager_of_its_own(duck: ducks.Server) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        with (
            Link(ServerOptions(port=duck.port, traffic_port=taken)) as link,
            pytest.raises(InputError, match=f"listens on port {taken}: give another traffic_port"),
        ):
            link.traffic_manager()
    with Link(ServerOptions(port=duck.port, traffic_port=taken)) as link:
        manager: Any = link.traffic_manager()
        assert manager.port == link.traffic_port == taken
        again: Any = link.traffic_manager()
        assert again is manager
    assert manager.shut


@pytest.mark.skipif(sys.platform == "win32", reason="the test's server is a program of Unix")
def test_a_server_that_is_kept_outlives_the_link_unless_it_failed(
    duck: ducks.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[subprocess.Popen[bytes]] = []

    @contextmanager
    def launched(*arguments: Any, reuse: bool) -> Iterator[Launched]:
        assert arguments == ("here", duck.port, True, "Low", 9.0, True)
        assert reuse
        started.append(subprocess.Popen(["sleep", "60"], start_new_session=True))
        yield Launched("127.0.0.1", duck.port, "0.9.16", started[-1])

    monkeypatch.setattr(links, "launched", launched)
    link = Link(
        ServerOptions(
            port=duck.port, carla_root="here", quality="Low", ready_timeout=9.0, keep_running=True
        )
    )
    try:
        link.open()
        link.drop()  # as after a failure
        assert started[0].poll() is not None
        link.open()
        link.close()
        assert len(started) == 2
        assert started[1].poll() is None
    finally:
        for process in started:
            process.kill()
            process.wait()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"prot": 2000}, "option of server 'prot'.*'port'"),
        ({"port": 80}, "port=80"),
        ({"timeout": 0.0}, "timeout=0.0"),
        ({"sensors": "modle"}, "sensors 'modle'.*'model'"),
        ({"restart_every": 5}, "restart_every needs carla_root"),
        ({"traffic_port": "x"}, "traffic_port='x'"),
    ],
)
def test_options_are_checked(options: dict[str, Any], text: str) -> None:
    with pytest.raises(InputError, match=text):
        as_options(options)


def test_arguments_of_the_environment_are_checked(duck: ducks.Server) -> None:
    with pytest.raises(InputError, match="server= is for backend='server'"):
        CarlaDriverVectorEnv(1, server={"port": duck.port})
    with pytest.raises(InputError, match="num_envs=2"):
        CarlaDriverVectorEnv(2, backend="server", server={"port": duck.port})


def test_nothing_is_called_that_another_version_lacks() -> None:
    """0.10.0 lacks them: sources other than the table do not name them."""
    names = "Osm2Odr|GearPhysicsControl|inverse_transform|get_lightmanager|load_map_layer"
    for path in Path(folder.__file__).parent.glob("*.py"):
        found = re.findall(names, path.read_text(encoding="utf-8"))
        assert bool(found) == (path.name == "capabilities.py"), path
    assert set(TABLE["0.10.0"].missing) <= set(names.split("|"))


def test_the_module_is_imported_late() -> None:
    for name in [name for name in sys.modules if name.startswith(folder.__name__)]:
        assert "carla" not in vars(sys.modules[name]), name
