"""Memory and time of tuning: bytes planned against bytes held, and seconds a step.

    python -m benchmarks.tuning --frames 8 --side 256 --steps 2             # Stable Diffusion 1.x shape, random weights
    python -m benchmarks.tuning --plan --dtype float16                      # the plan alone, without any weights

On a GPU the peak is torch's; on a CPU that of the process beyond what it held before, read every 5 ms.
"""

from __future__ import annotations

import argparse
import json
import threading
import time

import psutil
import torch
from diffusers.models import UNet2DConditionModel

from fatezero_ext.models.unet.inflate import InflationSettings, TemporalLayers
from fatezero_ext.models.unet.model import Pseudo3DUNet
from fatezero_ext.tuning.draws import RandomDraws
from fatezero_ext.tuning.planned_memory import planned_memory
from fatezero_ext.tuning.settings import TuningSettings
from fatezero_ext.tuning.training import Lesson, Training

SAMPLING = 0.005  # seconds between readings of the process's memory
SD1 = {
    "sample_size": 64,
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
}


class Peak:
    """The most memory that is held within a block beyond what was held before it."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.nbytes, self._done = device, 0, threading.Event()

    def __enter__(self) -> Peak:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            self._before = torch.cuda.memory_allocated()
        else:
            self._process = psutil.Process()
            self._before = self._process.memory_info().rss
            self._watch = threading.Thread(target=self._look)
            self._watch.start()
        return self

    def _look(self) -> None:
        while not self._done.wait(SAMPLING):
            self.nbytes = max(self.nbytes, self._process.memory_info().rss - self._before)

    def __exit__(self, *_error: object) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
            self.nbytes = torch.cuda.max_memory_allocated() - self._before
        else:
            self._done.set()
            self._watch.join()


def unet_of(device: torch.device, dtype: torch.dtype) -> Pseudo3DUNet:
    """Make a UNet of Stable Diffusion 1.x shape with random weights."""
    with torch.device(device):
        net = UNet2DConditionModel(**SD1)
    return Pseudo3DUNet(torch.nn.Module.to(net, dtype), InflationSettings(), name="Stable Diffusion 1.x")


def main() -> None:
    """Run the program."""
    grammar = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    grammar.add_argument("--frames", type=int, default=8)
    grammar.add_argument("--side", type=int, default=512, help="pixels")
    grammar.add_argument("--steps", type=int, default=2)
    grammar.add_argument("--rank", type=int, default=160)
    grammar.add_argument("--dtype", choices=["float32", "float16", "bfloat16"])
    grammar.add_argument("--keep-activations", action="store_true", help="no gradient checkpointing")
    grammar.add_argument("--plan", action="store_true", help="the plan alone")
    options = grammar.parse_args()
    device = torch.device("meta" if options.plan else "cuda" if torch.cuda.is_available() else "cpu")
    dtype = getattr(torch, options.dtype or ("float16" if device.type == "cuda" else "float32"))
    unet, cells = unet_of(device, dtype), options.side // 8
    settings = TuningSettings(
        temporal=TemporalLayers(rank=options.rank), gradient_checkpointing=not options.keep_activations
    )
    planned = planned_memory(unet, settings, options.frames, cells, cells)
    said = {"frames": options.frames, "side": options.side, "dtype": str(dtype), "planned": str(planned)}
    said |= {"planned_bytes": planned.nbytes, "weights_of_the_model": sum(x.nbytes for x in unet.net.parameters())}
    if not options.plan:
        said |= trained(unet, settings, options, cells, device)
    print(json.dumps(said, indent=1))


def trained(
    unet: Pseudo3DUNet, settings: TuningSettings, options: argparse.Namespace, cells: int, device: torch.device
) -> dict[str, object]:
    """Train on a clip of noise; bytes held, and seconds of each step."""
    latents = torch.randn(options.frames, 4, cells, cells, device=device)
    clip = Lesson(latents, torch.randn(1, 77, 768, device=device))
    seconds = []
    with Peak(device) as peak:
        training = Training(unet, settings, RandomDraws(0, 1000), clip=clip)
        for _ in range(options.steps):
            began = time.perf_counter()
            training.step()
            seconds.append(time.perf_counter() - began)
    return {"held_bytes": peak.nbytes, "seconds": seconds, "losses": training.losses, "device": str(device)}


if __name__ == "__main__":
    main()
