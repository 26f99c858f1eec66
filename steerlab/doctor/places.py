"""Disk, folders that must be written, and caches."""

import shutil
import tempfile
from pathlib import Path

from steerlab.doctor.base import NOTE, OK, WRONG, Finding
from steerlab.files import cache_folder

#: GB below which a collection of 60 episodes or a training may end on a full disk; nothing works.
ENOUGH, LEAST = 5.0, 0.5


def disk(folder: Path) -> Finding:
    """Check the room on the disk of a folder, or of the nearest folder above it that exists."""
    free = shutil.disk_usage(_existing(folder)).free / 1e9
    found = f"{free:.1f} GB free at {folder}"
    remedy = "make room, or give output= on another disk"
    if free < LEAST:
        return Finding("disk", WRONG, found, remedy, "disk")
    if free < ENOUGH:
        return Finding("disk", NOTE, found, remedy + f"; {ENOUGH:g} GB are comfortable", "disk")
    return Finding("disk", OK, found, topic="disk")


def writable(name: str, folder: Path, remedy: str) -> Finding:
    """Check that files can be written into a folder, without making it."""
    place = _existing(folder)
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        reason = error.strerror or str(error)
        return Finding(name, WRONG, f"{folder}: {reason}", remedy, "disk")
    made = "" if place == folder.absolute() else " (not made yet)"
    return Finding(name, OK, f"{folder}{made}", topic="disk")


def cache_findings() -> list[Finding]:
    """Check the cache: that it can be written, and what is in it."""
    folder = cache_folder()
    found = [
        writable("cache", folder, "set STEERLAB_CACHE to a folder that you may write"),
    ]
    if folder.is_dir():
        parts = sorted(path for path in folder.iterdir() if path.is_dir())
        text = ", ".join(f"{part.name} {_size(part) / 1e6:.0f} MB" for part in parts)
        found.append(Finding("cached", OK, text or "nothing", topic="disk"))
    return found


def _existing(folder: Path) -> Path:
    """Return the folder, or what is nearest above it; that may be a file, which is in the way."""
    folder = folder.absolute()
    return next(path for path in (folder, *folder.parents) if path.exists())


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
