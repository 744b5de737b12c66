"""The weights of a part of a diffusers or transformers folder: one file, or several with an index."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from ...errors import ModelError
from ...untrusted.plain_files import read_json, shown
from ..weight_files import WeightFile, brief

INDEX_BYTES = 16 * 2**20
SHARDS = 100
UNET_AND_VAE = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
"""diffusers' names of these files, the preferred one first."""
TEXT = ("model.safetensors", "pytorch_model.bin")
"""transformers' names of these files."""
VARIANTS = ("fp16", "non_ema")
"""Variants of published weights, named before the file's ending."""


class Weights(Protocol):
    """Tensors by name that are read on demand."""

    path: Path

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shapes of all tensors by name."""

    def read(self, names: Iterable[str], dtype: torch.dtype | None = None) -> dict[str, Tensor]:
        """Read tensors into memory of their own; dtype: for floating-point tensors; None: as in the file."""


class ShardedWeights:
    """Weights in several files; an index says where each tensor is."""

    def __init__(self, index: Path) -> None:
        """Raises ModelError for an index that names files elsewhere, or tensors that are not there."""
        self.path = index
        self._files: dict[str, WeightFile] = {}
        self._homes = _homes(index)
        for name in sorted(set(self._homes.values())):
            self._files[name] = WeightFile(index.parent / name)
        lost = [key for key, file in self._homes.items() if key not in self._files[file].shapes]
        if lost:
            raise ModelError(
                f"{index} names tensors that its files do not have: {brief(sorted(lost))}; complete files are needed. "
                f"Restore the folder."
            )
        self.shapes = {key: self._files[file].shapes[key] for key, file in self._homes.items()}

    def read(self, names: Iterable[str], dtype: torch.dtype | None = None) -> dict[str, Tensor]:
        """Read tensors into memory of their own; dtype: for floating-point tensors; None: as in the file."""
        wanted: dict[str, list[str]] = {}
        for name in names:
            wanted.setdefault(self._homes[name], []).append(name)
        return {key: x for file, keys in wanted.items() for key, x in self._files[file].read(keys, dtype).items()}


def folder_weights(folder: Path, names: tuple[str, str]) -> Weights:
    """Open the weights of a folder: safetensors if there are any, else a pickle of tensors; variants after plain ones.

    names: of the safetensors file and of the pickle, UNET_AND_VAE or TEXT
    Raises ModelError for a folder that has neither, and for files that cannot be read.
    """
    for variant in ("", *(f".{variant}" for variant in VARIANTS)):
        for name in names:
            whole = Path(name).stem + variant + Path(name).suffix
            if (folder / whole).exists():
                return WeightFile(folder / whole)
            if (index := folder / f"{name}.index{variant}.json").exists():
                return ShardedWeights(index)
    raise ModelError(
        f"{folder} cannot be read: it has neither {names[0]} nor {names[1]}; one of them is needed. Use a complete "
        f"folder, as save_pretrained writes it."
    )


def present(folder: Path) -> Path:
    """Return the folder; raises ModelError if there is none."""
    if not folder.is_dir():
        raise ModelError(f"{folder} is missing; a part of the model is read from it. Use a complete diffusers folder.")
    return folder


def _homes(index: Path) -> dict[str, str]:
    """Map each tensor to its file."""
    homes = read_json(index, INDEX_BYTES).get("weight_map")
    if not isinstance(homes, dict) or not homes or not all(isinstance(name, str) for name in homes.values()):
        raise ModelError(f"{index} has no weight_map of file names; one is needed. Restore the file.")
    suffix = Path(index.name.rpartition(".index.")[0]).suffix
    for name in set(homes.values()):
        if Path(name).name != name or Path(name).suffix != suffix:
            raise ModelError(
                f"{index} names the file {shown(name)}; a {suffix} file in the same folder is needed. Restore the file."
            )
    if len(set(homes.values())) > SHARDS:
        raise ModelError(
            f"{index} names {len(set(homes.values()))} files; at most {SHARDS} are needed. Save the model again."
        )
    return homes
