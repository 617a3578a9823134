"""The client over loopback: what it sends, what it takes, what it refuses, and where the key goes."""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import Callable, Iterator
from email.parser import BytesParser
from pathlib import Path
from typing import Any

import pytest

from dalle2 import api_client
from dalle2.api_client import ImagesClient
from dalle2.errors import (
    CHARGED,
    MAYBE_CHARGED,
    ConnectionFailed,
    ImagesApiError,
    StatusError,
    TimedOut,
    UnusableAnswer,
)
from dalle2.models import ImageRequest, Picture
from dalle2.retry import Retrier
from development.emulator import Emulator, Fault
from tests.loopback import LONG_S, Connection, Loopback, answering, encoded, hanging, http, traces
from tests.pictures import png

KEY = "sk-proj-Zq8/x+7Lw2Vn4T"
BEARER = {"Authorization": f"Bearer {KEY}"}
REQUEST = ImageRequest(prompt="a harbour", model="gpt-image-2", n=2, size="1024x1024", quality="low")
PICTURE = png()
ANSWER = http({"data": [encoded(PICTURE)]})


@pytest.fixture(scope="module")
def running() -> Iterator[Emulator]:
    with Emulator(api_key=KEY) as emulator:
        yield emulator


@pytest.fixture
def emulator(running: Emulator) -> Emulator:
    running.reset()
    running.answer_size = (32, 32)
    return running


def client(base_url: str, headers: dict[str, str] | None = None, **more: Any) -> ImagesClient:
    """A client whose retries do not sleep."""
    retrier = more.pop("retrier", None) or Retrier(pause=lambda seconds: False)
    headers = BEARER if headers is None else headers
    return ImagesClient(base_url, headers=headers, retrier=retrier, **{"read_timeout_s": LONG_S, **more})


def generate(base_url: str, **more: Any) -> tuple[Picture, ...]:
    with client(base_url, **more) as api:
        return api.generate(REQUEST).pictures


def failure(base_url: str, **more: Any) -> ImagesApiError:
    with pytest.raises(ImagesApiError) as caught:
        generate(base_url, **more)
    return caught.value


def head_and_body(request: bytes) -> tuple[str, dict[str, str], bytes]:
    """The first line, the headers (names in lower case) and the body of a request."""
    head, _, body = request.partition(b"\r\n\r\n")
    first, _, rest = head.partition(b"\r\n")
    headers = {name.lower(): value for name, value in BytesParser().parsebytes(rest).items()}
    return first.decode(), headers, body


def test_a_generation_is_json_with_exactly_the_fields_given() -> None:
    with Loopback(answering(ANSWER)) as server:
        assert generate(f"{server.origin}/v1/", params={"api-version": "preview"})[0].b64_json == PICTURE
    first, headers, body = head_and_body(server.requests[0])
    assert first == "POST /v1/images/generations?api-version=preview HTTP/1.1"
    assert (headers["content-type"], headers["authorization"]) == ("application/json", f"Bearer {KEY}")
    assert json.loads(body) == {
        "prompt": "a harbour",
        "model": "gpt-image-2",
        "n": 2,
        "size": "1024x1024",
        "quality": "low",
    }


@pytest.mark.parametrize("mask_field", ["mask", "mask_image"])
def test_an_edit_is_a_form_with_one_image_and_one_mask(mask_field: str) -> None:
    with Loopback(answering(ANSWER)) as server, client(server.origin) as api:
        api.edit(REQUEST, image=b"image", mask=b"mask", mask_field=mask_field)
    first, headers, body = head_and_body(server.requests[0])
    form = BytesParser().parsebytes(f"Content-Type: {headers['content-type']}\r\n\r\n".encode() + body)
    parts = {
        part.get_param("name", header="content-disposition"): (
            part.get_filename(),
            part.get_content_type() if part.get_filename() else "",
            part.get_payload(decode=True),
        )
        for part in form.get_payload()
        if not isinstance(part, str)
    }
    assert first == "POST /images/edits HTTP/1.1"
    assert parts == {
        "prompt": (None, "", b"a harbour"),
        "model": (None, "", b"gpt-image-2"),
        "n": (None, "", b"2"),
        "size": (None, "", b"1024x1024"),
        "quality": (None, "", b"low"),
        "image": ("image.png", "image/png", b"image"),
        mask_field: ("mask.png", "image/png", b"mask"),
    }


@pytest.mark.parametrize(
    ("header", "credits"),
    [("12.5", 12.5), ("0", 0.0), ("nan", None), ("inf", None), ("-1", None), ("many", None), (None, None)],
)
def test_the_credits_are_told_when_they_make_sense(header: str | None, credits: float | None) -> None:
    headers = {"X-Comfy-Credits-Used": header} if header else {}
    body = {"data": [{"url": "/a.png"}]}
    with Loopback(answering(http(body, headers=headers))) as server, client(server.origin) as api:
        answer = api.generate(REQUEST)
    assert (answer.credits, answer.request) == (credits, REQUEST)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (http(b""), "answered with nothing at all"),
        (http(b"", 204), "answered with nothing at all"),
        (http({"id": "job_1", "status": "queued"}, 202), "no list of pictures"),
        (http("<!doctype html><title>Sign in</title>"), "a web page instead of pictures"),
        (http({"error": {"message": "No GPU."}}), "words instead of pictures"),
        (http("OK"), "words instead of pictures"),
        (http('{"data": [{"b64_json": "iVBORw0KGgo'), "only a part of one"),
        (http({"data": []}), "without a picture"),
        (http({"data": [{}]}), "without a picture"),
        (http({"data": [{"b64_json": "%%%"}]}), "without a picture"),
        (http({"data": "many"}), "no list of pictures"),
        (http("[" * 200_000), "no list of pictures"),
        (http(b"\xff\xfe\xfd"), "instead of pictures"),
        (http(b"{}", headers={"Content-Encoding": "gzip"}), "compressed"),
    ],
)
def test_an_answer_without_pictures_is_not_asked_for_twice(answer: bytes, words: str) -> None:
    with Loopback(answering(answer)) as server:
        error = failure(server.origin)
    assert isinstance(error, UnusableAnswer)
    assert words in str(error)
    assert CHARGED in str(error)
    assert len(server.requests) == 1


def test_the_words_in_place_of_pictures_and_the_request_are_named() -> None:
    answer = http({"error": {"message": "No GPU."}}, headers={"X-Request-Id": "req_7"})
    with Loopback(answering(answer)) as server:
        assert str(failure(server.origin)).endswith("The server said: No GPU.\nRequest id: req_7")


def test_a_piece_of_a_picture_is_not_quoted() -> None:
    with Loopback(answering(http('{"data": [{"b64_json": "iVBORw0KGgo'))) as server:
        assert "iVBOR" not in str(failure(server.origin))


@pytest.mark.parametrize("declared", [0, 1])
def test_two_gigabytes_of_base64_end_at_the_limit(emulator: Emulator, declared: int) -> None:
    emulator.fail(Fault("huge_base64", declared=declared))
    error = failure(emulator.base_url)
    assert "more than 128 MiB" in str(error)
    assert CHARGED in str(error)
    assert len(emulator.posts) == 1


def test_a_long_error_is_read_only_at_its_start() -> None:
    with Loopback(answering(http("no " * 10**6, 400))) as server:
        error = failure(server.origin)
    assert len(str(error)) < 700


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
@pytest.mark.parametrize("status", [200, 401, 400, 500])
@pytest.mark.parametrize(
    "shape", ['{"error": {"message": "MARK", "code": "MARK"}}', "MARK", "<title>MARK</title>", '{"detail": [["MARK"]]}']
)
def test_a_key_that_is_repeated_comes_out_as_asterisks(
    echo: str, status: int, shape: str, caplog: pytest.LogCaptureFixture
) -> None:
    text = ECHOES[echo](KEY)
    if echo in ("JSON-escaped", "with escaped slashes") and not shape.startswith("{"):
        text = json.loads(f'"{text}"')
    answer = http(shape.replace("MARK", text), status, {"X-Request-Id": KEY})
    with Loopback(answering(answer)) as server, caplog.at_level(logging.DEBUG):
        error = failure(server.origin)
    for piece in (KEY, KEY.upper(), KEY[-6:], KEY[8:14], KEY.replace("/", "\\/")):
        assert piece not in traces(error, caplog)
    assert "***" in str(error)


def test_a_short_key_comes_out_as_asterisks_too() -> None:
    with Loopback(answering(http({"error": {"message": "hunter2 is unknown."}}, 401))) as server:
        error = failure(server.origin, headers={"Authorization": "Bearer hunter2"})
    assert "The server said: *** is unknown." in str(error)


def test_what_is_billed_goes_out_on_a_connection_of_its_own() -> None:
    with Loopback(answering(ANSWER)) as server:
        generate(server.origin)
    assert head_and_body(server.requests[0])[1]["connection"] == "close"


@pytest.mark.parametrize(("limit", "headers"), [(10, {}), (10**6, {"Content-Encoding": "gzip"})])
def test_an_answer_that_is_not_read_is_told_with_what_to_do_its_price_and_its_id(
    limit: int, headers: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api_client, "MAX_ANSWER_BYTES", limit)
    with Loopback(answering(http({"data": []}, headers={"X-Request-Id": "req_7", **headers}))) as server:
        said = str(failure(server.origin))
    assert "Ask for fewer" in said or "Configure it" in said
    assert CHARGED in said and said.endswith("Request id: req_7")


def test_a_client_does_not_show_its_key() -> None:
    with client("http://127.0.0.1:9/v1") as api:
        assert KEY not in repr(api)
        assert KEY not in repr(api.__dict__)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_redirect_of_a_post_is_followed(status: int) -> None:
    with Loopback(answering(ANSWER)) as elsewhere:
        with Loopback(answering(http(b"", status, {"Location": elsewhere.origin}))) as server:
            error = failure(server.origin)
        assert isinstance(error, StatusError)
        assert "OPENAI_BASE_URL" in str(error)
        assert (len(server.requests), elsewhere.requests) == (1, [])


def test_a_netrc_is_never_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password n3trc\n")
    monkeypatch.setenv("NETRC", str(netrc))
    with Loopback(answering(ANSWER)) as server:
        generate(server.origin, headers={})
        with client(server.origin, {}) as api:
            api.download(f"{server.origin}/a.png")
    assert len(server.requests) == 2
    assert not any(b"authorization" in request.lower() for request in server.requests)


def test_the_names_of_models_are_asked_for_once_with_the_key(emulator: Emulator) -> None:
    with client(emulator.base_url) as api:
        assert "gpt-image-2" in [entry.id for entry in api.models()]
    assert [request.path for request in emulator.requests] == ["/v1/models"]


@pytest.mark.parametrize("body", ["{}", "[]", "junk", '{"data": [{"name": "a"}]}', "[" * 100_000])
def test_a_list_of_models_that_cannot_be_read_is_our_error(body: str) -> None:
    with Loopback(answering(http(body))) as server, client(server.origin) as api, pytest.raises(UnusableAnswer):
        api.models()


def test_a_server_that_does_not_come_out_with_its_models_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_client, "LISTING_TIMEOUT_S", 0.1)
    with Loopback(hanging) as server, client(server.origin) as api, pytest.raises(TimedOut):
        api.models()


def test_a_post_whose_answer_was_lost_is_not_repeated() -> None:
    with Loopback(answering(b"")) as server:
        error = failure(server.origin)
    assert isinstance(error, ConnectionFailed)
    assert MAYBE_CHARGED in str(error)
    assert len(server.requests) == 1


def test_a_post_that_was_refused_for_now_is_repeated() -> None:
    with Loopback(answering(http(b"", 503), http(b"", 429, {"Retry-After": "1"}), ANSWER)) as server:
        assert generate(server.origin)
    assert len(server.requests) == 3
    assert len(set(server.requests)) == 1


def download(server: str, url: str, **more: Any) -> bytes:
    with client(server, **more) as api:
        return api.download(url)


def keys(server: Loopback) -> list[bool]:
    """For each request whether it held the key."""
    return [KEY.encode() in request for request in server.requests]


def test_a_relative_url_is_fetched_from_the_api_with_the_key() -> None:
    with Loopback(answering(http(PICTURE))) as server:
        assert download(f"{server.origin}/v1", "/pictures/a.png?x=1") == PICTURE
        assert download(f"{server.origin}/v1", "pictures/a.png") == PICTURE
    assert [head_and_body(request)[0].split()[1] for request in server.requests] == [
        "/pictures/a.png?x=1",
        "/v1/pictures/a.png",
    ]
    assert keys(server) == [True, True]


def test_an_absolute_url_is_fetched_without_the_key_even_from_the_api() -> None:
    with Loopback(answering(http(PICTURE))) as server:
        assert download(f"{server.origin}/v1", f"{server.origin}/a.png") == PICTURE
        assert download(f"{server.origin}/v1", f"//127.0.0.1:{server.port}/a.png") == PICTURE
        assert download(f"{server.origin}/v1", f"HTTP://127.0.0.1:{server.port}/a.png") == PICTURE
    assert keys(server) == [False, False, False]


def test_the_key_does_not_survive_a_redirect() -> None:
    answers = http(b"", 302, {"Location": "/b.png"}), http(b"", 307, {"Location": "c.png"}), http(PICTURE)
    with Loopback(answering(*answers)) as server:
        assert download(f"{server.origin}/v1", "/a/a.png") == PICTURE
    assert [head_and_body(request)[0].split()[1] for request in server.requests] == ["/a/a.png", "/b.png", "/c.png"]
    assert keys(server) == [True, False, False]


def test_endless_redirects_end() -> None:
    with Loopback(answering(http(b"", 302, {"Location": "/again"}))) as server:
        with pytest.raises(UnusableAnswer, match="more than 5 times"):
            download(server.origin, "/a.png")
    assert len(server.requests) == 6


# {port} is the API's, {other} that of another server on the same machine.
STRANGE = [
    "http://127.0.0.1:{other}/a.png",
    "http://localhost:{port}/a.png",
    "http://example.com/a.png",
    "//127.0.0.1:{other}/a.png",
    "ftp://127.0.0.1:{other}/a.png",
    "file:///etc/passwd",
    "C:\\Users\\me\\a.png",
    "javascript:alert(1)",
    "http://[::1/a.png",
    "http://127.0.0.1:99999/a.png",
    "https:///a.png",
    "https://" + "a" * 9000,
    "http://127.0.0.1:{other}\\@127.0.0.1:{port}/a.png",
    "http://127.0.0.1:{port}@127.0.0.1:{other}/a.png",
    "http://127.0.0.1:{other}#@127.0.0.1:{port}/a.png",
    "\ud800",
]
PRIVATE = [
    "https://127.0.0.1:{other}/a.png",
    "https://localhost:{other}/a.png",
    "https://pictures.localhost:{other}/a.png",
    "https://2130706433:{other}/a.png",
    "https://0x7f.1:{other}/a.png",
    "https://10.0.0.1/a.png",
    "https://192.168.0.1/a.png",
    "https://169.254.169.254/latest/meta-data/",
    "https://[::1]:{other}/a.png",
    "https://[::ffff:127.0.0.1]:{other}/a.png",
    "https://[fd00::1]/a.png",
    "HTTPS://127.0.0.1:{other}/a.png",
]


@pytest.mark.parametrize("url", STRANGE + PRIVATE)
@pytest.mark.parametrize("redirected", [False, True])
def test_an_address_that_is_not_allowed_is_never_asked(url: str, redirected: bool) -> None:
    if redirected:
        url = url.encode("ascii", "ignore").decode()  # a header holds nothing else
    with Loopback(answering(http(b"secret"))) as other, Loopback(lambda _: None) as api:
        address = url.replace("{port}", str(api.port)).replace("{other}", str(other.port))
        api.script = answering(http(b"", 302, {"Location": address})) if redirected else answering(http(b"", 404))
        with pytest.raises(ImagesApiError) as caught:
            download(api.origin, "/first" if redirected else address)
        assert other.requests == []
    assert isinstance(caught.value, UnusableAnswer)
    assert len(str(caught.value)) < 500


def test_a_login_in_an_address_does_not_hide_its_host() -> None:
    with Loopback(answering(http(b"secret"))) as other, Loopback(answering(http(PICTURE))) as api:
        for blank in ("", "\t", "\n", "%5c", "%23", "%2f"):
            url = f"http://127.0.0.1:{other.port}{blank}@127.0.0.1:{api.port}/a.png"
            assert download(api.origin, url) == PICTURE
    assert other.requests == []


def test_a_private_address_is_refused_through_a_proxy_too(monkeypatch: pytest.MonkeyPatch) -> None:
    with Loopback(hanging) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.origin)
        with pytest.raises(UnusableAnswer, match="private network"):
            download("http://api.invalid/v1", "https://169.254.169.254/latest/meta-data/")
    assert proxy.requests == []


def test_a_public_name_that_leads_inside_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with Loopback(answering(http(b"secret"))) as other:
        here = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", other.port))]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **more: here)
        with pytest.raises(UnusableAnswer, match="private network"):
            download("https://api.example.com/v1", "https://pictures.example.com/a.png")
    assert other.requests == []


def test_an_api_inside_a_network_may_hand_out_its_own_pictures(emulator: Emulator) -> None:
    emulator.result = "url"
    with client(emulator.base_url) as api:
        url = api.generate(REQUEST).pictures[0].url
        assert url
        assert url.startswith(emulator.origin)
        assert api.download(url).startswith(b"\x89PNG")


def test_a_file_path_is_told_from_a_missing_picture() -> None:
    with Loopback(answering(http({"detail": "Not Found"}, 404))) as server:
        with pytest.raises(UnusableAnswer, match="response_format=b64_json") as path:
            download(f"{server.origin}/v1", "/root/.xinference/image/a.jpg")
        with pytest.raises(StatusError, match="address has expired") as url:
            download(f"{server.origin}/v1", f"{server.origin}/a.jpg")
    assert "/root/.xinference/image/a.jpg" in str(path.value)
    assert "charged" not in str(url.value)


def test_the_login_in_a_base_url_is_not_shown() -> None:
    with Loopback(answering(http(b"", 404))) as server, pytest.raises(UnusableAnswer) as caught:
        download(server.origin.replace("//", "//me:pa55word@"), "/root/a.png")
    assert "pa55word" not in str(caught.value)


@pytest.mark.parametrize(
    "first",
    [
        http(b"", 500),
        http(b"", 502),
        http(b"", 503),
        http(b"", 504),
        http(b"", 522),
        http(b"", 529),
        http(b"", 429),
        http(b"", 408),
        b"",
        http(b"ab", headers={"Content-Length": "3"}),
        b"garbage\r\n",
    ],
)
def test_a_download_is_tried_again_on_what_passes(first: bytes) -> None:
    with Loopback(answering(first, first, http(PICTURE))) as server:
        assert download(server.origin, "/a.png") == PICTURE
    assert len(server.requests) == 3


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 206])
def test_a_download_that_is_refused_for_good_is_not(status: int) -> None:
    with Loopback(answering(http(b"", status))) as server, pytest.raises(StatusError) as caught:
        download(server.origin, f"{server.origin}/a.png")
    assert len(server.requests) == 1
    assert "OPENAI_API_KEY" not in str(caught.value)


def test_a_download_beyond_the_limit_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_client, "MAX_DOWNLOAD_BYTES", 1000)
    with Loopback(answering(http(b"A" * 1001))) as server, pytest.raises(UnusableAnswer, match="too much"):
        download(server.origin, "/a.png")
    assert len(server.requests) == 1


def test_a_picture_that_lies_ready_is_not_waited_for_as_long_as_one_that_is_drawn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(api_client, "DOWNLOAD_READ_TIMEOUT_S", 0.1)

    def script(connection: Connection) -> None:
        connection.request()
        hanging(connection)

    with Loopback(script) as server, pytest.raises(TimedOut):
        download(server.origin, "/a.png", read_timeout_s=LONG_S)
    assert len(server.requests) == 3
