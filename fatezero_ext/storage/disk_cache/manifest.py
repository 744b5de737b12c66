"""The manifest of a saved inversion, read as if a stranger had written it."""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from blake3 import blake3
from pydantic import BaseModel, ConfigDict, Field

from ...errors import StoreError

FORMAT = 2
MANIFEST = "manifest.json"
LARGEST_MANIFEST = 4 * 2**20  # bytes; 50 files and a long prompt take about 10 kB
JSON: TypeAlias = "None | bool | int | float | str | list[JSON] | dict[str, JSON]"
KEY = re.compile(r"[0-9a-f]{16,128}")
NAME = re.compile(r"[a-z0-9-]{1,100}")


class UnusableEntry(StoreError):
    """A saved inversion cannot be used as a whole; the message is a clause with the reason."""


class FileLine(BaseModel):
    """Size and BLAKE3 digest of one file of an entry."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")
    nbytes: int = Field(ge=0)
    blake3: str = Field(pattern="^[0-9a-f]{64}$")


class Manifest(BaseModel):
    """Contents of manifest.json: the key, a readable description, and the files by name."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")
    format: int
    key: str
    about: dict[str, Any]
    files: dict[str, FileLine]

    @property
    def nbytes(self) -> int:
        """Bytes of all files."""
        return sum(line.nbytes for line in self.files.values())


def check_key(key: str) -> None:
    """Raise StoreError for a key that is not 16 to 128 hexadecimal digits: it names a folder."""
    if not (isinstance(key, str) and KEY.fullmatch(key)):
        raise StoreError(f"the key is {key!r}; 16 to 128 of 0-9 a-f are needed. Use a hash's hexadecimal digits.")


def check_name(name: str) -> None:
    """Raise StoreError for a file name with other characters than a-z 0-9 and -."""
    if not (isinstance(name, str) and NAME.fullmatch(name)):
        raise StoreError(f"the file name is {name!r}; 1 to 100 of a-z 0-9 and - are needed. Rename it, as 'step-007'.")


def file_path(home: Path, name: str) -> Path:
    """Path of a file in an entry's or a draft's folder."""
    return home / f"{name}.safetensors"


def new_manifest(key: str, about: Mapping[str, JSON], files: Mapping[str, FileLine]) -> Manifest:
    """Make a manifest of this format. Raises StoreError where `about` would not be read back as it is."""
    try:
        raw = encode(Manifest.model_construct(format=FORMAT, key=key, about=dict(about), files=dict(files)))
        manifest = decode(raw)
    except (ValueError, TypeError, RecursionError) as error:  # StoreError is a ValueError
        raise StoreError(
            f"the description of an inversion must be plain JSON, and this is not ({error}); give texts and numbers "
            f"by name."
        ) from None
    if len(raw) > LARGEST_MANIFEST:
        raise StoreError(
            f"the manifest of {key} has {len(raw)} bytes; at most {LARGEST_MANIFEST} are read back. Describe it in "
            f"fewer words."
        )
    return manifest


def encode(manifest: Manifest) -> bytes:
    """Contents of the file: the fields, then the BLAKE3 digest of the same file without that line."""
    files = {name: line.model_dump() for name, line in manifest.files.items()}
    fields = {"format": manifest.format, "key": manifest.key, "about": manifest.about, "files": files}
    return _dumped({**fields, "blake3": blake3(_dumped(fields)).hexdigest()})


def _dumped(fields: Mapping[str, object]) -> bytes:
    return json.dumps(fields, indent=1, ensure_ascii=False, allow_nan=False).encode()


def decode(raw: bytes) -> Manifest:
    """The manifest of a file's contents. Raises UnusableEntry if it is of another format or has been changed."""
    try:
        fields = json.loads(raw)
        if not isinstance(fields, dict):
            raise UnusableEntry(f"its {MANIFEST} holds a {type(fields).__name__}, not an object")
        if type(fields.get("format")) is int and fields["format"] != FORMAT:
            raise UnusableEntry(f"it is of format {fields['format']}, this program reads format {FORMAT}")
        fields.pop("blake3", None)
        manifest = Manifest.model_validate(fields)
        for name in manifest.files:
            check_name(name)
        # Comparing with what would have been written finds changes in every byte, also in those that JSON ignores.
        unchanged = encode(manifest) == raw
    except UnusableEntry:
        raise
    except (ValueError, TypeError, RecursionError):
        raise UnusableEntry(f"its {MANIFEST} cannot be understood") from None
    if not unchanged:
        raise UnusableEntry(f"its {MANIFEST} does not match its own checksum")
    return manifest


def read_manifest(home: Path, key: str | None = None) -> Manifest:
    """Read the manifest of an entry's folder. Raises UnusableEntry where it is missing or damaged.

    key: None: the folder's name
    """
    path = home / MANIFEST
    try:
        size = plain_size(path)
        if size > LARGEST_MANIFEST:
            raise UnusableEntry(f"its {MANIFEST} has {size} bytes, at most {LARGEST_MANIFEST} are read")
        manifest = decode(path.read_bytes())
    except FileNotFoundError:
        raise UnusableEntry(f"it has no {MANIFEST}, as after damage was found in it") from None
    except OSError as error:
        raise UnusableEntry(f"its {MANIFEST} cannot be read ({error.strerror or error})") from None
    if manifest.key != (key or home.name):
        raise UnusableEntry("its key is that of another folder")
    return manifest


def checked_manifest(home: Path, key: str | None = None) -> Manifest:
    """Read the manifest, and check that every file is there in its size; contents are checked when they are read.

    key: as of `read_manifest`
    """
    manifest = read_manifest(home, key)
    for name, line in manifest.files.items():
        try:
            size = plain_size(file_path(home, name))
        except OSError as error:
            raise UnusableEntry(f"its file {name} cannot be read ({error.strerror or error})") from None
        if size != line.nbytes:
            raise UnusableEntry(f"its file {name} has {size} bytes instead of {line.nbytes}")
    return manifest


def plain_size(path: Path) -> int:
    """Size of a file in bytes. Raises OSError for anything else, such as a pipe, which would keep a reader waiting."""
    status = path.lstat()
    if not stat.S_ISREG(status.st_mode):
        raise OSError(f"{path.name} is not a plain file")
    return status.st_size
