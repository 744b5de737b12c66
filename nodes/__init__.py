"""The pack's nodes, as ComfyUI and the headless runner load them."""

from __future__ import annotations

from .requirements import check_requirements

check_requirements()  # before anything is imported that needs them

from .api import ComfyExtension, io
from .checking.server import show_graphs_to_nodes
from .clips.compare_clips import CompareClips
from .clips.edit_prompts import EditPrompts
from .clips.keep_source_pixels import KeepSourcePixels
from .clips.load_frames import LoadFrames
from .clips.prepare_frames import PrepareFrames
from .clips.sample_clip import SampleClip
from .look.measure import MeasureEdit
from .look.self_attention import SelfAttentionComponents
from .look.show_words import ShowWords
from .look.word_heat_maps import WordHeatMaps
from .method.control import AttentionStoreCache, RegisterAttentionControl
from .method.edit import P2PEdit
from .method.invert import DDIMInvert
from .method.load_lora import LoadLoRA
from .method.load_unet import LoadPseudo3DUNet
from .method.tune import TuneOnClip
from .method.video_edit import VideoEdit

__all__ = ["comfy_entrypoint"]


class FateZeroExtension(ComfyExtension):
    """The list of the pack's nodes."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Return the node classes, in the order of a typical graph."""
        return [
            SampleClip,
            LoadFrames,
            PrepareFrames,
            LoadPseudo3DUNet,
            LoadLoRA,
            TuneOnClip,
            VideoEdit,
            ShowWords,
            RegisterAttentionControl,
            AttentionStoreCache,
            DDIMInvert,
            WordHeatMaps,
            SelfAttentionComponents,
            EditPrompts,
            P2PEdit,
            KeepSourcePixels,
            CompareClips,
            MeasureEdit,
        ]


async def comfy_entrypoint() -> FateZeroExtension:
    """Make the pack; ComfyUI calls this function when it starts."""
    show_graphs_to_nodes()
    return FateZeroExtension()
