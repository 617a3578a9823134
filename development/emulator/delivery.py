"""How a response reaches the network: whole, in drops, half, without end, or not at all."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Iterator

from aiohttp import web

from .faults import Fault
from .wire import RequestRecord

CHUNK = b"A" * 65_536
HEAD = b'{"created": 1, "data": [{"b64_json": "'


async def deliver(request: web.Request, record: RequestRecord, whole: web.Response, fault: Fault) -> web.StreamResponse:
    """Send a response in the way that the fault has it. Raises ConnectionError when the client leaves first."""
    if fault.name == "drop_after":
        drop(request)
        return whole
    body = whole.body if isinstance(whole.body, bytes) else b""
    response = web.StreamResponse(status=whole.status, headers=whole.headers)
    response.headers["x-request-id"] = f"req_{secrets.token_hex(16)}"
    response.content_length = None if fault.name == "endless_body" else len(body)
    transport = request.transport  # which a request has no more once the server stops
    await response.prepare(request)
    # Noted before the last byte goes out, so that a client that has its answer finds it in the record.
    record.status, record.answered = whole.status, time.monotonic()
    try:
        for piece, pause_s in _pieces(body, fault):
            await response.write(piece)
            await asyncio.sleep(pause_s)
        if fault.name == "drop_during":
            raise ConnectionAbortedError  # as if the client had left
        await response.write_eof()
    except ConnectionError:
        record.status = record.answered = None
        if request.transport is not None:
            request.transport.close()
        raise
    except asyncio.CancelledError:  # the server stops: what is still to be sent would keep the connection open
        if transport is not None:
            transport.abort()
        raise
    return response


def _pieces(body: bytes, fault: Fault) -> Iterator[tuple[bytes, float]]:
    """A body, or what the fault leaves of it, in pieces; each with a pause, in seconds, after it."""
    if fault.name == "drip":
        for byte in body:
            yield bytes([byte]), fault.interval_s
    elif fault.name == "drop_during":
        # The half has to leave the socket's buffer before the connection goes.
        yield body[: len(body) // 2], 0.05
    elif fault.name == "endless_body":
        yield HEAD, 0
        while True:
            yield CHUNK, 0
    else:
        yield body, 0


def drop(request: web.Request) -> None:
    """Drop the connection at once: what the client still sends or waits for is lost."""
    if request.transport is not None:
        request.transport.abort()
