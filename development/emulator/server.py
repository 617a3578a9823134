"""The emulator: a server in a thread of its own, with its routes, its settings, its log and its faults."""

from __future__ import annotations

import asyncio
import base64
import functools
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

from aiohttp import web

from development.app_server import AppServer

from .delivery import deliver, drop
from .faults import BAD_PICTURES, NO_FAULT, STATUSES, Fault, FaultQueue, spoilt
from .flavours import FLAVOURS
from .job import Flavour, Job
from .studio import Knobs, Picture, produce
from .wire import Answer, Refusal, RequestRecord, json_answer, read_body

# What serves a route: it makes an answer of a request, spoilt by the fault of that name.
Work = Callable[[RequestRecord, str], Awaitable[Answer]]
MAX_KEPT_PICTURES = 200
CREDITS = 1.27  # of Comfy.org, for a picture


class Emulator(AppServer, Knobs):
    """A development server on loopback that speaks the OpenAI Images API as `server`, a name of `FLAVOURS`.

    Use it as a context manager. `models` names what it has, from the oldest to the newest; without `keep_files` the log
    drops the bytes of uploads. Raises OSError when the port is taken.
    """

    def __init__(
        self,
        server: str = "openai",
        *,
        port: int = 0,
        api_key: str = "sk-emulated",
        delay_s: float = 0.0,
        models: Sequence[str] | None = None,
        keep_files: bool = True,
    ) -> None:
        super().__init__(self._build, port)
        self.reset_knobs(delay_s)
        self.server = server
        self.api_key = api_key
        self._flavour = FLAVOURS[server]
        self._models = models
        self._keep_files = keep_files
        self.requests: list[RequestRecord] = []  # in order of arrival
        self._faults = FaultQueue()
        self._pictures: dict[str, Picture] = {}  # by their paths

    @property
    def base_url(self) -> str:
        """What OPENAI_BASE_URL should be for this server; the origin alone is what --comfy-api-base should be."""
        return f"{self.origin}{self._flavour.base_path}"

    @property
    def posts(self) -> tuple[RequestRecord, ...]:
        """The requests that asked for pictures, whether or not they got any."""
        return tuple(r for r in list(self.requests) if r.method == "POST" and "/images/" in r.path)

    @property
    def paid_pictures(self) -> int:
        """How many pictures have been billed since the start or the last `clear`."""
        return sum(record.billed for record in self.requests)

    def clear(self) -> None:
        """Empty the log and drop the faults that have not struck."""
        self.requests.clear()
        self._faults.clear()

    def reset(self) -> None:
        """Empty the log, drop the faults, and put every knob back in its place."""
        self.clear()
        self.reset_knobs()

    def fail(self, fault: Fault) -> None:
        """Let something go wrong with the next request of the fault's route, after the faults before it."""
        self._faults.add(fault)

    def fail_at_random(self, faults: Sequence[Fault], probability: float, seed: int) -> None:
        """Let each request fail with one of `faults` by chance; how often a fault may strike is ignored."""
        self._faults.at_random(faults, probability, seed)

    def _build(self) -> web.Application:
        """Return an application with its routes. OpenAI and Comfy.org's proxy always come together."""
        app = web.Application(client_max_size=64 * 1024**2)  # a little more than OpenAI takes
        add = app.router.add_route
        for name in ("openai", "comfy") if self.server in ("openai", "comfy") else (self.server,):
            flavour = FLAVOURS[name]
            generate = functools.partial(self._draw, flavour, editing=False)
            add("POST", f"{flavour.base_path}/images/generations", self._serving("generations", flavour, generate))
            if flavour.edits:
                edit = functools.partial(self._draw, flavour, editing=True)
                add("POST", f"{flavour.base_path}/images/edits", self._serving("edits", flavour, edit))
            if flavour.auth != "comfy":
                list_models = functools.partial(self._list_models, flavour)
                add("GET", f"{flavour.base_path}/models", self._serving("", flavour, list_models))
        add("GET", self._flavour.picture_path, self._serving("pictures", self._flavour, self._fetch))
        add("*", "/{path:.*}", self._serving("", self._flavour, self._no_route))
        return app

    def _serving(
        self, route: str, flavour: Flavour, work: Work
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        """Return the handler of a route: it logs each request and lets `work` answer it, or a fault spoil that.

        `route` is that of faults, "" if it has none.
        """

        async def handle(request: web.Request) -> web.StreamResponse:
            headers = {name.lower(): value for name, value in request.headers.items()}
            record = RequestRecord(request.method, request.path, dict(request.query), headers, time.monotonic())
            self.requests.append(record)
            try:
                return await self._play(request, record, self._faults.take(route), flavour, work)
            except ConnectionError:
                return web.Response()  # the client left, and nobody gets this
            finally:
                if not self._keep_files:
                    record.files = tuple(replace(part, data=b"") for part in record.files)

        return handle

    async def _play(
        self, request: web.Request, record: RequestRecord, fault: Fault, flavour: Flavour, work: Work
    ) -> web.StreamResponse:
        if fault.name == "drop_before":
            await asyncio.sleep(fault.delay_s)
            drop(request)
            return web.Response()
        delay_s = fault.delay_s
        try:
            await read_body(request, record)
            if fault.name in STATUSES:
                raise fault.refusal()
            answer = spoilt(await work(record, fault.name), fault.name)
        except Refusal as refusal:
            answer = _refusal_answer(refusal, flavour)
            fault = NO_FAULT  # it spoils good answers only
        record.billed = answer.pictures
        await asyncio.sleep(delay_s)
        return await deliver(request, record, answer, fault)

    async def _draw(self, flavour: Flavour, request: RequestRecord, fault: str, *, editing: bool) -> Answer:
        """Generate or edit."""
        due = time.monotonic() + self.delay_s
        authorize(flavour.auth, request, self.api_key)
        job = flavour.read(request, self._models_of(flavour), editing=editing)
        # Drawing takes a processor; the event loop stays free for the requests that wait.
        pictures = await asyncio.to_thread(produce, job, flavour, self)
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        items = [self._item(request, picture, job, flavour, fault) for picture in pictures]
        headers = {"X-Comfy-Credits-Used": f"{CREDITS * len(items):.2f}"} if flavour.auth == "comfy" else {}
        body = {"created": int(time.time()), "data": items, **flavour.extras}
        return json_answer(body, headers=headers, pictures=len(items))

    def _item(self, request: RequestRecord, picture: Picture, job: Job, flavour: Flavour, fault: str) -> dict[str, Any]:
        """Return the entry of a picture in an answer, and keep what its URL leads to."""
        kind = self.result or ("b64" if job.result == "b64" else flavour.url_kind)
        if kind == "mixed":
            kind = "url" if picture.index % 2 else "b64"
        if fault in BAD_PICTURES:
            media_type, data = BAD_PICTURES[fault]
            picture = replace(picture, data=data, media_type=media_type)
        name = secrets.token_hex(16)
        path = self._flavour.picture_path.format(name=name)
        self._pictures[path] = picture
        if len(self._pictures) > MAX_KEPT_PICTURES:
            del self._pictures[next(iter(self._pictures))]  # the oldest
        if kind == "b64":
            item = {"b64_json": base64.b64encode(picture.data).decode()}
        elif kind == "url":
            item = {"url": f"http://{request.headers['host']}{path}"}
        else:
            item = {"url": f"/root/.xinference/image/{name}.jpg" if kind == "file_path" else path}
        return {**flavour.item_extras, **item}

    async def _fetch(self, request: RequestRecord, fault: str) -> Answer:
        """Hand out a picture of an earlier answer."""
        picture = self._pictures.get(request.path)
        if picture is None:
            raise Refusal(404, "No such picture, or no longer.")
        await asyncio.sleep(self.download_delay_s(picture.index))
        media_type, data = BAD_PICTURES.get(fault, (picture.media_type, picture.data))
        return Answer(data, media_type)

    async def _list_models(self, flavour: Flavour, request: RequestRecord, fault: str) -> Answer:
        """List the models, from the oldest to the newest."""
        authorize(flavour.auth, request, self.api_key)
        models = self._models_of(flavour) or [f"{self.server}-local"]
        items = [
            {"id": model, "object": "model", "created": created, **flavour.listed}
            for created, model in enumerate(models, 1)
        ]
        return json_answer({"object": "list", "data": items})

    def _models_of(self, flavour: Flavour) -> Sequence[str]:
        return flavour.models if self._models is None else self._models

    async def _no_route(self, request: RequestRecord, fault: str) -> Answer:
        """Refuse what is not a route."""
        raise Refusal(404, f"Invalid URL ({request.method} {request.path})")


def authorize(auth: str, request: RequestRecord, api_key: str) -> None:
    """Raise Refusal unless the request holds what `auth`, that of a `Flavour`, asks for."""
    headers = request.headers
    token = headers.get("authorization", "").removeprefix("Bearer ")
    if auth == "comfy":
        # With both, the token of the login wins over the key. Any token is good.
        if not token and not headers.get("x-api-key", "").startswith("comfyui-"):
            raise Refusal(401, "Unauthorized: Please login first to use this node.", code="invalid_api_key")
    elif auth == "api-key":
        if headers.get("api-key") != api_key:
            raise Refusal(401, "Access denied due to invalid subscription key or wrong API endpoint.", code="401")
        if "api-version" not in request.query:
            raise Refusal(404, "Resource not found: the query has no api-version.")
    elif auth == "bearer" and token != api_key:
        raise Refusal(401, "Incorrect API key provided.", code="invalid_api_key")


def _refusal_answer(refusal: Refusal, flavour: Flavour) -> Answer:
    if refusal.text is None:
        return json_answer(flavour.error_body(refusal), refusal.status, headers=refusal.headers)
    headers = dict(refusal.headers)
    media_type = headers.pop("Content-Type", "text/plain; charset=utf-8")
    return Answer(refusal.text.encode(), media_type, refusal.status, headers)
