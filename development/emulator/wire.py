"""What travels: requests as they were read off the network, and answers, or refusals, before they go there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aiohttp import BodyPartReader, web
from aiohttp.http_exceptions import HttpProcessingError


@dataclass(frozen=True)
class FilePart:
    """One file of a multipart body, as it was sent."""

    field: str
    filename: str | None
    content_type: str
    data: bytes


@dataclass
class RequestRecord:
    """One request. `headers` are by lower-case name; `fields` is the JSON body or the text parts of the multipart.

    `started` and `answered` are monotonic seconds; `answered` and `status` stay None until an answer was handed to the
    network completely. `billed` is the number of pictures that it cost.
    """

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    started: float
    fields: dict[str, Any] = field(default_factory=dict)
    files: tuple[FilePart, ...] = ()
    answered: float | None = None
    status: int | None = None
    billed: int = 0

    def find(self, *names: str | None) -> FilePart | None:
        """Return the first file in a field of one of these names."""
        for part in self.files:
            if part.field in names:
                return part
        return None

    def file(self, name: str) -> FilePart:
        """Return the first file of that field name. Raises KeyError when there is none."""
        part = self.find(name)
        if part is None:
            raise KeyError(name)
        return part


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

    `param` and `code` are those of OpenAI's error object: the field that is wrong, and a word for what is wrong. `text`
    replaces the body that the server would make of these.
    """

    status: int
    message: str
    param: str | None = None
    code: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    text: str | None = None


async def read_body(request: web.Request, record: RequestRecord) -> None:
    """Read the whole body into the record. Raises Refusal when it is neither JSON nor multipart."""
    try:
        if request.content_type == "multipart/form-data":
            await _read_multipart(request, record)
        elif request.method == "POST":
            record.fields = dict(await request.json())
    except (TypeError, ValueError, HttpProcessingError) as err:
        raise Refusal(400, f"We could not parse the body of your request: {err}.") from err


async def _read_multipart(request: web.Request, record: RequestRecord) -> None:
    files: list[FilePart] = []
    async for part in await request.multipart():
        if not isinstance(part, BodyPartReader) or part.name is None:
            raise ValueError("a part has no name")
        data = bytes(await part.read())
        content_type = part.headers.get("Content-Type", "")
        # A part with neither a file name nor a media type is text; with only one of them it is a broken file.
        if part.filename is None and (not content_type or content_type.startswith("text/plain")):
            record.fields[part.name] = data.decode()
        else:
            files.append(FilePart(part.name, part.filename, content_type, data))
    record.files = tuple(files)
