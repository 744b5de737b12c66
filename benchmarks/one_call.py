"""Self-attention fused under a binary mask: two attention calls and a choice, against one call of doubled head width.

One call takes queries [m Qe, (1 - m) Qs] and keys [Ke, Ks] side by side. It is exact, but not what the edits use: it is
slower at the head widths of Stable Diffusion.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.clocks import in_turn
from benchmarks.machine import described, write_json

SHAPES = {  # frames, heads, cells, head width
    "reference model, 32x32 cells": (4, 2, 1024, 24),
    "SD 1.5, 32x32 cells": (8, 8, 1024, 80),
    "SD 1.5, 16x16 cells": (8, 8, 256, 160),
}


def two_calls(q: Tensor, k: Tensor, kept_q: Tensor, kept_k: Tensor, v: Tensor, free: Tensor) -> Tensor:
    """q, kept_q: [frames, heads, cells, dim]; k, kept_k, v: [frames, heads, keys, dim]; free: [frames, 1, cells, 1]."""
    own, kept = F.scaled_dot_product_attention(q, k, v), F.scaled_dot_product_attention(kept_q, kept_k, v)
    return torch.where(free, own, kept, out=own)


def one_call(q: Tensor, k: Tensor, kept_q: Tensor, kept_k: Tensor, v: Tensor, free: Tensor) -> Tensor:
    """The same in one call; values are padded, since fused kernels want them as wide as the keys."""
    dim, allowed = q.shape[-1], free.to(q.dtype)
    queries = torch.cat([q * allowed, kept_q * (1 - allowed)], dim=-1)
    keys, values = torch.cat([k, kept_k], dim=-1), F.pad(v, (0, dim))
    return F.scaled_dot_product_attention(queries, keys, values, scale=dim**-0.5)[..., :dim]


def main() -> None:
    """Print the table and, with --json, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    table = Table(title=f"one call over two calls, {described()['gpu'] or described()['processor']}")
    for column in ("layer", "time ratio", "differs"):
        table.add_column(column, justify="left" if column == "layer" else "right")
    figures = {}
    for name, (frames, heads, cells, dim) in SHAPES.items():
        generator = torch.Generator().manual_seed(0)
        q, kept_q = (torch.randn(frames, heads, cells, dim, generator=generator) for _ in range(2))
        k, kept_k, v = (torch.randn(frames, heads, 2 * cells, dim, generator=generator) for _ in range(3))
        free = torch.rand(frames, 1, cells, 1, generator=generator) > 0.7
        given = [x.to(options.device, getattr(torch, options.dtype)) for x in (q, k, kept_q, kept_k, v)]
        given.append(free.to(options.device))
        one, two = one_call(*given), two_calls(*given)
        ratio = in_turn(lambda: one_call(*given), lambda: two_calls(*given), options.pairs)  # noqa: B023
        differs = ((one - two).norm() / two.norm()).item()
        table.add_row(name, f"{ratio.median:.2f}", f"{differs:.0e}")
        figures[name] = {**ratio.figures(), "differs": differs}
    console = Console()
    console.print(table)
    worst = max(figures, key=lambda name: figures[name]["ratio"])
    console.print(f"one call takes {figures[worst]['ratio']:.2f} of the time of two for {worst}")
    settings = {name: value for name, value in vars(options).items() if name != "json"}
    write_json(options.json, {"settings": settings, "figures": figures})


if __name__ == "__main__":
    main()
