"""Choose the model and the fields that a server accepts, and fall back when it rejects one.

What a server was found to have or to reject is remembered for the life of the process (`ServerMemory`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from ..api_client import Answer, ImagesClient
from ..backends import MASK_FIELDS, Backend, DalleRequest
from ..errors import Case, ImagesApiError, StatusError
from ..image_models import FALLBACK_SIZES, Original
from ..models import ImageRequest, ModelEntry
from .inpainting import Edit

OPTIONAL_FIELDS = ("response_format", "quality", "style")
IMAGE_MODEL_KINDS = frozenset({"image", "image/generation"})
MAX_MODELS_NAMED = 8  # in an error: a gateway can list hundreds

# How servers say that they do not know a field at all, and how they say that they know it and not this value.
UNKNOWN_FIELD = re.compile(r"unknown|unrecogni[sz]ed|unexpected|unsupported|not support|not permitted|extra")
WRONG_VALUE = re.compile(r"value|must be|should be|one of")


@dataclass(frozen=True)
class Job:
    """One answer to get: what the node was asked for, and the image to edit, if any."""

    request: DalleRequest
    edit: Edit | None = None


@dataclass
class Server:
    """What is known of one server, as one account sees it.

    `worked`: the model that last replaced each DALL·E model. `rejected`: optional fields that a model does not take.
    `listed`: its own list of models.
    """

    worked: dict[Original, str | None] = field(default_factory=dict)
    rejected: dict[str | None, frozenset[str]] = field(default_factory=dict)
    listed: tuple[ModelEntry, ...] | None = None


class ServerMemory:
    """What is remembered of servers."""

    def __init__(self) -> None:
        self._servers: dict[tuple[str, str], Server] = {}

    def of(self, backend: Backend) -> Server:
        """What is known of a backend's server."""
        return self._servers.setdefault((backend.base_url, backend.account), Server())


class Fallback:
    """Gets answers from one backend, whatever it has."""

    def __init__(self, client: ImagesClient, backend: Backend, server: Server) -> None:
        self._client = client
        self._backend = backend
        self._server = server

    def ask(self, job: Job, on_model: Callable[[str | None], None]) -> Answer:
        """The answer to a job; its `request` tells which model gave it (None: the server's only one).

        `on_model` is called before a model is asked. A model that the server does not have costs nothing: the next one
        is asked. Raises ImagesApiError.
        """
        missing: dict[str, StatusError] = {}
        for model in self._candidates(job.request.original):
            on_model(model)
            try:
                answer = self._ask_model(job, model)
            except StatusError as err:
                if not _is_about_missing_model(err, was_last=model is None and bool(missing)):
                    raise
                missing[model or "no model named"] = err
            else:
                if self._backend.fixed_model is None:  # `auto` has an order of its own
                    self._server.worked[job.request.original] = model
                return answer
        error = _missing_model_error(missing, [entry.id for entry in self._listed()])
        error.note = self._client.hide(error.note)  # somebody may have put a key into DALLE2_MODEL
        self._server.listed = None  # the user may add a model before the next run
        raise error

    def _candidates(self, original: Original) -> Iterator[str | None]:
        """The models to try in turn, none of them twice."""
        known = self._backend.models_for(original)
        if self._backend.fixed_model is not None:
            yield from known
            return
        tried: list[str | None] = []
        for model in self._in_order(original, known):
            if model not in tried:
                tried.append(model)
                yield model

    def _in_order(self, original: Original, known: tuple[str, ...]) -> Iterator[str | None]:
        """What worked, what is known, what is listed; the list is asked for only when it comes to that."""
        if original in self._server.worked:
            yield self._server.worked[original]
        yield from known
        yield from self._listed_candidates()
        if not self._backend.hosted:
            yield None  # a server that holds just one model uses it when none is named

    def _listed_candidates(self) -> Iterator[str]:
        """From the server's own list: its newest gpt-image model; elsewhere, also the only model, or image model."""
        listed = self._listed()
        newest = sorted(listed, key=lambda entry: entry.created or 0.0, reverse=True)
        gpt_image = [entry.id for entry in newest if entry.id.startswith("gpt-image-")]
        yield from gpt_image[:1]
        if self._backend.hosted:
            return
        of_images = [entry for entry in listed if {entry.model_type, entry.modality} & IMAGE_MODEL_KINDS]
        for group in (listed, of_images):
            if len(group) == 1:
                yield group[0].id

    def _ask_model(self, job: Job, model: str | None) -> Answer:
        """Ask one model, again without each optional field and size that the server refuses by name."""
        known = self._server.rejected.get(model, frozenset())
        request = self._backend.translated(model, job.request)
        for known_name in known:
            request = request.replacing(known_name, None)
        rejected: set[str] = set()
        while True:
            try:
                answer = self._send(job, request)
            except StatusError as err:
                name = self._rejected_field(err, request)
                if name is None:
                    raise
                if name == "size":
                    request = request.replacing(name, FALLBACK_SIZES[request.size])
                else:
                    rejected.add(name)
                    request = request.replacing(name, None)
            else:
                if rejected:  # remembered only after success, which proves that the field was the problem
                    self._server.rejected[model] = known | rejected
                return answer

    def _send(self, job: Job, request: ImageRequest) -> Answer:
        if job.edit is None:
            return self._client.generate(request)
        transparent = self._backend.dialect(request.model).transparent_edits
        files = job.edit.transparent_files if transparent else job.edit.opaque_files
        return self._client.edit(request, image=files.image, mask=files.mask, mask_field=self._mask_field())

    def _mask_field(self) -> str:
        if self._backend.hosted:
            return "mask"
        for entry in self._listed():
            if entry.owned_by and entry.owned_by in MASK_FIELDS:
                return MASK_FIELDS[entry.owned_by]
        return "mask"

    def _rejected_field(self, err: StatusError, request: ImageRequest) -> str | None:
        """The field that this error is about, if it was sent and can be left out or replaced.

        A hosted server's `quality` only when it knows no such field, never for its value: what it makes without it
        could cost more than was chosen.
        """
        if err.case is not Case.REFUSED:
            return None
        if request.size in FALLBACK_SIZES and (_is_about_field(err, "size") or request.size in err.detail.message):
            return "size"
        sent = request.fields()
        for name in OPTIONAL_FIELDS:
            if name in sent and _is_about_field(err, name):
                return None if name == "quality" and not self._may_drop_quality(err) else name
        return None

    def _may_drop_quality(self, err: StatusError) -> bool:
        text = f"{err.detail.code} {err.detail.message}".lower()
        is_unknown = UNKNOWN_FIELD.search(text) is not None and WRONG_VALUE.search(text) is None
        return is_unknown or not self._backend.hosted

    def _listed(self) -> tuple[ModelEntry, ...]:
        """The server's own list of models, empty where it has none to show."""
        listed = self._server.listed
        if listed is None:
            try:
                listed = self._client.models()
            except ImagesApiError as err:
                if err.is_transient:
                    return ()  # not for good: it is asked again the next time
                listed = ()
            self._server.listed = listed
        return listed


def _missing_model_error(missing: dict[str, StatusError], has: list[str]) -> StatusError:
    """The error for a server that has none of the models: what was asked for, and what it has."""
    error = next(iter(missing.values()))
    error.note = f"Asked for: {', '.join(missing)}."
    if has:
        more = ", ..." if len(has) > MAX_MODELS_NAMED else ""
        error.note += f" It has: {', '.join(has[:MAX_MODELS_NAMED])}{more}."
    return error


def _is_about_missing_model(err: StatusError, *, was_last: bool) -> bool:
    """Whether a server says so. One that has several also refuses the request that names none, in words of its own."""
    return err.case is Case.MODEL or (was_last and err.case is Case.REFUSED)


def _is_about_field(err: StatusError, field_name: str) -> bool:
    """Whether an error names a field: as its `param`, in quotation marks, or as the first word of its message.

    `response_format` counts anywhere: nobody writes it in a sentence about something else.
    """
    if err.detail.param == field_name:
        return True
    if field_name == "response_format" and field_name in err.detail.message:
        return True
    pattern = rf"(?:^|['\"`]){field_name}(?:['\"`]| must\b| is\b)"
    return re.search(pattern, err.detail.message, re.IGNORECASE) is not None
