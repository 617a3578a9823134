"""The routes: each request is logged, checked, served, and then delivered as its fault has it."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import functools
import logging
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from .delivery import Exchange
from .faults import BAD_PICTURES, STATUSES, FaultQueue, spoil_answer, spoil_item
from .flavours import FLAVOURS
from .keys import authorize
from .job import Flavour
from .page import index_page
from .records import RequestLog
from .studio import Gallery, Knobs, Picture, produce
from .wire import Answer, Call, Refusal, json_answer, read_call

logger = logging.getLogger("emulator")

Work = Callable[[web.Request, Call, str], Awaitable[Answer]]
# Comfy.org's credits for a picture: 211 for a dollar.
CREDITS = {"low": 1.27, "medium": 11.18, "high": 44.52, "auto": 11.18}


@dataclass
class AppState:
    """What the handlers share with the emulator.

    `models` maps the flavours that are served to their models and the release times of these; no models mean any.
    """

    server: str
    knobs: Knobs
    api_key: str | None
    models: Mapping[str, Mapping[str, int]]
    log: RequestLog
    faults: FaultQueue = field(default_factory=FaultQueue)
    gallery: Gallery = field(default_factory=Gallery)


def build_app(state: AppState) -> web.Application:
    """Return the application for a server in this state; the thread pool draws until the app is cleaned up."""
    handlers = Handlers(state)
    app = web.Application(client_max_size=64 * 1024**2)  # a little more than OpenAI takes
    app.on_shutdown.append(handlers.hang_up)
    app.on_cleanup.append(handlers.close)
    app.router.add_get("/", handlers.index)
    app.router.add_get("/log", handlers.show_log)
    for name in state.models:
        flavour = FLAVOURS[name]
        for path, route in (("generations", "generations"), (flavour.edit_route, "edits")):
            handler = handlers.serving(route, flavour, functools.partial(handlers.draw, name, route == "edits"))
            app.router.add_post(f"{flavour.base_path}/images/{path}", handler)
        if flavour.auth != "comfy":
            handler = handlers.serving("models", flavour, functools.partial(handlers.list_models, name))
            app.router.add_get(f"{flavour.base_path}/models", handler)
    flavour = FLAVOURS[state.server]
    app.router.add_get(flavour.picture_path, handlers.serving("pictures", flavour, handlers.fetch))
    app.router.add_route("*", "/{path:.*}", handlers.serving("", flavour, handlers.no_route))
    return app


class Handlers:
    """The requests of one emulator."""

    def __init__(self, state: AppState) -> None:
        self._state = state
        # Drawing takes a processor; the event loop stays free for the requests that wait.
        self._pool = ThreadPoolExecutor(max_workers=4, thread_name_prefix="emulator-painter")
        self._exchanges: dict[int, Exchange] = {}

    async def hang_up(self, app: web.Application) -> None:
        """Cut off every request that is still being served, so that its client notices at once."""
        for exchange in self._exchanges.values():
            exchange.reset()

    async def close(self, app: web.Application) -> None:
        """Let the painters finish."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    async def index(self, request: web.Request) -> web.Response:
        """Show what this is and what it drew last."""
        path = FLAVOURS[self._state.server].picture_path
        newest = [(path.format(name=name), picture.prompt) for name, picture in self._state.gallery.newest(12)]
        return web.Response(text=index_page(self._state.server, newest), content_type="text/html")

    async def show_log(self, request: web.Request) -> web.Response:
        """Return the request log as JSON, without secrets."""
        return web.json_response([record.summary() for record in self._state.log.snapshot()])

    def serving(
        self, route: str, flavour: Flavour, work: Work
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        """Return the handler of a route: it logs each request and lets `work` answer it, or a fault spoil that."""

        async def handle(request: web.Request) -> web.StreamResponse:
            log = self._state.log
            number = log.arrive(request.method, request.path, request.query, request.headers)
            exchange = Exchange(request, number, log, self._state.faults.take(route))
            self._exchanges[number] = exchange
            try:
                await self._play(exchange, flavour, work)
            except ConnectionError:
                logger.debug("request %d: the client left", number)
            finally:
                del self._exchanges[number]
            return exchange.response

        return handle

    async def _play(self, exchange: Exchange, flavour: Flavour, work: Work) -> None:
        fault = exchange.fault
        name = fault.name if fault else ""
        if fault and name == "drop_before":
            await asyncio.sleep(fault.delay_s)
            exchange.reset()
            return
        call = await read_call(exchange.request)
        exchange.log.note_body(exchange.number, call.fields, call.files)
        try:
            if fault and name in STATUSES:
                raise fault.refusal()
            answer = spoil_answer(await work(exchange.request, call, name), name)
        except Refusal as refusal:
            # A fault spoils good answers only.
            exchange.fault = None
            answer = _refusal_answer(refusal, flavour)
        if answer.pictures:
            exchange.log.note_bill(exchange.number, answer.pictures)
        await asyncio.sleep(fault.delay_s if fault else 0)
        await exchange.deliver(answer)

    async def draw(self, name: str, editing: bool, request: web.Request, call: Call, fault: str) -> Answer:
        """Generate or edit."""
        loop, state, flavour = asyncio.get_running_loop(), self._state, FLAVOURS[name]
        due = loop.time() + state.knobs.delay_s
        self._authorize(flavour.auth, request)
        if flavour.auth == "api-key" and not request.query.get("api-version"):
            raise Refusal(404, "Resource not found: the query has no api-version.")
        job = flavour.read(call, state.models[name], editing=editing)
        size, pictures = await loop.run_in_executor(self._pool, produce, job, flavour, state.knobs)
        await asyncio.sleep(max(0.0, due - loop.time()))
        items = [self._item(request, picture, job.result, flavour, fault) for picture in pictures]
        headers = {}
        if flavour.auth == "comfy":
            headers["X-Comfy-Credits-Used"] = f"{CREDITS[job.quality] * len(items):.2f}"
        return json_answer(flavour.answer(job, items, size), headers=headers, pictures=len(items))

    def _item(
        self, request: web.Request, picture: Picture, result: str, flavour: Flavour, fault: str
    ) -> dict[str, Any]:
        kind = self._state.knobs.result or ("b64" if result == "b64" else flavour.url_kind)
        if kind == "mixed":
            kind = "url" if picture.index % 2 else "b64"
        if kind == "relative_url":
            picture = dataclasses.replace(picture, guard=flavour.auth)
        if fault in BAD_PICTURES:
            media_type, data = BAD_PICTURES[fault]
            picture = dataclasses.replace(picture, data=data, media_type=media_type)
        name = self._state.gallery.add(picture)
        path = FLAVOURS[self._state.server].picture_path.format(name=name)
        b64 = base64.b64encode(picture.data).decode() if kind == "b64" else None
        urls = {"url": f"{request.scheme}://{request.host}{path}", "file_path": f"/root/.xinference/image/{name}.jpg"}
        item = {"b64_json": b64} if b64 else {"url": urls.get(kind, path)}
        return spoil_item({**flavour.item_extras, **item}, fault)

    async def fetch(self, request: web.Request, call: Call, fault: str) -> Answer:
        """Hand out a picture of an earlier answer."""
        picture = self._state.gallery.find(request.match_info["name"])
        if picture is None:
            raise Refusal(404, "No such picture, or no longer.")
        self._authorize(picture.guard, request)
        await asyncio.sleep(self._state.knobs.download_delay_s(picture.index))
        media_type, data = BAD_PICTURES.get(fault, (picture.media_type, picture.data))
        return Answer(data, media_type)

    async def list_models(self, name: str, request: web.Request, call: Call, fault: str) -> Answer:
        """List the models with their release times."""
        self._authorize(FLAVOURS[name].auth, request)
        models, listed = self._state.models[name] or {f"{name}-local": 0}, FLAVOURS[name].listed
        items = [{"id": model, "object": "model", "created": time, **listed} for model, time in models.items()]
        return json_answer({"object": "list", "data": items})

    async def no_route(self, request: web.Request, call: Call, fault: str) -> Answer:
        """Refuse what is not a route."""
        raise Refusal(404, f"Invalid URL ({request.method} {request.path})")

    def _authorize(self, auth: str, request: web.Request) -> None:
        headers = {name.lower(): value for name, value in request.headers.items()}
        authorize(auth, headers, self._state.api_key)


def _refusal_answer(refusal: Refusal, flavour: Flavour) -> Answer:
    headers = dict(refusal.headers)
    body = flavour.error_body(refusal) if refusal.body is None else refusal.body
    if isinstance(body, str):
        media_type = headers.pop("Content-Type", "text/plain; charset=utf-8")
        return Answer(body.encode(), media_type, refusal.status, headers)
    return json_answer(body, refusal.status, headers=headers)
