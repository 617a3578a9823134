"""The routes: each request is logged, checked, served, and then delivered as its fault has it."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from . import answers
from .answers import Answer
from .contract import check
from .delivery import Exchange, deliver
from .errors import Refusal
from .faults import Fault, FaultQueue, Moment
from .flavours import FLAVOURS, Flavour
from .keys import authorize
from .knobs import Knobs
from .page import index_page
from .records import RequestLog
from .studio import Gallery, Picture, produce
from .wire import Call, read_call

logger = logging.getLogger("emulator")

Work = Callable[[web.Request, Call, Fault | None], Awaitable[Answer]]
_SLOW_S = 1.0


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
    app = web.Application()
    app.on_shutdown.append(handlers.hang_up)
    app.on_cleanup.append(handlers.close)
    app.router.add_get("/", handlers.index)
    app.router.add_get("/log", handlers.show_log)
    for name in state.models:
        flavour = FLAVOURS[name]
        images = functools.partial(handlers.images, name)
        app.router.add_post(f"{flavour.base_path}/images/generations", images)
        app.router.add_post(f"{flavour.base_path}/images/{flavour.edit_route}", images)
        if flavour.auth != "comfy":
            app.router.add_get(f"{flavour.base_path}/models", functools.partial(handlers.list_models, name))
    app.router.add_get(FLAVOURS[state.server].picture_path, handlers.picture)
    app.router.add_route("*", "/{path:.*}", handlers.unknown)
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
        text = index_page(self._state.server, self._state.gallery.newest(12), self._picture_path)
        return web.Response(text=text, content_type="text/html")

    async def show_log(self, request: web.Request) -> web.Response:
        """Return the request log as JSON, without secrets."""
        return web.json_response([record.summary() for record in self._state.log.snapshot()])

    async def images(self, name: str, request: web.Request) -> web.StreamResponse:
        """Generate or edit."""
        route = "generations" if request.path.endswith("/generations") else "edits"
        work = functools.partial(self._draw, name, route)
        return await self._serve(request, route, FLAVOURS[name], work)

    async def list_models(self, name: str, request: web.Request) -> web.StreamResponse:
        """List the models with their release times."""
        return await self._serve(request, "models", FLAVOURS[name], functools.partial(self._models, name))

    async def picture(self, request: web.Request) -> web.StreamResponse:
        """Hand out a picture of an earlier answer."""
        return await self._serve(request, "pictures", self._flavour, self._fetch)

    async def unknown(self, request: web.Request) -> web.StreamResponse:
        """Refuse what is not a route."""
        return await self._serve(request, "", self._flavour, self._no_route)

    async def _serve(self, request: web.Request, route: str, flavour: Flavour, work: Work) -> web.StreamResponse:
        log = self._state.log
        number = log.arrive(request.method, request.path, request.query, request.headers)
        exchange = Exchange(request, number, log, self._state.faults.take(route))
        self._exchanges[number] = exchange
        try:
            await self._play(exchange, flavour, work)
        except Refusal as refusal:
            exchange.fault = None
            await _send_refusal(exchange, refusal, flavour)
        except ConnectionError:
            logger.debug("request %d: the client left", number)
        finally:
            del self._exchanges[number]
        return exchange.response

    async def _play(self, exchange: Exchange, flavour: Flavour, work: Work) -> None:
        fault = exchange.fault
        if fault is not None and fault.kind.moment is not Moment.ANSWER:
            await asyncio.sleep(fault.details.get("delay_s", 0))
        if fault is not None and fault.kind.moment is Moment.ARRIVAL:
            exchange.reset()
            return
        call = await read_call(exchange.request)
        exchange.log.note_body(exchange.number, call.fields, call.files)
        if fault is not None and fault.kind.moment is Moment.REFUSAL:
            await deliver(exchange, answers.fault_answer(fault, flavour.error_shape))
            return
        answer = answers.spoil(await work(exchange.request, call, fault), fault)
        if answer.pictures:
            exchange.log.note_bill(exchange.number, answer.pictures)
        if fault is not None and fault.kind.moment is Moment.ANSWER:
            await asyncio.sleep(fault.details.get("delay_s", _SLOW_S if fault.name == "slow" else 0))
        await deliver(exchange, answer)

    async def _draw(self, name: str, route: str, request: web.Request, call: Call, fault: Fault | None) -> Answer:
        loop, state, flavour = asyncio.get_running_loop(), self._state, FLAVOURS[name]
        due = loop.time() + state.knobs.delay_s
        authorize(flavour.auth, _lower(request.headers), state.api_key)
        if flavour.needs_api_version and not request.query.get("api-version"):
            raise Refusal(404, "Resource not found: the query has no api-version.")
        job = await loop.run_in_executor(self._pool, check, flavour, route, call, state.models[name])
        pictures = await loop.run_in_executor(self._pool, produce, job, flavour, state.knobs)
        await asyncio.sleep(max(0.0, due - loop.time()))
        how = state.knobs.result or flavour.result_for(job.result)
        items = [self._item(request, picture, how, flavour, fault) for picture in pictures]
        return answers.images_answer(job, items, job.size or flavour.default_size, flavour)

    def _item(
        self, request: web.Request, picture: Picture, how: str, flavour: Flavour, fault: Fault | None
    ) -> dict[str, Any]:
        picture = answers.spoil_picture(picture, fault)
        if how == "mixed":
            how = "url" if picture.index % 2 else "b64"
        if how == "relative_url":
            picture = picture.guarded_by(flavour.auth)
        name = self._state.gallery.add(picture)
        origin = self._state.knobs.picture_origin or f"{request.scheme}://{request.host}"
        url = {
            "url": f"{origin}{self._picture_path(name)}",
            "file_path": f"/root/.xinference/image/{name}",
        }.get(how, self._picture_path(name))
        return answers.spoil_item(answers.picture_item(picture, how, url, flavour), fault)

    async def _fetch(self, request: web.Request, call: Call, fault: Fault | None) -> Answer:
        picture = self._state.gallery.find(request.match_info["name"])
        if picture is None:
            raise Refusal(404, "No such picture, or no longer.")
        authorize(picture.guard, _lower(request.headers), self._state.api_key)
        await asyncio.sleep(self._state.knobs.download_delay_s(picture.index))
        picture = answers.spoil_picture(picture, fault)
        return Answer(picture.data, picture.media_type)

    async def _models(self, name: str, request: web.Request, call: Call, fault: Fault | None) -> Answer:
        authorize(FLAVOURS[name].auth, _lower(request.headers), self._state.api_key)
        models = self._state.models[name] or {f"{name}-local": 0}
        items = [
            {"id": model, "object": "model", "created": created, "owned_by": FLAVOURS[name].models_owner}
            for model, created in models.items()
        ]
        return answers.json_answer({"object": "list", "data": items})

    async def _no_route(self, request: web.Request, call: Call, fault: Fault | None) -> Answer:
        if any(resource.canonical == request.path for resource in request.app.router.resources()):
            raise Refusal(405, f"Not allowed to {request.method} on {request.path}.")
        raise Refusal(404, f"Invalid URL ({request.method} {request.path})")

    @property
    def _flavour(self) -> Flavour:
        return FLAVOURS[self._state.server]

    def _picture_path(self, name: str) -> str:
        return self._flavour.picture_path.format(name=name)


async def _send_refusal(exchange: Exchange, refusal: Refusal, flavour: Flavour) -> None:
    try:
        await deliver(exchange, answers.refusal_answer(refusal, flavour.error_shape))
    except ConnectionError:
        logger.debug("request %d: the client left before it was refused", exchange.number)


def _lower(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}
