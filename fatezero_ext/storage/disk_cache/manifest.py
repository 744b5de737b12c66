"""What a saved inversion says of itself, read as if a stranger had written it."""

from __future__ import annotations

import hashlib
import json
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

from ...errors import StoreError

FORMAT = 1
MANIFEST = "manifest.json"
LARGEST_MANIFEST = 4 * 2**20  # bytes; 50 files and a long prompt take about 10 kB
JSON: TypeAlias = "None | bool | int | float | str | list[JSON] | dict[str, JSON]"
KEY = re.compile(r"[0-9a-f]{16,128}")
NAME = re.compile(r"[a-z0-9-]{1,100}")


class UnusableEntry(StoreError):
    """A saved inversion cannot be used as a whole; the message is a clause that says why."""


class FileLine(BaseModel):
    """One file of an entry: its bytes and their SHA-256."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")
    nbytes: int = Field(ge=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class Manifest(BaseModel):
    """The contents of manifest.json: the key, what it is about in readable words, and its files by name."""

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
    """Raises StoreError for a key that is not 16 to 128 hexadecimal digits: it names a folder."""
    if not (isinstance(key, str) and KEY.fullmatch(key)):
        raise StoreError(f"the key is {key!r}; 16 to 128 of 0-9 a-f are needed. Use a hash's hexadecimal digits.")


def check_name(name: str) -> None:
    """Raises StoreError for a file name with other characters than a-z 0-9 and -."""
    if not (isinstance(name, str) and NAME.fullmatch(name)):
        raise StoreError(f"the file name is {name!r}; 1 to 100 of a-z 0-9 and - are needed. Rename it, as 'step-007'.")


def file_path(home: Path, name: str) -> Path:
    """Where an entry's or a draft's folder keeps a file."""
    return home / f"{name}.safetensors"


def new_manifest(key: str, about: Mapping[str, JSON], files: Mapping[str, FileLine]) -> Manifest:
    """A manifest of this format. Raises StoreError where `about` would not be read back."""
    try:
        raw = encode(Manifest.model_construct(format=FORMAT, key=key, about=dict(about), files=dict(files)))
        manifest = decode(raw)
    except (ValueError, TypeError, RecursionError) as error:  # StoreError is a ValueError
        raise StoreError(
            f"what an inversion is about must be plain JSON, and this is not ({error}); give texts and numbers by name."
        ) from None
    if len(raw) > LARGEST_MANIFEST:
        raise StoreError(
            f"the manifest of {key} has {len(raw)} bytes; at most {LARGEST_MANIFEST} are read back. Say less about it."
        )
    return manifest


def encode(manifest: Manifest) -> bytes:
    """The file's contents: the fields, then the SHA-256 of the same file without that line."""
    files = {name: line.model_dump() for name, line in manifest.files.items()}
    fields = {"format": manifest.format, "key": manifest.key, "about": manifest.about, "files": files}
    digest = hashlib.sha256(_dumped(fields)).hexdigest()
    return _dumped({**fields, "sha256": digest})


def _dumped(fields: Mapping[str, JSON]) -> bytes:
    return json.dumps(fields, indent=1, ensure_ascii=False, allow_nan=False).encode()


def decode(raw: bytes) -> Manifest:
    """The manifest of a file's contents. Raises UnusableEntry where it is of another format or has been changed."""
    try:
        fields = json.loads(raw)
        if not isinstance(fields, dict):
            raise UnusableEntry(f"its {MANIFEST} holds a {type(fields).__name__}, not an object")
        if type(fields.get("format")) is int and fields["format"] != FORMAT:
            raise UnusableEntry(f"it is of format {fields['format']}, this program reads format {FORMAT}")
        fields.pop("sha256", None)
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


def read_manifest(home: Path) -> Manifest:
    """The manifest of an entry's folder. Raises UnusableEntry where it cannot be trusted."""
    path = home / MANIFEST
    try:
        size = plain_size(path)
        if size > LARGEST_MANIFEST:
            raise UnusableEntry(f"its {MANIFEST} has {size} bytes, at most {LARGEST_MANIFEST} are read")
        manifest = decode(path.read_bytes())
    except OSError as error:
        raise UnusableEntry(f"its {MANIFEST} cannot be read ({error.strerror or error})") from None
    if manifest.key != home.name:
        raise UnusableEntry("its key is that of another folder")
    return manifest


def checked_manifest(home: Path) -> Manifest:
    """Likewise, and every file is there in its size; their contents are checked as they are read."""
    manifest = read_manifest(home)
    for name, line in manifest.files.items():
        try:
            size = plain_size(file_path(home, name))
        except OSError as error:
            raise UnusableEntry(f"its file {name} cannot be read ({error.strerror or error})") from None
        if size != line.nbytes:
            raise UnusableEntry(f"its file {name} has {size} bytes instead of {line.nbytes}")
    return manifest


def plain_size(path: Path) -> int:
    """Bytes of a file. Raises OSError where it is none, such as a pipe, which would keep a reader waiting."""
    status = path.lstat()
    if not stat.S_ISREG(status.st_mode):
        raise OSError(f"{path.name} is not a plain file")
    return status.st_size
