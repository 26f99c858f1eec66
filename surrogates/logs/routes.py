"""Where logs come from: files, folders, mirrors, and comma's API with a download cache.

Formats and endpoints: commaai/openpilot, ``tools/lib`` (route.py, api.py, url_file.py).
"""

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from steerlab.errors import InputError, unknown_name
from steerlab.files import cache_folder as downloads, writable_folder
from steerlab.surrogates.fetch import Fetcher, without_query

API_HOST = "https://api.commadotai.com"
LOG_KINDS = ("auto", "rlog", "qlog")
PAGE = 100  # routes asked for at once

_LOG_ID = r"(?:\d{4}-\d\d-\d\d--\d\d-\d\d-\d\d|[0-9a-f]{8}--[0-9a-z]{10})"
_ROUTE = re.compile(
    rf"^(?P<dongle>[0-9a-f]{{16}})[|/_](?P<log>{_LOG_ID})"
    r"(?:(?:--|/)(?P<range>-?\d*(?::-?\d*){0,2}))?(?:/(?P<kind>[qra]))?$"
)
_FILE = re.compile(r"^(?P<kind>[rq]log)(?:\.(?:bz2|zst))?$")
_FOLDER = re.compile(rf"^(?:[0-9a-f]{{16}}[|_])?(?P<log>{_LOG_ID})--(?P<number>\d+)$")
_FLAT = re.compile(r"^(?P<route>.+)--(?P<number>\d+)--(?P<kind>[rq]log)(?:\.(?:bz2|zst))?$")
_KINDS = {"q": "qlog", "r": "rlog", "a": "auto"}


@dataclass(frozen=True, order=True)
class LogFile:
    """One log of one minute.

    Attributes:
        route: Route name ``dongle|log id``, or the name of the folder or file it came from.
        number: Minute of the route.
        place: Local path or URL.
    """

    route: str
    number: int
    place: str

    @property
    def key(self) -> str:
        """A name that can be a file name."""
        return f"{re.sub(r'[^0-9A-Za-z._-]', '_', self.route)}--{self.number:04d}"


@dataclass(frozen=True)
class RouteName:
    """A route, perhaps only some of its minutes.

    Attributes:
        dongle: Identity of the device, 16 hexadecimal digits.
        log: Identity of the drive.
        part: Minutes that are wanted.
        kind: rlog, qlog, auto (rlog where there is one), or empty if the name does not say.
    """

    dongle: str
    log: str
    part: slice = field(default_factory=lambda: slice(None))
    kind: str = ""

    @property
    def canonical(self) -> str:
        """The name that the API uses."""
        return f"{self.dongle}|{self.log}"


def parse_route(text: str) -> RouteName | None:
    """Read a route name, with a minute or range and a kind if it has them; None if it is none.

    >>> parse_route("0123456789abcdef/2024-01-02--03-04-05/2:6/q").part
    slice(2, 6, None)
    """
    match = _ROUTE.match(text.strip())
    if match is None:
        return None
    bounds = [int(b) if b else None for b in (match["range"] or ":").split(":")]
    if len(bounds) == 1 and bounds[0] is not None:
        part = slice(bounds[0], bounds[0] + 1 or None)
    else:
        part = slice(*bounds)
    return RouteName(match["dongle"], match["log"], part, _KINDS.get(match["kind"] or "", ""))


class CommaApi:
    """comma's API: which logs a route has, and which routes a device.

    Args:
        host: Address of the service.
        token: JSON web token; None reads ``~/.comma/auth.json``, an empty one asks as nobody,
            which is enough for public routes.
        retries: How often a request is repeated after a refusal that may pass (429, 5xx) or a
            lost connection.
        backoff: Seconds before the first repetition; each further wait is twice as long. A
            ``Retry-After`` of the server is obeyed.
    """

    def __init__(
        self,
        host: str | None = None,
        token: str | None = None,
        retries: int = 5,
        backoff: float = 0.5,
    ) -> None:
        self.host = (host or os.environ.get("API_HOST") or API_HOST).rstrip("/")
        self.token = _saved_token() if token is None else token
        self.fetch = Fetcher(retries, backoff)

    def logs(self, route: RouteName, kind: str = "auto") -> list[LogFile]:
        """Return the logs of a route in the order of its minutes.

        Args:
            route: The route; its own kind comes before ``kind``.
            kind: rlog, qlog or auto.

        Raises:
            InputError: The route is unknown, private, or has no such logs.
        """
        listed = self._get(f"v1/route/{quote(route.canonical)}/files", route.canonical)
        found: dict[str, dict[int, str]] = {"rlog": {}, "qlog": {}}
        for urls in listed.values():
            for url in urls if isinstance(urls, list) else ():
                parts = unquote(urlsplit(url).path).split("/")
                match = _FILE.match(parts[-1])
                if match and len(parts) > 1 and parts[-2].isdigit():
                    found[match["kind"]][int(parts[-2])] = url
        return _choose(route.canonical, found, route.part, route.kind or kind)

    def routes(
        self, dongle: str, limit: int = 0, git_commits: Sequence[str] = ()
    ) -> Iterator[RouteName]:
        """Yield the routes of a device, newest first as the API has them.

        Args:
            dongle: Identity of the device.
            limit: At most so many routes; 0 for all.
            git_commits: Only routes recorded by one of these commits; a prefix is enough.

        Raises:
            InputError: The device is unknown or another user's.
        """
        given = 0
        seen: set[str] = set()
        for offset in range(0, 10**9, PAGE):
            page = self._get(
                f"v1/devices/{quote(dongle)}/routes_segments?limit={PAGE}&offset={offset}", dongle
            )
            for entry in page:
                name = parse_route(str(entry.get("fullname", "")))
                commit = str(entry.get("git_commit") or "")
                if name is None or name.canonical in seen:
                    continue
                if git_commits and not any(commit.startswith(c) for c in git_commits):
                    continue
                seen.add(name.canonical)
                yield name
                given += 1
                if given == limit:
                    return
            if len(page) < PAGE:
                return

    def _get(self, endpoint: str, what: str) -> Any:
        headers = {"Authorization": f"JWT {self.token}"} if self.token else {}
        answer = self.fetch.get(f"{self.host}/{endpoint}", headers, what)
        try:
            body = answer.json()
        except ValueError as error:
            raise InputError(f"{self.host} gave no JSON for {what!r}; check api_host") from error
        if answer.status_code in (401, 403):
            raise InputError(
                f"{self.host} refuses {what!r} ({answer.status_code}, {_said(body)}); sign in with "
                "openpilot's tools/lib/auth.py, or make the route public"
            )
        if answer.status_code != 200:
            raise InputError(
                f"{self.host} has nothing for {what!r} ({answer.status_code}, {_said(body)}); "
                "check the name"
            )
        return body


def cache_folder() -> Path | None:
    """Return where downloads are kept, or None if they are not to be.

    ``COMMA_CACHE`` names the folder, as in openpilot; ``FILEREADER_CACHE=0`` or
    ``DISABLE_FILEREADER_CACHE=1`` switches the cache off.
    """
    if os.environ.get("FILEREADER_CACHE") == "0":
        return None
    if os.environ.get("DISABLE_FILEREADER_CACHE", "0") not in ("", "0"):
        return None
    folder = os.environ.get("COMMA_CACHE")
    return Path(folder) if folder else downloads() / "logs"


@contextmanager
def local_copy(place: str, fetch: Fetcher | None = None) -> Iterator[Path]:
    """Yield a local file with the log at ``place`` (path, file:// or http(s) address).

    A download is kept in :func:`cache_folder` under a hash of the address without its query, since
    signatures change; without a cache it is deleted afterwards.

    Raises:
        InputError: There is no such file, or it cannot be downloaded.
    """
    parts = urlsplit(place)
    if parts.scheme not in ("http", "https"):
        path = Path(unquote(parts.path)) if parts.scheme == "file" else Path(place)
        if not path.is_file():
            raise InputError(f"there is no log {str(path)!r}; check the path")
        yield path
        return
    fetch = fetch or Fetcher()
    name = hashlib.sha256(without_query(place).encode()).hexdigest()
    folder = cache_folder()
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="steerlab-") as temporary:
            path = Path(temporary, name)
            fetch.download(place, path)
            yield path
        return
    path = writable_folder(folder) / name
    if not path.exists():
        fetch.download(place, path)
    yield path


def find_logs(
    routes: Iterable[str],
    kind: str = "auto",
    api: CommaApi | None = None,
    mirror: str | None = None,
) -> Iterator[LogFile]:
    """Yield the logs behind route names, paths and addresses, one route after the other.

    Args:
        routes: Route names (with a range of minutes if wanted), paths of logs or of folders of
            logs, or file:// and http(s) addresses of logs.
        kind: rlog, qlog, or auto for the rlog where there is one.
        api: Asked for route names.
        mirror: Folder (or its file:// address) that is searched for route names instead.

    Raises:
        InputError: A route is neither found nor well formed.
    """
    if kind not in LOG_KINDS:
        raise unknown_name("log kind", kind, LOG_KINDS)
    for text in routes:
        name = parse_route(text)
        parts = urlsplit(text)
        if name is not None and mirror is not None:
            yield from _search(_folder(mirror), name, kind)
        elif name is not None:
            if api is None:
                raise InputError(f"route {text!r} needs comma's API or a mirror")
            yield from api.logs(name, kind)
        elif parts.scheme in ("http", "https"):
            yield _single(unquote(parts.path), text)
        else:
            path = _folder(text)
            if path.is_dir():
                yield from _search(path, None, kind)
            elif path.is_file():
                yield _single(str(path), str(path))
            else:
                raise InputError(
                    f"{text!r} is neither a route name (dongle/log id), a log, nor a folder of logs"
                )


def read_routes_file(path: str | Path) -> list[str]:
    """Return the routes of a text file: one a line, ``#`` starts a comment.

    Raises:
        InputError: The file does not exist or names no route.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read routes_file={str(path)!r}: {error}") from error
    routes = [text for line in lines if (text := line.partition("#")[0].strip())]
    if not routes:
        raise InputError(f"routes_file={str(path)!r} names no route; write one a line")
    return routes


def _folder(text: str) -> Path:
    parts = urlsplit(text)
    return Path(unquote(parts.path)) if parts.scheme == "file" else Path(text).expanduser()


def _single(path: str, place: str) -> LogFile:
    """Return the log at a path, its route and minute read from the path where that tells them."""
    route, number, _ = _place(Path(path))
    return LogFile(route, number, place)


def _place(path: Path) -> tuple[str, int, str]:
    """Return route, minute and kind of a log, from the three ways in which logs are stored."""
    if match := _FLAT.match(path.name):
        route, number, kind = match["route"], int(match["number"]), match["kind"]
    else:
        file = _FILE.match(path.name)
        kind = file["kind"] if file else "rlog"
        if match := _FOLDER.match(path.parent.name):
            route, number = path.parent.name.rpartition("--")[0], int(match["number"])
        elif path.parent.name.isdigit() and file:
            grand = path.parent.parent
            route, number = f"{grand.parent.name}_{grand.name}", int(path.parent.name)
        else:
            route, number = path.name.partition(".")[0], 0
    name = parse_route(route)
    return (name.canonical if name else route), number, kind


def _search(folder: Path, name: RouteName | None, kind: str) -> Iterator[LogFile]:
    """Yield the logs below a folder, of all routes or of one."""
    if not folder.is_dir():
        raise InputError(f"there is no folder {str(folder)!r}; check the mirror")
    found: dict[str, dict[str, dict[int, str]]] = {}
    for path in sorted(folder.rglob("*log*")):
        if not (_FILE.match(path.name) or _FLAT.match(path.name)):
            continue
        route, number, which = _place(path)
        parsed = parse_route(route)
        if name and (parsed.canonical if parsed else route) not in (name.canonical, name.log):
            continue
        found.setdefault(route, {"rlog": {}, "qlog": {}})[which][number] = str(path)
    if not found:
        wanted = f"logs of {name.canonical!r}" if name else "logs (rlog or qlog, .zst, .bz2)"
        raise InputError(f"{str(folder)!r} holds no {wanted}")
    for route, logs in sorted(found.items()):
        part = name.part if name else slice(None)
        yield from _choose(
            name.canonical if name else route, logs, part, (name.kind if name else "") or kind
        )


def _choose(route: str, found: dict[str, dict[int, str]], part: slice, kind: str) -> list[LogFile]:
    """Return the wanted minutes, each as the wanted kind."""
    places = found["qlog"] | found["rlog"] if kind == "auto" else found[kind]
    if not places:
        other = [k for k, logs in found.items() if logs]
        have = f"it has {other[0]}s: use log={other[0]}" if other else "none was uploaded"
        raise InputError(f"route {route!r} has no {'logs' if kind == 'auto' else kind}; {have}")
    wanted = range(max(places) + 1)[part]
    return [LogFile(route, n, places[n]) for n in sorted(wanted) if n in places]


def _saved_token() -> str:
    path = Path.home() / ".comma" / "auth.json"
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["access_token"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _said(body: Any) -> str:
    """Return what the service says about an error."""
    if not isinstance(body, dict):
        return "no reason given"
    return str(body.get("description") or body.get("error") or "no reason given")
