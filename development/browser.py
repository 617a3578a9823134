"""A Chromium for the tests of the editor and for its screenshots: where it is found, how it is got and started.

It reaches nothing outside of this computer. `python -m development.browser` installs one where there is none.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, BrowserContext, Playwright, ViewportSize, expect, sync_playwright
from playwright.sync_api import Error as PlaywrightError

from development.console import Failed

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
    "The editor is tested in Chromium, and none starts. On Debian and Ubuntu: apt-get install chromium. Elsewhere, "
    "install Chromium or Chrome and set CHROMIUM to the path of its program."
)


class ChromiumNotFound(Failed):
    """There is no Chromium to start; the message says how to get it."""


def candidates() -> list[tuple[str | None, str | None]]:
    """The browsers to try, each as path and channel.

    That is what CHROMIUM names; or else the Chromium of this computer, or the one that Playwright has installed, and
    then Chrome.
    """
    named = os.environ.get("CHROMIUM")
    if named:
        return [(named, None)]
    return [(shutil.which("chromium") or shutil.which("chromium-browser"), None), (None, "chrome")]


@contextmanager
def started_browser() -> Iterator[Browser]:
    """A running Chromium without a window. Raises ChromiumNotFound."""
    expect.set_options(timeout=TIMEOUT_MS)
    with sync_playwright() as playwright:
        browser = launched(playwright)
        try:
            yield browser
        finally:
            browser.close()


def launched(playwright: Playwright) -> Browser:
    """Start the first browser that starts. Raises ChromiumNotFound."""
    reasons = [HOW_TO_GET_CHROMIUM]
    for path, channel in candidates():
        try:
            return playwright.chromium.launch(executable_path=path, channel=channel, args=ARGUMENTS, timeout=TIMEOUT_MS)
        except PlaywrightError as err:
            reasons.append(str(err))
    raise ChromiumNotFound("\n".join(reasons))


@contextmanager
def visitor(browser: Browser, *, locale: str = "en-US") -> Iterator[BrowserContext]:
    """Somebody with that language, whose tabs share what the browser remembers, and share nothing with others."""
    context = browser.new_context(viewport=WINDOW, locale=locale)
    context.set_default_timeout(TIMEOUT_MS)
    try:
        yield context
    finally:
        context.close()


def why_not() -> str:
    """Why no browser starts; nothing if one does."""
    try:
        with started_browser():
            return ""
    except ChromiumNotFound as err:
        return str(err)


def install_commands() -> list[list[str]]:
    """What can bring a browser here, in the order of preference."""
    commands = [[sys.executable, "-m", "playwright", "install", "chromium"]]
    if shutil.which("apt-get"):
        # -n: sudo fails instead of asking for a password.
        as_root = ["sudo", "-n"] if shutil.which("sudo") else []
        commands.append([*as_root, "apt-get", "update"])
        commands.append([*as_root, "apt-get", "install", "-y", "--no-install-recommends", "chromium"])
    return commands


def main() -> int:
    """Get a browser where there is none; the tests that need none run without one, so this is no failure."""
    for command in install_commands():
        if why_not():
            subprocess.run(command, check=False)
    if reason := why_not():
        print(reason, file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
