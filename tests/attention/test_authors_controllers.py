"""The authors' own controllers on our base classes, with nothing of theirs changed but what they import.

Their program is not part of this one: the tests run where FATEZERO_CHECKOUT names a checkout of it.
"""

import contextlib
import importlib
import io
import os
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest
import torch

from fatezero_ext import Capture, register_attention_control
from fatezero_ext.attention import controller_bases
from fatezero_ext.diffusion.schedule import Schedule
from fatezero_ext.editing.loop import edit_latents
from fatezero_ext.editing.plan import compile_edit, mask_layers
from fatezero_ext.inversion.loop import NO_RECORDING, invert_latents
from fatezero_ext.prompts.prompt import read_prompt

from ..conftest import STYLE_RUN, frames_first, relative
from ..golden_runs import INVERSIONS, RUNS, SOURCE, inverted, thinned
from ..small_runs import named

__all__ = ["inverted"]
NAME = "FATEZERO_CHECKOUT"
CHECKOUT = os.environ.get(NAME)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHECKOUT, reason=f"{NAME} names no checkout of the authors' repository"),
]
PACKAGE = "video_diffusion.prompt_attention"
UNCONTROLLED = named(cross_replace=0.0, self_replace=0.0, guidance=7.5)


def stand_in(name, **contents):
    module = ModuleType(name)
    vars(module).update(contents)
    return module


@pytest.fixture(scope="module")
def theirs():
    """Their `attention_util`, whose base classes are ours; what only draws or reads YAML is left out."""
    config = stand_in("omegaconf.dictconfig", DictConfig=dict)
    replaced = [
        stand_in(f"{PACKAGE}.attention_store", **vars(controller_bases)),
        stand_in(f"{PACKAGE}.attention_register", register_attention_control=register_attention_control),
        stand_in(f"{PACKAGE}.visualization", show_cross_attention=None, show_self_attention_comp=None),
        stand_in("cv2", FONT_HERSHEY_SIMPLEX=0),
        stand_in("omegaconf", dictconfig=config),
        stand_in("torchvision.utils", save_image=lambda *_picture, **_how: None),
    ]
    replaced.append(stand_in("torchvision", utils=replaced[-1]))
    before = dict(sys.modules)
    sys.path.insert(0, str(Path(CHECKOUT).resolve()))
    sys.modules.update({module.__name__: module for module in replaced})
    try:
        yield importlib.import_module(f"{PACKAGE}.attention_util")
    finally:
        sys.path.pop(0)
        for name in set(sys.modules) - set(before):
            if name.split(".")[0] in ("video_diffusion", "cv2", "omegaconf", "torchvision"):
                del sys.modules[name]


@pytest.fixture(scope="module")
def stored(golden, model):
    """name, disk -> (unet, the store that was registered, the inversion)."""

    @cache
    def run(name, disk):
        unet = golden.unet(STYLE_RUN if "style" in name else None, tuned="tuned" in name)
        tensors, store = golden.tensors(f"{name}/latents"), controller_bases.AttentionStore(disk_store=disk)
        with register_attention_control(unet, store, clip_axes=True):
            trace = invert_latents(
                unet,
                frames_first(tensors["latents_input"]),
                tensors["text_source"],
                read_prompt(model.text_encoder, SOURCE),
                Schedule.from_config(None, INVERSIONS[name]),
                capture=Capture(),
                recording=NO_RECORDING,
            )
        return unet, store, trace

    return run


def authors_controller(theirs, tokenizer, described, store, disk, folder):
    """Their controller of a reference run, made by their `make_controller`."""
    config = dict(described["p2p_config"])
    with contextlib.redirect_stdout(io.StringIO()):
        return theirs.make_controller(
            tokenizer,
            [described["source_prompt"], described["edit_prompt"]],
            is_replace_controller=config.pop("is_replace_controller"),
            equilizer_params=config.pop("eq_params", None),
            additional_attention_store=store,
            use_inversion_attention=True,
            NUM_DDIM_STEPS=described["num_inference_steps"],
            save_path=str(folder),
            disk_store=disk,
            **config,
        )


def denoised(unet, trace, plan, text):
    levels = []
    edit_latents(unet, trace, plan, text, on_step=lambda step: levels.append(step.latents))
    return torch.stack(levels)


@pytest.mark.parametrize(("name", "disk"), [*((name, False) for name in RUNS), ("D2_latentblend_th065", True)])
def test_the_authors_controllers_on_our_bases_edit_as_we_do(
    theirs, stored, inverted, golden, model, tmp_path, name, disk, record_property
):
    described, tensors = golden.json(f"{name}/settings"), golden.tensors(f"{name}/edit")
    unet, store, trace = stored(described["inversion"], disk)
    edit, steps = read_prompt(model.text_encoder, described["edit_prompt"]), described["num_inference_steps"]
    text = torch.cat([tensors["text_uncond"], tensors["text_edit"]])
    control = authors_controller(theirs, model.text_encoder.tokenizer, described, store, disk, tmp_path)
    with register_attention_control(unet, control, clip_axes=True):
        plan = compile_edit(replace(UNCONTROLLED, mode=RUNS[name].mode), trace.prompt, edit, steps)
        got = denoised(unet, trace, plan, text)
    our_unet, our_trace = inverted(described["inversion"])
    our_layers = mask_layers(RUNS[name], our_unet, our_trace)
    ours = denoised(our_unet, our_trace, compile_edit(RUNS[name], our_trace.prompt, edit, steps, our_layers), text)
    wanted = tensors["latents_after_step.thinned"]
    figures = {
        "largest difference to ours": (got - ours).abs().max().item(),
        "relative to ours": max(relative(*pair) for pair in zip(got, ours, strict=True)),
        "relative to the reference": max(relative(*pair) for pair in zip(thinned(got), wanted, strict=True)),
        "ours to the reference": max(relative(*pair) for pair in zip(thinned(ours), wanted, strict=True)),
    }
    for figure, value in figures.items():
        record_property(figure, value)
    assert figures["relative to ours"] < 3e-4 and figures["relative to the reference"] < 3e-4, figures
