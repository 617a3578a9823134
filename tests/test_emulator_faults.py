"""The emulator is broken only where it was told to be, and bills what a server would bill."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from typing import Any

import pytest
import requests
from PIL import Image

from development.emulator import Emulator, Fault
from development.emulator.faults import STATUSES
from tests import emulated
from tests.emulated import KEY, SMALL, edit, error, generate, png

running, openai = emulated.running, emulated.openai


@pytest.mark.parametrize("name", STATUSES)
def test_an_error_status_costs_nothing_and_passes(openai: Emulator, name: str) -> None:
    route = "pictures" if name in ("missing_picture", "expired_picture") else "generations"
    openai.result = "url"
    openai.fail(Fault(name, route))
    response = generate(openai, SMALL, allow_redirects=False)
    if route == "pictures":
        response = requests.get(response.json()["data"][0]["url"], timeout=5)
    assert response.status_code == STATUSES[name].status
    assert openai.paid_pictures == (1 if route == "pictures" else 0)
    assert generate(openai, SMALL).status_code == 200


def test_details_make_any_answer(openai: Emulator) -> None:
    openai.fail(Fault("rate_limit", retry_after_s=3, headers={"x-should-retry": "true"}))
    openai.fail(Fault("unknown_parameter", param="quality"))
    openai.fail(Fault("status", status=418, body={"tea": "pot"}, headers={"X-Spout": "short"}))
    limited, unknown, teapot = (generate(openai, SMALL) for _ in range(3))
    assert (limited.headers["Retry-After"], limited.headers["x-should-retry"]) == ("3", "true")
    assert error(unknown)["message"] == "Unknown parameter: 'quality'."
    assert (teapot.status_code, teapot.json(), teapot.headers["X-Spout"]) == (418, {"tea": "pot"}, "short")


# What comes instead of a good answer, or of its picture, and how many of two pictures are billed.
SPOILT: dict[str, tuple[Callable[[bytes], bool], int]] = {
    "html": (lambda body: b"<html>" in body, 0),
    "empty": (lambda body: b'"data": []' in body, 0),
    "wrong_shape": (lambda body: b"data" not in body, 2),
    "truncated_json": (lambda body: body.startswith(b"{") and not body.endswith(b"}"), 2),
    "invalid_base64": (lambda body: b"%%%" in body, 2),
    "file_path_url": (lambda body: b'"url": "/root/' in body, 2),
    "not_an_image": (lambda body: b"VGhpcyBpcyBh" in body, 2),
    "svg_bomb": (lambda body: len(body) < 5000, 2),
}


@pytest.mark.parametrize("name", SPOILT)
def test_an_answer_can_be_spoilt(openai: Emulator, name: str) -> None:
    openai.fail(Fault(name))
    response = generate(openai, {**SMALL, "n": 2})
    is_spoilt, billed = SPOILT[name]
    assert response.status_code == 200 and is_spoilt(response.content)
    assert openai.paid_pictures == billed


@pytest.mark.parametrize(("name", "billed"), [("drop_before", 0), ("drop_after", 2), ("drop_during", 2)])
def test_a_connection_can_be_dropped(openai: Emulator, name: str, billed: int) -> None:
    openai.fail(Fault(name))
    with pytest.raises((requests.ConnectionError, requests.exceptions.ChunkedEncodingError)):
        generate(openai, {**SMALL, "n": 2})
    (post,) = openai.posts
    assert (post.status, post.billed, bool(post.fields)) == (None, billed, name != "drop_before")


@pytest.mark.parametrize(("name", "declared"), [("endless_body", 0), ("huge_base64", 0), ("huge_base64", 1)])
def test_a_body_can_be_far_too_large(openai: Emulator, name: str, declared: int) -> None:
    openai.fail(Fault(name, declared=declared))
    with generate(openai, SMALL, stream=True) as response:
        assert int(response.headers.get("Content-Length", 0)) > 2e9 * declared
        assert len(response.raw.read(5_000_000)) == 5_000_000


def test_an_answer_can_be_slow_or_come_in_drops(openai: Emulator) -> None:
    openai.fail(Fault("slow", delay_s=0.3))
    openai.fail(Fault("drip", interval_s=0.1))
    started = time.monotonic()
    assert generate(openai, SMALL).status_code == 200
    assert time.monotonic() - started > 0.25
    with generate(openai, SMALL, stream=True) as response:
        started = time.monotonic()
        assert response.raw.read(4) == b'{"cr'
        assert 0.2 < time.monotonic() - started < 2


def test_a_download_can_be_no_picture(openai: Emulator) -> None:
    openai.result = "url"
    url = generate(openai, SMALL).json()["data"][0]["url"]
    openai.fail(Fault("huge_png", "pictures"))
    with pytest.raises(Image.DecompressionBombError):
        Image.open(io.BytesIO(requests.get(url, timeout=5).content))
    assert Image.open(io.BytesIO(requests.get(url, timeout=5).content)).size == (256, 256)


def test_faults_strike_on_their_route_as_often_as_they_should(openai: Emulator) -> None:
    openai.fail(Fault("server_error", route="edits", times=None))
    openai.fail(Fault("unavailable", route="generations", times=2))
    openai.fail(Fault("conflict", route="models"))
    assert [generate(openai, SMALL).status_code for _ in range(3)] == [503, 503, 200]
    assert [edit(openai, png()).status_code for _ in range(3)] == [500] * 3
    assert requests.get(f"{openai.base_url}/models", headers=KEY, timeout=5).status_code == 409
    openai.clear()
    assert edit(openai, png()).status_code == 400


def test_random_faults_repeat_with_their_seed(openai: Emulator) -> None:
    def run(seed: int) -> list[int]:
        openai.fail_at_random([Fault("unavailable"), Fault("missing_picture")], 0.5, seed)
        return [generate(openai, SMALL).status_code for _ in range(12)]

    first, second, other = run(1), run(1), run(4)
    assert first == second != other
    assert set(first) == {200, 503}


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("no_such_fault", {}),
        ("server_error", {"route": "nowhere"}),
        ("file_path_url", {"route": "pictures"}),
        ("rate_limit", {"retry_after": 3}),
    ],
)
def test_a_fault_that_makes_no_sense_is_refused(name: str, more: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=name):
        Fault(name, **more)
