"""The fault matrix: whatever goes wrong ends in the right error, costs what it says, and the next call succeeds.

Each row is run for a new picture and for an edit, over HTTP; no error and no log line holds the key.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import trustme

from dalle2 import api_client
from dalle2.errors import (
    CHARGED,
    MAYBE_CHARGED,
    NOT_CHARGED,
    ConnectionFailed,
    ImagesApiError,
    StatusError,
    TimedOut,
    UnusableAnswer,
)
from development.emulator import Emulator, Fault
from tests.loopback import Connection, Loopback, Node, Script, closed_port, hanging, image_and_mask, traces, wait_for

SECRET = "sk-proj-Kq7vXw29"
PATIENT_S, HASTY_S = 20.0, 0.25
SLOW_FAULTS = ("slow", "drip")
PROBABLY_NOT = "It was most likely not charged."
ANEW = f"{CHARGED} Running again orders anew, and is charged again."
IS_KEPT = "0 of 1 pictures are safe. Run again within the hour"


@dataclass(frozen=True)
class Row:
    """A fault; the error it ends in (None: pictures all the same), the words and the money sentence of that.

    `posts`: how often the call is sent. `paid`: pictures that are paid for. `again`: posts of the next call; 0 where it
    takes what was paid for. `fetches`: downloads of the failing call, where the fault is one of a download.
    """

    fault: str
    error: type[ImagesApiError] | None
    words: str
    money: str
    posts: int = 1
    paid: int = 0
    again: int = 1
    times: int | None = 1
    fetches: int = 0
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return f"{self.fault}-{self.times}"


BEFORE = [
    Row("unauthorized", StatusError, "did not accept the key. Check OPENAI_API_KEY", NOT_CHARGED),
    Row("payment_required", StatusError, "wants to be paid first. Add credit", NOT_CHARGED),
    Row("verification", StatusError, "organization of this key to be verified", NOT_CHARGED),
    Row("model_not_found", StatusError, "does not have the model that was asked for", NOT_CHARGED),
    Row("route_missing", StatusError, "at the address that was used (status 404). Check OPENAI_BASE_URL", NOT_CHARGED),
    Row("method_not_allowed", StatusError, "at the address that was used (status 405)", NOT_CHARGED),
    Row("timeout_status", StatusError, "too busy for this request (status 408)", NOT_CHARGED, posts=3, times=3),
    Row("conflict", StatusError, "too busy for this request (status 409)", NOT_CHARGED, posts=3, times=3),
    Row("conflict", None, "", "", posts=2, paid=1),
    Row("too_large", StatusError, "picture is too large. Scale the image down", NOT_CHARGED),
    Row(
        "rate_limit", StatusError, "Rate Limit Exceeded: the server wants fewer requests", NOT_CHARGED, posts=3, times=3
    ),
    Row("rate_limit", None, "", "", posts=3, paid=1, times=2),
    Row("rate_limit", StatusError, "asks to wait 300 s", NOT_CHARGED, details={"retry_after_s": 300}),
    Row("quota", StatusError, "has used up what it paid for", NOT_CHARGED),
    Row("moderation", StatusError, "Your request was flagged by our content moderation system", NOT_CHARGED),
    Row("billing_limit", StatusError, "has reached its spending limit", NOT_CHARGED),
    Row("unknown_parameter", StatusError, "refused the request (status 400)", NOT_CHARGED, details={"param": "size"}),
    Row("server_error", StatusError, "The server failed (status 500)", PROBABLY_NOT, posts=3, times=3),
    Row("server_error", None, "", "", posts=2, paid=1),
    Row("bad_gateway", StatusError, "The server failed (status 502)", PROBABLY_NOT, posts=3, times=3),
    Row("unavailable", StatusError, "The server failed (status 503)", PROBABLY_NOT, posts=3, times=3),
    Row("gateway_timeout", StatusError, "The server failed (status 504)", PROBABLY_NOT, posts=3, times=3),
    Row("custom", StatusError, "lost the answer of the server behind it", MAYBE_CHARGED, details={"status": 524}),
    Row("redirect", StatusError, "sent the request elsewhere (status 307)", NOT_CHARGED),
    Row("drop_before", ConnectionFailed, "broke before the answer was complete", MAYBE_CHARGED),
]
DURING = [
    Row("slow", TimedOut, "did not answer in time", MAYBE_CHARGED, paid=1, details={"delay_s": 5}),
    Row("drip", TimedOut, "answered so slowly", MAYBE_CHARGED, paid=1, details={"interval_s": 0.05}),
    Row("drop_after", ConnectionFailed, "broke before the answer was complete", MAYBE_CHARGED, paid=1),
    Row("drop_during", ConnectionFailed, "broke before the answer was complete", MAYBE_CHARGED, paid=1),
    Row("endless_body", UnusableAnswer, "more than 1 MiB", CHARGED, paid=1),
    Row("huge_base64", UnusableAnswer, "more than 1 MiB", CHARGED, paid=1),
    Row("huge_base64", UnusableAnswer, "more than 1 MiB", CHARGED, paid=1, details={"declared": 1}),
]
AFTER = [
    Row("html", UnusableAnswer, "a web page instead of pictures", CHARGED),
    Row("empty", UnusableAnswer, "without a picture", CHARGED),
    Row("wrong_shape", UnusableAnswer, "no list of pictures", CHARGED, paid=1),
    Row("truncated_json", UnusableAnswer, "only a part of one", CHARGED, paid=1),
    Row("invalid_base64", UnusableAnswer, "without a picture that could be read", CHARGED, paid=1),
    Row("not_an_image", UnusableAnswer, "no PNG, JPEG or WebP picture", ANEW, paid=1),
    Row("svg_bomb", UnusableAnswer, "no PNG, JPEG or WebP picture", ANEW, paid=1),
    Row("huge_png", UnusableAnswer, "picture", ANEW, paid=1),
    Row("file_path_url", UnusableAnswer, "response_format=b64_json", ANEW, paid=1),
]


def download(fault: str, words: str, *, times: int = 1, **details: Any) -> Row:
    """A row for a picture that is fetched: it is paid for, kept, and free the next time."""
    return Row(fault, UnusableAnswer, words, IS_KEPT, paid=1, again=0, times=times, fetches=times, details=details)


DOWNLOADS = [
    download("missing_picture", "is not there, or its address has expired (status 404)"),
    download("expired_picture", "is not there, or its address has expired (status 403)"),
    download("unauthorized", "(status 401)"),
    download("too_large", "did not hand it out (status 413)"),
    download("rate_limit", "wants fewer requests (status 429)", times=3),
    download("rate_limit", "asks to wait 60 min", retry_after_s=3600),
    download("server_error", "The host of the pictures failed (status 500)", times=3),
    download("bad_gateway", "(status 502)", times=3),
    download("redirect", "(status 404)"),
    download("drop_before", "broke before the answer was complete", times=3),
    download("drop_during", "broke before the answer was complete", times=3),
    download("drop_after", "broke before the answer was complete", times=3),
    download("slow", "did not answer in time", times=3, delay_s=5),
    download("drip", "answered so slowly", times=3, interval_s=0.05),
    download("html", "no PNG, JPEG or WebP picture"),
    download("not_an_image", "no PNG, JPEG or WebP picture"),
    download("svg_bomb", "no PNG, JPEG or WebP picture"),
    download("huge_png", "picture"),
]


@pytest.fixture(scope="module")
def running() -> Iterator[Emulator]:
    with Emulator(api_key=SECRET, keep_files=False) as emulator:
        yield emulator


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> Node:
    node = Node(monkeypatch)
    node.set("DALLE2_MODEL", "gpt-image-2")
    be_patient(node)
    monkeypatch.setattr(api_client, "MAX_ANSWER_BYTES", 2**20)
    return node


@pytest.fixture
def emulator(running: Emulator, node: Node) -> Emulator:
    running.reset()
    running.answer_size = (32, 32)
    node.use(running, SECRET)
    return running


def be_patient(node: Node, timeout_s: float = PATIENT_S) -> None:
    """Set both timeouts: short ones only for what is slow, so that a busy machine makes no other row fail."""
    node.set("DALLE2_READ_TIMEOUT_S", str(timeout_s))
    node.set("DALLE2_CONNECT_TIMEOUT_S", str(timeout_s))


ROUTES: dict[str, dict[str, Any]] = {"generations": {}, "edits": image_and_mask()}


def outcome(node: Node, route: str) -> ImagesApiError | None:
    """What a call ends in; None for a picture."""
    try:
        assert node.draw(seed=1, **ROUTES[route]).shape == (1, 256, 256, 3)
    except ImagesApiError as err:
        return err
    return None


def check_error(error: ImagesApiError | None, row: Row) -> None:
    assert isinstance(error, row.error) if row.error else error is None
    assert row.words in str(error or "")
    assert row.money in str(error or "")
    assert len(str(error or "")) < 1200


def check_next(emulator: Emulator, node: Node, route: str, row: Row) -> None:
    """The next call succeeds, and costs nothing where the answer to this one is there."""
    be_patient(node)
    posts, paid = len(emulator.posts), emulator.paid_pictures
    assert node.draw(seed=2, **ROUTES[route]).shape == (1, 256, 256, 3)
    assert len(emulator.posts) - posts == row.again
    assert emulator.paid_pictures - paid == row.again


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("row", BEFORE + DURING + AFTER, ids=lambda row: row.id)
def test_a_call_that_goes_wrong(
    row: Row, route: str, emulator: Emulator, node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    emulator.fail(Fault(row.fault, route, row.times, **row.details))
    if row.fault in SLOW_FAULTS:
        be_patient(node, HASTY_S)
    error = outcome(node, route)
    check_error(error, row)
    assert len(emulator.posts) == row.posts
    wait_for(lambda: emulator.paid_pictures == row.paid)  # a client that was hasty may have left before the bill
    assert len(node.waits) == row.posts - 1
    check_next(emulator, node, route, row)
    assert SECRET not in traces(error, caplog)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("row", DOWNLOADS, ids=lambda row: row.id)
def test_a_download_that_goes_wrong(
    row: Row, route: str, emulator: Emulator, node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    emulator.result = "relative_url" if row.fault == "html" else "url"
    emulator.fail(Fault(row.fault, "pictures", row.times, **row.details))
    if row.fault in SLOW_FAULTS:
        be_patient(node, HASTY_S)
    error = outcome(node, route)
    check_error(error, row)
    assert (len(emulator.posts), emulator.paid_pictures) == (1, 1)
    assert sum("/pictures/" in request.path for request in emulator.requests) == row.fetches
    assert not any(words in str(error) for words in (NOT_CHARGED, MAYBE_CHARGED, "OPENAI_API_KEY"))
    check_next(emulator, node, route, row)
    assert "nothing was charged for it again" in node.text
    assert SECRET not in traces(error, caplog)


@pytest.mark.parametrize("route", ROUTES)
def test_a_call_that_goes_well_shows_no_key(
    route: str, emulator: Emulator, node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    for result in ("b64", "url", "relative_url"):
        emulator.result = result
        assert outcome(node, route) is None
    assert SECRET not in traces(None, caplog)
    assert len(caplog.records) >= 8


def half_a_handshake(connection: Connection) -> None:
    connection.socket.recv(1000)
    connection.send(b"\x16\x03\x03\x00\x7a\x02")


def silence(connection: Connection) -> None:
    connection.socket.recv(1000)
    hanging(connection)


def untrusted() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    return context


# How a call ends that never reaches the API: the variables, the error, its words, and how many tries there are.
UNREACHED: list[tuple[dict[str, str], type[ImagesApiError], str, int]] = [
    ({"OPENAI_BASE_URL": "http://name.invalid/v1"}, ConnectionFailed, "The name name.invalid could not be found", 3),
    ({"OPENAI_BASE_URL": "http://127.0.0.1:{closed}/v1"}, ConnectionFailed, "Nothing answers at 127.0.0.1:", 3),
    ({"HTTP_PROXY": "http://127.0.0.1:{closed}"}, ConnectionFailed, "proxy did not let the request through", 3),
    (
        {"OPENAI_BASE_URL": "https://example.invalid/v1", "HTTPS_PROXY": "http://127.0.0.1:{closed}"},
        ConnectionFailed,
        "proxy did not let the request through to example.invalid",
        3,
    ),
]


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("case", UNREACHED, ids=lambda case: case[2][:24])
def test_a_server_that_is_not_reached(
    case: tuple[dict[str, str], type[ImagesApiError], str, int],
    route: str,
    emulator: Emulator,
    node: Node,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    variables, kind, words, tries = case
    caplog.set_level(logging.DEBUG)
    for name, value in variables.items():
        node.set(name, value.format(closed=closed_port()))
    error = outcome(node, route)
    check_error(error, Row("", kind, words, NOT_CHARGED))
    assert len(node.waits) == tries - 1
    for name in ("HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    node.use(emulator, SECRET)
    check_next(emulator, node, route, Row("", None, "", ""))
    assert SECRET not in traces(error, caplog)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(
    ("script", "is_tls", "kind", "words", "connections"),
    [
        (hanging, True, ConnectionFailed, "The secure connection to 127.0.0.1:", 1),
        (half_a_handshake, False, ConnectionFailed, "127.0.0.1:", 1),
        (silence, False, TimedOut, "accepted no connection in time", 3),
    ],
)
def test_a_secure_connection_that_is_not_made(
    script: Script,
    is_tls: bool,
    kind: type[ImagesApiError],
    words: str,
    connections: int,
    route: str,
    emulator: Emulator,
    node: Node,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    with Loopback(script, tls=untrusted() if is_tls else None) as server:
        node.set("OPENAI_BASE_URL", f"https://127.0.0.1:{server.port}/v1")
        if script is silence:
            be_patient(node, HASTY_S)
        error = outcome(node, route)
        check_error(error, Row("", kind, words, NOT_CHARGED))
        assert server.connections >= connections
        assert server.requests == []
    node.use(emulator, SECRET)
    check_next(emulator, node, route, Row("", None, "", ""))
    assert SECRET not in traces(error, caplog)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(
    ("fault", "exact", "start"),
    [
        ("payment_required", True, "Payment Required: Please add credits to your account to use this node."),
        ("quota", True, "Payment Required: Please add credits to your account to use this node."),
        ("unauthorized", False, "Unauthorized: Please login first to use this node."),
        ("moderation", False, "Your request was flagged by our content moderation system"),
    ],
)
def test_a_comfy_org_account_meets_the_dialogs_of_the_frontend(
    fault: str, exact: bool, start: str, route: str, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Emulator("comfy") as emulator:
        emulator.answer_size = (32, 32)
        monkeypatch.setattr("dalle2.host.comfy_api_base", lambda: emulator.comfy_base)
        emulator.fail(Fault(fault))
        with pytest.raises(StatusError) as caught:
            node.draw(auth_token="t0ken-of-the-account", **ROUTES[route])
        assert str(caught.value) == start if exact else str(caught.value).startswith(start)
        assert node.draw(auth_token="t0ken-of-the-account", **ROUTES[route]).shape[0] == 1
