"""The client over loopback: what it sends, what it takes, what it refuses, and where the key goes."""

from __future__ import annotations

import json
import logging
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dalle2 import api_client
from dalle2.api_client import ImagesClient
from dalle2.errors import Charge, ImagesApiError, StatusError, TimedOut, UnusableAnswer
from dalle2.models import ImageRequest, ModelEntry, Picture
from dalle2.net.retry import Retrier
from tests.loopback import Connection, Loopback, answering, backend_at, encoded, hanging, http, traces
from tests.pictures import png

KEY = "sk-proj-Zq8/x+7Lw2Vn4T"
BEARER = {"Authorization": f"Bearer {KEY}"}
REQUEST = ImageRequest(prompt="a world that does not exist", model="gpt-image-2", n=2, size="1024x1024", quality="low")
IMAGE = png()
BODY = json.dumps({"data": [encoded(IMAGE)]}).encode()
ANSWER = http(BODY)


def client(base_url: str, headers: dict[str, str] = BEARER) -> ImagesClient:
    """A client whose retries do not sleep."""
    return ImagesClient(backend_at(base_url, headers=headers), Retrier(pause=lambda seconds: None))


def generate(base_url: str, headers: dict[str, str] = BEARER) -> tuple[Picture, ...]:
    return client(base_url, headers).generate(REQUEST).pictures


def failure(answer: bytes, headers: dict[str, str] = BEARER) -> ImagesApiError:
    """The error of a request that is answered so, and not sent again."""
    with Loopback(answering(answer)) as server, pytest.raises(ImagesApiError) as caught:
        generate(server.origin, headers)
    assert len(server.requests) == 1
    return caught.value


@pytest.mark.parametrize(
    ("header", "credits"),
    [("12.5", 12.5), ("0", 0.0), ("nan", None), ("inf", None), ("-1", None), ("many", None), (None, None)],
)
def test_credits_are_read_when_they_make_sense(header: str | None, credits: float | None) -> None:
    headers = {"X-Comfy-Credits-Used": header} if header else {}
    body = {"data": [{"url": "/a.png"}]}
    with Loopback(answering(http(body, headers=headers))) as server:
        answer = client(server.origin).generate(REQUEST)
    assert (answer.credits, answer.request) == (credits, REQUEST)


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n" % (len(BODY), BODY)


@pytest.mark.parametrize("answer", [http(BODY, headers={"Content-Length": "99999"}), CHUNKED, CHUNKED + b"zz"])
@pytest.mark.parametrize("reset", [False, True])
def test_complete_json_is_a_complete_response(answer: bytes, reset: bool) -> None:
    def script(connection: Connection) -> None:
        connection.request()
        connection.send(answer)
        if reset:
            time.sleep(0.05)  # it would throw away what is still on its way
            connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    with Loopback(script) as server:
        assert generate(server.origin) == (Picture(b64_json=IMAGE),)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (http(b""), "responded with nothing at all"),
        (http(b"", 204), "responded with nothing at all"),
        (http({"id": "job_1", "status": "queued"}, 202), "not a list of images"),
        (http({"error": {"message": "No GPU."}}), "words instead of images"),
        (http("OK"), "words instead of images"),
        (http({"data": "many"}), "not a list of images"),
        (http("[" * 200_000), "not a list of images"),
        (http(b"\xff\xfe\xfd"), "instead of images"),
        (http(b"{}", headers={"Content-Encoding": "gzip"}), "compressed"),
    ],
)
def test_a_response_without_images_is_not_asked_for_twice(answer: bytes, words: str) -> None:
    error = failure(answer)
    assert isinstance(error, UnusableAnswer)
    assert words in str(error)
    assert error.charge in (Charge.MAYBE, Charge.LIKELY)


def test_the_words_in_place_of_images_and_the_request_are_named() -> None:
    answer = http({"error": {"message": "No GPU."}}, headers={"X-Request-Id": "req_7"})
    assert str(failure(answer)).endswith("run again.\nThe server said: No GPU.\nRequest id: req_7")


def test_a_response_beyond_the_limit_is_left_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_client, "MAX_ANSWER_BYTES", 1000)
    monkeypatch.setattr(api_client, "MAX_DOWNLOAD_BYTES", 1000)
    huge = http({"data": [{"b64_json": "A" * 10**6}]}, headers={"X-Request-Id": "req_7"})
    error = failure(huge)
    assert "too large to be read. Ask for fewer or smaller images at once. This request has probably" in str(error)
    assert str(error).endswith("charged.\nRequest id: req_7")
    with Loopback(answering(huge)) as server, pytest.raises(UnusableAnswer, match="too large"):
        download(server.origin, "/a.png")
    assert len(server.requests) == 1


# What servers do with a key that they are sent: each must come out as asterisks.
ECHOES: dict[str, Callable[[str], str]] = {
    "plain": lambda key: key,
    "JSON-escaped": lambda key: "".join(f"\\u{ord(letter):04x}" for letter in key),
    "with escaped slashes": lambda key: key.replace("/", "\\/"),
    "percent-encoded": lambda key: key.replace("/", "%2F").replace("+", "%2B"),
    "in capitals": lambda key: key.upper(),
    "masked": lambda key: f"{key[:8]}{'*' * 10}{key[-4:]}",
    "in a header": lambda key: f"Authorization: Bearer {key}",
    "at the cut": lambda key: "x" * 390 + key,
}


@pytest.mark.parametrize("echo", ECHOES)
@pytest.mark.parametrize("status", [200, 401])
@pytest.mark.parametrize(
    "shape",
    [
        '{"error": {"message": "MARK", "code": "MARK", "type": "MARK", "param": "MARK"}}',
        "MARK",
        "<title>MARK</title>",
        '{"detail": [["MARK"]]}',
    ],
)
def test_a_key_that_is_repeated_comes_out_as_asterisks(
    echo: str, status: int, shape: str, caplog: pytest.LogCaptureFixture
) -> None:
    text = ECHOES[echo](KEY)
    if echo in ("JSON-escaped", "with escaped slashes") and not shape.startswith("{"):
        text = json.loads(f'"{text}"')
    answer = http(shape.replace("MARK", text), status, {"X-Request-Id": KEY})
    with caplog.at_level(logging.DEBUG):
        error = failure(answer)
    for piece in (KEY, KEY.upper(), KEY[-6:], KEY[8:14], KEY.replace("/", "\\/")):
        assert piece not in traces(error, caplog)
    assert "***" in str(error)


def test_a_short_key_comes_out_as_asterisks_too() -> None:
    answer = http({"error": {"message": "hunter2 is unknown."}}, 401)
    error = failure(answer, {"Authorization": "Bearer hunter2"})
    assert "The server said: *** is unknown." in str(error)


def test_a_client_does_not_show_its_key() -> None:
    api = client("http://127.0.0.1:9/v1")
    assert KEY not in repr(api)
    assert KEY not in repr(api.__dict__)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_redirect_of_a_post_is_followed(status: int) -> None:
    with Loopback(answering(ANSWER)) as elsewhere:
        error = failure(http(b"", status, {"Location": elsewhere.origin}))
        assert isinstance(error, StatusError)
        assert "OPENAI_BASE_URL" in str(error)
        assert not elsewhere.requests


def test_a_netrc_is_never_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password n3trc\n")
    monkeypatch.setenv("NETRC", str(netrc))
    with Loopback(answering(ANSWER)) as server:
        generate(server.origin, {})
        download(server.origin, f"{server.origin}/a.png")
    assert len(server.requests) == 2
    assert not any(b"authorization" in request.lower() for request in server.requests)


def listed(body: object) -> tuple[ModelEntry, ...]:
    with Loopback(answering(http(body))) as server:
        found = client(f"{server.origin}/v1").models()
    assert server.requests[0].startswith(b"GET /v1/models ") and KEY.encode() in server.requests[0]
    return found


def test_a_listed_name_that_could_not_be_shown_is_left_out() -> None:
    names = ["flux\n[ERROR] a line", "flux\x1b[2J", f"flux-{KEY}", "flux\u202e", " flux", "", "f" * 201]
    entries = listed({"data": [{"id": name} for name in ["flux/1 dev:8b", *names, "f" * 200]]})
    assert [entry.id for entry in entries] == ["flux/1 dev:8b", "f" * 200]


@pytest.mark.parametrize("body", ["{}", "[]", "junk", '{"data": [{"name": "a"}]}', "[" * 100_000])
def test_a_list_of_models_that_cannot_be_read_is_our_error(body: str) -> None:
    with pytest.raises(UnusableAnswer):
        listed(body)


def test_a_server_that_lists_no_models_in_time_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_client, "LISTING_TIMEOUT_S", 0.1)
    with Loopback(hanging) as server, pytest.raises(TimedOut):
        client(server.origin).models()
    assert len(server.requests) == 1


def download(server: str, url: str) -> bytes:
    return client(server).download(url)


def paths_and_keys(server: Loopback) -> list[tuple[str, bool]]:
    """For each request its path, and whether it held the key."""
    return [(request.split()[1].decode(), KEY.encode() in request) for request in server.requests]


def test_a_relative_url_is_fetched_from_the_api_with_the_key() -> None:
    with Loopback(answering(http(IMAGE))) as server:
        assert download(f"{server.origin}/v1", "/files/a.png?x=1") == IMAGE
        assert download(f"{server.origin}/v1", "files/a.png") == IMAGE
    assert paths_and_keys(server) == [("/files/a.png?x=1", True), ("/v1/files/a.png", True)]


def test_an_absolute_url_is_fetched_without_the_key_even_from_the_api() -> None:
    with Loopback(answering(http(IMAGE))) as server:
        for start in (server.origin, f"//127.0.0.1:{server.port}", f"HTTP://127.0.0.1:{server.port}"):
            assert download(f"{server.origin}/v1", f"{start}/a.png") == IMAGE
    assert paths_and_keys(server) == [("/a.png", False)] * 3


def test_the_key_does_not_survive_a_redirect() -> None:
    answers = http(b"", 302, {"Location": "/b.png"}), http(b"", 307, {"Location": "c.png"}), http(IMAGE)
    with Loopback(answering(*answers)) as server:
        assert download(f"{server.origin}/v1", "/a/a.png") == IMAGE
    assert paths_and_keys(server) == [("/a/a.png", True), ("/b.png", False), ("/c.png", False)]


def test_endless_redirects_end() -> None:
    with Loopback(answering(http(b"", 302, {"Location": "/again"}))) as server:
        with pytest.raises(UnusableAnswer, match="more than 5 times"):
            download(server.origin, "/a.png")
    assert len(server.requests) == 6


# {port} is the API's, {other} that of another server on the same machine.
NOT_ALLOWED = [
    *("http://127.0.0.1:{other}/a.png", "http://localhost:{port}/a.png", "//127.0.0.1:{other}/a.png"),
    *("ftp://127.0.0.1:{other}/a.png", "file:///etc/passwd", "C:\\Users\\me\\a.png", "https:///a.png", "\ud800"),
    *("http://[::1/a.png", "http://127.0.0.1:99999/a.png", "https://" + "a" * 9000),
    *("http://127.0.0.1:{other}\\@127.0.0.1:{port}/a.png", "http://127.0.0.1:{port}@127.0.0.1:{other}/a.png"),
    *("https://127.0.0.1:{other}/a.png", "HTTPS://localhost:{other}/a.png", "https://localhost.:{other}/a.png"),
    *("https://2130706433:{other}/a.png", "https://0x7f.1:{other}/a.png", "https://0177.0.0.1:{other}/a.png"),
    *("https://[::1]:{other}/a.png", "https://[::ffff:127.0.0.1]:{other}/a.png", "https://169.254.43518"),
]


@pytest.mark.parametrize("url", NOT_ALLOWED)
@pytest.mark.parametrize("redirected", [False, True])
def test_an_address_that_is_not_allowed_is_never_asked(url: str, redirected: bool) -> None:
    if redirected:
        url = url.encode("ascii", "ignore").decode()  # a header holds nothing else
    with Loopback(answering(http(b"secret"))) as other, Loopback(lambda _: None) as api:
        address = url.replace("{port}", str(api.port)).replace("{other}", str(other.port))
        api.script = answering(http(b"", 302, {"Location": address})) if redirected else answering(http(b"", 404))
        with pytest.raises(UnusableAnswer) as caught:
            download(api.origin, "/first" if redirected else address)
        assert other.connections == 0
    assert len(str(caught.value)) < 500


def test_a_login_in_an_address_does_not_hide_its_host() -> None:
    with Loopback(answering(http(b"secret"))) as other, Loopback(answering(http(IMAGE))) as api:
        for blank in ("", "\t", "\n", "%5c", "%23", "%2f"):
            url = f"http://127.0.0.1:{other.port}{blank}@127.0.0.1:{api.port}/a.png"
            assert download(api.origin, url) == IMAGE
    assert other.requests == []


# Beside those that `test_faults` has.
@pytest.mark.parametrize("status", [408, 409, 425, 504, 529])
def test_a_download_is_tried_again_on_a_transient_failure(status: int) -> None:
    failed = http(b"", status)
    with Loopback(answering(failed, failed, http(IMAGE))) as server:
        assert download(server.origin, "/a.png") == IMAGE
    assert len(server.requests) == 3


@pytest.mark.parametrize("status", [400, 401, 410, 206])
def test_a_download_that_is_refused_for_good_is_not(status: int) -> None:
    with Loopback(answering(http(b"", status))) as server, pytest.raises(StatusError) as caught:
        download(server.origin, f"{server.origin}/a.png")
    assert len(server.requests) == 1
    assert "OPENAI_API_KEY" not in str(caught.value)


def test_an_image_that_lies_ready_is_not_waited_for_as_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_client, "DOWNLOAD_READ_TIMEOUT_S", 0.1)
    with Loopback(hanging) as server, pytest.raises(TimedOut):
        download(server.origin, "/a.png")
    assert len(server.requests) == 3
