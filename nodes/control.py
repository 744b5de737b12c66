"""RegisterAttentionControl and AttentionStoreCache: what to record of the attention, and where to keep it."""

from __future__ import annotations

from ..fatezero_ext.attend import Capture
from ..fatezero_ext.controller import Controller
from ..fatezero_ext.layers import MOST_CELLS
from ..fatezero_ext.stores import PLACES, POLICIES, PRECISIONS, Storage
from ..fatezero_ext.unet import Pseudo3DUNet
from .api import advanced, io, schema
from .load import UNET

CONTROLLER = io.Custom("FATEZERO_CONTROLLER")


class RegisterAttentionControl(io.ComfyNode):
    """Put a model's self- and cross-attention under control, so that it can be recorded and edited."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="FateZero_RegisterAttentionControl",
            display_name="Register Attention Control",
            category="FateZero",
            description=cls.__doc__,
            inputs=[
                UNET.Input("unet", tooltip="From Load Pseudo-3D UNet. It is not changed."),
                io.Boolean.Input(
                    "self_attention",
                    default=True,
                    tooltip="Record self-attention too. It keeps shapes and motion; without it only words are fused.",
                ),
                advanced(
                    io.Int.Input(
                        "most_cells",
                        default=MOST_CELLS,
                        min=1,
                        max=128 * 128,
                        tooltip="Layers with more cells per frame than this are left alone. 1024 is the published "
                        "limit: 32x32 cells, of 512x512 pixels.",
                    )
                ),
            ],
            outputs=[CONTROLLER.Output(display_name="controller")],
        )

    @classmethod
    def execute(cls, unet: Pseudo3DUNet, self_attention: bool, most_cells: int) -> io.NodeOutput:
        return io.NodeOutput(Controller(unet, Capture(most_cells, self_attention)))


class AttentionStoreCache(io.ComfyNode):
    """Choose how the recorded attention is kept between the inversion and the edits."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="FateZero_AttentionStoreCache",
            display_name="Attention Store Cache",
            category="FateZero",
            description=cls.__doc__,
            inputs=[
                CONTROLLER.Input("controller"),
                io.Combo.Input(
                    "policy",
                    options=list(POLICIES),
                    default=POLICIES[0],
                    tooltip="features: keep what self-attention maps come from, 10 to 20 times smaller, same edits. "
                    "maps: keep every map itself, the reference.",
                ),
                io.Combo.Input(
                    "place",
                    options=list(PLACES),
                    default=PLACES[0],
                    tooltip="ram: the computer's memory. model: the device the model runs on.",
                ),
                io.Combo.Input(
                    "precision",
                    options=list(PRECISIONS),
                    default="as computed",
                    tooltip="Of what is kept. Half precision halves the memory of a float32 model, with rounding.",
                ),
            ],
            outputs=[CONTROLLER.Output(display_name="controller")],
        )

    @classmethod
    def execute(cls, controller: Controller, policy: str, place: str, precision: str) -> io.NodeOutput:
        return io.NodeOutput(controller.with_storage(Storage(policy, place, precision)))
