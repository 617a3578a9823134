"""A Chromium for the tests of the editor and for its screenshots: where it is found, and how it is started.

It reaches nothing outside of this computer.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, BrowserContext, ViewportSize, expect, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = (
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)
WINDOW = ViewportSize(width=1400, height=800)
# For everything that is waited for: a machine that does other work meanwhile is slow, not broken.
TIMEOUT_MS = 60_000

HOW_TO_GET_CHROMIUM = (
    "The editor is tested in Chromium, and there is none. On Debian and Ubuntu: apt-get install chromium. Elsewhere, "
    "install Chromium or Chrome and set CHROMIUM to the path of its program."
)


class ChromiumNotFound(RuntimeError):
    """There is no Chromium to start; the message says how to get it."""


def chromium() -> str:
    """The path of the browser: what CHROMIUM names, or the first of the usual names. Raises ChromiumNotFound."""
    named = os.environ.get("CHROMIUM")
    found = next(filter(None, map(shutil.which, [named] if named else NAMES)), None)
    if found is None:
        raise ChromiumNotFound(f"CHROMIUM is {named}, and that is no program." if named else HOW_TO_GET_CHROMIUM)
    return found


@contextmanager
def started_browser() -> Iterator[Browser]:
    """A running Chromium without a window. Raises ChromiumNotFound."""
    path = chromium()
    expect.set_options(timeout=TIMEOUT_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS, timeout=TIMEOUT_MS)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def visitor(browser: Browser, *, locale: str = "en-US") -> Iterator[BrowserContext]:
    """Somebody with that language, whose tabs share what the browser remembers, and share nothing with others."""
    context = browser.new_context(viewport=WINDOW, locale=locale)
    context.set_default_timeout(TIMEOUT_MS)
    try:
        yield context
    finally:
        context.close()
