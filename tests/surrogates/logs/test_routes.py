"""Route names, mirrors, and the API client against a server that speaks as comma's does."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

pytest.importorskip("requests")

from steerlab.errors import InputError
from steerlab.surrogates.logs.routes import (
    CommaApi,
    Fetcher,
    LogFile,
    RouteName,
    cache_folder,
    find_logs,
    local_copy,
    parse_route,
    read_routes_file,
)

DONGLE = "0123456789abcdef"
ROUTES = [f"{DONGLE}|0000000{i:x}--aaaaaaaaa{i:x}" for i in range(5)]
ROUTE = ROUTES[0]
CONTENT = bytes(range(256)) * 3000


class Server(ThreadingHTTPServer):
    """The endpoints that openpilot's tools use, with errors that can be switched on."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.requests: list[tuple[str, str, str]] = []  # path, authorisation, range
        self.fail: list[tuple[int, dict[str, str]]] = []  # answers given before the true one
        self.cut = 0  # downloads that break off after half of the rest
        self.signature = 0


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        server = self.server
        url = urlsplit(self.path)
        token = self.headers.get("Authorization", "")
        server.requests.append((self.path, token, self.headers.get("Range", "")))
        if server.fail:
            status, headers = server.fail.pop(0)
            return self.reply(status, {"error": "busy"}, headers)
        parts = url.path.strip("/").split("/")
        if parts[0] == "files":
            return self.file()
        if token not in ("", "JWT good"):
            return self.reply(401, {"error": "unauthorized", "description": "bad token"})
        if parts[:2] == ["v1", "devices"]:
            if token != "JWT good":
                return self.reply(403, {"error": "forbidden"})
            query = parse_qs(url.query)
            first, count = int(query["offset"][0]), int(query["limit"][0])
            page = [
                {"fullname": r, "git_commit": f"c{i % 2}ffee", "maxqlog": 1}
                for i, r in enumerate(ROUTES)
            ][first : first + count]
            return self.reply(200, page)
        route = parts[2].replace("%7C", "|")
        if route not in ROUTES:
            return self.reply(404, {"error": "not_found", "description": "no such route"})
        server.signature += 1
        base = f"{server.url}/files/{route.replace('|', '/')}"
        sign = f"?sig=secret{server.signature}"
        qlogs = [f"{base}/{n}/qlog.zst{sign}" for n in (10, 0, 1, 2)]
        listed = {"qlogs": qlogs, "logs": [f"{base}/1/rlog.bz2{sign}"], "cameras": [f"{base}/0/f"]}
        return self.reply(200, listed)

    def file(self) -> None:
        wanted = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-")
        start = int(wanted)
        body = CONTENT[start:]
        self.send_response(206 if "Range" in self.headers else 200)
        if "Range" in self.headers:
            self.send_header("Content-Range", f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.server.cut:
            self.server.cut -= 1
            body = body[: len(body) // 2]
        self.wfile.write(body)

    def reply(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield running
        running.shutdown()


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FILEREADER_CACHE", "DISABLE_FILEREADER_CACHE", "API_HOST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COMMA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path))


def client(server: Server, token: str = "good", retries: int = 3) -> CommaApi:
    return CommaApi(server.url, token, retries, backoff=0.001)


@pytest.mark.parametrize(
    ("text", "part", "kind"),
    [
        (f"{DONGLE}|2024-01-02--03-04-05", slice(None), ""),
        (f"{DONGLE}/2024-01-02--03-04-05", slice(None), ""),
        (f"{DONGLE}_2024-01-02--03-04-05--7", slice(7, 8), ""),
        (f"{DONGLE}/2024-01-02--03-04-05/2:6/q", slice(2, 6), "qlog"),
        (f"{DONGLE}/2024-01-02--03-04-05/-1", slice(-1, None), ""),
        (f"{DONGLE}/2024-01-02--03-04-05/::2/r", slice(None, None, 2), "rlog"),
        (f"{DONGLE}/2024-01-02--03-04-05/a", slice(None), "auto"),
    ],
)
def test_route_names(text: str, part: slice, kind: str) -> None:
    assert parse_route(text) == RouteName(DONGLE, "2024-01-02--03-04-05", part, kind)


def test_what_is_no_route() -> None:
    for text in ("", "x", f"{DONGLE}/2024", f"{DONGLE[:-1]}|2024-01-02--03-04-05", "a/b.zst"):
        assert parse_route(text) is None
    assert parse_route(ROUTE) == RouteName(DONGLE, ROUTE[17:])


def test_logs_of_a_route(server: Server) -> None:
    api = client(server)
    name = parse_route(ROUTE)
    assert name is not None
    logs = api.logs(name)
    assert [(x.number, x.place.split("/")[-1][:4]) for x in logs] == [
        (0, "qlog"), (1, "rlog"), (2, "qlog"), (10, "qlog")]  # fmt: skip
    assert [x.number for x in api.logs(name, "rlog")] == [1]
    part = parse_route(f"{ROUTE}/1:3/q")
    assert part is not None
    assert [x.number for x in api.logs(part)] == [1, 2]
    assert all(token == "JWT good" for _, token, _ in server.requests)


def test_routes_of_a_device(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    import steerlab.surrogates.logs.routes as module

    monkeypatch.setattr(module, "PAGE", 2)
    api = client(server)
    assert [r.canonical for r in api.routes(DONGLE)] == ROUTES
    assert [r.canonical for r in api.routes(DONGLE, 3)] == ROUTES[:3]
    assert [r.canonical for r in api.routes(DONGLE, 2, ["c1"])] == ROUTES[1:4:2]
    assert [r.canonical for r in api.routes(DONGLE, 0, ["dead"])] == []


def test_errors_of_the_service(server: Server) -> None:
    with pytest.raises(InputError, match=r"nothing for.*404, no such route.*check the name"):
        client(server).logs(RouteName(DONGLE, "00000009--aaaaaaaaaa"))
    with pytest.raises(InputError, match=r"refuses.*401, bad token.*auth"):
        client(server, "wrong").logs(RouteName(DONGLE, ROUTE[17:]))
    with pytest.raises(InputError, match="403"):
        list(client(server, "").routes(DONGLE))


def test_refusals_that_pass_are_repeated(server: Server) -> None:
    server.fail = [(429, {"Retry-After": "0"}), (503, {}), (500, {})]
    assert client(server).logs(RouteName(DONGLE, ROUTE[17:]))
    assert len(server.requests) == 4
    server.fail = [(429, {})] * 9
    with pytest.raises(InputError, match=r"429, 3 attempts"):
        client(server, retries=2).logs(RouteName(DONGLE, ROUTE[17:]))
    gone = CommaApi("http://127.0.0.1:9", "good", 1, 0.001)
    with pytest.raises(InputError, match="does not answer"):
        gone.logs(RouteName(DONGLE, ROUTE[17:]))


def test_token_of_openpilot(server: Server, tmp_path: Path) -> None:
    assert CommaApi(server.url).token == ""
    (tmp_path / ".comma").mkdir()
    (tmp_path / ".comma/auth.json").write_text('{"access_token": "good"}')
    assert CommaApi(server.url).token == "good"


def test_downloads_go_on_where_they_broke_off(server: Server) -> None:
    server.cut = 2
    fetch = Fetcher(5, 0.001)
    with local_copy(f"{server.url}/files/a/rlog?sig=1", fetch) as path:
        assert path.read_bytes() == CONTENT
    offsets = [int(r[6:-1]) for _, _, r in server.requests[1:]]
    assert len(offsets) == 2
    assert 0 < offsets[0] < offsets[1] < len(CONTENT)
    assert all(token == "" for _, token, _ in server.requests)  # the token stays with the API
    with local_copy(f"{server.url}/files/a/rlog?sig=another", fetch) as path:
        assert path.read_bytes() == CONTENT  # the cache does not mind the signature
    assert len(server.requests) == 3
    server.cut = 99
    with pytest.raises(InputError, match="breaks off again and again") as error:
        Fetcher(1, 0.001).download(f"{server.url}/files/b?sig=secret", path.with_name("b"))
    assert "secret" not in str(error.value)
    assert not path.with_name("b").exists()


def test_refused_download_shows_no_signature(server: Server) -> None:
    server.fail = [(403, {})]
    with (
        pytest.raises(InputError, match="403") as error,
        local_copy(f"{server.url}/files/a?sig=secret"),
    ):
        pass
    assert "secret" not in str(error.value)


def test_cache_switches(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.setenv("DISABLE_FILEREADER_CACHE", "1")
    assert cache_folder() is None
    monkeypatch.delenv("DISABLE_FILEREADER_CACHE")
    monkeypatch.setenv("FILEREADER_CACHE", "0")
    with local_copy(f"{server.url}/files/a") as path:
        assert path.read_bytes() == CONTENT
    assert not path.exists()
    assert not (tmp_path / "cache").exists()
    monkeypatch.setenv("FILEREADER_CACHE", "1")
    assert cache_folder() == tmp_path / "cache"


@pytest.mark.parametrize(
    "layout", ["{log}--{n}/{kind}.zst", "{dongle}_{log}--{n}--{kind}.zst", "{dongle}/{log}/{n}/{kind}.bz2"]
)  # fmt: skip
def test_mirrors(tmp_path: Path, layout: str) -> None:
    log_id = "2024-01-02--03-04-05"
    for n, kind in ((0, "qlog"), (1, "qlog"), (1, "rlog"), (11, "rlog")):
        path = tmp_path / "mirror" / layout.format(dongle=DONGLE, log=log_id, n=n, kind=kind)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    route = f"{DONGLE}|{log_id}"
    for mirror in (str(tmp_path / "mirror"), (tmp_path / "mirror").as_uri()):
        logs = list(find_logs([f"{route}/1:"], mirror=mirror))
        assert [(x.route, x.number) for x in logs] == [(route, 1), (route, 11)]
        assert [x.number for x in find_logs([route], "qlog", mirror=mirror)] == [0, 1]
    everything = list(find_logs([str(tmp_path / "mirror")]))
    assert [x.number for x in everything] == [0, 1, 11]
    assert "rlog" in everything[1].place
    single = next(find_logs([everything[2].place]))
    assert single.number == 11


def test_bad_sources(tmp_path: Path) -> None:
    for text, word in (
        (str(tmp_path / "none"), "neither a route name"),
        (str(tmp_path), "holds no logs"),
    ):
        with pytest.raises(InputError, match=word):
            list(find_logs([text]))
    with pytest.raises(InputError, match="needs comma's API"):
        list(find_logs([ROUTE]))
    with pytest.raises(InputError, match="did you mean 'rlog'"):
        list(find_logs([], "rlogs"))
    with pytest.raises(InputError, match="there is no log"), local_copy(str(tmp_path / "none")):
        pass
    with pytest.raises(InputError, match="cannot read routes_file"):
        read_routes_file(tmp_path / "none.txt")
    (tmp_path / "routes.txt").write_text(f"# mine\n{ROUTE}  # a good one\n\n")
    assert read_routes_file(tmp_path / "routes.txt") == [ROUTE]
    assert LogFile(ROUTE, 3, "x").key == f"{ROUTE.replace('|', '_')}--0003"
