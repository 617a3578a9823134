"""The choice of a server, and the dialects of the image models: no HTTP, no tensors."""

from __future__ import annotations

import base64
import json
import traceback
from dataclasses import replace
from typing import Any

import pytest

from dalle2.backends import Account, Backend, DalleRequest, choose_backend
from dalle2.errors import SIGN_IN, Charge, Login
from dalle2.image_models import GPT_IMAGE_MODELS, PRICES_USD
from dalle2.settings import ENV_FILE, SettingsError, SettingsFiles, read_settings

COMFY = "https://api.comfy.example"
EU = "https://eu.api.openai.com/v1"
OURS = "http://127.0.0.1:1/v1"


def chosen(login: str | None = "token", api_key: str | None = None, **variables: str) -> Backend:
    """The backend that these environment variables choose."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        return choose_backend(read_settings(SettingsFiles(env=None)), Account(login, api_key), comfy_api_base=COMFY)


@pytest.mark.parametrize(
    ("variables", "base_url", "hosted"),
    [
        ({"OPENAI_API_KEY": "sk-1"}, "https://api.openai.com/v1", True),
        ({"OPENAI_BASE_URL": "http://127.0.0.1:8080/v1/"}, "http://127.0.0.1:8080/v1", False),
        ({"OPENAI_BASE_URL": EU, "OPENAI_API_KEY": "k"}, EU, True),
        ({"DALLE2_BACKEND": "openai", "OPENAI_API_KEY": "sk-1"}, "https://api.openai.com/v1", True),
        ({"DALLE2_BACKEND": "comfy", "OPENAI_API_KEY": "sk-1"}, f"{COMFY}/proxy/openai", True),
        ({}, f"{COMFY}/proxy/openai", True),
    ],
)
def test_the_settings_choose_the_server(variables: dict[str, str], base_url: str, hosted: bool) -> None:
    backend = chosen(**variables)
    assert (backend.base_url, backend.hosted) == (base_url, hosted)
    assert backend.name == ("comfy" if "comfy" in base_url else "openai")


@pytest.mark.parametrize(
    ("account", "variables", "headers", "login"),
    [
        (("t", None), {}, {"Authorization": "Bearer t"}, Login.ACCOUNT),
        ((None, "comfyui-k"), {}, {"X-API-KEY": "comfyui-k"}, Login.ACCOUNT),
        (("t", "comfyui-k"), {}, {"Authorization": "Bearer t"}, Login.ACCOUNT),
        (("t", "comfyui-k"), {"OPENAI_BASE_URL": OURS}, {}, Login.NONE),
        (
            ("t", None),
            {"OPENAI_BASE_URL": OURS, "OPENAI_API_KEY": "comfyui-k"},
            {"Authorization": "Bearer comfyui-k"},
            Login.KEY,
        ),
        (
            (None, None),
            {"OPENAI_API_KEY": " sk-1 ", "OPENAI_ORG_ID": "org-1", "OPENAI_PROJECT_ID": "proj_1"},
            {"OpenAI-Organization": "org-1", "OpenAI-Project": "proj_1", "Authorization": "Bearer sk-1"},
            Login.KEY,
        ),
    ],
)
def test_each_server_gets_its_own_login_and_no_other(
    account: tuple[str | None, str | None], variables: dict[str, str], headers: dict[str, str], login: Login
) -> None:
    backend = chosen(*account, **variables)
    assert (backend.headers, backend.login) == (headers, login)


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
        ("http://127.0.0.1:1/v1", "2026-10-01", False),
    ],
)
def test_azure_is_known_by_its_host_or_its_version(base_url: str, version: str | None, is_azure: bool) -> None:
    more = {"OPENAI_API_VERSION": version} if version else {}
    backend = chosen(OPENAI_BASE_URL=base_url, OPENAI_API_KEY="k", **more)
    assert backend.headers == ({"api-key": "k"} if is_azure else {"Authorization": "Bearer k"})
    assert backend.params == ({"api-version": version or "preview"} if is_azure else {})


def key_at(address: str) -> dict[str, str]:
    return {"OPENAI_API_KEY": "sk-secret", "OPENAI_BASE_URL": address}


HTTPS = "must begin with https"
UNUSABLE: dict[str, tuple[str | None, str | None, dict[str, str], str]] = {
    "OpenAI without a key": ("t", None, {"DALLE2_BACKEND": "openai"}, f"into the file {ENV_FILE}"),
    "an account's key for OpenAI": (None, None, {"OPENAI_API_KEY": "comfyui-secret"}, "sign in with it instead"),
    "OpenAI in the clear": (None, None, key_at("http://api.openai.com/v1"), HTTPS),
    "Azure in the clear": (None, None, key_at("http://me.openai.azure.com/openai/v1"), HTTPS),
    "a damaged token": ("secret\nb", None, {}, "log out and in again"),
    "an account's damaged key": (None, "comfyui-secret-ü", {}, "log out and in again"),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_a_server_that_cannot_be_used_is_reported_and_its_login_not_repeated(name: str) -> None:
    login, api_key, variables, words = UNUSABLE[name]
    with pytest.raises(SettingsError) as caught:
        chosen(login, api_key, **variables)
    text = str(caught.value)
    assert words in text and text.endswith(Charge.NO.value) and SIGN_IN not in text
    assert "secret" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("base", ["", "localhost", "api.comfy.org"])
def test_a_comfy_api_base_that_is_no_address_is_named(base: str) -> None:
    with pytest.raises(SettingsError, match="--comfy-api-base"):
        choose_backend(read_settings(SettingsFiles(env=None)), Account("t"), comfy_api_base=base)


def test_a_backend_and_an_account_never_show_a_secret() -> None:
    backend = chosen(OPENAI_API_KEY="sk-secret")
    assert "secret" not in repr(backend) + str(backend) + repr(Account("secret", "secret"))


def token(**claims: str) -> str:
    parts = ({"alg": "RS256"}, claims, {"signature": "of these"})
    return ".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts)


def test_a_renewed_login_is_the_same_account() -> None:
    first, renewed = token(iss="comfy", sub="me", exp="1"), token(iss="comfy", sub="me", exp="2")
    assert first != renewed
    assert chosen(first).account == chosen(renewed).account
    assert chosen(token(iss="comfy", sub="you")).account != chosen(first).account


@pytest.mark.parametrize("text", [".", "a.b.c", "a.!!.c", f"a.{'W' * 8}.c", "a.eyJzIn0.c", "a.bnVsbA.c", "a.e30.c"])
def test_a_token_of_another_kind_stands_for_itself(text: str) -> None:
    assert chosen(text).account == chosen(text).account != chosen(f"{text}x").account


BASE64 = {"response_format": "b64_json"}
GPT = {"size": "1024x1024", "quality": "medium"}


def fields(model: str | None, *, hosted: bool = True, **asked: Any) -> dict[str, Any]:
    """What is sent besides the prompt and the model."""
    backend = replace(chosen(DALLE2_QUALITY="medium"), hosted=hosted)
    sent = backend.translated(model, DalleRequest(**{"original": "dall-e-2", "prompt": "a", "n": 3, **asked})).fields()
    assert (sent.pop("model", None), sent.pop("n")) == (model, 3)
    return sent


@pytest.mark.parametrize(
    ("model", "hosted", "size", "expected"),
    [
        ("dall-e-2", True, (256, 256), {"size": "256x256", **BASE64}),
        ("chatgpt-image-latest", True, (1024, 1024), GPT),
        ("openai/gpt-image-2", False, (1024, 1024), {**GPT, **BASE64}),
        (None, False, (256, 256), {"size": "256x256", **BASE64}),
    ],
)
def test_a_request_of_dall_e_2_is_translated_for_its_model(
    model: str | None, hosted: bool, size: tuple[int, int], expected: dict[str, str]
) -> None:
    assert fields(model, hosted=hosted, size=size) == {"prompt": "a", **expected}


def test_the_default_quality_costs_less_than_dall_e_2_did() -> None:
    quality = chosen().translated("gpt-image-2", DalleRequest("dall-e-2", "a", 1, (1024, 1024))).quality
    assert PRICES_USD[quality or ""] < 0.02


@pytest.mark.parametrize(("name", "fixed"), [("AUTO", None), (" ", None), ("mine", "mine")])
def test_only_a_name_of_its_own_is_the_one_model_to_ask_for(name: str, fixed: str | None) -> None:
    backend = chosen(DALLE2_MODEL=name)
    assert backend.fixed_model == fixed
    assert backend.models_for("dall-e-3") == ((fixed,) if fixed else GPT_IMAGE_MODELS)
