"""The emulator is as strict as OpenAI's published API: fields, sizes and files of each family of models, keys."""

from __future__ import annotations

from typing import Any

import pytest
import requests

from development.emulator import Emulator
from tests import emulated
from tests.emulated import GENERATION, KEY, SMALL, TALL, edit, error, generate, half_mask, pictures, png

running, openai = emulated.running, emulated.openai
FIXED = {**GENERATION, "model": "gpt-image-1.5"}


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({**GENERATION, "response_format": "b64_json"}, "response_format", "unknown_parameter"),
        ({**GENERATION, "seed": 1}, "seed", "unknown_parameter"),
        ({**GENERATION, "style": "vivid"}, "style", "unknown_parameter"),
        ({**GENERATION, "n": "2"}, "n", "invalid_type"),
        ({**GENERATION, "n": None}, "n", "invalid_type"),
        ({**GENERATION, "n": 0}, "n", "integer_below_minimum_value"),
        ({**GENERATION, "n": 11}, "n", "integer_above_maximum_value"),
        ({**GENERATION, "size": "512x512"}, "size", "invalid_value"),
        ({**GENERATION, "size": "1000x1024"}, "size", "invalid_value"),
        ({**GENERATION, "size": "3200x1024"}, "size", "invalid_value"),
        ({**GENERATION, "size": "3840x2176"}, "size", "invalid_value"),
        ({**GENERATION, "size": 1024}, "size", "invalid_type"),
        ({**GENERATION, "quality": "standard"}, "quality", "invalid_value"),
        ({**GENERATION, "prompt": " \n"}, "prompt", "empty_string"),
        ({**GENERATION, "prompt": "x" * 32_001}, "prompt", "string_above_max_length"),
        ({**GENERATION, "model": ""}, "model", "missing_required_parameter"),
        ({**FIXED, "size": "1024x1792"}, "size", "invalid_value"),
        ({**TALL, "size": "512x512"}, "size", "invalid_value"),
        ({**TALL, "n": 2}, "n", "integer_above_maximum_value"),
        ({**TALL, "quality": "low"}, "quality", "invalid_value"),
        ({**TALL, "style": "wild"}, "style", "invalid_value"),
        ({**TALL, "prompt": "x" * 4001}, "prompt", "string_above_max_length"),
        ({**SMALL, "size": "1024x1792"}, "size", "invalid_value"),
        ({**SMALL, "quality": "low"}, "quality", "unknown_parameter"),
        ({**SMALL, "prompt": "x" * 1001}, "prompt", "string_above_max_length"),
    ],
)
def test_a_wrong_field_is_refused_by_name(openai: Emulator, body: dict[str, Any], param: str, code: str) -> None:
    response = generate(openai, body)
    assert (response.status_code, error(response)["param"], error(response)["code"]) == (400, param, code)
    assert response.headers["x-request-id"].startswith("req_")
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
            assert (response.status_code, error(response)["code"]) == (404, "model_not_found")
        listed = requests.get(f"{emulator.base_url}/models", headers=KEY, timeout=5).json()["data"]
    assert max(listed, key=lambda model: model["created"])["id"].startswith("gpt-image-2.6")
    assert not any(model["id"].startswith("dall-e") for model in listed)


@pytest.mark.parametrize("model", ["dall-e-2", "dall-e-3"])
def test_the_old_models_answer_with_urls_by_default(openai: Emulator, model: str) -> None:
    url = generate(openai, {"model": model, "prompt": "the sea", "size": "1024x1024"}).json()["data"][0]["url"]
    assert requests.get(url, timeout=5).headers["Content-Type"] == "image/png"


@pytest.mark.parametrize(
    ("model", "files", "code"),
    [
        ("gpt-image-2", [("image", ("i.png", b"no picture", "image/png"))], "invalid_image_file"),
        ("gpt-image-2", [("image", ("i.png", png()[:90], "image/png"))], "invalid_image_file"),
        ("gpt-image-2", [("image", ("i.png", png(), "image/gif"))], "unsupported_file_mimetype"),
        ("gpt-image-2", [("image", ("i.png", png()))], "unsupported_file_mimetype"),
        ("gpt-image-2", [("mask", ("m.png", png("RGBA"), "image/png"))], "invalid_type"),
        ("gpt-image-2", [("picture", ("i.png", png(), "image/png"))], "unknown_parameter"),
        ("dall-e-2", [("image", ("i.png", png("RGB"), "image/png"))], "invalid_image_image_format"),
        ("dall-e-2", [("image", ("i.png", png("RGBA", (64, 32)), "image/png"))], "invalid_image"),
        ("dall-e-2", [("image", ("i.png", png("RGBA") + bytes(2**22), "image/png"))], "invalid_image_image_format"),
        ("dall-e-3", [("image", ("i.png", png("RGBA"), "image/png"))], "invalid_value"),
        *(
            ("gpt-image-2", [("image", ("i.png", png(), "image/png")), (field, ("m.png", data, "image/png"))], code)
            for field, data, code in (
                ("image[]", png(), "invalid_value"),
                ("image", png(), "duplicate_parameter"),
                ("mask", png("RGB"), "invalid_mask_image_format"),
                ("mask", png("RGBA", (32, 64)), "invalid_mask_image_format"),
                ("mask", png("RGBA", kind="WEBP"), "invalid_mask_image_format"),
            )
        ),
    ],
)
def test_a_wrong_file_is_refused(openai: Emulator, model: str, files: list[tuple[str, Any]], code: str) -> None:
    data = {"model": model, "prompt": "the sea", "size": "1024x1024"}
    response = requests.post(f"{openai.base_url}/images/edits", data=data, files=files, headers=KEY, timeout=5)
    assert (response.status_code, error(response)["code"]) == (400, code)


def test_several_images_go_as_an_array(openai: Emulator) -> None:
    files = [("image[]", ("i.png", png(), "image/png"))] * 2
    data = {"model": "gpt-image-2", "prompt": "the sea", "n": "2"}
    response = requests.post(f"{openai.base_url}/images/edits", data=data, files=files, headers=KEY, timeout=5)
    assert len(pictures(response)) == 2


def test_the_routes_take_json_and_forms_only(openai: Emulator) -> None:
    form = requests.post(f"{openai.base_url}/images/generations", data=GENERATION, headers=KEY, timeout=5)
    body = requests.post(f"{openai.base_url}/images/edits", json=GENERATION, headers=KEY, timeout=5)
    headers = {**KEY, "Content-Type": "application/json"}
    broken = requests.post(f"{openai.base_url}/images/generations", data=b"{", headers=headers, timeout=5)
    assert [response.status_code for response in (form, body, broken)] == [400] * 3


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Authorization": "Bearer token"}, 200),
        ({"X-API-KEY": "comfyui-123"}, 200),
        ({}, 401),
        ({"Authorization": "Bearer expired", "X-API-KEY": "comfyui-123"}, 401),
        ({"X-API-KEY": "123"}, 401),
    ],
)
def test_the_proxy_takes_a_login_token_or_a_comfyui_key(openai: Emulator, headers: dict[str, str], status: int) -> None:
    url = f"{openai.comfy_base}/proxy/openai/images/generations"
    response = requests.post(url, json=GENERATION, headers=headers, timeout=5)
    assert response.status_code == status
    assert float(response.headers.get("X-Comfy-Credits-Used", 0)) == (1.27 if status == 200 else 0)
    assert status == 200 or response.json()["error"] == "Unauthorized"


def test_openai_wants_its_key_and_repeats_none_in_full(openai: Emulator) -> None:
    for headers in ({}, {"Authorization": "Bearer sk-secret-of-somebody"}, {"api-key": "sk-emulated"}):
        response = generate(openai, GENERATION, headers=headers)
        assert (response.status_code, error(response)["code"]) == (401, "invalid_api_key")
        assert "secret" not in response.text
    with Emulator(api_key=None, models=["dall-e-2"]) as emulator:
        assert generate(emulator, SMALL, headers={}).status_code == 200


def test_an_edit_of_dall_e_2_keeps_what_is_not_masked(openai: Emulator) -> None:
    original = png("RGBA", (256, 256))
    (drawn,) = pictures(edit(openai, original, half_mask((256, 256)), **SMALL))
    assert drawn.crop((128, 0, 256, 256)).getcolors() == [(128 * 256, (255, 0, 0))]
    assert len(drawn.crop((0, 0, 128, 256)).getcolors(2**20) or []) > 100
