"""Download large files to the user's cache: resumable, checked, never half there."""

import hashlib
import os
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path

from platformdirs import user_cache_path

from steerlab.errors import InputError
from steerlab.files import writable_folder

_BLOCK = 1 << 20
Progress = Callable[[int, int], None]


def cache_folder() -> Path:
    """Return the folder of downloads: ``STEERLAB_CACHE``, or the user's cache folder."""
    return Path(os.environ.get("STEERLAB_CACHE", user_cache_path("steerlab")))


def fetch(
    source: str,
    destination: Path,
    sha256: str = "",
    *,
    progress: Progress = lambda done, total: None,
    attempts: int = 5,
    pause: float = 1.0,
) -> Path:
    """Bring ``source`` to ``destination`` and return that path.

    What has arrived so far waits in ``<destination>.part``; the next call asks the server for the
    rest only. The file gets its name when its length and hash are right.

    Args:
        source: URL (http, https, file) or local path.
        destination: The file to make; kept as it is if its hash is right already.
        sha256: Expected hash in hexadecimal; empty accepts any content of the right length.
        progress: Called with bytes done and in total (0 if the server does not say).
        attempts: Tries before giving up on a connection that breaks.
        pause: Seconds before the second try; doubles with each.

    Raises:
        InputError: The source cannot be had, or its hash is another.
    """
    if destination.exists() and sha256 in ("", file_hash(destination)):
        return destination
    writable_folder(destination.parent)
    part = destination.with_name(destination.name + ".part")
    if "://" not in source:
        _copy(Path(source), part)
    else:
        _download(source, part, progress, attempts, pause)
    found = file_hash(part)
    if sha256 and found != sha256:
        part.unlink()
        raise InputError(
            f"{source!r} has sha256 {found}, expected {sha256}; it was thrown away: "
            "try again, or use another mirror"
        )
    os.replace(part, destination)
    return destination


def file_hash(path: Path) -> str:
    """Return the sha256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _copy(source: Path, part: Path) -> None:
    try:
        shutil.copyfile(source, part)
    except OSError as error:
        raise InputError(f"cannot read {str(source)!r}: {error.strerror}") from error


def _download(url: str, part: Path, progress: Progress, attempts: int, pause: float) -> None:
    for attempt in range(attempts):
        if attempt:
            time.sleep(pause * 2 ** (attempt - 1))
        try:
            if _continue(url, part, progress):
                return
            reason = "the connection ended early"
        except urllib.error.HTTPError as error:
            reason = f"the server answered {error.code} {error.reason}"
            if error.code == 416:  # nothing lies beyond what we have: it is not the same file
                part.unlink(missing_ok=True)
            elif 400 <= error.code < 500 and error.code not in (408, 429):
                break
        except (OSError, HTTPException) as error:
            reason = str(getattr(error, "reason", error)) or type(error).__name__
    raise InputError(
        f"cannot download {url!r}: {reason}; what arrived is kept, so the same command goes on "
        "from there, or give a mirror or a local path"
    )


def _continue(url: str, part: Path, progress: Progress) -> bool:
    """Append what is missing to ``part``; return whether it is complete."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url)
    if have:
        request.add_header("Range", f"bytes={have}-")
    with urllib.request.urlopen(request, timeout=60) as answer:
        if have and getattr(answer, "status", 200) != 206:
            have = 0  # the server does not resume: start over
        length = int(answer.headers.get("Content-Length") or 0)
        total = have + length if length else 0
        with part.open("ab" if have else "wb") as file:
            while block := answer.read(_BLOCK):
                file.write(block)
                have += len(block)
                progress(have, total)
    return not total or have == total
