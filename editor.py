"""The requests of the editor's settings page: show what is set, change it, try the connection.

Each is answered by a plain function, from a request to a status and JSON. The stored key is never part of a response.
Whoever changes settings must sit at this computer and use ComfyUI's own page: no other website, no other host.
"""

from __future__ import annotations

import json
import os
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

from .api_client import ImagesClient
from .backends import Account, choose_backend, known_prices, server_host
from .comfyui import CANCELLED, JsonAnswer, PageRequest, Routes
from .errors import ImagesApiError
from .image_models import GPT_QUALITY
from .settings import (
    EDITOR_CHOICES,
    KEY_AND_ADDRESS,
    Settings,
    SettingsError,
    SettingsFiles,
    Values,
    checked,
    editor_values,
    is_base_url,
    read_settings,
    settings_by_source,
)

# The same as in pyproject.toml, which not every installation has.
PACKAGE = {"name": "openai-dalle", "version": "0.1.0"}

SETTINGS_PATH = "/openai_dalle/settings"
TEST_PATH = "/openai_dalle/test"
MAX_BODY_BYTES = 16 * 1024
SHOWN_MODELS = 5  # of a gateway's hundreds

KEY, ADDRESS = KEY_AND_ADDRESS
FIELDS = (KEY, ADDRESS, *EDITOR_CHOICES)
_writing = threading.Lock()  # two changes at once would lose one
FORWARDED_BY_PROXY = ("forwarded", "x-forwarded-for", "x-real-ip")

ELSEWHERE = (
    "Settings can be changed only in a browser on the computer that runs ComfyUI. From elsewhere, write them into the "
    "file .env of this node's folder."
)
NOT_THIS_PAGE = "Settings can be changed only from ComfyUI's own page."
NO_FOLDER = "This ComfyUI has no folder for settings. Write them into the file .env of this node's folder."
NO_STRINGS = "The settings must be one JSON object of strings."
KEY_ALONE = "A key is stored only together with the address of its server."
KEY_DROPPED = "The stored key was for another server, and is removed. Enter the key for this one."
USES_ACCOUNT = "The nodes use your Comfy.org account, which is asked when you run. There is no key to try."


def routes(files: Callable[[], SettingsFiles]) -> Routes:
    """The functions for ComfyUI's web server. `files` says where settings are kept at that moment."""
    return {
        ("GET", SETTINGS_PATH): lambda request: show(request, files()),
        ("POST", SETTINGS_PATH): lambda request: change(request, files()),
        ("POST", TEST_PATH): lambda request: test_connection(request, files()),
    }


def show(request: PageRequest, files: SettingsFiles) -> JsonAnswer:
    """What is set, where each value came from, and what an image costs with it. Everything but the key itself."""
    problem = "" if is_at_this_computer(request) else ELSEWHERE
    if files.editor is None:
        problem = NO_FOLDER
    state = {"package": PACKAGE, "cancelled": CANCELLED, "read_only": problem}
    try:
        state["fields"] = _fields(files)
        settings = read_settings(files)
    except SettingsError as err:
        return 200, {"fields": {}, **state, "pays": "", "prices": {}, "problem": str(err)}
    pays = "Comfy.org" if settings.backend == "comfy" else server_host(settings)
    return 200, {**state, "pays": pays, "prices": _prices(settings), "problem": ""}


def change(request: PageRequest, files: SettingsFiles) -> JsonAnswer:
    """Store the settings that the request names, and take away those that it names as empty.

    A changed address takes the stored key away: it was meant for another server.
    """
    if (refused := refusal(request)) is not None:
        return refused
    if files.editor is None:
        return _error(501, NO_FOLDER)
    try:
        values = _changes(request.body)
        _raise_for_fixed(values, files)
        with _writing:
            stored = _stored(files.editor)
            changed = _merged(stored, values)
            checked(changed, "in the settings page")
            write_privately(files.editor, json.dumps(changed, indent=2))
    except SettingsError as err:
        return _error(400, str(err))
    except OSError as err:
        return _error(500, f"The file {files.editor} could not be written: {err.strerror}.")
    is_dropped = KEY in stored and KEY not in {**changed, **values}
    status, state = show(request, files)
    return status, {**state, "notice": KEY_DROPPED if is_dropped else ""}


def test_connection(request: PageRequest, files: SettingsFiles) -> JsonAnswer:
    """Ask the server that is set for its models, which costs nothing."""
    if (refused := refusal(request)) is not None:
        return refused
    try:
        settings = read_settings(files)
        if settings.backend == "comfy":
            return 200, {"reached": False, "message": USES_ACCOUNT}
        client = ImagesClient(choose_backend(settings, Account(), comfy_api_base=""))
        names = [entry.id for entry in client.models()]
    except (ImagesApiError, SettingsError) as err:
        return 200, {"reached": False, "message": str(err)}
    return 200, {"reached": True, "message": _reached(server_host(settings), names)}


def refusal(request: PageRequest) -> JsonAnswer | None:
    """Why this request may change nothing; None if it may."""
    if not is_at_this_computer(request):
        return _error(403, ELSEWHERE)
    if not is_from_own_page(request):
        return _error(403, NOT_THIS_PAGE)
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        return _error(415, "Send JSON, as application/json.")
    if len(request.body) > MAX_BODY_BYTES:
        return _error(413, "That is too long for settings.")
    return None


def is_at_this_computer(request: PageRequest) -> bool:
    """Whether the browser runs here. Behind a proxy nobody can tell; another host name may be anybody's website."""
    host = _parsed("//" + request.headers.get("host", "")).hostname or ""
    is_direct = request.headers.keys().isdisjoint(FORWARDED_BY_PROXY)
    return is_direct and _is_loopback(request.remote) and (host == "localhost" or _is_loopback(host))


def is_from_own_page(request: PageRequest) -> bool:
    """Whether a page of this ComfyUI sent it. A browser names the sending page with every POST."""
    origin = _parsed(request.headers.get("origin", "")).netloc.lower()
    is_same_site = request.headers.get("sec-fetch-site", "same-origin") == "same-origin"
    return is_same_site and origin != "" and origin == request.headers.get("host", "").lower()


def write_privately(file: Path, text: str) -> None:
    """Replace a file at once, readable for its owner only. Raises OSError."""
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=file.parent)  # with mode 0600
    try:
        with open(handle, "w", encoding="utf-8") as temporary:
            temporary.write(text)
        os.replace(name, file)
    except OSError:
        with suppress(OSError):
            os.unlink(name)
        raise


def _parsed(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError:
        return urlsplit("")


def _is_loopback(address: str) -> bool:
    try:
        parsed = ip_address(address)
    except ValueError:
        return False
    return (getattr(parsed, "ipv4_mapped", None) or parsed).is_loopback


def _fields(files: SettingsFiles) -> dict[str, dict[str, Any]]:
    try:
        sources = settings_by_source(files)
    except SettingsError:
        sources = settings_by_source(SettingsFiles(files.env))  # the page's own file is damaged: it can replace it
    return {name: _field(name, sources) for name in FIELDS}


def _field(name: str, sources: list[tuple[str, Values]]) -> dict[str, Any]:
    """One setting as the page shows it: its value, where that came from, and whether the page may change it."""
    source, value = _origin(name, sources)
    field = {"source": source, "fixed": _is_fixed(name, sources)}
    if name == KEY:
        return {**field, "is_set": value is not None}
    shown = str(value or Settings.model_fields[name].default or "")
    if name == ADDRESS and not is_base_url(shown):
        shown = ""  # somebody may have put a login into an address, which is refused, and not shown either
    return {**field, "value": shown}


def _origin(name: str, sources: list[tuple[str, Values]]) -> tuple[str, Any]:
    for source, found in sources:  # the one that takes precedence comes first
        if name in found:
            return source, found[name]
    return "", None


def _is_fixed(name: str, sources: list[tuple[str, Values]]) -> bool:
    """Whether the environment or `.env` sets it, or of key and address the other one."""
    together = KEY_AND_ADDRESS if name in KEY_AND_ADDRESS else (name,)
    for source, found in sources:
        if source != "editor" and not found.keys().isdisjoint(together):
            return True
    return False


def _prices(settings: Settings) -> dict[str, dict[str, float]]:
    """By the id of the node and the value of its widget `quality`, which the first node does not have."""
    prices = known_prices(settings)
    dalle_2 = {"": prices[settings.dalle2_quality]} if settings.dalle2_quality in prices else {}
    dalle_3 = {quality: prices[gpt] for quality, gpt in GPT_QUALITY.items() if gpt in prices}
    return {"OpenAIDalle2": dalle_2, "OpenAIDalle3": dalle_3}


def _changes(body: bytes) -> dict[str, str]:
    """What a body asks for, by name; "" for what is to be taken away. Raises SettingsError."""
    values = _strings_in(body)
    if unknown := values.keys() - set(FIELDS):
        raise SettingsError(f"The settings page cannot set {', '.join(sorted(unknown))[:80]}.")
    if ADDRESS in values:
        values[ADDRESS] = values[ADDRESS].rstrip("/")  # as `Settings` has it: the same server keeps its key
    if values.get(KEY) and ADDRESS not in values:
        raise SettingsError(KEY_ALONE)
    return values


def _strings_in(body: bytes) -> dict[str, str]:
    """The strings of a JSON object, without blanks around them. Raises SettingsError."""
    try:
        values = json.loads(body)
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise SettingsError(NO_STRINGS)
    strings: dict[str, str] = {}
    for name, value in values.items():
        if not isinstance(value, str):
            raise SettingsError(NO_STRINGS)
        strings[name] = value.strip()
    return strings


def _raise_for_fixed(values: Values, files: SettingsFiles) -> None:
    sources = settings_by_source(SettingsFiles(files.env))
    for name in values:
        if _is_fixed(name, sources):
            raise SettingsError(
                f"{name.upper()} cannot be changed here: the environment or the file .env takes precedence."
            )


def _stored(file: Path) -> Values:
    try:
        return editor_values(file)
    except SettingsError:  # damaged: what is stored now replaces it
        return {}


def _merged(stored: Values, values: dict[str, str]) -> Values:
    """What is stored once these values are; the key goes with the address that it was for."""
    merged = dict(stored)
    if ADDRESS in values and values[ADDRESS] != stored.get(ADDRESS, "").rstrip("/"):
        merged.pop(KEY, None)
    for name, value in values.items():
        if value:
            merged[name] = value
        else:
            merged.pop(name, None)
    return merged


def _reached(host: str, names: list[str]) -> str:
    if not names:
        return f"{host} responds. It lists no models."
    for_images_first = sorted(names, key=lambda name: "image" not in name and "dall-e" not in name)
    listed = ", ".join(for_images_first[:SHOWN_MODELS])
    if len(names) > SHOWN_MODELS:
        listed += f" and {len(names) - SHOWN_MODELS} more"
    return f"{host} responds. Its models: {listed}."


def _error(status: int, message: str) -> JsonAnswer:
    return status, {"error": message}
