"""What the user configured: read from the environment, the file `.env` in this folder, and the editor's settings page.

The environment takes precedence over `.env`, and that over the editor. Settings are read when a call needs them.
No key, host or model is ever a node input: a shared workflow can then neither carry a key away nor send it elsewhere.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from dotenv import dotenv_values
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator

from .errors import Charge
from .net.addresses import as_sent

ENV_FILE = Path(__file__).with_name(".env")
# A key and the server it is sent to. The editor's pair counts only as a whole: a key from the environment must never
# go to an address that somebody typed into a browser.
KEY_AND_ADDRESS = ("openai_api_key", "openai_base_url")
# What the editor's settings page may change beside these two.
EDITOR_CHOICES = ("dalle2_backend", "dalle2_model", "dalle2_quality")

Values = dict[str, Any]


class SettingsError(ValueError):
    """A setting that cannot be used; the message names the variable and what it may be."""


@dataclass(frozen=True)
class SettingsFiles:
    """Where settings are kept beside the environment: the `.env` of this folder, and the editor's file (JSON)."""

    env: Path | None = ENV_FILE
    editor: Path | None = None


class Settings(BaseModel):
    """The settings of one moment."""

    model_config = ConfigDict(extra="ignore", frozen=True, hide_input_in_errors=True, str_strip_whitespace=True)

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
        if not fits_a_header(text):
            raise ValueError("it has characters that no key has. Paste it again, without quotation marks or spaces")
        return SecretStr(text) if text else None

    @field_validator("openai_org_id", "openai_project_id")
    @classmethod
    def _is_an_id(cls, name: str | None) -> str | None:
        if name and not fits_a_header(name):
            raise ValueError("it has characters that no such id has. Paste it again, without quotation marks or spaces")
        return name

    @field_validator("openai_base_url")
    @classmethod
    def _is_an_address(cls, url: str | None) -> str | None:
        if url and not is_base_url(url):
            raise ValueError(
                "it is not the address of a server, which looks like https://example.com/v1 or "
                "http://127.0.0.1:8080/v1, without a user name, a password or a question mark"
            )
        return url.rstrip("/") if url else url

    @field_validator("dalle2_model")
    @classmethod
    def _is_a_model(cls, name: str) -> str:
        return "auto" if name.lower() in ("", "auto") else name

    @property
    def backend(self) -> Literal["comfy", "openai"]:
        """The backend that these settings choose."""
        if self.dalle2_backend != "auto":
            return self.dalle2_backend
        return "openai" if self.openai_api_key or self.openai_base_url else "comfy"


def read_settings(files: SettingsFiles) -> Settings:
    """The settings of this moment. Raises SettingsError."""
    values: Values = {}
    for _, found in reversed(settings_by_source(files)):
        values.update(found)
    return checked(values, f"in the environment, in {files.env} or in the settings page")


def checked(values: Values, where: str) -> Settings:
    """These values as settings. Raises SettingsError, which says `where` they are set."""
    try:
        return Settings(**values)
    except ValidationError as err:
        problem = err.errors(include_input=False, include_url=False)[0]
        name = str(problem["loc"][0]).upper()
        why = problem["msg"].removeprefix("Value error, ")
    # Raised here, and so not chained to an error that holds what the file says.
    raise SettingsError(f"The setting {name} ({where}) cannot be used: {why}. {Charge.NO.value}")


def settings_by_source(files: SettingsFiles) -> list[tuple[str, Values]]:
    """What each source sets, the one that takes precedence first: "environment", ".env", "editor".

    Raises SettingsError for a file that cannot be read.
    """
    above = [("environment", _named(os.environ)), (".env", _named(_env_file_values(files.env)))]
    editor = editor_values(files.editor)
    if any(name in values for _, values in above for name in KEY_AND_ADDRESS):
        for name in KEY_AND_ADDRESS:
            editor.pop(name, None)
    return [*above, ("editor", editor)]


def _named(variables: Mapping[str, Any]) -> Values:
    """The settings among these variables, in lower case; one that is empty counts as not set."""
    values: Values = {}
    for variable, value in variables.items():
        name = variable.lower()
        if name in Settings.model_fields and value is not None and str(value).strip():
            values[name] = value
    return values


def _env_file_values(file: Path | None) -> Mapping[str, Any]:
    if file is None or not file.exists():
        return {}
    text = _text_of(file)
    values = dotenv_values(stream=StringIO(text), interpolate=False)
    has_setting = not Settings.model_fields.keys().isdisjoint(map(str.lower, values))
    if not has_setting and _names_a_setting(text):
        raise SettingsError(
            f"The file {file} cannot be read: a line must look like OPENAI_API_KEY=YOUR-KEY. {Charge.NO.value}"
        )
    return values


def _names_a_setting(text: str) -> bool:
    """Whether the name of a setting stands in a file, other than in a comment."""
    settings = "|".join(Settings.model_fields)
    return re.search(rf"^(?!\s*#).*({settings})", text, re.MULTILINE | re.IGNORECASE) is not None


def _text_of(file: Path) -> str:
    try:
        # With a byte order mark, as Windows' Notepad writes it, or without.
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        complaint = f"The file {file} is not plain text: save it again with the encoding UTF-8. {Charge.NO.value}"
    except OSError as err:
        complaint = f"The file {file} cannot be read: {err.strerror}. {Charge.NO.value}"
    raise SettingsError(complaint)  # not chained to an error that holds what the file says


def editor_values(file: Path | None) -> Values:
    """What the editor's settings page has stored. Raises SettingsError for a file that cannot be read."""
    if file is None or not file.is_file():
        return {}
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        values = None
    if not isinstance(values, dict):
        raise SettingsError(
            f"The settings page's file {file} cannot be read. Delete it and enter the settings again. {Charge.NO.value}"
        )
    allowed: Values = {}
    for name, value in _named(values).items():
        if name in (*KEY_AND_ADDRESS, *EDITOR_CHOICES):
            allowed[name] = value
    return allowed


def fits_a_header(text: str) -> bool:
    """Whether a key or id can be sent in a header."""
    return text.isascii() and text.isprintable() and not set(text) & set(" \"'")


def is_base_url(url: str) -> bool:
    """Whether this is the address of a server, without a login, a query or a fragment."""
    try:
        parts = urlsplit(url)
        is_strange = parts.port == 0 or parts.query or parts.fragment or "@" in parts.netloc
        as_sent(url)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname) and not is_strange
