"""One synchronous client for the OpenAI Images API: POST, wait, download, and the list of models.

Its promises: a key goes to its own host only; a response is read within limits of bytes and time; a billed request is
sent again only when it cannot have arrived, or when the server answered with a status that is as a rule not billed
(408, 409, 429, 500, 502, 503, unless its words tell of a lost response), or with a status that no table lists and
`x-should-retry: true`; whatever fails ends in one of the errors of `errors`.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from urllib.parse import quote

import requests
from requests.auth import AuthBase

from .backends import Backend
from .errors import (
    DOWNLOAD_CASES,
    USEFUL_HEADERS,
    Charge,
    StatusCase,
    StatusError,
    UnusableAnswer,
    request_id_line,
)
from .models import ErrorDetail, ImageRequest, ImagesResponse, ModelEntry, ModelList, Picture, shortened
from .net.addresses import (
    absolute_url,
    as_sent,
    is_relative,
    origin,
    refuse_private,
    unfetchable_url_message,
    with_https_of,
)
from .net.retry import Retrier
from .net.transport import HttpRequest, Reply, exchange

log = logging.getLogger("openai-dalle")

MAX_ANSWER_BYTES = 128 * 2**20  # ten images of 9 MiB in base64: an incompressible 1536 x 1536 each
MAX_DOWNLOAD_BYTES = 32 * 2**20  # one image: an incompressible RGBA of 2896 x 2896
MAX_LISTING_BYTES = 2 * 2**20  # the longest list of models, of a gateway to everything, has a quarter of that
DOWNLOAD_READ_TIMEOUT_S = 60.0  # a finished file needs no time to be made
LISTING_TIMEOUT_S = 10.0
MAX_REDIRECTS = 5  # of a download; a POST follows none
MIN_SECRET_CHARACTERS = 4  # a shorter key would be found in every other word
MAX_NAME_CHARACTERS = 200  # of a model in a list

# Whatever looks like a key: OpenAI repeats the ends of one, with asterisks between.
ANY_KEY = r"\b(?:sk|comfyui)-[\w*.-]{4,}|[\w-]{0,64}\*{3,}[\w*-]{0,64}"

CHECK_THE_ADDRESS = "Check OPENAI_BASE_URL (it usually ends in /v1)"


@dataclass(frozen=True)
class Answer:
    """What the API sent for one `request`: pictures (bytes or URLs), and the `credits` used if it says so."""

    request: ImageRequest
    pictures: tuple[Picture, ...]
    credits: float | None = None


class _Headers(AuthBase):
    """Authorizes with fixed headers; being an `auth`, it also keeps `requests` from sending a `.netrc` login."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        self._headers = dict(headers)

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers.update(self._headers)
        return request


NO_AUTH = _Headers({})


class ImagesClient:
    """A client for one backend, to be used from any thread.

    The read timeout of the backend bounds each wait for a byte; a response must be complete within the connect timeout
    + 1.5 x the read timeout.
    """

    def __init__(self, backend: Backend, retrier: Retrier | None = None) -> None:
        self._backend = backend
        self._origin = origin(as_sent(backend.base_url))
        self._auth = _Headers(backend.headers)
        self._retrier = retrier or Retrier()
        self.hide = secrets_hider(backend.headers)

    def generate(self, request: ImageRequest) -> Answer:
        """Images from a prompt. Raises ImagesApiError."""
        return self._post(request, replace(self._http_request("POST", "/images/generations"), json=request.fields()))

    def edit(self, request: ImageRequest, *, image: bytes, mask: bytes, mask_field: str = "mask") -> Answer:
        """Images from a prompt, an image and a mask: PNG files of the same size. Raises ImagesApiError."""
        files = {"image": ("image.png", image, "image/png"), mask_field: ("mask.png", mask, "image/png")}
        post = replace(self._http_request("POST", "/images/edits"), data=request.fields(), files=files)
        return self._post(request, post)

    def models(self) -> tuple[ModelEntry, ...]:
        """The models that the server lists. One try, with short timeouts. Raises ImagesApiError.

        A name that is not one short printable line, or holds a key, is left out: it could not be shown to the user.
        """
        connect_s, read_s = self._backend.timeouts_s
        request = replace(
            self._http_request("GET", "/models"),
            timeout_s=(min(connect_s, LISTING_TIMEOUT_S), min(read_s, LISTING_TIMEOUT_S)),
            total_s=2 * LISTING_TIMEOUT_S,
            limit_bytes=MAX_LISTING_BYTES,
        )
        reply = exchange(request)
        if not reply.is_success:
            raise self._status_error(reply)
        self._raise_unless_complete(reply, charge=Charge.NO)
        try:
            listed = ModelList.model_validate_json(reply.body).data
        except ValueError:
            raise UnusableAnswer("The server's list of models cannot be read.") from None
        return tuple(entry for entry in listed if self._can_be_shown(entry.id))

    def download(self, url: str) -> bytes:
        """The image behind a URL of an answer. Raises ImagesApiError.

        A relative URL belongs to the API and is fetched with its headers, any other without. It must be of the API's
        own origin, or https on a public host; so must each redirect on the way. Anything transient is retried.
        """
        return self._retrier.run(lambda: self._follow(url), repeatable=True)

    def _http_request(self, method: str, route: str) -> HttpRequest:
        return HttpRequest(
            method,
            self._backend.base_url + route,
            auth=self._auth,
            timeout_s=self._backend.timeouts_s,
            total_s=self._backend.total_s,
            limit_bytes=MAX_ANSWER_BYTES,
            params=self._backend.params,
            billed=method == "POST",
        )

    def _post(self, request: ImageRequest, post: HttpRequest) -> Answer:
        def send() -> Answer:
            reply = exchange(post)
            if not reply.is_success:
                raise self._status_error(reply, prompt=request.prompt)
            return self._answer(request, reply)

        return self._retrier.run(send, repeatable=False)

    def _answer(self, request: ImageRequest, reply: Reply) -> Answer:
        pictures = _pictures_in(reply.body)
        if pictures and any(picture.b64_json or picture.url for picture in pictures):
            if reply.cut_off is not None or reply.is_too_large:
                log.warning("A response broke off; its images were read as far as they came.")
            return Answer(request, pictures, _credits(reply.headers))
        self._raise_unless_complete(reply, charge=Charge.LIKELY)
        if pictures is None:
            raise self._unreadable(reply)
        raise UnusableAnswer(
            "The server responded without an image that could be read. Run again.",
            charge=Charge.LIKELY,
            details=[self._id_line(reply)],
        )

    def _status_error(
        self, reply: Reply, rows: tuple[StatusCase, ...] | None = None, *, prompt: str = ""
    ) -> StatusError:
        # A body that broke off is read as far as it came.
        detail = ErrorDetail.parse(bytes(reply.body), self.hide, prompt)
        headers: dict[str, str] = {}
        for name in USEFUL_HEADERS:
            if name in reply.headers:
                headers[name] = self.hide(reply.headers[name])
        return StatusError(reply.status_code, detail, headers=headers, login=self._backend.login, rows=rows)

    def _raise_unless_complete(self, reply: Reply, *, charge: Charge) -> None:
        """Raise for a response that could not be read to its end; one that broke off has a charge of its own."""
        if reply.is_encoded:
            problem = (
                "The server, or something on the way to it, compressed the response in a way that cannot be read. "
                "Configure it to send none, or look at the proxy and the virus scanner of this network."
            )
        elif reply.is_too_large:
            problem = (
                "The server sent a response that is too large to be read. Ask for fewer or smaller images at once."
            )
        elif reply.cut_off is not None:
            raise reply.cut_off
        else:
            return
        raise UnusableAnswer(problem, charge=charge, details=[self._id_line(reply)])

    def _unreadable(self, reply: Reply) -> UnusableAnswer:
        start = bytes(reply.body[: 2**16]).lstrip()
        charge = Charge.LIKELY
        words = ErrorDetail.parse(start, self.hide).message if len(reply.body) <= 2**16 else ""
        if not start:
            what = f"nothing at all. {CHECK_THE_ADDRESS}."
            charge = Charge.MAYBE
        elif start.startswith(b"<"):
            what = f"a web page instead of images. {CHECK_THE_ADDRESS} and the network."
            charge = Charge.UNLIKELY
        elif words:
            what = "words instead of images."
            charge = Charge.MAYBE
        else:
            what = "something that is not a list of images, or only a part of one. Run again later."
        said = f"The server said: {words}" if words else ""
        message = f"The server responded with {what}"
        return UnusableAnswer(message, charge=charge, details=[said, self._id_line(reply)])

    def _follow(self, url: str) -> bytes:
        """The image behind a URL and its redirects, each of which is checked."""
        with_key = is_relative(url)
        address = self._backend.base_url + "/"
        for _ in range(1 + MAX_REDIRECTS):
            address = with_https_of(self._origin, absolute_url(address, url, self.hide))
            is_ours = origin(address) == self._origin
            if not is_ours:
                refuse_private(address, self.hide)
            reply = self._fetch(address, with_key=with_key and is_ours)
            if reply.location is None:
                return bytes(reply.body)
            url = reply.location
            with_key = False  # a redirect is not a URL of the API itself
        raise UnusableAnswer(
            f"The address of an image redirects more than {MAX_REDIRECTS} times.", charge=Charge.PAID_BEFORE
        )

    def _fetch(self, address: str, *, with_key: bool) -> Reply:
        """One hop of a download: a complete image, or a redirect."""
        connect_s, read_s = self._backend.timeouts_s
        reply = exchange(
            HttpRequest(
                "GET",
                address,
                auth=self._auth if with_key else NO_AUTH,
                timeout_s=(connect_s, min(read_s, DOWNLOAD_READ_TIMEOUT_S)),
                total_s=self._backend.total_s,
                limit_bytes=MAX_DOWNLOAD_BYTES,
            )
        )
        if reply.location is not None:
            return reply
        if reply.status_code == 404 and with_key:
            raise UnusableAnswer(unfetchable_url_message(address, self.hide), charge=Charge.PAID_BEFORE)
        if reply.status_code != 200:
            raise self._status_error(reply, DOWNLOAD_CASES)
        self._raise_unless_complete(reply, charge=Charge.PAID_BEFORE)
        return reply

    def _can_be_shown(self, name: str) -> bool:
        return 0 < len(name) <= MAX_NAME_CHARACTERS and name == shortened(self.hide(name), MAX_NAME_CHARACTERS)

    def _id_line(self, reply: Reply) -> str:
        return request_id_line(self.hide(reply.headers.get("x-request-id", "")))


def _pictures_in(body: bytes | bytearray) -> tuple[Picture, ...] | None:
    """The pictures of a response, None if it cannot be read. That error is dropped: it holds the whole response."""
    try:
        return ImagesResponse.parse(body).data
    except (ValueError, RecursionError):
        return None


def secrets_hider(headers: Mapping[str, str]) -> Callable[[str], str]:
    """A function that takes keys out of a text, those of the headers and others: some servers repeat them."""
    known: set[str] = set()
    for value in headers.values():
        secret = value.rpartition(" ")[2]  # what follows "Bearer"
        if len(secret) >= MIN_SECRET_CHARACTERS:
            known |= {re.escape(secret), re.escape(quote(secret, safe=""))}
    longest_first = sorted(known, key=len, reverse=True)
    pattern = re.compile("|".join([*longest_first, ANY_KEY]), re.IGNORECASE)
    return partial(pattern.sub, "***")


def _credits(headers: Mapping[str, str]) -> float | None:
    try:
        value = float(headers.get("x-comfy-credits-used", ""))
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None
