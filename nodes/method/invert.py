"""DDIMInvert: from a clip's latents back to noise, recording attention on the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...fatezero_ext.errors import PromptError, StoreError
from ...fatezero_ext.prompts.other_words import is_other
from ...fatezero_ext.prompts.words_alone import read_words
from .. import host
from ..api import advanced, io, schema
from ..checking.graph_texts import EDIT_NODE, HEAT_NODE, INVERT_NODE, readers_of
from ..checking.verdicts import consumers_now, graph_now, verdict
from ..first_use import importing
from ..sockets import CONTROLLER
from ..text_lists import parse_phrases
from .edit import EDIT_WIDGETS
from .edit_checks import needs_source_words
from .edit_widgets import frames_at_once_widget
from .remarks import inversion_remarks
from .run_bar import RunBar
from .upcoming_edits import check_edits

if TYPE_CHECKING:
    from torch import Tensor

    from ...fatezero_ext.inversion.controller import Controller
    from ...fatezero_ext.inversion.guided_prediction import StepDone
    from ...fatezero_ext.prompts.prompt import TextEncoder

INVERSION, RECONSTRUCTION = "inversion", "reconstruction"
EMPTY_SOURCE = (
    "source_prompt is empty; a node behind DDIM Inversion replaces, masks or shows words of it. Describe in plain "
    "words what the clip shows."
)


class DDIMInvert(io.ComfyNode):
    """Turn a clip back into noise under a prompt that describes it. Any number of edits can follow one inversion."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id=INVERT_NODE,
            display_name="DDIM Inversion",
            category="FateZero",
            description=cls.__doc__,
            search_aliases=["DDIM Invert", "FateZero", "unsample", "invert video", "prompt to prompt", "vid2vid"],
            inputs=[
                CONTROLLER.Input("controller", tooltip="From Attention Store Cache, or Register Attention Control."),
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
                advanced(
                    io.Combo.Input(
                        "attention_from",
                        options=[INVERSION, RECONSTRUCTION],
                        default=INVERSION,
                        optional=True,
                        tooltip="Where edits read the source's attention: the inversion, as published, or a second "
                        "pass that draws the clip again under the source prompt (twice the time).",
                    )
                ),
                advanced(
                    io.Float.Input(
                        "reconstruction_guidance",
                        default=7.5,
                        optional=True,
                        min=0.0,
                        max=100.0,
                        step=0.1,
                        tooltip="Classifier-free guidance of that second pass; not used by the inversion.",
                    )
                ),
                advanced(
                    io.Int.Input(
                        "inversion_passes",
                        default=1,
                        optional=True,
                        min=0,
                        max=10,
                        tooltip="Fixed-point passes a step: the inversion leads back to the clip more exactly. Each "
                        "adds one UNet call to every inversion step; edits take no longer. 0: as published.",
                    )
                ),
                frames_at_once_widget(
                    "Most frames that the model computes at once, for long clips; the result is the same. 0: as many "
                    "as its memory holds. For hundreds of frames set norm to frame on Load Stable Diffusion for "
                    "Video: with norm clip, parts wait for each other in RAM, 40 to 60 MB a frame of 512x512.",
                ),
            ],
            outputs=[
                CONTROLLER.Output(
                    display_name="controller",
                    tooltip="The inverted clip with its attention, for any number of edits.",
                )
            ],
            hidden=[io.Hidden.prompt, io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, source_prompt: str | None = None) -> bool | str:
        """Check the words of the source prompt by themselves; a linked one is None and is checked when it runs."""
        if source_prompt is None:
            return True
        try:
            read = read_words(source_prompt, "source prompt")
        except PromptError as error:
            return verdict({"source_prompt": str(error)})
        wanted = not read.words and _words_are_read(str(getattr(cls.hidden, "unique_id", None)))
        return verdict({"source_prompt": EMPTY_SOURCE} if wanted else {})

    @classmethod
    def execute(
        cls,
        controller: Controller,
        clip: TextEncoder,
        latent: dict[str, Any],
        source_prompt: str,
        steps: int,
        attention_from: str = INVERSION,
        reconstruction_guidance: float = 7.5,
        inversion_passes: int = 0,  # not the widget's default: graphs from before it compute as they did
        frames_at_once: int = 0,
    ) -> io.NodeOutput:
        with importing():
            from ...fatezero_ext.inversion.invert import Reconstruction, invert_planned
            from ...fatezero_ext.inversion.plan import plan_inversion

        numbers = {"steps": steps, "inversion_passes": inversion_passes, "frames_at_once": frames_at_once}
        planned = plan_inversion(controller, clip, clip_latents(latent), source_prompt, **numbers)
        check_edits(planned, clip, cls.hidden.prompt, cls.hidden.unique_id, EDIT_WIDGETS)
        reconstruct = Reconstruction(reconstruction_guidance) if attention_from == RECONSTRUCTION else None
        calls = [inversion_passes + 1] * steps + ([] if reconstruct is None else [1] * steps)
        bar = RunBar(planned.frames, calls, planned.unet.latent_format)
        remarks = inversion_remarks(planned)
        length = f"of {planned.frames} frames in {steps} steps"

        def say(*done: str, remarks: Sequence[str] = ()) -> None:
            host.tell(remarks, done, cls.hidden.unique_id)

        def on_step(step: StepDone) -> None:
            bar.on_step(step)
            if step.done == steps < step.total:
                say(f"Reconstruction {length}, guidance {reconstruction_guidance:g}")

        inverted = invert_planned(
            planned,
            clip,
            reconstruct=reconstruct,
            on_plan=lambda plan: say(f"Inversion {length}: {plan}", remarks=remarks),
            on_step=on_step,
            on_frames=bar.on_frames,
        )
        return io.NodeOutput(inverted)


def _words_are_read(node_id: str) -> bool:
    """Return whether something behind an inversion of the graph that is validated needs words of its source prompt."""
    graph, consumers = graph_now(), consumers_now()
    edits = readers_of(graph, consumers, node_id, EDIT_NODE)
    heats = readers_of(graph, consumers, node_id, HEAT_NODE)
    return any(needs_source_words(inputs) for _, inputs in edits) or any(map(_shows_source_words, heats))


def _shows_source_words(heat_maps: tuple[str, Mapping[str, Any]]) -> bool:
    """Return whether a Word Heat Maps, given with its id, shows words of the source prompt, as it does without any."""
    words = heat_maps[1].get("words", "")
    if not isinstance(words, str):  # linked: known when it runs
        return False
    phrases = parse_phrases(words)
    return not phrases or not all(map(is_other, phrases))


def clip_latents(latent: Mapping[str, Any]) -> Tensor:
    """The clip of a LATENT; raises StoreError for what an inversion cannot follow, as a mask that spares a place."""
    from torch import Tensor

    given = latent if isinstance(latent, Mapping) else {}
    samples, mask = given.get("samples"), given.get("noise_mask")
    if not isinstance(samples, Tensor):
        raise StoreError(
            f"the latent holds {type(samples).__name__}; one tensor [frames, channels, height, width] is needed. "
            f"Connect VAE Encode with the VAE of the same model."
        )
    if isinstance(mask, Tensor) and not (mask == 1).all():
        raise StoreError(
            f"the latent has a noise mask of {list(mask.shape)}, which an inversion does not follow; a clip without "
            f"one is needed. Take Set Latent Noise Mask out (and VAE Encode in place of its form for inpainting), and "
            f"connect the mask to Prompt-to-Prompt Edit."
        )
    return samples
