"""The emulator is as strict as OpenAI's published API: fields, sizes and files of each family of models, keys."""

from __future__ import annotations

from typing import Any

import pytest
import requests

from development.emulator import Emulator
from tests.emulated import GENERATION, KEY, SMALL, TALL, clean, generate, pictures, png, started

fixtures = (started, clean)
FIXED = {**GENERATION, "model": "gpt-image-1.5"}
FILE = ("i.png", png("RGBA"), "image/png")


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({**GENERATION, "response_format": "b64_json"}, "response_format", "unknown_parameter"),
        ({**GENERATION, "style": "vivid"}, "style", "unknown_parameter"),
        ({**GENERATION, "n": "2"}, "n", "invalid_type"),
        ({**GENERATION, "n": 11}, "n", "integer_above_maximum_value"),
        ({**GENERATION, "user": None}, "user", "invalid_type"),
        ({**GENERATION, "size": "512x512"}, "size", "invalid_value"),
        ({**GENERATION, "size": "1000x1024"}, "size", "invalid_value"),
        ({**GENERATION, "size": "3200x1024"}, "size", "invalid_value"),
        ({**GENERATION, "quality": "standard"}, "quality", "invalid_value"),
        ({**GENERATION, "prompt": " \n"}, "prompt", "empty_string"),
        ({**GENERATION, "model": ""}, "model", "missing_required_parameter"),
        ({**FIXED, "size": "1024x1792"}, "size", "invalid_value"),
        ({**TALL, "size": "512x512"}, "size", "invalid_value"),
        ({**TALL, "n": 2}, "n", "integer_above_maximum_value"),
        ({**TALL, "quality": "low"}, "quality", "invalid_value"),
        ({**TALL, "prompt": "x" * 4001}, "prompt", "string_above_max_length"),
        ({**SMALL, "size": "1024x1792"}, "size", "invalid_value"),
        ({**SMALL, "quality": "low"}, "quality", "unknown_parameter"),
        ({**SMALL, "prompt": "x" * 1001}, "prompt", "string_above_max_length"),
    ],
)
def test_a_wrong_field_is_refused_by_name(openai: Emulator, body: dict[str, Any], param: str, code: str) -> None:
    response = generate(openai, body)
    error = response.json()["error"]
    assert (response.status_code, error["param"], error["code"]) == (400, param, code)
    assert openai.paid_pictures == 0


@pytest.mark.parametrize(
    ("body", "size"),
    [
        ({**GENERATION, "size": "1024x1792", "quality": "auto", "user": "me"}, (1024, 1792)),
        ({**FIXED, "size": "1024x1536"}, (1024, 1536)),
        ({**TALL, "quality": "hd", "style": "natural", "prompt": "x" * 4000}, (1024, 1792)),
        ({**SMALL, "n": 10}, (256, 256)),
    ],
)
def test_documented_requests_are_drawn(openai: Emulator, body: dict[str, Any], size: tuple[int, int]) -> None:
    assert [(p.format, p.size) for p in pictures(generate(openai, body))] == [("PNG", size)] * body.get("n", 1)


def test_models_that_are_gone_are_not_found_and_not_listed() -> None:
    with Emulator() as emulator:
        for body in (SMALL, TALL):
            response = generate(emulator, body)
            assert (response.status_code, response.json()["error"]["code"]) == (404, "model_not_found")
        listed = requests.get(f"{emulator.base_url}/models", headers=KEY, timeout=5).json()["data"]
    assert max(listed, key=lambda model: model["created"])["id"].startswith("gpt-image-2.6")
    assert not any(model["id"].startswith("dall-e") for model in listed)


@pytest.mark.parametrize(
    ("model", "files", "code"),
    [
        ("gpt-image-2", [("image", ("i.png", b"no picture", "image/png"))], "invalid_image_file"),
        ("gpt-image-2", [("image", ("i.png", png(), "image/gif"))], "unsupported_file_mimetype"),
        ("gpt-image-2", [("mask", FILE)], "missing_required_parameter"),
        ("gpt-image-2", [("picture", FILE)], "unknown_parameter"),
        ("gpt-image-2", [("image", FILE), ("image[]", FILE)], "invalid_value"),
        ("gpt-image-2", [("image", FILE), ("image", FILE)], "duplicate_parameter"),
        ("gpt-image-2", [("image", FILE), ("mask", ("m.png", png("RGB"), "image/png"))], "invalid_mask_format"),
        (
            "gpt-image-2",
            [("image", FILE), ("mask", ("m.png", png("LA", (8, 8)), "image/png"))],
            "invalid_mask_format",
        ),
        ("dall-e-2", [("image", ("i.png", png("RGB"), "image/png"))], "invalid_image_format"),
        ("dall-e-2", [("image", ("i.png", png("RGBA", (64, 32)), "image/png"))], "invalid_image"),
        ("dall-e-2", [("image", ("i.png", png("RGBA") + bytes(2**22), "image/png"))], "invalid_image_format"),
        ("dall-e-3", [("image", FILE)], "invalid_value"),
        ("gpt-image-2", [("image[]", FILE), ("image[]", FILE)], None),
    ],
)
def test_only_the_right_files_are_edited(openai: Emulator, model: str, files: list[Any], code: str | None) -> None:
    data = {"model": model, "prompt": "the sea", "size": "1024x1024", "n": "1"}
    response = requests.post(f"{openai.base_url}/images/edits", data=data, files=files, headers=KEY, timeout=5)
    assert (response.status_code, response.json().get("error", {}).get("code")) == (400 if code else 200, code)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Authorization": "Bearer token"}, 200),
        ({"X-API-KEY": "comfyui-123"}, 200),
        ({}, 401),
        ({"Authorization": "Bearer expired", "X-API-KEY": "comfyui-123"}, 401),
    ],
)
def test_the_proxy_takes_a_login_token_or_a_comfyui_key(openai: Emulator, headers: dict[str, str], status: int) -> None:
    url = f"{openai.comfy_base}/proxy/openai/images/generations"
    response = requests.post(url, json=GENERATION, headers=headers, timeout=5)
    assert response.status_code == status
    assert float(response.headers.get("X-Comfy-Credits-Used", 0)) == (1.27 if status == 200 else 0)


def test_openai_wants_its_key_and_repeats_none_in_full(openai: Emulator) -> None:
    for headers in ({}, {"Authorization": "Bearer sk-secret-of-somebody"}, {"api-key": "sk-emulated"}):
        response = generate(openai, GENERATION, headers=headers)
        assert (response.status_code, response.json()["error"]["code"]) == (401, "invalid_api_key")
        assert "secret" not in response.text
