"""One name for each tensor of a single file; programs that convert and train checkpoints write several."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from ..file_kinds import EMA, UNET
from ..weight_files import WeightFile

if TYPE_CHECKING:
    import torch
    from torch import Tensor

ATTENTION = ".mid.attn_1."
VAE_ATTENTION = {"group_norm.": "norm.", "to_q.": "q.", "to_k.": "k.", "to_v.": "v.", "to_out.0.": "proj_out."}
VAE_FOLDER_ATTENTION = ".mid_block.attentions.0."
OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
TEXT_MODEL = "text_model."
FLAT = re.compile(r"diffusion_model(?:(input_blocks|output_blocks)(\d+)(\d)|(middle_block|time_embed|out)(\d))(\D.*)")
WORDS = re.compile(
    r"(?:in|out|emb)_layers|skip_connection|transformer_blocks|proj_in|proj_out|proj|to_[qkv]|to_out|attn[12]"
    r"|norm[123]?|conv|op|ff|net|weight|bias|\d+"
)


class NamedFile:
    """A file of weights under the names of Stable Diffusion's own files; it reads as a `WeightFile` does."""

    def __init__(self, path: str | Path) -> None:
        self._file = WeightFile(path)
        self._names = standard_names(self._file.shapes)
        self.path, self.metadata = self._file.path, self._file.metadata
        self.shapes = {name: self._file.shapes[key] for name, key in self._names.items()}

    def read(self, names: Iterable[str], dtype: torch.dtype | None = None) -> dict[str, Tensor]:
        """Read tensors into memory of their own; dtype: for floating-point tensors; None: as in the file."""
        wanted = {self._names[name]: name for name in names}
        return {wanted[key]: x for key, x in self._file.read(wanted, dtype).items()}


def standard_names(keys: Iterable[str]) -> dict[str, str]:
    """Map standard names to names in the file.

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
    """Restore the UNet's name from one of its moving average, which is written without dots."""
    found = FLAT.fullmatch(key.removeprefix(EMA)) if key.startswith(EMA) else None
    if not found:
        return key
    block, index, inner, other, other_index, rest = found.groups()
    words = WORDS.findall(rest)
    head = [block, index, inner] if block else [other, other_index]
    return UNET + ".".join([*head, *words]) if "".join(words) == rest else key


def standard_vae_name(key: str) -> str:
    """Return diffusers' name of a VAE's tensor; before 2023, as in Stable Diffusion 1.5, it had another."""
    head, attention, tail = key.partition(VAE_FOLDER_ATTENTION)
    part, _, rest = tail.partition(".")
    return f"{head}{attention}{OLD_ATTENTION[part]}.{rest}" if attention and part in OLD_ATTENTION else key


def clip_names(found: Collection[str], wanted: Collection[str]) -> dict[str, str]:
    """Map CLIP's names in memory to the file's: only some versions of transformers put `text_model.` in front."""
    inside = any(name.startswith(TEXT_MODEL) for name in wanted)
    names = {key.removeprefix(TEXT_MODEL): key for key in found}
    return {f"{TEXT_MODEL}{name}": key for name, key in names.items()} if inside else names
