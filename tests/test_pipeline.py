"""From jobs to images: what is paid for is delivered, once, whatever comes in between."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import pytest
import torch

from dalle2.api_client import Answer, ImagesClient
from dalle2.backends import DalleRequest
from dalle2.errors import (
    CallCancelled,
    Charge,
    ConnectionProblem,
    ImagesApiError,
    StatusError,
    UnusableAnswer,
    connection_error,
)
from dalle2.generation.answer_cache import AnswerCache, CachedAnswer
from dalle2.generation.fallback import Job, ServerMemory
from dalle2.generation.pipeline import Generator, Result, as_batch, summary
from dalle2.image_codec import MAX_OPENED_AT_ONCE, opening_slots
from dalle2.models import ImageRequest, Picture
from dalle2.nodes import OpenAIDalle2
from development.emulator import Emulator, Fault, RequestRecord
from tests.loopback import (
    LONG_S,
    Loopback,
    Node,
    QuickCall,
    answering,
    backend_at,
    delivering,
    encoded,
    http,
    image_and_mask,
    overlap,
    wait_beside_loop,
    wait_for,
)
from tests.pictures import png

KEPT = "Your paid answer is kept for an hour: run again, and only what is missing is fetched."


class WatchedCache(AnswerCache):
    """A cache that knows which entries its calls have not given back, and which are still in memory."""

    def __init__(self, max_free_bytes: int = 2**20) -> None:
        super().__init__(max_free_bytes=max_free_bytes)
        self.entries: list[weakref.ref[CachedAnswer]] = []

    @property
    def in_use(self) -> list[CachedAnswer]:
        return [entry for entry in self._entries if entry.user_cancelled is not None]

    def reserve(self, key: str, cancelled: threading.Event) -> CachedAnswer:
        entry = super().reserve(key, cancelled)
        self.entries.append(weakref.ref(entry))
        return entry


@pytest.fixture
def cache() -> Iterator[WatchedCache]:
    """The cache of the node. Whatever happens in a test, no call may keep an entry after its end."""
    cache = WatchedCache()
    yield cache
    assert not cache.in_use


@pytest.fixture
def emulator(node: Node) -> Iterator[Emulator]:
    with Emulator("sdcpp") as emulator:
        emulator.answer_size = (32, 32)
        node.use(emulator)
        yield emulator


def downloads(emulator: Emulator) -> list[RequestRecord]:
    return [request for request in emulator.requests if request.method == "GET" and "/pictures/" in request.path]


def most_at_once(records: Sequence[RequestRecord]) -> int:
    """How many of the requests were under way at one moment, at most."""
    spans = [(record.started, record.answered or 0) for record in records]
    return max(sum(start <= moment < end for start, end in spans) for moment, _ in spans)


def test_images_are_downloaded_side_by_side_and_come_in_order(emulator: Emulator, node: Node) -> None:
    emulator.result = "url"
    alone = node.draw(n=8)
    emulator.clear()
    emulator.picture_delay_s = [0.6 - index / 20 for index in range(8)]  # the last comes first
    assert torch.equal(node.draw(n=8), alone)
    assert len(downloads(emulator)) == 8 and overlap(downloads(emulator))


def test_only_a_few_images_of_the_whole_process_are_open_at_the_same_time(emulator: Emulator, node: Node) -> None:
    emulator.result = "url"
    drawing = threading.Thread(target=node.draw, kwargs={"n": 8})
    with ExitStack() as others:
        for _ in range(MAX_OPENED_AT_ONCE):
            others.enter_context(opening_slots)
        drawing.start()
        wait_for(lambda: len(downloads(emulator)) == 8)
        drawing.join(0.2)
        assert drawing.is_alive()
    drawing.join()
    assert node.text.startswith("8 pictures")


def batch(size: int) -> dict[str, Any]:
    """The inputs of an edit of so many images, each of another grey."""
    images = torch.stack([torch.full((32, 32, 3), value / 10) for value in range(size)])
    return {"image": images, "mask": image_and_mask()["mask"]}


def test_a_batch_is_asked_for_four_at_a_time_and_comes_in_order(emulator: Emulator, node: Node) -> None:
    emulator.delay_s = 0.5  # a busy machine starts them one after the other
    images = node.draw(**batch(6), n=2)
    assert images.shape == (12, 256, 256, 3)
    assert torch.allclose(images[:, -1, 0, 0], torch.arange(6).repeat_interleave(2) / 10, atol=1 / 255)
    assert most_at_once(emulator.posts) == 4


def test_a_list_as_input_is_asked_for_four_at_a_time(emulator: Emulator) -> None:
    async def run_list() -> None:
        await asyncio.gather(*(OpenAIDalle2().run(prompt=f"{index}", unique_id="1") for index in range(6)))

    emulator.delay_s = 0.3
    asyncio.run(run_list())
    assert most_at_once(emulator.posts) == 4


def test_the_next_run_downloads_what_is_missing_and_nothing_else(emulator: Emulator, node: Node) -> None:
    emulator.result = "url"
    emulator.fail(Fault("missing_picture"))
    with pytest.raises(UnusableAnswer) as caught:
        node.draw(n=3, seed=1)
    assert f"Not fetched yet: 1 of 3. {KEPT} Nothing is charged a second time." in str(caught.value)
    assert len(downloads(emulator)) == 3
    assert node.draw(n=3, seed=2).shape[0] == 3
    assert (len(emulator.posts), emulator.paid_pictures, len(downloads(emulator))) == (1, 3, 4)
    assert node.text.endswith("3 paid for before")
    assert node.draw(n=3).shape[0] == 3
    assert (len(emulator.posts), emulator.paid_pictures) == (2, 6)
    assert "paid for before" not in node.text


@pytest.mark.parametrize("fault", ["missing_picture", "not_an_image"])
def test_what_fails_three_times_is_given_up_and_the_rest_delivered(
    fault: str, emulator: Emulator, node: Node, cache: WatchedCache
) -> None:
    emulator.result = "url"
    for _ in range(2):
        emulator.fail(Fault(fault, "pictures"))
        with pytest.raises(UnusableAnswer, match="Not fetched yet: 1 of 3"):
            node.draw(n=3)
    emulator.fail(Fault(fault, "pictures"))
    assert node.draw(n=3).shape[0] == 2
    assert node.text.startswith("2 of 3 pictures")
    assert len(emulator.posts) == 1
    node.draw(n=3)
    assert len(emulator.posts) == 2  # nothing was left of the first answer


@pytest.mark.parametrize("fault", ["drop_before", "drop_during", "unavailable", "rate_limit"])
def test_runs_without_any_connection_do_not_count_against_a_missing_image(
    fault: str, emulator: Emulator, node: Node
) -> None:
    emulator.result = "url"
    emulator.fail(Fault(fault, "pictures", times=3 * 3 * 3))  # three tries for three images in three runs
    for _ in range(3):
        with pytest.raises(UnusableAnswer, match="Not fetched yet: 3 of 3"):
            node.draw(n=3)
    emulator.fail(Fault("missing_picture", "pictures"))
    with pytest.raises(UnusableAnswer, match="Not fetched yet: 1 of 3"):
        node.draw(n=3)
    assert node.draw(n=3).shape[0] == 3
    assert (len(emulator.posts), emulator.paid_pictures) == (1, 3)


def test_a_host_that_is_never_found_holds_the_other_images_up_for_two_runs(node: Node) -> None:
    body = {"data": [encoded(png()), {"url": "https://name.invalid/a.png"}]}
    with Loopback(answering(http(body))) as server:
        node.use(server.origin)
        for _ in range(2):
            with pytest.raises(UnusableAnswer, match="Not fetched yet: 1 of 2"):
                node.draw(n=2)
        assert node.draw(n=2).shape[0] == 1
        assert len(server.requests) == 1
    assert node.text.startswith("1 of 2 pictures")


def test_a_broken_image_among_good_ones_does_not_hold_them_up(node: Node, caplog: pytest.LogCaptureFixture) -> None:
    good = encoded(png())
    body = {"data": [good, encoded(b"junk"), good, {"b64_json": "%"}]}
    with Loopback(answering(http(body))) as server:
        node.use(server.origin)
        assert node.draw(n=4).shape[0] == 2
        assert len(server.requests) == 1  # there is no address to fetch the last one from
    assert node.text.startswith("2 of 4 pictures")
    assert "1 of 3 images could not be fetched" in caplog.text


def test_more_images_than_were_asked_for_are_left_out(node: Node) -> None:
    with Loopback(answering(http({"data": [encoded(png())] * 50}))) as server:
        node.use(server.origin)
        assert node.draw(n=2).shape[0] == 2


@pytest.mark.parametrize(
    ("first", "second", "settings", "posts"),
    [
        (image_and_mask(), image_and_mask(), {}, 1),
        (image_and_mask(), image_and_mask(0.6), {}, 2),
        (image_and_mask(), {**image_and_mask(), "mask": image_and_mask()["mask"] / 2}, {}, 2),
        ({}, image_and_mask(), {}, 2),
        ({}, {"prompt": "another"}, {}, 2),
        ({}, {"n": 2}, {}, 2),
        ({}, {"size": "512x512"}, {}, 2),
        ({}, {}, {"OPENAI_API_KEY": "sk-another"}, 2),
        ({}, {}, {"DALLE2_MODEL": "dall-e-2"}, 2),
        ({}, {}, {"DALLE2_QUALITY": "high"}, 2),
    ],
)
def test_only_the_same_call_gets_what_was_kept(
    first: dict[str, Any], second: dict[str, Any], settings: dict[str, str], posts: int, emulator: Emulator, node: Node
) -> None:
    emulator.result = "url"
    emulator.fail(Fault("missing_picture"))
    with pytest.raises(UnusableAnswer):
        node.draw(**first)
    for name, value in settings.items():
        node.set(name, value)
    node.draw(**second)
    assert len(emulator.posts) == posts


def test_after_a_failure_nothing_new_is_asked_for_and_what_came_is_reused(emulator: Emulator, node: Node) -> None:
    emulator.delay_s = 0.4
    emulator.fail(Fault("moderation", "edits", delay_s=0.15))  # when all four are out, and before one of them is back
    with pytest.raises(StatusError, match=r"content moderation.* This is about image [1-4] of 8") as caught:
        node.draw(**batch(8))
    assert (len(emulator.posts), emulator.paid_pictures) == (4, 3)
    assert "; 3 others are paid for and kept for an hour" in str(caught.value)
    assert Charge.NO.value not in str(caught.value)
    emulator.delay_s = 0.0
    assert node.draw(**batch(8)).shape[0] == 8
    assert (len(emulator.posts), emulator.paid_pictures) == (9, 8)
    assert node.text.endswith("3 paid for before")


# Cancelled as ComfyUI does it.


async def cancelled_when(condition: Callable[[], bool], **inputs: Any) -> None:
    """Run the node as ComfyUI does and cancel it when the condition holds."""
    task = asyncio.create_task(OpenAIDalle2().run(prompt="a quiet harbour", size="256x256", **inputs))
    await wait_beside_loop(condition)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def has_ended() -> bool:
    """Whether the thread of every call has ended."""
    return not any(thread.name == "openai-dalle" for thread in threading.enumerate())


def test_a_run_that_waits_for_another_one_s_answer_can_be_cancelled(
    emulator: Emulator, node: Node, cache: WatchedCache
) -> None:
    emulator.delay_s = 0.5
    asyncio.run(cancelled_when(lambda: len(emulator.posts) == 1))
    node.at_pause = lambda seconds: node.last.cancelled.set()
    with pytest.raises(CallCancelled):
        node.draw()
    assert node.last.texts == ["Waiting for the images of the cancelled run"]
    node.at_pause = None
    wait_for(has_ended)
    assert node.draw().shape[0] == 1
    assert (len(emulator.posts), emulator.paid_pictures) == (1, 1)


def test_a_run_cancelled_between_downloads_leaves_the_rest_to_the_next(emulator: Emulator, node: Node) -> None:
    emulator.result = "url"
    emulator.picture_delay_s = [0.0, 0.3]
    asyncio.run(cancelled_when(lambda: len(downloads(emulator)) == 2, n=2))
    wait_for(has_ended)
    assert node.draw(n=2).shape[0] == 2
    assert (len(emulator.posts), len(downloads(emulator))) == (1, 2)


def test_a_cancelled_run_whose_download_hangs_does_not_hold_the_next_one_up(emulator: Emulator, node: Node) -> None:
    emulator.result = "url"
    emulator.picture_delay_s = LONG_S
    asyncio.run(cancelled_when(lambda: len(downloads(emulator)) == 1))
    emulator.picture_delay_s = 0.0
    assert node.draw().shape[0] == 1
    assert (len(emulator.posts), len(downloads(emulator))) == (1, 2)


@pytest.mark.parametrize("fault", ["rate_limit", "model_not_found"])
def test_after_a_cancel_no_further_image_is_asked_for(fault: str, emulator: Emulator) -> None:
    emulator.fail(Fault(fault, times=None, delay_s=0.2))
    asyncio.run(cancelled_when(lambda: len(emulator.posts) == 1))
    wait_for(has_ended)
    assert len(emulator.posts) == 1


def test_how_a_cancelled_call_has_failed_is_in_the_log(emulator: Emulator, caplog: pytest.LogCaptureFixture) -> None:
    emulator.fail(Fault("drop_after", delay_s=0.1))
    asyncio.run(cancelled_when(lambda: len(emulator.posts) == 1))
    wait_for(has_ended)
    assert "A cancelled call has ended without images" in caplog.text
    assert Charge.MAYBE.value in caplog.text


def test_an_answer_is_freed_when_the_whole_group_has_returned(emulator: Emulator, cache: WatchedCache) -> None:
    async def as_list_input() -> list[bool]:
        calls = [
            asyncio.create_task(OpenAIDalle2().run(prompt=prompt, size="256x256", unique_id="1"))
            for prompt in ("a quiet harbour", "a slow train")
        ]
        await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        alive = [entry() is not None for entry in cache.entries]
        await asyncio.gather(*calls)
        return alive

    emulator.result = "url"
    emulator.fail(Fault("slow", "generations", delay_s=0.5))
    assert asyncio.run(as_list_input()) == [True, True]
    wait_for(has_ended)
    gc.collect()
    assert [entry() for entry in cache.entries] == [None, None]


# Without a server, where a moment has to be hit.

SD = backend_at("http://127.0.0.1:9/v1", fixed_model="sd-turbo")
PNG = png()


class Client(ImagesClient):
    """A client whose server is a function: `generate` gives the bytes of an image, `download` those behind a URL."""

    def __init__(
        self, draw: Callable[[str], bytes | str] = lambda prompt: PNG, fetch: Callable[[str], bytes] = lambda url: PNG
    ) -> None:
        super().__init__(SD)
        self.prompts: list[str] = []
        self.fetched: list[str] = []
        self._draw = draw
        self._fetch_url = fetch

    def generate(self, request: ImageRequest) -> Answer:
        self.prompts.append(request.prompt)
        drawn = self._draw(request.prompt)
        picture = Picture(url=drawn) if isinstance(drawn, str) else Picture(b64_json=drawn)
        return Answer(request, (picture,))

    def download(self, url: str) -> bytes:
        self.fetched.append(url)
        return self._fetch_url(url)


def jobs(*prompts: str) -> list[Job]:
    return [Job(DalleRequest("dall-e-2", prompt, 1, (8, 8))) for prompt in prompts]


def run(
    client: Client, cache: AnswerCache, prompts: Sequence[str] = ("a",), call: QuickCall | None = None
) -> list[Result]:
    """The results of one call, delivered when nothing fails."""
    call = call or QuickCall(cache)
    with delivering(call):
        return Generator(client, SD, ServerMemory(), cache, call).run(jobs(*prompts))


def refusing(refused: str) -> Client:
    """A client that has an image for every prompt but one."""

    def draw(prompt: str) -> bytes:
        if prompt == refused:
            raise ImagesApiError(f"no {prompt}")
        return PNG

    return Client(draw)


@pytest.mark.parametrize("drawn", [PNG, "https://images.example/a.png"])
def test_a_cancelled_call_decodes_nothing(
    drawn: bytes | str, cache: WatchedCache, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "openai-dalle")
    call = QuickCall(cache)

    def cancel_meanwhile(prompt: str) -> bytes | str:
        call.cancelled.set()
        return drawn

    client = Client(cancel_meanwhile)
    with pytest.raises(CallCancelled):
        run(client, cache, call=call)
    assert not client.fetched and not list(call.new_steps())
    assert not caplog.records
    (result,) = run(client, cache)
    assert result.is_reused and client.prompts == ["a"]


class CancelledAtLast(QuickCall):
    """A call that is cancelled when its last image is there."""

    def step(self, preview: Any) -> None:
        self.cancelled.set()


class OutOfMemory(QuickCall):
    """A call that has no memory left for its first preview."""

    def step(self, preview: Any) -> None:
        raise MemoryError


@pytest.mark.parametrize(("kind", "error"), [(CancelledAtLast, CallCancelled), (OutOfMemory, MemoryError)])
def test_a_call_that_ends_when_its_images_are_there_leaves_them_to_the_next(
    kind: type[QuickCall], error: type[Exception], cache: WatchedCache
) -> None:
    client = Client()
    with pytest.raises(error):
        run(client, cache, call=kind(cache))
    assert run(client, cache)[0].is_reused
    assert client.prompts == ["a"]


def test_an_image_s_host_with_a_bad_certificate_gets_two_more_runs(cache: WatchedCache) -> None:
    def fail(url: str) -> bytes:
        raise connection_error(ConnectionProblem.TLS, "images.example", sent=False, billed=False)

    client = Client(lambda prompt: "https://images.example/a.png", fail)
    for _ in range(2):
        with pytest.raises(UnusableAnswer, match=r"secure connection to images\.example failed") as caught:
            run(client, cache)
        assert KEPT in str(caught.value)
    with pytest.raises(UnusableAnswer, match="Running again asks for new images"):
        run(client, cache)
    assert (client.prompts, len(client.fetched)) == (["a"], 3)


def at_once(**outcomes: bytes | str | ImagesApiError) -> Callable[[str], bytes | str]:
    """Draws what is named for each prompt, or fails so, and nothing before all of them were asked for."""
    all_asked = threading.Barrier(len(outcomes))

    def draw(prompt: str) -> bytes | str:
        all_asked.wait(LONG_S)
        outcome = outcomes[prompt]
        if isinstance(outcome, ImagesApiError):
            raise outcome
        return outcome

    return draw


def test_of_two_failed_images_the_more_expensive_failure_counts(cache: WatchedCache) -> None:
    draw = at_once(a=UnusableAnswer("no a."), b=UnusableAnswer("no b.", charge=Charge.MAYBE))
    with pytest.raises(UnusableAnswer, match=r"no a\. You may have been charged"):
        run(Client(draw), cache, "ab")


def test_an_image_that_is_given_up_does_not_count_as_kept(cache: WatchedCache) -> None:
    with pytest.raises(ImagesApiError) as caught:
        run(Client(at_once(a=ImagesApiError("no a."), b=b"no image")), cache, "ab")
    assert str(caught.value) == f"no a. {Charge.LIKELY.value}"


def test_a_refusal_beside_an_image_that_waits_does_not_say_that_nothing_was_charged(cache: WatchedCache) -> None:
    def fail(url: str) -> bytes:
        raise connection_error(ConnectionProblem.REFUSED, "images.example", sent=False, billed=False)

    draw = at_once(a="https://images.example/a.png", b=ImagesApiError("no b."))
    with pytest.raises(UnusableAnswer) as caught:
        run(Client(draw, fail), cache, "ab")
    assert KEPT in str(caught.value) and Charge.NO.value not in str(caught.value)


def test_all_that_is_kept_is_taken_before_anything_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A batch whose last image failed; while its next run asks for that one, another call fills the cache."""
    prompts = list("abcdefgh")
    cache = WatchedCache(max_free_bytes=len(PNG) * (len(prompts) - 1))
    with pytest.raises(ImagesApiError, match="no h"):
        run(refusing("h"), cache, prompts)
    unused = threading.Event()
    other = cache.reserve("another call", unused)
    other.answer = Answer(ImageRequest(prompt="x", model=None, n=1, size=""), (Picture(b64_json=bytes(len(PNG) * 6)),))

    def fill(prompt: str) -> bytes:
        cache.checkin(other, unused)
        return PNG

    client = Client(fill)
    results = run(client, cache, prompts[::-1])
    assert client.prompts == ["h"]
    assert [result.is_reused for result in results] == [False, *[True] * 7]
    assert not caplog.records and not cache.in_use


def test_a_cancelled_call_does_not_give_its_answer_up(cache: WatchedCache) -> None:
    call = QuickCall(cache)

    def fail(url: str) -> bytes:
        call.cancelled.set()
        raise UnusableAnswer("The address is no good.")

    with pytest.raises(CallCancelled):
        run(Client(lambda prompt: "https://images.example/a.png", fail), cache, call=call)
    assert run(Client(), cache)[0].is_reused


def test_an_answer_that_was_just_missed_is_not_paid_for_again() -> None:
    class JustMissed(WatchedCache):
        """The cancelled call gets its answer right after another one has looked for it."""

        left: CachedAnswer | None = None
        answer: Answer | None = None

        def checkout(self, key: str, cancelled: threading.Event) -> CachedAnswer | None:
            found = super().checkout(key, cancelled)
            if found is None and self.left is not None:
                self.left.answer = self.answer
            return found

    cache = JustMissed()
    call = CancelledAtLast(cache)
    call.group.join()
    client = Client()
    with pytest.raises(CallCancelled):
        Generator(client, SD, ServerMemory(), cache, call).run(jobs("a"))
    cache.left = cache.in_use[0]
    cache.answer, cache.left.answer = cache.left.answer, None
    assert run(client, cache)[0].is_reused
    assert client.prompts == ["a"]


def test_a_prompt_that_is_refused_leaves_nothing_in_the_cache(cache: WatchedCache) -> None:
    with pytest.raises(ImagesApiError):
        run(refusing("a"), cache, "a")
    gc.collect()
    assert not any(entry() for entry in cache.entries)


def test_equal_jobs_each_pay_for_their_own_and_wait_for_none(cache: WatchedCache) -> None:
    client = Client()
    assert len(run(client, cache, "aaa")) == 3
    assert client.prompts == ["a", "a", "a"]
    with pytest.raises(ImagesApiError):
        run(refusing("b"), cache, "ab")
    assert [result.is_reused for result in run(client, cache, "aa")] == [True, False]


def test_equal_jobs_of_a_cancelled_call_do_not_wait_for_themselves(cache: WatchedCache) -> None:
    with pytest.raises(ImagesApiError):
        run(refusing("b"), cache, "ab")
    call = QuickCall(cache)
    call.cancelled.set()
    with pytest.raises(CallCancelled):
        run(Client(), cache, "aa", call=call)
    assert run(Client(), cache)[0].is_reused


def result(n: int = 1, came: int = 1, *, model: str | None = "gpt-image-2", credits: float = 0, **more: Any) -> Result:
    request = ImageRequest(prompt="a", model=model, n=n, size="256x256")
    job = Job(DalleRequest("dall-e-2", "a", n, (4, 4)))
    usual: dict[str, Any] = {"images": torch.ones(came, 4, 4, 3), "is_reused": False, "lacks_quality": False}
    return Result(job, answer=Answer(request, (), credits), **{**usual, **more})


@pytest.mark.parametrize(
    ("results", "line"),
    [
        ([result()], "1 picture · gpt-image-2 · 1.5 s"),
        ([result(model=None)], "1 picture · the server's model · 1.5 s"),
        ([result(4, 4), result(4, 4)], "8 pictures · gpt-image-2 · 1.5 s"),
        ([result(4, 3), result(4, 4)], "7 of 8 pictures · gpt-image-2 · 1.5 s"),
        ([result(), result(model="x")], "2 pictures · gpt-image-2 and x · 1.5 s"),
        ([result(credits=1.27), result(credits=1.27)], "2 pictures · gpt-image-2 · 1.5 s · 2.54 credits"),
        ([result(lacks_quality=True)], "1 picture · gpt-image-2 · 1.5 s · the server refused the quality"),
        ([result(credits=1, is_reused=True)], "1 picture · gpt-image-2 · 1.5 s · 1 paid for before"),
        (
            [result(is_reused=True), result(credits=2)],
            "2 pictures · gpt-image-2 · 1.5 s · 2 credits · 1 paid for before",
        ),
    ],
)
def test_the_line_says_what_came_from_whom_and_for_how_much(results: list[Result], line: str) -> None:
    assert summary([results[:1], results[1:]], 1.5) == line


@pytest.mark.parametrize(
    ("model", "inputs"), [("gpt-image-2", {}), ("dall-e-3", {"original": "dall-e-3", "quality": "hd"})]
)
def test_a_result_knows_that_the_server_rejected_the_quality(model: str, inputs: dict[str, Any]) -> None:
    refusal = http({"detail": "quality must be one of ['exact', 'lossless'], got 'low'"}, 400)
    asked = DalleRequest(**{"original": "dall-e-2", "prompt": "a", "n": 1, "size": (1024, 1024), **inputs})
    cache = AnswerCache()
    with Loopback(answering(refusal, http({"data": [encoded(PNG)]}))) as server:
        backend = backend_at(server.origin, fixed_model=model)
        (found,) = Generator(ImagesClient(backend), backend, ServerMemory(), cache, QuickCall(cache)).run([Job(asked)])
    assert found.lacks_quality


OPAQUE = torch.ones(1, 4, 4, 4)


def test_a_batch_has_alpha_only_where_something_is_transparent() -> None:
    plain, opaque, glass = result(), result(images=OPAQUE), result(images=OPAQUE / 2)
    assert as_batch([plain, plain]).shape == (2, 4, 4, 3)
    assert as_batch([plain, opaque]).shape == (2, 4, 4, 3)
    assert as_batch([opaque]).shape == (1, 4, 4, 3) and as_batch([opaque]).is_contiguous()
    assert as_batch([plain, glass]).shape == (2, 4, 4, 4)
    assert (as_batch([plain, glass])[0, ..., 3] == 1).all()
