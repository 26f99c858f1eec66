"""Replies of servers that lie, break off, or never end."""

import json
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from steerlab.errors import InputError
from steerlab.surrogates.fetch import Fetcher
from steerlab.surrogates.logs.routes import CommaApi, parse_route
from tests.counts import Tally
from tests.fuzz.mutations import mutated, mutated_json

CONTENT = bytes(range(256)) * 400
ROUTE = "0123456789abcdef|2024-01-02--03-04-05"
FILES = {"logs": [f"http://x/{ROUTE}/{k}/rlog.zst" for k in range(3)], "qlogs": []}
ROUTES = [{"fullname": ROUTE, "git_commit": "abc"}]
QUICK = Fetcher(retries=1, backoff=0.0, timeout=0.5)


class Liar:
    """A server that sends given bytes to whoever asks, and hangs up."""

    def __init__(self) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        self.reply: Callable[[str], bytes] = lambda request: b""
        self.drip = 0.0  # s between bytes
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        try:
            with connection:
                data = self.reply(connection.recv(65536).decode("latin-1"))
                if not self.drip:
                    connection.sendall(data)
                for byte in data if self.drip else b"":
                    connection.sendall(bytes([byte]))
                    time.sleep(self.drip)
        except OSError:
            pass  # the other side hung up


@pytest.fixture
def liar() -> Iterator[Liar]:
    server = Liar()
    yield server
    server.socket.close()


def http(body: bytes, status: str = "200 OK", **headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def ask(server: Liar) -> None:
    """Ask for the logs of a route and for the routes of a device."""
    api = CommaApi(server.url, token="", retries=0)
    api.fetch = Fetcher(retries=0, backoff=0.0, timeout=0.5)
    route = parse_route(ROUTE)
    assert route
    api.logs(route)
    list(api.routes("0123456789abcdef", 5))


def mistakes(server: Liar, count: int) -> list[str]:
    """Return what went wrong with ``count`` replies."""
    rng, wrong = random.Random(0), []
    for index in range(count):
        sample = json.dumps(rng.choice((FILES, ROUTES))).encode()
        whole = http(sample)
        data = http(mutated_json(sample, rng)) if index % 2 else mutated(whole, rng)
        server.reply = lambda request, data=data: data  # type: ignore[misc]
        began = time.monotonic()
        try:
            ask(server)
        except InputError:
            pass
        except Exception as error:  # noqa: BLE001 - that is what is looked for
            wrong.append(f"{data[:300]!r}: {type(error).__name__} {error}")
        if time.monotonic() - began > 20:
            wrong.append(f"hang: {data[:300]!r} took {time.monotonic() - began:.0f} s")
    return wrong


def test_a_sample_of_damaged_replies(liar: Liar) -> None:
    assert not mistakes(liar, 40)


@pytest.mark.exhaustive
def test_damaged_replies(liar: Liar, tally: Tally) -> None:
    wrong = mistakes(liar, 500)
    slow = sum(text.startswith("hang:") for text in wrong)
    tally("fuzz", "HTTP replies", inputs=500, unnamed=len(wrong) - slow, hangs=slow)
    assert not wrong, "\n".join(wrong[:20])


@pytest.mark.parametrize("body", [b"null", b"[]", b'"x"', b'{"logs": "x"}', b'{"logs": [null, 3]}',
                                  b'{"logs": ["http://["]}', b"[" * 10**5, b"\xff\xfe"])  # fmt: skip
def test_odd_values(liar: Liar, body: bytes) -> None:
    liar.reply = lambda request: http(body)
    with pytest.raises(InputError):
        ask(liar)


def test_an_endless_answer_and_a_slow_one(liar: Liar) -> None:
    head = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"
    liar.reply = lambda request: head + b" " * (20 * 2**20)
    with pytest.raises(InputError, match="more than"):
        ask(liar)
    liar.reply, liar.drip = (lambda request: http(b" " * 1000)), 0.05
    began = time.monotonic()
    with pytest.raises(InputError):
        ask(liar)
    assert time.monotonic() - began < 10


def test_pages_without_an_end(liar: Liar) -> None:
    liar.reply = lambda request: http(json.dumps(ROUTES * 100).encode())
    api = CommaApi(liar.url, token="", retries=0)
    with pytest.raises(InputError, match="without an end"):
        list(api.routes("0123456789abcdef"))


def test_a_packed_answer_is_not_unpacked(liar: Liar) -> None:
    liar.reply = lambda request: http(b"\x1f\x8b" + bytes(1000), Content_Encoding="gzip")
    with pytest.raises(InputError, match="packed"):
        ask(liar)


HAVE = 50_000  # bytes of an earlier attempt
TAIL = CONTENT[HAVE - 16384 :]
RANGE = f"bytes {HAVE - 16384}-{len(CONTENT) - 1}/{len(CONTENT)}"


@pytest.mark.parametrize(
    "partial",
    [
        http(CONTENT, "206 Partial Content"),  # the whole file, without Content-Range
        http(CONTENT, "206 Partial Content", Content_Range=RANGE),  # the whole file, as the rest
        http(TAIL, "206 Partial Content"),
        http(TAIL, "206 Partial Content", Content_Range=f"bytes 0-{len(TAIL) - 1}/{len(CONTENT)}"),
        http(bytes(len(TAIL)), "206 Partial Content", Content_Range=RANGE),  # another file
        http(b"--x\r\n\r\n" + TAIL, "206 Partial Content", Content_Type="multipart/byteranges"),
        http(TAIL[:-9], "206 Partial Content", Content_Range=RANGE),
        http(TAIL + b"more", "206 Partial Content", Content_Range=RANGE),
    ],
)
def test_a_rest_that_is_none_is_thrown_away(liar: Liar, tmp_path: Path, partial: bytes) -> None:
    (tmp_path / "f.part").write_bytes(CONTENT[:HAVE])
    asked = []

    def reply(request: str) -> bytes:
        asked.append("range:" in request.lower())
        return partial if asked[-1] else http(CONTENT)

    liar.reply = reply
    QUICK.download(f"{liar.url}/f", tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == CONTENT
    assert asked == [True, False]


def test_the_right_rest_is_taken(liar: Liar, tmp_path: Path) -> None:
    (tmp_path / "f.part").write_bytes(CONTENT[:HAVE])
    liar.reply = lambda request: http(TAIL, "206 Partial Content", Content_Range=RANGE)
    QUICK.download(f"{liar.url}/f", tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == CONTENT
