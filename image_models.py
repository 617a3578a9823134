"""The image models: their names, in the order in which they replace DALL·E, their dialects and their prices.

(What crosses HTTP is in `models`, the servers are in `backends`.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Original = Literal["dall-e-2", "dall-e-3"]


@dataclass(frozen=True)
class Dialect:
    """How a family of models has to be asked.

    `sizes` are those that it makes itself; for any other, a square is made and scaled here. No `sizes`: any.
    `transparent_edits`: an image to edit has alpha 0 where to edit; else it is opaque, beside its mask.
    """

    sizes: frozenset[tuple[int, int]] = frozenset()
    transparent_edits: bool = False


SQUARE, TALL, WIDE = (1024, 1024), (1024, 1792), (1792, 1024)

DALL_E_2 = Dialect(sizes=frozenset({(256, 256), (512, 512), SQUARE}), transparent_edits=True)
DALL_E_3 = Dialect(sizes=frozenset({SQUARE, TALL, WIDE}))
GPT_IMAGE = Dialect(sizes=frozenset({SQUARE, TALL, WIDE}))
ANY_MODEL = Dialect()

# Asked for instead of a size that a server refuses by name: what gpt-image-1 had.
FALLBACK_SIZES: Mapping[str, str] = {"1024x1792": "1024x1536", "1792x1024": "1536x1024"}

# What replaces a model, best first: a model is tried when the one before it does not exist (any more).
GPT_IMAGE_MODELS = ("gpt-image-2", "gpt-image-2.5-flare", "gpt-image-2.5-sunburst")
MODELS_ELSEWHERE: Mapping[Original, tuple[str, ...]] = {
    "dall-e-2": ("dall-e-2", *GPT_IMAGE_MODELS),
    "dall-e-3": ("dall-e-3", "dall-e-2", *GPT_IMAGE_MODELS),
}

# gpt-image's quality for DALL·E 3's: never dearer than it was ($0.04 and $0.08 a square image, $0.08 and $0.12 else).
GPT_QUALITY: Mapping[str, str] = {"standard": "low", "hd": "medium"}
# gpt-image has no field for DALL·E 3's style; the prompt says it.
GPT_STYLE: Mapping[str, str] = {"vivid": "Lean towards hyper-real and dramatic images."}

# US dollars for one 1024x1024 image of gpt-image-2, by quality: OpenAI's price list, looked up on 2026-11-24.
PRICES_USD: Mapping[str, float] = {"low": 0.006, "medium": 0.053, "high": 0.211}
