"""Whole jobs in the usual setting: an inversion and an edit, beside the same UNet calls without control."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.meter import Measured, gib, measured, relative, seconds
from benchmarks.gpu.scene import Scene
from fatezero_ext import Controller, Storage
from fatezero_ext.attention.kernels import has_xformers
from fatezero_ext.storage.disk_cache.cache import InversionCache

GOALS = {"H200": 5.0, "H100": 7.0}
"""Seconds of a whole job by the card's name."""
MOST_INVERSION, MOST_EDIT = 1.03, 1.05
"""Of the bare loop."""
A_JOB = 5.0
"""Seconds that a job of 8 frames is thought to take on an H100, for the estimates."""
ON_GPU = Storage("features", "gpu")


def headline(bench: Bench) -> None:
    """Job and bare loop in turn, attention kept on the device; then the edit with masks."""
    scene, subject = bench.scene, bench.scene.subject()
    noise = torch.randn_like(subject.latents)
    ours: dict[str, list[Measured]] = {"inversion": [], "edit": []}
    bare: dict[str, list[Measured]] = {"inversion": [], "edit": []}
    subject.bare_edit(noise)  # to warm up
    scene.edited(scene.inverted(ON_GPU, steps=bench.scale.few))
    for pair in range(bench.scale.pairs):
        if pair and not bench.has(2 * A_JOB, f"pair {pair + 1} of the whole job"):
            break
        turns = [lambda: _job(scene, ours), lambda: _bare(bench, subject, noise, bare)]
        for turn in turns if pair % 2 else reversed(turns):
            turn()
    for name in ours:
        bench.keep(name, _pairs(ours[name], bare[name]))
    _say_headline(bench)
    if bench.has(2 * A_JOB, "the edit with masks"):
        controller = scene.inverted(ON_GPU)
        scene.edited(controller, "shape")
        masked = measured(bench.device, lambda: scene.edited(controller, "shape")).figures()
        masked["ratio"] = masked["s"] / median(one.seconds for one in bare["edit"])
        bench.keep("edit with masks", masked)
        bench.line("edit with masks", f"{masked['s']:.2f} s, {masked['ratio']:.3f} of the bare loop", f"<= {MOST_EDIT}")


def _job(scene: Scene, into: dict[str, list[Measured]]) -> None:
    device = scene.scale.device
    inversion = measured(device, lambda: scene.inverted(ON_GPU))
    edited = measured(device, lambda: scene.edited(inversion.result))
    into["inversion"].append(_without_result(inversion))
    into["edit"].append(_without_result(edited))


def _bare(bench: Bench, subject: object, noise: torch.Tensor, into: dict[str, list[Measured]]) -> None:
    into["inversion"].append(_without_result(measured(bench.device, subject.bare_inversion)))
    into["edit"].append(_without_result(measured(bench.device, lambda: subject.bare_edit(noise))))


def _without_result(one: Measured) -> Measured:
    """A store that is held would count in the peaks of what follows."""
    return Measured(None, one.seconds, one.allocated, one.reserved)


def _pairs(ours: list[Measured], bare: list[Measured]) -> dict[str, object]:
    pairs = list(zip(ours, bare, strict=True))
    figures: dict[str, object] = {
        "s": median(one.seconds for one in ours),
        "bare_s": median(one.seconds for one in bare),
        "ratio": median(mine.seconds / its.seconds for mine, its in pairs),
        "runs": [one.figures() for one in ours],
        "bare_runs": [one.figures() for one in bare],
    }
    if ours[0].allocated is not None:
        figures |= {"peak_allocated": max(one.allocated for one in ours)}
        figures |= {"bare_peak_allocated": max(one.allocated for one in bare)}
        figures["peak_ratio"] = figures["peak_allocated"] / figures["bare_peak_allocated"]
    return figures


def _say_headline(bench: Bench) -> None:
    found, card = bench.part.figures, str(bench.report.machine["gpu"])
    whole = found["inversion"]["s"] + found["edit"]["s"]
    bench.keep("whole job, s", whole)
    goals = [f"<= {most:g} s" for name, most in GOALS.items() if name in card]
    bench.line("whole job, features on the gpu", f"{whole:.2f} s", *goals)
    for name, most in (("inversion", MOST_INVERSION), ("edit", MOST_EDIT)):
        one = found[name]
        bench.line(name, f"{one['s']:.2f} s, {one['ratio']:.3f} of the bare loop", f"<= {most}")
        peaks = (gib(one.get("peak_allocated")), gib(one.get("bare_peak_allocated")))
        bench.line(f"{name}, peak memory", f"{peaks[0]}, bare loop {peaks[1]}")


def storages(bench: Bench) -> None:
    """Where attention is kept, each beside the device's own memory; and how far the edits differ."""
    scene = bench.scene
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        ways = {
            "features on the gpu": (ON_GPU, A_JOB),
            "features in ram": (Storage("features", "ram"), 3 * A_JOB),
            "recompute": (Storage("recompute"), 2 * A_JOB),
            "int8 features on the gpu": (Storage("features", "gpu", "int8"), 2 * A_JOB),
            "features on disk": (Storage("features", "disk", cache=InversionCache(Path(folder) / "cache")), 8 * A_JOB),
        }
        wanted = None
        for name, (storage, estimate) in ways.items():
            if bench.has(estimate, name):
                edited = _one_job(bench, scene, name, storage)
                wanted = edited if wanted is None else wanted
                bench.keep(f"{name}, edit differs by", relative(edited, wanted))


def _one_job(bench: Bench, scene: Scene, name: str, storage: Storage, frames: int | None = None) -> torch.Tensor:
    """One job's figures; returns the edited latents."""
    inversion = measured(bench.device, lambda: scene.inverted(storage, frames=frames))
    kept: Controller = inversion.result
    edited = measured(bench.device, lambda: scene.edited(kept))
    figures = {"inversion": inversion.figures(), "edit": edited.figures(), "kept_bytes": kept.trace.nbytes}
    bench.keep(name, figures)
    peak = max(inversion.allocated or 0, edited.allocated or 0)
    bench.line(
        name,
        f"{inversion.seconds:.2f} + {edited.seconds:.2f} s, peak {gib(peak or None)}, keeps {gib(kept.trace.nbytes)}",
    )
    return edited.result.latents


def lengths_and_kernels(bench: Bench) -> None:
    """xformers where it is there; then longer clips beside the bare loop, whose time grows with them."""
    usual = bench.scale.frames[0]
    other = "xformers" if has_xformers(bench.device) else "sliced" if bench.scale.tiny else None
    if other is None:
        bench.line("xformers", "left out: it is not installed")
    elif bench.has(2 * A_JOB, other):
        with _one_refusal(bench, other):
            scene = bench.scene.with_kernel(other)
            scene.edited(scene.inverted(ON_GPU, steps=bench.scale.few))
            _one_job(bench, scene, other, ON_GPU)
    for frames in bench.scale.frames[1:]:
        with _one_refusal(bench, f"{frames} frames"):
            if bench.has(2.2 * A_JOB * frames / usual, f"{frames} frames"):
                _longer(bench, frames)


@contextmanager
def _one_refusal(bench: Bench, name: str) -> Iterator[None]:
    """What does not fit this card or this build is said, and the rest goes on."""
    try:
        yield
    except (RuntimeError, ValueError, NotImplementedError, ImportError) as error:
        if bench.scale.tiny:  # it fits everywhere: the program itself is wrong
            raise
        bench.keep(f"{name}, refused", f"{type(error).__name__}: {error}"[-500:])
        bench.line(name, f"refused: {type(error).__name__}")


def _longer(bench: Bench, frames: int) -> None:
    name = f"{frames} frames"
    _one_job(bench, bench.scene, name, ON_GPU, frames)
    subject = bench.scene.subject(frames)
    inversion = measured(bench.device, subject.bare_inversion)
    edited = measured(bench.device, lambda: subject.bare_edit(torch.randn_like(subject.latents)))
    bench.keep(f"{name}, bare loop", {"inversion": inversion.figures(), "edit": edited.figures()})
    ours = bench.part.figures[name]
    ratios = [ours["inversion"]["s"] / inversion.seconds, ours["edit"]["s"] / edited.seconds]
    bench.keep(f"{name}, ratios", ratios)
    bench.line(f"{name} of the bare loop", f"{ratios[0]:.3f}, {ratios[1]:.3f}", f"<= {MOST_INVERSION}, {MOST_EDIT}")


def pictures(bench: Bench) -> None:
    """The VAE on its own: frames to latents and back."""
    vae, scale = bench.scene.model.vae, bench.scale
    side = scale.side * vae.pixels_per_cell
    frames = torch.rand(scale.frames[0], side, side, 3, generator=torch.Generator().manual_seed(0))
    latents = bench.scene.clip()
    for name, run in (("encode", lambda: vae.encode(frames)), ("decode", lambda: vae.decode(latents))):
        took = seconds(bench.device, run, scale.pairs)
        peak = measured(bench.device, run)
        bench.keep(name, {**peak.figures(), "s": took})
        bench.line(
            f"VAE {name}, {scale.frames[0]} frames of {side}x{side}", f"{took:.2f} s, peak {gib(peak.allocated)}"
        )
