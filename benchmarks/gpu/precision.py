"""Half precision against float32, on the reference runs of the small model and on edits of the built-in one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from einops import rearrange
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.meter import relative
from benchmarks.subjects import GOLDEN
from fatezero_ext import (
    BlendSettings,
    Capture,
    Controller,
    EditSettings,
    InflationSettings,
    Mode,
    edit,
    invert,
    load_model,
    load_toy,
    load_unet,
)
from fatezero_ext.diffusion.schedule import Schedule
from fatezero_ext.editing.loop import EditedLatents, edit_latents
from fatezero_ext.editing.plan import compile_edit, mask_layers
from fatezero_ext.inversion.footprint import ClipShape, recorded_forms
from fatezero_ext.inversion.loop import Recording, invert_latents
from fatezero_ext.models.text_encoder import ClipTextEncoder
from fatezero_ext.prompts.prompt import read_prompt
from fatezero_ext.storage.record_store import MemoryStore
from fatezero_ext.toy.evaluation.edits import measure
from fatezero_ext.toy.world.clips import sample_clip

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
SHAPE = BlendSettings(("silver", "jeep"), ("Porsche", "car"), threshold=0.65)
LATENTS = BlendSettings(("silver", "jeep"), ("Porsche", "car"), threshold=0.65, latents=True)


def _as_published(
    mode: Mode, end: float, blend: BlendSettings | None = None, equalizer: Mapping[str, float] | None = None
) -> EditSettings:
    """Settings of a run of the authors' program, both windows up to `end`."""
    return EditSettings(
        mode, end, self_replace=end, blend=blend, equalizer=equalizer or {}, guidance=7.5, quirks="original"
    )


RUNS = {
    "B_style": _as_published("refine", 0.8, equalizer={"watercolor": 10}),
    "D2_latentblend_th065": _as_published("replace", 0.5, blend=LATENTS),
    "F2_shape_tuned_th065": _as_published("replace", 0.5, blend=SHAPE),
}
CIRCLE = BlendSettings(("red circle",), ("blue circle",), latents=True)
TOY_EDITS = {
    "colour": (
        "a blue circle on the grass",
        {"colour": "blue"},
        EditSettings("replace", 0.8, self_replace=0.8, guidance=5.0, blend=CIRCLE),
    ),
    "style": (
        "a watercolor painting of a red circle on the grass",
        {"style": "watercolor"},
        EditSettings("refine", 0.5, self_replace=0.8, blend=None, guidance=5.0),
    ),
}
AS_THE_AUTHORS = 3e-4  # of float32 edits, as in tests/golden_checks.py
TOY_STEPS = 20
TINY_STEPS = 5  # the fewest at which latents are blended


@dataclass(frozen=True)
class Edited:
    """Latents and mask of an edit, on the CPU."""

    latents: Tensor
    mask: Tensor


def run(bench: Bench) -> None:
    """Distances and masks of both models in each precision."""
    for name, wanted in _golden_runs(bench).items():
        _compare(bench, f"golden {name}", wanted)
    for name, wanted in _toy_edits(bench).items():
        _compare(bench, f"toy {name}", wanted)


def _compare(bench: Bench, name: str, found: Mapping[str, Edited]) -> None:
    exact = found["float32"]
    figures = {}
    for dtype, got in found.items():
        if dtype == "float32":
            continue
        alike = ((got.mask - exact.mask).abs() < 1e-6).float().mean().item()
        figures[dtype] = {"relative": relative(got.latents, exact.latents), "mask_cells_alike": alike}
        bench.line(f"{name}, {dtype}", f"{figures[dtype]['relative']:.1e} from float32, {alike:.1%} of the mask alike")
    bench.keep(name, figures)


def _dtypes(bench: Bench) -> dict[str, torch.dtype]:
    """A CPU computes float16 many times slower than all else."""
    return {name: kind for name, kind in DTYPES.items() if not bench.scale.tiny or kind != torch.float16}


def _golden_runs(bench: Bench) -> dict[str, dict[str, Edited]]:
    text, found = load_model(GOLDEN / "model").text_encoder, {}
    with TemporaryDirectory() as folder, _exact_float32():
        _write_tuned(Path(folder))
        for name in list(RUNS)[1:2] if bench.scale.tiny else RUNS:
            side = bench.scale.side  # of the latents, as the reference has them; less of them where it shall be quick
            edited = {
                dtype: _golden_run(name, kind, bench.device, text, Path(folder), side)
                for dtype, kind in _dtypes(bench).items()
            }
            found[name] = {dtype: Edited(x.latents.cpu(), x.mask.cpu()) for dtype, x in edited.items()}
            authors = load_file(GOLDEN / name / "edit.safetensors")["latents_after_step.thinned"][-1]
            authors = authors[..., : side // 4, : side // 4]
            distances = {dtype: relative(_thinned(x.latents), authors) for dtype, x in found[name].items()}
            bench.keep(f"golden {name}, from the authors' latents", distances)
            bench.line(
                f"golden {name}, float32",
                f"{distances['float32']:.1e} from the authors'",
                "" if bench.scale.tiny else f"<= {AS_THE_AUTHORS:g}",
            )
            if not bench.scale.tiny and not distances["float32"] <= AS_THE_AUTHORS:
                bench.wrong(f"golden {name} in float32 is {distances['float32']:.1e} from the authors': TOO FAR")
    return found


def _golden_run(
    name: str, dtype: torch.dtype, device: torch.device, text: ClipTextEncoder, tuned: Path, side: int
) -> EditedLatents:
    """One reference run as its tests compute it."""
    told = json.loads((GOLDEN / name / "settings.json").read_text())
    style = InflationSettings(key_frames=("mid",), least_sc_channel=32) if "style" in name else None
    unet = load_unet(tuned if "tuned" in name else GOLDEN / "model" / "unet", style, dtype=dtype)
    unet.net.to(device)
    kept = {key: x.to(device) for key, x in load_file(GOLDEN / told["inversion"] / "latents.safetensors").items()}
    given = load_file(GOLDEN / name / "edit.safetensors")
    latents = rearrange(kept["latents_input"], "1 c f h w -> f c h w")[..., :side, :side].contiguous()
    steps = told["num_inference_steps"]
    prompts = [read_prompt(text, told[f"{which}_prompt"]) for which in ("source", "edit")]
    shape = ClipShape(len(latents), *latents.shape[-2:], tokens=77)
    recording = Recording(MemoryStore(), recorded_forms(unet, Capture(), "features", shape))
    schedule = Schedule.from_config(None, steps)
    trace = invert_latents(
        unet, latents, kept["text_source"], prompts[0], schedule, capture=Capture(), recording=recording
    )
    texts = torch.cat([given["text_uncond"], given["text_edit"]]).to(device)
    layers = mask_layers(RUNS[name], unet, trace)
    return edit_latents(unet, trace, compile_edit(RUNS[name], *prompts, steps, layers), texts)


def _write_tuned(folder: Path) -> None:
    """The tuned UNet is kept as its difference to the 2-D one."""
    weights = load_file(GOLDEN / "model" / "unet" / "diffusion_pytorch_model.safetensors")
    changed = load_file(GOLDEN / "model_tuned" / "difference.safetensors")
    save_file(weights | changed, folder / "diffusion_pytorch_model.safetensors")
    (folder / "config.json").write_text((GOLDEN / "model_tuned" / "config.json").read_text())


def _thinned(latents: Tensor) -> Tensor:
    """[frames, channels, h, w] as the reference keeps them: [channels, frames, h/4, w/4]."""
    return latents.transpose(0, 1)[..., ::4, ::4]


def _toy_edits(bench: Bench) -> dict[str, dict[str, Edited]]:
    drawn = sample_clip(1, shape="circle", colour="red", background="grass")
    frames = torch.as_tensor(drawn.frames)[: 2 if bench.scale.tiny else None]
    steps = TINY_STEPS if bench.scale.tiny else TOY_STEPS
    edits = list(TOY_EDITS.items())[: 1 if bench.scale.tiny else None]
    found: dict[str, dict[str, Edited]] = {name: {} for name, _edit in edits}
    for dtype, kind in _dtypes(bench).items():
        model = load_toy(InflationSettings(key_frames=()), dtype=kind, device=bench.device)
        controller = invert(
            Controller(model.unet),
            model.text_encoder,
            model.vae.encode(frames),
            drawn.prompt,
            steps=steps,
            inversion_passes=0,
        )
        for name, (words, changes, settings) in edits:
            result = edit(controller, model.text_encoder, words, settings)
            found[name][dtype] = Edited(result.latents, result.mask)
            clip = type(drawn)(drawn.scenes[: len(frames)])
            read = measure(model.vae.decode(result.latents).numpy(), clip, changes)
            bench.keep(f"toy {name}, {dtype}, read by the oracle", vars(read))
            bench.line(f"toy {name}, {dtype}", f"{read.edited} of {read.frames} frames edited, {read.kept} kept", "all")
    return found


@contextmanager
def _exact_float32() -> Iterator[None]:
    """Convolutions in float32 proper: torch lets cuDNN round their inputs to 10 bits."""
    before, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before
