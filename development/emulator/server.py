"""The emulator: a server in a thread of its own, with its routes, its settings, its log and its faults."""

from __future__ import annotations

import asyncio
import base64
import functools
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from aiohttp import web

from development.app_server import AppServer

from .delivery import deliver, drop
from .faults import BAD_PICTURES, FREE, NO_FAULT, STATUSES, Fault, FaultQueue, spoilt
from .flavours import FLAVOURS
from .job import Flavour, Job, Size
from .studio import produce
from .wire import Refusal, RequestRecord, read_body

# What serves a route: it makes an answer of a request, spoilt by the fault of that name.
Work = Callable[[RequestRecord, str], Awaitable[web.Response]]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
MAX_KEPT_PICTURES = 200
CREDITS = 1.27  # of Comfy.org, for a picture


class Emulator(AppServer):
    """A development server on loopback that speaks the OpenAI Images API as `server`, a name of `FLAVOURS`.

    Use it as a context manager. `models` names what it has, from the oldest to the newest. Raises OSError when the port
    is taken.

    While it runs, these can be set, until `reset`:
    `delay_s`: seconds between a complete POST and its answer.
    `result`: how pictures come back: "b64", "url", "relative_url" or "mixed" (b64 and url).
    `picture_delay_s`: seconds before each download, one value or one for each picture of an answer.
    `picture_format`: "PNG", "JPEG" or "WEBP", None for the server's own.
    `answer_size`: draw in this size, whatever was asked.
    """

    def __init__(
        self,
        server: str = "openai",
        *,
        port: int = 0,
        api_key: str = "sk-emulated",
        delay_s: float = 0.0,
        models: Sequence[str] | None = None,
    ) -> None:
        super().__init__(self._build, port)
        self.server = server
        self.api_key = api_key
        self._flavour = FLAVOURS[server]
        self._models = models
        self.requests: list[RequestRecord] = []  # in order of arrival
        self._faults = FaultQueue()
        self._pictures: dict[str, tuple[int, str, bytes]] = {}  # by their paths: index in the answer, media type, file
        self.reset()
        self.delay_s = delay_s

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
        """Empty the log, drop the faults, and put back whatever was set."""
        self.clear()
        self.delay_s = 0.0
        self.result = "b64"
        self.picture_delay_s: float | Sequence[float] = 0.0
        self.picture_format: str | None = None
        self.answer_size: Size | None = None

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
            draw, list_models = (functools.partial(work, flavour) for work in (self._draw, self._list_models))
            add("POST", f"{flavour.base_path}/images/generations", self._serving("generations", flavour, draw))
            if flavour.edits:
                add("POST", f"{flavour.base_path}/images/edits", self._serving("edits", flavour, draw))
            if flavour.auth != "comfy":
                add("GET", f"{flavour.base_path}/models", self._serving("", flavour, list_models))
        add("GET", "/pictures/{name}", self._serving("pictures", self._flavour, self._fetch))
        add("*", "/{path:.*}", self._serving("", self._flavour, self._no_route))
        return app

    def _serving(self, route: str, flavour: Flavour, work: Work) -> Handler:
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

        return handle

    async def _play(
        self, request: web.Request, record: RequestRecord, fault: Fault, flavour: Flavour, work: Work
    ) -> web.StreamResponse:
        delay_s = fault.delay_s
        if fault.name == "drop_before":
            await asyncio.sleep(delay_s)
            drop(request)
            return web.Response()
        try:
            await read_body(request, record)
            if fault.name in STATUSES:
                raise fault.refusal()
            response = spoilt(await work(record, fault.name), fault.name)
        except Refusal as refusal:
            response = refusal.response(flavour.error_body)
            fault = NO_FAULT  # it spoils good answers only
        await asyncio.sleep(delay_s)
        return await deliver(request, record, response, fault)

    async def _draw(self, flavour: Flavour, request: RequestRecord, fault: str) -> web.Response:
        """Generate or edit."""
        due = time.monotonic() + self.delay_s
        authorize(flavour.auth, request, self.api_key)
        job = flavour.read(request, self._models_of(flavour), editing=request.path.endswith("/edits"))
        files = await self._files(job, flavour, fault)
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        items = [self._item(request, index, *file) for index, file in enumerate(files)]
        request.billed = 0 if fault in FREE else len(items)
        headers = {"X-Comfy-Credits-Used": f"{CREDITS * len(items):.2f}"} if flavour.auth == "comfy" else {}
        data = [{**flavour.item_extras, **item} for item in items]
        return web.json_response({"created": int(time.time()), "data": data, **flavour.extras}, headers=headers)

    async def _files(self, job: Job, flavour: Flavour, fault: str) -> list[tuple[str, bytes]]:
        """The pictures of a job, each behind its media type."""
        if fault in BAD_PICTURES:
            return [BAD_PICTURES[fault]] * job.n
        kind = self.picture_format or flavour.picture_format
        # Drawing takes a processor; the event loop stays free for the requests that wait.
        pictures = await asyncio.to_thread(produce, job, flavour, self.answer_size or job.size, kind)
        return [(f"image/{kind.lower()}", picture) for picture in pictures]

    def _item(self, request: RequestRecord, index: int, media_type: str, file: bytes) -> dict[str, str]:
        """Return the entry of a picture in an answer, and keep what its URL leads to."""
        if self.result == "b64" or (self.result == "mixed" and index % 2 == 0):
            return {"b64_json": base64.b64encode(file).decode()}
        path = f"/pictures/{secrets.token_hex(16)}"
        self._pictures[path] = index, media_type, file
        if len(self._pictures) > MAX_KEPT_PICTURES:
            del self._pictures[next(iter(self._pictures))]  # the oldest
        return {"url": path if self.result == "relative_url" else f"http://{request.headers['host']}{path}"}

    async def _fetch(self, request: RequestRecord, fault: str) -> web.Response:
        """Hand out a picture of an earlier answer."""
        if request.path not in self._pictures:
            raise Refusal(404, "No such picture, or no longer.")
        index, media_type, file = self._pictures[request.path]
        delays = self.picture_delay_s
        await asyncio.sleep(delays[index % len(delays)] if isinstance(delays, Sequence) else delays)
        media_type, file = BAD_PICTURES.get(fault, (media_type, file))
        return web.Response(body=file, content_type=media_type)

    async def _list_models(self, flavour: Flavour, request: RequestRecord, fault: str) -> web.Response:
        """List the models, from the oldest to the newest."""
        authorize(flavour.auth, request, self.api_key)
        items: list[dict[str, Any]] = []
        for created, model in enumerate(self._models_of(flavour) or [f"{self.server}-local"], 1):
            items.append({"id": model, "object": "model", "created": created, **flavour.listed})
        return web.json_response({"object": "list", "data": items})

    def _models_of(self, flavour: Flavour) -> Sequence[str]:
        return flavour.models if self._models is None else self._models

    async def _no_route(self, request: RequestRecord, fault: str) -> web.Response:
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
