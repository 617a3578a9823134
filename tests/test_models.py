"""The wire: what is sent, and what is understood of what comes back."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dalle2.errors import Case, matching_case
from dalle2.models import MAX_COMMAS, ErrorDetail, ImagesResponse, Picture, shortened
from development.package import ROOT

ALL_BYTES = bytes(range(256))
ENCODED = base64.b64encode(ALL_BYTES).decode()


def pictures(body: object) -> tuple[Picture, ...]:
    return ImagesResponse.parse(body if isinstance(body, bytes) else json.dumps(body).encode()).data


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        ({"b64_json": ENCODED, "url": None, "revised_prompt": None}, Picture(b64_json=ALL_BYTES)),
        ({"b64_json": f"{ENCODED[:9]} \t\r\n{ENCODED[9:]}\n"}, Picture(b64_json=ALL_BYTES)),
        ({"b64_json": f"data:image/png;base64,{ENCODED}"}, Picture(b64_json=ALL_BYTES)),
        ({"url": f"data:image/png;base64,{ENCODED}"}, Picture(b64_json=ALL_BYTES)),
        ({"url": f"DATA:image/png;base64,{ENCODED.rstrip('=')}"}, Picture(b64_json=ALL_BYTES)),
        ({"b64_json": base64.urlsafe_b64encode(ALL_BYTES).decode().rstrip("=")}, Picture(b64_json=ALL_BYTES)),
        ({"url": "https://example.com/a,b.png"}, Picture(url="https://example.com/a,b.png")),
        ({"b64_json": "", "url": "/a.png"}, Picture(b64_json=b"", url="/a.png")),
        ({"b64_json": "%%%", "url": "/a.png"}, Picture(url="/a.png")),
        ({"b64_json": 7, "url": "/a.png"}, Picture(url="/a.png")),
    ],
)
def test_an_image_comes_in_many_wrappings(item: dict[str, Any], expected: Picture) -> None:
    assert pictures({"created": 1, "data": [item]}) == (expected,)


@pytest.mark.parametrize("item", [1, None, [], "x", {"url": 1}, {"b64_json": 1}, {"b64_json": "%%%"}])
def test_an_item_that_is_no_image_does_not_cost_the_others(item: object) -> None:
    found = [picture for picture in pictures({"data": [item, {"b64_json": ENCODED}]}) if picture != Picture()]
    assert found == [Picture(b64_json=ALL_BYTES)]


@pytest.mark.parametrize(
    "body",
    [
        rb'{"data": [{"b64_json": "%s", "revised_prompt": "half an emoji \ud83d"}]}',
        b'{"data": [{"b64_json": "%s", "revised_prompt": "Z\xfcrich"}]}',
        b'{"data": [{"b64_json": "%s\n", "revised_prompt": "a\nraw line"}]}',
        b'\xef\xbb\xbf{"data": [{"b64_json": "%s"}]}',
        b'{"data": [{"b64_json": "%s"}, {"b64_json": "iVBOR',
    ],
    ids=["half an emoji", "a byte of Latin-1", "raw line breaks", "a byte order mark", "broken off in the second"],
)
def test_an_image_that_is_there_is_not_lost_with_a_broken_rest(body: bytes) -> None:
    assert pictures(body % ENCODED.encode())[0] == Picture(b64_json=ALL_BYTES)


def test_a_pydantic_that_would_hand_on_base64_is_refused() -> None:
    code = "import pydantic; pydantic.VERSION = '2.8.2'\nfrom development.package import load_package\nload_package()\n"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "openai-dalle needs pydantic 2.9 or later; this is 2.8.2." in run.stderr


def test_millions_of_tiny_items_are_refused_before_they_unfold() -> None:
    with pytest.raises(ValueError, match="more in it than images"):
        ImagesResponse.parse(b'{"data": [' + b"{}," * (MAX_COMMAS + 1) + b"{}]}")


@pytest.mark.parametrize("item", ['{"url": "a"}', '{"b64_json": "*"}'])
def test_thousands_of_images_are_no_answer(item: str) -> None:
    with pytest.raises(ValueError):
        ImagesResponse.parse(b'{"data": [' + b",".join([item.encode()] * 1001) + b"]}")


@pytest.mark.parametrize(("n", "commas"), [(8, 3199), (10, 32_000)])
def test_a_prompt_of_commas_may_be_repeated_with_each_image(n: int, commas: int) -> None:
    item = {"b64_json": ENCODED, "revised_prompt": "," * commas}
    assert pictures({"data": [item] * n}) == (Picture(b64_json=ALL_BYTES),) * n


@pytest.mark.parametrize("blank", ["\\n", " ", "\\u0020", "\\u00e9"])
def test_a_long_text_does_not_hold_up_other_threads(blank: str) -> None:
    body = b'{"data": [{"b64_json": "' + blank.encode() * (12 * 2**20 // len(blank)) + b'"}]}'
    worker = threading.Thread(target=ImagesResponse.parse, args=(body,))
    worker.start()
    ticks = [time.perf_counter()]
    while worker.is_alive():
        time.sleep(0.001)
        ticks.append(time.perf_counter())
    gaps = [later - earlier for earlier, later in pairwise(ticks)]
    # 96 MiB take at most 0.6 s at a stretch; a regular expression takes more than 1 s for these 12 MiB.
    assert max(gaps) < 1


def test_the_repr_of_an_image_does_not_hold_its_bytes() -> None:
    assert "b64_json" not in repr(pictures({"data": [{"b64_json": ENCODED}]}))


@pytest.mark.parametrize(
    ("body", "message", "code"),
    [
        (b'{"error": {"message": "No.", "type": "t", "code": "c", "param": "p"}}', "No.", "c"),
        (b'{"error": {"message": "No.", "code": 400}}', "No.", "400"),
        (b'{"error": "model_not_found", "message": "No."}', "No.", "model_not_found"),
        (b'{"error": "No."}', "No.", ""),
        (b'{"detail": "No."}', "No.", ""),
        (b'{"detail": [{"loc": ["body", "n"], "msg": "N\xc3\xb6.", "input": "x"}]}', "body.n: Nö.", ""),
        (b'{"detail": [{"loc": null}, 7, {"msg": {"a": 1}}]}', '7; {"a": 1}', ""),
        (b'"No."', "No.", ""),
        (b"[1]", "1", ""),
        (b"null", "", ""),
        (b'{"error": null}', "", ""),
        (b'{"error": {"message": null}}', '{"message": null}', ""),
        (b"No.\n", "No.", ""),
        (b"<html><head><title> 502 Bad &amp; Gateway</title></head><p>nginx", "502 Bad & Gateway", ""),
        (b"<p>No <b>luck</b></p>", "No luck", ""),
        (b"<title></title><p>No</p>", "No", ""),
        (b'{"created": 1, "data": [{"b64_json": "iVBOR', "", ""),
        (b"\xff\xfe\x00", "", ""),
        (b"", "", ""),
        (b'{"error": {"message": "a\\u0000b\\u202ec\\ud800d", "code": "\\ud800"}}', "a b c d", ""),
    ],
)
def test_an_error_is_understood_in_every_shape(body: bytes, message: str, code: str) -> None:
    detail = ErrorDetail.parse(body)
    assert (detail.message.replace("\ufffd", "").strip(), detail.code) == (message, code)


PROMPTS = [
    'It\'s a "world" that does not exist',
    "best quality",
    "Safety system\nof a Zürich\tbank",
    "insufficient_quota",
    "an unknown model \\ billing hard limit",
]
ECHOES: dict[str, Callable[[str], object]] = {
    "FastAPI's list": lambda prompt: {"detail": [{"loc": ["body", "n"], "msg": "Bad.", "input": {"prompt": prompt}}]},
    "plain": lambda prompt: {"error": {"message": f"Cannot draw '{prompt}'."}},
    "stripped": lambda prompt: {"error": {"message": f"Cannot draw {prompt.strip()}."}},
    "as JSON": lambda prompt: {"error": {"message": f"Bad request: {json.dumps({'prompt': prompt})}"}},
    "as Python": lambda prompt: {"error": {"message": f"Bad request: { {'prompt': prompt} }"}},
    "by a gateway": lambda prompt: {
        "error": {
            "message": "litellm.BadRequestError: OpenAIException - "
            + json.dumps({"error": {"message": f"Cannot draw {json.dumps({'prompt': prompt})}"}})
        }
    },
}


@pytest.mark.parametrize("echo", ECHOES)
@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("status", [400, 404, 429, 500])
def test_the_words_of_the_prompt_do_not_decide(echo: str, prompt: str, status: int) -> None:
    words = prompt.replace("\\", "").split()
    detail = ErrorDetail.parse(json.dumps(ECHOES[echo](f" {prompt} ")).encode(), prompt=f" {prompt} ")
    assert not any(word in detail.message.split() for word in words if len(word) > 4)
    assert matching_case(status, detail).case is matching_case(status, ErrorDetail()).case


def test_a_prompt_inside_of_a_word_does_not_count() -> None:
    body = b'{"error": {"message": "The model `m` does not exist."}}'
    assert matching_case(404, ErrorDetail.parse(body, prompt="do")).case is Case.MODEL


@pytest.mark.parametrize(
    "piece", [b"<", b"<title>", b"<title ", b"[", b'{"error":', b" ", b"a", b"<a", b"&amp", b"&#", b"<title> "]
)
def test_a_hostile_error_body_takes_no_time(piece: bytes) -> None:
    started = time.process_time()
    ErrorDetail.parse(piece * (65_536 // len(piece)))
    assert time.process_time() - started < 1


@given(st.text(), st.integers(1, 50))
def test_shortened_is_one_printable_line(text: str, limit: int) -> None:
    line = shortened(text, limit)
    assert len(line) <= limit
    assert line.isprintable()
