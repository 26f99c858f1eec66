"""CARLA's client, its server's folder, and whether one listens."""

import os
import re
import socket
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path

from steerlab.doctor.base import NOTE, OK, WRONG, Finding
from steerlab.errors import InputError

_TOPIC = "carla"


def carla_findings(
    host: str, port: int, find_program: Callable[[str], Path], known: Sequence[str]
) -> list[Finding]:
    """Check client and server of CARLA against each other.

    Args:
        host: Where a server may listen.
        port: Its port.
        find_program: Returns what starts the server of a release's folder, or raises an InputError.
        known: Releases that the backend knows, the usual one first.
    """
    client, root = _client_version(), os.environ.get("CARLA_ROOT", "")
    return [
        _client(client, known),
        *_server(root, client, find_program, known[0]),
        _listening(host, port),
    ]


def folder_version(root: Path) -> str:
    """Return the version of a server's folder: from its VERSION file, else from its client's wheel."""
    note = root / "VERSION"
    texts = [note.read_text(encoding="utf-8", errors="replace")[:100]] if note.is_file() else []
    texts += [path.name for path in sorted((root / "PythonAPI" / "carla" / "dist").glob("carla-*"))]
    texts.append(root.name)
    found = (re.search(r"\d+\.\d+\.\d+", text) for text in texts)
    return next((match[0] for match in found if match), "")


def _client_version() -> str:
    try:
        return metadata.version("carla")
    except metadata.PackageNotFoundError:
        return ""


def _client(version: str, known: Sequence[str]) -> Finding:
    if not version:
        remedy = (
            'pip install "steerlab[carla]" (Python 3.11 or 3.12, x86-64); the embedded backend '
            "needs none"
        )
        return Finding("CARLA client", NOTE, "not installed", remedy, _TOPIC)
    if version not in known:
        remedy = f'pip install "carla=={known[0]}"'
        found = f"{version}; known are {' and '.join(known)}"
        return Finding("CARLA client", WRONG, found, remedy, _TOPIC)
    return Finding("CARLA client", OK, version, topic=_TOPIC)


def _server(
    root: str, client: str, find_program: Callable[[str], Path], usual: str
) -> list[Finding]:
    if not root:
        remedy = (
            f"unpack a release of CARLA {usual} and set CARLA_ROOT to its folder; the embedded "
            "backend needs none"
        )
        return [Finding("CARLA server", NOTE, "CARLA_ROOT is not set", remedy, _TOPIC)]
    folder = Path(root).expanduser()
    try:
        program = find_program(root)
    except InputError as error:
        remedy = "set CARLA_ROOT to the folder of an unpacked release"
        return [Finding("CARLA server", WRONG, str(error), remedy, _TOPIC)]
    version = folder_version(folder)
    if version and client and version != client:
        found = f"server {version} at {root}, client {client}: they must be the same"
        wheel = sorted((folder / "PythonAPI" / "carla" / "dist").glob("carla-*.whl"))
        remedy = f"pip install {wheel[-1]}" if wheel else f'pip install "carla=={version}"'
        return [Finding("CARLA server", WRONG, found, remedy, _TOPIC)]
    return [Finding("CARLA server", OK, f"{version or 'version unknown'}, {program}", topic=_TOPIC)]


def _listening(host: str, port: int) -> Finding:
    """Tell whether something listens; a server that runs is neither right nor wrong."""
    try:
        with socket.create_connection((host, port), timeout=1.0):
            text = f"something listens on {host}:{port}"
    except OSError:
        text = f"nothing listens on {host}:{port}"
    return Finding("CARLA port", OK, text, topic=_TOPIC)
