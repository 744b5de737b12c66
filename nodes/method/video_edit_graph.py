"""The graph that a whole edit stands for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..api import GraphBuilder, io
from ..checking.graph_texts import EDIT_NODE, FRAMES_NODE, INVERT_NODE
from ..clips.compare_clips import CompareClips
from ..clips.keep_source_pixels import KeepSourcePixels
from ..clips.prepare_frames import PrepareFrames
from .control import AttentionStoreCache, RegisterAttentionControl
from .edit import P2PEdit
from .invert import DDIMInvert

if TYPE_CHECKING:
    from .video_edit_choices import Choices

Links = Mapping[str, Any]
"""Links by the inputs that they are connected to: model, clip, vae, and video or images."""


def widgets_of(node: type[io.ComfyNode], **changed: Any) -> dict[str, Any]:  # noqa: ANN401 - widgets have any type
    """Return the widgets of a new node of this class, as the page makes them, with some of them changed."""
    defaults = {each.id: getattr(each, "default", None) for each in node.define_schema().inputs}
    return {name: default for name, default in defaults.items() if default is not None} | changed


def edit_graph(links: Links, words: Mapping[str, Any], fps: float, choices: Choices) -> io.NodeOutput:
    """Return the nodes of an edit, with links to their outputs: video, frames, mask and comparison.

    links: where model, clip, vae and the clip to edit come from
    words: source_prompt, edit_prompt, kind, strength
    fps:   frames per second of a clip that is images
    """
    graph = GraphBuilder()
    frames = graph.node(FRAMES_NODE, id="frames", **_frames(links, fps, choices))
    encoded = graph.node("VAEEncode", id="encode", pixels=frames.out(0), vae=links["vae"])
    inverted = _inversion(graph, links, encoded.out(0), words["source_prompt"], choices)
    said = {name: words[name] for name in ("edit_prompt", "kind", "strength")}
    sockets = {"controller": inverted, "clip": links["clip"], "images": frames.out(0)}
    edited = graph.node(EDIT_NODE, id="edit", **sockets, **widgets_of(P2PEdit, **said))
    result = graph.node("VAEDecode", id="decode", samples=edited.out(0), vae=links["vae"]).out(0)
    if choices.masked:
        sockets = {"images": result, "source": frames.out(0), "mask": edited.out(2)}
        widgets = widgets_of(KeepSourcePixels, feather=choices.feather)
        result = graph.node("FateZero_KeepSourcePixels", id="keep", **sockets, **widgets).out(0)
    video = graph.node("CreateVideo", id="video", images=result, fps=frames.out(1), audio=frames.out(2))
    beside = {"source": frames.out(0), "edit_1": result}
    compared = graph.node("FateZero_CompareClips", id="compare", **beside, **widgets_of(CompareClips))
    return io.NodeOutput(video.out(0), result, edited.out(2), compared.out(0), expand=graph.finalize())


def _frames(links: Links, fps: float, choices: Choices) -> dict[str, Any]:
    framing = choices.framing
    names = ("start", "count", "sampling_rate", "short_side", "centre_square", "multiple_of")
    widgets = widgets_of(PrepareFrames, fps=fps, **{name: getattr(framing, name) for name in names})
    return widgets | {name: links[name] for name in ("video", "images") if name in links}


def _inversion(graph: GraphBuilder, links: Links, latent: object, source_prompt: str, choices: Choices) -> object:
    """Add the nodes up to the inversion; return the link to its controller."""
    controlled = graph.node(
        "FateZero_RegisterAttentionControl",
        id="control",
        unet=links["model"],
        **widgets_of(RegisterAttentionControl, most_cells=choices.most_cells),
    )
    stored = graph.node(
        "FateZero_AttentionStoreCache", id="store", controller=controlled.out(0), **widgets_of(AttentionStoreCache)
    )
    sockets = {"controller": stored.out(0), "clip": links["clip"], "latent": latent}
    chosen = {"steps": choices.steps, "frames_at_once": choices.frames_at_once}
    widgets = widgets_of(DDIMInvert, source_prompt=source_prompt, **chosen)
    return graph.node(INVERT_NODE, id="invert", **sockets, **widgets).out(0)
