"""OpenDRIVE files as maps: compiled in a process of their own, and kept by the hash of their text."""

import hashlib
import os
import signal
import subprocess
import sys
import tempfile
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from steerlab.envs.maps.road_map import SCHEMA, RoadMap, load
from steerlab.errors import InputError
from steerlab.files import atomic_path, cache_folder, writable_folder

LARGEST = 200 << 20  # bytes of a file; the largest town of CARLA has 60 MB
#: Seconds of processor time that a compilation may take, and more for each megabyte above the fourth.
SECONDS, SECONDS_PER_MB = 18.0, 5.0
PATIENCE = 10  # times as many seconds by the clock: the machine may be busy with other work

NEEDS_CARLA = (
    "reading OpenDRIVE maps needs carla: pip install 'steerlab[carla]' (there are wheels for Linux "
    "and Windows on x86-64, up to Python 3.12); the maps that ship with steerlab need nothing"
)


def read_opendrive(
    path: str | Path, seconds: float | None = None, folder: Path | None = None
) -> RoadMap:
    """Return the map of an ``.xodr`` file, from the cache if its text was compiled before.

    Args:
        path: The file.
        seconds: Limit of the compilation, in seconds of processor time; by default it grows with
            the file.
        folder: Where compiled maps are kept; the user's cache by default.

    Raises:
        InputError: The file is missing, no OpenDRIVE, or ``carla.Map`` fails on it; or the package
            ``carla`` is not installed.
    """
    path = Path(path)
    try:
        if path.stat().st_size > LARGEST:
            raise InputError(f"map {str(path)!r} has more than {LARGEST >> 20} MB")
        text = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read map {str(path)!r}: {error.strerror or error}") from error
    return compile_text(text, path.stem, str(path), seconds, folder)


def compile_text(
    text: bytes,
    name: str,
    source: str,
    seconds: float | None = None,
    folder: Path | None = None,
) -> RoadMap:
    """Return the map of an OpenDRIVE text; ``source`` names it in messages.

    Raises:
        InputError: As :func:`read_opendrive`.
    """
    digest = hashlib.sha256(f"{_version()} {name} ".encode() + text).hexdigest()
    kept = (folder or cache_folder() / "maps") / f"{digest[:32]}.npz"
    if kept.exists():
        try:
            return load(kept)
        except InputError:
            kept.unlink(missing_ok=True)  # damaged, so it is made anew
    if not has_carla():
        raise InputError(f"map {source!r}: {NEEDS_CARLA}")
    limit = seconds or SECONDS + SECONDS_PER_MB * max(0.0, len(text) / (1 << 20) - 4)
    writable_folder(kept.parent)
    with tempfile.TemporaryDirectory(prefix="steerlab-map-") as scratch:
        given, made = Path(scratch, "map.xodr"), Path(scratch, "map.npz")
        given.write_bytes(text)
        _run(source, [str(given), str(made), name], limit)
        compiled = load(made)
        with atomic_path(kept) as temporary:
            temporary.write_bytes(made.read_bytes())
    return compiled


def has_carla() -> bool:
    """Tell whether the package ``carla`` is installed."""
    try:
        return find_spec("carla") is not None
    except (ImportError, ValueError):
        return False


def _run(source: str, arguments: list[str], limit: float) -> None:
    """Run the worker; turn every way in which it can fail into one clear error."""
    command = [sys.executable, "-m", "steerlab.envs.maps._compile", *arguments]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p or "." for p in sys.path)}
    try:
        done = subprocess.run(
            [*command, str(limit)],
            capture_output=True,
            timeout=PATIENCE * limit,
            env=environment,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise InputError(_too_long(source, limit)) from error
    if done.returncode == 0:
        return
    if done.returncode == -getattr(signal, "SIGXCPU", 0):
        raise InputError(_too_long(source, limit))
    if done.returncode < 0 or done.returncode > 255:  # a signal; a Windows exception code
        raise InputError(
            f"map {source!r}: carla.Map crashed on it ({_crash(done.returncode)}); "
            "the file is damaged"
        )
    lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
    last = lines[-1] if lines else f"exit status {done.returncode}"
    reason = last.removeprefix("steerlab.errors.InputError: ")
    raise InputError(f"map {source!r} cannot be compiled: {reason}")


def _too_long(source: str, limit: float) -> str:
    return (
        f"map {source!r}: carla.Map was not done with it after {limit:.0f} s of computing; "
        "the file is damaged, or give more seconds"
    )


def _crash(code: int) -> str:
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"code {code & 0xFFFFFFFF:#x}"


@cache
def _version() -> str:
    """Return what a compiled map depends on besides its text: the sources that compile it."""
    digest = hashlib.sha256(str(SCHEMA).encode())
    for name in ("_compile.py", "network.py", "road_map.py"):
        digest.update(Path(__file__).with_name(name).read_bytes())
    return digest.hexdigest()
