"""The pack's nodes, as ComfyUI and the headless runner load them."""

from __future__ import annotations

from .api import ComfyExtension, io
from .compare import CompareClips, EditPrompts
from .control import AttentionStoreCache, RegisterAttentionControl
from .edit import P2PEdit
from .frames import LoadFrames, PrepareFrames, SampleClip
from .host import show_graphs_to_nodes
from .invert import DDIMInvert
from .load import LoadPseudo3DUNet
from .lora import LoadLoRA
from .measure import MeasureEdit
from .see import SelfAttentionComponents, ShowWords, WordHeatMaps

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
