"""Zip archives."""

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZIP_STORED

from steerlab.errors import InputError

LARGEST = 2**28  # bytes that anything may unpack to, besides 50 times the size of the archive
MOST_MEMBERS = 200_000


class Archive:
    """A zip archive whose members are read with a limit, and checked against its own sums.

    Attributes:
        names: Names of the members, folders left out. They are a stranger's: no path to write to.
    """

    def __init__(self, archive: zipfile.ZipFile, source: str, left: int) -> None:
        self._archive, self._source, self._left = archive, source, left
        self.names = tuple(n for n in archive.namelist() if not n.endswith("/"))
        if len(self.names) > MOST_MEMBERS:
            raise InputError(f"{source} has {len(self.names):,} files; give a smaller archive")

    def size(self, name: str) -> int:
        """Return how many bytes a member has, by its own word."""
        return self._archive.getinfo(name).file_size

    def read(self, name: str) -> bytes:
        """Return the contents of a member.

        Raises:
            InputError: It is damaged, encrypted, too large, or packed in an unknown way.
        """
        where = f"{name!r} in {self._source}"
        try:
            # The other ways of packing unpack without a limit.
            if self._archive.getinfo(name).compress_type not in (ZIP_STORED, ZIP_DEFLATED):
                raise InputError(f"{where} is packed in an unusual way; pack it with deflate")
            with self._archive.open(name) as member:
                data = member.read(self._left + 1)
                if len(data) > self._left or member.read(1):
                    raise InputError(f"{where} unpacks to more than an archive of its size may")
        except InputError:
            raise
        except Exception as error:  # BadZipFile, zlib.error, EOFError, RuntimeError, ...
            reason = str(error)[:200] or type(error).__name__
            raise InputError(f"{where} is damaged or cannot be unpacked ({reason})") from error
        self._left -= len(data)
        return data


@contextmanager
def open_archive(path: str | Path) -> Iterator[Archive]:
    """Yield the archive at ``path``.

    Raises:
        InputError: There is no such file, or it is no zip archive.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"there is no file {str(path)!r}; check the path")
    try:
        archive = zipfile.ZipFile(path)
    except Exception as error:
        reason = str(error)[:200] or type(error).__name__
        raise InputError(f"{str(path)!r} is no zip archive, or is damaged ({reason})") from error
    with archive:
        yield Archive(archive, repr(str(path)), LARGEST + 50 * path.stat().st_size)
