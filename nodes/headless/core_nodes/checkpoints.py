"""The stand-in for the core node that loads a whole checkpoint."""

from __future__ import annotations

from shlex import quote

from ....fatezero_ext.errors import FateZeroError
from ....fatezero_ext.models.checkpoint_check import check_checkpoint
from ....fatezero_ext.models.weight_files import SAFETENSORS
from ... import host
from ...api import io
from ...method.load_unet import AUTO, LoadPseudo3DUNet
from .core_node import CoreNode

MOST_LISTED = 12
"""Names of files in a message."""


class CheckpointLoaderSimple(CoreNode):
    """Loads a checkpoint of Stable Diffusion 1.x or 2.x below --models.

    Its MODEL is the pseudo-3D UNet with what ComfyUI's MODEL computes: each frame is normalised for itself. Its key
    frames are the published ones, which Register Attention Control and Video Edit give to a MODEL.
    """

    CORE_SCHEMA = io.Schema(
        "CheckpointLoaderSimple",
        "Load Checkpoint",
        "loaders",
        [io.Combo.Input("ckpt_name", options=[], tooltip="The file's name.")],
        [
            io.Model.Output(tooltip="The UNet."),
            io.Clip.Output(tooltip="The text encoder."),
            io.Vae.Output(tooltip="The VAE."),
        ],
    )

    @classmethod
    def validate_inputs(cls, ckpt_name: str | None) -> bool | str:
        """Check before anything runs that the file is there and of a kind that can be edited; reads its header.

        ckpt_name: None where it is linked and not known yet
        """
        if ckpt_name is None:
            return True
        path = host.current().model_file("checkpoints", ckpt_name)
        if path is None:
            return _absent(ckpt_name)
        try:
            if path.suffix.lower() in SAFETENSORS:
                check_checkpoint(path)
        except FateZeroError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, ckpt_name: str) -> str:
        """Return what changes when the file does."""
        return LoadPseudo3DUNet.fingerprint_inputs(ckpt_name)

    @classmethod
    def execute(cls, ckpt_name: str) -> io.NodeOutput:
        """Load UNet, text encoder and VAE."""
        return LoadPseudo3DUNet.execute(ckpt_name, AUTO, "frame", AUTO, 0)


def _absent(name: str) -> str:
    there = host.current().model_names("checkpoints")
    listed = ", ".join([*there[:MOST_LISTED], *([f"{len(there) - MOST_LISTED} more"] if there[MOST_LISTED:] else [])])
    instead = f", or choose one that is there: {listed}" if there else ""
    how = f" (--set {quote(f'CheckpointLoaderSimple.ckpt_name={there[0]}')})" if there else ""
    return (
        f"the checkpoint {name!r} is not there; it is needed. Put the file {host.current().models_place()}, in its "
        f"folder checkpoints if there is one{instead}{how}."
    )
