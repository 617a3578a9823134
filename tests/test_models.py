"""The wire: what is sent, and what is understood of what comes back."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dalle2.errors import Case, matching_case
from dalle2.models import (
    MAX_COMMAS,
    MAX_DETAIL_CHARACTERS,
    ErrorDetail,
    ImageRequest,
    ImagesResponse,
    ModelList,
    Picture,
    shortened,
)

ALL_BYTES = bytes(range(256))
ENCODED = base64.b64encode(ALL_BYTES).decode()

# Anything that JSON can say, with the names and values that mean something here more often than by chance.
WORDS = st.sampled_from(["data", "b64_json", "url", "error", "message", "code", "detail", ENCODED, "data:,", "\ud800"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS | st.text(), inner, max_size=4),
    max_leaves=12,
)
BODIES = st.binary() | JSON.map(lambda value: json.dumps(value).encode())


def test_fields_that_are_none_are_not_sent() -> None:
    request = ImageRequest(prompt="a", model=None, n=2, size="256x256")
    assert request.fields() == {"prompt": "a", "n": 2, "size": "256x256"}


def test_a_request_with_a_field_replaced_is_another_request() -> None:
    request = ImageRequest(prompt="a", model="m", n=1, size="256x256", quality="low")
    assert "quality" not in request.replacing("quality", None).fields()
    assert request.replacing("size", "512x512").fields()["size"] == "512x512"
    assert (request.quality, request.size) == ("low", "256x256")


def pictures(body: object) -> tuple[Picture, ...]:
    return ImagesResponse.parse(body if isinstance(body, bytes) else json.dumps(body).encode()).data


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        ({"b64_json": ENCODED}, Picture(b64_json=ALL_BYTES)),
        ({"b64_json": ENCODED, "url": None, "revised_prompt": None}, Picture(b64_json=ALL_BYTES)),
        ({"b64_json": "\n".join([ENCODED[:76], ENCODED[76:], ""])}, Picture(b64_json=ALL_BYTES)),
        ({"b64_json": f"{ENCODED[:9]} \t\r{ENCODED[9:]}"}, Picture(b64_json=ALL_BYTES)),
        ({"b64_json": f"data:image/png;base64,{ENCODED}"}, Picture(b64_json=ALL_BYTES)),
        ({"url": f"data:image/png;base64,{ENCODED}"}, Picture(b64_json=ALL_BYTES)),
        ({"url": "https://example.com/a,b.png"}, Picture(url="https://example.com/a,b.png")),
        ({"b64_json": "", "url": "/a.png"}, Picture(b64_json=b"", url="/a.png")),
        ({"b64_json": "%%%", "url": "/a.png"}, Picture(url="/a.png")),
        ({"b64_json": 7, "url": "/a.png"}, Picture(url="/a.png")),
    ],
)
def test_an_image_comes_in_many_wrappings(item: dict[str, Any], expected: Picture) -> None:
    assert pictures({"created": 1, "data": [item]}) == (expected,)


def test_broken_base64_does_not_cost_the_other_images() -> None:
    broken, good = pictures({"data": [{"b64_json": "%%%"}, {"b64_json": ENCODED}]})
    assert (broken.b64_json, broken.url) == (None, None)
    assert good.b64_json == ALL_BYTES


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b'{"data": null}',
        b'{"data": [{"b64_json": "' + ENCODED.encode(),
        b"<html></html>",
        b"\xff\xfe",
        b"9" * 5000,
    ],
)
def test_anything_else_is_a_value_error(body: bytes) -> None:
    with pytest.raises(ValueError):
        ImagesResponse.parse(body)


@pytest.mark.parametrize("item", [1, None, [], "x", {"url": 1}, {"b64_json": 1}])
def test_an_item_that_is_no_image_does_not_cost_the_others(item: object) -> None:
    found = [picture for picture in pictures({"data": [item, {"b64_json": ENCODED}]}) if picture != Picture()]
    assert found == [Picture(b64_json=ALL_BYTES)]


@pytest.mark.parametrize("body", [b"[" * 100_000, b'{"data":' * 100_000])
def test_endless_nesting_ends(body: bytes) -> None:
    with pytest.raises((ValueError, RecursionError)):
        ImagesResponse.parse(body)


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


@settings(derandomize=True, deadline=None, max_examples=300)
@given(BODIES)
def test_a_response_parses_or_is_a_value_error(body: bytes) -> None:
    try:
        answer = ImagesResponse.parse(body)
    except ValueError:
        return
    assert all(isinstance(picture.b64_json, bytes | None) for picture in answer.data)


def test_the_repr_of_an_image_does_not_hold_its_bytes() -> None:
    assert ENCODED[:8] not in repr(pictures({"data": [{"b64_json": ENCODED}]}))
    assert "b64_json" not in repr(pictures({"data": [{"b64_json": ENCODED}]}))


def test_a_list_of_models_may_be_incomplete() -> None:
    body = b'{"data": [{"id": "a", "created": null, "owned_by": null}, {"id": "b", "created": 1.5}, {"id": "c"}]}'
    assert [entry.id for entry in ModelList.model_validate_json(body).data] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("body", "message", "code"),
    [
        (b'{"error": {"message": "No.", "type": "t", "code": "c", "param": "p"}}', "No.", "c"),
        (b'{"error": {"message": "No.", "code": 400}}', "No.", "400"),
        (b'{"error": "Forbidden", "message": "No."}', "No.", ""),
        (b'{"error": "No."}', "No.", ""),
        (b'{"detail": "No."}', "No.", ""),
        (b'{"detail": [{"loc": ["body", "n"], "msg": "N\xc3\xb6.", "input": "x"}]}', "body.n: Nö.", ""),
        (b'{"detail": [{"loc": null}, 7, {"msg": {"a": 1}}]}', '7; {"a": 1}', ""),
        (b'"No."', "No.", ""),
        (b"[1]", "1", ""),
        (b"null", "", ""),
        (b"{}", "", ""),
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


@pytest.mark.parametrize(
    "body",
    [
        b'{"error": {"message": "m", "type": "t", "code": "c", "param": "model"}}',
        b'{"detail": [{"type": "missing", "loc": ["body", "model"], "msg": "m"}, {"loc": ["body", "n"]}]}',
    ],
)
def test_the_field_that_an_error_is_about_is_kept(body: bytes) -> None:
    assert ErrorDetail.parse(body).param == "model"


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
@pytest.mark.parametrize("status", [400, 404, 422, 429, 500])
def test_the_words_of_the_prompt_do_not_decide(echo: str, prompt: str, status: int) -> None:
    words = prompt.replace("\\", "").split()
    detail = ErrorDetail.parse(json.dumps(ECHOES[echo](f" {prompt} ")).encode(), prompt=f" {prompt} ")
    assert not any(word in detail.message.split() for word in words if len(word) > 4)
    assert matching_case(status, detail).case is matching_case(status, ErrorDetail()).case


def test_a_prompt_inside_of_a_word_does_not_count() -> None:
    body = b'{"error": {"message": "The model `m` does not exist."}}'
    assert matching_case(404, ErrorDetail.parse(body, prompt="do")).case is Case.MODEL


@pytest.mark.parametrize("field", ["message", "type", "code", "param"])
def test_a_secret_is_taken_out_of_every_field_before_it_is_cut(field: str) -> None:
    secret = "s3cr3t-" * 5
    padding = "x" * (MAX_DETAIL_CHARACTERS - 10)
    body = json.dumps({"error": {field: padding + secret}}).replace("-", "\\u002d").encode()
    detail = ErrorDetail.parse(body, lambda text: text.replace(secret, "***"))
    assert getattr(detail, field).endswith("***")
    assert "s3cr3t" not in repr(detail)


@settings(derandomize=True, deadline=None, max_examples=300)
@given(BODIES)
def test_an_error_body_never_raises_and_stays_short(body: bytes) -> None:
    detail = ErrorDetail.parse(body)
    for text in (detail.message, detail.type, detail.code, detail.param):
        assert len(text) <= MAX_DETAIL_CHARACTERS
        assert text.isprintable()


@pytest.mark.parametrize(
    "piece", [b"<", b"<title>", b"<title ", b"[", b'{"error":', b" ", b"a", b"<a", b"&amp", b"&#", b"<title> "]
)
def test_a_hostile_error_body_takes_no_time(piece: bytes) -> None:
    started = time.process_time()
    ErrorDetail.parse(piece * (65_536 // len(piece)))
    assert time.process_time() - started < 1


@settings(derandomize=True, deadline=None)
@given(st.text(), st.integers(1, 50))
def test_shortened_is_one_printable_line(text: str, limit: int) -> None:
    line = shortened(text, limit)
    assert len(line) <= limit
    assert line.isprintable()
