"""The table of conditions and what each tells its reader."""

from __future__ import annotations

import pytest

from dalle2.errors import (
    ADD_CREDITS,
    CHARGED,
    CONDITIONS,
    DOWNLOADS,
    LINK_FAULTS,
    MAYBE_CHARGED,
    NOT_CHARGED,
    PERHAPS_CHARGED,
    SIGN_IN,
    Condition,
    ConnectionFailed,
    StatusError,
    TimedOut,
    classify,
    link_fault,
)
from dalle2.models import ErrorDetail

WHAT_TO_DO = (
    "check",
    "run again",
    "set ",
    "add ",
    "raise ",
    "change ",
    "scale ",
    "put ",
    "verify ",
    "try again",
    "wait ",
)


def condition(status: int, message: str = "", code: str = "", type: str = "") -> str:
    return classify(status, ErrorDetail(message=message, code=code, type=type)).name


@pytest.mark.parametrize(
    ("name", "status", "message", "code", "type"),
    [
        ("key", 401, "Incorrect API key provided: sk-...", "invalid_api_key", ""),
        ("credits", 402, "", "", ""),
        ("verification", 403, "Your organization must be verified to use the model `gpt-image-2`.", "", ""),
        ("forbidden", 403, "Country, region, or territory not supported", "", ""),
        ("model", 403, "Project does not have access", "model_not_found", ""),
        ("model", 404, "The model `dall-e-2` does not exist", "", ""),
        ("model", 404, "The API deployment for this resource does not exist.", "DeploymentNotFound", ""),
        ("model", 400, "Invalid model name passed in model=dall-e-2", "400", ""),
        ("model", 400, "Model mismatch: request specifies 'dall-e-2' but server is running 'q'.", "", ""),
        ("model", 400, "Model not found in the model list, uid: dall-e-2", "", ""),
        ("model", 403, "The requested model 'dall-e-2' is not available for this key", "key_model_access_denied", ""),
        ("model", 410, "The model `dall-e-2` does not exist any more", "", ""),
        ("route", 404, "Invalid URL (POST /v1/images/edits)", "", ""),
        ("route", 405, "Method Not Allowed", "", ""),
        ("proxy_login", 407, "", "", ""),
        ("busy", 408, "", "", ""),
        ("busy", 409, "", "", ""),
        ("too_large", 413, "", "", ""),
        ("rate", 429, "Rate limit reached", "rate_limit_exceeded", "requests"),
        ("quota", 429, "You exceeded your current quota", "insufficient_quota", "insufficient_quota"),
        ("moderation", 400, "", "moderation_blocked", "image_generation_user_error"),
        ("moderation", 400, "Your request was rejected by the safety system.", "", ""),
        ("moderation", 400, "", "contentFilter", ""),
        ("billing_limit", 400, "Billing hard limit has been reached.", "billing_hard_limit_reached", ""),
        ("refused", 400, "Unknown parameter: 'style'.", "unknown_parameter", ""),
        ("refused", 422, "", "", ""),
        ("server", 500, "", "", "server_error"),
        ("server", 502, "502 Bad Gateway", "", ""),
        ("server", 503, "", "", ""),
        ("server", 504, "", "", ""),
        ("lost", 520, "", "", ""),
        ("lost", 524, "", "", ""),
        ("unexpected", 522, "", "", ""),
        ("unexpected", 100, "", "", ""),
        ("redirect", 307, "", "", ""),
    ],
)
def test_each_answer_has_its_condition(name: str, status: int, message: str, code: str, type: str) -> None:
    assert condition(status, message, code, type) == name


@pytest.mark.parametrize(("param", "name"), [("model", "model"), ("size", "refused"), ("model_kwargs", "refused")])
def test_a_value_that_is_refused_is_a_missing_model_where_it_is_the_models(param: str, name: str) -> None:
    detail = ErrorDetail(message="Invalid value: 'x'. Supported values are: 'y'.", code="invalid_value", param=param)
    assert classify(400, detail).name == name


@pytest.mark.parametrize(
    ("name", "status", "worth_a_retry"),
    [("gone", 403, False), ("gone", 404, False), ("rate", 429, True), ("server", 503, True), ("refused", 418, False)],
)
def test_each_answer_to_a_download_has_its_condition(name: str, status: int, worth_a_retry: bool) -> None:
    row = classify(status, ErrorDetail(), DOWNLOADS)
    assert (row.name, row.worth_a_retry) == (name, worth_a_retry)


def test_every_status_has_a_condition() -> None:
    assert all(condition(status) for status in range(1000))


@pytest.mark.parametrize("row", CONDITIONS, ids=lambda row: row.name)
def test_a_message_says_what_to_do_what_was_spent_what_was_said_and_which_request(row: Condition) -> None:
    status = next(iter(row.statuses), 599)
    detail = ErrorDetail(message=f"Said: {' '.join(row.words[:1])}")
    error = StatusError(status, detail, headers={"X-Request-ID": "req_7"})
    message = str(error)
    assert error.condition == row
    assert any(remedy in message.lower() for remedy in WHAT_TO_DO), message
    assert any(spent in message for spent in (NOT_CHARGED, MAYBE_CHARGED, PERHAPS_CHARGED, "most likely not charged"))
    assert "The server said: Said:" in message
    assert message.endswith("Request id: req_7")
    assert "{" not in message


def test_a_message_without_words_and_id_ends_with_the_money() -> None:
    assert str(StatusError(429, ErrorDetail())).endswith(NOT_CHARGED)


def test_an_error_keeps_only_the_headers_that_it_needs() -> None:
    error = StatusError(
        429, ErrorDetail(), headers={"Retry-After": "3", "Set-Cookie": "secret", "X-Should-Retry": "true"}
    )
    assert error.headers == {"retry-after": "3", "x-should-retry": "true"}
    assert (error.status_code, error.request_id) == (429, "")


def test_a_request_id_is_cut_short() -> None:
    error = StatusError(500, ErrorDetail(), headers={"x-request-id": "r" * 5000})
    assert len(error.request_id) <= 80
    assert len(str(error)) < 400


def test_a_note_comes_after_what_happened_and_keeps_everything_else() -> None:
    error = StatusError(429, ErrorDetail(message="Slow down."), headers={"x-request-id": "req_7"})
    noted = error.with_note("It asks to wait 10 min before the next try.")
    assert "run again. It asks to wait 10 min before the next try. Nothing was charged." in str(noted)
    assert (noted.condition, noted.request_id, noted.detail) == (error.condition, "req_7", error.detail)


@pytest.mark.parametrize(
    ("status", "detail", "exact"),
    [
        (402, ErrorDetail(message="Pay."), True),
        (429, ErrorDetail(code="insufficient_quota"), True),
        (400, ErrorDetail(code="billing_hard_limit_reached"), True),
        (401, ErrorDetail(message="Log in."), False),
    ],
)
def test_an_account_is_told_what_the_frontend_has_a_dialog_for(status: int, detail: ErrorDetail, exact: bool) -> None:
    error = StatusError(status, detail, headers={"x-request-id": "req_7"}, signed_in=True)
    assert str(error) == ADD_CREDITS if exact else str(error).startswith(SIGN_IN)


@pytest.mark.parametrize("signed_in", [True, False])
def test_the_frontend_knows_rate_limits_and_moderation_by_their_first_words(signed_in: bool) -> None:
    rate = StatusError(429, ErrorDetail(), signed_in=signed_in)
    moderation = StatusError(400, ErrorDetail(code="moderation_blocked"), signed_in=signed_in)
    assert str(rate).startswith("Rate Limit Exceeded:")
    assert str(moderation).startswith("Your request was flagged by our content moderation system")


def test_the_key_of_one_s_own_is_never_told_to_log_in() -> None:
    assert SIGN_IN not in str(StatusError(401, ErrorDetail()))


@pytest.mark.parametrize("kind", LINK_FAULTS)
def test_a_link_fault_names_the_host_and_whether_money_was_spent(kind: str) -> None:
    unsent = link_fault(kind, "example.com", sent=False, billed=True)
    sent = link_fault(kind, "example.com", sent=True, billed=True)
    free = link_fault(kind, "example.com", sent=True, billed=False)
    assert "example.com" in str(unsent)
    assert str(unsent).endswith(NOT_CHARGED)
    assert str(sent).endswith(MAYBE_CHARGED)
    assert not any(words in str(free) for words in (NOT_CHARGED, MAYBE_CHARGED, CHARGED))
    assert isinstance(sent, TimedOut if "timeout" in kind else ConnectionFailed)


def test_only_a_wrong_certificate_stays_wrong() -> None:
    assert [kind for kind in LINK_FAULTS if not link_fault(kind, "h", sent=False, billed=True).worth_a_retry] == ["tls"]
