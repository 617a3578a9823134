"""Who may come in: the ways in which servers take a key."""

from __future__ import annotations

from collections.abc import Mapping

from .wire import Refusal


def authorize(auth: str, headers: Mapping[str, str], api_key: str | None) -> None:
    """Raise Refusal unless `headers`, by lower-case name, hold what `auth` asks for; None lets everyone in."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    token = token.strip() if scheme.lower() == "bearer" else ""
    if auth == "comfy":
        # With both, the token of the login wins over the key.
        allowed = "expired" not in token if token else headers.get("x-api-key", "").startswith("comfyui-")
        if not allowed:
            raise Refusal(401, "Unauthorized: Please login first to use this node.", code="invalid_api_key")
    elif auth == "none" or api_key is None:
        return
    elif auth == "api-key":
        if headers.get("api-key") != api_key:
            raise Refusal(401, "Access denied due to invalid subscription key or wrong API endpoint.", code="401")
    elif not token:
        raise Refusal(
            401, "You didn't provide an API key. Send it as Authorization: Bearer KEY.", code="invalid_api_key"
        )
    elif token != api_key:
        # OpenAI repeats the ends of the key; so does this, for a client that must not print even that much.
        shown = f"{token[:3]}{'*' * 8}{token[-4:]}" if len(token) >= 12 else "*" * 8
        raise Refusal(401, f"Incorrect API key provided: {shown}.", code="invalid_api_key")
