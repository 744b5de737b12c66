"""P2PEdit: denoise an inverted clip under another prompt, with the source's attention where words agree."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .. import host
from ..api import advanced, io, schema
from ..checking.graph_texts import EDIT_NODE, constants, inputs_of, source_prompt_of, texts_of
from ..checking.verdicts import graph_now, verdict
from ..sockets import CONTROLLER
from .edit_checks import edit_mistakes
from .edit_widgets import follow_shapes_widget, from_widgets, resolution_widget, share_widget

if TYPE_CHECKING:
    from torch import Tensor

    from ...fatezero_ext.editing.edit import EditResult
    from ...fatezero_ext.inversion.controller import Controller
    from ...fatezero_ext.prompts.words import TextEncoder


class P2PEdit(io.ComfyNode):
    """Edit an inverted clip by words: its motion and everything the words do not touch stay."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id=EDIT_NODE,
            display_name="P2P Edit",
            category="FateZero",
            description=cls.__doc__,
            search_aliases=["FateZero", "prompt-to-prompt", "video edit", "edit by words", "vid2vid"],
            inputs=[*_prompt_inputs(), *_window_inputs(), *_blend_inputs(), *_rare_inputs()],
            outputs=[
                io.Latent.Output(tooltip="The edited clip, for VAE Decode."),
                io.Mask.Output(tooltip="Where the edit was free to differ: share of the blended steps, 0 to 1."),
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
    ) -> bool | str:
        """Check what can be known before anything runs; a widget fed by a link is None and is checked when it runs.

        Positional arguments, although there are six: ComfyUI passes only those it finds by position. Where the graph
        can be seen, all widgets are checked, and their words against both prompts.
        """
        widgets = {
            "cross_replace_start": cross_replace_start,
            "cross_replace_end": cross_replace_end,
            "self_replace_start": self_replace_start,
            "self_replace_end": self_replace_end,
            "equalizer": equalizer,
            "word_windows": word_windows,
        }
        graph = graph_now()
        inputs = inputs_of(graph, getattr(cls.hidden, "unique_id", None), EDIT_NODE)
        if inputs is None:
            return verdict(edit_mistakes(widgets))
        edits, source = texts_of(graph, inputs.get("edit_prompt")), source_prompt_of(graph, inputs)
        with_mask = inputs.get("mask") is not None
        return verdict(edit_mistakes(constants(inputs), edits or (), source, with_mask=with_mask))

    @classmethod
    def execute(
        cls,
        controller: Controller,
        clip: TextEncoder,
        edit_prompt: str,
        negative_prompt: str,
        mask: Tensor | None = None,
        **widgets: Any,  # noqa: ANN401 - the remaining widgets, each of its own type
    ) -> io.NodeOutput:
        from ...fatezero_ext.editing.edit import edit

        trace = controller.inverted()
        bar = host.current().progress(len(trace.schedule), controller.unet.latent_format)
        started = f"Edit of {trace.frames} frames in {len(trace.schedule)} steps, {widgets['mode']}: {edit_prompt}"
        host.current().say(" ".join(started.split()), cls.hidden.unique_id)
        result = edit(
            controller,
            clip,
            edit_prompt,
            from_widgets(widgets, with_mask=mask is not None),
            negative_prompt=negative_prompt,
            mask=mask,
            on_step=lambda step: bar.update(step.done, step.preview),
        )
        device = host.current().intermediate_device()
        return io.NodeOutput({"samples": result.latents.to(device)}, _pixel_mask(result, controller).to(device))


def _pixel_mask(result: EditResult, controller: Controller) -> Tensor:
    """Return the mask in pixels of the decoded clip, [frames, height, width]."""
    cell = controller.unet.latent_format.pixels_per_cell
    return result.mask.repeat_interleave(cell, dim=1).repeat_interleave(cell, dim=2)


def _prompt_inputs() -> list[io.Input]:
    return [
        CONTROLLER.Input("controller", tooltip="From DDIM Invert. It is only read: other edits can share it."),
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
            tooltip="replace: words swapped one for one. refine: words added or left out.",
        ),
        io.Float.Input(
            "guidance",
            default=7.5,
            min=0.0,
            max=100.0,
            step=0.1,
            tooltip="Classifier-free guidance. 1: none, twice as fast.",
        ),
    ]


def _window_inputs() -> list[io.Input]:
    return [
        share_widget("cross_replace_start", 0.0, "From this share of the steps on, words take the source's attention."),
        share_widget(
            "cross_replace_end",
            0.8,
            "Up to this share of the steps. Higher keeps the layout closer to the source, lower lets shapes change.",
        ),
        share_widget("self_replace_start", 0.0, "From this share of the steps on, self-attention is the source's."),
        share_widget(
            "self_replace_end", 0.8, "Up to this share of the steps. Higher keeps structure, lower lets it change."
        ),
        io.String.Input(
            "equalizer",
            default="",
            tooltip="Words of the edit prompt to strengthen or weaken: watercolor: 10, old: 0.5. Works from "
            "cross_replace_start to cross_replace_end.",
        ),
    ]


def _blend_inputs() -> list[io.Input]:
    return [
        io.String.Input(
            "blend_words",
            default="",
            tooltip="Words of the source prompt that may change, such as: silver jeep. Their attention makes the mask; "
            "outside it the source's self-attention is kept. A plus looks for what the prompt does not say: +shadow. "
            "Empty: no mask.",
        ),
        io.String.Input(
            "blend_edit_words",
            default="",
            tooltip="Their counterparts in the edit prompt. Used by blend_latents to include the new object's place.",
        ),
        share_widget(
            "blend_threshold",
            0.3,
            "Cells with more than this share of the frame's highest attention are in the mask. Higher: smaller mask.",
        ),
        io.Boolean.Input(
            "blend_self_attention", default=True, tooltip="Inside the mask, let the edit have its own self-attention."
        ),
        io.Boolean.Input(
            "blend_latents",
            default=False,
            tooltip="Outside the mask, put the source's own latents back over the middle of the steps: the background "
            "stays almost untouched.",
        ),
        io.Mask.Input(
            "mask",
            optional=True,
            tooltip="Your own mask, white where the edit may differ: one for all frames or one each, of the clip's "
            "proportions. With blend_words both must allow a place (see mask_use).",
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
                "subtract_words", default="", tooltip="Words of the source prompt whose place is cut out of the mask."
            )
        ),
        advanced(share_widget("subtract_threshold", 0.3, "The threshold for subtract_words.")),
        resolution_widget(
            "blend_resolution",
            "Resolution of the maps masks are read from, relative to the latents. auto: 1/4, finer for small frames.",
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
                tooltip="With a mask and blend_words: both must allow a place, or your mask alone decides.",
            )
        ),
        follow_shapes_widget(),
    ]


EDIT_WIDGETS = frozenset(
    socket.id
    for socket in [*_prompt_inputs(), *_window_inputs(), *_blend_inputs(), *_rare_inputs()]
    if not socket.optional
) - {"controller", "clip"}
