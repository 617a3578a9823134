"""The routes: each request is logged, checked, served, and then delivered as its fault has it."""

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

from .delivery import deliver, drop
from .faults import BAD_PICTURES, STATUSES, Fault, FaultQueue, spoilt
from .flavours import FLAVOURS
from .job import Flavour, Job
from .studio import Knobs, Picture, produce
from .wire import Answer, Refusal, RequestRecord, json_answer, read_body

# What serves a route: it makes an answer of a request, spoilt by the fault of that name.
Work = Callable[[RequestRecord, str], Awaitable[Answer]]
MAX_KEPT_PICTURES = 200
CREDITS = 1.27  # of Comfy.org, for a picture


class App:
    """The requests of one emulator: its routes, its log, its faults, and the pictures that can be had.

    `models` replaces the models that its server has by itself.
    """

    def __init__(
        self, server: str, knobs: Knobs, api_key: str, models: Sequence[str] | None, *, keep_files: bool
    ) -> None:
        self.log: list[RequestRecord] = []
        self.faults = FaultQueue()
        self._server = server
        self._knobs = knobs
        self._api_key = api_key
        self._models = models
        self._keep_files = keep_files
        self._pictures: dict[str, Picture] = {}  # by their paths
        self._open: list[web.Request] = []

    def build(self) -> web.Application:
        """Return an application with its routes. OpenAI and Comfy.org's proxy always come together."""
        app = web.Application(client_max_size=64 * 1024**2)  # a little more than OpenAI takes
        app.on_shutdown.append(self._hang_up)
        add = app.router.add_route
        for name in ("openai", "comfy") if self._server in ("openai", "comfy") else (self._server,):
            flavour = FLAVOURS[name]
            generate = functools.partial(self._draw, flavour, editing=False)
            add("POST", f"{flavour.base_path}/images/generations", self._serving("generations", flavour, generate))
            if flavour.edits:
                edit = functools.partial(self._draw, flavour, editing=True)
                add("POST", f"{flavour.base_path}/images/edits", self._serving("edits", flavour, edit))
            if flavour.auth != "comfy":
                list_models = functools.partial(self._list_models, flavour)
                add("GET", f"{flavour.base_path}/models", self._serving("", flavour, list_models))
        own = FLAVOURS[self._server]
        add("GET", own.picture_path, self._serving("pictures", own, self._fetch))
        add("*", "/{path:.*}", self._serving("", own, self._no_route))
        return app

    async def _hang_up(self, app: web.Application) -> None:
        """Cut off every request that is still being served, so that its client notices at once."""
        for request in self._open:
            drop(request)

    def _serving(
        self, route: str, flavour: Flavour, work: Work
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        """Return the handler of a route: it logs each request and lets `work` answer it, or a fault spoil that.

        `route` is that of faults, "" if it has none.
        """

        async def handle(request: web.Request) -> web.StreamResponse:
            headers = {name.lower(): value for name, value in request.headers.items()}
            record = RequestRecord(request.method, request.path, dict(request.query), headers, time.monotonic())
            self.log.append(record)
            self._open.append(request)
            try:
                return await self._play(request, record, self.faults.take(route), flavour, work)
            except ConnectionError:
                return web.Response()  # the client left, and nobody gets this
            finally:
                self._open.remove(request)
                if not self._keep_files:
                    record.files = tuple(replace(part, data=b"") for part in record.files)

        return handle

    async def _play(
        self, request: web.Request, record: RequestRecord, fault: Fault | None, flavour: Flavour, work: Work
    ) -> web.StreamResponse:
        name = fault.name if fault else ""
        if fault and name == "drop_before":
            await asyncio.sleep(fault.delay_s)
            drop(request)
            return web.Response()
        delay_s = fault.delay_s if fault else 0
        try:
            await read_body(request, record)
            if fault and name in STATUSES:
                raise fault.refusal()
            answer = spoilt(await work(record, name), name)
        except Refusal as refusal:
            answer = _refusal_answer(refusal, flavour)
            fault = None  # it spoils good answers only
        record.billed = answer.pictures
        await asyncio.sleep(delay_s)
        return await deliver(request, record, answer, fault)

    async def _draw(self, flavour: Flavour, request: RequestRecord, fault: str, *, editing: bool) -> Answer:
        """Generate or edit."""
        due = time.monotonic() + self._knobs.delay_s
        authorize(flavour.auth, request, self._api_key)
        job = flavour.read(request, self._models_of(flavour), editing=editing)
        # Drawing takes a processor; the event loop stays free for the requests that wait.
        pictures = await asyncio.to_thread(produce, job, flavour, self._knobs)
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        items = [self._item(request, picture, job, flavour, fault) for picture in pictures]
        headers = {"X-Comfy-Credits-Used": f"{CREDITS * len(items):.2f}"} if flavour.auth == "comfy" else {}
        body = {"created": int(time.time()), "data": items, **flavour.extras}
        return json_answer(body, headers=headers, pictures=len(items))

    def _item(self, request: RequestRecord, picture: Picture, job: Job, flavour: Flavour, fault: str) -> dict[str, Any]:
        """Return the entry of a picture in an answer, and keep what its URL leads to."""
        kind = self._knobs.result or ("b64" if job.result == "b64" else flavour.url_kind)
        if kind == "mixed":
            kind = "url" if picture.index % 2 else "b64"
        if fault in BAD_PICTURES:
            media_type, data = BAD_PICTURES[fault]
            picture = replace(picture, data=data, media_type=media_type)
        name = secrets.token_hex(16)
        path = FLAVOURS[self._server].picture_path.format(name=name)
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
        await asyncio.sleep(self._knobs.download_delay_s(picture.index))
        media_type, data = BAD_PICTURES.get(fault, (picture.media_type, picture.data))
        return Answer(data, media_type)

    async def _list_models(self, flavour: Flavour, request: RequestRecord, fault: str) -> Answer:
        """List the models, from the oldest to the newest."""
        authorize(flavour.auth, request, self._api_key)
        models = self._models_of(flavour) or [f"{self._server}-local"]
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
