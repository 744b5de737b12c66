"""The state of a run on disk, from which it goes on to the same bits."""

from __future__ import annotations

import glob
import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from ..atomic_files import whole_file
from ..errors import ModelError, StoreError
from ..models.weight_files import WeightFile, brief
from ..printable import format_bytes
from ..untrusted.plain_files import read_json
from .file_names import LESSONS_FILE, RECORD

IDENTITY = "fatezero_tuning"
"""Key of the file's metadata under which it says what it belongs to."""
PARTS = {"model": "another model", "prompt": "another prompt", "class prompt": "another class prompt"}
"""Parts of an identity, as they are named where they differ."""
LESSONS = {
    "clip.latents": "another clip",
    "clip.text": "another text encoder",
    "pictures.latents": "other pictures",
    "pictures.text": "another text encoder",
}
"""Names in a run's state of all that it learns from, as they are called where they differ."""
SAME_LESSON = 0.05
"""Relative difference up to which latents and texts are the same: other devices and half precision stay below it."""
OF_ANY_LENGTH = ("losses", "order")
"""Tensors of a state that grow or shrink as the run goes on."""
Identity = Mapping[str, object]
"""Marks of a run beside its lessons: digest of the model, prompts, and the settings that decide its numbers."""


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


def remove_unfinished(path: Path) -> None:
    """Remove what runs have left that were killed while they wrote a state."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.partial"):
        with suppress(OSError):  # it may be another's
            left.unlink()


def try_to_save(path: Path, lessons: Mapping[str, Tensor], identity: Identity) -> None:
    """Raise StoreError where no state can be written, before there is one: the file is removed again."""
    trial = path.with_name(f".{path.name}.trial.partial")
    save_state(trial, lessons, identity)
    trial.unlink()


def read_state(path: Path, identity: Identity, now: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Read a state of the same run.

    now: the state of this run before its first step
    Raises StoreError for one of another clip, model, prompt or settings, naming what differs, and for one whose tensors
    are not such a state's; ModelError for a file that cannot be read.
    """
    file = WeightFile(path)
    try:
        found = json.loads(file.metadata[IDENTITY])
        told = differences(found, identity, file, now)
    except (KeyError, ValueError, AttributeError, TypeError) as error:
        raise StoreError(
            f"{path} is no state of a tuning run; one is needed to go on. Choose another folder for the result."
        ) from error
    if told:
        raise StoreError(
            f"{path} is the state of a run with {', '.join(told)}; that of the same run is needed to go on. Choose "
            f"another folder for this run, or remove the file to begin anew."
        )
    if unlike := sorted(file.shapes.keys() ^ now.keys()):
        raise _damaged(path, unlike)
    state = file.read(now)
    if misfits := [name for name, x in state.items() if not _fits(name, x, now[name])]:
        raise _damaged(path, misfits)
    return state


def read_result(folder: Path, identity: Identity, now: Mapping[str, Tensor]) -> Mapping[str, Any]:
    """Return the record of a result of the same run; raise StoreError for another folder, which would be replaced.

    now: the state of this run before its first step
    """
    try:
        record: dict[str, Any] = read_json(folder / RECORD)
        told = differences(record["identity"], identity, WeightFile(folder / LESSONS_FILE), now)
        record = {**record, "losses": list(map(float, record["losses"])), "settings": dict(record["settings"])}
    except (ModelError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise StoreError(
            f"{folder} is there and is no result of tuning; a new folder is needed. Choose another name."
        ) from error
    if told:
        raise StoreError(
            f"{folder} is the result of a run with {', '.join(told)}; it would be replaced. Choose another folder for "
            f"this run, or remove it."
        )
    return record


def differences(found: Identity, wanted: Identity, file: WeightFile, now: Mapping[str, Tensor]) -> list[str]:
    """Name what differs between two runs.

    file: with the lessons of the run that was found
    now:  those of the wanted one among others
    """
    lessons = file.read(LESSONS.keys() & file.shapes)
    told = [words for part, words in PARTS.items() if found[part] != wanted[part]]
    told += [words for name, words in LESSONS.items() if not _alike(lessons.get(name), now.get(name))]
    before, after = (dict(side["settings"]) for side in (found, wanted))  # type: ignore[call-overload]
    for name in sorted(after.keys() | before.keys()):
        if after.get(name) != before.get(name):
            told.append(f"{name} {before.get(name)} (now {after.get(name)})")
    return list(dict.fromkeys(told))


def _alike(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None:
        return one is other
    one, other = one.float(), other.float().cpu()
    return one.shape == other.shape and bool((one - other).norm() <= SAME_LESSON * other.norm())


def _fits(name: str, x: Tensor, now: Tensor) -> bool:
    """Return whether a tensor can stand for that of a state."""
    return x.dtype == now.dtype and (x.ndim == now.ndim if name in OF_ANY_LENGTH else x.shape == now.shape)


def _damaged(path: Path, names: list[str]) -> StoreError:
    return StoreError(
        f"{path} is no whole state of this run: {brief(names)} missing, unknown or of another shape. Remove it to "
        f"begin anew."
    )
