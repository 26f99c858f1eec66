"""Downloads from a local server that breaks off, lies about content, and resumes."""

import hashlib
import http.server
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from steerlab.errors import InputError
from steerlab.surrogates.fetch import Fetcher, fetch
from steerlab.surrogates.plants.load import load_plant
from steerlab.surrogates.segments import comma
from steerlab.surrogates.segments.data import write_segment
from steerlab.surrogates.segments.synthetic import find_segments, synthetic_segment

CONTENT = np.random.default_rng(0).bytes(300_000)
QUICK = Fetcher(retries=4, backoff=0.001)
ONCE = Fetcher(retries=0)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Serves CONTENT; ``cut`` bytes into an answer it hangs up, ``cuts`` times."""

    cuts = 0
    cut = 131_072
    resumes = True
    busy = 0
    files: dict[str, bytes]

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[str] = []
        self.files = {"/file": CONTENT}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/file"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.requests.append(self.headers.get("Range", ""))
        content = self.server.files.get(self.path)
        if self.server.busy:
            self.server.busy -= 1
            self.send_error(503)
            return
        if content is None:
            self.send_error(404)
            return
        start = 0
        if self.server.resumes and "Range" in self.headers:
            start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if self.server.cuts:
            self.server.cuts -= 1
            self.wfile.write(content[start : start + self.server.cut])
        else:
            self.wfile.write(content[start:])

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


def test_whole_download_and_no_second_one(server: Server, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    path = fetch(
        server.url, tmp_path / "a/f", SHA256, progress=lambda done, all_: seen.append((done, all_))
    )
    assert path.read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    fetch(server.url, path, SHA256)
    assert len(server.requests) == 1
    assert [p.name for p in path.parent.glob("[!.]*")] == ["f"]


def test_broken_connections_resume(server: Server, tmp_path: Path) -> None:
    server.cuts = 2
    assert fetch(server.url, tmp_path / "f", SHA256, fetcher=QUICK).read_bytes() == CONTENT
    assert server.requests == ["", f"bytes={131072 - 16384}-", f"bytes={2 * 131072 - 2 * 16384}-"]


def test_a_server_that_cannot_resume(server: Server, tmp_path: Path) -> None:
    server.cuts, server.resumes = 1, False
    assert fetch(server.url, tmp_path / "f", SHA256, fetcher=QUICK).read_bytes() == CONTENT


def test_giving_up_keeps_what_arrived(server: Server, tmp_path: Path) -> None:
    server.cuts = 1
    with pytest.raises(InputError, match=r"breaks off.*go on from there"):
        fetch(server.url, tmp_path / "f", SHA256, fetcher=ONCE)
    assert not (tmp_path / "f").exists()
    assert fetch(server.url, tmp_path / "f", SHA256).read_bytes() == CONTENT
    assert server.requests[-1] == f"bytes={131072 - 16384}-"


def test_busy_server_is_asked_again_and_a_missing_file_is_not(
    server: Server, tmp_path: Path
) -> None:
    server.busy = 2
    assert fetch(server.url, tmp_path / "f", SHA256, fetcher=QUICK).exists()
    assert len(server.requests) == 3
    with pytest.raises(InputError, match="404"):
        fetch(server.url + "s", tmp_path / "g", fetcher=QUICK)
    assert len(server.requests) == 4


def test_wrong_content_is_thrown_away(server: Server, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected 0000"):
        fetch(server.url, tmp_path / "f", "0" * 64)
    assert not list(tmp_path.glob("[!.]*"))
    (tmp_path / "f.unchecked.part").write_bytes(b"x" * 1000)  # the rest of another file
    assert fetch(server.url, tmp_path / "f", SHA256, fetcher=QUICK).read_bytes() == CONTENT
    assert server.requests[-2:] == ["bytes=0-", ""]  # it did not begin with the same bytes


def test_a_longer_part_than_the_file(server: Server, tmp_path: Path) -> None:
    (tmp_path / "f.unchecked.part").write_bytes(b"x" * (len(CONTENT) + 5))
    assert fetch(server.url, tmp_path / "f", SHA256, fetcher=QUICK).read_bytes() == CONTENT


def test_local_paths(tmp_path: Path) -> None:
    (tmp_path / "here").write_bytes(CONTENT)
    assert fetch(str(tmp_path / "here"), tmp_path / "f", SHA256).read_bytes() == CONTENT
    assert fetch((tmp_path / "here").as_uri(), tmp_path / "g", SHA256).read_bytes() == CONTENT
    with pytest.raises(InputError, match="cannot read or copy"):
        fetch(str(tmp_path / "none"), tmp_path / "h")
    with pytest.raises(InputError, match="does not answer"):
        fetch("http://127.0.0.1:9/none", tmp_path / "h", fetcher=ONCE)


def test_commas_routes_from_a_mirror(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STEERLAB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(InputError, match="fetch-tinyphysics"):
        load_plant("comma")
    with pytest.raises(InputError, match="fetch-tinyphysics"):
        find_segments("comma")
    archive = tmp_path / "routes.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for i in range(3):
            write_segment(tmp_path / "s.csv", synthetic_segment(np.random.default_rng(i)))
            file.write(tmp_path / "s.csv", f"SYNTHETIC_V0/{i:05d}.csv")
        file.writestr("SYNTHETIC_V0/README.md", "about")
    server.files["/file"] = archive.read_bytes()
    counts: list[tuple[int, int]] = []
    comma.fetch_data(server.url, limit=2, unpacked=lambda *c: counts.append(c))
    assert counts == [(1, 2), (2, 2)]
    assert find_segments("comma").names == ("00000", "00001")
    comma.fetch_data(server.url)
    assert find_segments("comma", 0).names == ("00000", "00001", "00002")
    assert len(server.requests) == 1


def test_damaged_archive(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEERLAB_CACHE", str(tmp_path))
    with pytest.raises(InputError, match=r"damaged.*thrown away"):
        comma.fetch_data(server.url)
    assert not comma.data_path().with_suffix(".zip").exists()
