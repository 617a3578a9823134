"""Who may come in: the ways in which servers take a key. A key that says "wrong" is refused by all."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from .errors import Refusal


def authorize(auth: str, headers: Mapping[str, str], api_key: str | None) -> None:
    """Raise Refusal unless `headers` hold what `auth` asks for; `api_key` None lets every key and none in."""
    token = _bearer(headers)
    sent = [value for value in (token, headers.get("api-key"), headers.get("x-api-key")) if value]
    if any("wrong" in value for value in sent):
        raise _incorrect(next(value for value in sent if "wrong" in value))
    _CHECKS[auth](token, headers, api_key)


def _bearer(headers: Mapping[str, str]) -> str | None:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None


def _check_none(token: str | None, headers: Mapping[str, str], api_key: str | None) -> None:
    pass


def _check_bearer(token: str | None, headers: Mapping[str, str], api_key: str | None) -> None:
    if api_key is None:
        return
    if token is None:
        message = "You didn't provide an API key. Send it in an Authorization header: Authorization: Bearer KEY."
        raise Refusal(401, message, code="invalid_api_key")
    if token != api_key:
        raise _incorrect(token)


def _check_api_key(token: str | None, headers: Mapping[str, str], api_key: str | None) -> None:
    if api_key is not None and headers.get("api-key") != api_key:
        message = "Access denied due to invalid subscription key or wrong API endpoint."
        raise Refusal(401, message, code="401")


def _check_comfy(token: str | None, headers: Mapping[str, str], api_key: str | None) -> None:
    # With both, the token of the login wins over the key.
    if token is not None:
        allowed = "expired" not in token
    else:
        allowed = headers.get("x-api-key", "").startswith("comfyui-")
    if not allowed:
        raise Refusal(401, "Unauthorized: Please login first to use this node.", code="invalid_api_key")


_CHECKS: Mapping[str, Callable[[str | None, Mapping[str, str], str | None], None]] = {
    "none": _check_none,
    "bearer": _check_bearer,
    "api-key": _check_api_key,
    "comfy": _check_comfy,
}


def _incorrect(key: str) -> Refusal:
    # OpenAI repeats the ends of the key; so does this, for a client that must not print even that much.
    shown = f"{key[:3]}{'*' * 8}{key[-4:]}" if len(key) >= 12 else "*" * 8
    return Refusal(401, f"Incorrect API key provided: {shown}.", code="invalid_api_key")
