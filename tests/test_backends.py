"""Settings, the choice of a server, and the dialects: no HTTP, no tensors."""

from __future__ import annotations

import base64
import json
import traceback
from dataclasses import replace
from pathlib import Path

import pytest

from dalle2 import backends
from dalle2.backends import DALL_E_2, GPT_IMAGE, Backend, Settings, SettingsError, choose_backend
from dalle2.errors import NOT_CHARGED, SIGN_IN

COMFY = "https://api.comfy.example"
TOKEN = "eyJ0.eyJzIn0.c2ln"


@pytest.fixture
def env_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The file `.env`, which is not there yet."""
    monkeypatch.setitem(Settings.model_config, "env_file", tmp_path / ".env")
    return tmp_path / ".env"


def chosen(auth_token: str | None = None, comfy_api_key: str | None = None, **variables: str) -> Backend:
    """The backend that these environment variables choose."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        return choose_backend(Settings.read(), comfy_api_base=COMFY, auth_token=auth_token, comfy_api_key=comfy_api_key)


def complaint(**variables: str) -> str:
    with pytest.raises(SettingsError) as caught:
        chosen(**variables)
    chain = traceback.format_exception(caught.value)
    assert not any(value in "".join(chain) for value in variables.values() if len(value) > 12)
    assert caught.value.__context__ is None
    return str(caught.value)


@pytest.mark.parametrize(
    ("variables", "base_url", "hosted"),
    [
        ({"OPENAI_API_KEY": "sk-1"}, "https://api.openai.com/v1", True),
        ({"OPENAI_BASE_URL": "http://127.0.0.1:8080/v1/"}, "http://127.0.0.1:8080/v1", False),
        (
            {"OPENAI_BASE_URL": "https://eu.api.openai.com/v1", "OPENAI_API_KEY": "k"},
            "https://eu.api.openai.com/v1",
            True,
        ),
        ({"DALLE2_BACKEND": "openai", "OPENAI_API_KEY": "sk-1"}, "https://api.openai.com/v1", True),
        ({"DALLE2_BACKEND": "comfy", "OPENAI_API_KEY": "sk-1"}, f"{COMFY}/proxy/openai", True),
        ({}, f"{COMFY}/proxy/openai", True),
        ({"OPENAI_API_KEY": "", "OPENAI_BASE_URL": ""}, f"{COMFY}/proxy/openai", True),
        ({"OPENAI_API_KEY": "  "}, f"{COMFY}/proxy/openai", True),
    ],
)
def test_the_settings_choose_the_server(variables: dict[str, str], base_url: str, hosted: bool) -> None:
    backend = chosen(auth_token="token", **variables)
    assert (backend.base_url, backend.hosted) == (base_url, hosted)
    assert backend.name == ("comfy" if "comfy" in base_url else "openai")


@pytest.mark.parametrize(
    ("account", "headers"),
    [
        ({"auth_token": "t"}, {"Authorization": "Bearer t"}),
        ({"comfy_api_key": "comfyui-k"}, {"X-API-KEY": "comfyui-k"}),
        ({"auth_token": "t", "comfy_api_key": "comfyui-k"}, {"Authorization": "Bearer t"}),
    ],
)
def test_the_account_authorizes_at_comfy_org(account: dict[str, str], headers: dict[str, str]) -> None:
    assert chosen(**account).headers == headers


def test_the_account_never_goes_to_another_server() -> None:
    assert chosen("token", "comfyui-k", OPENAI_BASE_URL="http://127.0.0.1:1/v1").headers == {}


def test_organization_and_project_go_along() -> None:
    variables = {"OPENAI_API_KEY": " sk-1 ", "OPENAI_ORG_ID": "org-1", "OPENAI_PROJECT_ID": "proj_1"}
    assert chosen(**variables).headers == {
        "OpenAI-Organization": "org-1",
        "OpenAI-Project": "proj_1",
        "Authorization": "Bearer sk-1",
    }


@pytest.mark.parametrize(
    ("base_url", "version", "is_azure"),
    [
        ("https://me.openai.azure.com/openai/v1", None, True),
        ("https://me.cognitiveservices.azure.com/openai/v1", None, True),
        ("https://me.services.ai.azure.com/openai/v1", None, True),
        ("http://127.0.0.1:1/openai/v1", "2026-10-01", True),
        ("https://openai.azure.com.example.org/v1", None, False),
        ("http://127.0.0.1:1/openai/v1", None, False),
        ("https://api.openai.com/v1", "2026-10-01", False),  # set for another program
    ],
)
def test_azure_is_known_by_its_host_or_its_version(base_url: str, version: str | None, is_azure: bool) -> None:
    variables = {"OPENAI_BASE_URL": base_url, "OPENAI_API_KEY": "k"} | (
        {"OPENAI_API_VERSION": version} if version else {}
    )
    backend = chosen(**variables)
    assert backend.headers == ({"api-key": "k"} if is_azure else {"Authorization": "Bearer k"})
    assert backend.params == ({"api-version": version or "preview"} if is_azure else {})


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"OPENAI_API_KEY": "sk-with a blank"}, "OPENAI_API_KEY"),
        ({"OPENAI_API_KEY": '"sk-in-quotes"'}, "without quotation marks"),
        ({"OPENAI_API_KEY": "sk-café-in-it"}, "characters that no key has"),
        ({"OPENAI_API_KEY": "sk-line\nbreak"}, "OPENAI_API_KEY"),
        ({"OPENAI_API_KEY": "k", "OPENAI_ORG_ID": "org\nmore-of-it"}, "OPENAI_ORG_ID"),
        ({"OPENAI_API_KEY": "k", "OPENAI_PROJECT_ID": "my próject name"}, "OPENAI_PROJECT_ID"),
        ({"OPENAI_BASE_URL": "sk-pasted-into-the-wrong-line"}, "OPENAI_BASE_URL"),
        ({"OPENAI_BASE_URL": "localhost:11434/v1"}, "http://127.0.0.1:8080/v1"),
        ({"OPENAI_BASE_URL": "ftp://example.com/v1"}, "OPENAI_BASE_URL"),
        ({"OPENAI_BASE_URL": "http://[::1/v1-and-more"}, "OPENAI_BASE_URL"),
        ({"OPENAI_BASE_URL": "http://example.com:99999/v1"}, "OPENAI_BASE_URL"),
        ({"OPENAI_BASE_URL": "https://me:pa55word@example.com/v1"}, "without a user name"),
        ({"OPENAI_BASE_URL": "https://example.com/v1?api-version=1"}, "question mark"),
        ({"DALLE2_BACKEND": "somewhere-else-entirely"}, "DALLE2_BACKEND"),
        ({"DALLE2_QUALITY": "quite-outrageous"}, "'low', 'medium', 'high' or 'auto'"),
        ({"DALLE2_READ_TIMEOUT_S": "a-long-long-time"}, "DALLE2_READ_TIMEOUT_S"),
        ({"DALLE2_READ_TIMEOUT_S": "0"}, "greater than 0"),
        ({"DALLE2_CONNECT_TIMEOUT_S": "inf"}, "less than or equal to 3600"),
        ({"DALLE2_CONNECT_TIMEOUT_S": "nan"}, "DALLE2_CONNECT_TIMEOUT_S"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named_and_not_repeated(variables: dict[str, str], words: str) -> None:
    text = complaint(**variables)
    assert words in text
    assert text.endswith(NOT_CHARGED)


def test_without_account_and_key_it_says_how_to_go_on() -> None:
    text = complaint()
    assert text.startswith(SIGN_IN)
    assert all(words in text for words in ("OPENAI_API_KEY", str(backends.ENV_FILE), "OPENAI_BASE_URL", NOT_CHARGED))


def test_openai_without_a_key_says_where_to_put_one() -> None:
    text = complaint(DALLE2_BACKEND="openai")
    assert "OPENAI_API_KEY" in text
    assert str(backends.ENV_FILE) in text
    assert SIGN_IN not in text


def test_another_server_needs_no_key() -> None:
    assert chosen(OPENAI_BASE_URL="http://127.0.0.1:8080/v1").headers == {}


@pytest.mark.parametrize("account", [{"auth_token": "a\nb"}, {"comfy_api_key": "comfyui-ü"}])
def test_a_damaged_login_is_told_and_not_repeated(account: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match="log out and in again") as caught:
        chosen(**account)
    assert not any(value in str(caught.value) for value in account.values())


@pytest.mark.parametrize("base", ["", "localhost", "api.comfy.org"])
def test_a_comfy_api_base_that_is_no_address_is_named(base: str) -> None:
    with pytest.raises(SettingsError, match="--comfy-api-base"):
        choose_backend(Settings.read(), comfy_api_base=base, auth_token="t")


def test_the_file_counts_and_the_environment_wins(env_file: Path) -> None:
    env_file.write_text("OPENAI_API_KEY=sk-file\nDALLE2_QUALITY=high\nUNKNOWN=1\n", encoding="utf-8-sig")
    backend = chosen(DALLE2_QUALITY="medium")
    assert (backend.headers["Authorization"], backend.quality) == ("Bearer sk-file", "medium")


def test_the_file_is_read_anew_for_every_call(env_file: Path) -> None:
    assert Settings.read().backend == "comfy"
    env_file.write_text("OPENAI_API_KEY=sk-1")
    assert Settings.read().backend == "openai"


def test_a_file_in_another_encoding_is_told_and_not_repeated(env_file: Path) -> None:
    env_file.write_bytes("OPENAI_API_KEY=sk-in-the-file-ü".encode("utf-16"))
    with pytest.raises(SettingsError, match="UTF-8") as caught:
        Settings.read()
    assert caught.value.__context__ is None


def test_a_file_that_cannot_be_read_is_told(env_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env_file.write_text("OPENAI_API_KEY=sk-1")

    def refuse(*args: object, **more: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(SettingsError, match="cannot be read: Permission denied"):
        Settings.read()


def test_nothing_shows_the_key() -> None:
    backend = chosen(OPENAI_API_KEY="sk-very-secret")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_API_KEY", "sk-very-secret")
        shown = repr(Settings.read()) + str(Settings.read()) + repr(backend) + str(backend)
    assert "very-secret" not in shown


def token(**claims: str) -> str:
    parts = ({"alg": "RS256"}, claims, {"signature": "of these"})
    return ".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts)


def test_a_renewed_login_is_the_same_account() -> None:
    first, renewed = token(iss="comfy", sub="me", exp="1"), token(iss="comfy", sub="me", exp="2")
    assert first != renewed
    assert chosen(first).account == chosen(renewed).account
    assert chosen(token(iss="comfy", sub="you")).account != chosen(first).account
    assert chosen("not-a-jwt").account != chosen("another").account


@pytest.mark.parametrize("text", ["", ".", "a.b.c", "a.!!.c", f"a.{'W' * 8}.c", TOKEN, "a.bnVsbA.c", "a.e30.c"])
def test_a_token_of_another_kind_stands_for_itself(text: str) -> None:
    assert backends._owner(text) == text


@pytest.mark.parametrize(
    ("model", "hosted", "dialect"),
    [
        ("dall-e-2", False, DALL_E_2),
        ("dall-e-2", True, DALL_E_2),
        ("gpt-image-2", True, GPT_IMAGE),
        ("gpt-image-2", False, GPT_IMAGE),
        ("openai/gpt-image-2", False, GPT_IMAGE),
        ("chatgpt-image-latest", False, GPT_IMAGE),
        ("my-deployment", True, GPT_IMAGE),
        ("Qwen/Qwen-Image", False, DALL_E_2),
        (None, False, DALL_E_2),
    ],
)
def test_a_model_is_spoken_to_in_its_dialect(model: str | None, hosted: bool, dialect: backends.Dialect) -> None:
    assert replace(chosen("t"), hosted=hosted).dialect(model) is dialect


@pytest.mark.parametrize(
    ("model", "side", "fields"),
    [
        ("dall-e-2", 256, {"size": "256x256", "response_format": "b64_json"}),
        ("dall-e-2", 1024, {"size": "1024x1024", "response_format": "b64_json"}),
        ("gpt-image-2", 256, {"size": "1024x1024", "quality": "medium"}),
        ("gpt-image-2", 1024, {"size": "1024x1024", "quality": "medium"}),
    ],
)
def test_a_call_of_old_is_worded_for_its_model(model: str, side: int, fields: dict[str, str]) -> None:
    backend = chosen("t", DALLE2_QUALITY="medium")
    assert backend.request(model, "a", 3, side).fields() == {"prompt": "a", "model": model, "n": 3, **fields}


def test_quality_is_low_unless_it_is_chosen() -> None:
    assert chosen("t").request("gpt-image-2", "a", 1, 1024).quality == "low"


@pytest.mark.parametrize(
    ("model", "limit", "words"),
    [("dall-e-2", 1000, "set DALLE2_MODEL to a gpt-image model"), ("gpt-image-2", 32_000, "Shorten it. Nothing")],
)
def test_a_prompt_has_the_length_that_its_model_takes(model: str, limit: int, words: str) -> None:
    backend = chosen("t")
    assert backend.request(model, "x" * limit, 1, 1024)
    with pytest.raises(ValueError, match=words):
        backend.request(model, "x" * (limit + 1), 1, 1024)


@pytest.mark.parametrize(
    ("variables", "models", "fixed"),
    [
        ({}, ("gpt-image-2", "gpt-image-2.5-flare", "gpt-image-2.5-sunburst"), False),
        ({"DALLE2_MODEL": "AUTO"}, ("gpt-image-2", "gpt-image-2.5-flare", "gpt-image-2.5-sunburst"), False),
        ({"DALLE2_MODEL": " "}, ("gpt-image-2", "gpt-image-2.5-flare", "gpt-image-2.5-sunburst"), False),
        ({"DALLE2_MODEL": "mine"}, ("mine",), True),
    ],
)
def test_auto_stands_for_the_table_and_a_name_for_itself(
    variables: dict[str, str], models: tuple[str, ...], fixed: bool
) -> None:
    backend = chosen("t", **variables)
    assert (backend.models, backend.fixed) == (models, fixed)


def test_elsewhere_the_old_name_is_tried_first() -> None:
    assert chosen(OPENAI_BASE_URL="http://127.0.0.1:1/v1").models[0] == "dall-e-2"
