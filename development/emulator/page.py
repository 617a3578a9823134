"""The page for a person who opens the emulator's address in a browser."""

from __future__ import annotations

import html
from collections.abc import Sequence

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Images API emulator</title>
<style>
body {{ margin: 2rem; font: 16px/1.5 system-ui, sans-serif; color: #e8ecf4; background: #14181f }}
figure {{ display: inline-block; width: 15rem; margin: 0 1rem 1rem 0 }} img {{ width: 100% }}
a {{ color: #8cb8ff }}
</style></head><body>
<h1>Images API emulator</h1>
<p>A development server that takes the part of <b>{server}</b>. It draws landscapes and bills nobody.
Its requests are listed in <a href="/log">the log</a>.</p>
{figures}</body></html>
"""


def index_page(server: str, pictures: Sequence[tuple[str, str]]) -> str:
    """Return the HTML that shows pictures, given by path and prompt."""
    figures = "".join(
        f'<figure><img src="{html.escape(path)}" alt=""><figcaption>{html.escape(prompt[:120])}</figcaption></figure>'
        for path, prompt in pictures
    )
    return PAGE.format(server=html.escape(server), figures=figures or "<p>Nothing has been drawn yet.</p>")
