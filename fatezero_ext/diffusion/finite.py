"""Checks for results that are not finite: before anything of them is stored, with their likely cause."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from ..errors import ModelError
from .noise_model import NoiseModel

FAR_OUT = 100.0  # raw or scaled, a VAE's latents reach about 30; an overflow begins with larger ones
FAR_OUT_GUIDANCE = 100.0  # as far as the node's widget goes


def check_result(unet: NoiseModel, x: Tensor, name: str, *, given: Tensor, guidance: float = 1.0) -> None:
    """Raise ModelError unless all numbers of a result are finite, naming the likely cause. Waits for the device.

    x, given: the result, and the latents that the run began with
    name:     of the run, such as "the inversion"
    """
    if not x.isfinite().all():
        raise ModelError(
            f"{name} with {unet.name} gives latents that are not finite (NaN or infinite); numbers are needed. "
            f"{_causes(unet, given, guidance)}"
        )


def watched(x: Tensor, *, last: bool) -> bool:
    """Return whether to check a step's latents: each on a CPU; on other devices the last, for a check waits for them.

    Latents that are not finite stay so in every later step.
    """
    return last or not runs_ahead(x.device)


def runs_ahead(device: torch.device) -> bool:
    """Return whether a device computes while the program goes on, so that a look at its results waits for it."""
    return device.type != "cpu"


def broken_weights(named: Iterable[tuple[str, Tensor]]) -> str:
    """Return the part of an error about weights that are not finite, '' if all are."""
    there = ((name, x) for name, x in named if x.is_floating_point() and x.device.type != "meta")
    broken = [name for name, x in there if not x.float().isfinite().all()]
    if not broken:
        return ""
    more = f" and {len(broken) - 1} more" if len(broken) > 1 else ""
    return (
        f"Its weights hold such values themselves ({broken[0]}{more}): the file is damaged or was merged badly. Load "
        f"an undamaged one."
    )


@torch.no_grad()
def _causes(unet: NoiseModel, given: Tensor, guidance: float) -> str:
    """Name all likely causes, the most certain first."""
    if broken := broken_weights(unet.weights()):
        return broken
    causes, peak = [], given.abs().max().item()
    if not peak <= FAR_OUT:
        causes.append(f"The latents given reach {peak:.3g}; encode the frames with this model's own VAE, in float32.")
    if guidance > FAR_OUT_GUIDANCE:
        causes.append(f"Guidance is {guidance:g}; 5 to 10 suit most edits.")
    if unet.attend is not unet.kernel:
        causes.append("A registered controller takes part; see that it gives numbers, or unregister it.")
    if unet.dtype == torch.float16:
        causes.append(
            "The model computes in float16, which ends at 65504; load it in bfloat16 or float32 (precision of Load "
            "Stable Diffusion for Video; --bf16-unet or --fp32-unet of ComfyUI for its own MODEL)."
        )
    if not causes:
        causes.append(
            "The model may predict something else than its schedule says; set its prediction (epsilon or "
            "v_prediction) as it was trained."
        )
    return " ".join(causes)
