"""Measure the edits of a toy model: `python -m fatezero_ext.toy.evaluation.edit_table [MODEL_DIR] [--json FILE]`.

Four kinds of edits, each with and without attention control, on clips whose exact truth is known; 20 steps, guidance 5,
each frame with its own keys.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from ...editing.edit import edit
from ...editing.settings import BlendSettings, EditSettings, Mode
from ...inversion.controller import Controller
from ...inversion.invert import invert
from ...models.folder.detect import TOY_FOLDER
from ...models.load import VideoModel, load_model
from ...models.unet.inflate import InflationSettings
from ..world.captions import caption
from ..world.clips import READABLE_COLOURS, READABLE_SHAPES, Clip, sample_clip
from ..world.world import is_visible
from .edits import EditFigures, measure

STEPS = 20
GUIDANCE = 5.0
CLIPS = 4
FRAMES = 8
NEW_BACKGROUNDS = ("sand", "water", "sky", "grass")


@dataclass(frozen=True)
class Method:
    """An edit method, with the figures that an earlier model by the same recipe reached.

    blend:     words that make the mask: "object", "background", or "" for none
    reference: figures by EditFigures' names; shares of the frames for `edited` and `kept`
    """

    kind: str
    name: str
    settings: EditSettings
    blend: str = ""
    latents: bool = False
    reference: Mapping[str, float] | None = None


def _held(cross: float, self_attention: float, mode: Mode = "replace") -> EditSettings:
    return EditSettings(mode, cross, self_replace=self_attention, blend=None, guidance=GUIDANCE)


FREE = _held(0.0, 0.0)
METHODS = (
    Method("colour", "no control", FREE, reference={"edited": 0.41, "stays_psnr": 24.8, "object_iou": 0.25}),
    Method("colour", "replace", _held(0.8, 0.8), reference={"edited": 1.0, "stays_psnr": 30.3, "object_iou": 0.81}),
    Method("colour", "+ self blend", _held(0.5, 0.8), "object", reference={"edited": 1.0, "stays_psnr": 30.4}),
    Method("colour", "+ latent blend", _held(0.5, 0.8), "object", True, {"edited": 0.75, "stays_psnr": 31.0}),
    Method("shape", "no control", FREE, reference={"edited": 0.94, "stays_psnr": 31.0, "object_iou": 0.63}),
    Method("shape", "replace", _held(0.8, 0.8), reference={"edited": 0.84, "stays_psnr": 34.1, "object_iou": 0.74}),
    Method("shape", "+ self blend", _held(0.5, 0.8), "object", reference={"edited": 0.94, "stays_psnr": 34.4}),
    Method("shape", "+ latent blend", _held(0.5, 0.8), "object", True, {"edited": 0.94, "stays_psnr": 38.9}),
    Method("background", "no control", FREE, reference={"edited": 1.0, "stays_psnr": 22.4, "object_iou": 0.67}),
    Method("background", "replace", _held(0.8, 0.8), reference={"edited": 0.75, "stays_psnr": 25.9}),
    Method("background", "+ self blend", _held(0.8, 0.8), "background", reference={"edited": 0.97, "stays_psnr": 25.0}),
    Method("background", "+ latent blend", _held(0.8, 0.8), "background", True, {"edited": 0.94, "stays_psnr": 26.8}),
    Method("style", "no control", _held(0.0, 0.0, "refine"), reference={"edited": 0.81, "stays_psnr": 20.7}),
    Method("style", "refine", _held(0.5, 0.8, "refine"), reference={"edited": 0.84, "stays_psnr": 21.5}),
)
"""The reference's background figures are 1.0 for the object's colour with every method; its clips are not these."""


def changes_of(clip: Clip, kind: str) -> dict[str, str]:
    """Choose the change of an edit of this kind: the next attribute in line that can be seen."""
    scene = clip.scenes[0]
    if kind == "style":
        return {"style": "watercolor"}
    choices = {"colour": READABLE_COLOURS, "shape": READABLE_SHAPES, "background": NEW_BACKGROUNDS}[kind]
    start = choices.index(getattr(scene, kind)) if getattr(scene, kind) in choices else 0
    for value in choices[start + 1 :] + choices[:start]:
        attribute: dict[str, Any] = {kind: value}
        changed = replace(scene, **attribute)
        if is_visible(changed.colour, changed.background):
            return {kind: value}
    raise ValueError(f"no other {kind} can be seen on {scene}; one is needed for the edit. Choose another clip.")


def measured(model: VideoModel, clips: int = CLIPS) -> Iterator[tuple[Method, list[EditFigures]]]:
    """Yield every method's figures, one per clip."""
    sources = [sample_clip(seed, frames=FRAMES) for seed in range(clips)]

    @cache
    def inverted(index: int) -> Controller:
        frames = torch.as_tensor(sources[index].frames)
        controller = Controller(model.unet)
        return invert(controller, model.text_encoder, model.vae.encode(frames), sources[index].prompt, steps=STEPS)

    for method in METHODS:
        yield method, [_edited(model, inverted(i), source, method) for i, source in enumerate(sources)]


def _edited(model: VideoModel, controller: Controller, source: Clip, method: Method) -> EditFigures:
    changes = changes_of(source, method.kind)
    prompt = caption(source.edited(**changes).scenes[0])
    settings = replace(method.settings, blend=_blend(source, changes, method))
    result = edit(controller, model.text_encoder, prompt, settings)
    return measure(model.vae.decode(result.latents).numpy(), source, changes)


def _blend(source: Clip, changes: Mapping[str, str], method: Method) -> BlendSettings | None:
    if not method.blend:
        return None
    before, after = source.scenes[0], source.edited(**changes).scenes[0]
    if method.blend == "object":
        old, new = (f"{scene.colour} {scene.shape}" for scene in (before, after))
    else:
        old, new = (caption(scene).rpartition(" ")[2] for scene in (before, after))
    return BlendSettings((old,), (new,), threshold=0.3, latents=method.latents)


def table_of(rows: list[tuple[Method, dict[str, float]]]) -> Table:
    """Tabulate figures beside the reference's, where it has them."""
    table = Table(title=f"edits of {CLIPS} clips of {FRAMES} frames; in brackets an earlier model by the same recipe")
    for column in ("edit", "method", "edited", "kept", "PSNR of what stays", "object IoU", "flicker"):
        table.add_column(column)
    for method, figures in rows:
        known = method.reference or {}
        cells = [f"{value:.2f}" + (f" ({known[name]:g})" if name in known else "") for name, value in figures.items()]
        table.add_row(method.kind, method.name, *cells)
    return table


def averaged(figures: list[EditFigures]) -> dict[str, float]:
    """Average over clips; counts of frames become shares."""
    return {
        "edited": mean(one.edited / one.frames for one in figures),
        "kept": mean(one.kept / one.frames for one in figures),
        **{name: mean(getattr(one, name) for one in figures) for name in ("stays_psnr", "object_iou", "flicker")},
    }


def main(arguments: list[str] | None = None) -> int:
    """Print the table of a model."""
    parser = argparse.ArgumentParser(prog="python -m fatezero_ext.toy.evaluation.edit_table", description=__doc__)
    parser.add_argument("model", type=Path, nargs="?", default=TOY_FOLDER, help="folder in diffusers' layout")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args(arguments)
    model = load_model(options.model, InflationSettings(key_frames=()))
    rows = [(method, averaged(figures)) for method, figures in measured(model)]
    Console().print(table_of(rows))
    if options.json:
        found = [{"edit": method.kind, "method": method.name, **figures} for method, figures in rows]
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
