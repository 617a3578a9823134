"""The emulator is broken only where it was told to be. What each fault is, the tests of the node show (test_faults)."""

from __future__ import annotations

from typing import Any

import pytest
import requests

from development.emulator import Emulator, Fault
from development.emulator.faults import STATUSES
from tests.emulated import KEY, SMALL, clean, edit, generate, png, started

fixtures = (started, clean)


def test_an_error_status_costs_nothing_and_passes(openai: Emulator) -> None:
    for name in STATUSES.keys() - {"missing_picture", "expired_picture"}:
        openai.fail(Fault(name))
        assert generate(openai, SMALL, allow_redirects=False).status_code == STATUSES[name].status
    assert openai.paid_pictures == 0
    assert generate(openai, SMALL).status_code == 200


def test_details_make_any_answer(openai: Emulator) -> None:
    openai.fail(Fault("rate_limit", retry_after_s=3, headers={"x-should-retry": "true"}))
    openai.fail(Fault("unknown_parameter", param="quality"))
    openai.fail(Fault("status", status=418, body={"tea": "pot"}, headers={"X-Spout": "short"}))
    limited, unknown, teapot = (generate(openai, SMALL) for _ in range(3))
    assert (limited.headers["Retry-After"], limited.headers["x-should-retry"]) == ("3", "true")
    assert unknown.json()["error"]["message"] == "Unknown parameter: 'quality'."
    assert (teapot.status_code, teapot.json(), teapot.headers["X-Spout"]) == (418, {"tea": "pot"}, "short")


@pytest.mark.parametrize(("name", "billed"), [("drop_before", 0), ("drop_after", 2), ("drop_during", 2)])
def test_a_dropped_connection_is_billed_once_the_work_is_done(openai: Emulator, name: str, billed: int) -> None:
    openai.fail(Fault(name))
    with pytest.raises((requests.ConnectionError, requests.exceptions.ChunkedEncodingError)):
        generate(openai, {**SMALL, "n": 2})
    (post,) = openai.posts
    assert (post.status, post.billed, bool(post.fields)) == (None, billed, name != "drop_before")


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
    [("no_such_fault", {}), ("file_path_url", {"route": "pictures"}), ("rate_limit", {"retry_after": 3})],
)
def test_a_fault_that_makes_no_sense_is_refused(name: str, more: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=name):
        Fault(name, **more)
