"""TuneOnClip: a UNet learns a clip before it is edited."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...fatezero_ext.choices import RECIPES, Recipe
from ...fatezero_ext.errors import FateZeroError, PromptError, SettingsError
from .. import host
from ..api import advanced, io, schema
from ..checking.verdicts import FirstMistakes, verdict
from ..first_use import importing
from ..sockets import UNET
from .invert import clip_latents
from .model_list import model_path

if TYPE_CHECKING:
    from torch import Tensor

    from ...fatezero_ext.models.unet.model import Pseudo3DUNet
    from ...fatezero_ext.prompts.prompt import TextEncoder
    from ...fatezero_ext.tuning.settings import TuningSettings
    from ...fatezero_ext.tuning.tune import TuningStep

LOSSES = io.Custom("LOSS_MAP")  # core's name
NAME = re.compile(r"[\w][\w .+-]{0,79}")
DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
"""Names that Windows keeps for devices, with any ending."""
SAID_EVERY = 10  # steps
UNET_ALONE = (
    "The model {name}/unet is a UNet alone: use it with the CLIP and VAE of the model it was made from, and put a LoRA "
    "that this UNet had on the CLIP again"
)


class TuneOnClip(io.ComfyNode):
    """Let the UNet learn a clip, so that edits of it may change shapes and keep its motion. The result is also saved as
    a model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="FateZero_TuneOnClip",
            display_name="Tune on Clip",
            category="FateZero",
            description=cls.__doc__,
            search_aliases=["Tune-A-Video", "train", "fine-tune", "one-shot tuning", "shape edit"],
            inputs=[*_inputs(), *_training_widgets(), *_class_inputs()],
            outputs=[
                UNET.Output(display_name="unet", tooltip="The tuned UNet, for Register Attention Control."),
                io.Image.Output(display_name="loss curve", tooltip="The losses of all steps, for Preview Image."),
                LOSSES.Output(display_name="losses", tooltip="The same for ComfyUI's Plot Loss Graph."),
                io.String.Output(display_name="model", tooltip="Name of the saved model."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, prompt: str | None = None, name: str | None = None) -> bool | str:
        """Check the prompt and the name; linked ones are None and are checked when the node runs."""
        mistakes = FirstMistakes()
        if prompt is not None:
            mistakes.check("prompt", _check_prompt, prompt)
        if name is not None:
            mistakes.check("name", _check_name, name)
        return verdict(mistakes)

    @classmethod
    def execute(
        cls,
        unet: Pseudo3DUNet,
        clip: TextEncoder,
        latent: dict[str, Any],
        prompt: str,
        name: str,
        class_latent: dict[str, Any] | None = None,
        class_prompt: str = "",
        **widgets: Any,  # noqa: ANN401 - those of `_training_widgets`
    ) -> io.NodeOutput:
        with importing():
            from ...fatezero_ext.tuning.folder import TunedFolder
            from ...fatezero_ext.tuning.tune import ClassPictures, tune
        _check_name(name)
        settings, samples, base = _settings(widgets), clip_latents(latent), _base(unet)
        pictures = None if class_latent is None else ClassPictures(clip_latents(class_latent), class_prompt or prompt)
        bar = host.current().progress(settings.steps, getattr(unet, "latent_format", None))

        def on_step(step: TuningStep) -> None:
            if step.done % SAID_EVERY == 0 or step.done == step.total:
                host.tell((), [_said(step)], cls.hidden.unique_id)
            bar.update(step.done, step.preview)

        result = tune(
            unet,
            clip,
            samples,
            prompt,
            settings,
            output=TunedFolder(_models() / name, base),
            resume=True,
            class_pictures=pictures,
            on_plan=lambda plan: host.tell((), [plan[:1].upper() + plan[1:]], cls.hidden.unique_id),
            on_step=on_step,
        )
        result.unet.load_to_device = host.current().residence(result.unet.net, "unet")
        listed = name if base else f"{name}/unet"
        host.tell((), ["" if base else UNET_ALONE.format(name=name)], cls.hidden.unique_id)
        return io.NodeOutput(result.unet, _curve(result.losses), {"loss": list(result.losses)}, listed)


def _settings(widgets: dict[str, Any]) -> TuningSettings:
    """Return the settings of the widgets; a rank of 0 stands for full convolutions."""
    from ...fatezero_ext.models.unet.inflate import TemporalLayers
    from ...fatezero_ext.tuning.settings import TuningSettings

    recipe: Recipe = widgets["recipe"]
    rank, seed = widgets.pop("temporal_rank"), widgets.pop("training_seed")
    temporal = TemporalLayers(rank=rank or None) if recipe == "fatezero" else None
    return TuningSettings(**widgets, seed=seed, temporal=temporal)


def _said(step: TuningStep) -> str:
    minutes, seconds = divmod(round(step.seconds_left), 60)
    return f"Step {step.done} of {step.total}: loss {step.loss:.4f}, {minutes}:{seconds:02} left"


def _curve(losses: tuple[float, ...]) -> Tensor:
    """Return the picture of the losses as an IMAGE."""
    import numpy as np
    import torch

    from ...fatezero_ext.pictures.loss_curve import loss_curve

    return torch.from_numpy(np.array(loss_curve(losses))).float().div(255)[None]


def _models() -> Path:
    """Return the folder that tuned models are saved in: where models are looked for, if there is such a folder."""
    program = host.current()
    return next(iter(program.diffusers_folders()), program.output_directory())


def _base(unet: Pseudo3DUNet) -> Path | None:
    """Return the folder that a UNet was loaded from, whose other parts make the result a whole model; None: a file."""
    try:
        path = model_path(getattr(unet, "name", ""))
    except FateZeroError:  # one with a LoRA
        return None
    return path if (path / "model_index.json").is_file() else None


def _check_prompt(prompt: str) -> None:
    if not str(prompt).strip():
        raise PromptError("prompt is empty; words for what the clip shows are needed. Describe it in plain words.")


def _check_name(name: str) -> None:
    if not NAME.fullmatch(str(name)) or str(name).endswith((".", " ")) or DEVICES.fullmatch(str(name)):
        raise SettingsError(
            f"name is {str(name)[:80]!r}; up to 80 letters, digits, spaces and . + - _ are needed, a letter or digit "
            f"first, no space or dot last, and no device of Windows. Give the tuned model such a name."
        )


def _inputs() -> list[io.Input]:
    return [
        UNET.Input("unet", tooltip="From Load Stable Diffusion for Video, or Load LoRA. It is not changed."),
        io.Clip.Input("clip", tooltip="The text encoder of the same model."),
        io.Latent.Input("latent", tooltip="The clip's frames, encoded by the VAE of the same model; eight suit most."),
        io.String.Input(
            "prompt",
            default="a red circle on the grass",
            multiline=True,
            tooltip="What the clip shows: the source prompt of the edits to come.",
        ),
        io.String.Input(
            "name",
            default="tuned",
            tooltip="Of the saved model, a folder in models/diffusers. The same name, clip and settings go on with a "
            "run that was stopped.",
        ),
    ]


def _training_widgets() -> list[io.Input]:
    return [
        io.Int.Input(
            "steps",
            default=300,
            min=1,
            max=100_000,
            tooltip="Updates of the weights. Published edits used 150 to 250. More steps go on with the same run.",
        ),
        io.Float.Input(
            "learning_rate",
            default=3e-5,
            min=1e-8,
            max=1.0,
            step=1e-6,
            tooltip="How far each step moves. Published edits used 1e-5; lower it if the loss becomes NaN.",
        ),
        io.Combo.Input(
            "recipe",
            options=list(RECIPES),
            default=RECIPES[0],
            tooltip="What is trained. fatezero: projections to queries, attention and convolutions over time. "
            "tune-a-video: the same without convolutions.",
        ),
        io.Int.Input(
            "temporal_rank",
            default=160,
            min=0,
            max=1280,
            tooltip="Rank of fatezero's convolutions over time, 16 or 160 in published edits. 0: full ones. A UNet "
            "that was tuned before keeps its own.",
        ),
        # Under the name "seed" ComfyUI's page would change it before each run, and no run could go on.
        io.Int.Input("training_seed", default=0, min=0, max=999_999_999, tooltip="Of the noise that is learnt from."),
        advanced(
            io.Boolean.Input(
                "gradient_checkpointing",
                default=True,
                tooltip="Computes activations twice in place of keeping them: far less memory, more time.",
            )
        ),
        advanced(
            io.Int.Input("warmup_steps", default=0, min=0, max=100_000, tooltip="Updates in which the rate grows.")
        ),
        advanced(
            io.Int.Input(
                "accumulation",
                default=1,
                min=1,
                max=1000,
                tooltip="Draws of noise that make one step: steadier losses, as many times the time.",
            )
        ),
        advanced(
            io.Int.Input(
                "save_every", default=50, min=1, max=100_000, tooltip="Steps after which the run is saved on disk."
            )
        ),
        advanced(
            io.Int.Input(
                "preview_every",
                default=25,
                min=0,
                max=100_000,
                tooltip="Steps after which a preview shows the middle frame, found in noise in one step. 0: never.",
            )
        ),
    ]


def _class_inputs() -> list[io.Input]:
    return [
        io.Latent.Input(
            "class_latent",
            optional=True,
            tooltip="Single pictures of the same kind of thing, encoded; more than the clip has frames. They keep the "
            "model from forgetting it, as in published configs. Left open: the clip alone.",
        ),
        advanced(
            io.String.Input(
                "class_prompt", default="", optional=True, tooltip="What these pictures show, as: a photo of a car."
            )
        ),
    ]
