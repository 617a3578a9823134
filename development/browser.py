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
from pathlib import Path

from playwright.sync_api import Browser, BrowserContext, ViewportSize, expect, sync_playwright
from playwright.sync_api import Error as PlaywrightError

from development.console import Failed

# Where Chromium and Chrome are on Linux, macOS and Windows.
USUAL_PLACES = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    *(
        str(Path(os.environ.get(folder, ""), "Google", "Chrome", "Application", "chrome.exe"))
        for folder in ("PROGRAMFILES", "PROGRAMFILES(X86)", "LOCALAPPDATA")
    ),
)
PACKAGES = ("chromium", "fonts-noto-cjk")
INSTALL_TIMEOUT_S = 900
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


class ChromiumNotFound(Failed):
    """There is no Chromium to start; the message says how to get it."""


def installed() -> str | None:
    """The path of this computer's own browser: what CHROMIUM names, or the first in the usual places.

    Raises ChromiumNotFound where CHROMIUM names no program.
    """
    named = os.environ.get("CHROMIUM")
    for place in (named,) if named else USUAL_PLACES:
        if path := shutil.which(place):
            return path
    if named:
        raise ChromiumNotFound(f"CHROMIUM is {named}, and that is no program.")
    return None


@contextmanager
def started_browser() -> Iterator[Browser]:
    """A running Chromium without a window. Raises ChromiumNotFound."""
    path = installed()
    expect.set_options(timeout=TIMEOUT_MS)
    with sync_playwright() as playwright:
        try:
            # Without a path it is the one that Playwright's installer fetched, if that was used.
            browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS, timeout=TIMEOUT_MS)
        except PlaywrightError as err:
            raise ChromiumNotFound(f"{path} does not start: {err}" if path else HOW_TO_GET_CHROMIUM) from err
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


def is_there() -> bool:
    """Whether there is a browser to start."""
    if installed():
        return True
    try:
        with started_browser():
            return True
    except ChromiumNotFound:
        return False


def install_commands() -> list[list[str]]:
    """What can bring a browser here, in the order of preference."""
    commands = [[sys.executable, "-m", "playwright", "install", "chromium"]]
    if apt := shutil.which("apt-get"):
        # -n: sudo fails instead of asking for a password.
        as_root = [] if hasattr(os, "geteuid") and os.geteuid() == 0 else ["sudo", "-n"]
        commands.append([*as_root, apt, "update"])
        commands.append([*as_root, apt, "install", "-y", "--no-install-recommends", *PACKAGES])
    return commands


def install() -> None:
    """Install a browser. What fails on the way is not shown: the next way may succeed."""
    for command in install_commands():
        print(f"Getting a browser for the tests of the editor: {' '.join(command)}", flush=True)
        try:
            subprocess.run(command, check=False, timeout=INSTALL_TIMEOUT_S, capture_output=True)
        except (OSError, subprocess.TimeoutExpired) as err:
            print(err)
        if is_there():
            return


def main() -> int:
    """Get a browser where there is none; the tests that need none run without one, so this is no failure."""
    try:
        if not is_there():
            install()
        if not is_there():
            print(HOW_TO_GET_CHROMIUM, file=sys.stderr)
    except ChromiumNotFound as err:
        print(err, file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
