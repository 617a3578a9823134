"""The fault matrix: whatever goes wrong ends in the right error, costs what it says, and the next call succeeds.

Each row is run for a new image and for an edit, over HTTP; no error and no log line holds the key.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from dalle2 import api_client, comfyui
from dalle2.errors import Charge, ConnectionFailed, ImagesApiError, StatusError, TimedOut, UnusableAnswer
from dalle2.nodes import OpenAIDalle2
from development.emulator import Emulator, Fault
from development.program import free_port
from tests.loopback import Node, image_and_mask, traces, wait_for

SECRET = "sk-proj-Kq7vXw29"
PATIENT_S, HASTY_S = 20.0, 0.25
SLOW_FAULTS = ("slow", "drip")
WILL_BE_CHARGED = "Running again asks for new images, which will be charged."
ON_ITS_DISK = "A file path is one on the server's own disk: configure the server to respond with base64 (b64_json)."
IS_KEPT = "Not fetched yet: 1 of 1. Your paid answer is kept for an hour"


@dataclass(frozen=True)
class Row:
    """A fault, the error it ends in (None: images all the same), some of its words, and what it says about money.

    `posts`: how often the call is sent. `paid`: images that are paid for. `fetches`: downloads of the failing call,
    where the fault is one of a download; the next call then pays nothing.
    """

    fault: str
    error: type[ImagesApiError] | None
    words: str = ""
    charge: Charge = Charge.NO
    posts: int = 1
    paid: int = 0
    times: int = 1
    fetches: int = 0
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return f"{self.fault}-{self.times}"


NOTHING_DONE = [
    Row("unauthorized", StatusError, "did not accept the key. Check OPENAI_API_KEY"),
    Row("payment_required", StatusError, "has no credit. Add credit"),
    Row("verification", StatusError, "organization of this key to be verified"),
    Row("model_not_found", StatusError, "does not have the model that was asked for"),
    Row("route_missing", StatusError, "at the address that was used (status 404). Check OPENAI_BASE_URL"),
    Row("timeout_status", StatusError, "too busy for this request (status 408)", posts=3, times=3),
    Row("conflict", None, posts=2, paid=1),
    Row("too_large", StatusError, "image is too large. Scale it down"),
    Row("rate_limit", StatusError, "Rate Limit Exceeded: the server wants fewer requests", posts=3, times=3),
    Row("rate_limit", None, posts=3, paid=1, times=2),
    Row("rate_limit", StatusError, "Run again in 3 minutes", details={"retry_after_s": 121}),
    Row("quota", StatusError, "is out of credit"),
    Row("moderation", StatusError, "Your request was flagged by our content moderation system"),
    Row("billing_limit", StatusError, "has reached its spending limit"),
    Row("unknown_parameter", StatusError, "refused the request (status 400)"),
    Row("server_error", StatusError, "The server failed (status 500)", Charge.UNLIKELY, posts=3, times=3),
    Row("server_error", None, posts=2, paid=1),
    Row("gateway_timeout", StatusError, "lost the response of the server behind it", Charge.MAYBE),
    Row("drop_before", ConnectionFailed, "broke before the response was complete", Charge.MAYBE),
]
ANSWER_LOST = [
    Row("slow", TimedOut, "did not respond in time. Raise DALLE2_READ", Charge.MAYBE, paid=1, details={"delay_s": 5}),
    Row("drip", TimedOut, "took too long as a whole", Charge.MAYBE, paid=1, details={"interval_s": 0.05}),
    Row("drop_after", ConnectionFailed, "broke before the response was complete", Charge.MAYBE, paid=1),
    Row("drop_during", ConnectionFailed, "broke before the response was complete", Charge.MAYBE, paid=1),
    Row("endless_body", UnusableAnswer, "too large to be read", Charge.LIKELY, paid=1),
]
ANSWER_SPOILT = [
    Row("html", UnusableAnswer, "a web page instead of images", Charge.UNLIKELY),
    Row("empty", UnusableAnswer, "without an image", Charge.LIKELY),
    Row("wrong_shape", UnusableAnswer, "not a list of images", Charge.LIKELY, paid=1),
    Row("truncated_json", UnusableAnswer, "without an image that could be read", Charge.LIKELY, paid=1),
    Row("invalid_base64", UnusableAnswer, "without an image that could be read", Charge.LIKELY, paid=1),
    Row("not_an_image", UnusableAnswer, WILL_BE_CHARGED, Charge.LIKELY, paid=1),
    Row("huge_png", UnusableAnswer, WILL_BE_CHARGED, Charge.LIKELY, paid=1),
    Row("file_path_url", UnusableAnswer, ON_ITS_DISK, Charge.LIKELY, paid=1),
]


def download(fault: str, words: str, *, times: int = 1, **details: Any) -> Row:
    return Row(fault, UnusableAnswer, words, Charge.PAID_BEFORE, paid=1, times=times, fetches=times, details=details)


DOWNLOADS = [
    download("missing_picture", "is not there, or its address has expired (status 404)"),
    download("expired_picture", "is not there, or its address has expired (status 403)"),
    download("too_large", "refused the download (status 413)"),
    download("rate_limit", "wants fewer requests (status 429)", times=3),
    download("rate_limit", "wants fewer requests (status 429)", retry_after_s=3600),
    download("server_error", "The host of the images failed (status 500)", times=3),
    download("redirect", "(status 404)"),
    download("drop_before", "broke before the response was complete", times=3),
    download("drop_during", "broke before the response was complete", times=3),
    download("slow", "did not respond in time", times=3, delay_s=5),
    download("drip", "took too long as a whole", times=3, interval_s=0.05),
    download("html", "PNG, JPEG or WebP"),
    download("svg_bomb", "PNG, JPEG or WebP"),
    download("huge_png", "PNG, JPEG or WebP"),
]


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Node:
    caplog.set_level(logging.DEBUG)
    node = Node(monkeypatch)
    node.set("DALLE2_MODEL", "gpt-image-2")
    be_patient(node)
    monkeypatch.setattr(api_client, "MAX_ANSWER_BYTES", 2**20)
    return node


@pytest.fixture
def emulator(node: Node) -> Iterator[Emulator]:
    with Emulator(api_key=SECRET) as emulator:
        emulator.answer_size = (32, 32)
        node.use(emulator, SECRET)
        node.draw()  # from now on it is known which fields this server takes
        emulator.clear()
        yield emulator


def be_patient(node: Node, timeout_s: float = PATIENT_S) -> None:
    """Set both timeouts: short ones only for what is slow, so that a busy machine makes no other row fail."""
    node.set("DALLE2_READ_TIMEOUT_S", str(timeout_s))
    node.set("DALLE2_CONNECT_TIMEOUT_S", str(timeout_s))


ROUTES: dict[str, dict[str, Any]] = {"generations": {}, "edits": image_and_mask()}


def outcome(node: Node, route: str) -> ImagesApiError | None:
    """What a call ends in; None for an image."""
    try:
        assert node.draw(**ROUTES[route]).shape == (1, 256, 256, 3)
    except ImagesApiError as err:
        return err
    return None


def run_into(row: Row, fault_route: str, route: str, emulator: Emulator, node: Node) -> ImagesApiError | None:
    """Make one call into the fault, and check the error that it ends in."""
    emulator.fail(Fault(row.fault, fault_route, row.times, **row.details))
    if row.fault in SLOW_FAULTS:
        be_patient(node, HASTY_S)
    error = outcome(node, route)
    be_patient(node)
    assert (type(error) if error else None) is row.error
    assert "iVBOR" not in str(error)  # how an image begins in base64
    if error:
        assert error.charge is row.charge
        assert row.words in str(error) and row.charge.value in str(error)
        assert len(str(error)) < 1200
    return error


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("row", NOTHING_DONE + ANSWER_LOST + ANSWER_SPOILT, ids=lambda row: row.id)
def test_a_call_that_fails_says_what_it_cost_and_the_next_succeeds(
    row: Row, route: str, emulator: Emulator, node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    error = run_into(row, route, route, emulator, node)
    assert len(emulator.posts) == row.posts
    wait_for(lambda: emulator.paid_pictures == row.paid)  # a client that was hasty may have left before the bill
    assert len(node.waits) == row.posts - 1
    assert outcome(node, route) is None
    assert (len(emulator.posts), emulator.paid_pictures) == (row.posts + 1, row.paid + 1)
    assert SECRET not in traces(error, caplog)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("row", DOWNLOADS, ids=lambda row: row.id)
def test_a_download_that_fails_is_repeated_by_the_next_call_for_free(
    row: Row, route: str, emulator: Emulator, node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    emulator.result = "relative_url" if row.fault == "html" else "url"
    error = run_into(row, "pictures", route, emulator, node)
    assert IS_KEPT in str(error)
    assert sum("/pictures/" in request.path for request in emulator.requests) == row.fetches
    assert outcome(node, route) is None
    assert (len(emulator.posts), emulator.paid_pictures) == (1, 1)
    assert node.text.endswith("1 paid for before")
    assert SECRET not in traces(error, caplog)


def test_a_server_that_is_not_there_is_tried_three_times(node: Node, caplog: pytest.LogCaptureFixture) -> None:
    node.use(f"http://127.0.0.1:{free_port()}/v1", SECRET)
    error = outcome(node, "generations")
    assert isinstance(error, ConnectionFailed) and error.charge is Charge.NO
    assert "Nothing responds at 127.0.0.1:" in str(error)
    assert len(node.waits) == 2
    assert SECRET not in traces(error, caplog)


ADD_CREDITS = "Payment Required: Please add credits to your account to use this node."


@pytest.mark.parametrize(
    ("fault", "is_exact", "start"),
    [
        ("payment_required", True, ADD_CREDITS),
        ("quota", True, ADD_CREDITS),
        ("billing_limit", True, ADD_CREDITS),
        ("rate_limit", False, "Rate Limit Exceeded:"),
        ("unauthorized", False, "Unauthorized: Please login first to use this node."),
        ("moderation", False, "Your request was flagged by our content moderation system"),
    ],
)
def test_an_account_gets_the_errors_that_the_frontend_has_dialogs_for(
    fault: str, is_exact: bool, start: str, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Emulator("comfy") as emulator:
        monkeypatch.setattr(comfyui, "comfy_api_base", lambda: emulator.origin)
        emulator.fail(Fault(fault, retry_after_s=300))
        with pytest.raises(StatusError) as caught:
            OpenAIDalle2().api_call("a quiet harbour", auth_token="t0ken-of-the-account")
    assert str(caught.value) == start if is_exact else str(caught.value).startswith(start)
