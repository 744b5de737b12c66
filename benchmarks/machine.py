"""What a measurement ran on."""

from __future__ import annotations

import json
import platform
import resource
import sys
from importlib.metadata import version
from pathlib import Path

import torch

from fatezero_ext.atomic_files import whole_file

PACKAGES = ("torch", "diffusers", "transformers")
BYTES_PER_RSS_UNIT = 1 if sys.platform == "darwin" else 1024


def described() -> dict[str, object]:
    """Processor, accelerator and versions."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "gpu": gpu,
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
    }


def peak_rss() -> int:
    """Highest resident memory of this process so far, bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * BYTES_PER_RSS_UNIT


def write_json(path: Path | None, figures: dict[str, object]) -> None:
    """Write figures with the machine beside them; None: write nothing."""
    if path is not None:
        with whole_file(path) as unfinished:
            unfinished.write_text(json.dumps({"machine": described(), **figures}, indent=1) + "\n")


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
