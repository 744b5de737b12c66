"""Workflows with a mistake: the error names the node and the input, and says what to do; so does what ComfyUI shows."""

import re
from contextlib import contextmanager
from dataclasses import dataclass

import psutil
import pytest
import torch
from torch.nn.modules.module import register_module_forward_pre_hook

from fatezero_ext import load_model
from tests.comfyui.in_process import Executor, Give
from tests.comfyui.small_native import native_model
from tests.comfyui.workflows import COMPONENTS, EDIT, INVERT, KEEP, LATENTS, LOAD, REGISTER, STEPS, small_graph
from tests.conftest import GOLDEN

ENCODE, GIVE, ADDED = "4", "30", "31"
LONG = 5000  # frames

pytestmark = pytest.mark.usefixtures("loaded")


@dataclass(frozen=True)
class Mistake:
    """What is wrong, and what the page should be told.

    node, input: where
    says:        words of the message, in their order
    """

    node: str
    input: str
    says: str


@pytest.fixture(scope="module")
def executor(loaded):
    return Executor()


def with_value(node, name, value):
    graph = small_graph()
    graph[node]["inputs"][name] = value
    return graph


def without(node, name):
    graph = small_graph()
    del graph[node]["inputs"][name]
    return graph


def given(node, name, value):
    """The graph with an object of another node's making at an input."""
    Give.given[f"{node} {name} {len(Give.given)}"] = value
    graph = with_value(node, name, [GIVE, 0])
    return graph | {GIVE: {"class_type": "TestGive", "inputs": {"name": list(Give.given)[-1]}}}


def with_node(class_type, output_to, **inputs):
    """The graph with a further node whose first output goes to (node, input)."""
    graph = with_value(*output_to, [ADDED, 0])
    return graph | {ADDED: {"class_type": class_type, "inputs": inputs}}


def of_other_width(part):
    return getattr(load_model(GOLDEN / "model"), part)


def inpainting_model():
    model = native_model()
    model.model.diffusion_model.in_channels = 9
    return model


def load_frames(source):
    size = dict.fromkeys(("start", "crop_left", "crop_right", "crop_top", "crop_bottom"), 0)
    widgets = {"source": source, "count": 8, "sampling_rate": 1, "short_side": 64, "centre_square": True, "fps": 8.0}
    return with_node("FateZero_LoadFrames", (ENCODE, "pixels"), **size, **widgets)


def lora(name):
    widgets = {"unet": [LOAD, 0], "lora_name": name, "strength_unet": 1.0, "strength_text": 1.0}
    return with_node("FateZero_LoadLoRA", (REGISTER, "unet"), **widgets)


REFUSED = {
    "a checkpoint that is not there": (
        lambda: with_value(LOAD, "model", "gone.safetensors"),
        Mistake(
            LOAD, "model", "'gone.safetensors' is not there.*Choose one of these, or put it into models/checkpoints"
        ),
    ),
    "a folder of frames that is not there": (
        lambda: load_frames("gone"),
        Mistake(ADDED, "source", "no folder and no file 'gone'.*Correct the name, or copy the clip there"),
    ),
    "a folder outside the input folder": (
        lambda: load_frames("../fatezero_ext"),
        Mistake(ADDED, "source", "outside the input folder.*Copy the clip there"),
    ),
    "a socket without a link": (lambda: without(INVERT, "latent"), Mistake(INVERT, "latent", "latent")),
    "a controller without a link": (lambda: without(EDIT, "controller"), Mistake(EDIT, "controller", "controller")),
    "latents where a controller belongs": (
        lambda: with_value(INVERT, "controller", [ENCODE, 0]),
        Mistake(INVERT, "controller", "LATENT.*FATEZERO_CONTROLLER"),
    ),
    "a vae where a unet belongs": (
        lambda: with_value(REGISTER, "unet", [LOAD, 2]),
        Mistake(REGISTER, "unet", "VAE.*FATEZERO_UNET,MODEL"),
    ),
    "no steps": (lambda: with_value(INVERT, "steps", 0), Mistake(INVERT, "steps", "0 smaller than min of 1")),
    "negative guidance": (lambda: with_value(EDIT, "guidance", -1.0), Mistake(EDIT, "guidance", "smaller than min")),
    "a threshold above one": (
        lambda: with_value(EDIT, "blend_threshold", 2.0),
        Mistake(EDIT, "blend_threshold", "2.0 bigger than max of 1.0"),
    ),
    "a window that ends before it starts": (
        lambda: with_value(EDIT, "cross_replace_start", 0.9),
        Mistake(EDIT, "cross_replace_start", "cross_replace is 0.9 to 0.8.*start <= end.*Use for example"),
    ),
    "an equalizer without a number": (
        lambda: with_value(EDIT, "equalizer", "circle"),
        Mistake(EDIT, "equalizer", "equalizer has 'circle'.*Write 'watercolor: 10'"),
    ),
    "a prompt of more words than tokens fit": (
        lambda: with_value(INVERT, "source_prompt", "a red circle " * 40),
        Mistake(INVERT, "source_prompt", "source prompt: .*120 words.*77 fit. Shorten"),
    ),
    "an unknown key frame": (
        lambda: with_value(LOAD, "key_frames", "frist"),
        Mistake(LOAD, "key_frames", "unknown key frame 'frist'.*first, mid, middle, last. Write"),
    ),
}


NOT_ON_THE_LIST = {
    "a lora that is not there": (lambda: lora("gone.safetensors"), Mistake(ADDED, "lora_name", "not in .*none")),
    "a video that is not there": (
        lambda: with_node("LoadVideo", (COMPONENTS, "video"), file="gone.mp4"),
        Mistake(ADDED, "file", "gone.mp4"),
    ),
    "an unknown mode": (lambda: with_value(EDIT, "mode", "swap"), Mistake(EDIT, "mode", "'swap' not in .*'refine'")),
}
"""Choices that are not offered."""
UNCHECKED = {
    "a lora that is not there": (ADDED, "", "'gone.safetensors' is no LoRA file.*Choose one of the list"),
    "a video that is not there": (ADDED, "", "gone.mp4"),
    "an unknown mode": (INVERT, "", r"Prompt-to-Prompt Edit \(node 8\): .*swap.*replace.*refine"),
}
"""The same where ComfyUI itself leaves choices to the node that runs, as 0.3.64 does."""


@pytest.mark.parametrize("name", REFUSED)
def test_a_mistake_is_refused_when_the_prompt_is_queued(executor, name):
    check_refusal(executor, *REFUSED[name])


@pytest.mark.parametrize("name", NOT_ON_THE_LIST)
def test_what_is_not_offered_is_refused(executor, name):
    make, wanted = NOT_ON_THE_LIST[name]
    if executor.run(make()).refused:
        check_refusal(executor, make, wanted)
    else:
        check_failure(executor, make, Mistake(*UNCHECKED[name]))


def check_refusal(executor, make, wanted):
    run = executor.run(make())
    assert set(run.refused) == {wanted.node}
    found = [f"{each['message']} {each['details']}" for each in _about(run.refused[wanted.node], wanted.input)]
    assert len(found) == 1
    assert _matches(found[0], wanted.says), found[0]


@pytest.mark.parametrize("name", ["an equalizer without a number", "a folder of frames that is not there"])
def test_a_refusal_that_comfyui_repeats_at_every_input_the_check_reads_names_the_wrong_one(executor, name):
    make, wanted = REFUSED[name]
    (errors,) = [each["errors"] for each in executor.run(make()).refused.values()]
    assert wanted.input in [each["extra_info"]["input_name"] for each in errors]
    assert all(wanted.input in each["details"].partition(" - ")[2] for each in errors)


LATENT = "latents? .*Encode"
NO_CLIP = "text encoder.*(checkpoint|CLIP)"
FAILS = {
    "a checkpoint without a text encoder": (lambda: given(INVERT, "clip", None), Mistake(INVERT, "", NO_CLIP)),
    "a latent without samples": (lambda: given(INVERT, "latent", {}), Mistake(INVERT, "", LATENT)),
    "a word that is not in the prompt": (
        lambda: with_value(EDIT, "blend_words", "cat"),
        Mistake(INVERT, "", r"Edit \(node 8\): blend_words: 'cat' is not in .*a, red, circle, on.*Use these"),
    ),
    "unequal word counts": (
        lambda: with_value(EDIT, "edit_prompt", "a big blue circle on the grass"),
        Mistake(INVERT, "", r"Prompt-to-Prompt Edit \(node 8\): .*source has 6, edit has 7. Use mode 'refine'"),
    ),
    "weights in brackets": (
        lambda: with_value(EDIT, "edit_prompt", "a (blue:1.3) circle on the grass"),
        Mistake(INVERT, "", r"Edit \(node 8\): edit prompt: .*brackets.*Remove the brackets.*equalizer"),
    ),
    "a prompt of more tokens than fit": (
        lambda: with_value(INVERT, "source_prompt", "abcdefghij " * 40),
        Mistake(INVERT, "", "source prompt: .*tokens.*77 fit. Shorten"),
    ),
    "an edit of what was not inverted": (
        lambda: with_value(EDIT, "controller", [KEEP, 0]),
        Mistake(EDIT, "", "controller has no inversion.*Invert the clip first"),
    ),
    "latents with five dimensions": (
        lambda: given(INVERT, "latent", {"samples": torch.zeros(1, 4, 3, 8, 8)}),
        Mistake(INVERT, "", r"latents are shaped \[1, 4, 3, 8, 8\].*Encode the frames of one clip"),
    ),
    "latents of no frame": (
        lambda: given(INVERT, "latent", {"samples": torch.zeros(0, 4, 8, 8)}),
        Mistake(INVERT, "", r"latents are shaped \[0, 4, 8, 8\].*at least one frame.*Encode"),
    ),
    "latents of another family": (
        lambda: given(INVERT, "latent", {"samples": torch.zeros(3, 16, 8, 8)}),
        Mistake(INVERT, "", "latents have 16 channels.*needs 4. Encode the clip with the VAE"),
    ),
    "latents that are no numbers": (
        lambda: given(INVERT, "latent", {"samples": torch.full((3, 4, 8, 8), float("nan"))}),
        Mistake(INVERT, "", "latents hold values that are not finite.*Encode the frames again"),
    ),
    "frames that are none": (
        lambda: given(ENCODE, "pixels", torch.zeros(0, 64, 64, 3)),
        Mistake(ENCODE, "", r"clip has shape \[0, 64, 64, 3\].*Check what is connected"),
    ),
    "frames that are too small": (
        lambda: given(ENCODE, "pixels", torch.zeros(2, 4, 4, 3)),
        Mistake(INVERT, "", "latents of 1x1 cells are too small.*Use frames of at least 32x32 pixels"),
    ),
    "a model for inpainting": (
        lambda: given(REGISTER, "unet", inpainting_model()),
        Mistake(REGISTER, "", r"MODEL \(SD15\) is not supported: it takes 9 channels.*Load a checkpoint"),
    ),
    "the clip of another model at the inversion": (
        lambda: given(INVERT, "clip", of_other_width("text_encoder")),
        Mistake(INVERT, "", "text encoder gives embeddings 32 wide.*needs 64. Use the CLIP that belongs to the model"),
    ),
    "the clip of another model at the edit": (
        lambda: given(EDIT, "clip", of_other_width("text_encoder")),
        Mistake(EDIT, "", "text encoder gives embeddings 32 wide.*needs 64. Use the CLIP that belongs to the model"),
    ),
    "a mask of another clip": (
        lambda: given(EDIT, "mask", torch.ones(5, 64, 64)),
        Mistake(EDIT, "", r"mask is shaped \[5, 64, 64\].*3 frames.*Make the mask from the same clip"),
    ),
}


def check_failure(executor, make, wanted):
    run = executor.run(make())
    assert not run.refused and run.error is not None
    assert (run.error["node_id"], run.interrupted) == (wanted.node, None)
    assert LATENTS not in run.executed
    assert _matches(run.error["exception_message"], wanted.says), run.error["exception_message"]


@pytest.mark.parametrize("name", FAILS)
def test_a_mistake_ends_the_run_before_any_step(executor, name, no_steps):
    with no_steps(allow_inversion=FAILS[name][1].node == EDIT):
        check_failure(executor, *FAILS[name])


def test_pictures_with_alpha_are_edited_as_if_they_had_none(executor):
    pixels = torch.rand(3, 64, 64, 4, generator=torch.Generator().manual_seed(0))
    runs = [executor.run(given(ENCODE, "pixels", each)) for each in (pixels, pixels[..., :3].clone())]
    assert runs[0].latents(LATENTS) == runs[1].latents(LATENTS)


def test_a_batch_index_changes_nothing(executor):
    samples = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    odd = {"samples": samples, "batch_index": [4, 5, 6]}
    runs = [executor.run(given(INVERT, "latent", each)) for each in (odd, {"samples": samples})]
    assert runs[0].latents(LATENTS) == runs[1].latents(LATENTS)


def test_a_noise_mask_is_not_left_out_in_silence(executor, caplog):
    run = executor.run(
        given(INVERT, "latent", {"samples": torch.zeros(3, 4, 8, 8), "noise_mask": torch.zeros(3, 64, 64)})
    )
    told = [*run.said, *caplog.messages, (run.error or {}).get("exception_message", "")]
    assert any("noise_mask" in line or "noise mask" in line for line in told)


def long_clip(policy, cells):
    graph = given(INVERT, "latent", {"samples": torch.zeros(1, 4, cells, cells).expand(LONG, -1, -1, -1)})
    graph[INVERT]["inputs"]["steps"] = 50
    graph[KEEP]["inputs"] |= {"policy": policy, "place": "auto"}
    return graph


@pytest.mark.parametrize("policy", ["auto", "features", "maps", "recompute"])
def test_thousands_of_frames_are_refused_with_their_bytes_before_any_step(executor, no_steps, policy, monkeypatch):
    memory = psutil.virtual_memory()._replace(available=16 * 2**30)  # also where there is more
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    with no_steps():
        run = executor.run(long_clip(policy, 64))
    assert run.error["node_id"] == INVERT
    said = run.error["exception_message"]
    assert _matches(said, f"{LONG} frames of 64x64 cells need .* GiB.*Use smaller frames, or fewer"), said


@pytest.mark.parametrize("policy", ["features", "maps"])
def test_attention_beyond_its_budget_is_refused_with_its_bytes_before_any_step(executor, no_steps, policy):
    graph = small_graph(50)
    graph[KEEP]["inputs"] |= {"policy": policy, "budget_gb": 0.01}
    with no_steps():
        run = executor.run(graph)
    assert run.error["node_id"] == INVERT
    said = run.error["exception_message"]
    assert _matches(said, f"3 frames .* 50 steps do not fit: {policy} .*MiB; the budget is 10.2 MiB. Use a"), said


def _about(node, name):
    return [each for each in node["errors"] if each["extra_info"]["input_name"] == name]


def _matches(text, pattern):
    return re.search(pattern, text, re.DOTALL) is not None


class SteppedAnyway(Exception):
    """The UNet was called although the workflow is wrong."""


@pytest.fixture
def no_steps():
    """A context in which the UNet may not be called; with `allow_inversion` as often as the inversion does."""

    @contextmanager
    def watched(*, allow_inversion=False):
        calls = []

        def count(module, _inputs):
            if type(module).__name__ in ("UNet2DConditionModel", "UNetModel"):
                calls.append(module)
                if len(calls) > STEPS * allow_inversion:
                    raise SteppedAnyway

        hook = register_module_forward_pre_hook(count)
        try:
            yield
        finally:
            hook.remove()

    return watched
