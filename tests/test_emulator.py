"""The emulator, over real HTTP: as strict as the published API, and broken only where it was told to be."""

from __future__ import annotations

import base64
import errno
import io
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import requests
from PIL import Image

from emulator import FAULTS, FLAVOURS, Emulator, Fault

KEY = {"Authorization": "Bearer sk-emulated"}
GENERATION = {"model": "gpt-image-2", "prompt": "a lighthouse", "size": "1024x1024", "quality": "low"}
SMALL: dict[str, Any] = {
    "model": "dall-e-2",
    "prompt": "a lighthouse",
    "size": "256x256",
    "response_format": "b64_json",
}


@pytest.fixture(scope="module")
def running() -> Iterator[Emulator]:
    with Emulator() as emulator:
        yield emulator


@pytest.fixture(scope="module")
def classic() -> Iterator[Emulator]:
    """An OpenAI that still has DALL·E 2, and draws small pictures fast."""
    with Emulator(models=("dall-e-2", "gpt-image-2")) as emulator:
        yield emulator


@pytest.fixture
def openai(running: Emulator) -> Emulator:
    running.reset()
    return running


@pytest.fixture
def dalle(classic: Emulator) -> Emulator:
    classic.reset()
    return classic


def generate(emulator: Emulator, body: dict[str, Any], **more: Any) -> requests.Response:
    more.setdefault("headers", KEY)
    return requests.post(f"{emulator.base_url}/images/generations", json=body, timeout=10, **more)


def edit(
    emulator: Emulator,
    image: bytes,
    mask: bytes | None = None,
    *,
    route: str = "edits",
    headers: Mapping[str, str] = KEY,
    mask_field: str = "mask",
    **fields: Any,
) -> requests.Response:
    files = {"image": ("image.png", image, "image/png")}
    if mask is not None:
        files[mask_field] = ("mask.png", mask, "image/png")
    data: dict[str, Any] = {"prompt": "a lighthouse", **fields}
    return requests.post(f"{emulator.base_url}/images/{route}", data=data, files=files, headers=headers, timeout=10)


def png(mode: str = "RGB", size: tuple[int, int] = (64, 64), colour: Any = "red", kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new(mode, size, colour).save(file, kind)
    return file.getvalue()


def half_mask(size: tuple[int, int], *, alpha: bool = True) -> bytes:
    """The mask of the project: white, transparent on the left; black, opaque on the right."""
    mask = Image.new("RGBA", size, (0, 0, 0, 255))
    mask.paste((255, 255, 255, 0 if alpha else 255), (0, 0, size[0] // 2, size[1]))
    file = io.BytesIO()
    mask.save(file, "PNG")
    return file.getvalue()


def pictures(response: requests.Response) -> list[Image.Image]:
    assert response.status_code == 200, response.text
    return [Image.open(io.BytesIO(base64.b64decode(item["b64_json"]))) for item in response.json()["data"]]


def error(response: requests.Response) -> dict[str, Any]:
    found = response.json()["error"]
    assert isinstance(found, dict)
    return found


# The contract for today's models.


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


@pytest.mark.parametrize("body", [b"{", b"[1]", b"", b"\xff"])
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


# Edits.


MASK = half_mask((64, 64))


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


PART = ("i.png", png(), "image/png")


@pytest.mark.parametrize(
    ("files", "code"),
    [
        ([("image", PART), ("image[]", PART)], "invalid_value"),
        ([("image", PART), ("image", PART)], "duplicate_parameter"),
        ([("image", PART), ("mask", PART), ("mask", PART)], "duplicate_parameter"),
        ([("image", PART), ("prompt", (None, "again"))], "duplicate_parameter"),
        ([("image", PART), ("picture", PART)], "unknown_parameter"),
        ([("mask", PART)], "invalid_type"),
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


# The archived contract of DALL·E 2.


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


# Keys.


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


# How pictures come back.


def test_pictures_come_back_as_the_knob_says(dalle: Emulator) -> None:
    body = {**SMALL, "n": 2}
    dalle.result = "mixed"
    assert [sorted(item) for item in generate(dalle, body).json()["data"]] == [["b64_json"], ["url"]]
    dalle.result = "relative_url"
    assert generate(dalle, body).json()["data"][0]["url"].startswith("/pictures/")
    dalle.result, dalle.picture_origin = "url", "http://localhost:1"
    assert generate(dalle, body).json()["data"][0]["url"].startswith("http://localhost:1/pictures/")


def test_a_relative_url_needs_the_key_and_an_absolute_one_does_not(dalle: Emulator) -> None:
    dalle.result = "relative_url"
    relative = dalle.origin + generate(dalle, SMALL).json()["data"][0]["url"]
    dalle.result = "url"
    absolute = generate(dalle, SMALL).json()["data"][0]["url"]
    assert requests.get(relative, timeout=5).status_code == 401
    assert requests.get(relative, headers=KEY, timeout=5).status_code == 200
    assert requests.get(absolute, timeout=5).status_code == 200


def test_size_format_transparency_and_number_can_differ_from_what_was_asked(dalle: Emulator) -> None:
    dalle.answer_size, dalle.picture_format, dalle.fewer_by = (300, 200), "JPEG", 1
    drawn = pictures(generate(dalle, {**SMALL, "n": 3}))
    assert [(p.size, p.format) for p in drawn] == [((300, 200), "JPEG")] * 2
    dalle.picture_format, dalle.transparent, dalle.fewer_by = None, True, 0
    assert pictures(generate(dalle, SMALL))[0].getchannel("A").getextrema() == (0, 255)


def test_answers_and_downloads_take_their_time(dalle: Emulator) -> None:
    # More than is measured: Windows' clock counts in steps of 16 ms.
    dalle.delay_s, dalle.picture_delay_s, dalle.result = 0.25, [0.0, 0.25], "url"
    generate_started = time.monotonic()
    urls = [item["url"] for item in generate(dalle, {**SMALL, "n": 2}).json()["data"]]
    assert time.monotonic() - generate_started >= 0.2
    waits = []
    for url in urls:
        started = time.monotonic()
        requests.get(url, timeout=5)
        waits.append(time.monotonic() - started)
    assert waits[0] < 0.2 <= waits[1]


def test_delays_of_several_calls_overlap(dalle: Emulator) -> None:
    dalle.delay_s = 0.4
    threads = [threading.Thread(target=generate, args=(dalle, SMALL)) for _ in range(4)]
    started = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.monotonic() - started < 1.2
    assert max(post.started for post in dalle.posts) < min(post.answered or 0 for post in dalle.posts)


def test_prompt_size_and_index_change_the_picture_and_nothing_else_does(dalle: Emulator) -> None:
    first, second = pictures(generate(dalle, {**SMALL, "n": 2}))
    again = pictures(generate(dalle, {**SMALL, "n": 2}))[0]
    other = pictures(generate(dalle, {**SMALL, "n": 2, "prompt": "a castle"}))[0]
    assert first.tobytes() == again.tobytes()
    assert len({first.tobytes(), second.tobytes(), other.tobytes()}) == 3


def test_a_picture_has_a_caption_of_its_request(dalle: Emulator) -> None:
    one = pictures(generate(dalle, {**SMALL, "n": 1}))[0]
    of_two = pictures(generate(dalle, {**SMALL, "n": 2}))[0]
    above, below = (0, 0, 256, 200), (0, 200, 256, 256)
    assert one.crop(above).tobytes() == of_two.crop(above).tobytes()
    assert one.crop(below).tobytes() != of_two.crop(below).tobytes()


@pytest.mark.parametrize("prompt", ["é" * 1000, "猫が雪の中で眠っている" * 40, "a\nb\tc\0d", "<script>&"])
def test_any_prompt_can_be_drawn(dalle: Emulator, prompt: str) -> None:
    assert len(pictures(generate(dalle, {**SMALL, "prompt": prompt}))) == 1


# Other servers.


def any_call(server: str) -> tuple[dict[str, Any], dict[str, Any]]:
    headers = {"api-key": "sk-emulated"} if server == "azure" else KEY
    more: dict[str, Any] = {"headers": headers}
    if server == "azure":
        more["params"] = {"api-version": "preview"}
    model = {"azure": "my-gpt-image", "openai": "gpt-image-2", "comfy": "gpt-image-2", "vllm": "Qwen/Qwen-Image"}
    size = "1024x1024" if FLAVOURS[server].strict else "256x256"
    return {"model": model.get(server, "dall-e-2"), "prompt": "a lighthouse", "size": size}, more


RESULTS = {
    "localai": "http://127.0.0.1:",
    "sglang": "/v1/images/",
    "xinference": "/root/.xinference/image/",
}


@pytest.mark.parametrize("server", FLAVOURS)
def test_every_flavour_generates_as_its_servers_do(server: str) -> None:
    body, more = any_call(server)
    with Emulator(server) as emulator:
        response = generate(emulator, body, **more)
        assert response.status_code == 200, response.text
        item = response.json()["data"][0]
        if server in RESULTS:
            assert item["url"].startswith(RESULTS[server])
        else:
            assert pictures(response)[0].format == "PNG"


@pytest.mark.parametrize("server", ["litellm", "sdcpp", "localai", "vllm", "sglang", "xinference"])
def test_lenient_servers_take_what_openai_refuses(server: str) -> None:
    body, more = any_call(server)
    with Emulator(server) as emulator:
        extra = {"response_format": "b64_json", "seed": 5, "anything": {"goes": True}}
        drawn = pictures(generate(emulator, {**body, **extra}, **more))[0]
    assert drawn.format == ("JPEG" if server in ("sglang", "xinference") else "PNG")


def test_azure_wants_its_header_its_version_and_a_deployment() -> None:
    body, more = any_call("azure")
    with Emulator("azure") as emulator:
        bearer = generate(emulator, body, params=more["params"], headers=KEY)
        versionless = generate(emulator, body, headers=more["headers"])
        undeployed = generate(emulator, {**body, "model": "gpt-image-2"}, **more)
        emulator.fail(Fault("moderation"))
        filtered = generate(emulator, body, **more)
    assert emulator.base_url.endswith("/openai/v1")
    assert [r.status_code for r in (bearer, versionless, undeployed, filtered)] == [401, 404, 404, 400]
    assert error(undeployed)["code"] == "DeploymentNotFound"
    assert error(filtered)["code"] == "contentFilter"


def test_litellm_words_errors_its_own_way() -> None:
    with Emulator("litellm", models=("dall-e-2",)) as emulator:
        keyless = generate(emulator, SMALL, headers={})
        unknown = generate(emulator, {**SMALL, "model": "other"})
        files = [("image", PART), ("image[]", PART)]
        url = f"{emulator.base_url}/images/edits"
        both = requests.post(url, data=SMALL, files=files, headers=KEY, timeout=5)
    assert [(r.status_code, error(r)["code"]) for r in (keyless, unknown, both)] == [
        (401, "401"),
        (400, "400"),
        (422, "422"),
    ]
    assert "Invalid model name" in error(unknown)["message"]


def test_stable_diffusion_cpp_refuses_null_with_a_string() -> None:
    with Emulator("sdcpp") as emulator:
        null = generate(emulator, {**SMALL, "n": None})
        blank = generate(emulator, {**SMALL, "prompt": ""})
        url = generate(emulator, {**SMALL, "response_format": "url"})
    assert (null.status_code, null.json()["error"]) == (500, "server_error")
    assert blank.status_code == 400
    assert isinstance(blank.json()["error"], str)
    assert "b64_json" in url.json()["data"][0]


@pytest.mark.parametrize(
    ("server", "mask", "painted", "kept"),
    [
        ("sdcpp", half_mask((64, 64), alpha=False), True, True),
        ("sdcpp", half_mask((64, 64)), True, True),
        ("litellm", half_mask((64, 64)), True, True),
        ("litellm", half_mask((64, 64), alpha=False), False, True),
        ("xinference", half_mask((64, 64)), True, True),
        ("sglang", half_mask((64, 64)), True, False),
        ("vllm", half_mask((64, 64)), True, False),
    ],
)
def test_each_server_reads_masks_in_its_own_way(server: str, mask: bytes, painted: bool, kept: bool) -> None:
    image = png(colour=(200, 30, 60))
    with Emulator(server) as emulator:
        emulator.picture_format = "PNG"
        response = edit(emulator, image, mask, response_format="b64_json", size="256x256", **_model(server))
    drawn = pictures(response)[0]
    assert (drawn.crop((0, 0, 120, 256)).getcolors() != [(120 * 256, (200, 30, 60))]) is painted
    assert (drawn.crop((136, 0, 256, 256)).getcolors() == [(120 * 256, (200, 30, 60))]) is kept


def _model(server: str) -> dict[str, Any]:
    return {} if server == "vllm" else {"model": "dall-e-2"}


def test_vllm_knows_one_model_its_own_mask_field_and_no_auto_size() -> None:
    image, mask = png(colour=(200, 30, 60)), half_mask((64, 64))
    with Emulator("vllm") as emulator:
        mismatch = generate(emulator, SMALL)
        auto = generate(emulator, {"prompt": "a lighthouse", "size": "auto"})
        urls = generate(emulator, {"prompt": "a lighthouse", "response_format": "url"})
        masked = edit(emulator, image, mask, mask_field="mask_image", size="256x256")
    assert [r.status_code for r in (mismatch, auto, urls)] == [400, 400, 400]
    assert "Model mismatch" in mismatch.json()["detail"]
    assert pictures(masked)[0].crop((136, 0, 256, 256)).getcolors() == [(120 * 256, (200, 30, 60))]


def test_localai_inpaints_instead_of_editing() -> None:
    image, mask = png(colour=(200, 30, 60)), half_mask((64, 64))
    with Emulator("localai") as emulator:
        missing = edit(emulator, image, mask, model="dall-e-2")
        maskless = edit(emulator, image, route="inpainting", model="dall-e-2")
        made = edit(emulator, image, mask, route="inpainting", model="dall-e-2")
        assert [r.status_code for r in (missing, maskless, made)] == [404, 400, 200]
        download = requests.get(made.json()["data"][0]["url"], timeout=5)
    assert error(missing)["code"] == 404
    assert Image.open(io.BytesIO(download.content)).size == (512, 512)


def test_a_relative_url_of_sglang_can_be_fetched() -> None:
    with Emulator("sglang") as emulator:
        url = generate(emulator, {**SMALL, "response_format": "url"}).json()["data"][0]["url"]
        download = requests.get(emulator.origin + url, timeout=5)
    assert download.headers["Content-Type"] == "image/jpeg"


@pytest.mark.parametrize("server", FLAVOURS)
def test_a_key_that_says_wrong_is_refused_by_every_server(server: str) -> None:
    body, more = any_call(server)
    headers = {name: "Bearer sk-wrong" if "Bearer" in key else "wrong" for name, key in more["headers"].items()}
    with Emulator(server) as emulator:
        assert generate(emulator, body, **{**more, "headers": headers}).status_code == 401


# Faults.


STATUSES = {
    "unauthorized": (401, "invalid_api_key"),
    "payment_required": (402, None),
    "verification": (403, None),
    "model_not_found": (404, "model_not_found"),
    "method_not_allowed": (405, None),
    "timeout_status": (408, None),
    "conflict": (409, None),
    "too_large": (413, None),
    "rate_limit": (429, "rate_limit_exceeded"),
    "quota": (429, "insufficient_quota"),
    "moderation": (400, "moderation_blocked"),
    "billing_limit": (400, "billing_hard_limit_reached"),
    "unknown_parameter": (400, "unknown_parameter"),
    "server_error": (500, None),
    "unavailable": (503, None),
}


@pytest.mark.parametrize("name", STATUSES)
def test_an_error_status_comes_with_its_documented_body_and_costs_nothing(dalle: Emulator, name: str) -> None:
    dalle.fail(Fault(name))
    failed, fine = generate(dalle, SMALL), generate(dalle, SMALL)
    assert (failed.status_code, error(failed)["code"]) == STATUSES[name]
    assert error(failed)["message"]
    assert fine.status_code == 200
    assert [post.billed for post in dalle.posts] == [0, 1]


@pytest.mark.parametrize(("name", "status"), [("bad_gateway", 502), ("gateway_timeout", 504)])
def test_a_proxy_fails_with_a_page(dalle: Emulator, name: str, status: int) -> None:
    dalle.fail(Fault(name))
    failed = generate(dalle, SMALL)
    assert (failed.status_code, failed.headers["Content-Type"]) == (status, "text/html")
    assert "<html>" in failed.text


def test_details_shape_a_fault(dalle: Emulator) -> None:
    dalle.fail(Fault("rate_limit", retry_after_s=3, headers={"x-should-retry": "true"}))
    dalle.fail(Fault("unknown_parameter", param="quality"))
    dalle.fail(Fault("custom", status=418, body={"tea": "pot"}, headers={"X-Spout": "short"}))
    dalle.fail(Fault("redirect", location="/elsewhere"))
    limited, unknown, custom = (generate(dalle, SMALL) for _ in range(3))
    moved = generate(dalle, SMALL, allow_redirects=False)
    assert (limited.headers["Retry-After"], limited.headers["x-should-retry"]) == ("3", "true")
    assert error(unknown)["message"] == "Unknown parameter: 'quality'."
    assert (custom.status_code, custom.json(), custom.headers["X-Spout"]) == (418, {"tea": "pot"}, "short")
    assert (moved.status_code, moved.headers["Location"]) == (307, "/elsewhere")


@pytest.mark.parametrize("name", ["rate_limit", "moderation", "payment_required", "unavailable"])
def test_the_proxy_words_faults_its_own_way(openai: Emulator, name: str) -> None:
    openai.fail(Fault(name))
    url = f"{openai.comfy_base}/proxy/openai/images/generations"
    found = requests.post(url, json=GENERATION, headers={"X-API-KEY": "comfyui-1"}, timeout=5).json()["error"]
    assert isinstance(found, str) is (STATUSES[name][1] is None)


def body_of(response: requests.Response) -> Any:
    return response.json()["data"][0]["b64_json"]


def test_an_answer_can_be_of_the_wrong_kind(dalle: Emulator) -> None:
    for name in ("html", "empty", "wrong_shape", "route_missing"):
        dalle.fail(Fault(name))
    page, empty, shape, missing = (generate(dalle, SMALL) for _ in range(4))
    assert (page.status_code, page.headers["Content-Type"]) == (200, "text/html")
    assert empty.json()["data"] == []
    assert "data" not in shape.json()
    assert (missing.status_code, missing.headers["Content-Type"]) == (404, "text/plain")
    assert [post.billed for post in dalle.posts] == [0, 0, 1, 0]


def test_an_answer_can_hold_what_is_no_picture(dalle: Emulator) -> None:
    for name in ("truncated_json", "invalid_base64", "not_an_image", "svg_bomb", "huge_png", "file_path_url"):
        dalle.fail(Fault(name))
    truncated, invalid, text, svg, huge, path = (generate(dalle, {**SMALL, "n": 2}) for _ in range(6))
    with pytest.raises(requests.JSONDecodeError):
        truncated.json()
    with pytest.raises(ValueError, match="base64"):
        base64.b64decode(body_of(invalid), validate=True)
    assert base64.b64decode(body_of(text)).startswith(b"This is")
    assert b"<!ENTITY a9" in base64.b64decode(body_of(svg))
    assert len(base64.b64decode(body_of(huge))) < 200
    with pytest.raises(Image.DecompressionBombError):
        Image.open(io.BytesIO(base64.b64decode(body_of(huge))))
    assert path.json()["data"][0] == {"url": "/root/.xinference/image/f3b1c2d4.jpg"}
    assert [post.billed for post in dalle.posts] == [2] * 6
    assert dalle.paid_pictures == 12


@pytest.mark.parametrize(("name", "billed"), [("drop_before", 0), ("drop_after", 2), ("drop_during", 2)])
def test_a_dropped_connection_is_billed_once_the_work_was_done(dalle: Emulator, name: str, billed: int) -> None:
    dalle.fail(Fault(name))
    with pytest.raises((requests.ConnectionError, requests.exceptions.ChunkedEncodingError)):
        generate(dalle, {**SMALL, "n": 2})
    post = dalle.posts[0]
    assert (post.status, post.answered, post.billed) == (None, None, billed)
    assert bool(post.fields) is (name != "drop_before")
    assert generate(dalle, SMALL).status_code == 200


def test_a_connection_dropped_during_the_answer_has_shown_its_status(dalle: Emulator) -> None:
    dalle.fail(Fault("drop_during"))
    with generate(dalle, SMALL, stream=True) as response:
        assert response.status_code == 200
        with pytest.raises(requests.exceptions.ChunkedEncodingError):
            response.content  # noqa: B018 - reading it is what fails


def test_an_upload_can_be_dropped_unread(dalle: Emulator) -> None:
    dalle.fail(Fault("drop_before", route="edits"))
    assert generate(dalle, SMALL).status_code == 200
    with pytest.raises(requests.ConnectionError):
        edit(dalle, b"\0" * 3_000_000, model="dall-e-2")
    assert dalle.posts[1].files == ()


def test_a_body_can_be_endless_huge_or_slow(dalle: Emulator) -> None:
    dalle.fail(Fault("endless_body"))
    with generate(dalle, SMALL, stream=True) as response:
        assert "Content-Length" not in response.headers
        assert len(response.raw.read(5_000_000)) == 5_000_000
    dalle.fail(Fault("huge_base64", total_bytes=4_000_000))
    assert len(body_of(generate(dalle, SMALL))) > 3_900_000
    dalle.fail(Fault("huge_base64", declared=True))
    with generate(dalle, SMALL, stream=True) as response:
        assert int(response.headers["Content-Length"]) > 2_000_000_000
    dalle.fail(Fault("drip", interval_s=0.05))
    with generate(dalle, SMALL, stream=True) as response:
        started = time.monotonic()
        assert len(response.raw.read(4)) == 4
        assert 0.1 < time.monotonic() - started < 1
    dalle.fail(Fault("slow", delay_s=0.35))
    started = time.monotonic()
    assert generate(dalle, SMALL).status_code == 200
    assert time.monotonic() - started > 0.3
    assert [post.billed for post in dalle.posts] == [1] * 5


DOWNLOADS: Mapping[str, Callable[[requests.Response], bool]] = {
    "server_error": lambda r: r.status_code == 500,
    "missing_picture": lambda r: r.status_code == 404,
    "expired_picture": lambda r: r.status_code == 403,
    "redirect": lambda r: r.status_code == 307,
    "html": lambda r: r.headers["Content-Type"] == "text/html",
    "not_an_image": lambda r: r.content.startswith(b"This is"),
    "svg_bomb": lambda r: r.headers["Content-Type"] == "image/svg+xml",
    "huge_png": lambda r: len(r.content) < 200,
    "slow": lambda r: r.elapsed.total_seconds() >= 0.1,
}


@pytest.mark.parametrize("name", DOWNLOADS)
def test_a_download_can_go_wrong(dalle: Emulator, name: str) -> None:
    dalle.result = "url"
    url = generate(dalle, SMALL).json()["data"][0]["url"]
    dalle.fail(Fault(name, route="pictures", delay_s=0.15 if name == "slow" else 0))
    assert DOWNLOADS[name](requests.get(url, timeout=5, allow_redirects=False))
    again = requests.get(url, timeout=5)
    assert (again.status_code, again.headers["Content-Type"]) == (200, "image/png")
    assert dalle.paid_pictures == 1


@pytest.mark.parametrize("name", ["drop_before", "drop_during", "drop_after"])
def test_a_download_can_be_dropped(dalle: Emulator, name: str) -> None:
    dalle.result = "url"
    url = generate(dalle, SMALL).json()["data"][0]["url"]
    dalle.fail(Fault(name, route="pictures"))
    with pytest.raises((requests.ConnectionError, requests.exceptions.ChunkedEncodingError)):
        requests.get(url, timeout=5)


def test_a_download_can_be_endless_or_drip(dalle: Emulator) -> None:
    dalle.result = "url"
    url = generate(dalle, SMALL).json()["data"][0]["url"]
    for fault in (Fault("endless_body", route="pictures"), Fault("drip", route="pictures", interval_s=0.01)):
        dalle.fail(fault)
        with requests.get(url, timeout=5, stream=True) as response:
            assert response.raw.read(4) == b"\x89PNG"


def test_faults_strike_on_their_route_as_often_as_they_should(dalle: Emulator) -> None:
    dalle.fail(Fault("server_error", route="edits", times=None))
    dalle.fail(Fault("unavailable", route="generations", times=2))
    dalle.fail(Fault("conflict", route="models"))
    assert [generate(dalle, SMALL).status_code for _ in range(3)] == [503, 503, 200]
    assert [edit(dalle, png(), model="dall-e-2").status_code for _ in range(3)] == [500] * 3
    assert requests.get(f"{dalle.base_url}/models", headers=KEY, timeout=5).status_code == 409
    dalle.clear()
    assert edit(dalle, png(), model="dall-e-2").status_code == 400


def test_random_faults_repeat_with_their_seed(dalle: Emulator) -> None:
    def run(seed: int) -> list[int]:
        dalle.fail_at_random([Fault("unavailable"), Fault("missing_picture")], 0.5, seed)
        return [generate(dalle, {**SMALL, "size": "256x256"}).status_code for _ in range(12)]

    first, second, other = run(1), run(1), run(4)
    assert first == second != other
    assert set(first) == {200, 503}


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("no_such_fault", {}),
        ("server_error", {"route": "nowhere"}),
        ("file_path_url", {"route": "pictures"}),
        ("rate_limit", {"retry_after": 3}),
    ],
)
def test_a_fault_that_makes_no_sense_is_refused(name: str, more: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=name):
        Fault(name, **more)


def test_every_fault_is_described() -> None:
    assert all(kind.summary.endswith(".") for kind in FAULTS.values())


# The log and the server itself.


def test_the_log_holds_what_was_sent(openai: Emulator) -> None:
    image = png("RGB", (64, 64))
    edit(openai, image, MASK, model="gpt-image-2", size="1024x1024", n="1")
    generate(openai, GENERATION, params={"a": "b"})
    requests.get(f"{openai.base_url}/models", headers=KEY, timeout=5)
    edited, generated, listed = openai.requests
    assert openai.posts == (edited, generated)
    assert (edited.number + 1, generated.number + 1) == (generated.number, listed.number)
    assert edited.fields == {"prompt": "a lighthouse", "model": "gpt-image-2", "size": "1024x1024", "n": "1"}
    assert edited.file("image").data == image
    assert (edited.file("mask").filename, edited.file("mask").content_type) == ("mask.png", "image/png")
    with pytest.raises(KeyError):
        edited.file("image[]")
    assert generated.fields == GENERATION
    assert (generated.method, generated.path, generated.query) == ("POST", "/v1/images/generations", {"a": "b"})
    assert generated.headers["authorization"] == "Bearer sk-emulated"
    assert generated.started <= (generated.answered or 0)
    assert [r.status for r in openai.requests] == [200, 200, 200]


def test_the_public_log_and_repr_hold_no_secret_and_no_file(openai: Emulator) -> None:
    keys = {**KEY, "X-API-KEY": "comfyui-secret", "api-key": "secret"}
    edit(openai, png(), MASK, headers=keys, model="gpt-image-2")
    text = requests.get(f"{openai.origin}/log", timeout=5).text
    assert "sk-emulated" not in text and "secret" not in text
    assert f'"bytes": {len(MASK)}' in text
    assert "sk-emulated" not in repr(openai.requests)


def test_the_page_shows_pictures_and_escapes_prompts(dalle: Emulator) -> None:
    generate(dalle, {**SMALL, "prompt": "<script>alert(1)</script>"})
    dalle.fail(Fault("svg_bomb"))
    generate(dalle, SMALL)
    page = requests.get(dalle.origin, timeout=5)
    assert page.headers["Content-Type"].startswith("text/html")
    assert "&lt;script&gt;" in page.text and "<script>" not in page.text
    assert "/pictures/" in page.text and ".svg" not in page.text
    assert dalle.requests[-1].method == "POST"


def test_the_log_can_do_without_files_and_old_pictures_go() -> None:
    with Emulator(models=("dall-e-2",), keep_files=False) as emulator:
        emulator.result, emulator.answer_size = "url", (64, 64)
        first = generate(emulator, SMALL).json()["data"][0]["url"]
        edit(emulator, png("RGBA"), model="dall-e-2", size="256x256")
        assert emulator.posts[1].file("image").data == b""
        for _ in range(20):
            last = generate(emulator, {**SMALL, "n": 10}).json()["data"][0]["url"]
        assert requests.get(first, timeout=5).status_code == 404
        assert requests.get(last, timeout=5).status_code == 200


def test_clear_empties_log_and_bill(dalle: Emulator) -> None:
    generate(dalle, SMALL)
    dalle.clear()
    assert (dalle.requests, dalle.paid_pictures) == ((), 0)


def test_a_call_that_is_given_up_is_billed_all_the_same(dalle: Emulator) -> None:
    dalle.delay_s = 0.3
    with pytest.raises(requests.ReadTimeout):
        requests.post(f"{dalle.base_url}/images/generations", json=SMALL, headers=KEY, timeout=0.1)
    deadline = time.monotonic() + 5
    while not dalle.paid_pictures and time.monotonic() < deadline:
        time.sleep(0.01)
    assert (dalle.posts[0].billed, dalle.posts[0].status) == (1, None)


@pytest.mark.parametrize("name", [None, "drip", "endless_body"])
def test_it_stops_promptly_while_requests_hang(name: str | None) -> None:
    with Emulator(models=("dall-e-2",), delay_s=0.0 if name else 60.0) as emulator:
        if name:
            emulator.fail(Fault(name, times=None))
        thread = threading.Thread(target=_swallow, args=(emulator,))
        thread.start()
        while not emulator.posts or not emulator.posts[0].fields:
            time.sleep(0.01)
        started = time.monotonic()
    assert time.monotonic() - started < 1
    thread.join(5)
    assert not thread.is_alive()
    with pytest.raises(ConnectionRefusedError):  # which Windows is sure of after two seconds
        socket.create_connection(("127.0.0.1", emulator.port), timeout=10)


def _swallow(emulator: Emulator) -> None:
    with pytest.raises(requests.RequestException):
        generate(emulator, SMALL)


# Windows has a number of its own for it.
IN_USE = (errno.EADDRINUSE, getattr(errno, "WSAEADDRINUSE", errno.EADDRINUSE))


def test_a_taken_port_and_an_unknown_server_are_errors(openai: Emulator) -> None:
    with pytest.raises(OSError) as caught:
        Emulator(port=openai.port).start()
    assert caught.value.errno in IN_USE
    with pytest.raises(ValueError, match="unknown server 'dalle'"):
        Emulator("dalle")


def test_it_runs_on_its_own_and_says_what_to_set() -> None:
    command = [sys.executable, "-m", "emulator", "--port", "0", "--delay", "0", "--api-key", "sk-mine"]
    root = Path(__file__).parents[1]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        lines = [run.stdout.readline().strip() for _ in range(4)]
        base_url = lines[2].removeprefix("OPENAI_BASE_URL=")
        listed = requests.get(f"{base_url}/models", headers={"Authorization": "Bearer sk-mine"}, timeout=5)
        run.terminate()
        # There, it is ended on the spot.
        assert run.wait(10) == (1 if sys.platform == "win32" else 0)
    assert "development server" in lines[0]
    assert listed.status_code == 200


def test_two_emulators_share_nothing(openai: Emulator) -> None:
    with Emulator() as other:
        generate(other, GENERATION)
        assert (len(other.posts), len(openai.posts)) == (1, 0)
