"""How an answer reaches the network: whole, in drops, half, without end, or not at all.

Every way raises ConnectionError when the client leaves first; the record then shows no status.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import struct
import time
from dataclasses import dataclass, field

from aiohttp import web

from .faults import Fault
from .records import RequestRecord
from .wire import Answer

HUGE_BYTES = 2 * 1024**3
CHUNK = b"A" * 65_536
HEAD, TAIL = b'{"created": 1, "data": [{"b64_json": "', b'"}]}'


@dataclass(eq=False)
class Exchange:
    """One request on its way through the emulator, and the response that it got."""

    request: web.Request
    record: RequestRecord
    fault: Fault | None = None
    response: web.StreamResponse = field(default_factory=web.Response)

    async def deliver(self, answer: Answer) -> None:
        """Send the answer in the way that the fault has it."""
        name = self.fault.name if self.fault else ""
        if name == "drop_after":
            self.reset()
        elif name == "drop_during":
            await self._half(answer)
        elif name == "drip":
            await self._drip(answer)
        elif name in ("endless_body", "huge_base64"):
            await self._flood(answer, is_endless=name == "endless_body")
        else:
            await self._whole(answer)

    def reset(self) -> None:
        """Drop the connection at once: what the client still sends or waits for is lost."""
        transport = self.request.transport
        if transport is None:
            return
        # Lingering for no time makes the kernel send RST instead of a polite FIN.
        linger = struct.pack("hh" if os.name == "nt" else "ii", 1, 0)
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        transport.abort()

    def _note(self, status: int | None) -> None:
        self.record.answered = None if status is None else time.monotonic()
        self.record.status = status

    async def _open(self, answer: Answer, length: int | None) -> web.StreamResponse:
        """Send the head of an answer; without a length its body is chunked."""
        self.response = web.StreamResponse(status=answer.status, headers=dict(answer.headers))
        self.response.headers["x-request-id"] = f"req_{secrets.token_hex(16)}"
        self.response.headers["Content-Type"] = answer.media_type
        self.response.content_length = length
        await self.response.prepare(self.request)
        return self.response

    async def _whole(self, answer: Answer) -> None:
        response = await self._open(answer, len(answer.body))
        # Noted before the last byte goes out, so that a client that has its answer finds it in the record.
        self._note(answer.status)
        try:
            await response.write(answer.body)
            await response.write_eof()
        except ConnectionError:
            self._note(None)
            raise

    async def _half(self, answer: Answer) -> None:
        response = await self._open(answer, len(answer.body))
        await response.write(answer.body[: len(answer.body) // 2])
        # The half has to leave the socket's buffer before the connection goes.
        await asyncio.sleep(0.05)
        if self.request.transport is not None:
            self.request.transport.close()

    async def _drip(self, answer: Answer) -> None:
        interval_s = self.fault.details.get("interval_s", 1) if self.fault else 0
        response = await self._open(answer, len(answer.body))
        for place in range(len(answer.body)):
            await response.write(answer.body[place : place + 1])
            await asyncio.sleep(interval_s)
        self._note(answer.status)

    async def _flood(self, answer: Answer, *, is_endless: bool) -> None:
        """Send base64, or the beginning of a picture, and then far more than anybody wants."""
        chunks = HUGE_BYTES // len(CHUNK)
        declared = self.fault is not None and self.fault.details.get("declared")
        response = await self._open(answer, len(HEAD) + chunks * len(CHUNK) + len(TAIL) if declared else None)
        await response.write(HEAD if answer.media_type == "application/json" else answer.body[:64])
        while is_endless or chunks:
            await response.write(CHUNK)
            chunks -= 1
        await response.write(TAIL)
        await response.write_eof()
        self._note(answer.status)
