"""Names of saved files, numbered as ComfyUI numbers them: `prefix_00001_.ext`."""

from __future__ import annotations

import re
import time
from pathlib import Path

from ....fatezero_ext.errors import SettingsError

DIGITS = 5


def next_free(folder: Path, prefix: str, extension: str, *, width: int, height: int, start: int = 1) -> Path:
    """A path below `folder` that no earlier run has used.

    prefix: may name subfolders, and hold %width%, %height%, %year%, %month%, %day%, %hour%, %minute%, %second%
    start:  least number to give
    Raises SettingsError where the prefix leads out of `folder`.
    """
    named = named_below(folder, prefix, width=width, height=height)
    pattern = re.compile(re.escape(named.name) + r"_(\d+)_")
    present = named.parent.iterdir() if named.parent.is_dir() else ()
    taken = [int(match.group(1)) for entry in present if (match := pattern.match(entry.name))]
    number = max([start, *(used + 1 for used in taken)])
    return named.with_name(f"{named.name}_{number:0{DIGITS}}_.{extension}")


def named_below(folder: Path, prefix: str, *, width: int = 0, height: int = 0) -> Path:
    """The path that `prefix` names below `folder`; raises SettingsError where it leads out of it."""
    named = folder / _filled(prefix, width, height)
    if not named.resolve().is_relative_to(folder.resolve()) or not Path(prefix).name or prefix.endswith("/"):
        raise SettingsError(
            f"filename_prefix '{prefix}' names no file below the output folder; results are saved there only. "
            f"Use a plain name such as 'video/edit'."
        )
    return named


def prefix_verdict(folder: Path, prefix: str | None) -> bool | str:
    """For `validate_inputs`: True, or what is wrong with the prefix. None: it is not known yet."""
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
