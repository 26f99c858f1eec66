"""Launching: the server is a program of the tests, its answers come from a client of the tests."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from steerlab.envs.carla_driver.server import launch
from steerlab.envs.carla_driver.server.connection import listens
from steerlab.envs.carla_driver.server.launch import Launched, arguments, find_program, launched
from steerlab.errors import InputError
from steerlab.experiments import launch_carla

pytestmark = pytest.mark.skipif(
    sys.platform == "win32", reason="the test's server is a shell script"
)

SERVER = """
import socket, sys, time
port = next(int(a.split("=")[1]) for a in sys.argv if a.startswith("-carla-rpc-port="))
print("arguments", *sys.argv[1:], flush=True)
mode = {mode!r}
if mode == "fails":
    print("out of video memory")
    sys.exit(3)
listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
if mode != "mute":
    listener.bind(("127.0.0.1", port))
    listener.listen(64)
while True:
    time.sleep(1) if mode == "mute" else listener.accept()[0].close()
"""


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return 1024 + (probe.getsockname()[1] - 1024) % 60000


@pytest.fixture(autouse=True)
def answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever listens says that it is CARLA 0.9.16."""
    monkeypatch.setattr(launch, "need_carla", lambda: None)
    monkeypatch.setattr(
        launch, "server_version", lambda host, port, s: "0.9.16" if listens(host, port) else None
    )


@pytest.fixture
def release(tmp_path: Path) -> Callable[[str], Path]:
    """Make the folder of a release whose server does as told: ``works``, ``fails`` or ``mute``.

    The real script starts the program as a child. Where nobody reaps orphans that takes the whole time
    that a program has to end, so only one test does.
    """

    def make(mode: str = "works", run: str = "exec") -> Path:
        folder = tmp_path / "CARLA"
        folder.mkdir(exist_ok=True)
        (folder / "server.py").write_text(SERVER.format(mode=mode))
        script = folder / "CarlaUE4.sh"
        script.write_text(f'#!/bin/sh\n{run} "{sys.executable}" "{folder}/server.py" "$@"\n')
        script.chmod(0o755)
        return folder

    return make


def gone(port: int, seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds
    while listens("127.0.0.1", port) and time.monotonic() < end:
        time.sleep(0.05)
    return not listens("127.0.0.1", port)


def test_a_server_is_ready_and_ends_with_the_block(
    release: Callable[..., Path], port: int, tmp_path: Path
) -> None:
    with launched(release(), port, quality="low", ready_timeout=20, log=tmp_path / "log") as server:
        assert (server.host, server.port, server.version) == ("127.0.0.1", port, "0.9.16")
        assert listens(server.host, port)
    assert gone(port)
    told = (tmp_path / "log").read_text()
    assert told.split()[1:] == [
        f"-carla-rpc-port={port}", "-quality-level=Low", "-nosound", "-RenderOffScreen",
    ]  # fmt: skip


def test_an_error_in_the_block_ends_it_and_keep_running_does_not(
    release: Callable[..., Path], port: int
) -> None:
    with pytest.raises(KeyError), launched(release(), port, ready_timeout=20):
        raise KeyError
    assert gone(port)
    with launched(release(), port, ready_timeout=20, keep_running=True) as server:
        pass
    assert server.process is not None
    try:
        assert listens("127.0.0.1", port)
        with pytest.raises(InputError, match=rf"0\.9\.16 listens on port {port} already"):
            launched(release(), port).__enter__()
        with launched(release(), port, reuse=True) as again:
            assert again == Launched("127.0.0.1", port, "0.9.16")
        assert listens("127.0.0.1", port)
    finally:
        os.killpg(server.process.pid, signal.SIGKILL)
        server.process.wait()


def test_another_program_is_never_taken_for_a_server(
    release: Callable[..., Path], port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "server_version", lambda *_: None)
    with socket.socket() as other:
        other.bind(("127.0.0.1", port + 1))  # the streaming port
        other.listen()
        with pytest.raises(InputError, match=rf"another program listens on port {port + 1}"):
            launched(release(), port, reuse=True).__enter__()


@pytest.mark.parametrize(
    ("mode", "text"),
    [("fails", r"(?s)status 3 before.*out of video memory"), ("mute", "(?s)not ready after.*log")],
)
def test_a_server_that_never_gets_ready(
    release: Callable[..., Path], port: int, mode: str, text: str
) -> None:
    before = time.monotonic()
    with pytest.raises(InputError, match=text):
        launched(release(mode), port, ready_timeout=1.5).__enter__()
    assert time.monotonic() - before < 15
    left = subprocess.run(
        ["pgrep", "-f", f"carla-rpc-port={port}"], capture_output=True, check=False
    )
    assert left.stdout == b""


def test_the_server_ends_when_whoever_started_it_is_killed(
    release: Callable[..., Path], port: int
) -> None:
    code = (
        "from steerlab.envs.carla_driver.server import launch\n"
        "import time\n"
        "launch.need_carla = lambda: None\n"
        "launch.server_version = lambda *_: '0.9.16'\n"
        f"with launch.launched({str(release(run='env'))!r}, {port}, ready_timeout=20):\n"
        "    print('ready', flush=True); time.sleep(60)\n"
    )
    root = Path(__file__).parents[3]
    parent = subprocess.Popen(
        [sys.executable, "-c", code], cwd=root, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    assert parent.stdout.readline() == "ready\n"
    assert listens("127.0.0.1", port)
    parent.kill()
    parent.wait()
    assert gone(port)


def test_folder_and_arguments_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CARLA_ROOT", raising=False)
    with pytest.raises(InputError, match="carla_root is missing"):
        find_program(None)
    with pytest.raises(InputError, match=r"holds no CarlaUE4\.sh and no CarlaUnreal\.sh"):
        find_program(tmp_path)
    (tmp_path / "Linux").mkdir()
    program = tmp_path / "Linux" / "CarlaUnreal.sh"
    program.touch()
    monkeypatch.setenv("CARLA_ROOT", str(tmp_path))
    assert find_program(None) == program.resolve()
    with pytest.raises(InputError, match="port=80"):
        arguments(80, True, "Low")
    with pytest.raises(InputError, match=r"quality 'Epik'.*'Epic'"):
        arguments(2000, True, "Epik")
    assert "-RenderOffScreen" not in arguments(2000, False, "Epic")


def test_the_command_stops_on_ctrl_c(
    release: Callable[..., Path], port: int, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def interrupted(self: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(launch_carla, "_wait", interrupted)
    launch_carla.main(
        [
            f"carla_root={release()}",
            f"port={port}",
            "ready_timeout=20",
            f"output={tmp_path / 'out'}",
        ]
    )
    printed = capsys.readouterr().out
    assert f"CARLA 0.9.16 is ready at 127.0.0.1:{port}; Ctrl-C stops it" in printed
    assert "stopped" in printed
    assert gone(port)
    assert "-carla-rpc-port" in (tmp_path / "out" / "server.log").read_text()
    with pytest.raises(SystemExit, match="launch-carla: carla_root="):
        launch_carla.main(
            [f"carla_root={tmp_path / 'out'}", f"port={port}", f"output={tmp_path / 'no'}"]
        )
