"""The chart: a bar for each step, as long as we are times as fast, and a mark for the goal. SVG, for light and dark."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from development.bench.table import Row

WIDTH = 860
LABEL_WIDTH = 350
ROW_HEIGHT = 38
BAR_HEIGHT = 20
TOP = 74
BOTTOM = 46
STEP = 2  # between the lines of the grid

STYLE = """
text { font: 14px system-ui, -apple-system, "Segoe UI", Roboto, Helvetica, Arial, sans-serif; fill: #24292f; }
.title { font-size: 17px; font-weight: 600; }
.quiet { font-size: 12px; fill: #57606a; }
.value { font-weight: 600; }
.paper { fill: #ffffff; stroke: #d0d7de; }
.grid { stroke: #d8dee4; }
.even { stroke: #8c959f; stroke-dasharray: 4 3; }
.bar { fill: #1f6feb; }
.missed { fill: #bf8700; }
.goal { stroke: #24292f; stroke-width: 2.5; }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3; }
  .quiet { fill: #9198a1; }
  .paper { fill: #0d1117; stroke: #30363d; }
  .grid { stroke: #262c34; }
  .even { stroke: #6e7681; }
  .bar { fill: #388bfd; }
  .missed { fill: #d29922; }
  .goal { stroke: #e6edf3; }
}
"""


def chart(rows: Sequence[Row]) -> str:
    """The chart of the rows that have a ratio."""
    shown = [(row, row.ratio, row.least) for row in rows if row.ratio is not None and row.least is not None]
    top = max(max(ratio, least) for _, ratio, least in shown) * 1.12
    scale = (WIDTH - LABEL_WIDTH - 40) / top
    height = TOP + ROW_HEIGHT * len(shown) + BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" '
        'role="img" aria-labelledby="title">',
        '<title id="title">How many times as fast as ComfyUI&#8217;s own node, by step</title>',
        f"<style>{STYLE}</style>",
        f'<rect class="paper" x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="8"/>',
        '<text class="title" x="24" y="34">How many times as fast as ComfyUI&#8217;s own node</text>',
        '<text class="quiet" x="24" y="54">Longer is better. The mark across each bar is its goal.</text>',
        *_grid(int(top), scale, height),
    ]
    for place, (row, ratio, least) in enumerate(shown):
        parts += _bar(row, ratio, least, TOP + place * ROW_HEIGHT, scale)
    return "\n".join([*parts, "</svg>", ""])


def _grid(top: int, scale: float, height: int) -> list[str]:
    lines = []
    for value in (1, *range(STEP, top + 1, STEP)):
        x = LABEL_WIDTH + value * scale
        kind = "even" if value == 1 else "grid"
        lines.append(f'<line class="{kind}" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 4}" y2="{height - BOTTOM + 4}"/>')
        lines.append(f'<text class="quiet" x="{x:.1f}" y="{height - BOTTOM + 22}" text-anchor="middle">x{value}</text>')
    return lines


def _bar(row: Row, ratio: float, least: float, y: float, scale: float) -> list[str]:
    middle, end, goal = y + ROW_HEIGHT / 2, LABEL_WIDTH + ratio * scale, LABEL_WIDTH + least * scale
    return [
        f'<text x="{LABEL_WIDTH - 12}" y="{middle + 5:.1f}" text-anchor="end">{escape(row.label)}</text>',
        f'<rect class="{"bar" if row.met else "bar missed"}" x="{LABEL_WIDTH}" y="{middle - BAR_HEIGHT / 2:.1f}" '
        f'width="{ratio * scale:.1f}" height="{BAR_HEIGHT}" rx="3"/>',
        f'<line class="goal" x1="{goal:.1f}" x2="{goal:.1f}" y1="{middle - BAR_HEIGHT / 2 - 4:.1f}" '
        f'y2="{middle + BAR_HEIGHT / 2 + 4:.1f}"/>',
        f'<text class="value" x="{max(end, goal) + 8:.1f}" y="{middle + 5:.1f}">x{ratio:.1f}</text>',
    ]
