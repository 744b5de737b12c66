"""P2PEdit: denoise an inverted clip under another prompt, with the source's attention where words agree."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ...fatezero_ext.media.streamed import PART, StreamedFrames
from .. import host
from ..api import advanced, io, schema
from ..checking.graph_texts import EDIT_NODE, constants, inputs_of, source_prompt_of, texts_of, with_places
from ..checking.verdicts import graph_now, verdict
from ..clips.held import held
from ..first_use import importing
from ..sockets import CONTROLLER
from .edit_checks import edit_mistakes
from .edit_widgets import (
    CUSTOM,
    KIND_NAMES,
    drafts_widget,
    follow_shapes_widget,
    frames_at_once_widget,
    fresh_noise_seed_widget,
    from_widgets,
    hold_still_widget,
    resolution_widget,
    share_widget,
)
from .remarks import black_mask, drawn_again, edit_remarks
from .run_bar import RunBar

if TYPE_CHECKING:
    from torch import Tensor

    from ...fatezero_ext.editing.edit import EditResult
    from ...fatezero_ext.inversion.controller import Controller
    from ...fatezero_ext.pictures.labelled_sheet import Tile
    from ...fatezero_ext.prompts.prompt import TextEncoder


class P2PEdit(io.ComfyNode):
    """Edit an inverted clip by words: its motion and everything the words do not touch stay."""

    TAKES_STREAMED_FRAMES = True

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id=EDIT_NODE,
            display_name="Prompt-to-Prompt Edit",
            category="FateZero",
            description=cls.__doc__,
            search_aliases=["P2P Edit", "FateZero", "video edit", "edit video", "edit by words", "vid2vid"],
            has_intermediate_output=True,  # newer pages show the film again after a reload
            inputs=_inputs(),
            outputs=[
                io.Latent.Output(tooltip="The edited clip, for VAE Decode."),
                io.Mask.Output(tooltip="Where the edit was free to differ: share of the blended steps, 0 to 1."),
                io.Mask.Output(
                    display_name="last_mask",
                    tooltip="The last step's mask, black or white, for Keep Source Pixels. White everywhere without "
                    "one.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(
        cls,
        cross_replace_start: float | None = None,
        cross_replace_end: float | None = None,
        self_replace_start: float | None = None,
        self_replace_end: float | None = None,
        equalizer: str | None = None,
        word_windows: str | None = None,
        kind: str | None = None,
    ) -> bool | str:
        """Check what can be known before anything runs; a widget fed by a link is None and is checked when it runs.

        Positional arguments, although there are seven: ComfyUI passes only those it finds by position. Where the graph
        can be seen, all widgets are checked, and their words against both prompts.
        """
        widgets = {
            "cross_replace_start": cross_replace_start,
            "cross_replace_end": cross_replace_end,
            "self_replace_start": self_replace_start,
            "self_replace_end": self_replace_end,
            "equalizer": equalizer,
            "word_windows": word_windows,
            "kind": kind or CUSTOM,
        }
        graph = graph_now()
        inputs = inputs_of(graph, getattr(cls.hidden, "unique_id", None), EDIT_NODE)
        if inputs is None:
            return verdict(edit_mistakes(widgets))
        edits, source = texts_of(graph, inputs.get("edit_prompt")), source_prompt_of(graph, inputs)
        with_mask = inputs.get("mask") is not None
        known = constants(inputs)
        if "kind" in inputs and "kind" not in known:
            known["kind"] = None
        mistakes = edit_mistakes(known, edits or (), source, with_mask=with_mask)
        return verdict(with_places(mistakes, graph, inputs))

    @classmethod
    def execute(
        cls,
        controller: Controller,
        clip: TextEncoder,
        edit_prompt: str,
        negative_prompt: str,
        mask: Tensor | None = None,
        images: Tensor | StreamedFrames | None = None,
        frames_at_once: int = 0,
        **widgets: Any,  # noqa: ANN401 - the remaining widgets, each of its own type
    ) -> io.NodeOutput:
        with importing():
            import torch

            from ...fatezero_ext.editing.edit import edit
            from ...fatezero_ext.pictures.attention_sheets import frames_like_latents

        trace = controller.inverted()
        frames = None
        if images is not None:
            # Streamed ones are not shown: that is in programs without a page. They are checked alike.
            shown = torch.empty(images.shape, device="meta") if isinstance(images, StreamedFrames) else images
            frames = frames_like_latents(shown, trace.frames, trace.size)
        bar = RunBar(trace.frames, [1] * len(trace.schedule), controller.unet.latent_format)
        settings = from_widgets(widgets, with_mask=mask is not None)
        *remarks, about = edit_remarks(
            controller, clip, edit_prompt, settings, with_mask=mask is not None, changed=_changed(widgets)
        )
        host.tell(remarks := [black_mask(mask), *remarks], [about], cls.hidden.unique_id)
        result = edit(
            controller,
            clip,
            edit_prompt,
            settings,
            negative_prompt=negative_prompt,
            mask=mask,
            frames_at_once=frames_at_once,
            on_step=bar.on_step,
            on_frames=bar.on_frames,
        )
        if again := drawn_again(result.drafts):
            host.tell(remarks, [about, again], cls.hidden.unique_id)
        device, cell = host.current().intermediate_device(), controller.unet.latent_format.pixels_per_cell
        masks = [_in_pixels(mask.to(device), cell) for mask in (result.mask, result.last_mask.float())]
        film = host.current().film(lambda: _film(controller, result, frames))
        return io.NodeOutput({"samples": result.latents.to(device)}, *masks, ui=film)


def _film(controller: Controller, result: EditResult, frames: Tensor | None) -> list[Tile]:
    """Return clips for the page: the source, and the source under the mask if there is one, or else the edit.

    frames: [frames, height, width, 3] the source; None: in rough colours, and the edit in any case
    """
    from ...fatezero_ext.pictures.film_sheet import lit, shown_frames
    from ...fatezero_ext.pictures.labelled_sheet import Tile

    latents, mask = controller.inverted().latents[0], result.mask
    taken = shown_frames(len(mask))  # of hundreds no others are drawn
    rough = controller.unet.latent_format.rough_frames
    label = "source" if frames is not None else "source, rough colours"
    source = rough(_of(latents, taken)) if frames is None else _of(frames, taken)
    masked = [Tile("mask", lit(source, _of(mask, taken)))] if bool((mask < 1).any()) else []
    clips = [Tile(label, source), *masked]
    if frames is None or not masked:
        edited = _of(result.latents, taken) * controller.unet.latent_format.scale
        clips.append(Tile("edit, rough colours", rough(edited)))
    return clips


def _of(frames: Tensor, taken: Tensor) -> Tensor:
    return frames[taken.to(frames.device)]


def _changed(widgets: Mapping[str, Any]) -> dict[str, Any]:
    """Return the widgets that are not at their defaults; none under the kind that uses them all."""
    if widgets.get("kind", CUSTOM) == CUSTOM:
        return {}
    defaults = {socket.id: getattr(socket, "default", None) for socket in _inputs()}
    return {name: value for name, value in widgets.items() if value != defaults.get(name)}


def _in_pixels(mask: Tensor, cell: int) -> Tensor | StreamedFrames:
    """Return a mask of cells in pixels of the decoded clip, [frames, height, width]; cell: pixels along its side."""

    def pieces() -> Iterator[Tensor]:
        for part in mask.split(PART):
            yield part.repeat_interleave(cell, dim=1).repeat_interleave(cell, dim=2)

    frames, height, width = mask.shape
    return held(StreamedFrames((frames, height * cell, width * cell), pieces))


def _inputs() -> list[io.Input]:
    return [
        *_prompt_inputs(),
        *_window_inputs(),
        *_blend_inputs(),
        *_rare_inputs(),
        *_kind_inputs(),
        follow_shapes_widget(" Used with kind custom."),
        io.Image.Input(
            "images",
            optional=True,
            tooltip="The clip's frames, for the picture of the mask on this node. Without them it has rough colours. "
            "The edit is the same.",
        ),
        frames_at_once_widget(
            "Most frames that the model computes at once, for long clips; the edit is the same. 0: as DDIM Inversion."
        ),
        hold_still_widget(),
        fresh_noise_seed_widget(),
        drafts_widget(),
    ]


def _prompt_inputs() -> list[io.Input]:
    return [
        CONTROLLER.Input("controller", tooltip="From DDIM Inversion. It is only read: other edits can share it."),
        io.Clip.Input("clip", tooltip="The text encoder of the same model."),
        io.String.Input(
            "edit_prompt",
            default="a blue circle on the grass",
            multiline=True,
            tooltip="What the edited clip shows. With mode replace it has as many words as the source prompt.",
        ),
        io.String.Input(
            "negative_prompt", default="", multiline=True, tooltip="What guidance leads away from; usually empty."
        ),
        io.Combo.Input(
            "mode",
            options=["replace", "refine"],
            default="replace",
            tooltip="replace: words swapped one for one. refine: words added or left out. Used with kind custom.",
        ),
        io.Float.Input(
            "guidance",
            default=7.5,
            min=0.0,
            max=100.0,
            step=0.1,
            tooltip="Classifier-free guidance. 1: none, twice as fast. Used with kind custom.",
        ),
    ]


def _kind_inputs() -> list[io.Input]:
    return [
        io.Combo.Input(
            "kind",
            options=list(KIND_NAMES),
            default=KIND_NAMES[0],
            optional=True,
            tooltip="What changes. It chooses mode, guidance, windows and mask by the words that differ; auto reads "
            "the kind from the prompts. custom: the widgets decide.",
        ),
        io.Float.Input(
            "strength",
            default=1.0,
            min=0.0,
            max=1.0,
            step=0.05,
            display_mode=io.NumberDisplay.slider,
            optional=True,
            tooltip="How much of the edit is done: 0 keeps the source, 1 is the whole edit.",
        ),
    ]


def _window_inputs() -> list[io.Input]:
    return [
        advanced(
            share_widget(
                "cross_replace_start",
                0.0,
                "From this share of the steps on, words take the source's attention. Used with kind custom.",
            )
        ),
        share_widget(
            "cross_replace_end",
            0.8,
            "Up to this share of the steps. Higher keeps the layout closer to the source, lower lets shapes change. "
            "Used with kind custom.",
        ),
        advanced(
            share_widget(
                "self_replace_start",
                0.0,
                "From this share of the steps on, self-attention is the source's. Used with kind custom.",
            )
        ),
        share_widget(
            "self_replace_end",
            0.8,
            "Up to this share of the steps. Higher keeps structure, lower lets it change. Used with kind custom.",
        ),
        io.String.Input(
            "equalizer",
            default="",
            tooltip="Words of the edit prompt to strengthen or weaken: watercolor: 10, old: 0.5. Works where words "
            "take the source's attention.",
        ),
    ]


def _blend_inputs() -> list[io.Input]:
    return [
        io.String.Input(
            "blend_words",
            default="",
            tooltip="Words of the source prompt that may change, such as: silver jeep. Their attention makes the mask; "
            "outside it the source's self-attention is kept. auto: the words that differ. A plus looks for what the "
            "prompt does not say: +shadow. Empty: no mask. Used with kind custom.",
        ),
        io.String.Input(
            "blend_edit_words",
            default="",
            tooltip="Their counterparts in the edit prompt: blend_latents and last_mask include the new object's "
            "place. auto: the words that differ. Used with kind custom.",
        ),
        share_widget(
            "blend_threshold",
            0.3,
            "Cells with more than this share of the frame's highest attention are in the mask. Higher: smaller mask. "
            "Used with kind custom.",
        ),
        advanced(
            io.Boolean.Input(
                "blend_self_attention",
                default=True,
                tooltip="Inside the mask, let the edit have its own self-attention. Used with kind custom.",
            )
        ),
        io.Boolean.Input(
            "blend_latents",
            default=False,
            tooltip="Outside the mask, put the source's own latents back over the middle of the steps: the background "
            "stays almost untouched. Used with kind custom.",
        ),
        io.Mask.Input(
            "mask",
            optional=True,
            tooltip="Your own mask, white where the edit may differ: one for all frames or one each, of the clip's "
            "proportions. It alone makes the mask; with kind custom see mask_use.",
        ),
    ]


def _rare_inputs() -> list[io.Input]:
    return [
        advanced(
            io.String.Input(
                "word_windows",
                default="",
                tooltip="Windows for single words of the edit prompt, in place of cross_replace: car: 0.2-0.6",
            )
        ),
        advanced(
            io.String.Input(
                "subtract_words",
                default="",
                tooltip="Words of the source prompt whose place is cut out of the mask. Used with kind custom.",
            )
        ),
        advanced(share_widget("subtract_threshold", 0.3, "The threshold for subtract_words. Used with kind custom.")),
        resolution_widget(
            "blend_resolution",
            "Resolution of the maps masks are read from, relative to the latents. auto: 1/4, finer for small "
            "frames. Used with kind custom.",
        ),
        advanced(
            io.Combo.Input(
                "quirks",
                options=["fixed", "original"],
                default="fixed",
                tooltip="original: compute exactly what the authors' program does, its slips included.",
            )
        ),
        advanced(
            io.Combo.Input(
                "mask_use",
                options=["intersect", "override"],
                default="intersect",
                optional=True,
                tooltip="With a mask and blend_words: both must allow a place, or your mask alone decides. Used "
                "with kind custom.",
            )
        ),
    ]


EDIT_WIDGETS = frozenset(
    socket.id
    for socket in [*_prompt_inputs(), *_window_inputs(), *_blend_inputs(), *_rare_inputs()]
    if not socket.optional
) - {"controller", "clip"}
