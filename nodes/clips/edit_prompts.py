"""EditPrompts: several edits of one clip."""

from __future__ import annotations

from ...fatezero_ext.errors import PromptError
from ..api import io, schema
from ..checking.graph_texts import PROMPTS_NODE, lines_of


class EditPrompts(io.ComfyNode):
    """Several edit prompts, one a line: linked into Prompt-to-Prompt Edit they give one edit each, from one
    inversion."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id=PROMPTS_NODE,
            display_name="Edit Prompts",
            category="FateZero/clips",
            description=cls.__doc__,
            search_aliases=["prompt list", "batch prompts", "variations"],
            inputs=[
                io.String.Input(
                    "prompts",
                    default="a blue circle on the grass\na purple circle on the grass",
                    multiline=True,
                    tooltip="One edit prompt a line. Empty lines are left out.",
                )
            ],
            outputs=[
                io.String.Output(
                    display_name="edit_prompt",
                    is_output_list=True,
                    tooltip="What it is linked to runs once for each prompt.",
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, prompts: str | None = None) -> bool | str:
        try:
            _lines(prompts if prompts is not None else "unknown")
        except PromptError as error:
            return str(error)
        return True

    @classmethod
    def execute(cls, prompts: str) -> io.NodeOutput:
        return io.NodeOutput(_lines(prompts))


def _lines(prompts: str) -> list[str]:
    lines = list(lines_of(prompts))
    if not lines:
        raise PromptError("prompts is empty; at least one edit prompt is needed. Write one on a line.")
    return lines
