"""Where a call goes and in which words: the servers, and the request that each of them gets for a call.

No HTTP, no tensors. The settings that choose a server are in `settings`, the models in `image_models`.
"""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Literal
from urllib.parse import urlsplit

from .errors import SIGN_IN, Charge, Login
from .image_models import (
    ANY_MODEL,
    DALL_E_2,
    DALL_E_3,
    GPT_IMAGE,
    GPT_IMAGE_MODELS,
    GPT_QUALITY,
    GPT_STYLE,
    MODELS_ELSEWHERE,
    PRICES_USD,
    SQUARE,
    Dialect,
    Original,
)
from .models import ImageRequest
from .settings import ENV_FILE, Settings, SettingsError, fits_a_header, is_base_url

OPENAI_URL = "https://api.openai.com/v1"
AZURE_PATH = "/openai/v1"
AZURE_DOMAINS = (".openai.azure.com", ".cognitiveservices.azure.com", ".services.ai.azure.com")

HOW_TO_SET_A_KEY = (
    "enter it in the editor under Settings, OpenAI DALL·E. Without the editor, write the line OPENAI_API_KEY=YOUR-KEY "
    f"into the file {ENV_FILE}, or set the environment variable OPENAI_API_KEY and restart ComfyUI"
)
NO_ACCOUNT = (
    f"{SIGN_IN} Or use a key of your own: {HOW_TO_SET_A_KEY}. For another server that speaks the OpenAI Images API, "
    f"set OPENAI_BASE_URL in the same way. {Charge.NO.value}"
)
NO_KEY = f"OpenAI needs a key: {HOW_TO_SET_A_KEY}. {Charge.NO.value}"


# The name of the mask's part where it is not `mask`, by the `owned_by` in a server's list of models.
MASK_FIELDS: Mapping[str, str] = {"vllm": "mask_image", "vllm-omni": "mask_image"}


@dataclass(frozen=True)
class DalleRequest:
    """What one of the DALL·E nodes was asked for, before it is translated for a server of today.

    `size` is (width, height). `quality` ("standard", "hd") and `style` ("vivid", "natural") are DALL·E 3's.
    """

    original: Original
    prompt: str
    n: int
    size: tuple[int, int]
    quality: str | None = None
    style: str | None = None


@dataclass(frozen=True)
class Backend:
    """A server and what it takes to use it.

    `fixed_model` is the one that the user named. `hosted` is true for OpenAI, Azure and Comfy.org, whose ways are
    known; other servers are asked. `headers` hold the key and are never shown; `account` tells whose money it is (by a
    hash), and stays the same when a login is renewed. `quality` is gpt-image's, for DALL·E 2.
    """

    name: Literal["comfy", "openai"]
    base_url: str
    headers: Mapping[str, str] = field(repr=False)
    account: str
    params: Mapping[str, str]
    fixed_model: str | None
    quality: str
    timeouts_s: tuple[float, float]
    hosted: bool

    @property
    def login(self) -> Login:
        """Who pays."""
        if self.name == "comfy":
            return Login.ACCOUNT
        return Login.KEY if self.headers.keys() & {"Authorization", "api-key"} else Login.NONE

    @property
    def total_s(self) -> float:
        """The seconds within which a response must be complete."""
        connect_s, read_s = self.timeouts_s
        return connect_s + 1.5 * read_s

    def models_for(self, original: Original) -> tuple[str, ...]:
        """The models to try in turn in place of a DALL·E model."""
        if self.fixed_model is not None:
            return (self.fixed_model,)
        return GPT_IMAGE_MODELS if self.hosted else MODELS_ELSEWHERE[original]

    def dialect(self, model: str | None) -> Dialect:
        """The dialect that a model speaks here, judged by its name.

        A hosted model speaks gpt-image whatever it is called, unless it is a dall-e: Azure's deployments have any name.
        """
        name = (model or "").lower()
        if name.startswith("dall-e-2"):
            return DALL_E_2
        if name.startswith("dall-e-3"):
            return DALL_E_3
        return GPT_IMAGE if self.hosted or "gpt-image" in name else ANY_MODEL

    def translated(self, model: str | None, request: DalleRequest) -> ImageRequest:
        """The request for `model`, in its dialect."""
        dialect = self.dialect(model)
        size = request.size if not dialect.sizes or request.size in dialect.sizes else SQUARE
        translated = ImageRequest(prompt=request.prompt, model=model, n=request.n, size=f"{size[0]}x{size[1]}")
        return translated.model_copy(update=self._optional_fields(dialect, request))

    def _optional_fields(self, dialect: Dialect, request: DalleRequest) -> dict[str, str]:
        """The fields that a server may refuse by name; where a field is missing for the style, the prompt says it."""
        fields: dict[str, str] = {}
        if not (self.hosted and dialect is GPT_IMAGE):  # which refuses it, and never needs it
            fields["response_format"] = "b64_json"
        if dialect is GPT_IMAGE:
            fields["quality"] = GPT_QUALITY.get(request.quality or "", self.quality)
            style = GPT_STYLE.get(request.style or "")
            if style:
                fields["prompt"] = f"{request.prompt}\n\n{style}"
        if dialect is DALL_E_3:
            # Of the DALL·E 2 node with DALLE2_MODEL=dall-e-3: what OpenAI took when a field was missing.
            fields["quality"] = request.quality or "standard"
            fields["style"] = request.style or "vivid"
        return fields


@dataclass(frozen=True)
class Account:
    """A Comfy.org account, by one of two secrets that ComfyUI hands to a node; with both, the token wins."""

    token: str | None = field(default=None, repr=False)
    api_key: str | None = field(default=None, repr=False)


def choose_backend(settings: Settings, account: Account, *, comfy_api_base: str) -> Backend:
    """The backend for one call; `comfy_api_base` is ComfyUI's `--comfy-api-base`.

    Raises SettingsError where the key or account that it takes is missing.
    """
    if settings.backend == "comfy":
        return _account_backend(settings, account, comfy_api_base=comfy_api_base)
    return _key_backend(settings)


def _account_backend(settings: Settings, account: Account, *, comfy_api_base: str) -> Backend:
    base_url = comfy_api_base.rstrip("/") + "/proxy/openai"
    if not is_base_url(base_url):
        raise SettingsError(f"ComfyUI was started with a --comfy-api-base that is no address. {Charge.NO.value}")
    headers = _account_headers(account)
    owner = _owner(account.token) if account.token else repr(headers)
    return _backend(settings, base_url, headers, owner=owner, hosted=True)


def _key_backend(settings: Settings) -> Backend:
    base_url = settings.openai_base_url or OPENAI_URL
    host = server_host(settings)
    is_openai = is_openai_host(host)
    if is_openai or host.endswith(AZURE_DOMAINS):
        _check_access(settings, base_url)
    is_azure = _is_azure(settings, base_url)
    headers = _key_headers(settings, is_azure=is_azure)
    params = {"api-version": settings.openai_api_version or "preview"} if is_azure else {}
    return _backend(settings, base_url, headers, owner=repr(headers), params=params, hosted=is_openai or is_azure)


def _is_azure(settings: Settings, base_url: str) -> bool:
    """Whether it is Azure, at its own address or behind another: by itself, the variable may be for another program."""
    if server_host(settings).endswith(AZURE_DOMAINS):
        return True
    return settings.openai_api_version is not None and base_url.endswith(AZURE_PATH)


def _check_access(settings: Settings, base_url: str) -> None:
    """Raise SettingsError unless OpenAI or Azure can be used as it is set."""
    if not settings.openai_api_key:
        raise SettingsError(NO_KEY)
    if settings.openai_api_key.get_secret_value().startswith("comfyui-"):
        raise SettingsError(
            "The setting OPENAI_API_KEY cannot be used: it is the key of a Comfy.org account. Remove it, and sign in "
            f"with it instead. {Charge.NO.value}"
        )
    if not base_url.startswith("https://"):
        raise SettingsError(
            f"The setting OPENAI_BASE_URL cannot be used: {base_url} must begin with https, to protect the key. "
            f"{Charge.NO.value}"
        )


def server_host(settings: Settings) -> str:
    """The host that gets the user's own key."""
    return urlsplit(settings.openai_base_url or OPENAI_URL).hostname or ""


def is_openai_host(host: str) -> bool:
    """Whether this is OpenAI itself, in whatever region."""
    return host == "api.openai.com" or host.endswith(".api.openai.com")


def known_prices(settings: Settings) -> Mapping[str, float]:
    """US dollars for one 1024x1024 image, by gpt-image's quality; empty where nobody knows what these settings cost."""
    is_usual_model = settings.dalle2_model.lower() in ("auto", GPT_IMAGE_MODELS[0])
    is_usual_server = settings.backend == "comfy" or is_openai_host(server_host(settings))
    return PRICES_USD if is_usual_model and is_usual_server else {}


def _backend(
    settings: Settings,
    base_url: str,
    headers: Mapping[str, str],
    *,
    owner: str,
    params: Mapping[str, str] | None = None,
    hosted: bool,
) -> Backend:
    return Backend(
        name=settings.backend,
        base_url=base_url,
        headers=headers,
        account=sha256(owner.encode()).hexdigest(),
        params=params or {},
        fixed_model=None if settings.dalle2_model == "auto" else settings.dalle2_model,
        quality=settings.dalle2_quality,
        timeouts_s=(settings.dalle2_connect_timeout_s, settings.dalle2_read_timeout_s),
        hosted=hosted,
    )


def _account_headers(account: Account) -> dict[str, str]:
    secret = account.token or account.api_key
    if not secret:
        raise SettingsError(NO_ACCOUNT)
    if not fits_a_header(secret):
        raise SettingsError(f"The login of the Comfy.org account is damaged: log out and in again. {Charge.NO.value}")
    return {"Authorization": f"Bearer {secret}"} if account.token else {"X-API-KEY": secret}


def _owner(token: str) -> str:
    """Whose login token (a JWT, RFC 7519) it is: the token changes every hour, its owner does not."""
    try:
        claims = json.loads(urlsafe_b64decode(token.split(".")[1] + "=="))
        return repr((claims["iss"], claims["sub"]))
    except (ValueError, LookupError, TypeError, RecursionError):
        return token


def _key_headers(settings: Settings, *, is_azure: bool) -> dict[str, str]:
    headers: dict[str, str] = {}
    if settings.openai_org_id:
        headers["OpenAI-Organization"] = settings.openai_org_id
    if settings.openai_project_id:
        headers["OpenAI-Project"] = settings.openai_project_id
    if settings.openai_api_key:
        key = settings.openai_api_key.get_secret_value()
        headers |= {"api-key": key} if is_azure else {"Authorization": f"Bearer {key}"}
    return headers
