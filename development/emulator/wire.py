"""Reading a request body off the network: JSON or multipart, into one `Call`."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import BodyPartReader, web
from aiohttp.http_exceptions import HttpProcessingError

from .errors import Refusal
from .records import FilePart
from .rules import MAX_FILE_BYTES

MAX_JSON_BYTES = 1024 * 1024
_CHUNK_BYTES = 256 * 1024


@dataclass(frozen=True)
class Call:
    """A request as it was understood; `fault` is set when it could not be, and is to be raised later."""

    content_type: str
    fields: dict[str, Any]
    files: tuple[FilePart, ...] = ()
    repeated: tuple[str, ...] = ()
    fault: Refusal | None = None


async def read_call(request: web.Request) -> Call:
    """Read the whole body, whatever it is. Holds at most the documented size of each file in memory."""
    if request.content_type == "multipart/form-data":
        return await _read_multipart(request)
    body, too_large = await _read_limited(request.content.read, MAX_JSON_BYTES)
    if too_large:
        return Call(request.content_type, {}, fault=Refusal(413, "The request body is too large."))
    if request.content_type != "application/json":
        return Call(request.content_type, {})
    return _read_json(body)


def _read_json(body: bytes) -> Call:
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        fault = Refusal(400, "We could not parse the JSON body of your request. It must be a JSON object.")
        return Call("application/json", {}, fault=fault)
    return Call("application/json", fields)


async def _read_multipart(request: web.Request) -> Call:
    fields: dict[str, Any] = {}
    files: list[FilePart] = []
    seen: list[str] = []
    fault: Refusal | None = None
    try:
        reader = await request.multipart()
        while (part := await reader.next()) is not None:
            if not isinstance(part, BodyPartReader) or part.name is None:
                fault = Refusal(400, "Every part of the form needs a name.")
                continue
            seen.append(part.name)
            data, too_large = await _read_limited(part.read_chunk, MAX_FILE_BYTES)
            if too_large:
                fault = Refusal(413, f"File '{part.name}' exceeds 50MB.", param=part.name)
            _sort_part(part, data, fields, files)
    except (ValueError, HttpProcessingError):
        fault = Refusal(400, "We could not parse the multipart form of your request.")
    repeated = tuple(dict.fromkeys(name for name in seen if seen.count(name) > 1))
    return Call("multipart/form-data", fields, tuple(files), repeated, fault)


def _sort_part(part: BodyPartReader, data: bytes, fields: dict[str, Any], files: list[FilePart]) -> None:
    content_type = part.headers.get("Content-Type", "")
    name = part.name or ""
    # A part with neither a file name nor a media type is text; with only one of them it is a broken file.
    if part.filename is None and (not content_type or content_type.startswith("text/plain")):
        fields[name] = data.decode("utf-8", "replace")
    else:
        files.append(FilePart(name, part.filename, content_type, data))


async def _read_limited(read: Callable[[int], Awaitable[bytes]], limit: int) -> tuple[bytes, bool]:
    """Read to the end and return it; of more than `limit` bytes return none, and True."""
    kept = bytearray()
    size = 0
    while True:
        chunk = await read(_CHUNK_BYTES)
        if not chunk:
            return bytes(kept), size > limit
        size += len(chunk)
        kept += chunk
        if size > limit:
            kept.clear()
