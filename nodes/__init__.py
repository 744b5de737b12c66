"""The pack's nodes, as ComfyUI and the headless runner load them."""

from __future__ import annotations

from .api import ComfyExtension, io
from .clips.compare_clips import CompareClips, EditPrompts
from .clips.load_frames import LoadFrames, PrepareFrames, SampleClip
from .host.current import show_graphs_to_nodes
from .look.measure import MeasureEdit
from .look.word_heat_maps import SelfAttentionComponents, ShowWords, WordHeatMaps
from .method.control import AttentionStoreCache, RegisterAttentionControl
from .method.edit import P2PEdit
from .method.invert import DDIMInvert
from .method.load_lora import LoadLoRA
from .method.load_unet import LoadPseudo3DUNet

__all__ = ["comfy_entrypoint"]


class FateZeroExtension(ComfyExtension):
    """The list of the pack's nodes."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """The node classes, in the order of a typical graph."""
        return [
            SampleClip,
            LoadFrames,
            PrepareFrames,
            LoadPseudo3DUNet,
            LoadLoRA,
            ShowWords,
            RegisterAttentionControl,
            AttentionStoreCache,
            DDIMInvert,
            WordHeatMaps,
            SelfAttentionComponents,
            EditPrompts,
            P2PEdit,
            CompareClips,
            MeasureEdit,
        ]


async def comfy_entrypoint() -> FateZeroExtension:
    """Called by ComfyUI to load the pack."""
    show_graphs_to_nodes()
    return FateZeroExtension()
