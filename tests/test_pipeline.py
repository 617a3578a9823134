"""From orders to pictures: what is paid for is delivered, once, whatever comes in between."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextvars import copy_context
from typing import Any

import pytest
import torch

from dalle2 import drawing, image_codec, runs
from dalle2.api_client import Answer
from dalle2.drawing import Drawn, as_batch, describe
from dalle2.errors import CallCancelled, StatusError, UnusableAnswer
from dalle2.kept_answers import KeptAnswer
from dalle2.models import ImageRequest
from dalle2.nodes import OpenAIDalle2
from dalle2.stand_ins import Order
from development.emulator import Emulator, Fault, RequestRecord
from tests.loopback import (
    Loopback,
    Node,
    QuickRun,
    answering,
    encoded,
    http,
    image_and_mask,
    overlap,
    wait_beside_loop,
    wait_for,
)
from tests.pictures import png


@pytest.fixture(scope="module")
def running() -> Iterator[Emulator]:
    with Emulator("sdcpp", api_key=None, keep_files=False) as emulator:
        yield emulator


@pytest.fixture
def emulator(running: Emulator, node: Node) -> Emulator:
    running.reset()
    running.answer_size = (32, 32)
    node.use(running)
    return running


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    yield Node(monkeypatch)
    assert not any(kept.in_use for kept in drawing.kept_answers._kept)


def downloads(emulator: Emulator) -> list[RequestRecord]:
    return [request for request in emulator.requests if request.method == "GET" and "/pictures/" in request.path]


def test_pictures_come_in_the_order_of_their_index(emulator: Emulator, node: Node) -> None:
    emulator.result = "url"
    alone = node.draw(n=4)
    emulator.picture_delay_s = [0.2, 0.1, 0.05, 0]
    assert torch.equal(node.draw(n=4), alone)


def test_pictures_are_fetched_side_by_side(emulator: Emulator, node: Node) -> None:
    emulator.result = "url"
    emulator.picture_delay_s = 0.4
    node.draw(n=8)
    assert len(downloads(emulator)) == 8
    assert overlap(downloads(emulator))


def test_as_many_downloads_as_there_can_be_keep_their_connections(
    emulator: Emulator, node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    emulator.result = "url"
    images = torch.stack([torch.full((32, 32, 3), value / 10) for value in range(4)])
    assert len(node.draw(image=images, mask=image_and_mask()["mask"], n=8, size="256x256")) == 32
    assert "pool is full" not in caplog.text


def test_a_batch_is_asked_for_four_at_a_time_and_comes_in_order(emulator: Emulator, node: Node) -> None:
    emulator.delay_s = 0.15
    images = torch.stack([torch.full((32, 32, 3), value / 10) for value in range(6)])
    mask = image_and_mask()["mask"]
    pictures = node.draw(image=images, mask=mask, n=2, size="256x256")
    assert pictures.shape == (12, 256, 256, 3)
    assert torch.allclose(pictures[:, -1, 0, 0], torch.arange(6).repeat_interleave(2) / 10, atol=1 / 255)
    spans = [(request.started, request.answered or 0) for request in emulator.posts]
    together = [sum(start <= moment < end for start, end in spans) for moment, _ in spans]
    assert max(together) == 4


def test_what_cannot_be_fetched_is_fetched_by_the_next_run_and_nothing_else_is(emulator: Emulator, node: Node) -> None:
    emulator.result = "url"
    emulator.fail(Fault("missing_picture"))
    with pytest.raises(UnusableAnswer) as caught:
        node.draw(n=3, seed=1)
    assert "2 of 3 pictures are safe. Run again within the hour: only what is missing is fetched" in str(caught.value)
    assert "nothing is charged a second time" in str(caught.value)
    assert len(downloads(emulator)) == 3
    assert node.draw(n=3, seed=2).shape[0] == 3
    assert (len(emulator.posts), emulator.paid_pictures, len(downloads(emulator))) == (1, 3, 4)
    assert "nothing was charged for it again" in node.text
    assert node.draw(n=3).shape[0] == 3
    assert (len(emulator.posts), emulator.paid_pictures) == (2, 6)
    assert "charged" not in node.text


@pytest.mark.parametrize("fault", ["missing_picture", "expired_picture", "not_an_image", "svg_bomb", "huge_png"])
def test_what_cannot_be_had_twice_is_given_up_and_the_rest_delivered(
    fault: str, emulator: Emulator, node: Node
) -> None:
    emulator.result = "url"
    emulator.fail(Fault(fault, "pictures"))
    with pytest.raises(UnusableAnswer, match="2 of 3 pictures are safe"):
        node.draw(n=3)
    emulator.fail(Fault(fault, "pictures"))
    assert node.draw(n=3).shape[0] == 2
    assert node.text.startswith("2 of 3 pictures came")
    assert (len(emulator.posts), len(drawing.kept_answers._kept)) == (1, 0)


@pytest.mark.parametrize("fault", ["drop_before", "drop_during", "drop_after", "unavailable", "rate_limit"])
def test_what_may_pass_is_kept_as_long_as_it_takes(fault: str, emulator: Emulator, node: Node) -> None:
    emulator.result = "url"
    emulator.fail(Fault(fault, "pictures", times=9))
    for _ in range(3):
        with pytest.raises(UnusableAnswer, match="0 of 1 pictures are safe"):
            node.draw()
    assert node.draw().shape[0] == 1
    assert (len(emulator.posts), emulator.paid_pictures, len(downloads(emulator))) == (1, 1, 10)


def test_a_broken_picture_among_good_ones_does_not_hold_them_up(node: Node, caplog: pytest.LogCaptureFixture) -> None:
    good = encoded(png())
    body = {"data": [good, encoded(b"junk"), good, {"b64_json": "%"}]}
    with Loopback(answering(http(body))) as server:
        node.use(server.origin)
        assert node.draw(n=4).shape[0] == 2
    assert node.text.startswith("2 of 4 pictures came")
    assert "1 of 3 pictures cannot be had" in caplog.text


def test_more_pictures_than_were_asked_for_are_left_aside(node: Node) -> None:
    body = {"data": [encoded(png())] * 50}
    with Loopback(answering(http(body))) as server:
        node.use(server.origin)
        assert node.draw(n=2).shape[0] == 2


@pytest.mark.parametrize(
    ("inputs", "settings"),
    [
        ({"prompt": "another"}, {}),
        ({"n": 2}, {}),
        ({"size": "512x512"}, {}),
        (image_and_mask(), {}),
        ({}, {"OPENAI_API_KEY": "sk-another"}),
        ({}, {"DALLE2_MODEL": "dall-e-2"}),
        ({}, {"DALLE2_QUALITY": "high"}),
    ],
)
def test_only_the_same_call_gets_what_was_kept(
    inputs: dict[str, Any], settings: dict[str, str], emulator: Emulator, node: Node
) -> None:
    emulator.result = "url"
    emulator.fail(Fault("missing_picture"))
    with pytest.raises(UnusableAnswer):
        node.draw()
    for name, value in settings.items():
        node.set(name, value)
    node.draw(**inputs)
    assert len(emulator.posts) == 2


@pytest.mark.parametrize(("first", "second", "posts"), [(0.5, 0.5, 1), (0.5, 0.6, 2)])
def test_the_same_edit_is_one_of_the_same_pixels(
    first: float, second: float, posts: int, emulator: Emulator, node: Node
) -> None:
    emulator.result = "url"
    emulator.fail(Fault("missing_picture"))
    with pytest.raises(UnusableAnswer):
        node.draw(**image_and_mask(first))
    node.draw(**image_and_mask(second))
    assert len(emulator.posts) == posts


def test_after_a_failure_nothing_new_is_ordered_and_what_came_is_reused(emulator: Emulator, node: Node) -> None:
    emulator.delay_s = 0.4
    images = torch.rand(8, 32, 32, 3)
    mask = image_and_mask()["mask"]
    emulator.fail(Fault("moderation", "edits", delay_s=0.15))  # when all four are out, and before one of them is back
    with pytest.raises(StatusError, match="content moderation"):
        node.draw(image=images, mask=mask)
    assert (len(emulator.posts), emulator.paid_pictures) == (4, 3)
    emulator.delay_s = 0.0
    assert node.draw(image=images, mask=mask).shape[0] == 8
    assert (len(emulator.posts), emulator.paid_pictures) == (9, 8)
    assert "3 of them taken from the answer to an earlier run" in node.text


def test_memory_that_runs_out_costs_no_picture(emulator: Emulator, node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(*_: Any) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(image_codec, "_as_floats", no_memory)
        with pytest.raises(MemoryError):
            node.draw()
    assert node.draw().shape[0] == 1
    assert emulator.paid_pictures == 1


def test_what_becomes_of_a_cancelled_call_that_fails_is_in_the_log(
    emulator: Emulator, node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    emulator.fail(Fault("drop_after", delay_s=0.1))
    asyncio.run(cancelled_when(lambda: len(emulator.posts) == 1))
    wait_for(lambda: ended(QuickRun.last))
    assert "A call that was cancelled has ended without pictures" in caplog.text
    assert "It may have been charged" in caplog.text


def test_a_run_that_waits_for_another_one_s_answer_can_be_cancelled(emulator: Emulator, node: Node) -> None:
    emulator.delay_s = 0.5
    asyncio.run(cancelled_when(lambda: len(emulator.posts) == 1))
    asyncio.run(cancelled_when(lambda: any("the cancelled run asked for" in text for text in QuickRun.last.texts)))
    wait_for(lambda: ended(QuickRun.last))
    assert node.draw().shape[0] == 1
    assert (len(emulator.posts), emulator.paid_pictures) == (1, 1)


def test_equal_calls_at_once_each_pay_for_their_own(emulator: Emulator, node: Node) -> None:
    images = torch.rand(1, 32, 32, 3).repeat(3, 1, 1, 1)
    assert node.draw(image=images, mask=image_and_mask()["mask"]).shape[0] == 3
    assert emulator.paid_pictures == 3


async def cancelled_when(condition: Callable[[], bool], **inputs: Any) -> None:
    """Run the node as ComfyUI does and cancel it when the condition holds."""
    task = asyncio.create_task(OpenAIDalle2().run(prompt="a quiet harbour", size="256x256", **inputs))
    await wait_beside_loop(condition)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def ended(run: QuickRun) -> bool:
    return run._finished


def test_an_answer_to_a_cancelled_run_is_the_next_one_s(emulator: Emulator, node: Node) -> None:
    emulator.delay_s = 0.2
    asyncio.run(cancelled_when(lambda: len(emulator.posts) == 1, seed=1))
    wait_for(lambda: ended(QuickRun.last))
    emulator.delay_s = 0.0
    assert node.draw(seed=2).shape[0] == 1
    assert (len(emulator.posts), emulator.paid_pictures) == (1, 1)
    assert "Taken from the answer to an earlier run" in node.text


def test_a_run_waits_for_an_answer_that_is_still_on_its_way(emulator: Emulator, node: Node) -> None:
    emulator.delay_s = 0.3
    asyncio.run(cancelled_when(lambda: len(emulator.posts) == 1))
    first = QuickRun.last
    assert not ended(first)
    assert node.draw().shape[0] == 1
    assert ended(first)
    assert (len(emulator.posts), emulator.paid_pictures) == (1, 1)


def test_a_run_that_is_cancelled_while_it_fetches_leaves_the_rest_to_the_next(emulator: Emulator, node: Node) -> None:
    emulator.result = "url"
    emulator.picture_delay_s = [0.0, 0.3]
    asyncio.run(cancelled_when(lambda: len(downloads(emulator)) == 2, n=2))
    wait_for(lambda: ended(QuickRun.last))
    assert node.draw(n=2).shape[0] == 2
    assert (len(emulator.posts), len(downloads(emulator))) == (1, 2)


@pytest.mark.parametrize("fault", ["rate_limit", "unavailable", "model_not_found"])
def test_after_a_cancel_no_further_request_is_sent(fault: str, emulator: Emulator) -> None:
    emulator.fail(Fault(fault, times=None, delay_s=0.2))
    asyncio.run(cancelled_when(lambda: len(emulator.posts) == 1))
    wait_for(lambda: ended(QuickRun.last))
    assert len(emulator.posts) == 1


def test_a_cancel_between_two_tries_sends_nothing_more(emulator: Emulator, node: Node) -> None:
    emulator.fail(Fault("unavailable", times=None))
    run = QuickRun()
    run.at_pause = lambda seconds: run.cancelled.set() if seconds else None

    def draw() -> None:
        runs.become_current(run)
        node.draw()

    with pytest.raises(CallCancelled):
        copy_context().run(draw)
    assert len(emulator.posts) == 1
    assert run.texts[-1] == "The server answered 503, trying again in 1 s"


def test_the_waits_are_told_on_the_node(emulator: Emulator, node: Node) -> None:
    emulator.fail(Fault("rate_limit", retry_after_s=4))
    node.draw()
    texts = QuickRun.last.texts
    assert texts[:2] == ["Waiting for dall-e-2", "Rate limited, trying again in 4 s"]
    assert node.waits == [4]


def drawn(
    n: int = 1,
    came: int = 1,
    *,
    model: str | None = "gpt-image-2",
    credits: float | None = None,
    is_old: bool = False,
    quality_is_chosen: bool = True,
) -> Drawn:
    request = ImageRequest(prompt="a", model=model, n=n, size="256x256")
    kept = KeptAnswer("key", Answer(request, (), credits), is_old=is_old)
    return Drawn(Order("a", n, 256), torch.zeros(came, 4, 4, 3), kept, quality_is_chosen)


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        ([drawn()], "1 picture by gpt-image-2, in place of dall-e-2, 1.5 s"),
        ([drawn(model="dall-e-2")], "1 picture, 1.5 s"),
        ([drawn(model=None)], "1 picture by the server's own model, in place of dall-e-2, 1.5 s"),
        ([drawn(4, 4), drawn(4, 4)], "8 pictures by gpt-image-2, in place of dall-e-2, 1.5 s"),
        ([drawn(4, 3), drawn(4, 4)], "7 of 8 pictures came by gpt-image-2, in place of dall-e-2, 1.5 s"),
        ([drawn(), drawn(model="x")], "2 pictures by gpt-image-2 and x, in place of dall-e-2, 1.5 s"),
        (
            [drawn(credits=1.27), drawn(credits=1.27)],
            "2 pictures by gpt-image-2, in place of dall-e-2, 1.5 s, 2.54 credits",
        ),
        (
            [drawn(model="dall-e-2", quality_is_chosen=False)],
            "1 picture, 1.5 s. The server takes no quality, so DALLE2_QUALITY was not used",
        ),
        (
            [drawn(model="dall-e-2", credits=1, is_old=True)],
            "1 picture, 1.5 s. Taken from the answer to an earlier run: nothing was charged for it again",
        ),
        (
            [drawn(model="dall-e-2", is_old=True), drawn(model="dall-e-2", credits=2)],
            "2 pictures, 1.5 s, 2 credits. 1 of them taken from the answer to an earlier run: "
            "nothing was charged for it again",
        ),
    ],
)
def test_the_text_tells_what_came_from_whom_and_for_how_much(parts: list[Drawn], text: str) -> None:
    assert describe([parts[:1], parts[1:]], 1.5) == text


def part(channels: int, alpha: float = 1.0) -> Drawn:
    pictures = torch.ones(1, 4, 4, channels)
    pictures[..., 3:] = alpha
    answer = Answer(ImageRequest(prompt="a", model=None, n=1, size=""), ())
    return Drawn(Order("a", 1, 4), pictures, KeptAnswer("k", answer), True)


def test_a_batch_has_alpha_only_where_something_is_transparent() -> None:
    assert as_batch([part(3), part(3)]).shape == (2, 4, 4, 3)
    assert as_batch([part(3), part(4)]).shape == (2, 4, 4, 3)
    assert as_batch([part(3), part(4, 0.5)]).shape == (2, 4, 4, 4)
    assert (as_batch([part(3), part(4, 0.5)])[0, ..., 3] == 1).all()


def test_a_single_batch_is_handed_on_without_a_copy() -> None:
    only = part(3)
    assert as_batch([only]).data_ptr() == only.pictures.data_ptr()
    assert as_batch([part(4)]).shape == (1, 4, 4, 3) and as_batch([part(4)]).is_contiguous()
