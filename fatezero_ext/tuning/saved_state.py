"""The state of a run on disk, from which it goes on to the same bits."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from ..atomic_files import whole_file
from ..errors import ModelError, StoreError
from ..models.weight_files import WeightFile
from ..printable import format_bytes
from ..untrusted.plain_files import read_json

ENDING = ".tuning.safetensors"
"""Ending of the file beside the result's folder, behind the folder's name."""
IDENTITY = "fatezero_tuning"
"""Key of the file's metadata under which it says what it belongs to."""
PARTS = {"model": "another model", "clip": "another clip", "prompt": "another prompt", "pictures": "other pictures"}
"""Parts of an identity, as they are named where they differ."""
RECORD = "tuning.json"
"""File in the result's folder that says how it was made."""
Identity = Mapping[str, object]
"""Marks of a run: digests of model, clip, prompt and pictures, and the settings that decide its numbers."""


def state_file(folder: Path) -> Path:
    """Return the file of a run's state: beside the folder of its result."""
    return folder.with_name(folder.name + ENDING)


def save_state(path: Path, state: Mapping[str, Tensor], identity: Identity) -> None:
    """Write a state in place of an older one, which stays until the new one is whole.

    Raises StoreError where it cannot be written.
    """
    tensors = {name: x.detach().cpu().contiguous() for name, x in state.items()}
    try:
        with whole_file(path) as unfinished:
            save_file(tensors, unfinished, {IDENTITY: json.dumps(identity, sort_keys=True)})
    except (OSError, SafetensorError) as error:
        size = format_bytes(sum(x.nbytes for x in tensors.values()))
        raise StoreError(
            f"{path} cannot be written ({error}); {size} are needed, beside the older one of the same size. Free "
            f"space on that disk and resume: the run goes on from the last state that was saved."
        ) from error


def read_state(path: Path, identity: Identity) -> dict[str, Tensor]:
    """Read a state of the same run.

    Raises StoreError for one of another clip, model, prompt or settings, naming what differs; ModelError for a file
    that cannot be read.
    """
    file = WeightFile(path)
    try:
        found = json.loads(file.metadata[IDENTITY])
        told = differences(found, identity)
    except (KeyError, ValueError, AttributeError, TypeError) as error:
        raise StoreError(
            f"{path} is no state of a tuning run; one is needed to go on. Choose another folder for the result."
        ) from error
    if told:
        raise StoreError(
            f"{path} is the state of a run with {', '.join(told)}; that of the same run is needed to go on. Choose "
            f"another folder for this run, or remove the file to begin anew."
        )
    return file.read(file.shapes)


def check_result(folder: Path, identity: Identity) -> None:
    """Raise StoreError where a folder is there that is not a result of the same run, and would be replaced."""
    if not folder.exists():
        return
    try:
        told = differences(cast("Identity", read_json(folder / RECORD)["identity"]), identity)
    except (ModelError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(
            f"{folder} is there and is no result of tuning; a new folder is needed. Choose another name."
        ) from error
    if told:
        raise StoreError(
            f"{folder} is the result of a run with {', '.join(told)}; it would be replaced. Choose another folder for "
            f"this run, or remove it."
        )


def differences(found: Identity, wanted: Identity) -> list[str]:
    """Name what differs between two runs."""
    told = [words for part, words in PARTS.items() if found[part] != wanted[part]]
    before, now = (dict(side["settings"]) for side in (found, wanted))  # type: ignore[call-overload]
    for name in sorted(now.keys() | before.keys()):
        if now.get(name) != before.get(name):
            told.append(f"{name} {before.get(name)} (now {now.get(name)})")
    return told
