"""The command `tune`: tune a model on a clip, so that edits may change shapes."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType, MappingProxyType

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from ..atomic_files import whole_file
from ..media.frame_sources import read_frames
from ..media.framing import Framing
from ..models.folder.detect import BUILT_IN_FOLDERS
from ..models.load import VideoModel, load_model
from ..models.unet.inflate import TemporalLayers
from ..pictures.loss_curve import loss_curve
from ..tuning.file_names import state_file
from ..tuning.folder import TunedFolder
from ..tuning.settings import TuningSettings
from ..tuning.tune import ClassPictures, TuningStep, tune
from .stop_signals import stop_signals

BUILT_IN_MODELS = MappingProxyType({"toy": BUILT_IN_FOLDERS["shapes"], "objects": BUILT_IN_FOLDERS["objects"]})
STOPPING = (
    b"\nStopping behind this step, to save the run. Once more stops at once and loses the steps since the last save.\n"
)


def run_tuning(options: argparse.Namespace) -> None:
    """Tune, save the model and its loss curve, and print the folder; `options` are those of the command."""
    settings = _settings(options)
    model_folder = BUILT_IN_MODELS.get(options.model) or Path(options.model)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.float16 if device == "cuda" else torch.float32
    model = load_model(model_folder, dtype=dtype, device=device)
    framing = Framing(
        start=options.first,
        count=options.frames,
        sampling_rate=options.every,
        short_side=options.size or _trained_size(model),
    )
    latents = model.vae.encode(read_frames(options.clip, framing)[0])
    pictures = _class_pictures(options, model, framing)
    console = Console(stderr=True)
    with _saying_how_to_go_on(options.output), _bar(console) as bar, _stopped_between_steps() as go_on:
        task = bar.add_task("tuning", total=options.steps, loss="")

        def on_step(step: TuningStep) -> None:
            bar.update(task, completed=step.done, loss=f"loss {step.loss:.4f}")
            go_on()

        result = tune(
            model.unet,
            model.text_encoder,
            latents,
            options.prompt,
            settings,
            output=TunedFolder(options.output, model_folder if model_folder.is_dir() else None, options.weights),
            resume=options.resume,
            class_pictures=pictures,
            on_plan=lambda sentence: console.print(f"{sentence}.", markup=False),
            on_step=on_step,
        )
    curve = options.output / "loss.png"
    with whole_file(curve) as unfinished:
        loss_curve(result.losses).save(unfinished, "PNG")
    sys.stdout.write(f"{options.output}\n")


def _settings(options: argparse.Namespace) -> TuningSettings:
    """Return the settings that the command names; what it leaves out is as published."""
    named = ("steps", "learning_rate", "recipe", "seed", "save_every")
    given = {name: value for name in named if (value := getattr(options, name)) is not None}
    if options.rank is not None:
        given["temporal"] = TemporalLayers(rank=options.rank or None)
    return TuningSettings(**given)


def _class_pictures(options: argparse.Namespace, model: VideoModel, framing: Framing) -> ClassPictures | None:
    if options.class_pictures is None:
        return None
    whole = Framing(short_side=framing.short_side)
    frames: Tensor = read_frames(options.class_pictures, whole)[0]
    return ClassPictures(model.vae.encode(frames), options.class_prompt or options.prompt)


def _trained_size(model: VideoModel) -> int | None:
    """Pixels of the shorter side of the pictures that the model was trained on; None: not known, as they are."""
    side = model.unet.trained_side
    return None if side is None else side * model.vae.pixels_per_cell


def _bar(console: Console) -> Progress:
    columns = (TextColumn("step {task.completed} of {task.total}"), BarColumn(), TextColumn("{task.fields[loss]}"))
    return Progress(*columns, TimeRemainingColumn(), console=console)


@contextmanager
def _saying_how_to_go_on(folder: Path) -> Iterator[None]:
    """Give a KeyboardInterrupt a sentence where the state of the run has been saved."""
    try:
        yield
    except KeyboardInterrupt:
        if (state := state_file(folder)).exists():
            sentence = f"Stopped. The run is saved in {state}; the same command with --resume goes on."
            raise KeyboardInterrupt(sentence) from None
        raise


@contextmanager
def _stopped_between_steps() -> Iterator[Callable[[], None]]:
    """Let the first Ctrl-C, or other request to stop, wait for the end of a step, so that the run's state is saved.

    Yields what raises KeyboardInterrupt there; a second request ends the run at once.
    """
    asked: list[int] = []

    def ask(number: int, frame: FrameType | None) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)
        with suppress(OSError):  # a terminal that was closed
            os.write(2, STOPPING)  # a handler may interrupt a write of this very stream

    def go_on() -> None:
        if asked:
            raise KeyboardInterrupt

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, *stop_signals())}
    try:
        yield go_on
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
