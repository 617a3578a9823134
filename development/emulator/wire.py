"""What travels: requests as they were read off the network, and refusals before they go there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError


@dataclass(frozen=True)
class FilePart:
    """One file of a multipart body, as it was sent."""

    field: str
    filename: str
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

    def file(self, *names: str) -> FilePart:
        """Return the first file in a field of one of these names. Raises KeyError when there is none."""
        part = self.find(*names)
        if part is None:
            raise KeyError(names)
        return part


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

    def response(self, error_body: Callable[[Refusal], dict[str, Any]]) -> web.Response:
        """Return the response, whose body a server makes with `error_body`."""
        if self.text is None:
            return web.json_response(error_body(self), status=self.status, headers=self.headers)
        headers = {"Content-Type": "text/plain; charset=utf-8", **self.headers}
        return web.Response(body=self.text.encode(), status=self.status, headers=headers)


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
    for name, value in (await request.post()).items():
        if isinstance(value, web.FileField):
            with value.file as file:
                files.append(FilePart(name, value.filename, value.content_type, file.read()))
        else:
            record.fields[name] = value
    record.files = tuple(files)
