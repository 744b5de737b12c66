"""WordHeatMaps, SelfAttentionComponents and ShowWords: look at what an inversion recorded, before editing with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...fatezero_ext.choices import SIDES
from ...fatezero_ext.inspection.selection import Reading
from ...fatezero_ext.prompts.prompt_text import read_words
from ..api import advanced, io, schema
from ..checking.graph_texts import HEAT_NODE, inputs_of, source_prompt_of
from ..checking.verdicts import Found, graph_now, verdict
from ..host import current as host
from ..method.control import CONTROLLER
from ..method.edit_widgets import RESOLUTIONS, window
from ..text_lists import words as split_words

if TYPE_CHECKING:
    from torch import Tensor

    from ...fatezero_ext.choices import Side
    from ...fatezero_ext.inspection.heat_maps import OnPage
    from ...fatezero_ext.inversion.controller import Controller
    from ...fatezero_ext.inversion.trace import Trace
    from ...fatezero_ext.prompts.words import Clip


class WordHeatMaps(io.ComfyNode):
    """Show where each word of the source prompt looks: its share of attention, averaged over the inversion, one picture
    per frame. The best way to choose blend words and a threshold."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id=HEAT_NODE,
            display_name="Word Heat Maps",
            category="FateZero/look",
            description=cls.__doc__,
            search_aliases=["cross-attention maps", "attention heat map", "DAAM", "mask from words"],
            inputs=[
                CONTROLLER.Input("controller", tooltip="From DDIM Invert. It is only read."),
                io.String.Input(
                    "words",
                    default="",
                    tooltip="Words or phrases of the source prompt, separated by commas: red circle, grass. Empty: "
                    "every word.",
                ),
                *_step_inputs(),
                *_picture_inputs(),
            ],
            outputs=[
                io.Image.Output(tooltip="A labelled picture per word, side by side, for every frame."),
                io.Mask.Output(
                    tooltip="Heat of the first word of the list, 0 to 1 in every frame, in the clip's size. P2P Edit "
                    "takes as its mask what is above 0.5."
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, from_step: float | None = None, to_step: float | None = None) -> bool | str:
        """Check the window, and the words where the graph can be seen."""
        graph, found = graph_now(), _window_mistakes(from_step, to_step)
        inputs = inputs_of(graph, getattr(cls.hidden, "unique_id", None), HEAT_NODE) or {}
        asked, source = inputs.get("words"), source_prompt_of(graph, inputs)
        if isinstance(asked, str) and source is not None:
            read = Found().of("", read_words, source, "source prompt")  # its mistakes are DDIM Invert's
            for phrase in split_words(asked) if read is not None else ():
                found.of("words", read.find, phrase, "words")
        return verdict(found)

    @classmethod
    def execute(
        cls,
        controller: Controller,
        words: str,
        from_step: float,
        to_step: float,
        picture_height: int,
        resolution: str,
        images: Tensor | None = None,
    ) -> io.NodeOutput:
        from ...fatezero_ext.inspection.heat_maps import asked_words, inverted, word_heats, word_labels
        from ...fatezero_ext.pictures.attention_sheets import heat_tiles, sheets, spread, tile_size

        reading = _reading(from_step, to_step, resolution)
        trace, asked = inverted(controller), split_words(words)
        labels, source = word_labels(asked_words(controller, asked)), _source(trace, images)
        heats = word_heats(controller, asked, reading, on_page=_on_page(trace, reading))
        pictures = sheets(heat_tiles(heats, labels, tile_size(_cells(trace), picture_height), source))
        rows, columns = (side * controller.unet.latents.pixels_per_cell for side in _cells(trace))
        mask, device = spread(heats[0], (rows, columns)), host.intermediate_device()
        return io.NodeOutput(pictures.to(device), mask.to(device))


class SelfAttentionComponents(io.ComfyNode):
    """Show which places of the clip belong together for the model: principal components of its self-attention, averaged
    over the inversion, one picture per frame. Places of one colour look at the same things."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="FateZero_SelfAttentionComponents",
            display_name="Self-Attention Components",
            category="FateZero/look",
            description=cls.__doc__,
            search_aliases=["PCA", "self-attention maps"],
            inputs=[
                CONTROLLER.Input("controller", tooltip="From DDIM Invert, with self-attention recorded. Only read."),
                io.Int.Input(
                    "components",
                    default=3,
                    min=1,
                    max=16,
                    tooltip="How many, the strongest first. With 3 or more the first three are also shown as colours.",
                ),
                *_step_inputs(),
                *_picture_inputs(),
                advanced(
                    io.Combo.Input(
                        "side",
                        options=list(SIDES),
                        default=SIDES[0],
                        tooltip="queries: pictures of each frame's own places, by what they look at. keys: pictures of "
                        "what is looked at, the published formula; they show the frame itself only where key_frames "
                        "is empty.",
                    )
                ),
            ],
            outputs=[io.Image.Output(tooltip="Labelled pictures side by side, for every frame.")],
        )

    @classmethod
    def validate_inputs(cls, from_step: float | None = None, to_step: float | None = None) -> bool | str:
        return verdict(_window_mistakes(from_step, to_step))

    @classmethod
    def execute(
        cls,
        controller: Controller,
        components: int,
        from_step: float,
        to_step: float,
        picture_height: int,
        resolution: str,
        side: Side,
        images: Tensor | None = None,
    ) -> io.NodeOutput:
        from ...fatezero_ext.inspection.heat_maps import inverted, principal_components, self_attention_maps
        from ...fatezero_ext.pictures.attention_sheets import component_tiles, sheets, tile_size

        reading = _reading(from_step, to_step, resolution)
        trace = inverted(controller)
        source = _source(trace, images)
        maps = self_attention_maps(controller, reading, on_page=_on_page(trace, reading))
        found = principal_components(maps, components, side)
        pictures = sheets(component_tiles(found, tile_size(_cells(trace), picture_height), source))
        return io.NodeOutput(pictures.to(host.intermediate_device()))


class ShowWords(io.ComfyNode):
    """Show how the text encoder reads a prompt: each word with the positions of its tokens, and the pieces of words
    that it cuts up."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="FateZero_ShowWords",
            display_name="Show Words",
            category="FateZero/look",
            description=cls.__doc__,
            search_aliases=["tokens", "tokenizer", "word list"],
            inputs=[
                io.Clip.Input("clip", tooltip="The text encoder of the model."),
                io.String.Input(
                    "prompt",
                    default="a red circle on the grass",
                    multiline=True,
                    tooltip="A source or edit prompt, in plain words.",
                ),
            ],
            outputs=[io.String.Output(display_name="words", tooltip="For a text preview.")],
        )

    @classmethod
    def execute(cls, clip: Clip, prompt: str) -> io.NodeOutput:
        from ...fatezero_ext.prompts.token_report import described_words

        return io.NodeOutput(described_words(clip, prompt))


def _step_inputs() -> list[io.Input]:
    return [
        io.Float.Input(
            "from_step",
            default=0.0,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="From this share of the steps on; 0 is the noisiest step. At least one step is read.",
        ),
        io.Float.Input(
            "to_step",
            default=1.0,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="Up to this share of the steps; 1 is the clean clip.",
        ),
    ]


def _picture_inputs() -> list[io.Input]:
    return [
        io.Int.Input(
            "picture_height", default=256, min=64, max=1024, step=2, tooltip="Height of each small picture in pixels."
        ),
        advanced(
            io.Combo.Input(
                "resolution",
                options=list(RESOLUTIONS),
                default="auto",
                tooltip="Resolution of the maps, relative to the latents. auto: the one P2P Edit reads its masks from, "
                "1/4, finer for small frames.",
            )
        ),
        io.Image.Input(
            "images", optional=True, tooltip="The clip's frames, to draw over. Without them heat is drawn alone."
        ),
    ]


def _window_mistakes(start: float | None, end: float | None) -> Found:
    """What is wrong with a window; a widget fed by a link is None and is checked when it runs."""
    found = Found()
    inside = [bound is None or isinstance(bound, (int, float)) and 0 <= bound <= 1 for bound in (start, end)]
    found.of("to_step" if inside == [True, False] else "from_step", Reading, window(start, end))
    return found


def _reading(start: float, end: float, resolution: str) -> Reading:
    return Reading((start, end), RESOLUTIONS[resolution])


def _on_page(trace: Trace, reading: Reading) -> OnPage:
    """Moves the node's bar, step by step; ends the run there when the user stops it."""
    bar = host.progress(len(reading.steps(len(trace.schedule))))
    return lambda done, _total: bar.update(done)


def _cells(trace: Trace) -> tuple[int, int]:
    height, width = trace.latents.shape[-2:]
    return height, width


def _source(trace: Trace, images: Tensor | None) -> Tensor | None:
    from ...fatezero_ext.pictures.attention_sheets import fitted_frames

    return None if images is None else fitted_frames(images.cpu(), trace.frames, _cells(trace))
