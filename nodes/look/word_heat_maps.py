"""WordHeatMaps: the attention of each word of the source prompt."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...fatezero_ext.prompts.other_words import is_other, require_text_encoder, with_other_words
from ...fatezero_ext.prompts.words_alone import WordTokens, read_words
from .. import host
from ..api import io, schema
from ..checking.graph_texts import HEAT_NODE, inputs_of, source_prompt_of
from ..checking.verdicts import FirstMistakes, graph_now, verdict
from ..first_use import importing
from ..method.edit_widgets import follow_shapes_widget
from ..sockets import CONTROLLER
from ..text_lists import parse_phrases
from .attention_inputs import (
    cells_of,
    picture_inputs,
    reading_of,
    source_frames,
    step_inputs,
    step_reporter,
    window_mistakes,
)

if TYPE_CHECKING:
    from torch import Tensor

    from ...fatezero_ext.inversion.controller import Controller
    from ...fatezero_ext.prompts.prompt import TextEncoder


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
            has_intermediate_output=True,  # newer pages show the film again after a reload
            inputs=[
                CONTROLLER.Input("controller", tooltip="From DDIM Inversion. It is only read."),
                io.String.Input(
                    "words",
                    default="",
                    tooltip="Words or phrases of the source prompt, separated by commas: red circle, grass. A plus "
                    "looks for what the prompt does not say, and needs clip: +shadow. Empty: every word.",
                ),
                *step_inputs(),
                *picture_inputs(),
                io.Clip.Input(
                    "clip", optional=True, tooltip="The text encoder of the same model; only words with a plus need it."
                ),
                follow_shapes_widget(),
            ],
            outputs=[
                io.Image.Output(tooltip="A labelled picture per word, side by side, for every frame."),
                io.Mask.Output(
                    tooltip="Heat of the first word of the list, 0 to 1 in every frame, in the clip's size. "
                    "Prompt-to-Prompt Edit takes as its mask what is above 0.5."
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, from_step: float | None = None, to_step: float | None = None) -> bool | str:
        """Check the window, and the words if the graph can be seen."""
        graph, mistakes = graph_now(), window_mistakes(from_step, to_step)
        inputs = inputs_of(graph, getattr(cls.hidden, "unique_id", None), HEAT_NODE) or {}
        text, source = inputs.get("words"), source_prompt_of(graph, inputs)
        if isinstance(text, str) and source is not None:
            read = FirstMistakes().check("", read_words, source, "source prompt")  # its mistakes are DDIM Inversion's
            if read is not None:
                phrases = parse_phrases(text)
                whole = mistakes.check("words", with_other_words, WordTokens(), read, phrases)
                if whole is not None:
                    for phrase in phrases:
                        mistakes.check("words", whole.find, phrase, "words")
                if any(map(is_other, phrases)) and "clip" not in inputs:
                    mistakes.check("words", require_text_encoder, phrases, None)
        return verdict(mistakes)

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
        clip: TextEncoder | None = None,
        follow_shapes: bool = False,
    ) -> io.NodeOutput:
        with importing():
            from ...fatezero_ext.inspection.heat_maps import asked_words, word_heats, word_labels
            from ...fatezero_ext.pictures.attention_sheets import heat_tiles, sheets, spread, tile_size

        reading = reading_of(from_step, to_step, resolution)
        trace, asked = controller.inverted(), parse_phrases(words)
        labels, source = word_labels(asked_words(controller, asked, clip)), source_frames(trace, images)
        heats = word_heats(
            controller,
            asked,
            reading,
            text_encoder=clip,
            follow_shapes=follow_shapes,
            on_read=step_reporter(trace, reading),
        )
        size, latents = tile_size(cells_of(trace), picture_height), controller.unet.latent_format
        tiles = heat_tiles(heats, labels, size, source)
        rows, columns = (side * latents.pixels_per_cell for side in cells_of(trace))
        mask, device = spread(heats[0], (rows, columns)), host.current().intermediate_device()
        film = host.current().film(
            lambda: (
                tiles if images is not None else heat_tiles(heats, labels, size, latents.rough_frames(trace.latents[0]))
            )
        )
        return io.NodeOutput(sheets(tiles).to(device), mask.to(device), ui=film)
