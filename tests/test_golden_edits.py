"""Whole edits against the authors' program, at every step.

Tolerances are those at which the program agrees with itself on another number of threads, with room: edited latents
within a relative L2 of 3e-4.
"""

from itertools import product

import pytest
import torch

from fatezero_ext.editing.loop import edit_latents
from fatezero_ext.editing.plan import compile_edit, mask_layers
from fatezero_ext.prompts.words import read_prompt

from .conftest import THOROUGH, relative
from .golden_runs import RUNS, inverted, thinned

__all__ = ["inverted"]
pytestmark = pytest.mark.slow

USUAL_PAIRS = [
    *((name, "features") for name in RUNS),
    ("C2_shape_th065", "maps"),
    ("D2_latentblend_th065", "recompute"),
]
ALL_PAIRS = list(product(RUNS, ("features", "maps", "recompute")))


@pytest.mark.parametrize(("name", "policy"), ALL_PAIRS if THOROUGH else USUAL_PAIRS)
def test_edited_latents(golden, model, inverted, name, policy):
    described, tensors = golden.json(f"{name}/settings"), golden.tensors(f"{name}/edit")
    unet, trace = inverted(described["inversion"], policy)
    edit = read_prompt(model.text_encoder, described["edit_prompt"])
    levels = []
    edit_latents(
        unet,
        trace,
        compile_edit(RUNS[name], trace.prompt, edit, len(trace.schedule), mask_layers(RUNS[name], unet, trace)),
        torch.cat([tensors["text_uncond"], tensors["text_edit"]]),
        on_step=lambda step: levels.append(step.latents),
    )
    wanted = tensors["latents_after_step.thinned"]
    distances = [relative(got, reference) for got, reference in zip(thinned(torch.stack(levels)), wanted, strict=True)]
    assert max(distances) < 3e-4, distances
