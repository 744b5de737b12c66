"""What only a CUDA device can show: streams, moves between devices, half precision, too little memory, threads."""

import gc
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import torch

from fatezero_ext import (
    BlendSettings,
    Capture,
    Controller,
    InflationSettings,
    Storage,
    apply_lora,
    edit,
    invert,
    load_model,
    load_toy,
    plain,
    register_attention_control,
)
from fatezero_ext.attention.functional import explicit
from fatezero_ext.attention.kernels import has_fused_sdpa, has_xformers, kernel
from fatezero_ext.attention.records import FeatureRecord, StoredTensor
from fatezero_ext.editing.loop import EditRun
from fatezero_ext.inversion.invert import Reconstruction
from fatezero_ext.memory.free_memory import free_on
from fatezero_ext.models.vae import VideoVAE
from fatezero_ext.storage.disk_cache.cache import InversionCache
from fatezero_ext.storage.offload import Offloader, copy_stream

from ..attention.test_kernels import called
from ..conftest import GOLDEN, relative
from ..small_runs import EDITS, STEPS, clip, edited, inverted, named
from .test_memory import too_little_memory

CUDA = torch.device("cuda", 0)
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

SAME = 1e-5
"""Two runs of one computation on one device, in float32: sums may be taken in another order."""
DEVICES = 1e-3
"""Float32 on two kinds of device, over whole runs of the small model with masks away from their thresholds."""
MASKED = {"replace": DEVICES, "blend": 3e-2, "refine": 3e-2}
"""The same of each of EDITS: a cell at a mask's threshold may fall to either side."""
HALF = {torch.float16: 3e-2, torch.bfloat16: 2e-1}
"""Rounding of 11 and 8 bits, through inversion and edit of the small model with random weights, without masks."""


@pytest.fixture(autouse=True)
def exact_float32():
    """Convolutions in float32 proper: torch lets cuDNN round their inputs to 10 bits."""
    before, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, False
    yield
    torch.backends.cudnn.allow_tf32 = before


@pytest.fixture(scope="module")
def cuda():
    return load_model(GOLDEN / "model", device=CUDA)


@pytest.fixture(scope="module")
def kept(cuda):
    """An inversion whose records stay on the device."""
    return inverted(cuda, Storage("features", "gpu"))


@pytest.fixture(scope="module")
def on_cpu(model):
    return inverted(model, Storage("features"))


def records(controller):
    store, steps = controller.trace.store, len(controller.trace.schedule)
    return {(step, at): record.kept for step in range(steps) for at, record in store.read(step).items()}


@pytest.mark.parametrize("precision", ["as computed", "float16", "int8"])
def test_records_that_leave_the_device_are_those_that_stay(cuda, precision):
    here, there = (records(inverted(cuda, Storage("features", place, precision))) for place in ("gpu", "ram"))
    assert list(here) == list(there)
    for at, kept in here.items():
        assert kept.values.is_cuda and not there[at].values.is_cuda
        # Eight-bit values may be one step apart where the computations differ in their last bit.
        least = kept.scale.amax().item() if kept.scale is not None else 1e-5 * kept.values.abs().max().item()
        torch.testing.assert_close(there[at].restored(), kept.restored().cpu(), rtol=2e-3, atol=1.01 * least)


@pytest.mark.parametrize("name", list(EDITS))
@pytest.mark.parametrize("place", ["ram", "disk"])
def test_an_edit_reads_the_same_from_anywhere(cuda, kept, tmp_path, name, place):
    cache = InversionCache(tmp_path / "cache") if place == "disk" else None
    elsewhere = inverted(cuda, Storage("features", place, cache=cache))
    assert relative(edited(cuda, elsewhere, name), edited(cuda, kept, name)) < MASKED[name]


def test_the_source_run_again_is_what_was_kept(cuda, kept):
    again = edited(cuda, inverted(cuda, Storage("recompute")), "replace")
    assert relative(again, edited(cuda, kept, "replace")) < DEVICES


@pytest.mark.parametrize("name", list(EDITS))
def test_an_edit_on_the_device_is_the_one_on_the_cpu(cuda, kept, model, on_cpu, name):
    assert relative(kept.trace.noise, on_cpu.trace.noise) < DEVICES
    assert relative(edited(cuda, kept, name), edited(model, on_cpu, name)) < MASKED[name]


@pytest.mark.parametrize("name", list(EDITS))
def test_a_second_edit_is_the_first(cuda, kept, name):
    assert relative(edited(cuda, kept, name), edited(cuda, kept, name)) < SAME


@pytest.mark.parametrize("dtype", list(HALF))
def test_half_precision_on_the_device_is_near_float32(model, on_cpu, dtype):
    half = load_model(GOLDEN / "model", dtype=dtype, device=CUDA)
    got = edited(half, inverted(half, Storage("features", "gpu")), "replace")
    assert got.dtype == torch.float32 and got.isfinite().all()
    assert relative(got, edited(model, on_cpu, "replace")) < HALF[dtype]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("dim", [8, 40, 64, 80, 160])
def test_the_usual_kernel_computes_as_the_explicit_one(noise, dtype, dim):
    assert has_fused_sdpa(CUDA, dtype)
    given = called(noise, (-1, "first"), with_bias=False, device=CUDA, dtype=dtype, dim=dim)
    eps = {torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 4e-2}[dtype]
    torch.testing.assert_close(kernel("auto", CUDA, dtype)(*given), explicit(*given), rtol=0, atol=eps)


@pytest.mark.skipif(not has_xformers(CUDA), reason="needs xformers")
@pytest.mark.parametrize("name", list(EDITS))
def test_an_edit_by_xformers_is_the_same_edit(cuda, kept, name):
    other = load_model(GOLDEN / "model", device=CUDA, attention="xformers")
    got = edited(other, inverted(other, Storage("features", "gpu")), name)
    assert relative(got, edited(cuda, kept, name)) < MASKED[name]


def test_a_model_goes_to_the_device_and_back(model, on_cpu):
    mine = load_model(GOLDEN / "model")
    first = inverted(mine, Storage("features"))
    for part in (mine.unet, mine.text_encoder, mine.vae):
        part.net.to(CUDA)
    moved = edited(mine, first)  # kept where the model was
    there = edited(mine, inverted(mine, Storage("features", "gpu")))
    for part in (mine.unet, mine.text_encoder, mine.vae):
        part.net.to("cpu")
    back = edited(mine, inverted(mine, Storage("features")))
    wanted = edited(model, on_cpu)
    assert max(relative(got, wanted) for got in (moved, there, back)) < DEVICES


def test_an_inversion_kept_on_the_device_is_read_by_a_model_that_left_it():
    mine = load_model(GOLDEN / "model", device=CUDA)
    controller = inverted(mine, Storage("features", "gpu"))
    wanted = edited(mine, controller)
    for part in (mine.unet, mine.text_encoder, mine.vae):
        part.net.to("cpu")
    assert relative(edited(mine, controller), wanted) < DEVICES


def test_a_lora_on_a_model_that_is_on_the_device():
    toy, drawn = load_toy(device=CUDA), clip(frames=2, height=8, width=8)
    layer = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_q"
    weight = toy.unet.net.get_submodule(layer).weight
    before = weight.clone()
    generator = torch.Generator().manual_seed(0)
    up, down = (torch.randn(*shape, generator=generator) for shape in ((len(weight), 2), (2, weight.shape[1])))
    lora = {f"unet.{layer}.lora_A.weight": down, f"unet.{layer}.lora_B.weight": up}
    unet, _text = apply_lora(toy.unet, toy.text_encoder, lora, name="drawn")
    changed = unet.net.get_submodule(layer).weight
    assert changed.is_cuda and weight.equal(before)
    torch.testing.assert_close(changed.cpu(), before.cpu() + up @ down, rtol=1e-4, atol=1e-4)
    first = next(iter(unet.net.conv_in.parameters()))
    assert first.data_ptr() == next(iter(toy.unet.net.conv_in.parameters())).data_ptr()
    found = invert(Controller(unet), toy.text_encoder, drawn, "a red circle on the grass", steps=3)
    assert found.trace.noise.isfinite().all()


def test_previews_are_given_on_the_device_and_change_nothing(cuda, kept):
    shown = []
    got = edited(cuda, kept, on_step=lambda step: shown.append(step.preview()))
    assert len(shown) == STEPS and all(x.is_cuda and x.shape == (3, 4, 16, 16) for x in shown)
    assert relative(got, edited(cuda, kept)) < SAME


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.float32, torch.float64])
def test_a_mask_given_on_the_cpu_or_the_device_is_the_same_mask(cuda, kept, dtype):
    mask = (torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(2)) > 0.5).to(dtype)
    prompt, settings = EDITS["replace"]
    here, there = (edit(kept, cuda.text_encoder, prompt, settings, mask=each) for each in (mask, mask.to(CUDA)))
    assert here.mask.equal(there.mask) and relative(here.latents, there.latents) < SAME
    assert here.latents.device.type == here.mask.device.type == "cpu"


def test_latents_given_on_the_device_are_those_given_on_the_cpu(cuda, kept):
    there = inverted(cuda, Storage("features", "gpu"), latents=clip().to(CUDA))
    assert relative(there.trace.noise, kept.trace.noise) < SAME and not there.trace.noise.is_cuda


def test_a_mask_of_words_is_that_of_the_cpu(cuda, kept, model, on_cpu):
    prompt, settings = EDITS["blend"]
    here, there = (edit(one, m.text_encoder, prompt, settings).mask for one, m in ((kept, cuda), (on_cpu, model)))
    assert (here == there).float().mean() > 0.99  # a cell at its threshold may fall to either side


def test_an_inversion_out_of_memory_goes_on_from_the_computer_s_memory(cuda, kept, caplog):
    with too_little_memory(cuda.unet, lambda _batch, call: call == 3):
        disturbed = inverted(cuda, Storage("features", "gpu"))
    assert "recorded attention moves to the computer's memory" in caplog.text
    assert not any(one.values.is_cuda for one in records(disturbed).values())
    assert relative(edited(cuda, disturbed, "replace"), edited(cuda, kept, "replace")) < DEVICES


def test_an_edit_out_of_memory_moves_its_store_and_then_takes_turns(cuda, caplog):
    controller = inverted(cuda, Storage("features", "gpu"))
    wanted = edited(cuda, controller, "replace")
    with too_little_memory(cuda.unet, lambda batch, _call: batch == 6):
        got = edited(cuda, controller, "replace")
    said = [record.getMessage() for record in caplog.records]
    assert ["moves" in line for line in said] == [True, False] and "one after the other" in said[1]
    assert not any(one.values.is_cuda for one in records(controller).values())
    assert relative(got, wanted) < DEVICES


@contextmanager
def limit(nbytes):
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(CUDA).total_memory
    torch.cuda.set_per_process_memory_fraction(nbytes / total, CUDA)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, CUDA)


def test_a_device_that_is_really_full_ends_a_run_and_works_afterwards(cuda, kept):
    wanted, full = edited(cuda, kept, "replace"), inverted(cuda, Storage("features", "gpu"))
    gc.collect()
    torch.cuda.empty_cache()
    filled = []

    def fill(_step):
        for size in (2**21, 2**20, 2**12, 2**9):
            with pytest.raises(torch.cuda.OutOfMemoryError):
                while True:
                    filled.append(torch.empty(size, dtype=torch.uint8, device=CUDA))

    with limit(torch.cuda.memory_reserved(CUDA) + 64 * 2**20):
        with pytest.raises(torch.cuda.OutOfMemoryError):
            edited(cuda, full, "replace", on_step=fill)
        filled.clear()
    assert relative(edited(cuda, kept, "replace"), wanted) < DEVICES


def test_nothing_of_a_run_stays_on_the_device(cuda):
    edited(cuda, inverted(cuda, Storage("features", "ram")), "blend")  # to load what loads once
    gc.collect()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated(CUDA)
    controller = inverted(cuda, Storage("features", "ram"), reconstruct=Reconstruction(guidance=3.0))
    edited(cuda, controller, "blend")
    gc.collect()
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated(CUDA) <= before


def test_pages_are_copied_on_one_stream_of_their_own(noise):
    values, arrived = noise(4, 64, 64).to(CUDA), []
    assert copy_stream(CUDA) is copy_stream(CUDA) and copy_stream(CUDA) != torch.cuda.current_stream(CUDA)
    carrier = Offloader("float16")
    for step in range(40):  # more than the streams that torch hands out
        x = values + step  # on its way while the next is computed
        carrier.submit({step: FeatureRecord(StoredTensor(x))}, arrived.append)
        del x
    carrier.finish()
    for step, page in enumerate(arrived):
        assert page[step].kept.values.equal((values.cpu() + step).half())


def test_work_on_another_stream_is_recorded_and_read_as_on_the_usual_one(cuda, kept):
    torch.cuda.synchronize()
    stream = torch.cuda.Stream(CUDA)
    with torch.cuda.stream(stream):
        elsewhere = inverted(cuda, Storage("features", "ram"))
        got = edited(cuda, elsewhere, "replace")
    assert relative(got, edited(cuda, kept, "replace")) < DEVICES


def test_threads_with_a_model_each_do_not_disturb_each_other(cuda, kept):
    wanted = edited(cuda, kept, "replace")

    def whole(place, mine):
        return [edited(mine, inverted(mine, Storage("features", place)), "replace") for _ in range(3)]

    models = [load_model(GOLDEN / "model", device=CUDA) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        found = [got for three in pool.map(whole, ["gpu", "ram", "gpu", "ram"], models) for got in three]
    assert max(relative(got, wanted) for got in found) < DEVICES


def test_threads_that_share_a_model_do_not_disturb_each_other(cuda, kept):
    wanted = edited(cuda, kept, "replace")
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _n: edited(cuda, kept, "replace"), range(8)))
    assert max(relative(got, wanted) for got in found) < DEVICES


def test_a_registered_control_computes_on_the_device(cuda, kept):
    seen = set()

    def watching(q, k, v, site):
        seen.add(q.device)
        return plain(q, k, v, site)

    with register_attention_control(cuda.unet, watching):
        got = edited(cuda, kept, "replace")
    assert seen == {CUDA} and relative(got, edited(cuda, kept, "replace")) < DEVICES


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_vae_on_the_device_gives_the_cpu_s_frames(model, dtype):
    there: VideoVAE = load_model(GOLDEN / "model", dtype=dtype, device=CUDA).vae
    frames = torch.rand(10, 32, 32, 3, generator=torch.Generator().manual_seed(0))  # more than at once
    latents = there.encode(frames)
    assert latents.device.type == "cpu" and latents.dtype == torch.float32
    near = 1e-3 if dtype == torch.float32 else 3e-2
    assert relative(latents, model.vae.encode(frames)) < near
    assert relative(there.decode(latents), model.vae.decode(latents)) < near


def test_the_text_encoder_on_the_device_gives_the_cpu_s_embeddings(cuda, model):
    got, wanted = (m.text_encoder.encode("a silver jeep driving down a curvy road") for m in (cuda, model))
    assert got.device.type == "cpu" and relative(got, wanted) < 1e-4


def test_maps_of_the_device_are_kept_and_read(cuda, kept):
    maps = inverted(cuda, Storage("maps", "gpu"))
    assert relative(edited(cuda, maps, "replace"), edited(cuda, kept, "replace")) < DEVICES


@pytest.mark.parametrize("place", ["gpu", "ram"])
def test_a_reconstruction_is_recorded_on_the_device_as_on_the_cpu(cuda, model, place):
    options = {"reconstruct": Reconstruction(guidance=3.0), "steps": 3}
    here = inverted(cuda, Storage("features", place), **options)
    there = inverted(model, Storage("features"), **options)
    assert relative(here.trace.latents, there.trace.latents) < DEVICES


def test_free_memory_counts_what_the_allocator_holds_unused():
    torch.cuda.synchronize()
    before = free_on(CUDA)
    x = torch.empty(2**28, dtype=torch.uint8, device=CUDA)
    held = free_on(CUDA)
    del x
    assert held <= before - 2**27 and free_on(CUDA) >= held + 2**27


def test_the_toy_edit_on_the_device_shows_what_was_asked_for():
    from fatezero_ext.toy.evaluation.edits import measure
    from fatezero_ext.toy.world.clips import sample_clip

    drawn = sample_clip(1, frames=4, shape="circle", colour="red", background="grass")
    toy = load_toy(InflationSettings(key_frames=()), dtype=torch.float16, device=CUDA)
    latents = toy.vae.encode(torch.as_tensor(drawn.frames))
    controller = invert(Controller(toy.unet), toy.text_encoder, latents, drawn.prompt, steps=20)
    settings = named(guidance=3.0, blend=BlendSettings(("red circle",), ("blue circle",), latents=True))
    result = edit(controller, toy.text_encoder, "a blue circle on the grass", settings)
    assert result.latents.isfinite().all()
    found = measure(toy.vae.decode(result.latents).numpy(), drawn, {"colour": "blue"})
    assert found.edited == found.frames


def test_a_run_is_planned_without_the_device_s_memory(cuda, kept):
    """Masks and plans of an edit are made where the UNet computes, not where the words were read."""
    from fatezero_ext.editing.edit import plan_edit

    plan = plan_edit(cuda.unet, kept.trace, cuda.text_encoder, *EDITS["blend"])
    run = EditRun(cuda.unet, kept.trace, plan, None)
    assert run.plan.source_mask.own.device == CUDA and run.masks.counts.device == CUDA
    assert all(step.mix.device == CUDA for step in run.plan.steps if step.mix is not None)
    assert Capture() == kept.capture
