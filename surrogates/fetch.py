"""Downloads: resumable, checked, never half there."""

import hashlib
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from time import sleep
from typing import Any
from urllib.parse import unquote, urlsplit

import requests

from steerlab.errors import InputError
from steerlab.files import writable_folder

_BLOCK = 1 << 16
_RETRIED = {408, 429, 500, 502, 503, 504}
#: Called with bytes (or files) done and in total; a total of 0 is one that nobody told.
Progress = Callable[[int, int], None]


class Fetcher:
    """HTTP with repetitions, and downloads that go on where they broke off.

    Addresses may be signed, so no message shows their query.

    Args:
        retries: Repetitions of a request that fails.
        backoff: Seconds before the first repetition; doubles with each. A ``Retry-After`` of the
            server is obeyed.
        timeout: Seconds without an answer after which a request has failed.
    """

    def __init__(self, retries: int = 5, backoff: float = 0.5, timeout: float = 30.0) -> None:
        self.retries, self.backoff, self.timeout = retries, backoff, timeout

    def get(self, url: str, headers: Mapping[str, str], what: str, stream: bool = False) -> Any:
        """Return the answer to a GET, whatever its status, after repetitions where they help.

        Raises:
            InputError: The server does not answer, or stays busy.
        """
        reason = ""
        for attempt in range(self.retries + 1):
            if attempt:
                sleep(self._pause(attempt, reason))
            try:
                answer = requests.get(url, headers=headers, timeout=self.timeout, stream=stream)
            except requests.RequestException as error:
                reason = type(error).__name__
                continue
            if answer.status_code not in _RETRIED:
                return answer
            reason = f"{answer.status_code} {answer.headers.get('Retry-After', '')}".strip()
            answer.close()
        raise InputError(
            f"{without_query(url)} does not answer for {what!r} ({reason}, {self.retries + 1} "
            "attempts); try again later: what is there already is kept"
        )

    def download(self, url: str, path: Path, progress: Progress = lambda done, total: None) -> None:
        """Download to ``path``, which appears only when it is whole.

        What has arrived waits in ``<path>.part``; this call and later ones ask for the rest only.

        Raises:
            InputError: The server refuses, or the connection breaks too often.
        """
        part = path.with_name(path.name + ".part")
        for attempt in range(self.retries + 1):
            if attempt:
                sleep(self._pause(attempt, ""))
            have = part.stat().st_size if part.exists() else 0
            headers = {"Range": f"bytes={have}-"} if have else {}
            # Compressed answers would be counted in other bytes than those that arrive.
            headers["Accept-Encoding"] = "identity"
            with self.get(url, headers, path.name, stream=True) as answer:
                if answer.status_code == 416:  # nothing left, or another file: start afresh
                    part.unlink(missing_ok=True)
                    continue
                if answer.status_code not in (200, 206):
                    raise InputError(
                        f"cannot download {without_query(url)} ({answer.status_code}); check the "
                        "address (signed ones expire: run again to get new ones), or give a mirror"
                    )
                if answer.status_code == 200:
                    have = 0  # the server sends everything
                length = answer.headers.get("Content-Length")
                total = have + int(length) if length else 0
                try:
                    with part.open("ab" if have else "wb") as file:
                        for data in answer.iter_content(_BLOCK):
                            file.write(data)
                            have += len(data)
                            progress(have, total)
                except requests.RequestException:
                    continue
            if total and have != total:
                continue
            os.replace(part, path)
            return
        raise InputError(
            f"the download of {without_query(url)} breaks off again and again; "
            "run again to go on from there"
        )

    def _pause(self, attempt: int, reason: str) -> float:
        asked = reason.split(" ")[1:]
        if asked and asked[0].isdigit():
            return min(float(asked[0]), 60.0)
        return min(self.backoff * 2 ** (attempt - 1), 60.0)


def fetch(
    source: str,
    destination: Path,
    sha256: str = "",
    *,
    fetcher: Fetcher | None = None,
    progress: Progress = lambda done, total: None,
) -> Path:
    """Bring ``source`` to ``destination`` and return that path.

    Args:
        source: Address (http, https, file) or local path.
        destination: The file to make; kept as it is if its hash is right already.
        sha256: Expected hash in hexadecimal; empty accepts any content of the right length.
        fetcher: Makes the requests.
        progress: See :data:`Progress`.

    Raises:
        InputError: The source cannot be had, or its hash is another.
    """
    if destination.exists() and sha256 in ("", file_hash(destination)):
        return destination
    writable_folder(destination.parent)
    arrived = destination.with_name(destination.name + ".unchecked")
    parts = urlsplit(source)
    if parts.scheme in ("http", "https"):
        (fetcher or Fetcher()).download(source, arrived, progress)
    else:
        path = Path(unquote(parts.path)) if parts.scheme == "file" else Path(source)
        try:
            shutil.copyfile(path, arrived)
        except OSError as error:
            raise InputError(f"cannot read {str(path)!r}: {error.strerror}") from error
    found = file_hash(arrived)
    if sha256 and found != sha256:
        arrived.unlink()
        raise InputError(
            f"{without_query(source)!r} has sha256 {found}, expected {sha256}; it was thrown away: "
            "try again, or use another mirror"
        )
    os.replace(arrived, destination)
    return destination


def file_hash(path: Path) -> str:
    """Return the sha256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def without_query(url: str) -> str:
    """Return an address without its query, where signatures are."""
    return url.partition("?")[0]
