"""How a server says no: one exception inside, one JSON shape for each family of servers outside."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


class Refusal(Exception):
    """A request that is answered with an error status, and costs nothing.

    `kind` and `code` are the `type` and `code` of OpenAI's error object, `param` the field that is wrong.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.param = param
        self.code = code
        self.headers = dict(headers or {})


def body_of(refusal: Refusal, shape: str) -> dict[str, Any]:
    """Return the JSON body with which a server of that `shape` refuses; see `SHAPES` for the names."""
    return SHAPES[shape](refusal)


def _openai(refusal: Refusal) -> dict[str, Any]:
    return {
        "error": {
            "message": refusal.message,
            "type": refusal.kind,
            "param": refusal.param,
            "code": refusal.code,
        }
    }


_COMFY_TITLES = {
    400: "Bad Request",
    401: "Unauthorized",
    402: "Payment Required",
    403: "Forbidden",
    404: "Not Found",
    429: "Rate Limit Exceeded",
}


def _comfy(refusal: Refusal) -> dict[str, Any]:
    # The proxy speaks for itself about accounts and money, and hands OpenAI's own refusals through.
    if refusal.code is not None and refusal.status not in (401, 402):
        return _openai(refusal)
    return {"error": _COMFY_TITLES.get(refusal.status, "Upstream Error"), "message": refusal.message}


_AZURE_CODES = {"moderation_blocked": "contentFilter", "model_not_found": "DeploymentNotFound"}


def _azure(refusal: Refusal) -> dict[str, Any]:
    code = _AZURE_CODES.get(refusal.code or "", refusal.code) or str(refusal.status)
    if refusal.status in (401, 404):
        return {"error": {"code": code, "message": refusal.message}}
    return {**_openai(refusal), "error": {**_openai(refusal)["error"], "code": code}}


def _litellm(refusal: Refusal) -> dict[str, Any]:
    error = {**_openai(refusal)["error"], "param": str(refusal.param), "code": str(refusal.status)}
    return {"error": error}


def _localai(refusal: Refusal) -> dict[str, Any]:
    return {"error": {"code": refusal.status, "message": refusal.message, "type": ""}}


def _string(refusal: Refusal) -> dict[str, Any]:
    if refusal.status >= 500:
        return {"error": "server_error", "message": refusal.message}
    return {"error": refusal.message}


def _detail(refusal: Refusal) -> dict[str, Any]:
    return {"detail": refusal.message}


SHAPES: dict[str, Callable[[Refusal], dict[str, Any]]] = {
    "openai": _openai,
    "comfy": _comfy,
    "azure": _azure,
    "litellm": _litellm,
    "localai": _localai,
    "string": _string,
    "detail": _detail,
}
