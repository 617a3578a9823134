"""Where a call goes and in which dialect: settings, servers, models. No HTTP, no tensors.

Settings come from the environment, then from the file `.env` in this folder; they are read when a call needs them.
No key, host or model is ever a node input: a shared workflow can then neither carry a key away nor send it elsewhere.
"""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from .addresses import as_sent
from .errors import NOT_CHARGED, SIGN_IN, ImagesApiError
from .models import ImageRequest

ENV_FILE = Path(__file__).with_name(".env")
OPENAI_URL = "https://api.openai.com/v1"
AZURE_DOMAINS = (".openai.azure.com", ".cognitiveservices.azure.com", ".services.ai.azure.com")

HOW_TO_SET_A_KEY = (
    f"write the line OPENAI_API_KEY=YOUR-KEY into the file {ENV_FILE} (it takes effect with the next run), or set the "
    "environment variable OPENAI_API_KEY and restart ComfyUI"
)
NO_ACCOUNT = (
    f"{SIGN_IN} Or use a key of your own: {HOW_TO_SET_A_KEY}. For another server that speaks the OpenAI Images API, "
    f"set OPENAI_BASE_URL in the same way. {NOT_CHARGED}"
)
NO_KEY = f"OpenAI needs a key: {HOW_TO_SET_A_KEY}. {NOT_CHARGED}"


class PromptTooLong(ValueError):
    """A prompt of more characters than a model takes."""

    __module__ = ImagesApiError.__module__


class SettingsError(ValueError):
    """A setting that cannot be used; the message names the variable and what it may be."""

    __module__ = ImagesApiError.__module__


class Settings(BaseSettings):
    """What the user configured. An empty variable counts as one that is not set."""

    model_config = SettingsConfigDict(
        env_file=ENV_FILE,
        env_file_encoding="utf-8-sig",  # as Windows' Notepad writes it
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
        str_strip_whitespace=True,
    )

    openai_api_key: SecretStr | None = None
    openai_base_url: str | None = None
    openai_org_id: str | None = None
    openai_project_id: str | None = None
    openai_api_version: str | None = None
    dalle2_backend: Literal["auto", "comfy", "openai"] = "auto"
    dalle2_model: str = "auto"
    dalle2_quality: Literal["low", "medium", "high", "auto"] = "low"
    dalle2_connect_timeout_s: float = Field(default=10, gt=0, le=3600)
    dalle2_read_timeout_s: float = Field(default=600, gt=0, le=3600)

    # The messages repeat no value: what somebody pastes into the wrong line may be a key.

    @field_validator("openai_api_key")
    @classmethod
    def _is_a_key(cls, key: SecretStr | None) -> SecretStr | None:
        text = key.get_secret_value().strip() if key else ""
        if not _fits_a_header(text):
            raise ValueError("it has characters that no key has. Paste it again, without quotation marks or spaces")
        return SecretStr(text) if text else None

    @field_validator("openai_org_id", "openai_project_id")
    @classmethod
    def _is_an_id(cls, name: str | None) -> str | None:
        if name and not _fits_a_header(name):
            raise ValueError("it has characters that no such id has. Paste it again, without quotation marks or spaces")
        return name

    @field_validator("openai_base_url")
    @classmethod
    def _is_an_address(cls, url: str | None) -> str | None:
        if url and not _is_base_url(url):
            raise ValueError(
                "it is not the address of a server, which looks like https://example.com/v1 or "
                "http://127.0.0.1:8080/v1, without a user name, a password or a question mark"
            )
        return url

    @classmethod
    def read(cls) -> Settings:
        """The settings of this moment. Raises SettingsError."""
        try:
            return cls()
        except ValidationError as err:
            problem = err.errors(include_input=False, include_url=False)[0]
            name = str(problem["loc"][0]).upper()
            why = problem["msg"].removeprefix("Value error, ")
            complaint = f"The setting {name} (in the environment or in {ENV_FILE}) cannot be used: {why}. {NOT_CHARGED}"
        except UnicodeDecodeError:
            complaint = f"The file {ENV_FILE} is not plain text: save it again with the encoding UTF-8. {NOT_CHARGED}"
        except OSError as err:
            complaint = f"The file {ENV_FILE} cannot be read: {err.strerror}. {NOT_CHARGED}"
        raise SettingsError(complaint)  # here, and so not chained to an error that holds what the file says

    @property
    def backend(self) -> Literal["comfy", "openai"]:
        """The backend that these settings choose."""
        if self.dalle2_backend != "auto":
            return self.dalle2_backend
        return "openai" if self.openai_api_key or self.openai_base_url else "comfy"


@dataclass(frozen=True)
class Dialect:
    """How a family of models wants to be asked.

    `sizes` are the sizes that it draws itself; any other is drawn at `default_size` and scaled down here. The optional
    fields are sent until a server refuses them by name.
    """

    name: str
    sizes: tuple[int, ...]
    default_size: int
    max_prompt_characters: int
    opaque_edits: bool
    max_file_bytes: int
    sends_quality: bool = False
    response_format: str | None = None


DALL_E_2 = Dialect(
    "dall-e-2",
    sizes=(256, 512, 1024),
    default_size=1024,
    max_prompt_characters=1000,
    opaque_edits=False,
    max_file_bytes=4_000_000,
    response_format="b64_json",
)
GPT_IMAGE = Dialect(
    "gpt-image",
    sizes=(1024,),
    default_size=1024,
    max_prompt_characters=32_000,
    opaque_edits=True,
    max_file_bytes=4_000_000,  # of the mask; an image may have more, and hardly ever does
    sends_quality=True,
)

MAX_PROMPT_CHARACTERS = max(dialect.max_prompt_characters for dialect in (DALL_E_2, GPT_IMAGE))

# What stands in for dall-e-2, best first: a model is tried when the one before it does not exist (any more).
GPT_IMAGE_MODELS = ("gpt-image-2", "gpt-image-2.5-flare", "gpt-image-2.5-sunburst")
STAND_INS = {"hosted": GPT_IMAGE_MODELS, "elsewhere": ("dall-e-2", *GPT_IMAGE_MODELS)}

# What the mask's part is called where it is not `mask`, by the `owned_by` that a server's list of models shows.
MASK_FIELDS = {"vllm": "mask_image", "vllm-omni": "mask_image"}


@dataclass(frozen=True)
class Backend:
    """A server and what it takes to use it.

    `models` are tried in turn, `fixed` says that the user named the one. `hosted` is true for OpenAI, Azure and
    Comfy.org, whose ways are known; other servers are asked. `headers` hold the key and are never shown; `account`
    tells whose money it is (by a hash), and stays the same when a login is renewed.
    """

    name: Literal["comfy", "openai"]
    base_url: str
    headers: dict[str, str] = field(repr=False)
    account: str
    params: dict[str, str]
    models: tuple[str, ...]
    fixed: bool
    quality: str
    timeouts_s: tuple[float, float]
    hosted: bool

    def dialect(self, model: str | None) -> Dialect:
        """The dialect that a model speaks here, judged by its name.

        A hosted model speaks gpt-image whatever it is called, unless it is a dall-e: Azure's deployments have any name.
        """
        name = (model or "").lower()
        is_gpt_image = "gpt-image" in name or (self.hosted and not name.startswith("dall-e"))
        return GPT_IMAGE if is_gpt_image else DALL_E_2

    def request(self, model: str | None, prompt: str, n: int, side: int) -> ImageRequest:
        """The call of old in the words of `model`. Raises PromptTooLong."""
        dialect = self.dialect(model)
        if len(prompt) > dialect.max_prompt_characters:
            raise PromptTooLong(
                f"The prompt has {len(prompt)} characters, and {model or 'this server'} takes up to "
                f"{dialect.max_prompt_characters}. Shorten it{_or_another_model(dialect)}. {NOT_CHARGED}"
            )
        drawn = side if side in dialect.sizes else dialect.default_size
        return ImageRequest(
            prompt=prompt,
            model=model,
            n=n,
            size=f"{drawn}x{drawn}",
            quality=self.quality if dialect.sends_quality else None,
            response_format=dialect.response_format,
        )


def _or_another_model(dialect: Dialect) -> str:
    return "" if dialect is GPT_IMAGE else ", or set DALLE2_MODEL to a gpt-image model that the server has"


def choose_backend(
    settings: Settings, *, comfy_api_base: str, auth_token: str | None = None, comfy_api_key: str | None = None
) -> Backend:
    """The backend for one call.

    `comfy_api_base` is ComfyUI's `--comfy-api-base`; `auth_token` and `comfy_api_key` are the user's Comfy.org account,
    of which the token wins. Raises SettingsError where the key or account that it takes is missing.
    """
    if settings.backend == "comfy":
        headers = _account_headers(auth_token, comfy_api_key)
        account = _owner(auth_token) if auth_token else repr(headers)
        return _backend(settings, comfy_api_base.rstrip("/") + "/proxy/openai", headers, account=account, hosted=True)
    base_url = (settings.openai_base_url or OPENAI_URL).rstrip("/")
    host = urlsplit(base_url).hostname or ""
    is_openai = host == "api.openai.com" or host.endswith(".api.openai.com")
    if is_openai and not settings.openai_api_key:
        raise SettingsError(NO_KEY)
    # The variable is Azure's own; whoever has it for another program may still use OpenAI here.
    is_azure = host.endswith(AZURE_DOMAINS) or (settings.openai_api_version is not None and not is_openai)
    params = {"api-version": settings.openai_api_version or "preview"} if is_azure else {}
    headers = _key_headers(settings, is_azure=is_azure)
    return _backend(settings, base_url, headers, account=repr(headers), params=params, hosted=is_openai or is_azure)


def _backend(
    settings: Settings,
    base_url: str,
    headers: dict[str, str],
    *,
    account: str,
    params: dict[str, str] | None = None,
    hosted: bool,
) -> Backend:
    if not _is_base_url(base_url):
        raise SettingsError(f"ComfyUI was started with a --comfy-api-base that is no address. {NOT_CHARGED}")
    fixed = settings.dalle2_model.lower() not in ("", "auto")
    return Backend(
        name=settings.backend,
        base_url=base_url,
        headers=headers,
        account=sha256(account.encode()).hexdigest(),
        params=params or {},
        models=(settings.dalle2_model,) if fixed else STAND_INS["hosted" if hosted else "elsewhere"],
        fixed=fixed,
        quality=settings.dalle2_quality,
        timeouts_s=(settings.dalle2_connect_timeout_s, settings.dalle2_read_timeout_s),
        hosted=hosted,
    )


def _account_headers(auth_token: str | None, comfy_api_key: str | None) -> dict[str, str]:
    if not all(_fits_a_header(secret) for secret in (auth_token, comfy_api_key) if secret):
        raise SettingsError(f"The login of the Comfy.org account is damaged: log out and in again. {NOT_CHARGED}")
    if auth_token:
        return {"Authorization": f"Bearer {auth_token}"}
    if comfy_api_key:
        return {"X-API-KEY": comfy_api_key}
    raise SettingsError(NO_ACCOUNT)


def _owner(token: str) -> str:
    """Whose login token (a JWT, RFC 7519) it is: the token changes every hour, its owner does not."""
    try:
        claims = json.loads(urlsafe_b64decode(token.split(".")[1] + "=="))
        return repr((claims["iss"], claims["sub"]))
    except (ValueError, LookupError, TypeError, RecursionError):
        return token


def _key_headers(settings: Settings, *, is_azure: bool) -> dict[str, str]:
    headers = {
        "OpenAI-Organization": settings.openai_org_id,
        "OpenAI-Project": settings.openai_project_id,
    }
    if settings.openai_api_key:
        key = settings.openai_api_key.get_secret_value()
        headers |= {"api-key": key} if is_azure else {"Authorization": f"Bearer {key}"}
    return {name: value for name, value in headers.items() if value}


def _fits_a_header(text: str) -> bool:
    return text.isascii() and text.isprintable() and not set(text) & set(" \"'")


def _is_base_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        is_strange = parts.port == 0 or parts.query or parts.fragment or "@" in parts.netloc
        as_sent(url)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname) and not is_strange
