"""Downloads: resumable, checked, never half there."""

import os
import queue
import re
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from http.client import HTTPException
from pathlib import Path
from time import monotonic, sleep
from typing import IO, Any
from urllib.parse import unquote, urlsplit

import requests
from filelock import FileLock
from urllib3.exceptions import HTTPError

from steerlab.errors import InputError
from steerlab.files import HIDDEN, file_hash, visible_change, writable_folder
from steerlab.readers.text import LARGEST_TEXT, parse_json

LARGEST_DOWNLOAD = 2**33  # bytes
_BLOCK = 1 << 16
_OVERLAP = 1 << 14  # bytes that are asked for again, to see that it is the same file
_RETRIED = {408, 429, 500, 502, 503, 504}
#: Called with bytes (or files) done and in total; a total of 0 is unknown.
Progress = Callable[[int, int], None]


class _BrokenOffError(Exception):
    """An answer did not arrive to its end."""


class Fetcher:
    """HTTP with repetitions, and downloads that go on where they broke off.

    Addresses may be signed, so no message shows their query. A server is a stranger: answers have
    limits on size and time, and what it says of a range is checked.

    Args:
        retries: Repetitions of a request that fails.
        backoff: Seconds before the first repetition; doubles with each. A ``Retry-After`` of the
            server is obeyed up to a minute.
        timeout: Seconds without an answer after which a request has failed.
    """

    def __init__(self, retries: int = 5, backoff: float = 0.5, timeout: float = 30.0) -> None:
        self.retries, self.backoff, self.timeout = retries, backoff, timeout

    def get(self, url: str, headers: Mapping[str, str], what: str) -> requests.Response:
        """Return the answer to a GET, whatever its status, after repetitions where they help.

        Its body has not been read.

        Raises:
            InputError: The address is none, the server does not answer, or stays busy.
        """
        # Compressed answers would be counted in other bytes than those that arrive.
        asked = {**headers, "Accept-Encoding": "identity"}
        reason = ""
        for attempt in range(self.retries + 1):
            if attempt:
                sleep(self._pause(attempt, reason))
            try:
                answer = _within(
                    2 * self.timeout,
                    lambda: requests.get(url, headers=asked, timeout=self.timeout, stream=True),
                )
            except (requests.ConnectionError, requests.Timeout, TimeoutError) as error:
                reason = type(error).__name__
                continue
            except (
                requests.RequestException,
                HTTPError,
                HTTPException,
                ValueError,
                OSError,
            ) as error:
                raise InputError(
                    f"cannot ask {without_query(url)!r} for {what!r} ({type(error).__name__}); "
                    "check the address"
                ) from error
            if answer.status_code not in _RETRIED:
                return answer
            reason = f"{answer.status_code} {answer.headers.get('Retry-After', '')}".strip()
            answer.close()
        raise InputError(
            f"{without_query(url)} does not answer for {what!r} ({reason}, {self.retries + 1} "
            "attempts); try again later: what is there already is kept"
        )

    def get_json(self, url: str, headers: Mapping[str, str], what: str) -> tuple[int, Any]:
        """Return status and JSON of the answer to a GET.

        Raises:
            InputError: See :meth:`get`, or the answer is no JSON, too large or too slow.
        """
        with self.get(url, headers, what) as answer:
            data = bytearray()
            end = monotonic() + self.timeout
            try:
                for block in self._blocks(answer):
                    data += block
                    if len(data) > LARGEST_TEXT or monotonic() > end:
                        raise InputError(
                            f"{without_query(url)} answers for {what!r} with more than "
                            f"{LARGEST_TEXT:,} bytes, or for longer than {self.timeout:g} s"
                        )
            except _BrokenOffError as error:
                raise InputError(
                    f"the answer of {without_query(url)} for {what!r} breaks off ({error}); try again"
                ) from error
            return answer.status_code, parse_json(
                bytes(data), f"the answer of {without_query(url)} for {what!r}"
            )

    def download(
        self,
        url: str,
        path: Path,
        progress: Progress = lambda done, total: None,
        largest: int = LARGEST_DOWNLOAD,
    ) -> None:
        """Download to ``path``, which appears only when it is whole.

        What has arrived waits in ``<path>.part``; this call and later ones ask for the rest only, and
        for a little of what is there already: if that is not the same, they begin anew.

        Args:
            url: Address.
            path: The file to make.
            progress: See :data:`Progress`.
            largest: Bytes it may have.

        Raises:
            InputError: The server refuses, the file is too large, or the connection breaks too often.
        """
        known = path.exists()
        hidden = path.parent / HIDDEN
        hidden.mkdir(exist_ok=True)
        with FileLock(hidden / f"{path.name}.lock"):  # one process a download
            if path.exists() and not known:
                return  # another process made it in the meantime
            for attempt in range(self.retries + 1):
                if attempt:
                    sleep(self._pause(attempt, ""))
                if self._attempt(url, path, progress, largest):
                    return
        raise InputError(
            f"the download of {without_query(url)} breaks off again and again; "
            "run again to go on from there"
        )

    def _attempt(self, url: str, path: Path, progress: Progress, largest: int) -> bool:
        """Download what is missing; return whether the file is whole."""
        part = path.with_name(path.name + ".part")
        have = part.stat().st_size if part.exists() else 0
        start = max(have - _OVERLAP, 0)
        headers = {"Range": f"bytes={start}-"} if have else {}
        with self.get(url, headers, path.name) as answer:
            if answer.status_code == 416:  # another file: start afresh
                part.unlink(missing_ok=True)
                return False
            if answer.status_code not in (200, 206):
                raise InputError(
                    f"cannot download {without_query(url)} ({answer.status_code}); check the "
                    "address (signed ones expire: run again to get new ones), or give a mirror"
                )
            if answer.status_code == 200:
                start = have = 0  # the server sends everything
            total = _total(answer, start)
            if total < 0:  # not what was asked for
                part.unlink(missing_ok=True)
                return False
            if max(total, have) > largest:
                raise InputError(f"{without_query(url)} has more than {largest:,} bytes")
            with part.open("r+b" if have else "w+b") as file:
                file.seek(start)
                same = file.read()
                file.seek(start)
                try:
                    done = self._receive(answer, file, same, total, largest, progress)
                except _BrokenOffError:
                    return False
        if done is None:
            part.unlink(missing_ok=True)
            return False
        if total and done != total:
            return False
        with visible_change(path):
            os.replace(part, path)
        return True

    def _receive(
        self,
        answer: requests.Response,
        file: IO[bytes],
        same: bytes,
        total: int,
        largest: int,
        progress: Progress,
    ) -> int | None:
        """Write what arrives; return how long the file is, or None if it does not begin with ``same``."""
        head = b""
        for block in self._blocks(answer):
            if len(head) < len(same):
                head += block
                if head[: len(same)] != same[: len(head)]:
                    return None
            file.write(block)
            if file.tell() > (total or largest):
                return None
            progress(file.tell(), total)
        return file.tell() if len(head) >= len(same) else -1

    def _blocks(self, answer: requests.Response) -> Iterator[bytes]:
        """Yield the body as it arrives.

        Raises:
            _BrokenOffError: It does not arrive to its end, or at less than 1 kB/s.
            InputError: It is packed.
        """
        if answer.headers.get("Content-Encoding", "identity").strip().lower() != "identity":
            raise InputError(
                f"{without_query(answer.url)} sends a packed answer, which nobody asked for"
            )
        start, arrived = monotonic(), 0
        while data := _read(answer):
            arrived += len(data)
            yield data
            if monotonic() - start > self.timeout:
                if arrived < 1000 * self.timeout:
                    raise _BrokenOffError("less than 1 kB/s")
                start, arrived = monotonic(), 0

    def _pause(self, attempt: int, reason: str) -> float:
        asked = reason.rpartition(" ")[2]
        if re.fullmatch("[0-9]{1,6}", asked) and " " in reason:
            return min(float(asked), 60.0)
        return min(self.backoff * 2 ** (attempt - 1), 60.0)


def _read(answer: requests.Response) -> bytes:
    """Return the next bytes of a body, whatever has arrived; none at its end."""
    try:
        data: bytes = answer.raw.read1(_BLOCK)
    except (HTTPError, HTTPException, OSError, ValueError) as error:
        raise _BrokenOffError(type(error).__name__) from error
    return data


def _total(answer: requests.Response, start: int) -> int:
    """Return how long the whole file is; 0 if the server does not say, -1 if it sends another part."""
    length = answer.headers.get("Content-Length", "")
    size = int(length) if re.fullmatch("[0-9]{1,15}", length) else 0
    if answer.status_code == 200:
        return size
    found = re.fullmatch(
        r"bytes ([0-9]{1,15})-([0-9]{1,15})/([0-9]{1,15})", answer.headers.get("Content-Range", "")
    )
    if not found:
        return -1
    first, last, total = map(int, found.groups())
    whole = first == start and last == total - 1 and size in (0, last - first + 1)
    return total if whole else -1


def _within(seconds: float, work: Callable[[], requests.Response]) -> requests.Response:
    """Return what ``work`` returns; headers that come byte by byte never time out on their own.

    Raises:
        TimeoutError: It takes longer.
    """
    found: queue.SimpleQueue[requests.Response | BaseException] = queue.SimpleQueue()

    def run() -> None:
        try:
            found.put(work())
        except BaseException as error:  # noqa: BLE001 - raised again by the caller
            found.put(error)

    threading.Thread(target=run, daemon=True).start()
    try:
        result = found.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f"no answer within {seconds:g} s") from None
    if isinstance(result, BaseException):
        raise result
    return result


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
            raise InputError(f"cannot read or copy {str(path)!r}: {error.strerror}") from error
    found = file_hash(arrived)
    if sha256 and found != sha256:
        arrived.unlink()
        raise InputError(
            f"{without_query(source)!r} has sha256 {found}, expected {sha256}; it was thrown away: "
            "try again, or use another mirror"
        )
    with visible_change(destination):
        os.replace(arrived, destination)
    return destination


def without_query(url: str) -> str:
    """Return an address without its query, where signatures are."""
    return url.partition("?")[0]
