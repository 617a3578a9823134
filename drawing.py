"""From an order to its pictures: ask, fetch, decode, and lose nothing that was paid for on the way."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from .api_client import ImagesClient
from .backends import Backend
from .errors import CHARGED, CallCancelled, ConnectionFailed, ImagesApiError, StatusError, UnusableAnswer
from .image_codec import PictureBatch, PictureError
from .kept_answers import KeptAnswer, KeptAnswers
from .models import Picture
from .runs import Run
from .stand_ins import Order, ask
from .tensors import with_alpha
from .threads import side_by_side

log = logging.getLogger("comfyui-openai-dalle2")

MAX_CALLS_AT_ONCE = 4  # of one node: more would run into the rate limits of a new account
MAX_DOWNLOADS_AT_ONCE = 8  # as many as one order can have

POLL_S = 0.05  # how often a run looks for an answer that another one waits for

kept_answers = KeptAnswers()


@dataclass(frozen=True)
class Drawn:
    """The pictures of one order, `[N,H,W,C]`, the answer they came from, and whether the quality was ours to choose."""

    order: Order
    pictures: Tensor
    kept: KeptAnswer
    quality_is_chosen: bool


def draw(orders: Sequence[Order], client: ImagesClient, backend: Backend, run: Run) -> list[Drawn]:
    """The pictures of every order, in order. Raises ImagesApiError, and PromptTooLong.

    What the API answered is kept until the run is over, and from then on for the next run unless it was delivered.
    After a failure nothing new is ordered: it would be paid for and not be seen.
    """
    run.expect(sum(order.n for order in orders))
    failed = threading.Event()

    def draw_one(order: Order) -> Drawn:
        if failed.is_set():
            raise CallCancelled("Not asked for, because another picture of the batch failed.")
        try:
            return _draw_one(client, backend, run, order)
        except BaseException as err:
            failed.set()
            if run.cancelled.is_set() and not isinstance(err, CallCancelled):
                log.warning("A call that was cancelled has ended without pictures: %s", err)  # nobody else will say it
            raise

    return side_by_side(draw_one, orders, limit=MAX_CALLS_AT_ONCE)


def as_batch(drawn: Sequence[Drawn]) -> Tensor:
    """All pictures as one IMAGE, with alpha only where some picture has transparency."""
    batches = [each.pictures for each in drawn]
    has_alpha = any(batch.shape[-1] == 4 and (batch[..., 3] < 1).any() for batch in batches)
    uniform = [with_alpha(batch) if has_alpha else batch[..., :3] for batch in batches]
    return torch.cat(uniform) if len(uniform) > 1 else uniform[0].contiguous()  # cat would copy a single one too


def describe(calls: Sequence[Sequence[Drawn]], seconds: float) -> str:
    """What the user should know of what a node's calls have drawn, in one line."""
    drawn = [each for call in calls for each in call]
    asked, came = sum(each.order.n for each in drawn), sum(len(each.pictures) for each in drawn)
    pictures = f"{came} picture{'s' * (came != 1)}" if came == asked else f"{came} of {asked} pictures came"
    models = sorted({each.kept.answer.request.model or "the server's own model" for each in drawn})
    by = "" if models == ["dall-e-2"] else f" by {' and '.join(models)}, in place of dall-e-2"
    credits = sum(each.kept.answer.credits or 0 for each in drawn if not each.kept.is_old)
    paid = f", {credits:g} credits" if credits else ""
    is_chosen = all(each.quality_is_chosen for each in drawn)
    plain = "" if is_chosen else ". The server takes no quality, so DALLE2_QUALITY was not used"
    return f"{pictures}{by}, {seconds:.1f} s{paid}{plain}{_from_before(drawn, came)}"


def _from_before(drawn: Sequence[Drawn], came: int) -> str:
    old = sum(len(each.pictures) for each in drawn if each.kept.is_old)
    if not old:
        return ""
    which = "Taken" if old == came else f"{old} of them taken"
    return f". {which} from the answer to an earlier run: nothing was charged for it again"


def _draw_one(client: ImagesClient, backend: Backend, run: Run, order: Order) -> Drawn:
    key = _fingerprint(backend, order)
    kept = _kept_or_coming(run, key)
    if kept is None:
        with kept_answers.asking(key, run.cancelled):
            answer = ask(client, backend, order, lambda model: run.begin(f"Waiting for {model or 'the server'}"))
            kept = kept_answers.keep(key, answer, run.cancelled)
    run.when_over(partial(kept_answers.release, kept))
    drawn = _fetch(client, run, order, kept)
    request = kept.answer.request
    quality_is_chosen = request.quality is not None or not backend.dialect(request.model).sends_quality
    return Drawn(order, order.edit.restore(drawn) if order.edit else drawn, kept, quality_is_chosen)


def _kept_or_coming(run: Run, key: str) -> KeptAnswer | None:
    """The answer to the same call that an earlier run left behind, also when it is still on its way."""
    if kept_answers.is_coming(key):
        run.begin("Waiting for the answer that the cancelled run asked for")
    while kept_answers.is_coming(key):
        if run.pause(POLL_S):
            raise CallCancelled("Cancelled before the request was sent.")
    return kept_answers.take(key, run.cancelled)


def _fetch(client: ImagesClient, run: Run, order: Order, kept: KeptAnswer) -> Tensor:
    """Every picture of an answer that can be had, each decoded as soon as it is there."""
    pictures = [picture for picture in kept.answer.pictures if picture.b64_json or picture.url][: order.n]
    batch = PictureBatch(len(pictures), order.side, order.side)
    problems: dict[int, Exception] = {}

    def fetch(place: int) -> None:
        try:
            run.step(batch.put(place, _content(client, kept, place, pictures[place])))
        except (ImagesApiError, PictureError) as err:
            kept.downloads.pop(place, None)
            problems[place] = err

    side_by_side(fetch, range(len(pictures)), limit=MAX_DOWNLOADS_AT_ONCE)
    if not problems:
        return batch.tensor
    _raise_unless_final(kept, pictures, problems)
    return batch.tensor[[place for place in range(len(pictures)) if place not in problems]]


def _content(client: ImagesClient, kept: KeptAnswer, place: int, picture: Picture) -> bytes:
    content = picture.b64_json or kept.downloads.get(place)
    if content is None:
        content = kept.downloads[place] = client.download(picture.url or "")
    return content


def _raise_unless_final(kept: KeptAnswer, pictures: Sequence[Picture], problems: Mapping[int, Exception]) -> None:
    """Raise what is to be told of pictures that could not be had, unless the others are all that there will be.

    A failure that may pass (no connection, a busy host) is left to the next run, however often. One that may be the
    host's mistake gets one more run. What cannot change is given up at once, and the rest is delivered.
    """
    cancelled = next((problem for problem in problems.values() if isinstance(problem, CallCancelled)), None)
    if cancelled:
        raise cancelled
    problem = problems[min(problems)]
    safe, count = len(pictures) - len(problems), len(pictures)
    may_pass = any(map(_may_pass, problems.values()))
    is_worth_a_run = any(_is_worth_a_run(problem, pictures[place]) for place, problem in problems.items())
    if may_pass or (is_worth_a_run and not kept.failed):
        kept.failed = True
        raise UnusableAnswer(
            f"{problem}\n{safe} of {count} pictures {'is' if safe == 1 else 'are'} safe. Run again within the hour: "
            "only what is missing is fetched, and nothing is charged a second time."
        )
    if not safe:
        kept_answers.forget(kept)
        raise UnusableAnswer(f"{problem}\n{CHARGED} Running again orders anew, and is charged again.")
    log.warning("%d of %d pictures cannot be had: %s", len(problems), count, problem)


def _may_pass(problem: Exception) -> bool:
    return isinstance(problem, ConnectionFailed) or (
        isinstance(problem, StatusError) and problem.condition.worth_a_retry
    )


def _is_worth_a_run(problem: Exception, picture: Picture) -> bool:
    """Whether fetching it once more could help: not where the bytes are here already, or the address is no good."""
    return not picture.b64_json and not isinstance(problem, UnusableAnswer)


def _fingerprint(backend: Backend, order: Order) -> str:
    """What makes two calls the same: where they go, as whom, and what they ask. The seed, never sent, is no part."""
    asked = (backend.base_url, backend.account, backend.models, backend.quality, order.prompt, order.n, order.side)
    digest = hashlib.sha256(repr(asked).encode())
    for tensor in (order.edit.image, order.edit.mask) if order.edit else ():
        digest.update(repr(tensor.shape).encode())
        digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()
