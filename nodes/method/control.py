"""RegisterAttentionControl and AttentionStoreCache: recording of attention, and its storage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...fatezero_ext.attention.sites import MOST_CELLS
from ...fatezero_ext.choices import PLACES, POLICIES, PRECISION_NAMES
from ...fatezero_ext.errors import FateZeroError, SettingsError
from .. import text_lists
from ..api import advanced, io, schema
from ..first_use import importing
from ..sockets import CONTROLLER, UNET

if TYPE_CHECKING:
    from ...fatezero_ext.choices import Place, Policy, Precision
    from ...fatezero_ext.diffusion.noise_model import NoiseModel
    from ...fatezero_ext.inversion.controller import Controller

KEY_FRAMES = "-1, first"
"""The published key frames, as the widget has them."""


class RegisterAttentionControl(io.ComfyNode):
    """Put a model's self- and cross-attention under control, so that it can be recorded and edited."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="FateZero_RegisterAttentionControl",
            display_name="Register Attention Control",
            category="FateZero",
            description=cls.__doc__,
            search_aliases=["FateZero", "prompt to prompt", "video to video"],
            inputs=[
                io.MultiType.Input(
                    "unet",
                    types=[UNET, io.Model],
                    tooltip="From Load Stable Diffusion for Video, or ComfyUI's own MODEL of a Stable Diffusion 1.x or "
                    "2.x checkpoint, with all that its graph did to it. It is not changed.",
                ),
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
                io.String.Input(
                    "key_frames",
                    display_name="key_frames of a MODEL",
                    default=KEY_FRAMES,
                    optional=True,
                    tooltip="Of a MODEL: frames whose keys self-attention reads (a pseudo-3D UNet brings its own). "
                    "Whole numbers relative to the frame (-1 is the one before), first, mid, last. Empty: its own.",
                ),
                io.Conditioning.Input(
                    "conditioning",
                    optional=True,
                    tooltip="Of a MODEL: the ControlNets of this conditioning take part in the inversion and in every "
                    "edit. Its text is not used.",
                ),
            ],
            outputs=[
                CONTROLLER.Output(display_name="controller", tooltip="For Attention Store Cache, or DDIM Inversion.")
            ],
        )

    @classmethod
    def validate_inputs(cls, key_frames: str | None = None) -> bool | str:
        try:
            text_lists.parse_key_frames(key_frames or "")
        except FateZeroError as error:
            return str(error)
        return True

    @classmethod
    def execute(
        cls,
        unet: Any,  # noqa: ANN401 - a NoiseModel, or ComfyUI's ModelPatcher
        self_attention: bool,
        most_cells: int,
        key_frames: str = KEY_FRAMES,
        conditioning: Any = None,  # noqa: ANN401 - ComfyUI's CONDITIONING
    ) -> io.NodeOutput:
        with importing():
            from ...fatezero_ext.inversion.controller import Controller
            from ...fatezero_ext.inversion.recording import Capture

        model = controlled_model(unet, key_frames, conditioning)
        return io.NodeOutput(Controller(model, Capture(most_cells, self_attention)))


def controlled_model(
    unet: Any,  # noqa: ANN401 - a NoiseModel, or ComfyUI's ModelPatcher
    key_frames: str,
    conditioning: Any = None,  # noqa: ANN401 - ComfyUI's CONDITIONING
) -> NoiseModel:
    """Return a model whose attention can be put under control.

    key_frames, conditioning: of a MODEL, see `RegisterAttentionControl`
    Raises ModelError for a MODEL of another kind, SettingsError for conditioning that takes no part.
    """
    with importing():
        from ...fatezero_ext.diffusion.noise_model import NoiseModel
        from ..native.model import NativeModel

    if not isinstance(unet, NoiseModel):
        return NativeModel(unet, text_lists.parse_key_frames(key_frames), conditioning)
    if conditioning is not None:
        raise SettingsError(
            "conditioning came with a pseudo-3D UNet, which takes no ControlNets; a MODEL does. Take the link out, "
            "or connect the MODEL of Load Checkpoint."
        )
    return unet


class AttentionStoreCache(io.ComfyNode):
    """Choose how the recorded attention is kept between the inversion and the edits. All policies give the same edits
    up to rounding, except int8 and 'recompute same level'. DDIM Inversion shows the chosen policy and its size before
    it starts."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="FateZero_AttentionStoreCache",
            display_name="Attention Store Cache",
            category="FateZero",
            description=cls.__doc__,
            search_aliases=["attention store", "cache", "memory", "VRAM"],
            inputs=[
                CONTROLLER.Input("controller", tooltip="From Register Attention Control. It is not changed."),
                io.Combo.Input(
                    "policy",
                    options=list(POLICIES),
                    default=POLICIES[0],
                    tooltip="auto: features where they fit, else recompute. features: keep what the maps come from, 10 "
                    "times smaller. maps: keep every map itself, the reference. recompute: keep nothing and run the "
                    "source beside each edit, 4 to 18 % slower as measured. recompute same level: the same on the "
                    "latent at the edit's own noise level; edits differ a little.",
                ),
                io.Combo.Input(
                    "place",
                    options=list(PLACES),
                    default=PLACES[0],
                    tooltip="auto: gpu if it fits into half of what is free, else ram. gpu: the device the model runs "
                    "on. ram: the computer's memory. disk: files, found again after a restart and by other programs.",
                ),
                io.Combo.Input(
                    "precision",
                    options=list(PRECISION_NAMES),
                    default="as computed",
                    tooltip="Of what is kept. Half precision halves the memory of a float32 model, with rounding. "
                    "int8 halves it again and changes edits slightly.",
                ),
                advanced(
                    io.Float.Input(
                        "budget_gb",
                        default=0.0,
                        optional=True,
                        min=0.0,
                        max=4096.0,
                        step=0.01,  # the page rounds what is typed to whole steps
                        tooltip="Most that may be kept, in GiB. 0: what is free.",
                    )
                ),
            ],
            outputs=[CONTROLLER.Output(display_name="controller", tooltip="For DDIM Inversion.")],
        )

    @classmethod
    def execute(
        cls, controller: Controller, policy: Policy, place: Place, precision: Precision, budget_gb: float = 0.0
    ) -> io.NodeOutput:
        with importing():
            from ...fatezero_ext.storage.settings import Storage

        budget = int(budget_gb * 2**30) if budget_gb else None
        return io.NodeOutput(controller.with_storage(Storage(policy, place, precision, budget)))
