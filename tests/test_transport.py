"""One exchange: its deadline and limits, which connection it takes, and what each fault of a connection is called."""

from __future__ import annotations

import contextlib
import gc
import gzip
import logging
import socket
import ssl
import threading
import time
import tracemalloc
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import trustme

from dalle2.api_client import NO_AUTH
from dalle2.errors import ConnectionFailed, TimedOut
from dalle2.net import transport
from dalle2.net.transport import CHUNK_BYTES, MAX_ERROR_BYTES, HttpRequest, Reply
from development.program import free_port
from tests.loopback import LONG_S, Connection, Loopback, Script, answering, hanging, http, wait_for

MIB = 2**20
QUICK_S = 0.3
KEPT_ALIVE = {"Connection": "keep-alive"}
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
WITHOUT_LENGTH = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"


@pytest.fixture(autouse=True)
def _nothing_is_left_running() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    left = set(threading.enumerate()) - before
    for thread in left:
        thread.join(1)
    assert not any(thread.is_alive() for thread in left)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", "localhost").configure_cert(context)
    return context


@pytest.fixture
def trusted(authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "ca.pem"))


def request(url: str, *, wait_s: float = LONG_S, total_s: float = LONG_S, limit: int = MIB, **more: Any) -> HttpRequest:
    """A GET of a URL, or what `more` makes of it."""
    fields = {"method": "GET", "timeout_s": (wait_s, wait_s), "total_s": total_s, "limit_bytes": limit, **more}
    return HttpRequest(url=url, auth=NO_AUTH, **fields)


def exchange(url: str, **more: Any) -> Reply:
    """The reply to one request."""
    return transport.exchange(request(url, **more))


def problem(url: str, **more: Any) -> ConnectionFailed:
    """The error that one request ends in, whether it has brought a part of a response or nothing."""
    try:
        error = exchange(url, **more).cut_off
    except ConnectionFailed as err:
        return err
    assert error is not None
    return error


def client_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "openai-dalle-http"]


def endless(head: bytes, piece: bytes, *, pause_s: float = 0) -> Script:
    """A script that responds with `head`, and then with `piece` for as long as somebody listens."""

    def script(connection: Connection) -> None:
        connection.request()
        connection.send(head)
        while True:
            time.sleep(pause_s)
            connection.send(piece)

    return script


@pytest.mark.parametrize(
    "answer",
    [
        http(b"abc"),
        http(b"abc", headers=KEPT_ALIVE),
        WITHOUT_LENGTH + b"abc",
        CHUNKED + b"2\r\nab\r\n1;x=y\r\nc\r\n0\r\n\r\n",
        CHUNKED + b"3\r\nabc\r\n0\r\nX-Trailer: 1\r\n\r\n",
        http(b"abcdef", headers={"Content-Length": "3"}),
        http(b"abc", headers={"Content-Encoding": "utf-8"}),
        http(gzip.compress(b"ab") + gzip.compress(b"c"), headers={"Content-Encoding": "x-gzip "}),
        http(zlib.compress(b"abc"), headers={"Content-Encoding": "Deflate"}),
        http(b"abc", headers={"Content-Length": "junk"}),
        http(b"abc", headers={"Content-Length": "-5"}),
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n" + http(b"abc"),
        b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n" * 2 + http(b"abc"),
    ],
)
def test_a_body_is_read_to_its_end(answer: bytes) -> None:
    with Loopback(answering(answer)) as server:
        reply = exchange(server.origin)
    assert (reply.status_code, reply.body, reply.is_too_large, reply.cut_off) == (200, bytearray(b"abc"), False, None)


TWO_LENGTHS = http(b"abc", headers={"Content-Length": "5, 6"})


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # urllib3 leaves the last one open
@pytest.mark.parametrize("answer", [b"", b"junk\r\n\r\n", TWO_LENGTHS])
def test_a_garbled_response_is_a_lost_one(answer: bytes) -> None:
    with Loopback(answering(answer)) as server:
        error = problem(server.origin)
    assert "broke before the response was complete" in str(error)
    assert error.sent
    del error
    gc.collect()  # or the warning would come in the middle of another test


@pytest.mark.parametrize("head", [WITHOUT_LENGTH, b"HTTP/1.1 200 OK\r\nContent-Length: 1048577\r\n\r\n"])
@pytest.mark.parametrize("beyond", [0, 1])
def test_a_body_of_the_limit_is_read_and_no_more(head: bytes, beyond: int) -> None:
    with Loopback(answering(head + b"A" * (MIB + 1))) as server:
        reply = exchange(server.origin, limit=MIB + 1 - beyond)
    assert (len(reply.body), reply.is_too_large, reply.cut_off) == (MIB + 1, bool(beyond), None)


def test_of_an_error_only_the_start_is_read() -> None:
    with Loopback(answering(http(b"A" * MIB, 500))) as server:
        reply = exchange(server.origin)
    assert MAX_ERROR_BYTES < len(reply.body) < 3 * MAX_ERROR_BYTES
    assert not reply.is_success


def test_a_body_that_unpacks_to_gigabytes_is_read_as_far_as_the_limit() -> None:
    with Loopback(answering(http(gzip.compress(bytes(64 * MIB)), headers={"Content-Encoding": "gzip"}))) as server:
        reply = exchange(server.origin, limit=MIB)
    assert reply.is_too_large and len(reply.body) <= MIB + CHUNK_BYTES


@pytest.mark.parametrize("encoding", ["gzip", "br", "gzip, gzip"])
def test_a_compressed_body_is_not_asked_for_and_refused_when_it_cannot_be_unpacked(encoding: str) -> None:
    with Loopback(answering(http(b"\x1f\x8b junk", headers={"Content-Encoding": encoding}))) as server:
        reply = exchange(server.origin)
    assert reply.is_encoded and not reply.body
    assert b"\r\nAccept-Encoding: identity\r\n" in server.requests[0]


@pytest.mark.parametrize("location", ["/elsewhere", "http://[::1/a.png"])
def test_a_redirect_is_not_followed_and_its_body_not_read(location: str) -> None:
    script = endless(f"HTTP/1.1 302 Found\r\nLocation: {location}\r\n\r\n".encode(), b"A" * 65_536)
    with Loopback(script) as server:
        reply = exchange(server.origin, total_s=LONG_S)
    assert (reply.status_code, reply.location) == (302, location) and not reply.body
    assert len(server.requests) == 1


DRIPS = {
    "status": b"",
    "header": b"HTTP/1.1 200 OK\r\nX-Slow: ",
    "body": http(headers={"Content-Length": "100000"}),
    "chunks": CHUNKED + b"FFFF\r\n",
}


@pytest.mark.parametrize("where", DRIPS)
@pytest.mark.parametrize("encrypted", [False, True])
@pytest.mark.usefixtures("trusted")
def test_a_dripping_server_is_left_at_the_deadline(where: str, encrypted: bool, tls: ssl.SSLContext) -> None:
    with Loopback(endless(DRIPS[where], b"A", pause_s=0.02), tls=tls if encrypted else None) as server:
        started = time.monotonic()
        error = problem(server.origin, total_s=QUICK_S)
        assert QUICK_S <= time.monotonic() - started < QUICK_S + 1
        wait_for(lambda: not client_threads())
    assert isinstance(error, TimedOut) and error.sent
    assert "took too long" in str(error)


ENDLESS = {
    "body": (endless(WITHOUT_LENGTH, b"A" * 65_536), "too large"),
    "chunk line": (endless(CHUNKED, b"0" * 65_536), "broke"),
    "header": (endless(b"HTTP/1.1 200 OK\r\nX-Long: ", b"A" * 65_536), "broke"),
    "headers": (endless(b"HTTP/1.1 200 OK\r\n", b"X-More: 1\r\n" * 4096), "broke"),
    "trailers": (endless(CHUNKED + b"3\r\nabc\r\n0\r\n", b"X-More: 1\r\n" * 4096), "took too long"),
    "interim responses": (endless(b"", b"HTTP/1.1 102 Processing\r\n\r\n" * 1000), "took too long"),
}


@pytest.mark.parametrize("what", ENDLESS)
def test_an_endless_response_ends_in_little_time_and_memory(what: str) -> None:
    script, outcome = ENDLESS[what]
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        with Loopback(script) as server:
            try:
                reply = exchange(server.origin, total_s=QUICK_S)
                ended_in = "too large" if reply.is_too_large else str(reply.cut_off)
            except ConnectionFailed as err:
                ended_in = str(err)
            wait_for(lambda: not client_threads())
        assert outcome in ended_in
        assert tracemalloc.get_traced_memory()[1] - before < 8 * MIB
    finally:
        tracemalloc.stop()


def test_a_dripping_handshake_is_left_at_the_deadline() -> None:
    def script(connection: Connection) -> None:
        connection.send(b"\x16\x03\x03\x40\x00")  # a TLS record of 16 KiB, of which a byte comes now and then
        while not threading.Event().wait(0.02):
            connection.send(b"\x02")

    with Loopback(script) as server:
        error = problem(server.origin.replace("http", "https"), total_s=QUICK_S)
    assert isinstance(error, TimedOut) and not error.sent


def test_nothing_is_sent_after_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.getaddrinfo

    def slow(*args: Any, **more: Any) -> Any:
        time.sleep(2 * QUICK_S)
        return real(*args, **more)

    with Loopback(answering(http(b"abc"))) as server:
        monkeypatch.setattr(socket, "getaddrinfo", slow)
        error = problem(server.origin, method="POST", billed=True, total_s=QUICK_S)
        wait_for(lambda: not client_threads())
        wait_for(lambda: server.connections == 1)
    assert isinstance(error, TimedOut) and not error.sent
    assert server.requests == []


def test_each_piece_of_an_upload_has_the_read_timeout() -> None:
    connect_s, read_s = 0.1, 1.0

    def script(connection: Connection) -> None:
        connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        time.sleep(4 * connect_s)
        end = b""
        while end != b"--\r\n":
            time.sleep(0.01)
            end = (end + connection.socket.recv(MIB))[-4:]
        connection.send(http(b"abc"))

    files = {"image": ("image.png", bytes(12 * MIB), "image/png")}
    with Loopback(script) as server:
        started = time.monotonic()
        reply = exchange(server.origin, method="POST", files=files, billed=True, timeout_s=(connect_s, read_s))
    assert reply.body == b"abc"
    assert time.monotonic() - started > read_s  # or it has shown nothing


def test_each_request_has_a_new_connection_and_closes_it() -> None:
    ended: list[bytes] = []

    def script(connection: Connection) -> None:
        connection.request()
        connection.send(http(b"abc", headers=KEPT_ALIVE))
        ended.append(connection.socket.recv(1))

    with Loopback(script) as server:
        for count in (1, 2):
            assert exchange(server.origin, method="POST", billed=True).body == b"abc"
            wait_for(lambda expected=count: ended == [b""] * expected)  # type: ignore[misc]
    assert server.connections == 2
    assert all(b"\r\nConnection: close\r\n" in post for post in server.requests)


@pytest.mark.parametrize("host", ["name.invalid", f"{'a' * 64}.example"])
def test_a_host_that_nobody_knows_has_received_nothing(host: str) -> None:
    error = problem(f"http://{host}/v1")
    assert f"The name {host} could not be found" in str(error)
    assert (error.sent, error.is_transient) == (False, True)


def silent(connection: Connection) -> None:
    while connection.socket.recv(65_536):
        pass


def closing(connection: Connection) -> None:
    connection.socket.recv(1)


def speaking_plainly(connection: Connection) -> None:
    connection.send(http(b"abc"))
    silent(connection)


@pytest.mark.parametrize(
    ("script", "words"),
    [(silent, "accepted no connection in time"), (closing, ""), (speaking_plainly, "The secure connection to")],
)
def test_a_server_that_speaks_no_tls_has_received_nothing(script: Script, words: str) -> None:
    with Loopback(script) as server:
        error = problem(server.origin.replace("http", "https"), wait_s=QUICK_S)
    assert words in str(error) and not error.sent


@pytest.mark.parametrize("bundle", ["", "/nowhere/ca.pem"])
def test_without_a_certificate_that_somebody_vouches_for_nothing_is_sent(
    bundle: str, tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", bundle)
    with Loopback(hanging, tls=tls) as server:
        error = problem(server.origin)
    assert "The secure connection to 127.0.0.1:" in str(error)
    assert (error.sent, error.is_transient, server.requests) == (False, False, [])


@pytest.mark.parametrize("status", [200, 502])
def test_a_proxy_answers_a_plain_request_itself(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with Loopback(answering(http(b"", status))) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.origin)
        assert exchange("http://example.invalid/v1").status_code == status
    assert proxy.requests[0].startswith(b"GET http://example.invalid/v1 HTTP/1.1\r\n")


@pytest.mark.parametrize(
    ("scheme", "proxy"),
    [
        ("http", "http://user:pa55word@127.0.0.1:{closed}"),
        ("https", "http://user:pa55word@127.0.0.1:{closed}"),
        ("https", "http://user:pa55word@127.0.0.1:{refusing}"),
        ("https", "gopher://user:pa55word@127.0.0.1:9"),  # `requests` has no library for it
    ],
)
def test_a_proxy_that_does_not_let_it_through(scheme: str, proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with Loopback(answering(http(b"", 407))) as refusing:
        address = proxy.format(closed=free_port(), refusing=refusing.port)
        monkeypatch.setenv(f"{scheme.upper()}_PROXY", address)
        error = problem(f"{scheme}://example.invalid/v1")
    assert "The network's proxy did not let the request through to example.invalid" in str(error)
    assert "pa55word" not in str(error)
    assert not error.sent


def test_a_proxy_that_breaks_a_plain_request_may_have_passed_it_on(monkeypatch: pytest.MonkeyPatch) -> None:
    with Loopback(answering(b"")) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.origin)
        assert problem("http://example.invalid/v1", method="POST", billed=True).sent


def relaying(target: Loopback) -> Script:
    """A script of a proxy that tunnels to `target`, whatever it is asked for."""

    def script(connection: Connection) -> None:
        connection.request()
        connection.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
        with socket.create_connection(("127.0.0.1", target.port)) as onward:
            back = threading.Thread(target=pump, args=(onward, connection.socket), daemon=True)
            back.start()
            pump(connection.socket, onward)
            back.join(LONG_S)

    return script


def pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65_536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)


@pytest.mark.usefixtures("trusted")
def test_a_tunnel_through_a_proxy_has_the_same_rules(tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = b"HTTP/1.1 103 Early Hints\r\n\r\n" + http(b"abc", headers=KEPT_ALIVE)
    with Loopback(answering(answer), tls=tls) as server, Loopback(relaying(server)) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.origin)
        url = f"https://localhost:{server.port}"
        assert [exchange(url, method="POST", billed=True).body for _ in range(2)] == [b"abc"] * 2
        server.script = endless(b"", b"A", pause_s=0.02)
        error = problem(url, total_s=QUICK_S)
    assert isinstance(error, TimedOut) and error.sent
    assert [request.startswith(b"CONNECT localhost:") for request in proxy.requests] == [True] * 3
    assert server.connections == 3


def test_the_log_holds_host_and_path_and_no_more(caplog: pytest.LogCaptureFixture) -> None:
    with Loopback(answering(http(b"abc"))) as server, caplog.at_level(logging.DEBUG):
        exchange(f"http://me:pa55word@127.0.0.1:{server.port}/a.png?signature=s1gned")
        requests.get(f"{server.origin}/b.png?somebody=else", timeout=LONG_S)
    ours = [record.getMessage() for record in caplog.records if record.name == "openai-dalle"]
    assert ours == [f"GET 127.0.0.1:{server.port}/a.png -> 200"]
    assert '"GET /b.png HTTP/1.1"' in caplog.text  # the lines of urllib3 still come
    assert "s1gned" not in caplog.text and "pa55word" not in caplog.text
