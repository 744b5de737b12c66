"""The models that nodes offer by name, and their files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType
from typing import NoReturn

from ...fatezero_ext.errors import FateZeroError, ModelError, NotOfferedError
from ...fatezero_ext.models.folder.detect import BUILT_IN_FOLDERS, BUILT_IN_NAMES, UNET_CLASSES
from ...fatezero_ext.untrusted.plain_files import read_json
from .. import host
from ..file_stamps import file_stamp
from ..model_folders import at_most_two_levels_below

BUILT_IN = BUILT_IN_NAMES["shapes"]
BUILT_IN_MODELS = MappingProxyType({name: BUILT_IN_FOLDERS[world] for world, name in BUILT_IN_NAMES.items()})
SHOWN = 12  # names in an error


def model_names() -> list[str]:
    """Return the names of all models that Load Stable Diffusion for Video offers; no file of weights is opened."""
    folders = sorted({name for root in host.current().diffusers_folders() for name in _names_below(root)})
    return [*BUILT_IN_MODELS, *folders, *host.current().model_names("checkpoints")]


def model_path(name: str) -> Path:
    """Return the folder or file of a model; raises ModelError unless its name is one of `model_names`."""
    name = str(name)  # workflows made by hand may hold anything
    if name in BUILT_IN_MODELS:
        return BUILT_IN_MODELS[name]
    for root in host.current().diffusers_folders():
        if name in _names_below(root):
            return root / name
    if (file := host.current().model_file("checkpoints", name)) is not None:
        return file
    names = model_names()
    listed = ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
    raise ModelError(
        f"the model {name!r} is not there; the list has {listed}. Choose one of these, or put it "
        f"{host.current().models_place()}."
    )


def stamps(path: Path) -> str:
    """Return what changes when a file of a model does; sizes and times are read, not the files."""
    if path.is_file():
        return str([file_stamp(path)])
    return str([(each.relative_to(path).as_posix(), file_stamp(each)) for each in _files_below(path)])


def _files_below(folder: Path, above: tuple[Path, ...] = ()) -> Iterator[Path]:
    """Yield the files of a model, sorted, also of linked folders; above: folders whose links back are not followed."""
    real = folder.resolve()
    for path in [] if real in above else sorted(folder.iterdir()):
        if path.is_dir():
            yield from _files_below(path, (*above, real))
        elif path.is_file():
            yield path


def is_bare_unet(path: Path) -> bool:
    """Return whether a folder has a UNet's config and no pipeline around it."""
    return path.is_dir() and not (path / "model_index.json").exists()


def _names_below(root: Path) -> set[str]:
    """Model folders at most two levels below `root`, as `publisher/model` or `model`: pipelines, and bare UNets."""
    folders = {path.parent for path in at_most_two_levels_below(root, "model_index.json")}
    for config in at_most_two_levels_below(root, "config.json"):
        if config.parent.parent not in folders and _describes_unet(config):
            folders.add(config.parent)
    return {folder.relative_to(root).as_posix() for folder in folders}


def _describes_unet(config: Path) -> bool:
    try:
        return read_json(config).get("_class_name") in UNET_CLASSES
    except FateZeroError:
        return False


class MissingPart:
    """A placeholder for the text encoder or VAE that a model lacks; using it raises NotOfferedError."""

    def __init__(self, part: str, model: str, instead: str) -> None:
        """part: the part that is missing; instead: the node that gives one."""
        self._message = f"{model} is a UNet alone and has no {part}; one of the same model is needed. Use {instead}."

    def __repr__(self) -> str:
        return f"MissingPart({self._message!r})"

    def __getattr__(self, name: str) -> NoReturn:
        raise NotOfferedError(self.__dict__.get("_message", name))  # while it is copied it has no message yet
