"""Training in a few single-threaded processes that average their gradients once a step.

On a CPU the model is too small for OpenMP threads to pay: one process per core with one all-reduce is several times
faster.
"""

import tempfile
from collections.abc import Callable, Iterable
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

PATIENCE = timedelta(days=7)
"""Time that processes wait for each other: a run in the background of a busy machine may stand still for hours."""


def launch(work: Callable[..., None], workers: int, *args: object) -> None:
    """Call `work(rank, workers, *args)` in that many processes and wait; one worker runs in this process.

    work: a module-level function; it may call `average_gradients`
    """
    if workers == 1:
        work(0, 1, *args)
        return
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_start, (work, workers, str(Path(folder) / "rendezvous"), *args), nprocs=workers)


def average_gradients(parameters: Iterable[Tensor]) -> None:
    """Replace every gradient by its mean over the processes, in one message. Missing gradients count as zero."""
    if not dist.is_initialized():
        return
    owners = list(parameters)
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in owners]
    message = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(message)
    message /= dist.get_world_size()
    for owner, part in zip(owners, message.split([g.numel() for g in gradients]), strict=True):
        owner.grad = part.view_as(owner)


def wait_for_all() -> None:
    """Return once every process has come here."""
    if dist.is_initialized():
        dist.barrier()


def _start(rank: int, work: Callable[..., None], workers: int, rendezvous: str, *args: object) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=workers, timeout=PATIENCE)
    try:
        work(rank, workers, *args)
    finally:
        dist.destroy_process_group()
