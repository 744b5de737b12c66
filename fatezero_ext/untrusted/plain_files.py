"""Reads files from untrusted sources, if they are plain files of a bounded size."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

from ..errors import ModelError

CONFIG_BYTES = 2**20
"""Most bytes of a config file; that of Stable Diffusion's UNet has 1,700."""
VOCABULARY_BYTES = 32 * 2**20
"""Most bytes of a tokenizer's file; CLIP's have one to three million."""
SHOWN = 120  # characters of an untrusted value or name in an error message
KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


def plain_size(path: Path) -> int:
    """Size of a file in bytes, found before it is opened: a pipe or a device would never end.

    Links are followed, as Hugging Face's cache needs.
    Raises ModelError for a path that is missing, a circle of links, or no plain file.
    """
    try:
        found = os.stat(path)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{path} cannot be read ({_reason(error)}); a plain file is needed. Restore the file, or choose another."
        ) from error
    if not stat.S_ISREG(found.st_mode):
        kind = KINDS.get(stat.S_IFMT(found.st_mode), "no file")
        raise ModelError(f"{path} cannot be read: it is {kind}; a plain file is needed. Restore the file.")
    return found.st_size


def read_bytes(path: Path, most: int) -> bytes:
    """Read a plain file of at most `most` bytes; raises ModelError for more, and if it cannot be read."""
    size = plain_size(path)
    if size > most:
        raise ModelError(f"{path} has {size:,} bytes; at most {most:,} are needed. Restore the file.")
    try:
        with path.open("rb") as file:
            return file.read(most)
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({_reason(error)}). Allow reading it, or restore the file.") from error


def read_json(path: Path, most: int = CONFIG_BYTES) -> dict[str, object]:
    """Read the JSON object in a plain file of at most `most` bytes; raises ModelError for anything else."""
    content = read_bytes(path, most)
    try:
        found = json.loads(content.decode("utf-8-sig"))  # editors of Windows put a mark first
    except json.JSONDecodeError as error:
        raise _no_json(path, f"it is no JSON from line {error.lineno}, column {error.colno}") from error
    except UnicodeDecodeError as error:
        raise _no_json(path, f"byte {error.start} is no UTF-8") from error
    except (RecursionError, ValueError) as error:
        raise _no_json(path, "it is nested too deeply, or has too long a number") from error
    if not isinstance(found, dict):
        raise ModelError(f"{path} holds {type(found).__name__}; a JSON object is needed. Restore the file.")
    return found


def shown(value: object) -> str:
    """An untrusted value for an error message: at most SHOWN characters, no control characters."""
    words = value if isinstance(value, str) else repr(value)
    words = words if len(words) <= SHOWN else f"{words[: SHOWN - 3]}..."
    return words if words.isprintable() else repr(words)[1:-1]


def _no_json(path: Path, what: str) -> ModelError:
    return ModelError(f"{path} cannot be read ({what}); a JSON config is needed. Restore the file.")


def _reason(error: OSError | ValueError) -> str:
    """The system's description of an error, without the path, which the message has already."""
    return getattr(error, "strerror", None) or "no such name is possible"
