"""Where logs come from: files, folders, mirrors, and comma's API with a download cache.

Formats and endpoints: commaai/openpilot, ``tools/lib`` (route.py, api.py, url_file.py).
"""

import hashlib
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, unquote, urlsplit

from steerlab.errors import InputError, unknown_name
from steerlab.files import cache_folder as downloads, writable_folder
from steerlab.readers.text import read_json, read_text
from steerlab.surrogates.fetch import Fetcher, without_query

API_HOST = "https://api.commadotai.com"
LOG_KINDS = ("auto", "rlog", "qlog")
PAGE = 100  # routes asked for at once
MOST_ROUTES = 100_000  # of a device
LARGEST_LOG = 2**30  # bytes of a download
_NUMBER = re.compile("[0-9]{1,4}$")

_LOG_ID = r"(?:\d{4}-\d\d-\d\d--\d\d-\d\d-\d\d|[0-9a-f]{8}--[0-9a-z]{10})"
_ROUTE = re.compile(
    rf"^(?P<dongle>[0-9a-f]{{16}})[|/_](?P<log>{_LOG_ID})"
    r"(?:(?:--|/)(?P<range>-?\d{0,6}(?::-?\d{0,6}){0,2}))?(?:/(?P<kind>[qra]))?$"
)
_FILE = re.compile(r"^(?P<kind>[rq]log)(?:\.(?:bz2|zst))?$")
_FOLDER = re.compile(rf"^(?:[0-9a-f]{{16}}[|_])?(?P<log>{_LOG_ID})--(?P<number>\d+)$")
_ROUTE_FOLDER = re.compile(rf"^(?:[0-9a-f]{{16}}[|_])?{_LOG_ID}$")
_FLAT = re.compile(r"^(?P<route>.+)--(?P<number>\d+)--(?P<kind>[rq]log)(?:\.(?:bz2|zst))?$")
_Log = TypeVar("_Log")
_KINDS = {"q": "qlog", "r": "rlog", "a": "auto"}


@dataclass(frozen=True, order=True)
class LogFile:
    """One log of one minute.

    Attributes:
        route: Route name ``dongle|log id``, or the name of the folder or file it came from.
        number: Minute of the route.
        place: Local path or URL.
        named: ``route`` is the name of a drive. If not, its contents say which drive it is.
        numbered: ``number`` is given. If not, its contents say which minute it is.
        copy: The name is taken by another file.
    """

    route: str
    number: int
    place: str
    named: bool = True
    numbered: bool = True
    copy: bool = False

    @property
    def key(self) -> str:
        """A name that can be a file name."""
        name = f"{re.sub(r'[^0-9A-Za-z._-]', '_', self.route)}--{self.number:04d}"
        if self.named and not self.copy:
            return name
        # Behind the place, not the contents: those are not known before it is read.
        place = hashlib.sha256(self.address.encode()).hexdigest()[:8]
        return f"{name.rpartition('--')[0]}-{place}--{self.number:04d}"

    @property
    def address(self) -> str:
        """Where it is: an absolute path, or an address without its signature."""
        parts = urlsplit(self.place)
        if parts.scheme in ("http", "https"):
            return without_query(self.place)
        return str(Path(unquote(parts.path) if parts.scheme == "file" else self.place).resolve())


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
        listed = self._get(f"v1/route/{quote(route.canonical)}/files", route.canonical, dict)
        found: dict[str, dict[int, LogFile]] = {"rlog": {}, "qlog": {}}
        for urls in listed.values():
            for url in urls if isinstance(urls, list) else ():
                parts = _path_of(url).split("/")
                match = _FILE.match(parts[-1])
                if match and len(parts) > 1 and _NUMBER.match(parts[-2]):
                    number = int(parts[-2])
                    found[match["kind"]][number] = LogFile(route.canonical, number, url)
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
        for offset in range(0, MOST_ROUTES, PAGE):
            page = self._get(
                f"v1/devices/{quote(dongle)}/routes_segments?limit={PAGE}&offset={offset}",
                dongle,
                list,
            )
            before = len(seen)
            for entry in page:
                if not isinstance(entry, dict):
                    raise InputError(
                        f"{self.host} lists {str(entry)[:100]!r} as a route of {dongle!r}"
                    )
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
            if len(seen) == before and not git_commits:
                raise InputError(
                    f"{self.host} repeats the same routes of {dongle!r} without an end"
                )
        raise InputError(f"{self.host} lists more than {MOST_ROUTES:,} routes of {dongle!r}")

    def _get(self, endpoint: str, what: str, kind: type) -> Any:
        headers = {"Authorization": f"JWT {self.token}"} if self.token else {}
        try:
            status, body = self.fetch.get_json(f"{self.host}/{endpoint}", headers, what)
        except InputError as error:
            raise InputError(f"{error}; check api_host={self.host}") from error
        if status in (401, 403):
            raise InputError(
                f"{self.host} refuses {what!r} ({status}, {_said(body)}); sign in with "
                "openpilot's tools/lib/auth.py, or make the route public"
            )
        if status != 200:
            raise InputError(
                f"{self.host} has nothing for {what!r} ({status}, {_said(body)}); check the name"
            )
        if not isinstance(body, kind):
            raise InputError(
                f"{self.host} answers for {what!r} with {str(body)[:100]!r}; check api_host"
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
            fetch.download(place, path, largest=LARGEST_LOG)
            yield path
        return
    path = writable_folder(folder) / name
    if not path.exists():
        fetch.download(place, path, largest=LARGEST_LOG)
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
        lines = read_text(path).splitlines()
    except InputError as error:
        raise InputError(f"cannot read routes_file={str(path)!r}: {error}") from error
    routes = [text for line in lines if (text := line.partition("#")[0].strip())]
    if not routes:
        raise InputError(f"routes_file={str(path)!r} names no route; write one a line")
    return routes


def _folder(text: str) -> Path:
    parts = urlsplit(text)
    return Path(unquote(parts.path)) if parts.scheme == "file" else Path(text).expanduser()


def _single(path: str, place: str) -> LogFile:
    """Return the log at a path, its route and minute read from the path where it holds them."""
    return _place(Path(path), place)[0]


def _place(path: Path, place: str) -> tuple[LogFile, str]:
    """Return a log with route and minute from its path, and its kind.

    Logs are stored in three ways, and in folders of their users' own. There the name of the file's
    folder stands for a route until the contents show it.
    """
    folder = path.parent
    if match := _FLAT.match(path.name):
        return _named(match["route"], int(match["number"]), place), match["kind"]
    file = _FILE.match(path.name)
    kind = file["kind"] if file else "rlog"
    if match := _FOLDER.match(folder.name):
        return _named(folder.name.rpartition("--")[0], int(match["number"]), place), kind
    if file and folder.name.isdigit():
        grand = folder.parent
        return _named(f"{grand.parent.name}_{grand.name}", int(folder.name), place), kind
    if file and _ROUTE_FOLDER.match(folder.name):
        log = _named(folder.name, 0, place)
        return replace(log, numbered=False), kind
    name = folder.name if file else path.name.partition(".")[0]
    return LogFile(name or "log", 0, place, named=False, numbered=False), kind


def _named(route: str, number: int, place: str) -> LogFile:
    name = parse_route(route)
    return LogFile(name.canonical if name else route, number, place)


def _search(folder: Path, name: RouteName | None, kind: str) -> Iterator[LogFile]:
    """Yield the logs below a folder, of all routes or of one."""
    if not folder.is_dir():
        raise InputError(f"there is no folder {str(folder)!r}; check the mirror")
    # By route; there, the files of each kind by minute, or by folder where it is unknown.
    found: dict[str, dict[str, dict[Any, list[LogFile]]]] = {}
    for path in sorted(folder.rglob("*log*")):
        if not path.is_file() or not (_FILE.match(path.name) or _FLAT.match(path.name)):
            continue
        log, which = _place(path, str(path))
        if name and not (log.named and log.route in (name.canonical, name.log)):
            continue
        route = log.route if log.named else str(path.parent)
        if name:
            log = replace(log, route=name.canonical)
        logs = found.setdefault(route, {"rlog": {}, "qlog": {}})
        logs[which].setdefault(log.number if log.numbered else 0, []).append(log)
    if not found:
        wanted = f"logs of {name.canonical!r}" if name else "logs (rlog or qlog, .zst, .bz2)"
        raise InputError(f"{str(folder)!r} holds no {wanted}")
    part = name.part if name else slice(None)
    chosen = [
        _choose(route, logs, part, (name.kind if name else "") or kind)
        for route, logs in sorted(found.items())
    ]  # all at once: what is missing is known before the first log is read
    for copies in (minute for minutes in chosen for minute in minutes):
        yield copies[0]
        yield from (replace(log, copy=True) for log in copies[1:])


def _choose(
    route: str, found: Mapping[str, Mapping[int, _Log]], part: slice, kind: str
) -> list[_Log]:
    """Return the wanted minutes, each as the wanted kind."""
    places = {**found["qlog"], **found["rlog"]} if kind == "auto" else found[kind]
    if not places:
        other = [k for k, logs in found.items() if logs]
        have = f"it has {other[0]}s: use log={other[0]}" if other else "none was uploaded"
        raise InputError(f"route {route!r} has no {'logs' if kind == 'auto' else kind}; {have}")
    wanted = range(max(places) + 1)[part]
    return [places[n] for n in sorted(wanted) if n in places]


def _path_of(url: Any) -> str:
    """Return the path of an address that a server lists.

    Raises:
        InputError: It is no address.
    """
    try:
        return unquote(urlsplit(url).path)
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{str(url)[:100]!r} is listed as a log, but is no address") from error


def _saved_token() -> str:
    path = Path.home() / ".comma" / "auth.json"
    try:
        token = str(read_json(path, dict).get("access_token", ""))
    except InputError:
        return ""
    return token if token.isascii() and token.isprintable() else ""


def _said(body: Any) -> str:
    """Return what the service says about an error."""
    if not isinstance(body, dict):
        return "no reason given"
    return str(body.get("description") or body.get("error") or "no reason given")[:200]
