"""ShowWords: a prompt as the text encoder reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..api import io, schema
from ..first_use import importing

if TYPE_CHECKING:
    from ...fatezero_ext.prompts.prompt import TextEncoder


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
    def execute(cls, clip: TextEncoder, prompt: str) -> io.NodeOutput:
        with importing():
            from ...fatezero_ext.prompts.token_report import described_words

        return io.NodeOutput(described_words(clip, prompt))
