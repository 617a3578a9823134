"""Which model is asked, what is left out for a server that rejects it, and what is remembered."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from dalle2.api_client import Answer, ImagesClient
from dalle2.backends import DalleRequest
from dalle2.errors import StatusError
from dalle2.generation.fallback import Fallback, Job, ServerMemory
from dalle2.generation.inpainting import edits_of
from dalle2.image_models import GPT_IMAGE_MODELS, MODELS_ELSEWHERE
from dalle2.net.retry import Retrier
from tests.loopback import KEY, Connection, Loopback, Script, answering, backend_at, encoded, http
from tests.pictures import png

IMAGE = http({"data": [encoded(png())]})
MISSING = http({"error": {"message": "The model does not exist.", "code": "model_not_found"}}, 404)
NO_LIST = http("Not Found", 404)
ELSEWHERE = MODELS_ELSEWHERE["dall-e-2"]


class Models:
    """A script of a server that has these models, lists others if told to, and answers `unnamed` without a name."""

    def __init__(self, *models: str, lists: Sequence[dict[str, Any]] | None = None, unnamed: bytes = MISSING) -> None:
        self.models = models
        self.lists = [{"id": model} for model in models] if lists is None else lists
        self.unnamed = unnamed

    def __call__(self, connection: Connection) -> None:
        request = connection.request()
        if request.startswith(b"GET"):
            connection.send(http({"data": self.lists}))
            return
        model = fields(request).get("model")
        known = IMAGE if model in self.models else MISSING
        connection.send(known if model else self.unnamed)


def fields(request: bytes) -> dict[str, Any]:
    """The JSON of a request."""
    body: dict[str, Any] = json.loads(request.partition(b"\r\n\r\n")[2])
    return body


def asked(server: Loopback) -> list[str | None]:
    """The models of the requests so far, in order."""
    return [fields(request).get("model") for request in server.requests if request.startswith(b"POST")]


def lists(server: Loopback) -> int:
    """How often the server was asked for its list of models."""
    return sum(request.startswith(b"GET") for request in server.requests)


class Caller:
    """Asks one server as the node does, and remembers what is found."""

    def __init__(self, server: Loopback, *, hosted: bool = False) -> None:
        self.memory = ServerMemory()
        self._server = server
        self._hosted = hosted

    def ask(self, prompt: str = "a harbour", *, fixed: str | None = None, account: str = "me", **asked: Any) -> Answer:
        edit = asked.pop("edit", None)
        job = Job(DalleRequest(**{"original": "dall-e-2", "prompt": prompt, "n": 1, "size": (256, 256), **asked}), edit)
        backend = backend_at(self._server.origin, account=account, fixed_model=fixed, hosted=self._hosted)
        client = ImagesClient(backend, Retrier(pause=lambda seconds: None))
        return Fallback(client, backend, self.memory.of(backend)).ask(job, lambda model: None)


def test_the_next_known_model_replaces_it_and_is_remembered() -> None:
    with Loopback(Models("gpt-image-2")) as server:
        caller = Caller(server)
        assert [caller.ask().request.model for _ in range(2)] == ["gpt-image-2"] * 2
    assert asked(server) == ["dall-e-2", "gpt-image-2", "gpt-image-2"]
    assert not lists(server)


def test_a_key_in_place_of_a_model_is_not_shown() -> None:
    with Loopback(Models("gpt-image-2")) as server, pytest.raises(StatusError) as raised:
        Caller(server).ask(fixed=KEY)
    assert KEY not in str(raised.value)


def test_after_the_known_models_comes_the_newest_that_is_listed() -> None:
    created = {"gpt-image-3-flare": None, "gpt-image-4": 40.5, "gpt-image-3": 31, "gpt-5": 99, "dall-e-9": 98}
    listed = [{"id": name, "created": moment} for name, moment in created.items()]
    with Loopback(Models("gpt-image-4", lists=listed)) as server:
        caller = Caller(server, hosted=True)
        assert [caller.ask().request.model for _ in range(2)] == ["gpt-image-4"] * 2
    assert asked(server) == [*GPT_IMAGE_MODELS, "gpt-image-4", "gpt-image-4"]
    assert lists(server) == 1


def test_a_model_that_is_retired_meanwhile_is_replaced() -> None:
    script = Models("gpt-image-2")
    with Loopback(script) as server:
        caller = Caller(server, hosted=True)
        caller.ask()
        script.models = ("gpt-image-2.5-flare",)
        assert caller.ask().request.model == "gpt-image-2.5-flare"
    assert asked(server) == ["gpt-image-2", "gpt-image-2", "gpt-image-2.5-flare"]


def test_a_model_that_the_user_named_is_not_remembered_for_auto() -> None:
    with Loopback(Models("gpt-image-1-mini", "gpt-image-2")) as server:
        caller = Caller(server, hosted=True)
        caller.ask(fixed="gpt-image-1-mini")
        assert caller.ask().request.model == "gpt-image-2"


@pytest.mark.parametrize(
    ("listed", "found"),
    [
        ([{"id": "sd-turbo", "owned_by": "somebody"}], "sd-turbo"),
        ([{"id": "llm"}, {"id": "sd-turbo", "model_type": "image"}, {"id": "tts", "model_type": "audio"}], "sd-turbo"),
        ([{"id": "llm"}, {"id": "sd-turbo", "modality": "image/generation"}], "sd-turbo"),
        ([], None),  # it draws when no model is named
    ],
)
def test_auto_finds_the_only_model_of_a_server(listed: list[dict[str, Any]], found: str | None) -> None:
    script = Models(found, lists=listed) if found else Models(unnamed=IMAGE)
    with Loopback(script) as server:
        caller = Caller(server)
        assert [caller.ask().request.model for _ in range(2)] == [found] * 2
    assert asked(server) == [*ELSEWHERE, found, found]


# How Xinference and LiteLLM say that a request needs a model.
FIELD_REQUIRED = http("1 validation error for TextToImageRequest model field required", 500)
NOT_PASSED = http({"error": {"message": "you must provide a model parameter", "param": "None"}}, 400)


@pytest.mark.parametrize("unnamed", [FIELD_REQUIRED, NOT_PASSED])
def test_where_several_models_are_listed_the_error_names_them(unnamed: bytes) -> None:
    listed = [{"id": f"sd-{place}", "model_type": "image"} for place in range(10)]
    with Loopback(Models(lists=listed, unnamed=unnamed)) as server, pytest.raises(StatusError) as caught:
        Caller(server).ask()
    text = str(caught.value)
    assert "Set DALLE2_MODEL to a model that it has" in text
    assert f"Asked for: {', '.join([*ELSEWHERE, 'no model named'])}." in text
    assert "It has: sd-0, sd-1, sd-2, sd-3, sd-4, sd-5, sd-6, sd-7, ...." in text
    assert asked(server) == [*ELSEWHERE, None]


def test_a_model_that_is_added_after_an_error_is_found() -> None:
    script = Models()
    with Loopback(script) as server:
        caller = Caller(server)
        with pytest.raises(StatusError):
            caller.ask()
        script.models, script.lists = ("sd-turbo",), [{"id": "sd-turbo"}]
        assert caller.ask().request.model == "sd-turbo"


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (429, {"message": "You exceeded your current quota", "code": "insufficient_quota"}),
        (400, {"message": "Invalid prompt: a world that does not exist"}),
    ],
)
def test_another_error_is_not_a_missing_model(status: int, error: dict[str, str]) -> None:
    with Loopback(answering(http({"error": error}, status))) as server, pytest.raises(StatusError):
        Caller(server).ask("a world that does not exist")
    assert asked(server) == ["dall-e-2"]


@pytest.mark.parametrize(("account", "times"), [("me", 1), ("you", 2)])
def test_what_is_remembered_belongs_to_one_account(account: str, times: int) -> None:
    with Loopback(Models("gpt-image-2")) as server:
        caller = Caller(server)
        caller.ask()
        caller.ask(account=account)
    assert asked(server).count("dall-e-2") == times


REFUSALS = [
    {"error": {"message": "Unknown parameter: 'FIELD'.", "param": "FIELD", "code": "unknown_parameter"}},
    {"error": {"message": "Unsupported parameter: 'FIELD' is not supported with this model."}},
    {"error": {"message": "litellm.UnsupportedParamsError: openai does not support parameters: ['FIELD']"}},
    {"detail": [{"type": "extra_forbidden", "loc": ["body", "FIELD"], "msg": "Extra inputs are not permitted"}]},
    {"error": "generate() got an unexpected keyword argument 'FIELD'"},
]
WRONG_QUALITIES = [
    {"error": {"message": "Invalid value: 'low'.", "param": "quality", "code": "invalid_value"}},
    {"error": {"message": "Unsupported value: 'quality' does not support 'low' with this model."}},
    {"detail": "quality must be one of ['exact', 'lossless', 'high', 'extra-high'], got 'low'"},  # SGLang
    {"detail": [{"loc": ["body", "quality"], "msg": "unexpected value; permitted: 'standard', 'hd'"}]},
]


WRONG_FORMATS = [{"error": {"message": "Only 'url' is supported as response_format"}}]


@pytest.mark.parametrize(
    ("field", "hosted", "refusals"),
    [
        ("response_format", False, REFUSALS + WRONG_FORMATS),
        ("quality", False, REFUSALS + WRONG_QUALITIES),
        ("quality", True, REFUSALS),
    ],
)
def test_a_field_that_is_refused_is_left_out_and_that_is_remembered(
    field: str, hosted: bool, refusals: list[dict[str, object]]
) -> None:
    for refusal in refusals:
        body = http(json.dumps(refusal).replace("FIELD", field), 400)
        with Loopback(answering(body, IMAGE)) as server:
            caller = Caller(server, hosted=hosted)
            for _ in range(2):
                assert field not in caller.ask(fixed="gpt-image-2").request.fields(), refusal
        assert [field in fields(request) for request in server.requests] == [True, False, False], refusal


@pytest.mark.parametrize("refusal", WRONG_QUALITIES)
def test_a_hosted_server_s_quality_is_never_left_out_for_its_value(refusal: dict[str, object]) -> None:
    with Loopback(answering(http(refusal, 400), IMAGE)) as server, pytest.raises(StatusError):
        Caller(server, hosted=True).ask(fixed="gpt-image-2")
    assert len(server.requests) == 1


@pytest.mark.parametrize("hosted", [True, False])
@pytest.mark.parametrize(
    "message",
    [
        "Invalid prompt: best quality",
        "Unsupported image: its quality could not be read.",
        "The request is not supported right now: {'prompt': 'best quality'}",
        "Unrecognized request argument supplied: quality",
    ],
)
def test_the_word_quality_in_a_message_changes_nothing(message: str, hosted: bool) -> None:
    with Loopback(answering(http({"error": {"message": message}}, 400), IMAGE)) as server:
        caller = Caller(server, hosted=hosted)
        with pytest.raises(StatusError):
            caller.ask("best quality", fixed="gpt-image-2")
        assert caller.ask(fixed="gpt-image-2").request.quality == "low"
    assert len(server.requests) == 2


def test_a_field_counts_as_refused_only_when_leaving_it_out_helped() -> None:
    misread = http({"error": {"message": "Unsupported: 'quality'"}}, 400)
    with Loopback(answering(misread, misread, IMAGE)) as server:
        caller = Caller(server)
        with pytest.raises(StatusError):
            caller.ask(fixed="gpt-image-2")
        assert caller.ask(fixed="gpt-image-2").request.quality == "low"


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"message": "Unknown parameter: 'n'.", "param": "n", "code": "unknown_parameter"}},
        {"error": {"message": "Unknown parameter: 'quality'.", "param": "quality"}},  # which was not sent
        {"error": {"message": "'response_format'", "code": "moderation_blocked"}},
    ],
)
def test_what_was_not_sent_or_is_not_optional_stays_an_error(body: dict[str, object]) -> None:
    with Loopback(answering(http(body, 400), IMAGE)) as server, pytest.raises(StatusError):
        Caller(server).ask(fixed="dall-e-2")
    assert len(server.requests) == 1


def test_a_server_that_refuses_every_field_is_asked_once_for_each() -> None:
    body = {"error": {"message": "unknown: 'response_format' 'quality'"}}
    with Loopback(answering(http(body, 400))) as server, pytest.raises(StatusError):
        Caller(server).ask(fixed="gpt-image-2")
    assert len(server.requests) == 3


@pytest.mark.parametrize("refusal", [{"param": "size"}, {"message": "'1024x1792' is not one of ['1024x1536']"}])
def test_a_size_that_is_refused_is_replaced_by_the_nearest(refusal: dict[str, str]) -> None:
    body = http({"error": {"message": "Invalid value.", **refusal}}, 400)
    with Loopback(answering(body, IMAGE)) as server:
        Caller(server, hosted=True).ask(fixed="gpt-image-1", original="dall-e-3", size=(1024, 1792))
    assert [fields(request)["size"] for request in server.requests] == ["1024x1792", "1024x1536"]


def edit() -> Any:
    """An image of 64x64 pixels with alpha, to edit in its middle."""
    mask = torch.zeros(1, 64, 64)
    mask[:, 16:48, 16:48] = 1
    return edits_of(torch.full((1, 64, 64, 4), 0.5), mask, 256)[0]


def by_method(listed: bytes) -> Script:
    """A script of a server that answers GET with a list and POST with an image."""

    def script(connection: Connection) -> None:
        connection.send(listed if connection.request().startswith(b"GET") else IMAGE)

    return script


def owned(owner: str | None) -> bytes:
    return http({"data": [{"id": "m", "owned_by": owner}]})


@pytest.mark.parametrize(
    ("listed", "name"),
    [
        (owned("vllm"), b"mask_image"),
        (owned("vllm-omni"), b"mask_image"),
        (owned("system"), b"mask"),
        (owned(None), b"mask"),
        (NO_LIST, b"mask"),
    ],
)
def test_the_mask_has_the_name_that_its_server_gives_it(listed: bytes, name: bytes) -> None:
    with Loopback(by_method(listed)) as server:
        caller = Caller(server)
        for _ in range(2):
            caller.ask(edit=edit())
    edits = [request for request in server.requests if request.startswith(b"POST")]
    assert [re.findall(rb'name="(mask\w*)"; filename="mask.png"', request) for request in edits] == [[name], [name]]
    assert lists(server) == 1  # also when there is none


@pytest.mark.parametrize("no_list_yet", [b"", http("loading", 503), http("slow down", 429)])
def test_a_list_that_may_come_later_is_asked_for_again(no_list_yet: bytes) -> None:
    with Loopback(answering(no_list_yet, IMAGE, owned("vllm"), IMAGE)) as server:
        caller = Caller(server)
        for _ in range(2):
            caller.ask(edit=edit())
    assert [request[:4] for request in server.requests] == [b"GET ", b"POST", b"GET ", b"POST"]
    assert b'name="mask_image"' in server.requests[-1]
