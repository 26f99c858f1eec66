"""CARLA's client, its server's folder, and whether one listens."""

import os
import re
import socket
from importlib import metadata
from pathlib import Path

from steerlab.doctor.base import NOTE, OK, WRONG, Finding

#: What starts a server, in the folder CARLA_ROOT or one below it.
PROGRAMS = ("CarlaUE4.sh", "CarlaUE4.exe", "CarlaUnreal.sh", "CarlaUnreal.exe")
#: Releases that the backend knows; see docs/carla_server.md.
KNOWN = ("0.9.16", "0.10.0")
_TOPIC = "carla"


def carla_findings(host: str, port: int) -> list[Finding]:
    """Check client and server of CARLA against each other.

    Args:
        host: Where a server may listen.
        port: Its port.
    """
    client, root = _client_version(), os.environ.get("CARLA_ROOT", "")
    return [_client(client), *_server(root, client), _listening(host, port)]


def server_program(root: Path) -> Path | None:
    """Return what starts the server in a folder, None if nothing does."""
    for folder in (root, root / "WindowsNoEditor", root / "LinuxNoEditor"):
        for name in PROGRAMS:
            if (folder / name).is_file():
                return folder / name
    return None


def server_version(root: Path) -> str:
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


def _client(version: str) -> Finding:
    if not version:
        remedy = (
            'pip install "steerlab[carla]" (Python 3.11 or 3.12, x86-64); the embedded backend '
            "needs none"
        )
        return Finding("CARLA client", NOTE, "not installed", remedy, _TOPIC)
    if version not in KNOWN:
        remedy = f'pip install "carla=={KNOWN[0]}"'
        return Finding("CARLA client", WRONG, f"{version}; {_either()}", remedy, _TOPIC)
    return Finding("CARLA client", OK, version, topic=_TOPIC)


def _server(root: str, client: str) -> list[Finding]:
    if not root:
        remedy = (
            f"unpack a release of CARLA {KNOWN[0]} and set CARLA_ROOT to its folder; the embedded "
            "backend needs none"
        )
        return [Finding("CARLA server", NOTE, "CARLA_ROOT is not set", remedy, _TOPIC)]
    folder = Path(root)
    program = server_program(folder) if folder.is_dir() else None
    if program is None:
        what = "is no folder" if not folder.is_dir() else f"has none of {', '.join(PROGRAMS)}"
        remedy = "set CARLA_ROOT to the folder of an unpacked release"
        return [Finding("CARLA server", WRONG, f"CARLA_ROOT={root} {what}", remedy, _TOPIC)]
    version = server_version(folder)
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


def _either() -> str:
    return f"known are {' and '.join(KNOWN)}"
