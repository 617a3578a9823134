"""What can be turned while the emulator runs. Each value is read anew for every request."""

from __future__ import annotations

from collections.abc import Sequence


class Knobs:
    """The settings of an emulator; None stands for what its flavour does by itself.

    `delay_s`: seconds between a complete POST and its answer.
    `result`: how pictures come back: "b64", "url", "relative_url", "file_path" or "mixed" (b64 and url).
    `picture_origin`: what absolute URLs start with, such as "http://localhost:8189".
    `picture_delay_s`: seconds before each download, one value or one for each picture of an answer.
    `picture_format`: "PNG", "JPEG" or "WEBP". `answer_size`: draw in this size, whatever was asked.
    `transparent`: draw without a sky. `fewer_by`: how many pictures to withhold.
    `ignore_mask`: edits repaint everything. `redraws`: edits also change what the mask keeps, a little.
    """

    def __init__(self, delay_s: float = 0.0) -> None:
        self.delay_s = delay_s
        self.result: str | None = None
        self.picture_delay_s: float | Sequence[float] = 0.0
        self.picture_origin: str | None = None
        self.answer_size: tuple[int, int] | None = None
        self.picture_format: str | None = None
        self.transparent = False
        self.fewer_by = 0
        self.ignore_mask = False
        self.redraws = False

    def download_delay_s(self, index: int) -> float:
        """Seconds to wait before the picture with that index in its answer is handed out."""
        delays = self.picture_delay_s
        if isinstance(delays, (int, float)):
            return float(delays)
        return float(delays[index % len(delays)]) if delays else 0.0
