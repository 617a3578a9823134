"""From an order to its pictures: ask, fetch, decode, and lose nothing that was paid for on the way."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from .api_client import ImagesClient
from .backends import Backend
from .errors import CallCancelled, ImagesApiError, UnusableAnswer
from .host import Run
from .image_codec import PictureBatch, PictureError, with_alpha
from .kept_answers import KeptAnswer, KeptAnswers
from .models import Picture
from .stand_ins import Order, ask
from .threads import side_by_side

MAX_CALLS_AT_ONCE = 4  # of one node: more would run into the rate limits of a new account
MAX_DOWNLOADS_AT_ONCE = 10  # as many as one answer can have

kept_answers = KeptAnswers()


@dataclass(frozen=True)
class Drawn:
    """The pictures of one order, `[N,H,W,C]`, and the answer they came from."""

    order: Order
    pictures: Tensor
    kept: KeptAnswer


def draw(orders: Sequence[Order], client: ImagesClient, backend: Backend, run: Run) -> list[Drawn]:
    """The pictures of every order, in order. Raises ImagesApiError, and ValueError for a prompt that is too long.

    What the API answered is kept until the run is over, and from then on for the next run unless it was delivered.
    """
    run.expect(sum(order.n for order in orders))
    return side_by_side(partial(_draw_one, client, backend, run), orders, limit=MAX_CALLS_AT_ONCE)


def as_batch(drawn: Sequence[Drawn]) -> Tensor:
    """All pictures as one IMAGE, with alpha only where some picture has transparency."""
    batches = [each.pictures for each in drawn]
    if any(batch.shape[-1] == 4 and (batch[..., 3] < 1).any() for batch in batches):
        return torch.cat([with_alpha(batch) for batch in batches])
    return torch.cat([batch[..., :3] for batch in batches])


def describe(drawn: Sequence[Drawn], seconds: float) -> str:
    """What the user should know of it, in one line."""
    asked, came = sum(each.order.n for each in drawn), sum(len(each.pictures) for each in drawn)
    pictures = f"{came} picture{'s' * (came != 1)}" if came == asked else f"{came} of {asked} pictures came"
    models = sorted({each.kept.model or "the server's own model" for each in drawn})
    by = "" if models == ["dall-e-2"] else f" by {' and '.join(models)}, in place of dall-e-2"
    credits = sum(each.kept.answer.credits or 0 for each in drawn if not each.kept.is_second_try)
    paid = f", {credits:g} credits" if credits else ""
    is_old = any(each.kept.is_second_try for each in drawn)
    kept = ". Taken from the answer to an earlier run: nothing was charged for it again" if is_old else ""
    return f"{pictures}{by}, {seconds:.1f} s{paid}{kept}"


def _draw_one(client: ImagesClient, backend: Backend, run: Run, order: Order) -> Drawn:
    key = _fingerprint(backend, order)
    kept = kept_answers.take(key)
    if kept is None:
        run.say(f"Waiting for {backend.models[0]}", timed=True)
        kept = kept_answers.keep(key, *ask(client, backend, order))
    run.when_over(partial(_settle, kept))
    drawn = _fetch(client, run, order, kept)
    return Drawn(order, order.edit.restore(drawn) if order.edit else drawn, kept)


def _settle(kept: KeptAnswer, delivered: bool) -> None:
    (kept_answers.forget if delivered else kept_answers.release)(kept)


def _fetch(client: ImagesClient, run: Run, order: Order, kept: KeptAnswer) -> Tensor:
    """Every picture of an answer, each decoded as soon as it is there.

    Where some cannot be had, the error says how many are safe; when the run after that meets the same, those are it.
    """
    pictures = [picture for picture in kept.answer.pictures if picture.b64_json or picture.url]
    batch = PictureBatch(len(pictures), order.side, order.side)
    problems: dict[int, Exception] = {}

    def fetch(place: int) -> None:
        try:
            batch.put(place, _content(client, kept, place, pictures[place]))
            run.step(batch.thumbnail(place))
        except (ImagesApiError, PictureError) as err:
            kept.downloads.pop(place, None)
            problems[place] = err

    side_by_side(fetch, range(len(pictures)), limit=MAX_DOWNLOADS_AT_ONCE)
    safe = [place for place in range(len(pictures)) if place not in problems]
    if problems and not (kept.is_second_try and safe):
        raise _incomplete(len(safe), len(pictures), problems[min(problems)])
    return batch.tensor[safe] if problems else batch.tensor


def _content(client: ImagesClient, kept: KeptAnswer, place: int, picture: Picture) -> bytes:
    content = picture.b64_json or kept.downloads.get(place)
    if content is None:
        content = kept.downloads[place] = client.download(picture.url or "")
    return content


def _incomplete(safe: int, count: int, problem: Exception) -> ImagesApiError:
    if isinstance(problem, CallCancelled):
        return problem
    return UnusableAnswer(
        f"{safe} of {count} pictures are safe; the rest could not be fetched or read. {problem}\n"
        "Run again within the hour: what is missing is fetched again, and nothing is charged a second time."
    )


def _fingerprint(backend: Backend, order: Order) -> str:
    """What makes two calls the same: where they go, as whom, and what they ask. The seed, never sent, is no part."""
    asked = (backend.base_url, backend.headers, backend.models, backend.quality, order.prompt, order.n, order.side)
    digest = hashlib.sha256(repr(asked).encode())
    for tensor in (order.edit.image, order.edit.mask) if order.edit else ():
        digest.update(repr(tensor.shape).encode())
        digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()
