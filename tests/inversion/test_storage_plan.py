"""What an inversion will keep, foretold from shapes, and what is chosen by it."""

import itertools

import pytest
import torch
from diffusers import UNet2DConditionModel

from fatezero_ext import (
    Capture,
    InflationSettings,
    Pseudo3DUNet,
    Storage,
    load_model,
    plain,
    register_attention_control,
)
from fatezero_ext.errors import SettingsError
from fatezero_ext.inversion.footprint import ClipShape, levels_size, recorded_forms, step_bytes
from fatezero_ext.inversion.invert import Reconstruction
from fatezero_ext.inversion.storage_plan import Room, choose_storage
from fatezero_ext.printable import format_bytes
from fatezero_ext.storage.record_store import Recomputed

from ..conftest import GOLDEN
from ..small_runs import calls_of, clip, inverted

GIB, MIB = 2**30, 2**20
STABLE_DIFFUSION = {
    "sample_size": 64,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "norm_num_groups": 32,
}
SHAPE = ClipShape(8, 64, 64, 77)
PRECISIONS = ("as computed", "float32", "float16", "bfloat16", "int8")
SIZES = [(1, 8, 8), (2, 9, 13), (3, 16, 16), (2, 20, 11)]
CAPTURES = [Capture(), Capture(), Capture(most_cells=64), Capture(self_attention=False)]  # one for each size


def kept_by(controller):
    """Bytes of the tensors of all pages and of the rest of a trace, counted one by one."""
    trace = controller.trace
    tensors = [
        tensor
        for step in range(len(trace.schedule))
        for record in trace.store.read(step).values()
        for tensor in record.kept.tensors()
    ]
    assert all(tensor.untyped_storage().nbytes() == tensor.nbytes for tensor in tensors), "views keep more alive"
    rest = (trace.latents, trace.noise, trace.text)
    return sum(tensor.numel() * tensor.itemsize for tensor in tensors), sum(x.numel() * x.itemsize for x in rest)


def foretold(controller, steps):
    trace, storage = controller.trace, controller.storage
    shape = ClipShape(trace.frames, *trace.size, trace.text.shape[1])
    forms = recorded_forms(controller.unet, controller.capture, storage.policy, shape)
    page = step_bytes(controller.unet, forms, storage.precision, shape)
    return steps * page, levels_size(controller.unet, steps, shape)


@pytest.mark.parametrize(("policy", "precision"), list(itertools.product(("features", "maps"), PRECISIONS)))
def test_what_is_kept_is_as_large_as_foretold(model, policy, precision):
    for (frames, height, width), capture in zip(SIZES, CAPTURES, strict=True):
        latents = clip(0, frames, height, width)
        controller = inverted(model, Storage(policy, precision=precision), latents=latents, steps=2, capture=capture)
        assert kept_by(controller) == foretold(controller, 2)


@pytest.mark.parametrize("key_frames", [(), ("mid",), (-1, 0, 1, "last")])
@pytest.mark.parametrize("frames", [1, 3])
def test_what_is_kept_with_other_key_frames_is_as_large_as_foretold(golden, model, key_frames, frames):
    unet = golden.unet(InflationSettings(key_frames=key_frames, least_sc_channel=32))
    for storage in (Storage("features"), Storage("maps"), Storage("maps", precision="int8")):
        controller = inverted(model, storage, unet=unet, latents=clip(0, frames, 9, 14), steps=1)
        assert kept_by(controller) == foretold(controller, 1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_what_a_unet_in_half_precision_keeps_is_as_large_as_foretold(golden, model, dtype):
    unet = golden.unet()
    unet.net.to(dtype)
    for storage in (Storage("features"), Storage("maps"), Storage("features", precision="int8")):
        controller = inverted(model, storage, unet=unet, latents=clip(0, 2, 8, 9), steps=1)
        assert kept_by(controller) == foretold(controller, 1)


def test_what_a_model_in_half_precision_keeps_is_as_large_as_foretold():
    """Its text encoder computes in half precision too."""
    half = load_model(GOLDEN / "model", dtype=torch.float16)
    controller = inverted(half, Storage("features"), latents=clip(0, 1, 8, 8), steps=1)
    assert kept_by(controller) == foretold(controller, 1)


def test_what_a_reconstruction_keeps_is_as_large_as_foretold(model):
    controller = inverted(model, Storage("features"), steps=2, reconstruct=Reconstruction(guidance=3.0))
    assert kept_by(controller) == foretold(controller, 2)


def test_a_plan_says_what_the_whole_trace_will_take(model):
    shape = ClipShape(3, 16, 16, 77)
    for policy in ("features", "maps", "recompute"):
        plan = choose_storage(Storage(policy), model.unet, Capture(), shape, 5, Room(None, GIB))
        assert inverted(model, Storage(policy), steps=5).trace.nbytes == plan.nbytes


@pytest.fixture(scope="module")
def stable_diffusion():
    """Stable Diffusion 1.5 in half precision, shapes only; as a device with memory of its own."""
    with torch.device("meta"):
        return Pseudo3DUNet(UNet2DConditionModel(**STABLE_DIFFUSION).half())


def plan_of(unet, asked, room, steps=50, shape=SHAPE, capture=None):
    return choose_storage(asked, unet, capture or Capture(), shape, steps, room)


ROOMY = Room(10**15, 10**15)


def test_stable_diffusion_has_the_layers_of_the_paper(stable_diffusion):
    assert len(stable_diffusion.layers) == 32


def test_eight_frames_of_512_pixels_fit_as_features_and_not_as_maps(stable_diffusion):
    """8 frames, 64x64 cells, 50 steps, half precision."""
    needs = {
        policy: plan_of(stable_diffusion, Storage(policy), ROOMY).nbytes for policy in ("features", "recompute", "maps")
    }
    assert needs["recompute"] <= 20 * MIB < 5 * GIB < needs["features"] <= 7.0 * GIB < 60 * GIB < needs["maps"]


def test_8_bits_need_half(stable_diffusion):
    half, eight = (
        plan_of(stable_diffusion, Storage("features", precision=p), ROOMY).per_step for p in ("float16", "int8")
    )
    assert 0.5 < eight / half < 0.51


@pytest.mark.parametrize(
    ("room", "chosen"),
    [
        (Room(16 * GIB, 16 * GIB), ("features", "gpu")),
        (Room(16 * GIB, 0), ("features", "gpu")),
        (Room(8 * GIB, 16 * GIB), ("features", "ram")),
        (Room(8 * GIB, 8 * GIB), ("recompute", "ram")),
        (Room(0, 0), ("recompute", "ram")),
    ],
)
def test_the_first_place_with_room_is_chosen(stable_diffusion, room, chosen):
    storage = plan_of(stable_diffusion, Storage(), room).storage
    assert (storage.policy, storage.place) == chosen


def test_exactly_enough_room_is_enough(stable_diffusion):
    needs = plan_of(stable_diffusion, Storage("features", "ram"), ROOMY).nbytes
    for place, share in (("gpu", 0.5), ("ram", 0.8)):
        just = int(needs / share) + 1

        def room(free, at=place):
            return Room(free, 0) if at == "gpu" else Room(0, free)

        assert plan_of(stable_diffusion, Storage(), room(just)).storage.place == place
        assert plan_of(stable_diffusion, Storage(), room(just - 2)).storage.policy == "recompute"
        assert plan_of(stable_diffusion, Storage("features", place), room(needs)).storage.place == place
        with pytest.raises(SettingsError, match="do not fit"):
            plan_of(stable_diffusion, Storage("features", place), room(needs - 1))
    assert plan_of(stable_diffusion, Storage(budget=needs), ROOMY).storage.policy == "features"
    assert plan_of(stable_diffusion, Storage(budget=needs - 1), ROOMY).storage.policy == "recompute"


def test_finished_steps_are_said_and_counted_on_disk_alone(stable_diffusion):
    def plan(place, budget=None):
        asked = Storage("recompute", place, budget=budget)
        return choose_storage(asked, stable_diffusion, Capture(), SHAPE, 50, ROOMY, finished_steps=GIB)

    on_disk, in_ram = plan("disk"), plan("ram")
    assert on_disk.most_bytes == on_disk.nbytes + GIB and in_ram.most_bytes == in_ram.nbytes
    assert f"({format_bytes(on_disk.most_bytes)} until it is done)" in str(on_disk) and "until" not in str(in_ram)
    assert plan("disk", on_disk.most_bytes).nbytes == on_disk.nbytes
    with pytest.raises(SettingsError, match=f"needs {format_bytes(on_disk.most_bytes)}"):
        plan("disk", on_disk.most_bytes - 1)


def test_on_a_cpu_the_device_s_memory_is_the_computer_s(model):
    shape = ClipShape(3, 16, 16, 77)
    for place in ("auto", "gpu", "ram"):
        assert plan_of(model.unet, Storage("features", place), Room(None, GIB), shape=shape).storage.place == "ram"


@pytest.mark.parametrize(
    ("asked", "room", "message"),
    [
        (
            Storage("features", "gpu"),
            Room(GIB, 100 * GIB),
            r"on the gpu needs \d\.\d\d GiB.*1\.00 GiB on the gpu",
        ),
        (Storage("maps"), Room(GIB, 2 * GIB), r"maps on the gpu needs \d+\.\d\d GiB.*1\.60 GiB in ram"),
        (
            Storage("features", "disk", budget=GIB),
            ROOMY,
            r"features on disk needs \d\.\d\d GiB; the budget is 1\.00 GiB",
        ),
        (
            Storage("recompute", budget=MIB),
            ROOMY,
            r"recompute .*needs \d+\.\d MiB; .*Use a larger budget",
        ),
        (
            Storage("features", budget=3 * GIB),
            ROOMY,
            r"8 frames of 64x64 cells and 50 steps.*budget is 3\.00 GiB.*policy recompute",
        ),
    ],
)
def test_a_choice_that_does_not_fit_is_refused_with_the_bytes(stable_diffusion, asked, room, message):
    with pytest.raises(SettingsError, match=f"(?s){message}"):
        plan_of(stable_diffusion, asked, room)


def test_a_budget_below_every_way_names_them_all(stable_diffusion):
    with pytest.raises(SettingsError, match=r"features on the gpu.*features in ram.*recompute \(latents alone\) needs"):
        plan_of(stable_diffusion, Storage(budget=1000), ROOMY)


def test_an_inversion_that_does_not_fit_is_refused_before_the_unet_is_called(model):
    with calls_of(model.unet.net) as calls, pytest.raises(SettingsError, match="budget is 97.7 KiB"):
        inverted(model, Storage("features", budget=100_000))
    assert calls == []


def test_auto_runs_the_source_again_where_features_do_not_fit(model):
    controller = inverted(model, Storage(budget=200_000))
    assert controller.storage.policy == "recompute" and isinstance(controller.trace.store, Recomputed)


def test_under_a_registered_control_the_source_is_not_run_again(model):
    with register_attention_control(model.unet, lambda *given: plain(*given)):
        with pytest.raises(SettingsError, match="'recompute' needs.* twice.*a registered controller may change"):
            inverted(model, Storage("recompute"))
        with pytest.raises(SettingsError, match="features in ram needs") as error:
            inverted(model, Storage(budget=200_000))
        assert "latents alone" not in str(error.value) and "place disk" not in str(error.value)
        with pytest.raises(SettingsError, match="do not fit") as without_budget:
            plan_of(model.unet, Storage("maps", "ram"), Room(None, 1000), shape=ClipShape(3, 16, 16, 77))
        assert "recompute" not in str(without_budget.value) and "place disk" not in str(without_budget.value)
        assert inverted(model, Storage()).storage.policy == "features"


@pytest.mark.parametrize("budget", [0, -1, float("nan"), float("inf")])
def test_budgets_that_are_no_bytes_are_refused(budget):
    with pytest.raises(SettingsError, match="a positive number is needed"):
        Storage(budget=budget)


def test_the_plan_is_told_before_the_first_step(model):
    told = []
    inverted(model, Storage("features"), on_plan=told.append, on_step=lambda step: told.append(step.done))
    assert told[0].startswith("attention as features in ram: 4.1 MiB, 814.5 KiB a step") and told[1] == 1
