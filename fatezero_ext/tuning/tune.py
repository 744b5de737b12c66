"""Tuning a UNet on a clip: check first, then train, saving the state on the way."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..diffusion.guided_text import embedded
from ..errors import ModelError, PromptError, SettingsError, StoreError, VideoError, as_path, check_text, described
from ..inversion.arguments import check_latents, check_text_encoder
from ..memory.free_memory import within_memory
from ..memory.residency import prepared
from ..models.unet.model import Pseudo3DUNet
from ..printable import format_bytes
from ..prompts.prompt import TextEncoder
from .draws import RandomDraws
from .file_names import state_file
from .folder import TunedFolder, saved_weights
from .planned_memory import check_memory, planned_memory
from .saved_state import Identity, read_result, read_state, remove_unfinished, save_state, try_to_save
from .settings import FREE_TO_CHANGE, TuningSettings
from .training import Lesson, Training, noise_scheduler

log = logging.getLogger(__name__)

LEAST_FRAMES = 2
OUT_OF_MEMORY = "Use fewer or smaller frames, turn gradient_checkpointing on, or load the model in half precision."
STATE_NUMBERS = 3
"""Numbers of a saved state for each trained one: the weight and AdamW's two moments, all float32."""


@dataclass(frozen=True)
class ClassPictures:
    """Single pictures of what the clip shows, on which the model is reminded of its class.

    latents: raw latents [pictures, channels, height, width]
    prompt:  such as "a photo of a car"
    """

    latents: Tensor
    prompt: str


@dataclass(frozen=True)
class TuningStep:
    """Progress of a run, reported after every step.

    done, total:  steps, 1 after the first
    loss:         of the clip in this step
    seconds_left: until the end, by the steps of this run so far
    preview:      returns latents [1, channels, height, width], scaled: the middle frame, reconstructed in one step from
                  much noise; None in steps without
    """

    done: int
    total: int
    loss: float
    seconds_left: float
    preview: Callable[[], Tensor] | None


OnTuningStep = Callable[[TuningStep], None]
OnTuningPlan = Callable[[str], None]


@dataclass(frozen=True)
class TuningResult:
    """A tuned UNet, and how it was made.

    unet:   the UNet; what was not trained shares the memory of the one that came in
    losses: of the clip, one a step
    folder: where it is saved; None: nowhere
    record: as it is saved beside it
    """

    unet: Pseudo3DUNet
    losses: tuple[float, ...]
    folder: Path | None
    record: Mapping[str, object]


def ignore_step(step: TuningStep) -> None:
    """The default `on_step`."""


def ignore_plan(sentence: str) -> None:
    """The default `on_plan`."""


def tune(
    unet: Pseudo3DUNet,
    text_encoder: TextEncoder,
    latents: Tensor,
    prompt: str,
    settings: TuningSettings | None = None,
    *,
    output: TunedFolder | Path | str | None = None,
    resume: bool = False,
    class_pictures: ClassPictures | None = None,
    on_plan: OnTuningPlan = ignore_plan,
    on_step: OnTuningStep = ignore_step,
) -> TuningResult:
    """Tune a UNet on a clip.

    text_encoder:   the model's own text encoder
    latents:        raw latents [frames, channels, height, width] of two frames or more, as a VAE's `encode` gives them
    prompt:         what the clip shows
    settings:       None: the defaults
    output:         folder of the result; the run's state is saved beside it. None: nothing is saved
    resume:         go on from the saved state of the same run, to the bits of a run that was not interrupted; without a
                    state it begins anew. A run with more steps than before goes on behind the last one; a result of as
                    many steps is taken as it is. The learning rate may be another one from there on
    class_pictures: pictures that each step trains on first, as in FateZero's published configs; None: the clip alone
    on_plan:        called before the first step with a sentence: the memory that is needed
    on_step:        called with a `TuningStep` after each step; raising saves the state and ends the run. An error that
                    comes within a step, a signal's too, loses the steps since the last save
    Returns the tuned UNet; the one that came in is as it was.
    Raises FateZeroError kinds for arguments that do not fit, a folder that is in use, a run that does not fit into
    memory or onto the disk, and losses that are not finite.
    Source: FateZero, train_tune_a_video.py and DDPMTrainer; Tune-A-Video (arXiv 2212.11565).
    """
    settings, folder = _checked(TuningSettings() if settings is None else settings), _folder(output)
    _check(unet, text_encoder, latents, prompt, folder, resume=resume)
    if class_pictures is not None:
        _check_pictures(unet, class_pictures, latents)
    run = _Run(unet, settings, folder, latents, prompt, class_pictures)
    with torch.inference_mode(False), torch.enable_grad():
        return run.trained(run.begun(text_encoder, on_plan), on_step)


class _Run:
    """One call of `tune`."""

    def __init__(
        self,
        unet: Pseudo3DUNet,
        settings: TuningSettings,
        folder: TunedFolder | None,
        latents: Tensor,
        prompt: str,
        pictures: ClassPictures | None,
    ) -> None:
        self.unet, self.settings, self.folder = unet, settings, folder
        self.latents, self.prompt, self.pictures = latents, prompt, pictures
        self.state = None if folder is None else state_file(folder.path)
        self.mode = torch.is_inference_mode_enabled()
        self.identity: Identity = {}
        self.finished: Mapping[str, Any] | None = None  # record of the very run that is asked for

    def begun(self, text_encoder: TextEncoder, on_plan: OnTuningPlan) -> Training:
        """Bring the model to its device, see that all fits, and restore a saved state."""
        unet, settings = self.unet, self.settings
        planned = planned_memory(unet, settings, len(self.latents), *self.latents.shape[-2:])
        on_plan(f"tuning needs {planned}")
        # Weights that were loaded in inference mode and are moved to a device out of it could be used in neither.
        with torch.inference_mode(self.mode):
            # The text encoder first: where memory is short, bringing it in may send the UNet out.
            clip = self._lesson(text_encoder, self.latents, self.prompt)
            pictures = self.pictures and self._lesson(text_encoder, self.pictures.latents, self.pictures.prompt)
            prepared(unet.load_to_device, planned.nbytes)
            self.identity = self._identity()
        check_memory(unet, planned, settings)
        if self.folder is not None:
            unet_bytes = sum(x.nbytes for x in unet.net.parameters()) + planned.weights
            _check_disk(self.folder, planned.trained * STATE_NUMBERS * 4, unet_bytes)
        draws = RandomDraws(settings.seed, noise_scheduler(unet).config["num_train_timesteps"])
        name = self.folder.path.name if self.folder else f"{unet.name}, tuned"
        training = Training(unet, settings, draws, clip=clip, pictures=pictures or None, name=name)
        if self.folder is not None and self.state is not None:
            self._go_on(training, self.folder.path, self.state)
        return training

    def _go_on(self, training: Training, folder: Path, state: Path) -> None:
        """Take what a run before this one has left, a result or a state; where there is nothing, try to write."""
        remove_unfinished(state)
        now = training.state()
        record = read_result(folder, self.identity, now) if folder.exists() else None
        if record is not None and len(record["losses"]) == self.settings.steps:
            self._check_rate(folder, record["settings"].get("learning_rate"))
            training.put(saved_weights(folder, training.optimizer.masters), record["losses"])
            self.finished = record
            log.info("%s is there already: nothing is left to train.", folder)
        elif state.exists():
            training.restore(read_state(state, self.identity, now))
            self._check_steps(training)
        elif record is not None:
            done = len(record["losses"])
            raise StoreError(
                f"{folder} is the result of {done} steps, and the state of its training is gone, so that it cannot go "
                f"on; {self.settings.steps} steps are wanted. Use {done} steps to take it as it is, or another folder."
            )
        else:
            try_to_save(state, training.lessons(), self.identity)

    def trained(self, training: Training, on_step: OnTuningStep) -> TuningResult:
        """Train to the last step, save the result and return it."""
        began, first = time.perf_counter(), len(training.losses)
        for number in range(first, self.settings.steps):
            self._in_numbers(training.step)
            done = number + 1
            if done % self.settings.save_every == 0 or done == self.settings.steps:
                self._save(training)
            left = (time.perf_counter() - began) / (done - first) * (self.settings.steps - done)
            shown = self.settings.preview_every and done % self.settings.preview_every == 0
            preview = partial(within_memory, training.preview, (), OUT_OF_MEMORY) if shown else None
            try:
                on_step(TuningStep(done, self.settings.steps, training.losses[-1], left, preview))
            except BaseException:  # whatever stops the run here, as ComfyUI's cancel button
                with suppress(ModelError):  # weights that are not finite: the older state stays
                    self._save(training)
                raise
        return self._result(training)

    def _in_numbers(self, compute: Callable[[], object]) -> None:
        """Call a part of the training; where its numbers are not finite, say from where the run can go on."""
        try:
            within_memory(compute, (), OUT_OF_MEMORY)
        except ModelError as error:
            if self.state is None or not self.state.exists():
                raise
            raise ModelError(
                f"{error} The last good state is in {self.state}: resume with a lower rate, and the run goes on there."
            ) from error

    def _save(self, training: Training) -> None:
        """Save the state, once its weights have proved good."""
        self._in_numbers(training.check)
        if self.state is not None:
            save_state(self.state, training.state(), self.identity)

    def _result(self, training: Training) -> TuningResult:
        tuned, losses = within_memory(training.tuned, (), OUT_OF_MEMORY), tuple(training.losses)
        path = None if self.folder is None else self.folder.path
        if self.finished is not None:
            return TuningResult(tuned, losses, path, self.finished)
        record = self._record(training)
        if self.folder is not None:
            self.folder.save(tuned, training.optimizer.masters, record, training.lessons())
        return TuningResult(tuned, losses, path, record)

    def _record(self, training: Training) -> dict[str, object]:
        """Return how the result was made."""
        inflation = self.unet.settings
        return {
            "prompt": self.prompt,
            "steps": len(training.losses),
            "frames, height, width": [len(self.latents), *self.latents.shape[-2:]],
            "model": self.unet.name,
            "key_frames": list(inflation.key_frames),
            "least_sc_channel": inflation.least_sc_channel,
            "norm": inflation.norm,
            "class prompt": self.pictures and self.pictures.prompt,
            "settings": self.settings.described(),
            "identity": self.identity,
            "trained": list(training.trained),
            "losses": list(training.losses),
            "torch": torch.__version__,
            "device": str(self.unet.device),
        }

    def _lesson(self, text_encoder: TextEncoder, latents: Tensor, prompt: str) -> Lesson:
        return Lesson(latents * self.unet.latent_format.scale, embedded(text_encoder, [prompt], self.unet))

    def _identity(self) -> Identity:
        """Return what must be the same when the run goes on."""
        settings = {key: value for key, value in self.settings.described().items() if key not in FREE_TO_CHANGE}
        return {
            "model": self.unet.digest(),
            "prompt": self.prompt,
            "class prompt": self.pictures and self.pictures.prompt,
            "settings": settings,
        }

    def _check_rate(self, folder: Path, rate: object) -> None:
        if rate != self.settings.learning_rate:
            raise StoreError(
                f"{folder} is the result of a run with learning_rate {rate} (now {self.settings.learning_rate}); its "
                f"steps are done. Choose another folder for this run, or remove it."
            )

    def _check_steps(self, training: Training) -> None:
        done = len(training.losses)
        log.info("Tuning goes on behind step %d.", done)
        if done > self.settings.steps:
            raise SettingsError(
                f"steps is {self.settings.steps}, but {done} are done already; at least as many are needed to go on. "
                f"Use {done} or more, or another folder."
            )


def _checked(settings: object) -> TuningSettings:
    if not isinstance(settings, TuningSettings):
        raise SettingsError(f"{described(settings)} came in place of the settings; TuningSettings are needed.")
    return settings


def _folder(output: TunedFolder | Path | str | None) -> TunedFolder | None:
    """Return the place of the result, its path whole: "." has no name to put a state beside."""
    if output is None:
        return None
    folder = output if isinstance(output, TunedFolder) else TunedFolder(as_path(output, StoreError))
    return replace(folder, path=Path(folder.path).resolve())


def _check(
    unet: object, text_encoder: object, latents: Tensor, prompt: str, folder: TunedFolder | None, *, resume: bool
) -> None:
    if not isinstance(unet, Pseudo3DUNet):
        raise ModelError(
            f"{described(unet)} came in place of the UNet; one that this program loads itself is needed, for ComfyUI's "
            f"own MODEL cannot be tuned here. Use Load Stable Diffusion for Video, or load_model(path).unet."
        )
    check_text_encoder(text_encoder)
    check_text(prompt, "prompt")
    if not prompt.strip():
        raise PromptError("the prompt is empty; words for what the clip shows are needed. Describe it in plain words.")
    check_latents(latents, unet)
    if len(latents) < LEAST_FRAMES:
        raise VideoError(
            f"the clip has {len(latents)} frame; at least {LEAST_FRAMES} are needed, for it is their motion that is "
            f"learnt. Use a video of eight frames or more."
        )
    if folder is not None and not resume and (folder.path.exists() or state_file(folder.path).exists()):
        raise StoreError(
            f"{folder.path} is there already, or the state of a run in it; a new folder is needed. Choose another "
            f"name, or go on with that run: resume=True, or --resume on the command line."
        )


def _check_pictures(unet: Pseudo3DUNet, pictures: ClassPictures, latents: Tensor) -> None:
    check_text(pictures.prompt, "class prompt")
    if not pictures.prompt.strip():
        raise PromptError("the class prompt is empty; words for what the pictures show are needed. Describe them.")
    try:
        check_latents(pictures.latents, unet)
    except (StoreError, ModelError) as error:
        raise type(error)(str(error).replace("the clip's", "the class pictures'")) from error
    if pictures.latents.shape[-2:] != latents.shape[-2:]:
        raise VideoError(
            f"the class pictures have latents of {list(pictures.latents.shape[-2:])} cells, the clip of "
            f"{list(latents.shape[-2:])}; the same size is needed. Scale and crop the pictures like the clip."
        )


def _check_disk(folder: TunedFolder, state_bytes: int, unet_bytes: int) -> None:
    """Raise StoreError where the disk is too full for two states at once, one of which may be there, and the result."""
    states = 1 if state_file(folder.path).exists() else 2
    needed = states * state_bytes + folder.nbytes(unet_bytes)
    existing = next(path for path in folder.path.absolute().parents if path.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise StoreError(
            f"{existing} has {format_bytes(free)} free; {format_bytes(needed)} are needed for the tuned model and the "
            f"state of its training. Free space, or choose a folder on another disk."
        )
