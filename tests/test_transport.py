"""One exchange under guard: deadlines, limits, addresses and what each fault of a connection is called."""

from __future__ import annotations

import gc
import logging
import socket
import ssl
import sys
import threading
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import requests
import trustme

from dalle2.addresses import PrivateAddress
from dalle2.errors import ConnectionFailed, TimedOut, UnusableAnswer
from dalle2.transport import Link, read, read_some
from tests.loopback import LONG_S, Connection, Loopback, Script, answering, closed_port, full_port, hanging, http

MIB = 2**20
QUICK_S = 0.3


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


def get(
    url: str, *, limit: int = MIB, read_s: float = LONG_S, total_s: float = LONG_S, public_only: bool = False
) -> bytes:
    """The body behind a URL."""
    link = Link(timeout_s=(read_s, read_s), total_s=total_s, public_only=public_only)
    with link, link.open("GET", url, auth=lambda request: request) as response:
        return read(response, limit)


def problem(url: str, **more: float) -> ConnectionFailed:
    with pytest.raises(ConnectionFailed) as caught:
        get(url, **more)  # type: ignore[arg-type]
    return caught.value


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
OF_NO_LENGTH = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"


def endless(head: bytes, piece: bytes) -> Script:
    """A script that answers with `head`, and then with `piece` for as long as somebody listens."""

    def script(connection: Connection) -> None:
        connection.request()
        connection.send(head)
        while True:
            connection.send(piece)

    return script


ENDLESS = {
    "body": endless(OF_NO_LENGTH, b"A" * 65_536),
    "chunks": endless(CHUNKED, b"1\r\nA\r\n" * 4096),
    "chunk line": endless(CHUNKED, b"0" * 65_536),
    "trailers": endless(CHUNKED + b"3\r\nabc\r\n0\r\n", b"X-More: 1\r\n" * 4096),
    "header": endless(b"HTTP/1.1 200 OK\r\nX-Long: ", b"A" * 65_536),
    "headers": endless(b"HTTP/1.1 200 OK\r\n", b"X-More: 1\r\n" * 4096),
    "interim answers": endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000),
}


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (http(b"abc"), b"abc"),
        (http(b""), b""),
        (http(b"abc", 204), b""),
        (OF_NO_LENGTH + b"abc", b"abc"),
        (CHUNKED + b"2\r\nab\r\n1;x=y\r\nc\r\n0\r\n\r\n", b"abc"),
        (http(b"abcdef", headers={"Content-Length": "3"}), b"abc"),
        (http(b"abc", headers={"Content-Encoding": "identity"}), b"abc"),
        (http(b"abc", headers={"Content-Length": "junk"}), b"abc"),
        (http(b"abc", headers={"Content-Length": "-5"}), b"abc"),
        (http(b"abc", headers={"Content-Length": "\xb2"}), b"abc"),
        (http(b"abc", headers={"Content-Length": "9" * 5000}), b"abc"),
    ],
)
def test_a_body_is_read_to_its_end(answer: bytes, body: bytes) -> None:
    with Loopback(answering(answer)) as server:
        assert get(server.origin) == body


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1",
        b"garbage\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"\x16\x03\x01\x02\x00",
        http(b"abc", headers={"Content-Length": "4"}),
        CHUNKED + b"5\r\nabc",
        CHUNKED + b"zz\r\nabc",
        CHUNKED + b"3\r\nabc\r\n",
        CHUNKED,
    ],
)
def test_an_answer_that_is_cut_off_or_garbled_is_a_lost_one(answer: bytes) -> None:
    with Loopback(answering(answer)) as server:
        error = problem(server.origin)
    assert "broke before the answer was complete" in str(error)
    assert error.sent


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # urllib3 forgets to close this one
def test_an_answer_of_two_lengths_is_a_lost_one() -> None:
    with Loopback(answering(http(b"abc", headers={"Content-Length": "5, 6"}))) as server:
        assert problem(server.origin).sent
    gc.collect()


@pytest.mark.parametrize("what", ["body", "chunks"])
def test_a_body_beyond_the_limit_is_left_unread(what: str) -> None:
    with Loopback(ENDLESS[what]) as server, pytest.raises(UnusableAnswer, match=r"more than 0\.25 MiB"):
        get(server.origin, limit=MIB // 4)


def test_a_body_of_the_limit_is_read() -> None:
    with Loopback(answering(http(b"A" * MIB))) as server:
        assert len(get(server.origin, limit=MIB)) == MIB


@pytest.mark.parametrize("what", ["chunk line", "header", "headers"])
def test_endless_lines_end_in_a_lost_answer(what: str) -> None:
    with Loopback(ENDLESS[what]) as server:
        assert "broke" in str(problem(server.origin))


@pytest.mark.parametrize("what", ["trailers", "interim answers"])
def test_what_never_ends_ends_at_the_deadline(what: str) -> None:
    with Loopback(ENDLESS[what]) as server:
        assert isinstance(problem(server.origin, total_s=QUICK_S), TimedOut)


@pytest.mark.parametrize("what", ENDLESS)
def test_a_hostile_server_takes_no_more_memory_than_the_limit(what: str) -> None:
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        with Loopback(ENDLESS[what]) as server, pytest.raises((UnusableAnswer, ConnectionFailed)):
            get(server.origin, limit=MIB, total_s=0.5)
        assert tracemalloc.get_traced_memory()[1] - before < 8 * MIB
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("encoding", ["gzip", "br", "gzip, gzip"])
def test_a_compressed_body_is_neither_asked_for_nor_opened(encoding: str) -> None:
    answer = http(b"\x1f\x8b junk", headers={"Content-Encoding": encoding})
    with Loopback(answering(answer)) as server:
        with pytest.raises(UnusableAnswer, match="compressed"):
            get(server.origin)
        with Link(timeout_s=(1, 1), total_s=2) as link, link.open("GET", server.origin) as response:
            assert read_some(response, 100) == b""
    assert all(b"\r\nAccept-Encoding: identity\r\n" in request for request in server.requests)


def test_the_start_of_an_error_is_read_as_far_as_it_comes() -> None:
    with Loopback(answering(http(b"abc", 500, {"Content-Length": "9"}))) as server:
        with Link(timeout_s=(1, 1), total_s=2) as link, link.open("GET", server.origin) as response:
            assert (response.status_code, read_some(response, 2), read_some(response, 100)) == (500, b"ab", b"")


def dripping(data: bytes) -> Script:
    """A script that sends `data` at once and then a byte now and then."""

    def script(connection: Connection) -> None:
        connection.request()
        connection.send(data)
        while not threading.Event().wait(0.02):
            connection.send(b"A")

    return script


DRIPS = {
    "status": b"",
    "header": b"HTTP/1.1 200 OK\r\nX-Slow: ",
    "body": http(headers={"Content-Length": "100000"}),
    "chunks": CHUNKED + b"FFFF\r\n",
    "body without a length": OF_NO_LENGTH,
}


@pytest.mark.parametrize("where", DRIPS)
@pytest.mark.parametrize("encrypted", [False, True])
@pytest.mark.usefixtures("trusted")
def test_a_dripping_server_is_left_at_the_deadline(where: str, encrypted: bool, tls: ssl.SSLContext) -> None:
    with Loopback(dripping(DRIPS[where]), tls=tls if encrypted else None) as server:
        started = time.monotonic()
        error = problem(server.origin, total_s=QUICK_S)
    assert QUICK_S <= time.monotonic() - started < QUICK_S + 1
    assert isinstance(error, TimedOut)
    assert error.sent
    assert "so slowly" in str(error)


def test_a_dripping_handshake_is_left_at_the_deadline() -> None:
    def script(connection: Connection) -> None:
        connection.send(b"\x16\x03\x03\x40\x00")  # a TLS record of 16 KiB, of which a byte comes now and then
        while not threading.Event().wait(0.02):
            connection.send(b"\x02")

    with Loopback(script) as server:
        error = problem(server.origin.replace("http", "https"), total_s=QUICK_S)
    assert isinstance(error, TimedOut)
    assert not error.sent


def test_the_deadline_counts_anew_on_a_connection_that_is_kept_alive() -> None:
    def script(connection: Connection) -> None:
        connection.request()
        connection.send(http(b"abc", headers={"Connection": "keep-alive"}))
        connection.request()
        hanging(connection)

    with Loopback(script) as server, Link(timeout_s=(LONG_S, LONG_S), total_s=QUICK_S) as link:
        with link.open("GET", server.origin) as response:
            assert read(response, 10) == b"abc"
        with pytest.raises(TimedOut) as caught, link.open("GET", server.origin):
            pass
        assert caught.value.sent
        assert (len(server.requests), server.connections) == (2, 1)


def test_one_call_may_have_a_deadline_of_its_own() -> None:
    with Loopback(hanging) as server, Link(timeout_s=(LONG_S, LONG_S), total_s=LONG_S) as link:
        with pytest.raises(TimedOut), link.open("GET", server.origin, total_s=QUICK_S):
            pass


def closing(connection: Connection) -> None:
    connection.socket.recv(1)
    connection.close()


def silent(connection: Connection) -> None:
    while connection.socket.recv(65_536):
        pass


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://name.invalid/v1", "name.invalid could not be found"),
        (f"http://{'a' * 64}.example/v1", "could not be found"),
        ("http://127.0.0.1:{closed}/v1", "Nothing answers at 127.0.0.1:{closed}"),
    ],
)
def test_a_server_that_is_not_there(url: str, words: str) -> None:
    closed = closed_port()
    error = problem(url.format(closed=closed))
    assert words.format(closed=closed) in str(error)
    assert not error.sent
    assert error.worth_a_retry


def test_a_server_that_does_not_answer() -> None:
    with Loopback(silent) as server:
        error = problem(server.origin, read_s=QUICK_S)
        assert isinstance(error, TimedOut)
        assert "did not answer in time. Raise DALLE2_READ_TIMEOUT_S" in str(error)
        assert error.sent
        handshake = problem(server.origin.replace("http", "https"), read_s=QUICK_S)
        assert isinstance(handshake, TimedOut)
        assert "accepted no connection in time" in str(handshake)
        assert not handshake.sent


def test_a_certificate_that_nobody_vouches_for(tls: ssl.SSLContext) -> None:
    with Loopback(hanging, tls=tls) as server:
        error = problem(server.origin)
    assert "The secure connection to 127.0.0.1:" in str(error)
    assert (error.sent, error.worth_a_retry, server.requests) == (False, False, [])


@pytest.mark.usefixtures("trusted")
def test_a_bundle_of_one_s_own_is_honoured(tls: ssl.SSLContext) -> None:
    with Loopback(answering(http(b"abc")), tls=tls) as server:
        assert get(server.origin) == b"abc"


def test_a_bundle_that_is_not_there(tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere/ca.pem")
    with Loopback(hanging, tls=tls) as server:
        assert "REQUESTS_CA_BUNDLE" in str(problem(server.origin))


@pytest.mark.parametrize("script", [answering(http(b"abc")), closing])
def test_a_server_that_speaks_no_tls(script: Script) -> None:
    with Loopback(script) as server:
        error = problem(server.origin.replace("http", "https"), read_s=QUICK_S)
    assert not error.sent


@pytest.mark.parametrize("status", [407, 502])
def test_what_a_proxy_answers_to_a_plain_request_is_the_answer(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with Loopback(answering(http(b"", status))) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.origin)
        with Link(timeout_s=(1, 1), total_s=2) as link, link.open("GET", "http://example.invalid/v1") as response:
            assert response.status_code == status


@pytest.mark.parametrize(("scheme", "status"), [("http", None), ("https", None), ("https", 407), ("https", 502)])
def test_a_proxy_that_does_not_let_it_through(scheme: str, status: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    with Loopback(answering(http(b"", status or 200))) as proxy:
        port = proxy.port if status else closed_port()
        monkeypatch.setenv(f"{scheme.upper()}_PROXY", f"http://user:pa55word@127.0.0.1:{port}")
        error = problem(f"{scheme}://example.invalid/v1")
    assert "The network's proxy did not let the request through to example.invalid" in str(error)
    assert "pa55word" not in str(error)
    assert not error.sent


def test_a_proxy_without_the_library_for_it_is_a_fault_of_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "gopher://127.0.0.1:9")
    assert "HTTPS_PROXY" in str(problem("https://example.invalid/v1"))


def test_a_system_proxy_is_used_and_no_proxy_is_obeyed(monkeypatch: pytest.MonkeyPatch) -> None:
    with Loopback(answering(http(b"proxied"))) as proxy, Loopback(answering(http(b"direct"))) as server:
        monkeypatch.setenv("HTTP_PROXY", proxy.origin)
        assert get("http://example.invalid/v1") == b"proxied"
        assert get(server.origin) == b"proxied"
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        assert get(server.origin) == b"direct"
    assert proxy.requests[0].startswith(b"GET http://example.invalid/v1 HTTP/1.1\r\n")


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
    try:
        while data := source.recv(65_536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        pass


@pytest.mark.usefixtures("trusted")
def test_where_a_proxy_tunnels_to_is_the_proxy_s_own_affair(
    tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Loopback(answering(http(b"abc")), tls=tls) as server, Loopback(relaying(server)) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.origin)
        assert get(f"https://localhost:{server.port}", public_only=True) == b"abc"
    assert proxy.requests[0].startswith(b"CONNECT localhost:")


@pytest.mark.usefixtures("trusted")
def test_a_tunnel_through_a_proxy_has_the_same_deadline(tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch) -> None:
    with Loopback(dripping(b""), tls=tls) as server, Loopback(relaying(server)) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.origin)
        error = problem(f"https://localhost:{server.port}", total_s=QUICK_S)
    assert isinstance(error, TimedOut)
    assert error.sent
    assert proxy.requests[0].startswith(b"CONNECT localhost:")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_peer_inside_a_network_is_refused_before_anything_is_sent(host: str) -> None:
    with Loopback(answering(http(b"secret"))) as server:
        for scheme in ("http", "https"):
            with pytest.raises(PrivateAddress, match="private network"):
                get(f"{scheme}://{host}:{server.port}", public_only=True)
    assert server.requests == []


def test_the_deadline_holds_for_a_host_of_many_addresses_too(monkeypatch: pytest.MonkeyPatch) -> None:
    with ExitStack() as stack:
        address = ("127.0.0.1", full_port(stack))
        many = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", address)] * 40
        real = socket.getaddrinfo
        monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: many if a[0] == "many.example" else real(*a, **k))
        started = time.monotonic()
        error = problem(f"http://many.example:{address[1]}/", read_s=0.2, total_s=0.5)
    assert time.monotonic() - started < 2
    assert not error.sent
    assert isinstance(error, TimedOut) or sys.platform == "win32"  # where a full queue refuses


def test_a_host_whose_first_address_is_dead_is_reached_at_its_second(monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.getaddrinfo
    with Loopback(answering(http(b"abc"))) as server:
        kind = (socket.AF_UNSPEC, socket.SOCK_STREAM, 6, "")
        both = [(*kind, (address, server.port)) for address in ("::1", "127.0.0.1")]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: both if a[0] == "two.example" else real(*a, **k))
        assert get(f"http://two.example:{server.port}/") == b"abc"
    assert b"Host: two.example" in server.requests[0]


def test_a_public_name_with_a_private_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with Loopback(answering(http(b"secret"))) as server:
        here = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", server.port))]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **more: here)
        with pytest.raises(PrivateAddress):
            get("https://pictures.example.com/a.png", public_only=True)
    assert server.requests == []


def test_a_redirect_is_not_followed() -> None:
    with Loopback(answering(http(b"", 307, {"Location": "/elsewhere"}))) as server:
        with Link(timeout_s=(1, 1), total_s=2) as link, link.open("POST", server.origin, data=b"x") as response:
            assert response.status_code == 307
    assert len(server.requests) == 1


def test_the_body_of_a_redirect_is_not_read() -> None:
    script = endless(b"HTTP/1.1 302 Found\r\nLocation: http://[::1/a.png\r\n\r\n", b"A" * 65_536)
    with Loopback(script) as server, Link(timeout_s=(1, 1), total_s=LONG_S) as link:
        started = time.monotonic()
        with link.open("POST", server.origin, data=b"x") as response:
            assert response.is_redirect
    assert time.monotonic() - started < 1


def test_the_log_holds_host_and_path_and_no_more(caplog: pytest.LogCaptureFixture) -> None:
    with Loopback(answering(http(b"abc"))) as server, caplog.at_level(logging.DEBUG, "comfyui-openai-dalle2"):
        get(f"http://me:pa55word@127.0.0.1:{server.port}/a.png?signature=s1gned")
    ours = [record.getMessage() for record in caplog.records if record.name == "comfyui-openai-dalle2"]
    assert ours == [f"GET 127.0.0.1:{server.port}/a.png -> 200"]


def test_what_signs_a_download_is_not_in_the_log_of_the_library_either(caplog: pytest.LogCaptureFixture) -> None:
    with Loopback(answering(http(b"abc"))) as server, caplog.at_level(logging.DEBUG):
        get(f"{server.origin}/a.png?signature=s1gned")
        requests.get(f"{server.origin}/b.png?somebody=else", timeout=LONG_S)
    assert "GET /a.png HTTP" in caplog.text and "s1gned" not in caplog.text
    assert "somebody=else" in caplog.text


def test_many_threads_share_a_link_and_each_has_its_own_deadline() -> None:
    def script(connection: Connection) -> None:
        if b"slow" in connection.request():
            hanging(connection)
        connection.send(http(b"abc"))

    outcomes: list[object] = []

    def fetch(path: str) -> None:
        try:
            with link.open("GET", f"{server.origin}/{path}") as response:
                outcomes.append(read(response, 10))
        except TimedOut:
            outcomes.append(path)

    with Loopback(script) as server, Link(timeout_s=(LONG_S, LONG_S), total_s=QUICK_S) as link:
        threads = [threading.Thread(target=fetch, args=(path,)) for path in ["slow", "fast"] * 4]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(map(str, outcomes)) == ["b'abc'"] * 4 + ["slow"] * 4
