"""The emulator is as strict as the published API: today's models and edits, DALL·E 2 as it was, keys."""

from __future__ import annotations

import io
from typing import Any

import pytest
import requests
from PIL import Image

from development.emulator import Emulator
from tests import emulated
from tests.emulated import GENERATION, KEY, MASK, PART, SMALL, edit, error, generate, half_mask, pictures, png

running, openai = emulated.running, emulated.openai
classic, dalle = emulated.classic, emulated.dalle


def test_a_generation_answers_as_many_png_as_asked_in_the_size_asked(openai: Emulator) -> None:
    response = generate(openai, {**GENERATION, "n": 2, "size": "1024x640"})
    assert [(p.format, p.size, p.mode) for p in pictures(response)] == [("PNG", (1024, 640), "RGB")] * 2
    assert response.json()["size"] == "1024x640"
    assert response.headers["x-request-id"].startswith("req_")


@pytest.mark.parametrize(
    ("change", "param", "code"),
    [
        ({"response_format": "b64_json"}, "response_format", "unknown_parameter"),
        ({"seed": 1}, "seed", "unknown_parameter"),
        ({"style": "vivid"}, "style", "unknown_parameter"),
        ({"mask": "x"}, "mask", "unknown_parameter"),
        ({"input_fidelity": "high"}, "input_fidelity", "unknown_parameter"),
        ({"n": "2"}, "n", "invalid_type"),
        ({"n": True}, "n", "invalid_type"),
        ({"n": 1.5}, "n", "invalid_type"),
        ({"n": None}, "n", "invalid_type"),
        ({"user": None}, "user", "invalid_type"),
        ({"user": 7}, "user", "invalid_type"),
        ({"stream": "yes"}, "stream", "invalid_type"),
        ({"prompt": "caf\udce9"}, "prompt", "invalid_value"),
        ({"n": 0}, "n", "integer_below_minimum_value"),
        ({"n": 11}, "n", "integer_above_maximum_value"),
        ({"size": "256x256"}, "size", "invalid_value"),
        ({"size": "512x512"}, "size", "invalid_value"),
        ({"size": "1000x1024"}, "size", "invalid_value"),
        ({"size": "3200x1024"}, "size", "invalid_value"),
        ({"size": "3840x2176"}, "size", "invalid_value"),
        ({"size": "1024 x 1024"}, "size", "invalid_value"),
        ({"size": 1024}, "size", "invalid_type"),
        ({"quality": "standard"}, "quality", "invalid_value"),
        ({"background": "pink"}, "background", "invalid_value"),
        ({"output_format": "gif"}, "output_format", "invalid_value"),
        ({"output_compression": 101}, "output_compression", "integer_above_maximum_value"),
        ({"prompt": ""}, "prompt", "empty_string"),
        ({"prompt": " \n"}, "prompt", "empty_string"),
        ({"prompt": "x" * 32_001}, "prompt", "string_above_max_length"),
        ({"prompt": 5}, "prompt", "invalid_type"),
        ({"model": ""}, "model", "missing_required_parameter"),
        ({"model": ["gpt-image-2"]}, "model", "invalid_type"),
    ],
)
def test_a_wrong_field_is_refused_by_name(openai: Emulator, change: dict[str, Any], param: str, code: str) -> None:
    response = generate(openai, {**GENERATION, **change})
    assert response.status_code == 400
    assert (error(response)["param"], error(response)["code"]) == (param, code)
    assert openai.paid_pictures == 0


@pytest.mark.parametrize(
    "change",
    [
        {"size": "auto"},
        {"size": "1536x1024"},
        {"quality": "auto"},
        {"background": "opaque", "moderation": "low", "user": "somebody"},
        {"output_format": "webp", "output_compression": 80},
    ],
)
def test_documented_fields_pass(openai: Emulator, change: dict[str, Any]) -> None:
    assert len(pictures(generate(openai, {**GENERATION, **change}))) == 1


def test_the_output_format_is_obeyed(openai: Emulator) -> None:
    response = generate(openai, {**GENERATION, "output_format": "webp"})
    assert pictures(response)[0].format == "WEBP"


@pytest.mark.parametrize("model", ["dall-e-2", "gpt-image-1", "gpt-image-99"])
def test_a_retired_or_unknown_model_does_not_exist(openai: Emulator, model: str) -> None:
    response = generate(openai, {**GENERATION, "model": model})
    assert response.status_code == 404
    assert error(response)["code"] == "model_not_found"
    assert error(response)["message"] == f"The model '{model}' does not exist."


def test_older_models_take_three_sizes_only(openai: Emulator) -> None:
    response = generate(openai, {**GENERATION, "model": "gpt-image-1.5", "size": "1024x640"})
    assert (response.status_code, error(response)["param"]) == (400, "size")


@pytest.mark.parametrize("body", [b"{", b"[1]", b"", b"\xff", b"[" * 100_000])
def test_a_body_that_is_no_json_object_is_refused(openai: Emulator, body: bytes) -> None:
    headers = {**KEY, "Content-Type": "application/json"}
    response = requests.post(f"{openai.base_url}/images/generations", data=body, headers=headers, timeout=5)
    assert response.status_code == 400


def test_each_route_takes_its_own_content_type(openai: Emulator) -> None:
    form = requests.post(f"{openai.base_url}/images/generations", data=GENERATION, headers=KEY, timeout=5)
    body = requests.post(f"{openai.base_url}/images/edits", json=GENERATION, headers=KEY, timeout=5)
    assert (form.status_code, error(form)["code"]) == (400, "unsupported_content_type")
    assert (body.status_code, error(body)["code"]) == (400, "unsupported_content_type")


def test_models_are_listed_with_release_times() -> None:
    with Emulator(models={"gpt-image-7": 7, "gpt-image-8": 8}) as emulator:
        listed = requests.get(f"{emulator.base_url}/models", headers=KEY, timeout=5).json()
    assert listed["object"] == "list"
    assert [(m["id"], m["created"], m["object"]) for m in listed["data"]] == [
        ("gpt-image-7", 7, "model"),
        ("gpt-image-8", 8, "model"),
    ]
    assert all(model["owned_by"] for model in listed["data"])


def test_the_newest_model_has_the_latest_release_time(openai: Emulator) -> None:
    listed = requests.get(f"{openai.base_url}/models", headers=KEY, timeout=5).json()["data"]
    assert max(listed, key=lambda model: model["created"])["id"].startswith("gpt-image-2.6")
    assert "dall-e-2" not in [model["id"] for model in listed]


def test_other_routes_and_methods_are_refused(openai: Emulator) -> None:
    missing = requests.post(f"{openai.base_url}/images/variations", headers=KEY, timeout=5)
    method = requests.get(f"{openai.base_url}/images/edits", headers=KEY, timeout=5)
    assert (missing.status_code, method.status_code) == (404, 405)
    assert error(missing)["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("image", "mask", "param", "code"),
    [
        (("image.png", b"no picture", "image/png"), None, "image", "invalid_image_file"),
        (("image.png", png()[:120], "image/png"), None, "image", "invalid_image_file"),
        ((None, png(), "image/png"), None, "image", "invalid_type"),
        (("image.png", png(), "application/octet-stream"), None, "image", "unsupported_file_mimetype"),
        (("image.png", png(), "image/gif"), None, "image", "unsupported_file_mimetype"),
        (("image.png", png()), None, "image", "unsupported_file_mimetype"),
        (("i.png", png(), "image/png"), png("RGB"), "mask", "invalid_mask_image_format"),
        (("i.png", png(), "image/png"), png("L", colour=0), "mask", "invalid_mask_image_format"),
        (("i.png", png(), "image/png"), png("RGBA", (32, 64)), "mask", "invalid_mask_image_format"),
        (("i.png", png(), "image/png"), png("RGBA", kind="WEBP"), "mask", "invalid_mask_image_format"),
        (("i.png", png(), "image/png"), MASK + b"\0" * 4 * 1024**2, "mask", "invalid_mask_image_format"),
        (("i.png", png(), "image/png"), b"no picture", "mask", "invalid_image_file"),
    ],
)
def test_a_wrong_file_is_refused(
    openai: Emulator, image: tuple[Any, ...], mask: bytes | None, param: str, code: str
) -> None:
    files: dict[str, Any] = {"image": image}
    if mask is not None:
        files["mask"] = ("mask.png", mask, "image/png")
    data = {"model": "gpt-image-2", "prompt": "a lighthouse", "size": "1024x1024"}
    url = f"{openai.base_url}/images/edits"
    response = requests.post(url, data=data, files=files, headers=KEY, timeout=5)
    assert response.status_code == 400
    assert (error(response)["param"], error(response)["code"]) == (param, code)


def test_a_file_over_50_mb_is_too_large(openai: Emulator) -> None:
    response = edit(openai, b"\0" * (50 * 1024**2 + 1), model="gpt-image-2")
    assert response.status_code == 413
    assert openai.posts[0].file("image").data == b""


@pytest.mark.parametrize(
    ("files", "code"),
    [
        ([("image", PART), ("image[]", PART)], "invalid_value"),
        ([("image", PART), ("image", PART)], "duplicate_parameter"),
        ([("image", PART), ("mask", PART), ("mask", PART)], "duplicate_parameter"),
        ([("image", PART), ("prompt", (None, "again"))], "duplicate_parameter"),
        ([("image", PART), ("picture", PART)], "unknown_parameter"),
        ([("mask", PART)], "invalid_type"),
        ([("image", PART), ("mask", (None, "a mask"))], "invalid_type"),
        ([("image", PART), ("n", ("n.txt", "2", "text/plain"))], "invalid_type"),
        ([("image", PART), ("n", (None, "\uff12"))], "invalid_type"),
    ],
)
def test_parts_that_repeat_or_do_not_belong_are_refused(
    openai: Emulator, files: list[tuple[str, Any]], code: str
) -> None:
    data = {"model": "gpt-image-2", "prompt": "a lighthouse"}
    url = f"{openai.base_url}/images/edits"
    response = requests.post(url, data=data, files=files, headers=KEY, timeout=5)
    assert (response.status_code, error(response)["code"]) == (400, code)


def test_several_images_go_as_an_array(openai: Emulator) -> None:
    files = [("image[]", PART), ("image[]", PART)]
    data = {"model": "gpt-image-2", "prompt": "a lighthouse", "size": "1024x1024", "n": "1"}
    url = f"{openai.base_url}/images/edits"
    assert len(pictures(requests.post(url, data=data, files=files, headers=KEY, timeout=5))) == 1


def test_an_edit_keeps_opaque_pixels_and_paints_transparent_ones(openai: Emulator) -> None:
    size = (1024, 1024)
    original = png(size=size, colour=(200, 30, 60))
    drawn = pictures(edit(openai, original, half_mask(size), model="gpt-image-2", size="1024x1024"))[0]
    assert drawn.crop((512, 0, 1024, 1024)).getcolors() == [(512 * 1024, (200, 30, 60))]
    assert (200, 30, 60) not in [colour for _, colour in drawn.crop((0, 0, 512, 1024)).getcolors(2**20) or []]


def test_edits_can_ignore_the_mask_or_redraw_what_it_keeps(dalle: Emulator) -> None:
    image, mask = png("RGBA", (256, 256), (200, 30, 60, 255)), half_mask((256, 256))
    fields: dict[str, Any] = {"model": "dall-e-2", "size": "256x256", "response_format": "b64_json"}
    right = (128, 0, 256, 256)
    kept = pictures(edit(dalle, image, mask, **fields))[0].crop(right)
    dalle.redraws = True
    redrawn = pictures(edit(dalle, image, mask, **fields))[0].crop(right)
    dalle.ignore_mask = True
    repainted = pictures(edit(dalle, image, mask, **fields))[0].crop(right)
    assert kept.getcolors() == [(128 * 256, (200, 30, 60))]
    assert redrawn.getcolors() == [(128 * 256, (202, 30, 54))]
    assert len(repainted.getcolors(2**20) or []) > 100


def test_an_edit_with_the_prompt_of_the_original_can_be_seen(dalle: Emulator) -> None:
    original = pictures(generate(dalle, SMALL))[0].convert("RGBA")
    file = io.BytesIO()
    original.save(file, "PNG")
    drawn = pictures(edit(dalle, file.getvalue(), half_mask((256, 256)), **SMALL))[0]
    left, right = (0, 0, 128, 256), (128, 0, 256, 256)
    assert drawn.crop(left).tobytes() != original.convert("RGB").crop(left).tobytes()
    assert drawn.crop(right).tobytes() == original.convert("RGB").crop(right).tobytes()


def test_an_edit_with_an_opaque_mask_returns_the_original(dalle: Emulator) -> None:
    noise = Image.effect_noise((256, 256), 90).convert("RGBA")
    file = io.BytesIO()
    noise.save(file, "PNG")
    mask = png("RGBA", (256, 256), (0, 0, 0, 255))
    fields: dict[str, Any] = {"model": "dall-e-2", "size": "256x256", "response_format": "b64_json"}
    drawn = pictures(edit(dalle, file.getvalue(), mask, **fields))[0]
    assert drawn.tobytes() == noise.convert("RGB").tobytes()


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"quality": "low"}, "quality"),
        ({"size": "1536x1024"}, "size"),
        ({"size": "auto"}, "size"),
        ({"prompt": "x" * 1001}, "prompt"),
        ({"response_format": "png"}, "response_format"),
        ({"background": "auto"}, "background"),
    ],
)
def test_dalle_2_refuses_what_it_never_took(dalle: Emulator, change: dict[str, Any], param: str) -> None:
    response = generate(dalle, {**SMALL, **change})
    assert (response.status_code, error(response)["param"]) == (400, param)


def test_dalle_2_answers_with_urls_unless_it_is_told_otherwise(dalle: Emulator) -> None:
    body = {name: value for name, value in SMALL.items() if name != "response_format"}
    url = generate(dalle, body).json()["data"][0]["url"]
    assert url.startswith(f"{dalle.origin}/pictures/")
    download = requests.get(url, timeout=5)
    assert download.headers["Content-Type"] == "image/png"
    assert Image.open(io.BytesIO(download.content)).size == (256, 256)


@pytest.mark.parametrize(
    ("image", "mask", "message"),
    [
        (png("RGB"), None, "format must be in"),
        (png("RGBA", (64, 32)), None, "square"),
        (png("RGBA", kind="WEBP"), None, "must be a PNG"),
        (png("RGBA") + b"\0" * 4 * 1024**2, None, "less than 4 MB"),
        (png("RGBA"), png("RGBA", (32, 32)), "same dimensions"),
    ],
)
def test_dalle_2_wants_one_small_square_rgba_png(
    dalle: Emulator, image: bytes, mask: bytes | None, message: str
) -> None:
    response = edit(dalle, image, mask, model="dall-e-2", size="256x256")
    assert response.status_code == 400
    assert message in error(response)["message"]


def test_dalle_2_reads_the_alpha_of_the_image_when_there_is_no_mask(dalle: Emulator) -> None:
    fields: dict[str, Any] = {"model": "dall-e-2", "size": "256x256", "response_format": "b64_json"}
    drawn = pictures(edit(dalle, half_mask((256, 256)), **fields))[0]
    assert drawn.crop((128, 0, 256, 256)).getcolors() == [(128 * 256, (0, 0, 0))]
    assert len(drawn.crop((0, 0, 128, 256)).getcolors(2**20) or []) > 100


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer sk-other"}, {"api-key": "sk-emulated"}])
def test_openai_wants_its_key(openai: Emulator, headers: dict[str, str]) -> None:
    response = generate(openai, GENERATION, headers=headers)
    assert response.status_code == 401
    assert error(response)["code"] == "invalid_api_key"
    assert response.headers["x-request-id"]


def test_a_refused_key_is_not_repeated_in_full(openai: Emulator) -> None:
    response = generate(openai, GENERATION, headers={"Authorization": "Bearer sk-secret-of-somebody"})
    assert "secret" not in response.text


def test_without_a_key_everyone_may_come_in() -> None:
    with Emulator(api_key=None, models=("dall-e-2",)) as emulator:
        assert generate(emulator, SMALL, headers={}).status_code == 200
        assert generate(emulator, SMALL, headers={"Authorization": "Bearer wrong"}).status_code == 401


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Authorization": "Bearer token"}, 200),
        ({"X-API-KEY": "comfyui-123"}, 200),
        ({"Authorization": "Bearer token", "X-API-KEY": "nonsense"}, 200),
        ({}, 401),
        ({"Authorization": "Bearer "}, 401),
        ({"Authorization": "Bearer expired"}, 401),
        ({"Authorization": "Bearer expired", "X-API-KEY": "comfyui-123"}, 401),
        ({"X-API-KEY": "123"}, 401),
        ({"X-API-KEY": "comfyui-wrong"}, 401),
    ],
)
def test_the_proxy_takes_a_login_token_or_a_comfyui_key(headers: dict[str, str], status: int) -> None:
    with Emulator("comfy") as emulator:
        url = f"{emulator.comfy_base}/proxy/openai/images/generations"
        response = requests.post(url, json=GENERATION, headers=headers, timeout=5)
    assert response.status_code == status
    if status == 200:
        assert float(response.headers["X-Comfy-Credits-Used"]) > 0
        assert len(pictures(response)) == 1
    else:
        assert response.json()["error"] == "Unauthorized"
        assert response.json()["message"]


def test_the_proxy_hands_openai_errors_through(openai: Emulator) -> None:
    url = f"{openai.comfy_base}/proxy/openai/images/generations"
    body = {**GENERATION, "seed": 1}
    response = requests.post(url, json=body, headers={"X-API-KEY": "comfyui-1"}, timeout=5)
    assert (response.status_code, error(response)["code"]) == (400, "unknown_parameter")
