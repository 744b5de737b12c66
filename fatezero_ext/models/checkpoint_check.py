"""Check from its header that a file of weights is a whole checkpoint that can be loaded."""

from __future__ import annotations

from pathlib import Path

from ..errors import ModelError
from .file_kinds import Kind, kind_of
from .single_file.standard_names import NamedFile
from .weight_files import brief

VAE_PREFIXES = ("first_stage_model.", "vae.")
SD1_TEXT_PREFIXES = ("cond_stage_model.transformer.", "conditioner.embedders.0.transformer.")
SD2_TEXT_PREFIXES = ("cond_stage_model.model.", "conditioner.embedders.0.model.")
QUANTISED = ("scaled_fp8", ".scale_weight", ".weight_scale", ".comfy_quant", ".absmax", ".quant_map")


def check_checkpoint(path: str | Path) -> Kind:
    """Return the kind of a checkpoint; only its header is read, unless it is a pickle.

    Raises ModelError for a file that cannot be read, and for every kind that cannot be loaded, naming it.
    """
    return checked_kind(NamedFile(path))


def checked_kind(file: NamedFile) -> Kind:
    """Return the kind of an opened file; raises what `check_checkpoint` does."""
    kind = kind_of(file.shapes)
    if not kind.family:
        raise ModelError(
            f"{file.path.name} is {kind.name}; a whole checkpoint of Stable Diffusion 1.x or 2.x is needed. "
            f"{kind.advice}"
        )
    if scaled := [name for name in file.shapes if name.endswith(QUANTISED)]:
        raise ModelError(
            f"{file.path.name} has quantised weights ({brief(scaled)}); float16, bfloat16 or float32 are needed. Use "
            f"the model's plain file, or connect it as a MODEL."
        )
    if not any(first_prefix(file, prefixes) for prefixes in (SD1_TEXT_PREFIXES, SD2_TEXT_PREFIXES)):
        raise ModelError(
            f"{file.path.name} has no text encoder; a checkpoint with UNet, text encoder and VAE is needed. Use the "
            f"complete file, or connect it as a MODEL."
        )
    if not first_prefix(file, VAE_PREFIXES):
        raise ModelError(
            f"{file.path.name} has no VAE; a checkpoint with UNet, text encoder and VAE is needed. Use the complete "
            f"file, or connect it as a MODEL."
        )
    return kind


def first_prefix(file: NamedFile, prefixes: tuple[str, ...]) -> str:
    """Return the first of the prefixes that a tensor's name has; '' if none has one."""
    return next((prefix for prefix in prefixes if any(name.startswith(prefix) for name in file.shapes)), "")
