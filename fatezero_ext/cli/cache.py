"""`python -m fatezero_ext cache list|verify|prune`: the saved inversions."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..errors import FateZeroError
from ..printable import format_bytes
from ..storage.disk_cache.cache import InversionCache, default_cache
from ..storage.disk_cache.eviction import Listing
from ..storage.disk_cache.manifest import JSON

FAILED = 1
WORTH_SAYING = 2**20  # bytes; manifests and locks are less
SHORT_KEY = 12  # digits; telling a handful of entries apart needs four
PROMPT_WIDTH = 48
WIDE = 160  # columns where the output is a file or a pipe, so that nothing is cut off
DESCRIPTION = """\
Shows, checks and removes saved inversions. Edits make again what they miss, so everything may be removed.

FATEZERO_CACHE_DIR names another folder, FATEZERO_CACHE_GB another limit (GiB; 32 where it is not set).

Results go to standard output, errors to standard error.
Exit code: 0 done, 1 something is damaged or cannot be done, 2 the command is not valid, 130 stopped by Ctrl-C.
"""


def parser() -> argparse.ArgumentParser:
    """The command's grammar."""
    top = argparse.ArgumentParser(
        prog="python -m fatezero_ext cache",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    listing = commands.add_parser("list", help="show what is saved")
    verify = commands.add_parser("verify", help="check every byte")
    verify.add_argument("--remove", action="store_true", help="remove what is damaged and not in use")
    prune = commands.add_parser("prune", help="remove what was not used for longest")
    amount = prune.add_mutually_exclusive_group()
    amount.add_argument(
        "--limit-gb", type=_gib, metavar="X", help="until at most X GiB are left (default: the cache's limit)"
    )
    amount.add_argument("--all", action="store_true", help="everything that is not in use")
    for command in (listing, verify, prune):
        command.add_argument("--folder", type=Path, metavar="DIR", help="the cache's folder (default: the user's)")
    return top


def _gib(text: str) -> int:
    try:
        size = float(text)
    except ValueError:
        size = math.nan
    if not (math.isfinite(size) and size >= 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of GiB; 0 or more is needed")
    return int(size * 2**30)


def main(argv: Sequence[str]) -> int:
    """Run the command; returns the exit code."""
    options = parser().parse_args(argv)
    try:
        cache = default_cache(options.folder)
        if options.command == "list":
            return _list(cache)
        if options.command == "verify":
            return _verify(cache, options.remove)
        return _prune(cache, 0 if options.all else options.limit_gb)
    except FateZeroError as error:
        sys.stderr.write(f"Error: {error}\n")
        return FAILED


def _list(cache: InversionCache) -> int:
    entries = cache.entries()
    if entries:
        _print(_table(entries))
    used = sum(entry.nbytes for entry in entries)
    claimed = max(0, cache.nbytes - used)
    more = ""
    if claimed >= WORTH_SAYING:
        more = f", and {format_bytes(claimed)} set aside for unfinished ones (prune frees those of killed runs)"
    _say(
        f"{format_bytes(used)} of {format_bytes(cache.limit)} used by {_counted(len(entries))}{more}, in {cache.folder}"
    )
    return 0


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


def _verify(cache: InversionCache, remove: bool) -> int:
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
    return FAILED if damaged else 0


def _prune(cache: InversionCache, limit: int | None) -> int:
    pruned = cache.prune(limit)
    for action, entries in (("removed", pruned.removed), ("kept, because it is in use:", pruned.in_use)):
        for entry in entries:
            _say(f"{action} {entry.key[:SHORT_KEY]}  {format_bytes(entry.nbytes)}  {_prompt(entry)}")
    if pruned.leftovers:
        _say(f"removed {format_bytes(pruned.leftovers)} that unfinished runs had left")
    _say(f"{_counted(len(pruned.removed))} removed; {format_bytes(cache.nbytes)} are left in {cache.folder}")
    return 0


def _plain(words: str) -> Text:
    """Printable characters only: prompts come from files and must not steer the terminal."""
    return Text("".join(char if char.isprintable() else " " for char in words))


def _say(line: str) -> None:
    _print(_plain(line), soft_wrap=True)


def _print(what: Table | Text, *, soft_wrap: bool = False) -> None:
    Console(width=None if sys.stdout.isatty() else WIDE).print(what, soft_wrap=soft_wrap)
