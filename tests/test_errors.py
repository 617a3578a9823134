"""The table of cases and what each tells its reader."""

from __future__ import annotations

import pytest

from dalle2.errors import (
    STATUS_CASES,
    Case,
    Charge,
    ConnectionFailed,
    ConnectionProblem,
    Login,
    StatusCase,
    StatusError,
    TimedOut,
    connection_error,
    duration,
    matching_case,
)
from dalle2.models import ErrorDetail

REMEDIES = ("check", "run again", "set ", "add ", "raise ", "change ", "scale ", "put ", "verify ", "try again")
XINFERENCE = (
    "Internal Server Error: 1 validation error for TextToImageRequest\nmodel\n  field required (type=value_error)"
)


def case_of(status: int, message: str = "", code: str = "", type: str = "") -> str:
    return matching_case(status, ErrorDetail(message=message, code=code, type=type)).case.name


# Beside those that `test_faults` has.
@pytest.mark.parametrize(
    ("case", "status", "message", "code", "type"),
    [
        ("KEY", 400, "No connected db.", "", "no_db_connection"),
        ("VERIFICATION", 403, "Your organization must be verified to use the model `gpt-image-2`.", "", ""),
        ("FORBIDDEN", 403, "Country, region, or territory not supported", "", ""),
        ("MODEL", 403, "Project does not have access", "model_not_found", ""),
        ("MODEL", 404, "The model `dall-e-2` does not exist", "", ""),
        ("MODEL", 404, "The API deployment for this resource does not exist.", "DeploymentNotFound", ""),
        ("MODEL", 404, 'model "llama:7b" not found, try pulling it first', "", ""),
        ("MODEL", 400, "Model dall-e-2 is not supported", "model_not_supported", ""),
        ("MODEL", 400, "Invalid model name passed in model=dall-e-2", "400", ""),
        ("MODEL", 400, "Model mismatch: request specifies 'dall-e-2' but server is running 'q'.", "", ""),
        ("MODEL", 400, "Model not found in the model list, uid: dall-e-2", "", ""),
        ("MODEL", 403, "The requested model 'dall-e-2' is not available for this key", "key_model_access_denied", ""),
        ("MODEL", 410, "The model `dall-e-2` does not exist any more", "", ""),
        ("MODEL", 503, "No available channel for model dall-e-2 under group default", "model_not_found", ""),
        ("MODEL", 503, "litellm: model_not_found", "", ""),
        ("MODEL", 500, " ".join(XINFERENCE.split()), "", ""),
        ("SERVER", 500, " ".join(XINFERENCE.replace("model\n", "prompt\n").split()), "", ""),
        ("SERVER", 503, "The upstream 'a' does not exist", "", ""),
        ("REFUSED", 400, "Invalid image: the file does not exist", "", ""),
        ("REFUSED", 400, "The model accepts no such thing: field 'x' does not exist", "", ""),
        ("ROUTE", 404, "The requested path does not exist", "", ""),
        ("ROUTE", 404, "Invalid URL (POST /v1/images/edits)", "", ""),
        ("ROUTE", 405, "Method Not Allowed", "", ""),
        ("PROXY_LOGIN", 407, "", "", ""),
        ("MODERATION", 400, "", "moderation_blocked", "image_generation_user_error"),
        ("MODERATION", 400, "Your request was rejected by the safety system.", "", ""),
        ("MODERATION", 400, "", "contentFilter", ""),
        ("REFUSED", 422, "", "", ""),
        ("LOST", 504, "", "", "server_error"),
        ("LOST", 520, "", "", ""),
        ("LOST", 524, "", "", ""),
        ("LOST", 500, "litellm.APIConnectionError: OpenAIException", "", ""),
        ("LOST", 408, "litellm.Timeout: APITimeoutError", "", ""),
        ("LOST", 408, "Timeout waiting for upstream", "", ""),
        ("LOST", 500, "Post https://api.openai.com/v1/images: context deadline exceeded", "do_request_failed", ""),
        ("LOST", 500, "do request failed: EOF", "do_request_failed", ""),
        ("LOST", 500, "Request timed out.", "", ""),
        ("LOST", 503, "Timed out waiting for the worker", "", ""),
        ("LOST", 502, "upstream request timeout", "", ""),
        ("LOST", 502, "upstream prematurely closed connection", "", ""),
        ("LOST", 503, "disconnect/reset before headers. reset reason: connection termination", "", ""),
        ("SERVER", 503, "disconnect/reset before headers. reset reason: connection failure", "", ""),
        ("SERVER", 500, "Invalid timeout parameter", "", ""),
        ("SERVER", 500, "CUDA error: the launch timed out and was terminated", "", ""),
        ("BUSY", 408, "Request Timeout", "", ""),
        ("UNEXPECTED", 522, "", "", ""),
        # A code counts before words: those may be the user's.
        ("MODEL", 400, "rejected by the safety system", "model_not_found", ""),
        ("QUOTA", 429, "rejected by the safety system", "insufficient_quota", ""),
        ("MODERATION", 400, "insufficient_quota", "moderation_blocked", ""),
    ],
)
def test_each_response_has_its_case(case: str, status: int, message: str, code: str, type: str) -> None:
    assert case_of(status, message, code, type) == case


@pytest.mark.parametrize(
    ("param", "status", "case"),
    [("model", 400, Case.MODEL), ("model", 422, Case.MODEL), ("model_kwargs", 400, Case.REFUSED)],
)
def test_a_refused_model_field_is_a_missing_model(param: str, status: int, case: Case) -> None:
    detail = ErrorDetail(message="Invalid value: 'x'. Supported values are: 'y'.", code="invalid_value", param=param)
    assert matching_case(status, detail).case is case


def test_every_status_has_a_case() -> None:
    assert all(case_of(status) for status in range(1000))


@pytest.mark.parametrize("row", STATUS_CASES, ids=lambda row: row.case.name)
@pytest.mark.parametrize("login", [Login.KEY, Login.NONE])
def test_a_message_says_remedy_charge_words_and_request(row: StatusCase, login: Login) -> None:
    status = min(row.statuses, default=599)
    detail = ErrorDetail(message=f"Said: {' '.join([*row.codes, *row.patterns][:1])}")
    error = StatusError(status, detail, headers={"X-Request-ID": "req_7"}, login=login)
    message = str(error)
    first, said, last = message.split("\n")
    assert error.case is row.case
    assert any(remedy in first.lower() for remedy in REMEDIES), first
    assert row.charge is not Charge.PAID_BEFORE and first.endswith(row.charge.value)
    assert said.startswith("The server said: Said:")
    assert last == "Request id: req_7"
    assert "{" not in message and "auto" not in message


def test_an_error_keeps_only_the_headers_that_it_needs() -> None:
    headers = {"Retry-After": "3", "Set-Cookie": "secret", "X-Should-Retry": "true"}
    error = StatusError(429, ErrorDetail(), headers=headers)
    assert error.headers == {"retry-after": "3", "x-should-retry": "true"}
    assert (error.status_code, error.request_id) == (429, "")


def test_a_request_id_is_one_short_line() -> None:
    error = StatusError(500, ErrorDetail(), headers={"x-request-id": "r\n" * 5000})
    assert len(error.request_id) == 80
    assert str(error).split("\n")[-1] == f"Request id: {error.request_id}"


def test_a_note_and_a_wait_find_their_places() -> None:
    error = StatusError(503, ErrorDetail())
    error.note = "Asked for: gpt-image-2."
    error.wait_s = 600
    assert str(error) == (
        "The server failed (status 503). Run again in 10 minutes; if that does not help, look at the server's status "
        "page or log. Asked for: gpt-image-2. This request was most likely not charged."
    )


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        *((0, "a second"), (1.9, "a second"), (2, "2 seconds"), (119.1, "120 seconds"), (120, "2 minutes")),
        *((121, "3 minutes"), (3600, "60 minutes"), (7200, "2 hours"), (86_400, "24 hours"), (172_800, "2 days")),
        *((31_535_999, "365 days"), (31_536_000, "more than a year"), (1e300, "more than a year")),
    ],
)
def test_a_duration_is_said_as_a_person_would(seconds: float, said: str) -> None:
    assert duration(seconds) == said


@pytest.mark.parametrize("kind", ConnectionProblem, ids=lambda kind: kind.name)
def test_a_failed_connection_names_the_host_and_the_charge(kind: ConnectionProblem) -> None:
    unsent = connection_error(kind, "example.com", sent=False, billed=True)
    sent = connection_error(kind, "example.com", sent=True, billed=True)
    free = connection_error(kind, "example.com", sent=True, billed=False)
    assert "example.com" in str(unsent)
    assert str(unsent).endswith(Charge.NO.value)
    assert str(sent).endswith(Charge.MAYBE.value)
    assert "charged" not in str(free)
    assert isinstance(sent, TimedOut if "TIMEOUT" in kind.name else ConnectionFailed)


def test_only_a_wrong_certificate_stays_wrong() -> None:
    errors = {kind: connection_error(kind, "h", sent=False, billed=True) for kind in ConnectionProblem}
    assert [kind for kind, error in errors.items() if not error.is_transient] == [ConnectionProblem.TLS]
