"""The digest of a full-size UNet's weights, beside SHA-256 of all their bytes.

The UNet has the shapes of Stable Diffusion 1.5 and random weights in half precision; where there is an accelerator
the digest is also taken of the weights lying there, and must be the same.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from benchmarks.machine import peak_rss, write_json
from fatezero_ext.digests import weights_digest

SD15 = {
    "sample_size": 64,
    "block_out_channels": (320, 640, 1280, 1280),
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
}


def weights_of_sd15() -> dict[str, Tensor]:
    """Random numbers in the shapes of Stable Diffusion 1.5's UNet, float16."""
    with torch.device("meta"):
        shapes = {name: x.shape for name, x in UNet2DConditionModel(**SD15).state_dict().items()}
    return {name: torch.randn(shape, dtype=torch.float16) for name, shape in shapes.items()}


def hashed(weights: Mapping[str, Tensor], threads: int) -> None:
    """SHA-256 of every tensor, in threads."""
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda x: sha256(x.view(-1).view(torch.uint8).numpy()).digest(), weights.values()))


def fastest(work: Callable[[], object], repeats: int) -> float:
    """Seconds that the fastest of several runs takes."""
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def main() -> None:
    """Print the seconds and, with --json, write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    weights, threads = weights_of_sd15(), torch.get_num_threads()
    before = peak_rss()
    figures = {"digest_seconds": fastest(lambda: weights_digest(weights), options.repeats)}
    figures["digest_bytes"] = peak_rss() - before
    figures["sha256_seconds"] = fastest(lambda: hashed(weights, threads), options.repeats)
    if torch.cuda.is_available():
        moved = {name: x.cuda() for name, x in weights.items()}
        assert weights_digest(moved) == weights_digest(weights)
        figures["accelerator_seconds"] = fastest(lambda: weights_digest(moved), options.repeats)
    nbytes = sum(x.nbytes for x in weights.values())
    for name, value in figures.items():
        print(f"{name:<22} {value:.3f}" if isinstance(value, float) else f"{name:<22} {value}")
    settings = {"tensors": len(weights), "bytes": nbytes, "threads": threads, "repeats": options.repeats}
    write_json(options.json, {"settings": settings, "figures": figures})


if __name__ == "__main__":
    main()
