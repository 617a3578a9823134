"""The emulator is broken only where it was told to be."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import requests
from PIL import Image

from development.emulator import FAULTS, Emulator, Fault
from tests import emulated
from tests.emulated import GENERATION, KEY, SMALL, edit, error, generate, png

running, openai = emulated.running, emulated.openai
classic, dalle = emulated.classic, emulated.dalle


STATUSES = {
    "unauthorized": (401, "invalid_api_key"),
    "payment_required": (402, None),
    "verification": (403, None),
    "model_not_found": (404, "model_not_found"),
    "method_not_allowed": (405, None),
    "timeout_status": (408, None),
    "conflict": (409, None),
    "too_large": (413, None),
    "rate_limit": (429, "rate_limit_exceeded"),
    "quota": (429, "insufficient_quota"),
    "moderation": (400, "moderation_blocked"),
    "billing_limit": (400, "billing_hard_limit_reached"),
    "unknown_parameter": (400, "unknown_parameter"),
    "server_error": (500, None),
    "unavailable": (503, None),
}


@pytest.mark.parametrize("name", STATUSES)
def test_an_error_status_comes_with_its_documented_body_and_costs_nothing(dalle: Emulator, name: str) -> None:
    dalle.fail(Fault(name))
    failed, fine = generate(dalle, SMALL), generate(dalle, SMALL)
    assert (failed.status_code, error(failed)["code"]) == STATUSES[name]
    assert error(failed)["message"]
    assert fine.status_code == 200
    assert [post.billed for post in dalle.posts] == [0, 1]


@pytest.mark.parametrize(("name", "status"), [("bad_gateway", 502), ("gateway_timeout", 504)])
def test_a_proxy_fails_with_a_page(dalle: Emulator, name: str, status: int) -> None:
    dalle.fail(Fault(name))
    failed = generate(dalle, SMALL)
    assert (failed.status_code, failed.headers["Content-Type"]) == (status, "text/html")
    assert "<html>" in failed.text


def test_details_shape_a_fault(dalle: Emulator) -> None:
    dalle.fail(Fault("rate_limit", retry_after_s=3, headers={"x-should-retry": "true"}))
    dalle.fail(Fault("unknown_parameter", param="quality"))
    dalle.fail(Fault("custom", status=418, body={"tea": "pot"}, headers={"X-Spout": "short"}))
    dalle.fail(Fault("redirect", location="/elsewhere"))
    limited, unknown, custom = (generate(dalle, SMALL) for _ in range(3))
    moved = generate(dalle, SMALL, allow_redirects=False)
    assert (limited.headers["Retry-After"], limited.headers["x-should-retry"]) == ("3", "true")
    assert error(unknown)["message"] == "Unknown parameter: 'quality'."
    assert (custom.status_code, custom.json(), custom.headers["X-Spout"]) == (418, {"tea": "pot"}, "short")
    assert (moved.status_code, moved.headers["Location"]) == (307, "/elsewhere")


@pytest.mark.parametrize("name", ["rate_limit", "moderation", "payment_required", "unavailable"])
def test_the_proxy_words_faults_its_own_way(openai: Emulator, name: str) -> None:
    openai.fail(Fault(name))
    url = f"{openai.comfy_base}/proxy/openai/images/generations"
    found = requests.post(url, json=GENERATION, headers={"X-API-KEY": "comfyui-1"}, timeout=5).json()["error"]
    assert isinstance(found, str) is (STATUSES[name][1] is None)


def body_of(response: requests.Response) -> Any:
    return response.json()["data"][0]["b64_json"]


def test_an_answer_can_be_of_the_wrong_kind(dalle: Emulator) -> None:
    for name in ("html", "empty", "wrong_shape", "route_missing"):
        dalle.fail(Fault(name))
    page, empty, shape, missing = (generate(dalle, SMALL) for _ in range(4))
    assert (page.status_code, page.headers["Content-Type"]) == (200, "text/html")
    assert empty.json()["data"] == []
    assert "data" not in shape.json()
    assert (missing.status_code, missing.headers["Content-Type"]) == (404, "text/plain")
    assert [post.billed for post in dalle.posts] == [0, 0, 1, 0]


def test_an_answer_can_hold_what_is_no_picture(dalle: Emulator) -> None:
    for name in ("truncated_json", "invalid_base64", "not_an_image", "svg_bomb", "huge_png", "file_path_url"):
        dalle.fail(Fault(name))
    truncated, invalid, text, svg, huge, path = (generate(dalle, {**SMALL, "n": 2}) for _ in range(6))
    with pytest.raises(requests.JSONDecodeError):
        truncated.json()
    with pytest.raises(ValueError, match="base64"):
        base64.b64decode(body_of(invalid), validate=True)
    assert base64.b64decode(body_of(text)).startswith(b"This is")
    assert b"<!ENTITY a9" in base64.b64decode(body_of(svg))
    assert len(base64.b64decode(body_of(huge))) < 200
    with pytest.raises(Image.DecompressionBombError):
        Image.open(io.BytesIO(base64.b64decode(body_of(huge))))
    assert path.json()["data"][0] == {"url": "/root/.xinference/image/f3b1c2d4.jpg"}
    assert [post.billed for post in dalle.posts] == [2] * 6
    assert dalle.paid_pictures == 12


@pytest.mark.parametrize(("name", "billed"), [("drop_before", 0), ("drop_after", 2), ("drop_during", 2)])
def test_a_dropped_connection_is_billed_once_the_work_was_done(dalle: Emulator, name: str, billed: int) -> None:
    dalle.fail(Fault(name))
    with pytest.raises((requests.ConnectionError, requests.exceptions.ChunkedEncodingError)):
        generate(dalle, {**SMALL, "n": 2})
    post = dalle.posts[0]
    assert (post.status, post.answered, post.billed) == (None, None, billed)
    assert bool(post.fields) is (name != "drop_before")
    assert generate(dalle, SMALL).status_code == 200


def test_a_connection_dropped_during_the_answer_has_shown_its_status(dalle: Emulator) -> None:
    dalle.fail(Fault("drop_during"))
    with generate(dalle, SMALL, stream=True) as response:
        assert response.status_code == 200
        with pytest.raises(requests.exceptions.ChunkedEncodingError):
            response.content  # noqa: B018 - reading it is what fails


def test_an_upload_can_be_dropped_unread(dalle: Emulator) -> None:
    dalle.fail(Fault("drop_before", route="edits"))
    assert generate(dalle, SMALL).status_code == 200
    with pytest.raises(requests.ConnectionError):
        edit(dalle, b"\0" * 3_000_000, model="dall-e-2")
    assert dalle.posts[1].files == ()


def test_a_body_can_be_endless_huge_or_slow(dalle: Emulator) -> None:
    dalle.fail(Fault("endless_body"))
    with generate(dalle, SMALL, stream=True) as response:
        assert "Content-Length" not in response.headers
        assert len(response.raw.read(5_000_000)) == 5_000_000
    dalle.fail(Fault("huge_base64", total_bytes=4_000_000))
    assert len(body_of(generate(dalle, SMALL))) > 3_900_000
    dalle.fail(Fault("huge_base64", declared=True))
    with generate(dalle, SMALL, stream=True) as response:
        assert int(response.headers["Content-Length"]) > 2_000_000_000
    dalle.fail(Fault("drip", interval_s=0.05))
    with generate(dalle, SMALL, stream=True) as response:
        started = time.monotonic()
        assert len(response.raw.read(4)) == 4
        assert 0.1 < time.monotonic() - started < 1
    dalle.fail(Fault("slow", delay_s=0.35))
    started = time.monotonic()
    assert generate(dalle, SMALL).status_code == 200
    assert time.monotonic() - started > 0.3
    assert [post.billed for post in dalle.posts] == [1] * 5


DOWNLOADS: Mapping[str, Callable[[requests.Response], bool]] = {
    "server_error": lambda r: r.status_code == 500,
    "missing_picture": lambda r: r.status_code == 404,
    "expired_picture": lambda r: r.status_code == 403,
    "redirect": lambda r: r.status_code == 307,
    "html": lambda r: r.headers["Content-Type"] == "text/html",
    "not_an_image": lambda r: r.content.startswith(b"This is"),
    "svg_bomb": lambda r: r.headers["Content-Type"] == "image/svg+xml",
    "huge_png": lambda r: len(r.content) < 200,
    "slow": lambda r: r.elapsed.total_seconds() >= 0.1,
}


@pytest.mark.parametrize("name", DOWNLOADS)
def test_a_download_can_go_wrong(dalle: Emulator, name: str) -> None:
    dalle.result = "url"
    url = generate(dalle, SMALL).json()["data"][0]["url"]
    dalle.fail(Fault(name, route="pictures", delay_s=0.15 if name == "slow" else 0))
    assert DOWNLOADS[name](requests.get(url, timeout=5, allow_redirects=False))
    again = requests.get(url, timeout=5)
    assert (again.status_code, again.headers["Content-Type"]) == (200, "image/png")
    assert dalle.paid_pictures == 1


@pytest.mark.parametrize("name", ["drop_before", "drop_during", "drop_after"])
def test_a_download_can_be_dropped(dalle: Emulator, name: str) -> None:
    dalle.result = "url"
    url = generate(dalle, SMALL).json()["data"][0]["url"]
    dalle.fail(Fault(name, route="pictures"))
    with pytest.raises((requests.ConnectionError, requests.exceptions.ChunkedEncodingError)):
        requests.get(url, timeout=5)


def test_a_download_can_be_endless_or_drip(dalle: Emulator) -> None:
    dalle.result = "url"
    url = generate(dalle, SMALL).json()["data"][0]["url"]
    for fault in (Fault("endless_body", route="pictures"), Fault("drip", route="pictures", interval_s=0.01)):
        dalle.fail(fault)
        with requests.get(url, timeout=5, stream=True) as response:
            assert response.raw.read(4) == b"\x89PNG"


def test_faults_strike_on_their_route_as_often_as_they_should(dalle: Emulator) -> None:
    dalle.fail(Fault("server_error", route="edits", times=None))
    dalle.fail(Fault("unavailable", route="generations", times=2))
    dalle.fail(Fault("conflict", route="models"))
    assert [generate(dalle, SMALL).status_code for _ in range(3)] == [503, 503, 200]
    assert [edit(dalle, png(), model="dall-e-2").status_code for _ in range(3)] == [500] * 3
    assert requests.get(f"{dalle.base_url}/models", headers=KEY, timeout=5).status_code == 409
    dalle.clear()
    assert edit(dalle, png(), model="dall-e-2").status_code == 400


def test_random_faults_repeat_with_their_seed(dalle: Emulator) -> None:
    def run(seed: int) -> list[int]:
        dalle.fail_at_random([Fault("unavailable"), Fault("missing_picture")], 0.5, seed)
        return [generate(dalle, {**SMALL, "size": "256x256"}).status_code for _ in range(12)]

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


def test_every_fault_is_described() -> None:
    assert all(kind.summary.endswith(".") for kind in FAULTS.values())
