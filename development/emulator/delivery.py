"""How an answer reaches the network: whole, late, in drops, half, without end, or not at all.

Every way raises ConnectionError when the client leaves first; the log then shows no status.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from aiohttp import web

from .answers import Answer
from .faults import Fault
from .records import RequestLog

HUGE_BYTES = 2 * 1024**3
_CHUNK = b"A" * 65_536


@dataclass
class Exchange:
    """One request on its way through the emulator, and the response that it got."""

    request: web.Request
    number: int
    log: RequestLog
    fault: Fault | None = None
    response: web.StreamResponse = field(default_factory=web.Response)

    async def open(self, answer: Answer, *, length: int | None = None) -> web.StreamResponse:
        """Send the head of an answer; without a length its body is chunked."""
        self.response = web.StreamResponse(status=answer.status, headers=dict(answer.headers))
        self.response.headers.setdefault("x-request-id", f"req_{secrets.token_hex(16)}")
        self.response.headers["Content-Type"] = answer.media_type
        self.response.content_length = length
        await self.response.prepare(self.request)
        return self.response

    def reset(self) -> None:
        """Drop the connection at once: what the client still sends or waits for is lost."""
        transport = self.request.transport
        if transport is None:
            return
        # Lingering for no time makes the kernel send RST instead of a polite FIN.
        linger = struct.pack("hh" if os.name == "nt" else "ii", 1, 0)
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        transport.abort()


async def deliver(exchange: Exchange, answer: Answer) -> None:
    """Send the answer in the way that the exchange's fault has it."""
    way = _WAYS.get(exchange.fault.name) if exchange.fault else None
    await (way or _whole)(exchange, answer)


async def _whole(exchange: Exchange, answer: Answer) -> None:
    response = await exchange.open(answer, length=len(answer.body))
    # Noted before the last byte goes out, so that a client that has its answer finds it in the log.
    exchange.log.note_answer(exchange.number, answer.status)
    try:
        await response.write(answer.body)
        await response.write_eof()
    except ConnectionError:
        exchange.log.note_answer(exchange.number, None)
        raise


async def _drip(exchange: Exchange, answer: Answer) -> None:
    interval_s = _detail(exchange, "interval_s", 1.0)
    response = await exchange.open(answer, length=len(answer.body))
    for place in range(len(answer.body)):
        await response.write(answer.body[place : place + 1])
        await asyncio.sleep(interval_s)
    exchange.log.note_answer(exchange.number, answer.status)


async def _endless(exchange: Exchange, answer: Answer) -> None:
    response = await exchange.open(answer)
    await response.write(b'{"data": [{"b64_json": "' if answer.media_type == "application/json" else answer.body[:64])
    while True:
        await response.write(_CHUNK)


async def _huge(exchange: Exchange, answer: Answer) -> None:
    head, tail = b'{"created": 1, "data": [{"b64_json": "', b'"}]}'
    chunks = max(1, int(_detail(exchange, "total_bytes", HUGE_BYTES)) // len(_CHUNK))
    length = len(head) + chunks * len(_CHUNK) + len(tail)
    response = await exchange.open(answer, length=length if _detail(exchange, "declared", 0) else None)
    await response.write(head)
    for _ in range(chunks):
        await response.write(_CHUNK)
    await response.write(tail)
    await response.write_eof()
    exchange.log.note_answer(exchange.number, answer.status)


async def _half(exchange: Exchange, answer: Answer) -> None:
    response = await exchange.open(answer, length=len(answer.body))
    await response.write(answer.body[: len(answer.body) // 2])
    # The half has to leave the socket's buffer before the connection goes.
    await asyncio.sleep(0.05)
    if exchange.request.transport is not None:
        exchange.request.transport.close()


async def _nothing(exchange: Exchange, answer: Answer) -> None:
    exchange.reset()


_WAYS: Mapping[str, Callable[[Exchange, Answer], Awaitable[None]]] = {
    "drip": _drip,
    "endless_body": _endless,
    "huge_base64": _huge,
    "drop_during": _half,
    "drop_after": _nothing,
}


def _detail(exchange: Exchange, name: str, default: float) -> float:
    return float(exchange.fault.details.get(name, default)) if exchange.fault else default
