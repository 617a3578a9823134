"""Which model is asked, what is left out for a server that refuses it, and what is remembered."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from dalle2 import stand_ins
from dalle2.api_client import Answer, ImagesClient
from dalle2.backends import STAND_INS, Backend, PromptTooLong
from dalle2.errors import StatusError
from dalle2.retry import Retrier
from dalle2.stand_ins import Order, ask
from development.emulator import Emulator, Fault
from tests.loopback import KEY, Loopback, Script, answering, encoded, http
from tests.pictures import png

ORDER = Order("a harbour", 1, 256)
ANSWER = http({"data": [encoded(png())]})


@pytest.fixture(scope="module")
def running() -> Iterator[Emulator]:
    with Emulator(api_key=KEY) as emulator:
        yield emulator


@pytest.fixture
def emulator(running: Emulator) -> Emulator:
    running.reset()
    running.answer_size = (32, 32)
    return running


def backend(base_url: str, *, fixed: str = "", hosted: bool = False, account: str = "me") -> Backend:
    return Backend(
        name="openai",
        base_url=base_url,
        headers={"Authorization": f"Bearer {KEY}"},
        account=account,
        params={},
        models=(fixed,) if fixed else STAND_INS["hosted" if hosted else "elsewhere"],
        fixed=bool(fixed),
        quality="low",
        timeouts_s=(5, 5),
        hosted=hosted,
    )


def call(base_url: str, order: Order = ORDER, **more: Any) -> Answer:
    chosen = backend(base_url, **more)
    retrier = Retrier(pause=lambda seconds: False)
    with ImagesClient(base_url, headers=chosen.headers, read_timeout_s=5, retrier=retrier) as client:
        return ask(client, chosen, order)


def asked(emulator: Emulator) -> list[str | None]:
    """The models of the requests so far, in order."""
    return [request.fields.get("model") for request in emulator.posts]


def test_a_server_that_has_the_old_model_is_asked_for_nothing_else() -> None:
    with Emulator(api_key=KEY, models=["dall-e-2"]) as emulator:
        assert call(emulator.base_url).request.model == "dall-e-2"
        assert asked(emulator) == ["dall-e-2"]
        assert [request.method for request in emulator.requests] == ["POST"]


def test_the_next_of_the_table_stands_in_and_is_remembered(emulator: Emulator) -> None:
    assert call(emulator.base_url).request.model == "gpt-image-2"
    assert call(emulator.base_url).request.model == "gpt-image-2"
    assert asked(emulator) == ["dall-e-2", "gpt-image-2", "gpt-image-2"]
    assert emulator.paid_pictures == 2


def test_after_the_table_comes_the_newest_that_the_server_lists() -> None:
    models = {"gpt-image-3-flare": 30, "gpt-image-4": 40, "gpt-image-3": 31, "gpt-5": 99, "dall-e-9": 98}
    with Emulator(api_key=KEY, models=models) as emulator:
        assert call(emulator.base_url, hosted=True).request.model == "gpt-image-4"
        assert call(emulator.base_url, hosted=True).request.model == "gpt-image-4"
        assert asked(emulator) == [*STAND_INS["hosted"], "gpt-image-4", "gpt-image-4"]
        assert [request.path for request in emulator.requests].count("/v1/models") == 1


def test_a_model_that_is_retired_meanwhile_is_replaced(emulator: Emulator) -> None:
    call(emulator.base_url, hosted=True)
    emulator.fail(Fault("model_not_found"))
    assert call(emulator.base_url, hosted=True).request.model == "gpt-image-2.5-flare"
    assert asked(emulator) == ["gpt-image-2", "gpt-image-2", "gpt-image-2.5-flare"]


def test_a_prompt_that_is_too_long_for_the_first_model_goes_to_one_that_takes_it(emulator: Emulator) -> None:
    answer = call(emulator.base_url, order=Order("long " * 201, 1, 256))
    assert answer.request.model == "gpt-image-2"
    assert asked(emulator) == ["gpt-image-2"]
    assert call(emulator.base_url).request.model == "gpt-image-2"
    assert asked(emulator)[1:] == ["dall-e-2", "gpt-image-2"]


def test_a_prompt_that_is_too_long_for_every_model_of_the_server_is_refused_at_no_cost() -> None:
    with Emulator(api_key=KEY, models=["dall-e-2"]) as emulator:
        with pytest.raises(PromptTooLong, match="The prompt has 1005 characters, and dall-e-2 takes up to 1000"):
            call(emulator.base_url, order=Order("long " * 201, 1, 256))
        assert emulator.paid_pictures == 0 and "dall-e-2" not in asked(emulator)


@pytest.mark.parametrize(("options", "length"), [({}, 32_001), ({"fixed": "dall-e-2"}, 1001)])
def test_a_prompt_that_no_model_takes_is_refused_before_anything_is_sent(
    emulator: Emulator, options: dict[str, str], length: int
) -> None:
    with pytest.raises(PromptTooLong):
        call(emulator.base_url, order=Order("x" * length, 1, 256), **options)
    assert not emulator.requests


def test_a_model_that_the_user_named_is_never_replaced(emulator: Emulator) -> None:
    with pytest.raises(StatusError, match="DALLE2_MODEL") as caught:
        call(emulator.base_url, fixed="gpt-image-7")
    assert "Asked for: gpt-image-7. Nothing was charged." in str(caught.value)
    assert asked(emulator) == ["gpt-image-7"]


def test_a_model_that_the_user_named_is_not_remembered_for_auto(emulator: Emulator) -> None:
    call(emulator.base_url, fixed="gpt-image-1-mini", hosted=True)
    assert call(emulator.base_url, hosted=True).request.model == "gpt-image-2"


def test_when_no_model_is_there_the_error_names_all_that_were_asked_for() -> None:
    with Emulator(api_key=KEY, models=["flux"]) as emulator, pytest.raises(StatusError) as caught:
        call(emulator.base_url, hosted=True)
    assert f"Asked for: {', '.join(STAND_INS['hosted'])}." in str(caught.value)


@pytest.mark.parametrize("server", ["litellm", "localai", "openai"])
def test_a_server_that_has_none_and_wants_one_named_is_told_of_as_one_without_the_model(server: str) -> None:
    with Emulator(server, api_key=KEY, models=["flux"]) as emulator, pytest.raises(StatusError) as caught:
        call(emulator.base_url)
    assert "Set DALLE2_MODEL to a model that it has" in str(caught.value)
    assert f"Asked for: {', '.join(STAND_INS['elsewhere'])}, no model named." in str(caught.value)


def test_the_newest_that_is_listed_is_one_that_was_not_asked_for_yet() -> None:
    script = listing("gpt-image-2", "gpt-image-9", "gpt-image-8")
    with Loopback(script) as server, pytest.raises(StatusError):
        call(server.origin, hosted=True)
    bodies = [json.loads(request.partition(b"\r\n\r\n")[2]) for request in server.requests if b"POST" in request[:4]]
    assert [body["model"] for body in bodies] == [*STAND_INS["hosted"], "gpt-image-9"]


def listing(*models: str) -> Script:
    """A script of a server that lists models, newest first, and says of each that it does not exist."""
    entries = [{"id": name, "created": -place} for place, name in enumerate(models)]

    def script(connection: Any) -> None:
        is_list = connection.request().startswith(b"GET")
        missing = http({"error": {"message": "It does not exist.", "code": "model_not_found"}}, 404)
        connection.send(http({"data": entries}) if is_list else missing)

    return script


def test_a_server_that_takes_very_long_to_say_no_is_asked_for_no_further_model(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stand_ins, "MAX_ELAPSED_S", -1)
    with pytest.raises(StatusError, match=r"Asked for: dall-e-2\."):
        call(emulator.base_url)
    assert asked(emulator) == ["dall-e-2"]


def test_another_error_is_not_a_missing_model(emulator: Emulator) -> None:
    emulator.fail(Fault("quota"))
    with pytest.raises(StatusError):
        call(emulator.base_url)
    assert asked(emulator) == ["dall-e-2"]


def test_a_server_with_one_model_draws_when_none_is_named() -> None:
    with Emulator("vllm") as emulator:
        assert call(emulator.base_url).request.model is None
        assert call(emulator.base_url).request.model is None
        assert asked(emulator)[-2:] == [None, None]
        assert len(emulator.posts) == len(STAND_INS["elsewhere"]) + 2


@pytest.mark.parametrize(("account", "times"), [("me", 1), ("you", 2)])
def test_what_one_account_has_another_may_not(account: str, times: int, emulator: Emulator) -> None:
    call(emulator.base_url)
    call(emulator.base_url, account=account)
    assert asked(emulator).count("dall-e-2") == times


REFUSALS = [
    {"error": {"message": "Unknown parameter: 'FIELD'.", "param": "FIELD", "code": "unknown_parameter"}},
    {"error": {"message": "Unsupported parameter: 'FIELD' is not supported with this model."}},
    {"error": {"message": "Unrecognized request argument supplied: FIELD"}},
    {"error": {"message": "litellm.UnsupportedParamsError: openai does not support parameters: ['FIELD']"}},
    {"detail": [{"type": "extra_forbidden", "loc": ["body", "FIELD"], "msg": "Extra inputs are not permitted"}]},
    {"error": "generate() got an unexpected keyword argument 'FIELD'"},
]
WRONG_VALUES = [
    {"error": {"message": "Invalid value: 'low'.", "param": "quality", "code": "invalid_value"}},
    {"error": {"message": "Unsupported value: 'quality' does not support 'low' with this model."}},
    {"detail": "quality should be one of standard, hd"},
    {"detail": [{"loc": ["body", "quality"], "msg": "unexpected value; permitted: 'standard', 'hd'"}]},
]


@pytest.mark.parametrize("refusal", REFUSALS)
@pytest.mark.parametrize(("field", "model"), [("response_format", "dall-e-2"), ("quality", "gpt-image-2")])
def test_a_field_that_is_refused_by_name_is_left_out_and_that_is_remembered(
    refusal: dict[str, object], field: str, model: str
) -> None:
    body = http(json.dumps(refusal).replace("FIELD", field), 400)
    with Loopback(answering(body, ANSWER)) as server:
        assert field not in call(server.origin, fixed=model).request.fields()
        assert field not in call(server.origin, fixed=model).request.fields()
    assert [f'"{field}"'.encode() in request for request in server.requests] == [True, False, False]


def test_a_field_is_not_remembered_as_refused_when_leaving_it_out_did_not_help() -> None:
    misread = http({"error": {"message": "Unsupported image: its quality could not be read."}}, 400)
    with Loopback(answering(misread, misread, ANSWER)) as server:
        with pytest.raises(StatusError):
            call(server.origin, fixed="gpt-image-2")
        assert call(server.origin, fixed="gpt-image-2").request.quality == "low"


@pytest.mark.parametrize("refusal", WRONG_VALUES)
def test_a_quality_whose_value_is_refused_is_never_left_out(refusal: dict[str, object]) -> None:
    with Loopback(answering(http(refusal, 400), ANSWER)) as server:
        with pytest.raises(StatusError):
            call(server.origin, fixed="gpt-image-2")
    assert len(server.requests) == 1


def test_a_response_format_whose_value_is_refused_is_left_out() -> None:
    body = {"error": {"message": "Only 'url' is supported.", "param": "response_format", "code": "invalid_value"}}
    with Loopback(answering(http(body, 400), ANSWER)) as server:
        call(server.origin, fixed="dall-e-2")
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"message": "Unknown parameter: 'n'.", "param": "n", "code": "unknown_parameter"}},
        {"error": {"message": "Unknown parameter: 'quality'.", "param": "quality"}},  # which was not sent
        {"error": {"message": "Moderation of quality", "code": "moderation_blocked"}},
    ],
)
def test_what_was_not_sent_or_is_not_optional_is_an_error(body: dict[str, object]) -> None:
    with Loopback(answering(http(body, 400), ANSWER)) as server:
        with pytest.raises(StatusError):
            call(server.origin, fixed="dall-e-2")
    assert len(server.requests) == 1


def test_a_server_that_refuses_everything_is_asked_no_more_often_than_there_are_fields() -> None:
    body = {"error": {"message": "unknown: response_format quality"}}
    with Loopback(answering(http(body, 400))) as server:
        with pytest.raises(StatusError):
            call(server.origin, fixed="dall-e-2")
    assert len(server.requests) == 2


class FakeEdit:
    """An edit whose files are known."""

    def files(self, *, opaque: bool, max_bytes: int) -> tuple[bytes, bytes]:
        return f"opaque={opaque} max={max_bytes}".encode(), b"mask"


def owned(owner: str | None) -> bytes:
    return http({"data": [{"id": "m", "owned_by": owner}]})


@pytest.mark.parametrize(
    ("listed", "field"),
    [
        (owned("vllm"), b"mask_image"),
        (owned("vllm-omni"), b"mask_image"),
        (owned("system"), b"mask"),
        (owned(None), b"mask"),
        (http({"data": []}), b"mask"),
        (http("Not Found", 404), b"mask"),
        (http("junk"), b"mask"),
    ],
)
def test_the_mask_has_the_name_that_its_server_gives_it(listed: bytes, field: bytes) -> None:
    order = Order("a", 1, 256, FakeEdit())  # type: ignore[arg-type]
    with Loopback(by_method(listed)) as server:
        call(server.origin, order)
        call(server.origin, order)
    lists = [request for request in server.requests if request.startswith(b"GET")]
    edits = [request for request in server.requests if request.startswith(b"POST")]
    assert len(lists) == 1  # also when there is none
    assert all(b'name="%s"; filename="mask.png"' % field in request for request in edits)
    assert len(edits) == 2


def by_method(listed: bytes) -> Script:
    """A script of a server that answers GET with a list and POST with a picture."""

    def script(connection: Any) -> None:
        connection.send(listed if connection.request().startswith(b"GET") else ANSWER)

    return script


@pytest.mark.parametrize("no_list_yet", [b"", http("loading", 503), http("slow down", 429)])
def test_a_list_that_may_come_later_is_asked_for_again(no_list_yet: bytes) -> None:
    order = Order("a", 1, 256, FakeEdit())  # type: ignore[arg-type]
    answers = [no_list_yet, ANSWER, owned("vllm"), ANSWER]
    with Loopback(answering(*answers)) as server:
        call(server.origin, order)
        call(server.origin, order)
    assert [request[:4] for request in server.requests] == [b"GET ", b"POST", b"GET ", b"POST"]
    assert b'name="mask_image"' in server.requests[-1]


def test_the_files_are_those_of_the_dialect() -> None:
    order = Order("a", 1, 256, FakeEdit())  # type: ignore[arg-type]
    with Loopback(by_method(owned(""))) as server:
        call(server.origin, order, fixed="dall-e-2")
        call(server.origin, order, fixed="gpt-image-2")
    assert [b"opaque=True" in request for request in server.requests if request.startswith(b"POST")] == [False, True]


def test_many_threads_may_ask_at_once(emulator: Emulator) -> None:
    models: list[str | None] = []
    threads = [threading.Thread(target=lambda: models.append(call(emulator.base_url).request.model)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert models == ["gpt-image-2"] * 6
    assert len(stand_ins._memories) == 1
