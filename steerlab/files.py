"""Files that are either whole or absent."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from platformdirs import user_cache_path

from steerlab.errors import InputError


def cache_folder() -> Path:
    """Return the folder of downloads and of what is computed once: ``STEERLAB_CACHE``, or the user's."""
    return Path(os.environ.get("STEERLAB_CACHE") or user_cache_path("steerlab"))


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` and rename it to ``path`` if the block succeeds.

    A reader never sees a half-written file, and a failed or interrupted block leaves what was
    there before. The temporary name keeps the suffix, which many writers choose their format by.

    Raises:
        InputError: The folder of ``path`` cannot be written.
    """
    path = Path(path)
    writable_folder(path.parent)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
    os.close(handle)
    os.chmod(name, 0o666 & ~_umask())
    temporary = Path(name)
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def writable_folder(folder: str | Path) -> Path:
    """Create ``folder`` if needed and prove that a file can be written into it.

    Raises:
        InputError: The folder cannot be made or written.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(
            f"cannot write into folder {str(folder)!r}: {reason}; choose another output folder"
        ) from error
    return folder


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
