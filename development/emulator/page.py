"""The page for a person who opens the emulator's address in a browser."""

from __future__ import annotations

import html
from collections.abc import Sequence

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Images API emulator</title>
<style>
body {{ margin: 2rem auto; max-width: 72rem; padding: 0 1rem; font: 16px/1.5 system-ui, sans-serif;
  color: #e8ecf4; background: #14181f }}
main {{ display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)) }}
figure {{ margin: 0 }} img {{ width: 100%; border-radius: .5rem }} a {{ color: #8cb8ff }}
</style></head><body>
<h1>Images API emulator</h1>
<p>A development server that takes the part of <b>{server}</b>. It draws landscapes, bills nobody, and is not
meant for a network. Its requests are listed in <a href="/log">the log</a>.</p>
<main>{figures}</main></body></html>
"""


def index_page(server: str, pictures: Sequence[tuple[str, str]]) -> str:
    """Return the HTML that shows pictures, given by path and prompt."""
    figures = "".join(
        f'<figure><img src="{html.escape(path)}" alt=""><figcaption>{html.escape(prompt[:120])}</figcaption></figure>'
        for path, prompt in pictures
    )
    return _PAGE.format(server=html.escape(server), figures=figures or "<p>Nothing has been drawn yet.</p>")
