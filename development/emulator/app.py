"""The routes: each request is logged, checked, served, and then delivered as its fault has it."""

from __future__ import annotations

import asyncio
import base64
import functools
import itertools
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any

from aiohttp import web

from .delivery import Exchange
from .faults import BAD_PICTURES, STATUSES, FaultQueue, spoil_answer, spoil_item
from .flavours import FLAVOURS
from .job import Flavour
from .keys import authorize
from .page import index_page
from .records import RequestRecord
from .studio import Knobs, Picture, produce
from .wire import Answer, Call, Refusal, json_answer, read_call

logger = logging.getLogger("emulator")

Work = Callable[[web.Request, Call, str], Awaitable[Answer]]
MAX_KEPT_PICTURES = 200
# Comfy.org's credits for a picture: 211 for a dollar.
CREDITS = {"low": 1.27, "medium": 11.18, "high": 44.52, "auto": 11.18}


class App:
    """The requests of one emulator: its routes, its log, its faults, and the pictures that can be had.

    `models` maps the flavours that are served to their models and the release times of these; no models mean any.
    """

    def __init__(
        self, server: str, knobs: Knobs, api_key: str | None, models: Mapping[str, Mapping[str, int]], keep_files: bool
    ) -> None:
        self.log: list[RequestRecord] = []
        self.paid_pictures = 0
        self.faults = FaultQueue()
        self._flavour = FLAVOURS[server]
        self._server = server
        self._knobs = knobs
        self._api_key = api_key
        self._models = models
        self._keep_files = keep_files
        self._pictures: dict[str, Picture] = {}
        self._numbers = itertools.count(1)
        self._exchanges: set[Exchange] = set()

    def build(self) -> web.Application:
        """Return an application with its routes."""
        app = web.Application(client_max_size=64 * 1024**2)  # a little more than OpenAI takes
        app.on_shutdown.append(self._hang_up)
        app.router.add_get("/", self._index)
        app.router.add_get("/log", self._show_log)
        for name in self._models:
            flavour = FLAVOURS[name]
            for path, route in (("generations", "generations"), (flavour.edit_route, "edits")):
                handler = self._serving(route, flavour, functools.partial(self._draw, name, route == "edits"))
                app.router.add_post(f"{flavour.base_path}/images/{path}", handler)
            if flavour.auth != "comfy":
                handler = self._serving("models", flavour, functools.partial(self._list_models, name))
                app.router.add_get(f"{flavour.base_path}/models", handler)
        app.router.add_get(self._flavour.picture_path, self._serving("pictures", self._flavour, self._fetch))
        app.router.add_route("*", "/{path:.*}", self._serving("", self._flavour, self._no_route))
        return app

    async def _hang_up(self, app: web.Application) -> None:
        """Cut off every request that is still being served, so that its client notices at once."""
        for exchange in self._exchanges:
            exchange.reset()

    async def _index(self, request: web.Request) -> web.Response:
        """Show what this is and what it drew last."""
        path = self._flavour.picture_path
        # An SVG is there to hurt whoever opens it.
        shown = [(name, picture) for name, picture in self._pictures.items() if "svg" not in picture.media_type]
        newest = [(path.format(name=name), picture.prompt) for name, picture in shown[:-13:-1]]
        return web.Response(text=index_page(self._server, newest), content_type="text/html")

    async def _show_log(self, request: web.Request) -> web.Response:
        """Return the request log as JSON, without secrets."""
        return web.json_response([record.summary() for record in [*self.log]])

    def _serving(
        self, route: str, flavour: Flavour, work: Work
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        """Return the handler of a route: it logs each request and lets `work` answer it, or a fault spoil that."""

        async def handle(request: web.Request) -> web.StreamResponse:
            exchange = Exchange(request, self._note(request), self.faults.take(route))
            self._exchanges.add(exchange)
            try:
                await self._play(exchange, flavour, work)
            except ConnectionError:
                logger.info("request %d: the client left", exchange.record.number)
            finally:
                self._exchanges.remove(exchange)
            return exchange.response

        return handle

    def _note(self, request: web.Request) -> RequestRecord:
        headers = {name.lower(): value for name, value in request.headers.items()}
        query = dict(request.query)
        record = RequestRecord(next(self._numbers), request.method, request.path, query, headers, time.monotonic())
        self.log.append(record)
        return record

    async def _play(self, exchange: Exchange, flavour: Flavour, work: Work) -> None:
        fault, record = exchange.fault, exchange.record
        name = fault.name if fault else ""
        if fault and name == "drop_before":
            await asyncio.sleep(fault.delay_s)
            exchange.reset()
            return
        call = await read_call(exchange.request)
        record.fields = call.fields
        record.files = call.files if self._keep_files else tuple(replace(part, data=b"") for part in call.files)
        try:
            if fault and name in STATUSES:
                raise fault.refusal()
            answer = spoil_answer(await work(exchange.request, call, name), name)
        except Refusal as refusal:
            # A fault spoils good answers only.
            exchange.fault = None
            answer = _refusal_answer(refusal, flavour)
        record.billed = answer.pictures
        self.paid_pictures += answer.pictures
        await asyncio.sleep(fault.delay_s if fault else 0)
        await exchange.deliver(answer)

    async def _draw(self, name: str, editing: bool, request: web.Request, call: Call, fault: str) -> Answer:
        """Generate or edit."""
        flavour = FLAVOURS[name]
        due = time.monotonic() + self._knobs.delay_s
        self._authorize(flavour.auth, request)
        if flavour.auth == "api-key" and not request.query.get("api-version"):
            raise Refusal(404, "Resource not found: the query has no api-version.")
        job = flavour.read(call, self._models[name], editing=editing)
        # Drawing takes a processor; the event loop stays free for the requests that wait.
        size, pictures = await asyncio.to_thread(produce, job, flavour, self._knobs)
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        items = [self._item(request, picture, job.result, flavour, fault) for picture in pictures]
        headers = {}
        if flavour.auth == "comfy":
            headers["X-Comfy-Credits-Used"] = f"{CREDITS[job.quality] * len(items):.2f}"
        return json_answer(flavour.answer(job, items, size), headers=headers, pictures=len(items))

    def _item(
        self, request: web.Request, picture: Picture, result: str, flavour: Flavour, fault: str
    ) -> dict[str, Any]:
        kind = self._knobs.result or ("b64" if result == "b64" else flavour.url_kind)
        if kind == "mixed":
            kind = "url" if picture.index % 2 else "b64"
        if kind == "relative_url":
            picture = replace(picture, guard=flavour.auth)
        if fault in BAD_PICTURES:
            media_type, data = BAD_PICTURES[fault]
            picture = replace(picture, data=data, media_type=media_type)
        name = secrets.token_hex(16)
        self._pictures[name] = picture
        if len(self._pictures) > MAX_KEPT_PICTURES:
            del self._pictures[next(iter(self._pictures))]  # the oldest
        path = self._flavour.picture_path.format(name=name)
        b64 = base64.b64encode(picture.data).decode() if kind == "b64" else None
        urls = {"url": f"{request.scheme}://{request.host}{path}", "file_path": f"/root/.xinference/image/{name}.jpg"}
        item = {"b64_json": b64} if b64 else {"url": urls.get(kind, path)}
        return spoil_item({**flavour.item_extras, **item}, fault)

    async def _fetch(self, request: web.Request, call: Call, fault: str) -> Answer:
        """Hand out a picture of an earlier answer."""
        picture = self._pictures.get(request.match_info["name"])
        if picture is None:
            raise Refusal(404, "No such picture, or no longer.")
        self._authorize(picture.guard, request)
        await asyncio.sleep(self._knobs.download_delay_s(picture.index))
        media_type, data = BAD_PICTURES.get(fault, (picture.media_type, picture.data))
        return Answer(data, media_type)

    async def _list_models(self, name: str, request: web.Request, call: Call, fault: str) -> Answer:
        """List the models with their release times."""
        self._authorize(FLAVOURS[name].auth, request)
        models, listed = self._models[name] or {f"{name}-local": 0}, FLAVOURS[name].listed
        items = [{"id": model, "object": "model", "created": created, **listed} for model, created in models.items()]
        return json_answer({"object": "list", "data": items})

    async def _no_route(self, request: web.Request, call: Call, fault: str) -> Answer:
        """Refuse what is not a route."""
        raise Refusal(404, f"Invalid URL ({request.method} {request.path})")

    def _authorize(self, auth: str, request: web.Request) -> None:
        headers = {name.lower(): value for name, value in request.headers.items()}
        authorize(auth, headers, self._api_key)


def _refusal_answer(refusal: Refusal, flavour: Flavour) -> Answer:
    headers = dict(refusal.headers)
    body = flavour.error_body(refusal) if refusal.body is None else refusal.body
    if isinstance(body, str):
        media_type = headers.pop("Content-Type", "text/plain; charset=utf-8")
        return Answer(body.encode(), media_type, refusal.status, headers)
    return json_answer(body, refusal.status, headers=headers)
