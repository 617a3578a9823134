"""What travels: a request as it was read off the network, and an answer, or a refusal, before it goes there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aiohttp import BodyPartReader, web
from aiohttp.http_exceptions import HttpProcessingError

from .records import FilePart


@dataclass(frozen=True)
class Call:
    """The body of a request, JSON or multipart. `problem` says why it could not be read, if so."""

    content_type: str
    fields: dict[str, Any] = field(default_factory=dict)
    files: tuple[FilePart, ...] = ()
    problem: str | None = None

    def file(self, *names: str | None) -> FilePart | None:
        """Return the first file in a field of one of these names."""
        return next((part for part in self.files if part.field in names), None)


@dataclass(frozen=True)
class Answer:
    """A response in one piece; `pictures` is how many it bills."""

    body: bytes
    media_type: str = "application/json"
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    pictures: int = 0


def json_answer(data: Any, status: int = 200, **more: Any) -> Answer:
    return Answer(json.dumps(data).encode(), status=status, **more)


@dataclass(eq=False)
class Refusal(Exception):
    """A request that is answered with an error status, and costs nothing.

    `kind` and `code` are the `type` and `code` of OpenAI's error object, `param` the field that is wrong. `body`
    replaces the body that the server would make of these: a text is sent as it is.
    """

    status: int
    message: str
    param: str | None = None
    code: str | None = None
    kind: str = "invalid_request_error"
    headers: Mapping[str, str] = field(default_factory=dict)
    body: dict[str, Any] | str | None = None


async def read_call(request: web.Request) -> Call:
    """Read the whole body, whatever it is."""
    if request.content_type == "multipart/form-data":
        return await _read_multipart(request)
    body = await request.read()
    if request.content_type != "application/json":
        return Call(request.content_type)
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError) as err:
        return Call("application/json", problem=str(err))
    if not isinstance(fields, dict):
        return Call("application/json", problem="It is not an object")
    return Call("application/json", fields)


async def _read_multipart(request: web.Request) -> Call:
    fields: dict[str, Any] = {}
    files: list[FilePart] = []
    problem = None
    try:
        reader = await request.multipart()
        while (part := await reader.next()) is not None:
            if not isinstance(part, BodyPartReader) or part.name is None:
                problem = "A part has no name"
                continue
            data = bytes(await part.read())
            content_type = part.headers.get("Content-Type", "")
            # A part with neither a file name nor a media type is text; with only one of them it is a broken file.
            if part.filename is None and (not content_type or content_type.startswith("text/plain")):
                fields[part.name] = data.decode("utf-8", "replace")
            else:
                files.append(FilePart(part.name, part.filename, content_type, data))
    except (ValueError, HttpProcessingError) as err:
        problem = str(err)
    return Call("multipart/form-data", fields, tuple(files), problem)
