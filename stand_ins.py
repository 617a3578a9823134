"""Asking a server of today for what DALL·E 2 drew: which model, which fields, and what to do when it has neither.

What a server was found to have or to refuse is remembered for the life of the process.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from .api_client import Answer, ImagesClient
from .backends import MASK_FIELDS, MAX_PROMPT_CHARACTERS, Backend, PromptTooLong
from .errors import ConnectionFailed, ImagesApiError, StatusError
from .inpainting import Edit
from .models import ImageRequest, ModelEntry
from .retry import MAX_ELAPSED_S

OPTIONAL_FIELDS = ("response_format", "quality")

# How servers say that they do not know a field at all, and how they say that they know it and not this value.
UNKNOWN_FIELD = re.compile(r"unknown|unrecogni[sz]ed|unexpected|unsupported|not support|not permitted|extra")
WRONG_VALUE = re.compile(r"value|must be|should be|one of")


@dataclass(frozen=True)
class Order:
    """One call of old: `n` pictures of `side` x `side` pixels from a prompt, or of an edit."""

    prompt: str
    n: int
    side: int
    edit: Edit | None = None


@dataclass
class _Memory:
    """What is known of one server, as one account sees it."""

    worked: tuple[str | None, ...] = ()  # the model that was last found to be there
    refused: dict[str | None, tuple[str, ...]] = field(default_factory=dict)  # optional fields, by model
    listed: tuple[ModelEntry, ...] | None = None


_memories: dict[tuple[str, str], _Memory] = {}


def ask(
    client: ImagesClient, backend: Backend, order: Order, begin: Callable[[str | None], None] = lambda model: None
) -> Answer:
    """The answer to an order; its `request` tells which model gave it (None: the server's only one).

    `begin(model)` is called before a model is asked.

    A model that the server does not have costs nothing, nor does one that takes no prompt of that length; with
    `DALLE2_MODEL=auto` the next one is asked. Raises ImagesApiError, and PromptTooLong.
    """
    memory = _memories.setdefault((backend.base_url, backend.account), _Memory())
    missing: dict[str, StatusError] = {}
    too_long: PromptTooLong | None = None
    latest_s = time.monotonic() + MAX_ELAPSED_S
    for model in _candidates(client, backend, memory):
        if missing and time.monotonic() > latest_s:
            break  # it takes this long to say no
        begin(model)
        try:
            answer = _ask_model(client, backend, order, model, memory)
        except PromptTooLong as err:
            if len(order.prompt) > MAX_PROMPT_CHARACTERS:
                raise
            too_long = too_long or err
        except StatusError as err:
            if not _has_no_such_model(err, nothing_else_left=model is None and bool(missing)):
                raise
            missing[model or "no model named"] = err
        else:
            if not backend.fixed and not too_long:  # a shorter prompt starts with the first again
                memory.worked = (model,)
            return answer
    raise too_long or next(iter(missing.values())).with_note(f"Asked for: {', '.join(missing)}.")


def _has_no_such_model(err: StatusError, *, nothing_else_left: bool) -> bool:
    """Whether a server says so. One that has several also refuses the request that names none, in words of its own."""
    return err.condition.name == "model" or (nothing_else_left and err.condition.name == "refused")


def _candidates(client: ImagesClient, backend: Backend, memory: _Memory) -> Iterator[str | None]:
    """The models to try in turn, none of them twice."""
    if backend.fixed:
        yield from backend.models
        return
    tried = dict.fromkeys((*memory.worked, *backend.models))
    yield from tried
    newest = sorted(_listed(client, memory), key=lambda entry: entry.created or 0.0, reverse=True)
    yield from [entry.id for entry in newest if entry.id.startswith("gpt-image-") and entry.id not in tried][:1]
    if not backend.hosted:
        yield None  # a server that holds just one model draws with it when none is named


def _ask_model(client: ImagesClient, backend: Backend, order: Order, model: str | None, memory: _Memory) -> Answer:
    """Ask one model, once more without each optional field that the server refuses by name."""
    request = backend.request(model, order.prompt, order.n, order.side)
    for name in memory.refused.get(model, ()):
        request = request.without(name)
    refused: list[str] = []
    while True:
        try:
            answer = _send(client, backend, order, request, memory)
        except StatusError as err:
            field_name = _refused_field(err, request)
            if field_name is None:
                raise
            refused.append(field_name)
            request = request.without(field_name)
        else:
            if refused:  # only now: an error that was misread would have come again
                memory.refused[model] = (*memory.refused.get(model, ()), *refused)
            return answer


def _send(client: ImagesClient, backend: Backend, order: Order, request: ImageRequest, memory: _Memory) -> Answer:
    if order.edit is None:
        return client.generate(request)
    dialect = backend.dialect(request.model)
    image, mask = order.edit.files(opaque=dialect.opaque_edits, max_bytes=dialect.max_file_bytes)
    owners = set() if backend.hosted else {entry.owned_by for entry in _listed(client, memory)}
    fields = [name for owner, name in MASK_FIELDS.items() if owner in owners]
    return client.edit(request, image=image, mask=mask, mask_field=fields[0] if fields else "mask")


def _refused_field(err: StatusError, request: ImageRequest) -> str | None:
    """The optional field that this error is about, if it was sent.

    Of `quality` only the field itself, never its value: what a server does without it could cost more than was chosen.
    """
    if err.condition.name != "refused":
        return None
    words = f"{err.detail.param} {err.detail.message}"
    named = next((name for name in OPTIONAL_FIELDS if name in words and name in request.fields()), None)
    text = f"{err.detail.code} {err.detail.message}".lower()
    is_unknown = UNKNOWN_FIELD.search(text) and not WRONG_VALUE.search(text)
    return named if is_unknown or named != "quality" else None


def _listed(client: ImagesClient, memory: _Memory) -> tuple[ModelEntry, ...]:
    """The server's own list of models, empty where it has none to show."""
    if memory.listed is None:
        try:
            memory.listed = client.models()
        except ImagesApiError as err:
            if isinstance(err, ConnectionFailed) or (isinstance(err, StatusError) and err.condition.worth_a_retry):
                return ()  # not for good: it is asked again the next time
            memory.listed = ()
    return memory.listed
