"""What the nodes ask ComfyUI itself: precisions, memory and previews."""

import logging
from types import SimpleNamespace

import pytest
import torch

import fatezero_ext as ext
from fatezero_ext.cli.node_pack import load_pack
from fatezero_ext.diffusion.noise_model import LatentFormat
from fatezero_ext.diffusion.preview_colours import LatentColours

STORED_AND_COMPUTED = [
    (torch.float16, None, torch.float16),
    (torch.bfloat16, None, torch.bfloat16),
    (torch.float32, None, torch.float32),
    (torch.float16, torch.float32, torch.float32),  # old cards, and a CPU told to store half precision
    (torch.float8_e4m3fn, torch.bfloat16, torch.bfloat16),
    (torch.float64, None, torch.float32),
]


@pytest.fixture
def host(loaded):
    return load_pack("nodes.host.comfy").ComfyHost()


@pytest.mark.parametrize("stored, cast, wanted", STORED_AND_COMPUTED)
def test_weights_are_kept_in_what_comfyui_computes_in(host, monkeypatch, stored, cast, wanted):
    from comfy import model_management

    monkeypatch.setattr(model_management, "unet_dtype", lambda *_given, **_named: stored)
    monkeypatch.setattr(model_management, "unet_manual_cast", lambda *_given, **_named: cast)
    assert host.weight_dtype() == wanted


def test_on_a_cpu_weights_are_float32(host):
    assert host.weight_dtype() == torch.float32


def test_a_part_that_comfyui_leaves_elsewhere_is_told(host, monkeypatch, caplog):
    from comfy import model_management

    monkeypatch.setattr(model_management, "load_models_gpu", lambda *_given, **_named: None)
    monkeypatch.setattr(model_management, "get_torch_device", lambda: torch.device("meta"))
    with caplog.at_level(logging.WARNING):
        host.residence(torch.nn.Linear(2, 2), "unet")(0)
    assert any("keeps the unet off meta" in said for said in caplog.messages)


def test_a_part_that_is_where_it_should_be_is_not_told_of_though_its_device_has_no_number(host, monkeypatch, caplog):
    from comfy import model_management

    monkeypatch.setattr(model_management, "get_torch_device", lambda: torch.device("cpu:0"))  # as cuda, mps have them
    with caplog.at_level(logging.WARNING):
        host.residence(torch.nn.Linear(2, 2), "unet")(0)
    assert not [said for said in caplog.messages if "keeps the unet off" in said]


@pytest.fixture
def bar(host, monkeypatch):
    """Makes a bar of two steps with previews, and gives what it shows."""
    from comfy.cli_args import LatentPreviewMethod, args

    monkeypatch.setattr(args, "preview_method", LatentPreviewMethod.Latent2RGB)

    def made(latents):
        shown = []
        progress = host.progress(2, latents)
        progress._bar = SimpleNamespace(
            update_absolute=lambda step, total, preview: shown.append((step, total, preview))
        )
        return progress, shown

    return made


@pytest.mark.parametrize("colours", [None, LatentColours(((1.0, 0.0, 0.0),) * 4, (0.0, 0.0, 0.0))])
def test_a_step_is_shown_as_a_picture_of_the_first_frame(bar, colours):
    progress, shown = bar(LatentFormat(colours=colours))
    progress.update(1, lambda: torch.stack([torch.full((4, 6, 8), 0.25), torch.zeros(4, 6, 8)]))
    (step, total, (kind, picture, _largest)) = shown[0]
    assert (step, total, kind, picture.size) == (1, 2, "JPEG", (8, 6))
    assert colours is None or picture.getpixel((0, 0)) == (255, 127, 127)


def test_latents_of_other_channels_are_not_shown_and_nothing_fails(bar):
    progress, shown = bar(LatentFormat())
    progress.update(1, lambda: torch.zeros(2, 16, 4, 4))
    assert shown == [(1, 2, None)]


def test_without_previews_latents_are_not_even_asked_for(bar, monkeypatch):
    from comfy.cli_args import LatentPreviewMethod, args

    monkeypatch.setattr(args, "preview_method", LatentPreviewMethod.NoPreviews)
    progress, shown = bar(LatentFormat())
    progress.update(1, lambda: pytest.fail("asked for"))
    assert shown == [(1, 2, None)]


def test_under_memory_pressure_an_inversion_goes_before_small_results(loaded):
    """0.8 asks results for their size; versions without that question are told nothing."""
    import inspect

    import comfy_execution.caching as caching

    if "get_ram_usage" not in inspect.getsource(caching):
        pytest.skip("this ComfyUI does not ask results for their size")
    toy = ext.load_toy()
    controller = ext.Controller(toy.unet, storage=ext.Storage("features", "ram"))
    controller = ext.invert(controller, toy.text_encoder, torch.zeros(3, 4, 16, 16), "a red circle", steps=3)
    assert controller.get_ram_usage() > 2**20
    cache = caching.RAMPressureCache(lambda *_given: None)
    cache.cache = {"large": ([[controller]], None), "small": ([[torch.zeros(4)]], None)}
    cache.used_generation = dict.fromkeys(cache.cache, 0)
    cache.timestamps = {"large": 2.0, "small": 1.0}
    free = iter([0, 0, 0, 2**60])
    memory, caching.psutil = (
        caching.psutil,
        SimpleNamespace(virtual_memory=lambda: SimpleNamespace(available=next(free, 2**60))),
    )
    try:
        cache.poll(1.0)
    finally:
        caching.psutil = memory
    assert list(cache.cache) == ["small"]
