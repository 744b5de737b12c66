"""Names of saved files, numbered as ComfyUI numbers them: `prefix_00001_.ext`."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

from ....fatezero_ext.errors import SettingsError
from ....fatezero_ext.media.framing import LONGEST_SIDE

DIGITS = 5
ADDED = 48
"""Bytes by which a name grows at most: "_00001_.mp4", and the additions to the name of the unfinished file."""
USUAL_LIMITS = {"PC_NAME_MAX": 255, "PC_PATH_MAX": 4096}
"""Usual limits of names and paths in bytes, for a system that does not report its own."""
STEERING = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Characters that steer a terminal or a line when the name is listed, and halves of characters."""
SHOWN = 40
"""Letters of a prefix that a message repeats."""


def next_free(folder: Path, prefix: str, extension: str, *, width: int, height: int, start: int = 1) -> Path:
    """Return a path below `folder` that no earlier run has used.

    prefix: may name subfolders, and hold %width%, %height%, %year%, %month%, %day%, %hour%, %minute%, %second%
    start:  least number to give
    Raises SettingsError where the prefix leads out of `folder`, or no file may be called so.
    """
    named = named_below(folder, prefix, width=width, height=height)
    pattern = re.compile(re.escape(named.name) + r"_(\d+)_")
    present = named.parent.iterdir() if named.parent.is_dir() else ()
    taken = [int(match.group(1)) for entry in present if (match := pattern.match(entry.name))]
    number = max([start, *(used + 1 for used in taken)])
    return named.with_name(f"{named.name}_{number:0{DIGITS}}_.{extension}")


def named_below(folder: Path, prefix: str, *, width: int = LONGEST_SIDE, height: int = LONGEST_SIDE) -> Path:
    """Return the path that `prefix` names below `folder`.

    Raises SettingsError where it leads out of `folder`, or where no file may be called so.
    """
    steering = STEERING.search(prefix)
    if steering:
        raise SettingsError(
            f"filename_prefix {prefix[:SHOWN]!r} holds the control character {steering[0]!r}; a file's name is text. "
            f"Use a plain name such as 'video/edit'."
        )
    named = folder / _filled(prefix, width, height)
    if not _is_below(named, folder) or not Path(prefix).name or prefix.endswith("/"):
        raise SettingsError(
            f"filename_prefix '{prefix[:SHOWN]}' names no file below the output folder; results are saved there only. "
            f"Use a plain name such as 'video/edit'."
        )
    _check_length(folder, named, prefix)
    return named


def _is_below(named: Path, folder: Path) -> bool:
    try:
        return named.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError):  # links that lead in a circle
        return False


def _check_length(folder: Path, named: Path, prefix: str) -> None:
    present = next((path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir()), Path("/"))
    most_name, most_path = (_limit(present, limit, usual) for limit, usual in USUAL_LIMITS.items())
    *folders, name = (len(os.fsencode(part)) for part in _inside(folder, named).parts)
    if max([name + ADDED, *folders]) > most_name or len(os.fsencode(named.absolute())) + ADDED > most_path:
        raise SettingsError(
            f"filename_prefix '{prefix[:SHOWN]}...' has {len(os.fsencode(prefix))} bytes; the file system of {present} "
            f"takes names of {most_name} and paths of {most_path}, {ADDED} of them for number and ending. Shorten it."
        )


def _limit(present: Path, limit: str, usual: int) -> int:
    """Return a limit of the file system; network file systems and FUSE may not know theirs and have the usual one."""
    try:
        return found if (found := os.pathconf(present, limit)) > 0 else usual
    except (AttributeError, OSError, ValueError):
        return usual


def _inside(folder: Path, named: Path) -> Path:
    """Return the part of the path below `folder`, also where one leads over a symbolic link or is not absolute."""
    try:
        return named.absolute().relative_to(folder.absolute())
    except ValueError:
        return named.resolve().relative_to(folder.resolve())


def prefix_verdict(folder: Path, prefix: str | None) -> bool | str:
    """Return the verdict of `validate_inputs`: True, or what is wrong with the prefix. None: it is not known yet."""
    try:
        named_below(folder, "unknown" if prefix is None else prefix)
    except ValueError as error:
        return str(error)
    return True


def _filled(prefix: str, width: int, height: int) -> str:
    now = time.localtime()
    clock = {"year": now.tm_year, "month": now.tm_mon, "day": now.tm_mday}
    clock |= {"hour": now.tm_hour, "minute": now.tm_min, "second": now.tm_sec}
    parts = {"width": str(width), "height": str(height)} | {name: f"{value:02}" for name, value in clock.items()}
    for name, value in parts.items():
        prefix = prefix.replace(f"%{name}%", value)
    return prefix
