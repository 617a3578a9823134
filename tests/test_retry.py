"""The policy, as pure functions, and the loop around it, in which nothing sleeps."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dalle2.errors import CONDITIONS, CallCancelled, Condition, ConnectionFailed, ImagesApiError, StatusError, TimedOut
from dalle2.models import ErrorDetail
from dalle2.retry import MAX_BACKOFF_S, MAX_ELAPSED_S, MAX_RETRIES, MAX_WAIT_S, Retrier, is_worth_it, wait_s

NOW_S = 1_800_000_000.0
NOW = datetime.fromtimestamp(NOW_S, timezone.utc)
WORTH_IT = {"rate", "busy", "server"}


@pytest.mark.parametrize("row", CONDITIONS, ids=lambda row: f"{row.name}-{min(row.statuses, default=0)}")
def test_a_condition_is_worth_it_or_not_and_the_server_may_say_otherwise(row: Condition) -> None:
    assert is_worth_it(row, {}) == (row.name in WORTH_IT)
    assert not is_worth_it(row, {"x-should-retry": "false"})
    assert is_worth_it(row, {"x-should-retry": " TRUE "}) == (row.name in {*WORTH_IT, "unexpected"})
    assert is_worth_it(row, {"x-should-retry": "maybe"}) == (row.name in WORTH_IT)


@pytest.mark.parametrize("status", [520, 524])
def test_an_answer_that_a_gateway_lost_is_not_asked_for_again_whatever_it_says(status: int) -> None:
    error = StatusError(status, ErrorDetail(), headers={"x-should-retry": "true"})
    assert not is_worth_it(error.condition, error.headers)
    assert "not sent again by itself" in str(error)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"retry-after": "4"}, 4),
        ({"retry-after": " 4 "}, 4),
        ({"retry-after": "0"}, 0),
        ({"retry-after": "0.25"}, 0.25),
        ({"retry-after": "86400"}, 86400),
        ({"retry-after-ms": "1500"}, 1.5),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after-ms": "soon", "retry-after": "9"}, 9),
        ({"retry-after": format_datetime(NOW + timedelta(seconds=90), usegmt=True)}, 90),
        ({"retry-after": format_datetime(NOW - timedelta(days=1), usegmt=True)}, 0),
        ({"retry-after": "Fri, 31 Dec 9999 23:59:59 GMT"}, pytest.approx(251_602_300_799 - NOW_S, rel=1e-2)),
    ],
)
def test_what_the_server_asks_for_is_obeyed(headers: dict[str, str], expected: float) -> None:
    assert wait_s(0, headers, now_s=NOW_S, jitter=0.5) == expected


@pytest.mark.parametrize(
    "value",
    [
        *("nan", "-nan", "inf", "-inf", "Infinity", "1e999", "-1", "-0.1", "", " ", "soon", "4 s", "0x10", "٤", "\x00"),
        *("Fri, 31 Dec 100000 23:59:59 GMT", "Mon, 99 Foo 2026 99:99:99 GMT", "Mon, 00 Jan 0000 00:00:00 GMT"),
        *("9" * 5000, "Wed, 01 Jan 2026 00:00:00 +9999999", ",,,,", "("),
    ],
)
@pytest.mark.parametrize("name", ["retry-after", "retry-after-ms"])
def test_hostile_values_end_in_a_sane_wait(name: str, value: str) -> None:
    wait = wait_s(0, {name: value}, now_s=NOW_S, jitter=0)
    assert wait in (0.5, 4.0, 0.004) or (wait > MAX_WAIT_S and math.isfinite(wait))


@pytest.mark.parametrize(("retry_number", "longest"), [(0, 0.5), (1, 1), (2, 2), (3, 4), (4, 8), (5, 8), (5000, 8)])
def test_the_backoff_doubles_up_to_its_limit_and_jitters_downwards(retry_number: int, longest: float) -> None:
    assert wait_s(retry_number, {}, now_s=NOW_S, jitter=0) == longest
    assert wait_s(retry_number, {}, now_s=NOW_S, jitter=1) == longest * 0.75


HEADER = st.text() | st.floats().map(str) | st.integers().map(str) | st.datetimes().map(format_datetime)


@settings(derandomize=True, deadline=None, max_examples=300)
@given(
    st.integers(0, 10**6),
    st.dictionaries(st.sampled_from(["retry-after", "retry-after-ms", "x-should-retry"]), HEADER),
    st.floats(0, 4e9),
    st.floats(0, 1),
)
def test_any_headers_give_a_wait_that_is_a_number(
    retry_number: int, headers: dict[str, str], now_s: float, jitter: float
) -> None:
    wait = wait_s(retry_number, headers, now_s=now_s, jitter=jitter)
    assert wait >= 0
    assert math.isfinite(wait)
    if not {"retry-after", "retry-after-ms"} & headers.keys():
        assert wait <= MAX_BACKOFF_S
    assert all(is_worth_it(row, headers) in (True, False) for row in CONDITIONS)


@dataclass
class Bench:
    """A retrier whose time is a number, and what it sent and said."""

    outcomes: list[Exception | str]
    seconds_a_call: float = 0.0
    now_s: float = 0.0
    cancel_at_s: float = math.inf
    calls: int = 0
    waits: list[float] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)

    def pause(self, seconds: float) -> bool:
        if seconds:
            self.waits.append(seconds)
        self.now_s += seconds
        return self.now_s >= self.cancel_at_s

    def say(self, text: str, for_s: float) -> None:
        self.texts.append(text)

    def send(self) -> str:
        self.calls += 1
        self.now_s += self.seconds_a_call
        outcome = self.outcomes.pop(0) if len(self.outcomes) > 1 else self.outcomes[0]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def run(self, *, repeatable: bool = False) -> str:
        retrier = Retrier(self.pause, self.say, jitter=lambda: 0.0, clock=lambda: self.now_s)
        return retrier.run(self.send, repeatable=repeatable)


def refused(status: int, **headers: str) -> StatusError:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return StatusError(status, ErrorDetail(), headers=named)


def lost(
    *, sent: bool, worth_a_retry: bool = True, kind: Callable[..., ConnectionFailed] = ConnectionFailed
) -> Exception:
    return kind("Lost.", sent=sent, worth_a_retry=worth_a_retry)


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 504])
def test_what_passes_is_sent_again_and_the_wait_is_told(status: int) -> None:
    bench = Bench([refused(status), refused(status), "drawn"])
    assert bench.run() == "drawn"
    assert (bench.calls, bench.waits) == (3, [0.5, 1.0])
    what = "Rate limited" if status == 429 else f"The server answered {status}"
    assert bench.texts == [f"{what}, trying again in 1 s"] * 2


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 405, 407, 413, 422, 501, 524, 307])
def test_any_other_status_is_not_sent_again(status: int) -> None:
    bench = Bench([refused(status)])
    with pytest.raises(StatusError):
        bench.run()
    assert (bench.calls, bench.waits, bench.texts) == (1, [], [])


def test_the_third_failure_is_the_last() -> None:
    bench = Bench([refused(500), refused(502), refused(503)])
    with pytest.raises(StatusError) as caught:
        bench.run()
    assert (bench.calls, caught.value.status_code) == (1 + MAX_RETRIES, 503)


@pytest.mark.parametrize(
    ("sent", "repeatable", "worth_a_retry", "calls"),
    [
        (False, False, True, 3),
        (False, True, True, 3),
        (True, False, True, 1),  # a billed request that may have arrived
        (True, True, True, 3),
        (False, False, False, 1),
        (True, True, False, 1),
    ],
)
@pytest.mark.parametrize("kind", [ConnectionFailed, TimedOut])
def test_a_lost_connection_is_tried_again_when_that_cannot_cost_twice(
    kind: type[ConnectionFailed], sent: bool, repeatable: bool, worth_a_retry: bool, calls: int
) -> None:
    bench = Bench([lost(sent=sent, worth_a_retry=worth_a_retry, kind=kind)])
    with pytest.raises(kind):
        bench.run(repeatable=repeatable)
    assert bench.calls == calls


def test_the_server_s_wait_is_obeyed_up_to_the_limit() -> None:
    bench = Bench([refused(429, retry_after="120"), "drawn"])
    assert bench.run() == "drawn"
    assert bench.waits == [120]
    assert bench.texts[0] == "Rate limited, trying again in 120 s"


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("120.5", "wait 121 s"),
        ("121", "wait 121 s"),
        ("3600", "wait 60 min"),
        ("86400", "wait 24 h"),
        ("1e300", "more than two days"),
    ],
)
def test_beyond_the_limit_it_fails_at_once_and_says_how_long(asked: str, said: str) -> None:
    bench = Bench([refused(429, retry_after=asked)])
    with pytest.raises(StatusError, match="Rate Limit Exceeded:") as caught:
        bench.run()
    assert said in str(caught.value)
    assert len(str(caught.value)) < 300
    assert (bench.calls, bench.waits) == (1, [])


def test_no_new_attempt_begins_after_the_time_is_up() -> None:
    bench = Bench([refused(503)], seconds_a_call=MAX_ELAPSED_S - 0.4)
    with pytest.raises(StatusError):
        bench.run()
    assert bench.calls == 1


def test_the_longest_waits_stay_within_the_time() -> None:
    bench = Bench([refused(503, retry_after="120")], seconds_a_call=200)
    with pytest.raises(StatusError):
        bench.run()
    assert bench.calls == 2


@pytest.mark.parametrize(("cancel_at_s", "calls"), [(0.0, 0), (0.5, 1), (1.5, 2)])
def test_a_cancel_ends_it_before_the_next_attempt(cancel_at_s: float, calls: int) -> None:
    bench = Bench([refused(503)], cancel_at_s=cancel_at_s)
    with pytest.raises(CallCancelled):
        bench.run()
    assert bench.calls == calls


def test_an_error_of_another_kind_passes_through() -> None:
    bench = Bench([ImagesApiError("No.")])
    with pytest.raises(ImagesApiError, match=r"No\."):
        bench.run(repeatable=True)
    assert bench.calls == 1


def test_left_to_itself_it_tries_again_without_a_word(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    bench = Bench([refused(503, retry_after_ms="1"), "drawn"])
    assert Retrier().run(bench.send, repeatable=False) == "drawn"
    assert bench.calls == 2
    assert (caplog.records, capsys.readouterr()) == ([], ("", ""))
