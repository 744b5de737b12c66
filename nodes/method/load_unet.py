"""LoadPseudo3DUNet: from a model on disk to UNet, CLIP and VAE."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal

from ...fatezero_ext.choices import KERNELS, Kernel
from ...fatezero_ext.errors import SettingsError
from ...fatezero_ext.models.checkpoint_check import check_checkpoint
from ...fatezero_ext.models.weight_files import SAFETENSORS
from .. import host, text_lists
from ..api import advanced, io, schema
from ..checking.verdicts import FirstMistakes, verdict
from ..first_use import importing
from ..host.protocol import MODEL_PARTS
from ..sockets import UNET
from .model_list import BUILT_IN, MissingPart, is_bare_unet, model_names, model_path, stamps

if TYPE_CHECKING:
    from ...fatezero_ext.models.single_file.checkpoint import Prediction

AUTO: Final = "auto"
NORMS: Mapping[str, Literal["clip", "frame"]] = MappingProxyType({"video": "clip", "frame": "frame"})
"""Norms of the inflation by their names in the widget, where "clip" would be taken for the text encoder."""
OLD_NORMS: Mapping[str, Literal["clip", "frame"]] = MappingProxyType({**NORMS, "clip": "clip"})
"""The same, with the name that files from before still have."""
WEIGHT_DTYPES = ("float32", "float16", "bfloat16")
"""Dtypes of the weights, by their names in torch."""


class LoadPseudo3DUNet(io.ComfyNode):
    """Load a Stable Diffusion model for video: its UNet sees all frames of a clip at once."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="FateZero_LoadPseudo3DUNet",
            display_name="Load Stable Diffusion for Video",
            category="FateZero",
            description=cls.__doc__,
            search_aliases=["Load Pseudo-3D UNet", "FateZero", "Tune-A-Video", "load checkpoint", "video unet"],
            inputs=_inputs(),
            outputs=[
                UNET.Output(display_name="unet", tooltip="For Register Attention Control."),
                io.Clip.Output(tooltip="The text encoder, for DDIM Inversion and Prompt-to-Prompt Edit."),
                io.Vae.Output(tooltip="For VAE Encode and VAE Decode."),
            ],
        )

    @classmethod
    def validate_inputs(
        cls, model: str | None = None, key_frames: str | None = None, norm: str | None = None
    ) -> bool | str:
        """Check the model's file by its header, key frames, and norm, of which older files have another name."""
        mistakes = FirstMistakes()
        mistakes.check("norm", _norm, "video" if norm is None else norm)
        mistakes.check("key_frames", text_lists.key_frames_or_auto, key_frames or "")
        path = None if model is None else mistakes.check("model", model_path, model)
        if path is not None and path.suffix.lower() in SAFETENSORS:
            mistakes.check("model", check_checkpoint, path)  # its header alone; pickles are checked when loaded
        return verdict(mistakes)

    @classmethod
    def fingerprint_inputs(cls, model: str, **_widgets: Any) -> str:  # noqa: ANN401 - the other widgets
        """Return what changes when a file of the model does, so that a model saved anew is loaded anew."""
        return stamps(model_path(model))

    @classmethod
    def execute(
        cls,
        model: str,
        key_frames: str,
        norm: str,
        precision: str,
        least_sc_channel: int,
        attention: Kernel = "auto",
        prediction: Prediction | Literal["auto"] = AUTO,
        zero_terminal: Literal["auto", "yes", "no"] = AUTO,
    ) -> io.NodeOutput:
        import torch

        with importing():
            from ...fatezero_ext.attention.kernels import kernel
            from ...fatezero_ext.models.load import load_model, load_unet
            from ...fatezero_ext.models.unet.inflate import InflationSettings

        program, path = host.current(), model_path(model)
        settings = InflationSettings(text_lists.key_frames_or_auto(key_frames), least_sc_channel, _norm(norm))
        dtype = program.weight_dtype() if precision == AUTO else getattr(torch, precision)
        described: dict[str, Any] = {
            "dtype": dtype,
            "attention": kernel(attention, program.device(), dtype),
            "name": model,
            "prediction": None if prediction == AUTO else prediction,
            "zero_terminal": None if zero_terminal == AUTO else zero_terminal == "yes",
        }
        if is_bare_unet(path):
            absent = MissingPart("text encoder", model, "Load CLIP"), MissingPart("VAE", model, "Load VAE")
            parts: tuple[Any, Any, Any] = load_unet(path, settings, **described), *absent
        else:
            loaded = load_model(path, settings, **described)
            parts = loaded.unet, loaded.text_encoder, loaded.vae
            if dtype == torch.float16:
                loaded.vae.net.float()  # some VAEs leave the range of half precision, and frames go black
        for part, kind in zip(parts, MODEL_PARTS, strict=True):
            if not isinstance(part, MissingPart):
                part.load_to_device = program.residence(part.net, kind)
        return io.NodeOutput(*parts)


def _norm(name: str) -> Literal["clip", "frame"]:
    """Return the norm of that name; raises SettingsError for another."""
    if name not in OLD_NORMS:
        raise SettingsError(f"norm is {name!r}; it is one of {', '.join(NORMS)}. Choose one of the list.")
    return OLD_NORMS[name]


def _inputs() -> list[io.Input]:
    return [
        io.Combo.Input(
            "model",
            options=model_names(),
            default=BUILT_IN,
            tooltip="A Stable Diffusion 1.x or 2.x checkpoint in models/checkpoints, a folder in models/diffusers, "
            "or a small model of this pack, for trying things out: 64x64 drawings of coloured shapes (toy), or of "
            "animals and things too (objects).",
        ),
        io.String.Input(
            "key_frames",
            default=AUTO,
            tooltip="Frames whose keys self-attention reads, separated by commas: whole numbers relative to "
            "the frame (-1 is the one before), first, mid, last. Empty: each frame reads its own. auto: that for the "
            "built-in model, -1, first for others.",
        ),
        advanced(
            io.Combo.Input(
                "norm",
                options=list(NORMS),
                default="video",
                tooltip="video: normalise over all frames at once, as in the published method. frame: each frame for "
                "itself.",
            )
        ),
        io.Combo.Input(
            "precision",
            options=[AUTO, *WEIGHT_DTYPES],
            default=AUTO,
            tooltip="Of the weights in memory. auto: what ComfyUI takes for Stable Diffusion 1.x, mostly float16 on a "
            "GPU and float32 on a CPU. Beside float16 the VAE is float32.",
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
        advanced(
            io.Combo.Input(
                "prediction",
                options=[AUTO, "epsilon", "v_prediction"],
                default=AUTO,
                optional=True,
                tooltip="What the UNet predicts. auto: as the folder's scheduler or the file says; of a Stable "
                "Diffusion 2.x file it is told from its weights.",
            )
        ),
        advanced(
            io.Combo.Input(
                "zero_terminal",
                options=[AUTO, "yes", "no"],
                default=AUTO,
                optional=True,
                tooltip="Whether the model was trained on a noise schedule that ends in pure noise. auto: as the "
                "folder's scheduler or the file says.",
            )
        ),
    ]
