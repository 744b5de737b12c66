"""SelfAttentionComponents: the places of a clip that belong together for the model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...fatezero_ext.choices import SIDES
from .. import host
from ..api import advanced, io, schema
from ..checking.verdicts import verdict
from ..first_use import importing
from ..sockets import CONTROLLER
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

    from ...fatezero_ext.choices import Side
    from ...fatezero_ext.inversion.controller import Controller


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
                CONTROLLER.Input("controller", tooltip="From DDIM Inversion, with self-attention recorded. Only read."),
                io.Int.Input(
                    "components",
                    default=3,
                    min=1,
                    max=16,
                    tooltip="How many, the strongest first. With 3 or more the first three are also shown as colours.",
                ),
                *step_inputs(),
                *picture_inputs(),
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
        return verdict(window_mistakes(from_step, to_step))

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
        with importing():
            from ...fatezero_ext.inspection.components import principal_components
            from ...fatezero_ext.inspection.heat_maps import self_attention_maps
            from ...fatezero_ext.pictures.attention_sheets import component_tiles, sheets, tile_size

        reading = reading_of(from_step, to_step, resolution)
        trace = controller.inverted()
        source = source_frames(trace, images)
        maps = self_attention_maps(controller, reading, on_read=step_reporter(trace, reading))
        strongest = principal_components(maps, components, side)
        pictures = sheets(component_tiles(strongest, tile_size(cells_of(trace), picture_height), source))
        return io.NodeOutput(pictures.to(host.current().intermediate_device()))
