"""The page for a person who opens the emulator's address in a browser."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence

from .studio import Picture

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Images API emulator</title>
<style>
body {{ margin: 2rem auto; max-width: 72rem; padding: 0 1rem; font: 16px/1.5 system-ui, sans-serif;
  color: #e8ecf4; background: #14181f }}
main {{ display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)) }}
figure {{ margin: 0 }} img {{ width: 100%; border-radius: .5rem }} a {{ color: #8cb8ff }}
figcaption {{ font-size: .85rem; color: #9aa5b8; overflow-wrap: anywhere }}
</style></head><body>
<h1>Images API emulator</h1>
<p>A development server that takes the part of <b>{server}</b>. It draws landscapes, bills nobody, and is not
meant for a network. Its requests are listed in <a href="/log">the log</a>.</p>
<main>{figures}</main></body></html>
"""


def index_page(server: str, newest: Sequence[tuple[str, Picture]], path_of: Callable[[str], str]) -> str:
    """Return the HTML that shows the newest pictures, given by file name, under their paths."""
    figures = "".join(
        f'<figure><img src="{html.escape(path_of(name))}" alt="">'
        f"<figcaption>{html.escape(picture.prompt[:120])}</figcaption></figure>"
        for name, picture in newest
    )
    return _PAGE.format(server=html.escape(server), figures=figures or "<p>Nothing has been drawn yet.</p>")
