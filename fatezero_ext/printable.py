"""Texts and numbers as they are shown to users."""

from __future__ import annotations

import re

INVISIBLE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Characters that steer a terminal or reorder a line, and halves of characters, which no terminal can encode."""


def visible(text: str, *, keep: str = "") -> str:
    """The text with every character that a terminal would obey written as its escape.

    keep: characters left as they are, such as line breaks
    """
    return INVISIBLE.sub(lambda match: match[0] if match[0] in keep else repr(match[0])[1:-1], text)


def format_bytes(nbytes: float) -> str:
    """A number of bytes in a unit that is easy to read, such as "3.92 GiB"."""
    for unit, size, digits in (("GiB", 2**30, 2), ("MiB", 2**20, 1), ("KiB", 2**10, 1)):
        if nbytes >= size:
            return f"{nbytes / size:.{digits}f} {unit}"
    return f"{nbytes:.0f} bytes"
