"""Files that are whole or absent, sets of them that change together, folders with one owner.

What is unfinished lies in a hidden folder beside the files it is for, so no reader finds it by a
pattern. Files of one :func:`transaction` are written there first. A note then says where each of
them belongs, and only after it the files move. Whoever is stopped in between leaves the note, and
the next owner of the folder finishes what it says.
"""

import hashlib
import json
import math
import os
import shlex
import shutil
import socket
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from platformdirs import user_cache_path

from steerlab.errors import InputError

#: Folder of what is unfinished, of the lock and of the settings, in every folder with results.
HIDDEN = ".steerlab"
_NOTE = "commit.json"
#: Gets "before" or "after", and the path.
Hook = Callable[[str, Path], None]
_hook: Hook | None = None
_owned: dict[Path, tuple[int, int]] = {}  # folders that this process owns, and what they were


@contextmanager
def watch_changes(hook: Hook) -> Iterator[None]:
    """Call ``hook`` before and after every visible change of a file; for tests that stop there."""
    global _hook
    old, _hook = _hook, hook
    try:
        yield
    finally:
        _hook = old


@contextmanager
def visible_change(path: str | Path) -> Iterator[None]:
    """Enclose the one step by which a file appears, changes or goes."""
    if _hook:
        _hook("before", Path(path))
    yield
    if _hook:
        _hook("after", Path(path))


class Transaction:
    """The files of one :func:`transaction`."""

    def __init__(self, folder: Path, workspace: Path) -> None:
        self._folder, self._workspace = folder, workspace
        self._moves: dict[str, str] = {}
        self._removals: list[str] = []

    def path(self, name: str) -> Path:
        """Return where to write the file ``name`` of the folder.

        The suffix is kept, which many writers choose their format by.
        """
        temporary = f"{len(self._moves)}{Path(name).suffix}"
        self._moves[temporary] = name
        return self._workspace / temporary

    def remove(self, name: str) -> None:
        """Remove the file ``name`` together with the other changes."""
        self._removals.append(name)

    def commit(self) -> None:
        """Make everything visible."""
        note = {"moves": self._moves, "removals": self._removals}
        if len(self._moves) + len(self._removals) > 1:
            draft = self._workspace / "draft"
            draft.write_text(json.dumps(note), encoding="utf-8")
            with visible_change(self._workspace / _NOTE):
                draft.replace(self._workspace / _NOTE)
        _finish(self._folder, self._workspace, note)


@contextmanager
def transaction(folder: str | Path) -> Iterator[Transaction]:
    """Yield a :class:`Transaction`; its files appear in ``folder`` together if the block succeeds.

    Raises:
        InputError: The folder does not exist or cannot be written.
    """
    folder = Path(folder)
    workspace = _workspace(folder)
    try:
        files = Transaction(folder, workspace)
        yield files
        files.commit()
    finally:
        if not (workspace / _NOTE).exists():  # else it is decided, and finished by the next owner
            shutil.rmtree(workspace, ignore_errors=True)
        with suppress(OSError):
            workspace.parent.rmdir()  # unless others work there


def cache_folder() -> Path:
    """Return the folder of downloads and of what is computed once: ``STEERLAB_CACHE``, or the user's."""
    return Path(os.environ.get("STEERLAB_CACHE") or user_cache_path("steerlab"))


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path and rename it to ``path`` if the block succeeds.

    A reader never sees a half-written file, and a failed or interrupted block leaves what was
    there before.

    Raises:
        InputError: The folder of ``path`` does not exist or cannot be written.
    """
    path = Path(path)
    with transaction(path.parent) as files:
        yield files.path(path.name)


def file_hash(path: str | Path) -> str:
    """Return the SHA-256 of a file in hexadecimal.

    Raises:
        OSError: The file cannot be read.
    """
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: str | Path, value: Any) -> None:
    """Write ``value`` as JSON, atomically; numbers that are not finite, which JSON lacks, become null."""
    with atomic_path(path) as temporary:
        temporary.write_text(json_text(value), encoding="utf-8")


def json_text(value: Any) -> str:
    """Return the text that :func:`write_json` writes."""
    return json.dumps(_plain(value), indent=1, allow_nan=False)


def _plain(value: Any) -> Any:
    """Return ``value`` in the types of JSON; numpy's numbers are registered as those of Python."""
    if isinstance(value, Mapping):
        return {str(key): _plain(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, bool):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value) if math.isfinite(value) else None
    return value


def exclusive_text(path: Path, text: str) -> bool:
    """Write a new file, whole or not at all; return whether it is new."""
    workspace = _workspace(path.parent)
    try:
        (workspace / "new").write_text(text, encoding="utf-8")
        with visible_change(path):
            os.link(workspace / "new", path)
        return True
    except FileExistsError:
        return False
    finally:
        shutil.rmtree(workspace, ignore_errors=True)
        with suppress(OSError):
            workspace.parent.rmdir()


def writable_folder(folder: str | Path) -> Path:
    """Create ``folder`` if needed and prove that a file can be written into it.

    Raises:
        InputError: The folder cannot be made or written.
    """
    folder = Path(folder)
    _check_owned(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise _unwritable(folder, error) from error
    return folder


@contextmanager
def owned_folder(folder: str | Path) -> Iterator[Path]:
    """Create ``folder`` if needed and be its only owner during the block.

    What a stopped owner left unfinished, here and in the folders below, is finished or removed.

    Raises:
        InputError: The folder cannot be written, another process owns it, or it was removed or
            replaced during the block.
    """
    folder = writable_folder(folder).resolve()
    if folder in _owned:
        yield folder
        return
    hidden = folder / HIDDEN
    hidden.mkdir(exist_ok=True)
    lock, note = FileLock(hidden / "lock"), hidden / "owner.json"
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise InputError(
            f"{str(folder)!r} is in use by {_owner(note)}; wait for it, stop it, or choose "
            "another folder"
        ) from error
    except NotImplementedError:
        warnings.warn(
            f"the file system of {folder} knows no locks: run one study there", stacklevel=2
        )
    status = folder.stat()
    try:
        command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
        owner = {"pid": os.getpid(), "host": socket.gethostname(), "command": command}
        note.write_text(json.dumps(owner), encoding="utf-8")
        settle(folder)
        _owned[folder] = status.st_dev, status.st_ino
        yield folder
        _check_owned(folder)  # a study may write all its results elsewhere
    finally:
        _owned.pop(folder, None)
        note.unlink(missing_ok=True)
        lock.release()


def settle(folder: Path) -> None:
    """Finish or remove what stopped owners of ``folder`` and the folders below left unfinished."""
    # The deepest first: the hidden folder holds settings, which have a hidden folder of their own.
    for hidden in sorted(folder.rglob(HIDDEN), key=lambda path: -len(path.parts)):
        lock = FileLock(hidden / "lock")
        try:
            if hidden.parent != folder and (hidden / "lock").exists():
                lock.acquire(timeout=0)
        except Timeout:
            continue  # another process owns that folder
        for workspace in [entry for entry in hidden.iterdir() if entry.is_dir()]:
            if (workspace / _NOTE).exists():
                _finish(hidden.parent, workspace, _read_note(workspace / _NOTE))
            shutil.rmtree(workspace, ignore_errors=True)
        lock.release()


def _read_note(path: Path) -> dict[str, Any]:
    """Read what a transaction decided; no name in it may lead out of its folder."""
    try:
        note: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        names = [*note["moves"], *note["moves"].values(), *note["removals"]]
        if all(name and Path(name).name == name for name in names):
            return note
        reason = "a name leads out of the folder"
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = str(error)
    raise InputError(f"{str(path)!r} is damaged ({reason}); delete it")


def _finish(folder: Path, workspace: Path, note: dict[str, Any]) -> None:
    """Do what a note says and has not been done yet; then forget the note."""
    for temporary, name in note["moves"].items():
        noted = (workspace / _NOTE).exists()
        if (workspace / temporary).exists() or not noted:
            with visible_change(folder / name):
                os.replace(workspace / temporary, folder / name)
    for name in note["removals"]:
        with visible_change(folder / name):
            (folder / name).unlink(missing_ok=True)
    (workspace / _NOTE).unlink(missing_ok=True)


def _workspace(folder: Path) -> Path:
    """Return a new folder for unfinished files of ``folder``."""
    _check_owned(folder)
    while True:
        try:
            (folder / HIDDEN).mkdir(exist_ok=True)
            return Path(tempfile.mkdtemp(dir=folder / HIDDEN))
        except FileNotFoundError as error:
            if not folder.is_dir():
                raise _unwritable(folder, error) from error
            # Another process removed the hidden folder between the two lines.
        except OSError as error:
            raise _unwritable(folder, error) from error


def _check_owned(folder: Path) -> None:
    """Refuse to make anew an owned folder that was removed: its settings are gone."""
    for owned, identity in _owned.items():
        if folder.resolve().is_relative_to(owned):
            status = owned.stat() if owned.exists() else None
            if status is None or (status.st_dev, status.st_ino) != identity:
                raise InputError(
                    f"folder {str(owned)!r} was removed or replaced during the run; "
                    "run the command again"
                )


def _unwritable(folder: Path, error: OSError) -> InputError:
    reason = error.strerror or str(error)
    return InputError(
        f"cannot write into folder {str(folder)!r}: {reason}; choose another output folder"
    )


def _owner(note: Path) -> str:
    """Return what is known of the process that owns a folder."""
    try:
        known = json.loads(note.read_text(encoding="utf-8"))
        return "process {pid} on {host} ({command})".format(**known)
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
