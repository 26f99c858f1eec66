"""Launching a CARLA server from its folder, with a check of its health, and ending it again."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from steerlab.envs.carla_driver.server import _guard
from steerlab.envs.carla_driver.server.capabilities import TABLE
from steerlab.envs.carla_driver.server.connection import (
    PAUSE,
    listens,
    need_carla,
    server_version,
)
from steerlab.errors import InputError, unknown_name

HOST = "127.0.0.1"
QUALITIES = ("Low", "Epic")
LAST_LINES = 8  # of the server's output that an error shows


@dataclass(frozen=True)
class Launched:
    """A server that answers.

    Attributes:
        host: Where it is.
        port: Its port; it takes the next one, too.
        version: What it says of itself.
        process: What was started, None if the server was there already.
        log: File of its output.
    """

    host: str
    port: int
    version: str
    process: "subprocess.Popen[bytes] | None" = None
    log: Path | None = None


def find_program(carla_root: str | Path | None) -> Path:
    """Return the program of a release's folder, or of a folder in it.

    Args:
        carla_root: The folder; by default the one that the environment variable ``CARLA_ROOT`` names.

    Raises:
        InputError: No folder is given, or there is no CARLA in it.
    """
    folder = carla_root or os.environ.get("CARLA_ROOT")
    if not folder:
        raise InputError(
            "carla_root is missing: give the folder of a CARLA release, or set CARLA_ROOT"
        )
    root = Path(folder).expanduser()
    names = [known.programs[sys.platform == "win32"] for known in TABLE.values()]
    for name in names:
        for path in (root / name, *sorted(root.glob(f"*/{name}"))):
            if path.is_file():
                return path.resolve()
    raise InputError(f"carla_root={str(root)!r} holds no {' and no '.join(names)}")


def arguments(port: int, offscreen: bool, quality: str) -> list[str]:
    """Return the arguments of a server.

    Raises:
        InputError: The port or the quality does not exist.
    """
    if type(port) is not int or not 1024 <= port <= 65000:
        raise InputError(f"port={port!r} must be a whole number in [1024, 65000]")
    known = {name.lower(): name for name in QUALITIES}
    if quality.lower() not in known:
        raise unknown_name("quality", quality, QUALITIES)
    shown = ["-RenderOffScreen"] if offscreen else []
    return [
        f"-carla-rpc-port={port}",
        f"-quality-level={known[quality.lower()]}",
        "-nosound",
        *shown,
    ]


@contextmanager
def launched(
    carla_root: str | Path | None = None,
    port: int = 2000,
    offscreen: bool = True,
    quality: str = "Epic",
    ready_timeout: float = 120.0,
    keep_running: bool = False,
    reuse: bool = False,
    log: str | Path | None = None,
) -> Iterator[Launched]:
    """Start a CARLA server on this machine and yield it once it answers; end it after the block.

    It ends with this process, too, however that ends.

    Args:
        carla_root: Folder of the release; by default the environment variable ``CARLA_ROOT``.
        port: Of the server, which takes the next one, too.
        offscreen: Draw without a window.
        quality: ``Epic`` or ``Low``.
        ready_timeout: s that it may take until it answers.
        keep_running: Leave it running after the block and after this process.
        reuse: Take the CARLA server that listens on the port already, if there is one.
        log: File for its output; by default a temporary one.

    Raises:
        InputError: There is no CARLA in the folder, the port is taken, or the server ends or is not
            ready in time.
    """
    need_carla()
    command = arguments(port, offscreen, quality)
    taken = [p for p in (port, port + 1) if listens(HOST, p)]
    if taken:
        version = server_version(HOST, port, 5.0) if port in taken else None
        if not (reuse and version):
            raise InputError(_taken(taken[0], version))
        yield Launched(HOST, port, version)
        return
    command = [str(find_program(carla_root)), *command]
    path = Path(log) if log else Path(tempfile.mkdtemp(prefix="steerlab-carla-"), "server.log")
    process = _start(command, path, keep_running)
    keep = False  # before it is ready nobody else knows of it and could stop it
    try:
        version = _await(process, port, ready_timeout, path)
        keep = keep_running
        yield Launched(HOST, port, version, process, path)
    finally:
        if not keep:
            _end(process)


def _taken(port: int, version: str | None) -> str:
    what = f"a CARLA server of version {version}" if version else "another program"
    use = "use that one by leaving carla_root= out, " if version else ""
    return f"{what} listens on port {port} already: {use}stop it, or choose another port"


def _start(command: list[str], log: Path, keep_running: bool) -> "subprocess.Popen[bytes]":
    """Start the server, under guard unless it is to outlive this process."""
    guard = [] if keep_running else [sys.executable, "-I", _guard.__file__]
    try:
        with open(log, "wb") as output:
            return _guard.start(
                [*guard, *command],
                stdin=subprocess.DEVNULL if keep_running else subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
    except OSError as error:
        raise InputError(f"cannot start {command[0]!r}: {error.strerror or error}") from error


def _await(process: "subprocess.Popen[bytes]", port: int, ready_timeout: float, log: Path) -> str:
    """Return the version of the server as soon as it answers."""
    end = time.monotonic() + ready_timeout
    while True:
        if process.poll() is not None:
            raise InputError(
                f"the CARLA server ended with status {process.returncode} before it was ready"
                f"{_told(log)}"
            )
        if listens(HOST, port) and (version := server_version(HOST, port, 5.0)):
            return version
        if time.monotonic() >= end:
            raise InputError(
                f"the CARLA server on port {port} was not ready after {ready_timeout:.0f} s; give more "
                f"ready_timeout=, or see what it says{_told(log)}"
            )
        time.sleep(PAUSE)


def _told(log: Path) -> str:
    """Return the end of the server's output."""
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-LAST_LINES:]
    return "".join(f"\n  {line}" for line in lines) + f"\n  ({log})"


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End a server: closing its guard's input is the sign; without a guard it is stopped from here."""
    if process.stdin is None:
        _guard.stop(process)
        return
    process.stdin.close()
    try:
        process.wait(2 * _guard.GRACE)
    except subprocess.TimeoutExpired:
        _guard.stop(process)
