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
    named = folder / _filled(prefix, width, height)
    if not named.resolve().is_relative_to(folder.resolve()) or not Path(prefix).name or prefix.endswith("/"):
        raise SettingsError(
            f"filename_prefix '{prefix}' names no file below the output folder; results are saved there only. "
            f"Use a plain name such as 'video/edit'."
        )
    pattern = re.compile(re.escape(named.name) + r"_(\d+)_")
    present = named.parent.iterdir() if named.parent.is_dir() else ()
    taken = [int(match.group(1)) for entry in present if (match := pattern.match(entry.name))]
    number = max([start, *(used + 1 for used in taken)])
    return named.with_name(f"{named.name}_{number:0{DIGITS}}_.{extension}")


def _filled(prefix: str, width: int, height: int) -> str:
    now = time.localtime()
    clock = {"year": now.tm_year, "month": now.tm_mon, "day": now.tm_mday}
    clock |= {"hour": now.tm_hour, "minute": now.tm_min, "second": now.tm_sec}
    parts = {"width": str(width), "height": str(height)} | {name: f"{value:02}" for name, value in clock.items()}
    for name, value in parts.items():
        prefix = prefix.replace(f"%{name}%", value)
    return prefix
