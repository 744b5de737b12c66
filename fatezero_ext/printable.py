"""Text as a terminal shows it, whatever characters it holds."""

from __future__ import annotations

import re

INVISIBLE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Characters that steer a terminal or reorder a line, and halves of characters, which no terminal can encode."""


def visible(text: str, *, keep: str = "") -> str:
    """The text with every character that a terminal would obey written as its escape.

    keep: characters left as they are, such as line breaks
    """
    return INVISIBLE.sub(lambda match: match[0] if match[0] in keep else repr(match[0])[1:-1], text)
