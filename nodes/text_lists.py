"""Parsers of the short lists that users type into text widgets."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from ..fatezero_ext.attention.key_frames import KEY_FRAME_WORDS, KeyFrame
from ..fatezero_ext.errors import SettingsError

if TYPE_CHECKING:
    from ..fatezero_ext.prompts.prompt import Window


def parse_phrases(text: str) -> tuple[str, ...]:
    """Split words or phrases at commas and lines: `"silver jeep, road"` -> `("silver jeep", "road")`."""
    return tuple(_entries(text))


def parse_weights(text: str, widget: str) -> dict[str, float]:
    """Parse words with factors: `"watercolor: 10, jeep: 2"` -> `{"watercolor": 10.0, "jeep": 2.0}`."""
    return {word: _number(value, widget, f"{word}: 2") for word, value in _pairs(text, widget, "watercolor: 10")}


def parse_windows(text: str, widget: str) -> dict[str, Window]:
    """Parse words with windows: `"car: 0.2-0.6, road: 0.5"` -> `{"car": (0.2, 0.6), "road": (0.0, 0.5)}`."""
    windows = {}
    for word, value in _pairs(text, widget, "car: 0.2-0.6"):
        first, dash, second = value.partition("-")
        start, end = (first, second) if dash else ("0", first)
        example = f"{word}: 0.2-0.6"
        windows[word] = (_number(start, widget, example), _number(end, widget, example))
    return windows


MOST_KEY_FRAMES = 64
"""Limit of key frames: every frame reads the keys of all, so that time and memory grow; published are two."""


def parse_key_frames(text: str) -> tuple[KeyFrame, ...]:
    """Parse key frames: `"-1, first"` -> `(-1, "first")`; raises SettingsError for too many or unknown ones."""
    entries = list(_entries(text))
    if len(entries) > MOST_KEY_FRAMES:
        raise SettingsError(
            f"key_frames lists {len(entries)} key frames; at most {MOST_KEY_FRAMES} are read. Write '-1, first', or "
            f"nothing for each frame's own keys."
        )
    return tuple(_key_frame(entry) for entry in entries)


def key_frames_or_auto(text: str) -> tuple[KeyFrame, ...] | Literal["auto"]:
    """Return "auto" where the text says that alone, else the key frames; raises what `parse_key_frames` does."""
    return "auto" if text.strip() == "auto" else parse_key_frames(text)


def _key_frame(entry: str) -> KeyFrame:
    if re.fullmatch(r"[+-]?[0-9]{1,9}", entry):
        return int(entry)
    if entry in KEY_FRAME_WORDS:
        return entry
    raise SettingsError(
        f"key_frames has an unknown key frame {entry[:40]!r}; each is a whole number relative to the frame, or one of "
        f"{', '.join(KEY_FRAME_WORDS)}. Write '-1, first', or nothing for each frame's own keys."
    )


def _entries(text: str) -> Iterator[str]:
    for entry in text.replace("\n", ",").split(","):
        if entry.strip():
            yield " ".join(entry.split())


def _pairs(text: str, widget: str, example: str) -> Iterator[tuple[str, str]]:
    for entry in _entries(text):
        word, colon, value = entry.rpartition(":")
        if not colon or not word.strip():
            raise SettingsError(
                f"{widget} has {entry!r}; each entry is a word, a colon and a value. Write {example!r}."
            )
        yield word.strip(), value.strip()


def _number(text: str, widget: str, example: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise SettingsError(f"{widget} has {text!r} for a number; write it like {example!r}.") from None
