"""One name for each tensor of a single file, where programs that convert and train checkpoints write several."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from .model_kinds import EMA, UNET
from .weight_files import WeightFile

if TYPE_CHECKING:
    import torch
    from torch import Tensor

ATTENTION = ".mid.attn_1."
VAE_ATTENTION = {"group_norm.": "norm.", "to_q.": "q.", "to_k.": "k.", "to_v.": "v.", "to_out.0.": "proj_out."}
FLAT = re.compile(r"diffusion_model(?:(input_blocks|output_blocks)(\d+)(\d)|(middle_block|time_embed|out)(\d))(\D.*)")
WORDS = re.compile(
    r"(?:in|out|emb)_layers|skip_connection|transformer_blocks|proj_in|proj_out|proj|to_[qkv]|to_out|attn[12]"
    r"|norm[123]?|conv|op|ff|net|weight|bias|\d+"
)


class NamedFile:
    """A file of weights under the names that Stable Diffusion's own files have; it reads as a `WeightFile` does."""

    def __init__(self, path: str | Path) -> None:
        self._file = WeightFile(path)
        self._names = standard_names(self._file.shapes)
        self.path, self.metadata = self._file.path, self._file.metadata
        self.shapes = {name: self._file.shapes[key] for name, key in self._names.items()}

    def read(self, names: Iterable[str], dtype: torch.dtype | None = None) -> dict[str, Tensor]:
        """Tensors in memory of their own; dtype: of floating-point tensors, None: as they are in the file."""
        wanted = {self._names[name]: name for name in names}
        return {wanted[key]: x for key, x in self._file.read(wanted, dtype).items()}


def standard_names(keys: Iterable[str]) -> dict[str, str]:
    """Standard name -> name in the file.

    The UNet's moving average (EMA) takes the place of its weights in a file that has no others.
    """
    names = {_standard(key): key for key in keys}
    if not any(name.startswith(UNET) for name in names):
        names = {_unflattened(name): key for name, key in names.items()}
    return names


def _standard(key: str) -> str:
    head, attention, tail = key.partition(ATTENTION)
    if not attention:
        return key
    return (
        head
        + attention
        + next((n + tail.removeprefix(o) for o, n in VAE_ATTENTION.items() if tail.startswith(o)), tail)
    )


def _unflattened(key: str) -> str:
    """The UNet's name behind one of its moving average, which is written without points."""
    found = FLAT.fullmatch(key.removeprefix(EMA)) if key.startswith(EMA) else None
    if not found:
        return key
    block, index, inner, other, other_index, rest = found.groups()
    words = WORDS.findall(rest)
    head = [block, index, inner] if block else [other, other_index]
    return UNET + ".".join([*head, *words]) if "".join(words) == rest else key
