"""LoadPseudo3DUNet: from a model on disk to UNet, CLIP and VAE."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ..fatezero_ext.checkpoints import TOY_FOLDER, load_model
from ..fatezero_ext.errors import FateZeroError, ModelError
from ..fatezero_ext.kernels import KERNELS, kernel
from ..fatezero_ext.unet import InflationSettings
from . import host, words
from .api import advanced, io, schema

BUILT_IN = "built-in toy model"
PRECISIONS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
UNET = io.Custom("FATEZERO_UNET")


class LoadPseudo3DUNet(io.ComfyNode):
    """Load a Stable Diffusion model for video: its UNet sees all frames of a clip at once."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="FateZero_LoadPseudo3DUNet",
            display_name="Load Pseudo-3D UNet",
            category="FateZero",
            description=cls.__doc__,
            inputs=_inputs(),
            outputs=[UNET.Output(display_name="unet"), io.Clip.Output(), io.Vae.Output()],
        )

    @classmethod
    def validate_inputs(cls, key_frames: str | None = None) -> bool | str:
        try:
            InflationSettings(key_frames=words.key_frames(key_frames or ""))
        except FateZeroError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, model: str, **_widgets: Any) -> str:  # noqa: ANN401 - the other widgets
        """Changes when a file of the model does, so that a folder saved anew is loaded anew."""
        files = sorted(path for path in _folder(model).rglob("*") if path.is_file())
        stamps = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
        return str(stamps)

    @classmethod
    def execute(
        cls, model: str, key_frames: str, norm: str, precision: str, least_sc_channel: int, attention: str = "auto"
    ) -> io.NodeOutput:
        settings, device = InflationSettings(words.key_frames(key_frames), least_sc_channel, norm), host.device()
        dtype = PRECISIONS.get(precision, torch.float32 if device.type == "cpu" else torch.float16)
        computes = kernel(attention, device, dtype)
        loaded = load_model(_folder(model), settings, dtype=dtype, name=model)
        loaded.unet.kernel = computes
        for part in (loaded.unet, loaded.text, loaded.vae):
            part.prepare = host.residence(part.net)
        return io.NodeOutput(loaded.unet, loaded.text, loaded.vae)


def _inputs() -> list[io.Input]:
    return [
        io.Combo.Input(
            "model",
            options=[BUILT_IN, *_folders()],
            default=BUILT_IN,
            tooltip="A Stable Diffusion 1.x or 2.x model folder in models/diffusers, or the small model that "
            "comes with this pack (64x64 drawings of coloured shapes, for trying things out).",
        ),
        io.String.Input(
            "key_frames",
            default="-1, first",
            tooltip="Frames whose keys self-attention reads, separated by commas: whole numbers relative to "
            "the frame (-1 is the one before), first, mid, last. Empty: each frame reads its own.",
        ),
        io.Combo.Input(
            "norm",
            options=["clip", "frame"],
            default="clip",
            tooltip="clip: normalise over all frames at once, as in the published method. frame: each frame "
            "for itself.",
        ),
        io.Combo.Input(
            "precision",
            options=["auto", *PRECISIONS],
            default="auto",
            tooltip="Of the weights in memory. auto: float16 on a GPU, float32 on a CPU.",
        ),
        advanced(
            io.Int.Input(
                "least_sc_channel",
                default=0,
                min=0,
                max=4096,
                tooltip="Blocks narrower than this many channels read only each frame's own keys.",
            )
        ),
        advanced(
            io.Combo.Input(
                "attention",
                options=list(KERNELS),
                default=KERNELS[0],
                optional=True,
                tooltip="How attention is computed; all give the same up to rounding. auto: torch's fused kernels, "
                "else xformers, else slice by slice. sliced needs least memory, explicit is the slow reference.",
            )
        ),
    ]


def _folders() -> list[str]:
    """Names of the model folders of all diffusers locations."""
    return sorted({name for root in host.diffusers_folders() for name in _names_below(root)})


def _names_below(root: Path) -> set[str]:
    """Model folders at most two levels below `root`, as `publisher/model` or `model`."""
    indexes = [index for pattern in ("*", "*/*") for index in root.glob(f"{pattern}/model_index.json")]
    return {index.parent.relative_to(root).as_posix() for index in indexes}


def _folder(name: str) -> Path:
    if name == BUILT_IN:
        return TOY_FOLDER
    for root in host.diffusers_folders():
        if name in _names_below(root):
            return root / name
    raise ModelError(
        f"the model folder {name!r} is not there; {', '.join([BUILT_IN, *_folders()])} are. Choose one of these, or "
        f"put the folder into models/diffusers and refresh."
    )
