"""The commands `cache list`, `cache verify` and `cache prune`: the saved inversions."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from datetime import datetime

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..printable import format_bytes
from ..storage.disk_cache.cache import InversionCache
from ..storage.disk_cache.eviction import Listing
from ..storage.disk_cache.manifest import JSON
from . import FAILED, OK

WORTH_SAYING = 2**20  # bytes; manifests and locks are less
SHORT_KEY = 12  # digits; telling a handful of entries apart needs four
PROMPT_WIDTH = 48
WIDE = 160  # columns where the output is a file or a pipe, so that nothing is cut off


def show(cache: InversionCache) -> int:
    """Print a table of the saved inversions; returns the exit code."""
    entries = cache.entries()
    if entries:
        _print(_table(entries))
    used = sum(entry.nbytes for entry in entries)
    claimed = max(0, cache.nbytes - used)
    more = ""
    if claimed >= WORTH_SAYING:
        more = (
            f", and {format_bytes(claimed)} set aside for unfinished ones (they go on when they are inverted again; "
            f"prune --all frees those that no program works on)"
        )
    _say(
        f"{format_bytes(used)} of {format_bytes(cache.limit)} used by {_counted(len(entries))}{more}, in {cache.folder}"
    )
    return OK


def _counted(number: int) -> str:
    return "1 inversion" if number == 1 else f"{number} inversions"


def _table(entries: Sequence[Listing]) -> Table:
    table = Table()
    table.add_column("key", no_wrap=True)
    table.add_column("prompt", max_width=PROMPT_WIDTH)
    for name in ("frames x size", "steps", "policy", "bytes", "last used", "in use"):
        table.add_column(name)
    for entry in sorted(entries, key=lambda entry: entry.used, reverse=True):
        table.add_row(*map(_plain, _row(entry)))
    return table


def _row(entry: Listing) -> tuple[str, ...]:
    about = entry.about
    return (
        entry.key[:SHORT_KEY],
        _prompt(entry),
        f"{_word(about, 'frames')} x {_size(about)}" if entry.problem is None else "-",
        _word(about, "steps"),
        _word(about, "policy"),
        format_bytes(entry.nbytes),
        _moment(entry.used),
        "yes" if entry.in_use else "no",
    )


def _moment(seconds: float) -> str:
    try:
        return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M")
    except (ValueError, OverflowError, OSError):  # a file's time may be any number
        return "-"


def _prompt(entry: Listing) -> str:
    return _word(entry.about, "prompt") if entry.problem is None else f"cannot be used: {entry.problem}"


def _word(about: Mapping[str, JSON], name: str) -> str:
    return str(about.get(name, "-"))


def _size(about: Mapping[str, JSON]) -> str:
    size = about.get("size", "-")
    return "x".join(map(str, size)) if isinstance(size, list) else str(size)


def verify(cache: InversionCache, remove: bool) -> int:
    """Check every byte and print the result; returns the exit code."""
    checked = []
    for entry in cache.verify():
        checked.append(entry)
        _say(f"{entry.key[:SHORT_KEY]}  {'ok' if entry.sound else 'DAMAGED'}  {_word(entry.about, 'prompt')}")
        if entry.problem is not None:
            _say(f"    {entry.problem}")
        for name, reason in entry.damaged.items():
            _say(f"    {name}: {reason}")
        if remove and not entry.sound:
            _say("    removed" if cache.remove(entry.key) else "    kept, because it is in use")
    damaged = sum(not entry.sound for entry in checked)
    _say(f"{_counted(len(checked))} checked, {damaged} damaged, in {cache.folder}")
    return FAILED if damaged else OK


def prune(cache: InversionCache, limit: int | None) -> int:
    """Remove entries until at most `limit` bytes are left, None: the cache's own limit; returns the exit code."""
    pruned = cache.prune(limit)
    for action, entries in (("removed", pruned.removed), ("kept, because it is in use:", pruned.in_use)):
        for entry in entries:
            _say(f"{action} {entry.key[:SHORT_KEY]}  {format_bytes(entry.nbytes)}  {_prompt(entry)}")
    if pruned.leftovers:
        _say(f"removed {format_bytes(pruned.leftovers)} that unfinished runs had left")
    _say(f"{_counted(len(pruned.removed))} removed; {format_bytes(cache.nbytes)} are left in {cache.folder}")
    return OK


def _plain(words: str) -> Text:
    """Replace all but printable characters: prompts come from files and must not steer the terminal."""
    return Text("".join(char if char.isprintable() else " " for char in words))


def _say(line: str) -> None:
    _print(_plain(line), soft_wrap=True)


def _print(content: Table | Text, *, soft_wrap: bool = False) -> None:
    Console(width=None if sys.stdout.isatty() else WIDE).print(content, soft_wrap=soft_wrap)
