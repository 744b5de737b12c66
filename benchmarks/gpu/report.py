"""The report of a run: written anew after every figure, so that whatever ends the run leaves what was measured."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import torch

from fatezero_ext.atomic_files import whole_file

CHECKOUT = Path(__file__).parents[2]
PACKAGES = ("diffusers", "transformers", "safetensors", "einops", "xformers", "triton", "pytest", "rich")
ALLOCATOR = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")


@dataclass
class PartReport:
    """What one part gave.

    state:   "runs", "done", "failed" or "skipped"; reason: of the last two
    seconds: it took; estimate: on an H100, with why it is worth them
    figures: by name; lines: (label, figure, goal) for the table
    """

    name: str
    estimate: float
    why: str
    state: str = "runs"
    reason: str = ""
    seconds: float = 0.0
    figures: dict[str, object] = field(default_factory=dict)
    lines: list[tuple[str, str, str]] = field(default_factory=list)


@dataclass
class Report:
    """All parts, and the file they are written to (None: nowhere)."""

    path: Path | None
    settings: Mapping[str, object]
    machine: Mapping[str, object]
    parts: list[PartReport] = field(default_factory=list)

    def write(self) -> None:
        """Put what is known so far in place of the file, which is whole at any time."""
        if self.path is None:
            return
        parts = {part.name: {key: value for key, value in vars(part).items() if key != "name"} for part in self.parts}
        with whole_file(self.path) as unfinished:
            unfinished.write_text(
                json.dumps({"machine": self.machine, "settings": self.settings, "parts": parts}, indent=1) + "\n"
            )


def described(device: torch.device) -> dict[str, object]:
    """The machine, its versions, and what torch is set to."""
    on_gpu = device.type == "cuda"
    properties = torch.cuda.get_device_properties(device) if on_gpu else None
    return {
        "gpu": properties and properties.name,
        "gpu_bytes": properties and properties.total_memory,
        "gpu_capability": properties and f"{properties.major}.{properties.minor}",
        "driver": _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader") if on_gpu else None,
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if on_gpu else None,
        **{name: _version(name) for name in PACKAGES},
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "convolutions_in_tf32": torch.backends.cudnn.allow_tf32,
        "allocator": {name: os.environ[name] for name in ALLOCATOR if name in os.environ},
        "commit": _output("git", "-C", str(CHECKOUT), "describe", "--always", "--dirty"),
        "began": time.strftime("%Y-%m-%d %H:%M:%S %z"),
    }


def _version(package: str) -> str | None:
    try:
        return version(package) if find_spec(package) else None
    except PackageNotFoundError:
        return "unknown"


def _output(*command: str) -> str | None:
    """What a program says; None where there is no such program, or it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _processor() -> str:
    place = Path("/proc/cpuinfo")
    lines = place.read_text().splitlines() if place.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
