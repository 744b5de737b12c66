"""VMAF of an edit against its source where nothing was to change, by an ffmpeg program that has libvmaf."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from ..media.video import to_bytes
from .clip_pairs import NotMeasured, optional_module

PACKAGE = "imageio-ffmpeg"
"""Package of the program; an extra that may be missing."""
LEAST_SIDE = 32
"""Pixels; libvmaf breaks down on frames of 16."""
SECONDS_PER_FRAME, SECONDS_TO_START = 5, 30
"""Bound of the program's time, far above what it needs."""
FILTER = (
    "[0:v]format=yuv420p[edited];[1:v]format=yuv420p[source];[edited][source]libvmaf=log_fmt=json:log_path=vmaf.json"
)


def vmaf_score(source: Tensor, edited: Tensor, compared: Tensor) -> float:
    """Compute the mean VMAF of an edit's frames, 0..100; the source's pixels stand in where nothing is compared.

    source, edited: [frames, height, width, 3], 0..1
    compared:       booleans [frames, height, width]
    Raises NotMeasured where the program is missing, lacks libvmaf, fails or takes too long, or the clips cannot be
    written for it.
    Source: Netflix, VMAF v0.6.1, libvmaf's default model.
    """
    height, width = source.shape[1:3]
    if min(height, width) < LEAST_SIDE:
        raise NotMeasured(f"it needs sides of at least {LEAST_SIDE} pixels")
    program = _program()
    try:
        with TemporaryDirectory(prefix="fatezero_vmaf_") as name:
            folder = Path(name)
            _write(folder / "source.rgb", source)
            _write(folder / "edited.rgb", edited, source, compared)
            _run(program, folder, f"{width}x{height}", SECONDS_TO_START + SECONDS_PER_FRAME * len(source))
            return _score(folder / "vmaf.json")
    except OSError as error:  # full, or not to be written to
        raise NotMeasured(f"its temporary files cannot be written: {error.strerror or error}") from error


def _program() -> str:
    imageio_ffmpeg = optional_module("imageio_ffmpeg", PACKAGE)
    try:
        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except RuntimeError as error:
        raise NotMeasured(f"{PACKAGE} found no ffmpeg: {error}") from error


def _write(path: Path, clip: Tensor, instead: Tensor | None = None, compared: Tensor | None = None) -> None:
    """Write a clip's frames as raw RGB, one by one; where a pixel is not compared, that of `instead`."""
    with path.open("wb") as file:
        for place in range(len(clip)):
            frame = clip[place].to("cpu", torch.float32)
            if instead is not None and compared is not None:
                frame = torch.where(compared[place, ..., None], frame, instead[place].to(frame))
            file.write(to_bytes(frame[None]).tobytes())


def _run(program: str, folder: Path, size: str, seconds: float) -> None:
    """Let ffmpeg write `vmaf.json` in the folder; its working folder, because filters cannot take every path."""
    raw = ["-f", "rawvideo", "-pixel_format", "rgb24", "-video_size", size, "-framerate", "25"]
    inputs = [*raw, "-i", "edited.rgb", *raw, "-i", "source.rgb"]
    call = [program, "-nostdin", "-hide_banner", "-v", "error", *inputs, "-lavfi", FILTER, "-f", "null", "-"]
    try:
        done = subprocess.run(call, cwd=folder, capture_output=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired as error:
        raise NotMeasured(f"ffmpeg took more than {seconds:.0f} seconds") from error
    except OSError as error:
        raise NotMeasured(f"ffmpeg cannot be started: {error}") from error
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise NotMeasured(f"ffmpeg failed: {said[0] if said else f'exit code {done.returncode}'}")


def _score(log: Path) -> float:
    try:
        return float(json.loads(log.read_text())["pooled_metrics"]["vmaf"]["mean"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise NotMeasured("ffmpeg's libvmaf left no score") from error
