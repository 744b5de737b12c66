"""MeasureEdit: figures for the quality of an edit."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from ...fatezero_ext.errors import ModelError
from ...fatezero_ext.models.folder.detect import is_clip_folder
from .. import host
from ..api import io, schema
from ..file_stamps import file_stamp
from ..first_use import importing
from ..model_folders import at_most_two_levels_below

if TYPE_CHECKING:
    from torch import Tensor

    from ...fatezero_ext.metrics.clip_scores import ClipScorer

NO_CLIP = "none"


class MeasureEdit(io.ComfyNode):
    """Measure an edit: by CLIP, and against the source by PSNR, SSIM, flicker, warp error and VMAF."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="FateZero_MeasureEdit",
            display_name="Measure Edit",
            category="FateZero/look",
            description=cls.__doc__,
            search_aliases=["CLIP score", "PSNR", "SSIM", "temporal consistency", "flicker", "warp error", "VMAF"],
            inputs=_inputs(),
            outputs=[
                io.String.Output(display_name="report", tooltip="All figures as text, for a text preview."),
                io.Float.Output(
                    display_name="frame_accuracy",
                    tooltip="Share of frames closer to the edit prompt than to the source prompt. NaN without CLIP.",
                ),
                io.Float.Output(
                    display_name="temporal_consistency",
                    tooltip="How alike neighbouring frames are to CLIP, up to 1. NaN without CLIP.",
                ),
                io.Float.Output(display_name="psnr", tooltip="In dB, where nothing was to change. Higher: more alike."),
                io.Float.Output(
                    display_name="ssim", tooltip="Up to 1, where nothing was to change. Higher: more alike."
                ),
                io.Float.Output(
                    display_name="flicker",
                    tooltip="Change between frames that the source does not have, where nothing was to change; in "
                    "levels of 255. Lower: steadier.",
                ),
                io.Float.Output(
                    display_name="warp_error",
                    tooltip="Change between frames that the source's motion does not explain, there too; in levels of "
                    "255. NaN without opencv-python-headless.",
                ),
                io.Float.Output(
                    display_name="vmaf", tooltip="0 to 100, there too. Higher: more alike. NaN unless switched on."
                ),
            ],
            is_output_node=True,
        )

    @classmethod
    def fingerprint_inputs(cls, clip_model: str, **_widgets: str | bool) -> str:
        """Return what changes when a file of the CLIP model does."""
        files = [] if clip_model == NO_CLIP else sorted(path for path in _folder(clip_model).iterdir())
        return str([file_stamp(path) for path in files])

    @classmethod
    def execute(
        cls,
        source: Tensor,
        edited: Tensor,
        clip_model: str,
        source_prompt: str,
        edit_prompt: str,
        mask: Tensor | None = None,
        vmaf: bool = False,
    ) -> io.NodeOutput:
        with importing():
            from ...fatezero_ext.metrics.edit_metrics import measure_edit, report
            from ...fatezero_ext.metrics.stability import dis_flow

        measures = measure_edit(
            source[..., :3],
            edited[..., :3],
            mask=mask,
            clip=_clip(clip_model),
            source_prompt=source_prompt,
            edit_prompt=edit_prompt,
            on_picture=host.current().progress(len(edited)).update,
            flow=dis_flow,
            with_vmaf=vmaf,
        )
        text = report(measures)
        alike = (None, None) if measures.likeness is None else measures.likeness[:2]
        warp_error = None if measures.warp_errors is None else measures.warp_errors.edit
        over_time = (measures.flicker, warp_error, measures.vmaf)
        figures = (measures.frame_accuracy, measures.temporal_consistency, *alike, *over_time)
        shown = [math.nan if figure is None else figure for figure in figures]
        return io.NodeOutput(text, *shown, ui={"text": (text,)})


def _inputs() -> list[io.Input]:
    return [
        io.Image.Input("source", tooltip="The clip before the edit."),
        io.Image.Input("edited", tooltip="The clip after it: as many frames, of the same size."),
        io.Combo.Input(
            "clip_model",
            options=[NO_CLIP, *_names()],
            default=NO_CLIP,
            tooltip="A CLIP model folder in Hugging Face layout (config.json, weights, tokenizer, "
            "preprocessor_config.json) in models/clip_vision, models/text_encoders or models/diffusers. none: its "
            "two figures are left out.",
        ),
        io.String.Input(
            "source_prompt", default="", multiline=True, tooltip="What the source shows. For the frame accuracy."
        ),
        io.String.Input(
            "edit_prompt",
            default="",
            multiline=True,
            tooltip="What the edit should show. A frame counts if CLIP finds it at least as close to this as to the "
            "source prompt.",
        ),
        io.Mask.Input(
            "mask",
            optional=True,
            tooltip="White where something may change; all but CLIP's figures then compare only the rest. "
            "Prompt-to-Prompt Edit gives one.",
        ),
        io.Boolean.Input(
            "vmaf",
            default=False,
            optional=True,
            tooltip="Also measure VMAF, by the ffmpeg of the package imageio-ffmpeg.",
        ),
    ]


def _clip(name: str) -> ClipScorer | None:
    if name == NO_CLIP:
        return None
    with importing():
        from ...fatezero_ext.metrics.clip_scores import load_clip

    clip = load_clip(_folder(name))
    clip.load_to_device = host.current().residence(clip.net, "text encoder")
    return clip


def _names() -> list[str]:
    return sorted({name for root in host.current().clip_folders() for name in _names_below(root)})


def _names_below(root: Path) -> set[str]:
    """CLIP folders at most two levels below `root`, as `publisher/model` or `model`."""
    configs = at_most_two_levels_below(root, "config.json")
    return {config.parent.relative_to(root).as_posix() for config in configs if is_clip_folder(config.parent)}


def _folder(name: str) -> Path:
    for root in host.current().clip_folders():
        if name in _names_below(root):
            return root / name
    present = ", ".join([NO_CLIP, *_names()])
    raise ModelError(
        f"the CLIP folder {name!r} is not there; {present} are. Choose one of these, or put the folder into "
        f"models/clip_vision and refresh."
    )
