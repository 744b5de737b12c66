"""Draw the pictures of web/docs/pictures with the built-in models: `python docs/make_node_pictures.py [NAME ...]`.

Run from the checkout. NAME is a picture's name without its ending; without one all are drawn, in about five minutes on
one core. Each shows a sample clip's first, middle and last frame, enlarged without smoothing: the cat, or the circle
where the text speaks of a colour, of numbers or of a painting.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]  # the checkout need not be installed

import cat_edits  # noqa: E402

from fatezero_ext import BlendSettings, Controller, EditSettings, InflationSettings, edit, invert, load_toy  # noqa: E402
from fatezero_ext.choices import World  # noqa: E402
from fatezero_ext.editing.edit import EditResult  # noqa: E402
from fatezero_ext.inspection.components import principal_components  # noqa: E402
from fatezero_ext.inspection.heat_maps import self_attention_maps, word_heats  # noqa: E402
from fatezero_ext.media.framing import Framing, reframe  # noqa: E402
from fatezero_ext.media.video import read_video, to_bytes  # noqa: E402
from fatezero_ext.pictures.attention_sheets import component_tiles, enlarged, heat_tiles, sheets  # noqa: E402
from fatezero_ext.pictures.comparison_grid import compare  # noqa: E402
from fatezero_ext.pictures.contact_sheet import contact_sheet  # noqa: E402
from fatezero_ext.pictures.labelled_sheet import PAPER  # noqa: E402

PICTURES = ROOT / "web" / "docs" / "pictures"
BLUE = "a blue circle on the grass"
SAND, BRICK = "a red circle on the sand", "a red circle on the brick"
PAINTING = "a watercolor painting of a red circle on the grass"
STEPS, GUIDANCE = 20, 3.0
CELL = 128
NO_CONTROL = {"cross_replace": 0.0, "self_replace": 0.0}
NAMED = {
    "mode": "replace",
    "cross_replace": 0.8,
    "self_replace": 0.8,
    "blend": None,
    "guidance": GUIDANCE,
    "hold_still": False,
    "fresh_noise_seed": None,
    "equalizer": {},
}
"""Settings of an edit that a picture does not name, so that it shows one of them alone."""
BY_KIND = dict.fromkeys(NAMED, "auto")
"""The same as a user gets them, chosen by the kind of edit."""
Rows = list[tuple[str, Tensor]]


@dataclass(frozen=True)
class Sample:
    """A sample clip, what it shows, and the built-in model that draws it."""

    file: str
    prompt: str
    world: World


CAT = Sample("cat_on_grass", cat_edits.SOURCE, "objects")
CIRCLE = Sample("red_circle_on_grass", "a red circle on the grass", "shapes")
ALONE = InflationSettings(key_frames=())
"""Each frame reads its own keys: what the built-in models draw best with."""


@cache
def clip(sample: Sample) -> Tensor:
    """A sample clip [frames, 64, 64, 3], 0..1."""
    return read_video(ROOT / "example_workflows" / f"{sample.file}.mp4").frames


@cache
def model(world: World, settings: InflationSettings) -> Any:  # noqa: ANN401 - a VideoModel
    """A built-in model under other settings."""
    return load_toy(settings, world=world)


@cache
def inverted(sample: Sample, settings: InflationSettings = ALONE, steps: int = STEPS) -> Controller:
    """A sample clip, inverted."""
    loaded = model(sample.world, settings)
    latents = loaded.vae.encode(clip(sample))
    controller = Controller(loaded.unet)
    return invert(controller, loaded.text_encoder, latents, sample.prompt, steps=steps, inversion_passes=0)


@cache
def through_vae(sample: Sample) -> Tensor:
    """A sample clip as its VAE gives it back: the best that an edit can keep."""
    vae = model(sample.world, ALONE).vae
    return vae.decode(vae.encode(clip(sample)))


def edited(
    sample: Sample, prompt: str, *, loaded: InflationSettings = ALONE, steps: int = STEPS, **settings: object
) -> tuple[Tensor, EditResult]:
    """An edit of a sample clip as frames, and its result."""
    used = model(sample.world, loaded)
    plan = EditSettings(**{**NAMED, **settings})
    result = edit(inverted(sample, loaded, steps), used.text_encoder, prompt, plan)
    return used.vae.decode(result.latents), result


def three(frames: Tensor) -> Tensor:
    """The first, the middle and the last frame."""
    return frames[[0, len(frames) // 2, -1]]


def sheet(sample: Sample, rows: Rows) -> Image.Image:
    """The source and the rows below it."""
    rows = [("source", three(clip(sample))), *rows]
    return contact_sheet([row for _, row in rows], [label for label, _ in rows], cell=CELL)


def varied(sample: Sample, prompt: str, setting: str, values: Sequence[float], **settings: object) -> Image.Image:
    """The source, and a row per value of a setting of EditSettings."""
    edits = [edited(sample, prompt, **{**settings, setting: value})[0] for value in values]
    return sheet(sample, [(f"{value:g}", three(frames)) for value, frames in zip(values, edits, strict=True)])


def cross_replace_end() -> Image.Image:
    """Another animal, without hold of self-attention."""
    return varied(CAT, cat_edits.PANDA, "cross_replace", (0.0, 0.4, 0.8), self_replace=0.0)


def self_replace_end() -> Image.Image:
    """A background edit without hold of cross-attention."""
    return varied(CAT, cat_edits.SAND, "self_replace", (0.0, 0.4, 0.8), cross_replace=0.0)


def guidance() -> Image.Image:
    """A colour edit without mask."""
    return varied(CIRCLE, BLUE, "guidance", (1.0, 3.0, 7.5))


def equalizer() -> Image.Image:
    """A style edit without guidance."""
    style = {"mode": "refine", "guidance": 1.0}
    rows = []
    for factor in (1.0, 5.0, 10.0):
        frames, _ = edited(CIRCLE, PAINTING, equalizer={"watercolor": factor}, **style)
        rows.append((f"{factor:g}", three(frames)))
    return sheet(CIRCLE, rows)


def blend_threshold() -> Image.Image:
    """Another animal under three masks: two frames, and their masks."""
    rows = [("source", clip(CAT)[[0, -1]])]
    for threshold in (0.1, 0.3, 0.7):
        blend = BlendSettings(("cat",), threshold=threshold, latents=True)
        frames, result = edited(CAT, cat_edits.PANDA, **{**BY_KIND, "blend": blend})
        mask = enlarged(result.mask[..., None], frames.shape[1:3]).expand_as(frames)
        rows.append((f"{threshold:g}", torch.cat([frames[[0, -1]], mask[[0, -1]]])))
    return contact_sheet([row for _, row in rows], [label for label, _ in rows], cell=CELL)


def blend_latents() -> Image.Image:
    """A style edit of the circle alone, with the PSNR outside the mask."""
    rows = []
    for on in (False, True):
        blend = BlendSettings(("red circle",), ("red circle",), latents=on)
        frames, result = edited(CIRCLE, PAINTING, mode="refine", blend=blend)
        kept = enlarged(result.mask[..., None], frames.shape[1:3])[..., 0] == 0
        psnr = -10 * math.log10((frames - through_vae(CIRCLE)).square().mean(dim=-1)[kept].mean().item())
        rows.append((f"{'on' if on else 'off'}: {psnr:.1f} dB", three(frames)))
    return sheet(CIRCLE, rows)


def mode() -> Image.Image:
    """A swapped word under both modes, and added words."""
    return sheet(
        CIRCLE,
        [
            ("replace: sand", three(edited(CIRCLE, SAND, mode="replace")[0])),
            ("refine: sand", three(edited(CIRCLE, SAND, mode="refine")[0])),
            ("refine: watercolor", three(edited(CIRCLE, PAINTING, mode="refine", cross_replace=0.5)[0])),
        ],
    )


def key_frames_norm() -> Image.Image:
    """One edit without control under other ways to load the model, with how much its background flickers."""
    ways: Mapping[str, InflationSettings] = {
        "empty, clip": ALONE,
        "empty, frame": InflationSettings(key_frames=(), norm="frame"),
        "mid, clip": InflationSettings(key_frames=("mid",)),
        "-1 first, clip": InflationSettings(key_frames=(-1, "first")),
    }
    rows = []
    for label, way in ways.items():
        frames, _ = edited(CIRCLE, BRICK, loaded=way, **NO_CONTROL)
        background = torch.cat([frames[:, :14], frames[:, 50:]], dim=1)  # rows that the circle hardly touches
        flicker = 255 * background.diff(dim=0).abs().mean().item()
        rows.append((f"{label}: {flicker:.1f}", three(frames)))
    return sheet(CIRCLE, rows)


def invert_steps() -> Image.Image:
    """Inversion and back, with the PSNR against what the VAE alone gives."""
    rows: Rows = [("VAE alone", three(through_vae(CAT)))]
    for steps in (5, 20, 50):
        frames, _ = edited(CAT, CAT.prompt, steps=steps, **NO_CONTROL, guidance=1.0)
        psnr = -10 * math.log10((frames - through_vae(CAT)).square().mean().item())
        rows.append((f"{steps}: {psnr:.1f} dB", three(frames)))
    return sheet(CAT, rows)


def word_heat_maps() -> Image.Image:
    """Two frames' heat of three words."""
    words = ["cat", "grass", "on"]
    heats = word_heats(inverted(CAT), words)
    return _stacked(sheets(heat_tiles(heats, words, (CELL, CELL), clip(CAT)))[[0, -1]])


def self_attention_components() -> Image.Image:
    """Two frames' components."""
    found = principal_components(self_attention_maps(inverted(CAT)), 3)
    return _stacked(sheets(component_tiles(found, (CELL, CELL), clip(CAT)))[[0, -1]])


def sample_clip() -> Image.Image:
    """The clip alone."""
    return sheet(CAT, [])


def compare_clips() -> Image.Image:
    """Three edits beside their source, the middle frame."""
    prompts = (cat_edits.PANDA, cat_edits.FROG, cat_edits.SAND)
    clips = [clip(CAT), *(edited(CAT, prompt, **BY_KIND)[0] for prompt in prompts)]
    shown = compare([enlarged(frames, (CELL, CELL)) for frames in clips], ["source", *prompts])
    return _stacked(shown[[len(shown) // 2]])


def prepare_frames() -> Image.Image:
    """A wide cut of the sample clip, scaled, and cut to a square."""
    wide = clip(CAT)[[0, -1], 16:56]
    framings = {"as it came": Framing(short_side=None, centre_square=False)}
    framings |= {"short_side 64": Framing(short_side=64, centre_square=False), "centre_square": Framing(short_side=64)}
    # All on paper of one size, so that the sheet shows how large each is beside the others.
    rows = [(label, _on_paper(reframe(wide, framing), 64, 102)) for label, framing in framings.items()]
    return contact_sheet([row for _, row in rows], [label for label, _ in rows], cell=CELL)


def _on_paper(frames: Tensor, height: int, width: int) -> Tensor:
    paper = torch.tensor(PAPER).div(255).repeat(len(frames), height, width, 1)
    paper[:, : frames.shape[1], : frames.shape[2]] = frames
    return paper


def _below(strips: Sequence[Image.Image]) -> Image.Image:
    whole = Image.new("RGB", (max(strip.width for strip in strips), sum(strip.height for strip in strips)), "white")
    top = 0
    for strip in strips:
        whole.paste(strip, (0, top))
        top += strip.height
    return whole


def _stacked(frames: Tensor) -> Image.Image:
    return _below([Image.fromarray(frame) for frame in to_bytes(frames)])


DRAWN: Mapping[str, Callable[[], Image.Image]] = {
    "sample_clip": sample_clip,
    "edit_cross_replace_end": cross_replace_end,
    "edit_self_replace_end": self_replace_end,
    "edit_guidance": guidance,
    "edit_equalizer": equalizer,
    "edit_blend_threshold": blend_threshold,
    "edit_blend_latents": blend_latents,
    "edit_mode": mode,
    "load_key_frames_norm": key_frames_norm,
    "invert_steps": invert_steps,
    "word_heat_maps": word_heat_maps,
    "self_attention_components": self_attention_components,
    "compare_clips": compare_clips,
    "prepare_frames": prepare_frames,
}


def main(names: Sequence[str]) -> None:
    """Draw the named pictures, or all; 256 colours keep the files small."""
    torch.set_num_threads(1)
    PICTURES.mkdir(parents=True, exist_ok=True)
    for name in names or DRAWN:
        picture = DRAWN[name]().quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=3, dither=Image.Dither.NONE)
        picture.save(PICTURES / f"{name}.png", optimize=True)
        sys.stderr.write(f"{name}.png\n")


if __name__ == "__main__":
    main(sys.argv[1:])
