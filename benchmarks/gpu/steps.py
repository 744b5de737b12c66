"""One step of an inversion and one of an edit under torch's profiler, and the UNet's calls on their own."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any
from unittest.mock import patch

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.meter import finish, seconds
from benchmarks.gpu.scene import random_unet
from fatezero_ext import Storage
from fatezero_ext.diffusion import finite
from fatezero_ext.inversion.guided_prediction import OnStep, StepDone

SHOWN = 25
FIRST = 1
"""The window begins when so many steps are done."""
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cudaMemcpy", "aten::item",
         "aten::_local_scalar_dense", "aten::nonzero", "aten::is_nonzero", "aten::equal")  # fmt: skip
"""Runtime calls and operators for which the computer waits. The window itself ends with one synchronisation."""


class Enough(Exception):
    """Ends a run after its window."""


def run(bench: Bench) -> None:
    """Kernels, waits, launches and idle time of a step; with records on the device and in the computer's memory."""
    scene = bench.scene
    for place in ("gpu", "ram"):
        storage = Storage("features", place)
        controller = scene.inverted(storage, steps=bench.scale.few)
        runs = {
            "inversion": lambda on, s=storage: scene.inverted(s, steps=bench.scale.few, on_step=on),
            "edit": lambda on, c=controller: scene.edited(c, on_step=on),
            "edit with masks": lambda on, c=controller: scene.edited(c, "shape", on_step=on),
        }
        for name, steps in runs.items():
            if place == "gpu" or name != "edit with masks":
                _step(bench, f"{name}, {place}", steps)
    _calls(bench)


def _step(bench: Bench, name: str, steps: Callable[[OnStep], object]) -> None:
    plain = _window(bench, steps, lambda: None, lambda: None, count=bench.scale.few - FIRST - 1)
    watched: Any = _profile(bench)
    with ExitStack() as stopped:  # also where the step fails or is interrupted

        def start() -> None:
            watched.start()
            stopped.callback(watched.stop)

        _window(bench, steps, start, stopped.close, count=1)
    figures = {"step_ms": plain * 1000, **_read(watched, on_gpu=bench.device.type == "cuda")}
    bench.keep(name, figures)
    waits = sum(figures["waits"].values())
    busy = f", {figures['device_ms']:.1f} ms of it on the device" if "device_ms" in figures else ""
    bench.line(
        f"a step of {name}", f"{figures['step_ms']:.1f} ms{busy}, {waits} waits", "1 or 2 waits: the window's own"
    )


def _profile(bench: Bench) -> profile:
    on_gpu = bench.device.type == "cuda"
    return profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])])


def _window(
    bench: Bench, steps: Callable[[OnStep], object], start: Callable[[], None], stop: Callable[[], None], count: int
) -> float:
    """Seconds a step of `count` steps behind the first ones, the device idle before and after; the run ends there."""
    began: list[float] = []
    took: list[float] = []

    def on_step(step: StepDone) -> None:
        if step.done == FIRST:
            finish(bench.device)
            start()
            began.append(time.perf_counter())
        elif step.done == FIRST + count:
            finish(bench.device)
            took.append(time.perf_counter() - began[0])
            stop()
            raise Enough

    # A CPU's results are looked at after each step, which waits for nothing there; elsewhere only the last one is.
    with patch.object(finite, "runs_ahead", lambda _device: True), suppress(Enough):
        steps(on_step)
    return took[0] / count


def _read(watched: profile, *, on_gpu: bool) -> dict[str, Any]:
    """Kernels that take most, runtime calls, waits, copies; ms."""
    averages = list(watched.key_averages())
    on_device = [one for one in averages if "CUDA" in str(one.device_type)]
    time_of = (lambda one: one.self_device_time_total) if on_gpu else (lambda one: one.self_cpu_time_total)
    ranked = sorted(on_device if on_gpu else averages, key=time_of, reverse=True)
    figures = {
        "top": [[one.key[:120], one.count, round(time_of(one) / 1000, 4)] for one in ranked[:SHOWN]],
        "waits": {one.key: one.count for one in averages if one.key in WAITS},
        "calls": {one.key: one.count for one in averages if one.key.startswith(("cuda", "cuLaunch"))},
        "copies": {one.key: one.count for one in averages if one.key.startswith(("Memcpy", "Memset"))},
    }
    if on_gpu:
        figures["device_ms"] = sum(one.self_device_time_total for one in on_device) / 1000
        figures["kernels"] = sum(one.count for one in on_device)
    return figures


def _calls(bench: Bench) -> None:
    """One call of one and of two texts: this UNet without control, and diffusers' own as it comes."""
    scale, unet = bench.scale, bench.scene.model.unet
    subject = bench.scene.subject(steps=scale.few)
    frames, texts = scale.frames[0], subject.texts
    plain = random_unet(scale)
    timestep = torch.tensor(501, device=scale.device)
    for chunks in (1, 2):
        x = subject.latents.repeat(chunks, 1, 1, 1).to(scale.dtype)
        text = texts[-chunks:].to(scale.dtype)
        each = text.repeat_interleave(frames, 0)
        with torch.no_grad():
            ours = seconds(bench.device, lambda: unet(x, timestep, text, frames=frames), scale.calls)  # noqa: B023
            other = seconds(bench.device, lambda: plain(x, timestep, each, return_dict=False), scale.calls)  # noqa: B023
        bench.keep(f"a call of {chunks} x {frames} frames", {"ms": ours * 1000, "2d_ms": other * 1000})
        label = f"a call of {chunks} x {frames} frames"
        bench.line(label, f"{ours * 1000:.1f} ms; diffusers' 2-D UNet, own frames only: {other * 1000:.1f} ms")
