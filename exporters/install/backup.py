"""What was in a folder of models before an installation, and how it gets back."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from steerlab.errors import InputError
from steerlab.files import HIDDEN, file_hash, settle, transaction
from steerlab.readers.text import entry, read_json

FOLDER = ".steerlab-backup"
_MANIFEST = "manifest.json"
LATEST = "latest"


def fingerprint(path: Path) -> str | None:
    """Return SHA-256 of a file, None where there is none."""
    return file_hash(path) if path.is_file() else None


def make_backup(models: Path, new: dict[str, str | None]) -> Path:
    """Copy the files that will change, and return the folder of the copy; whole or not at all.

    Args:
        models: The folder of models.
        new: SHA-256 that each file will have, None for one that goes.
    """
    place = models / FOLDER
    place.mkdir(exist_ok=True)
    (place / ".gitignore").write_text("*\n", encoding="utf-8")  # no change of the checkout
    draft = Path(tempfile.mkdtemp(prefix="draft-", dir=place))
    files = {}
    for name, now in new.items():
        was = fingerprint(models / name)
        if was is not None:
            shutil.copy2(models / name, draft / name)
        files[name] = {"was": was, "now": now}
    made = datetime.now(UTC)
    note = {"made": made.isoformat(timespec="seconds"), "files": files}
    (draft / _MANIFEST).write_text(json.dumps(note, indent=1), encoding="utf-8")
    return draft.rename(_free(place, f"{made:%Y-%m-%d_%H-%M-%S}"))


def backups(models: Path) -> list[Path]:
    """Return the backups of a folder of models, the oldest first."""
    return sorted(path.parent for path in (models / FOLDER).glob(f"[0-9]*/{_MANIFEST}"))


def restore(models: Path, which: str = LATEST) -> list[str]:
    """Put back what a backup holds and forget the backup; return the names of the files.

    Args:
        models: The folder of models.
        which: Name of the backup, or ``latest``.

    Raises:
        InputError: There is no such backup, it is damaged, or a file was changed since by others.
    """
    found = {path.name: path for path in backups(models)}
    if which == LATEST and found:
        which = max(found)
    if which not in found:
        known = ", ".join(found) or "none"
        raise InputError(f"no backup {which!r} in {str(models / FOLDER)!r} (there: {known})")
    files = _files(found[which])
    for name, (was, now) in files.items():
        if fingerprint(models / name) not in (was, now):
            raise InputError(
                f"{str(models / name)!r} was changed after the installation; move it away, or copy the "
                f"files back by hand from {str(found[which])!r}"
            )
    put_back(models, found[which])
    return list(files)


def put_back(models: Path, backup: Path) -> None:
    """Make the files of a backup those of the folder again, together, and forget the backup."""
    files = _files(backup)
    with transaction(models) as changes:
        for name, (was, _) in files.items():
            if fingerprint(models / name) == was:
                continue
            if was is None:
                changes.remove(name)
            else:
                shutil.copy2(backup / name, changes.path(name))
    forget(models, backup)


def forget(models: Path, backup: Path) -> None:
    """Remove a backup, and the folder of backups with the last one."""
    shutil.rmtree(backup, ignore_errors=True)
    place = models / FOLDER
    if {path.name for path in place.iterdir()} <= {".gitignore"}:
        shutil.rmtree(place, ignore_errors=True)


def clean_up(models: Path) -> None:
    """Finish or remove what a stopped installation left unfinished."""
    settle(models)
    with suppress(OSError):
        (models / HIDDEN).rmdir()
    for draft in (models / FOLDER).glob("draft-*"):
        shutil.rmtree(draft, ignore_errors=True)
    for backup in reversed(backups(models)):
        if all(fingerprint(models / name) == was for name, (was, _) in _files(backup).items()):
            forget(models, backup)  # it was stopped before it changed anything
    if (models / FOLDER).is_dir() and not backups(models):
        forget(models, models / FOLDER / "none")


def _files(backup: Path) -> dict[str, tuple[str | None, str | None]]:
    """Return the hashes of a backup, each file of which is whole.

    Raises:
        InputError: It is damaged.
    """
    source = str(backup / _MANIFEST)
    found = entry(read_json(backup / _MANIFEST, dict), "files", dict, source)
    files = {}
    for name, hashes in found.items():
        kinds = (str, type(None))
        was, now = (entry(hashes, key, kinds, source) for key in ("was", "now"))
        if Path(name).name != name or fingerprint(backup / name) != was:
            raise InputError(f"the backup {str(backup)!r} is damaged: {name!r} is not what it was")
        files[name] = (was, now)
    return files


def _free(place: Path, name: str) -> Path:
    """Return a path that is not there yet: the name, or the name with a number."""
    numbers: Iterable[str] = (name, *(f"{name}_{i}" for i in range(2, 1000)))
    return next(place / n for n in numbers if not os.path.lexists(place / n))
