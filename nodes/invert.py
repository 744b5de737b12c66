"""DDIMInvert: from a clip's latents back to noise, recording attention on the way."""

from __future__ import annotations

from torch import Tensor

from ..fatezero_ext.controller import Controller, invert_planned, plan_inversion
from ..fatezero_ext.prompts import Clip
from . import host
from .api import io, schema
from .control import CONTROLLER
from .edit import EDIT_WIDGETS
from .lookahead import check_edits


class DDIMInvert(io.ComfyNode):
    """Turn a clip back into noise under a prompt that describes it. Any number of edits can follow one inversion."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="FateZero_DDIMInvert",
            display_name="DDIM Invert",
            category="FateZero",
            description=cls.__doc__,
            inputs=[
                CONTROLLER.Input("controller"),
                io.Clip.Input("clip", tooltip="The text encoder of the same model."),
                io.Latent.Input("latent", tooltip="The clip's frames, encoded by the VAE of the same model."),
                io.String.Input(
                    "source_prompt",
                    default="a red circle on the grass",
                    multiline=True,
                    tooltip="What the clip shows, in plain words. Words to be replaced or masked must be in it.",
                ),
                io.Int.Input(
                    "steps",
                    default=50,
                    min=1,
                    max=999,
                    tooltip="DDIM steps of the inversion and of every edit after it. More steps keep the clip better.",
                ),
            ],
            outputs=[CONTROLLER.Output(display_name="controller")],
            hidden=[io.Hidden.prompt, io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls, controller: Controller, clip: Clip, latent: dict[str, Tensor], source_prompt: str, steps: int
    ) -> io.NodeOutput:
        planned = plan_inversion(controller, clip, latent["samples"], source_prompt, steps=steps)
        check_edits(planned, clip, cls.hidden.prompt, cls.hidden.unique_id, EDIT_WIDGETS)
        bar = host.progress(steps)
        return io.NodeOutput(invert_planned(planned, clip, on_step=lambda done, _total, _latents: bar.update(done)))
