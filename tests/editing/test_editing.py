"""Inversion and editing as a whole, on the reference model with small random clips."""

import pytest
import torch

from fatezero_ext import (
    BlendSettings,
    Capture,
    Controller,
    InflationSettings,
    Storage,
    edit,
    invert,
    load_model,
    plain,
    register_attention_control,
)
from fatezero_ext.editing.edit import plan_edit
from fatezero_ext.editing.loop import EditRun
from fatezero_ext.errors import FateZeroError, ModelError, PromptError, SettingsError, StoreError
from fatezero_ext.inversion.source_reader import SourceReader

from ..conftest import GOLDEN, relative
from ..small_runs import ROUNDING, named

SOURCE = "a silver jeep driving down a curvy road"
EDIT = "a silver car driving down a curvy road"
STEPS = 4
BLEND = BlendSettings(("jeep",), ("car",), threshold=0.5)


@pytest.fixture(scope="module")
def clip():
    return torch.randn(3, 4, 16, 16, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def inverted(model, clip):
    return invert(Controller(model.unet), model.text_encoder, clip, SOURCE, steps=STEPS)


@pytest.fixture(scope="module")
def inverted_in_6(model, clip):
    return invert(Controller(model.unet), model.text_encoder, clip, SOURCE, steps=6)


def tensors_of(controller):
    store, steps = controller.trace.store, len(controller.trace.schedule)
    kept = [t for step in range(steps) for record in store.read(step).values() for t in record.kept.tensors()]
    return [controller.trace.latents, controller.trace.noise, controller.trace.text, *kept]


@pytest.mark.parametrize("latents", [False, True])
@pytest.mark.parametrize("quirks", ["fixed", "original"])
def test_an_edit_repeats_bit_for_bit_and_leaves_the_inversion_alone(model, inverted, latents, quirks):
    settings = named(blend=BlendSettings(("jeep",), ("car",), 0.5, latents=latents), quirks=quirks)
    before = [tensor.clone() for tensor in tensors_of(inverted)]
    first = edit(inverted, model.text_encoder, EDIT, settings)
    second = edit(inverted, model.text_encoder, EDIT, settings)
    assert first.latents.equal(second.latents) and first.mask.equal(second.mask)
    assert all(now.equal(then) for now, then in zip(tensors_of(inverted), before, strict=True))


def test_kept_features_and_kept_maps_give_the_same_edit(model, clip, inverted):
    maps = invert(Controller(model.unet, storage=Storage("maps")), model.text_encoder, clip, SOURCE, steps=STEPS)
    settings = named(blend=BLEND, guidance=3.0)
    by_features, by_maps = (edit(c, model.text_encoder, EDIT, settings).latents for c in (inverted, maps))
    assert relative(by_features, by_maps) < 1e-4
    assert maps.trace.store.nbytes > 4 * inverted.trace.store.nbytes


def test_full_control_differs_from_no_control(model, inverted):
    free = edit(inverted, model.text_encoder, EDIT, named(cross_replace=0.0, self_replace=0.0))
    held = edit(inverted, model.text_encoder, EDIT, named(cross_replace=1.0, self_replace=1.0))
    assert relative(held.latents, free.latents) > 1e-2


def test_thresholds_beyond_the_range_mean_everywhere_and_nowhere(model, inverted):
    def with_threshold(threshold):
        return edit(inverted, model.text_encoder, EDIT, named(blend=BlendSettings(("jeep",), threshold=threshold)))

    free = edit(inverted, model.text_encoder, EDIT, named(self_replace=0.0))
    fused = edit(inverted, model.text_encoder, EDIT, named())
    assert relative(with_threshold(-1.0).latents, free.latents) < ROUNDING
    assert relative(with_threshold(1.0).latents, fused.latents) < ROUNDING
    assert relative(free.latents, fused.latents) > 10 * ROUNDING


def test_latents_outside_the_mask_come_from_the_source_after_the_last_blended_step(model, clip):
    controller = invert(Controller(model.unet), model.text_encoder, clip, SOURCE, steps=10)
    settings = named(blend=BlendSettings(("jeep",), threshold=2.0, latents=True))
    levels = []
    edit(controller, model.text_encoder, EDIT, settings, on_step=lambda step: levels.append(step.latents))
    trace = controller.trace.latents
    same = [step for step, x in enumerate(levels) if x.equal(trace[len(levels) - 1 - step])]
    assert same == [2, 3, 4, 5, 6]  # 2 < step + 1 < 8


def test_guidance_one_edits_with_one_chunk(model, inverted):
    settings = named(blend=BLEND, guidance=1.0)
    nearly = named(blend=BLEND, guidance=1.0 + 1e-6)
    one, two = (edit(inverted, model.text_encoder, EDIT, s).latents for s in (settings, nearly))
    assert relative(one, two) < 1e-4


@pytest.mark.parametrize(("frames", "height", "width"), [(1, 16, 16), (5, 9, 24), (2, 20, 12)])
def test_any_clip_can_be_inverted_and_edited(model, noise, frames, height, width):
    controller = invert(Controller(model.unet), model.text_encoder, noise(frames, 4, height, width), SOURCE, steps=3)
    result = edit(controller, model.text_encoder, EDIT, named(blend=BlendSettings(("jeep",), ("car",), latents=True)))
    assert result.latents.shape == (frames, 4, height, width) and result.latents.isfinite().all()
    assert result.mask.shape == (frames, height, width)


@pytest.mark.slow
def test_half_precision_follows_full_precision(golden, model, clip):
    half = golden.unet()
    half.net.half()
    # Without passes: on noise, under random weights, a step is no contraction, and passes would carry rounding up.
    one, controller = (
        invert(Controller(unet), model.text_encoder, clip, SOURCE, steps=STEPS, inversion_passes=0)
        for unet in (model.unet, half)
    )
    trace = controller.trace
    assert (trace.latents.dtype, trace.noise.dtype) == (torch.float16, torch.float32)
    assert trace.latents[-1].equal(trace.noise.half())
    assert relative(trace.noise, one.trace.noise) < 0.05
    assert edit(controller, model.text_encoder, EDIT, named(blend=BLEND)).latents.isfinite().all()


def test_a_stopped_run_leaves_the_model_as_it_was(model, clip, inverted):
    def stop(step):
        if step.done == 2:
            raise KeyboardInterrupt

    wanted = edit(inverted, model.text_encoder, EDIT).latents
    with pytest.raises(KeyboardInterrupt):
        invert(Controller(model.unet), model.text_encoder, clip, SOURCE, steps=STEPS, on_step=stop)
    with pytest.raises(KeyboardInterrupt):
        edit(inverted, model.text_encoder, EDIT, on_step=stop)
    assert edit(inverted, model.text_encoder, EDIT).latents.equal(wanted)


def test_steps_are_reported_one_by_one(model, clip, inverted):
    seen = []
    invert(
        Controller(model.unet),
        model.text_encoder,
        clip,
        SOURCE,
        steps=3,
        on_step=lambda step: seen.append((step.done, step.total)),
    )
    assert seen == [(1, 3), (2, 3), (3, 3)]


BAD_EDITS = [
    (EDIT, {"blend": BlendSettings(("submarine",))}, PromptError, "'submarine' is not in the prompt.*silver, jeep"),
    (EDIT, {"blend": BlendSettings(("jeep",), ("boat",), latents=True)}, PromptError, "'boat' is not in the prompt"),
    (EDIT, {"equalizer": {"boat": 2.0}}, PromptError, "'boat' is not in the prompt.*car"),
    (EDIT, {"cross_replace_words": {"boat": 0.5}}, PromptError, "'boat' is not in the prompt"),
    (EDIT + " today", {}, PromptError, "source has 8, edit has 9.*'refine'"),
    ("road " * 80, {"mode": "refine"}, PromptError, "82 tokens.*77 fit"),
    (EDIT, {"blend": BlendSettings(())}, SettingsError, "neither blend_words nor a mask"),
    (EDIT, {"blend": BlendSettings(("jeep",), ("boat",))}, PromptError, "'boat' is not in the prompt"),
    (EDIT, {"blend": BlendSettings(("jeep",), subtract_words=("boat",))}, PromptError, "'boat' is not in the prompt"),
    (EDIT, {"blend": BlendSettings(("jeep",), downscale=16)}, SettingsError, "1/16 is not recorded"),
]


@pytest.mark.parametrize(("prompt", "settings", "kind", "message"), BAD_EDITS)
def test_edits_that_cannot_work_are_refused_before_the_first_step(model, inverted, prompt, settings, kind, message):
    def never(_step):
        raise AssertionError("a step ran")

    with pytest.raises(kind, match=f"(?s){message}"):
        edit(inverted, model.text_encoder, prompt.strip(), named(**settings), on_step=never)


@pytest.mark.parametrize("window", [1.2, -0.1, (0.6, 0.2), (0.0, float("nan")), (0.5, "late")])
@pytest.mark.parametrize("name", ["cross_replace", "self_replace"])
def test_windows_outside_the_steps_are_refused(name, window):
    with pytest.raises(SettingsError, match=f"{name} is .*(0 <= start <= end <= 1|a finite number)"):
        named(**{name: window})


@pytest.mark.parametrize("number", [float("nan"), float("inf"), "much", None])
def test_numbers_that_are_not_finite_are_refused(number):
    for settings in ({"equalizer": {"car": number}}, {"guidance": number}):
        with pytest.raises(SettingsError, match="a finite number is needed"):
            named(**settings)
    with pytest.raises(SettingsError, match="blend threshold"):
        BlendSettings(("jeep",), threshold=number)


def test_subtracted_words_need_a_mask_to_be_taken_from():
    with pytest.raises(SettingsError, match="subtract_words are road without blend_words"):
        BlendSettings((), subtract_words=("road",))


def test_unknown_choices_are_refused():
    with pytest.raises(SettingsError, match="mode is 'swap'.*replace, refine"):
        named(mode="swap")
    with pytest.raises(SettingsError, match="policy is 'disk'.*features, maps, recompute"):
        Storage(policy="disk")
    with pytest.raises(SettingsError, match="guidance is -1"):
        named(guidance=-1)


def test_latents_that_are_not_finite_are_refused(model, noise):
    with pytest.raises(StoreError, match="not finite"):
        invert(Controller(model.unet), model.text_encoder, noise(1, 4, 16, 16) / 0, SOURCE, steps=2)


def test_clips_that_do_not_fit_the_model_are_refused(model, noise):
    controller = Controller(model.unet)
    for latents, kind, message in (
        (noise(0, 4, 16, 16), StoreError, "at least one frame"),
        (noise(4, 2, 16, 16), ModelError, "2 channels"),
        (noise(1, 4, 3, 4, 16), StoreError, "shaped"),
        (noise(1, 4, 4, 4), ModelError, "too small"),
    ):
        with pytest.raises(kind, match=message):
            invert(controller, model.text_encoder, latents, SOURCE, steps=2)
    for steps in (0, 2.5):
        with pytest.raises(SettingsError, match=f"steps is {steps}; it must be 1 to 999"):
            invert(controller, model.text_encoder, noise(1, 4, 16, 16), SOURCE, steps=steps)


def test_an_edit_without_an_inversion_is_refused(model):
    with pytest.raises(StoreError, match="no inversion.*DDIM Inversion"):
        edit(Controller(model.unet), model.text_encoder, EDIT)


def test_every_error_is_of_one_family():
    assert all(issubclass(kind, FateZeroError) for kind in (ModelError, PromptError, SettingsError, StoreError))


def test_longer_relative_key_frames_still_agree_between_policies(golden, model, clip):
    unet = golden.unet(InflationSettings(key_frames=(-1, 0, 1, "last")))
    results = []
    for policy in ("features", "maps"):
        controller = invert(Controller(unet, storage=Storage(policy)), model.text_encoder, clip, SOURCE, steps=2)
        results.append(edit(controller, model.text_encoder, EDIT, named(blend=BLEND)).latents)
    assert relative(*results) < 1e-4


def test_a_registered_control_computes_what_an_edit_leaves_alone(model, inverted):
    seen = set()

    def watching(q, k, v, site):
        seen.add((site.address.kind, len(q)))
        return plain(q, k, v, site)

    settings = named(cross_replace=0.5, self_replace=0.5, blend=BLEND)
    wanted = edit(inverted, model.text_encoder, EDIT, settings).latents
    with register_attention_control(model.unet, watching):
        assert edit(inverted, model.text_encoder, EDIT, settings).latents.equal(wanted)
    assert seen == {("self", 6), ("cross", 6), ("cross", 3)}


def test_the_negative_prompt_is_what_guidance_leads_away_from(model, inverted):
    plainly = edit(inverted, model.text_encoder, EDIT).latents
    away = edit(inverted, model.text_encoder, EDIT, negative_prompt="a lake").latents
    assert relative(away, plainly) > 1e-3


def test_only_layers_within_the_limit_are_recorded_and_edited(model, clip):
    controller = invert(Controller(model.unet, Capture(most_cells=64)), model.text_encoder, clip, SOURCE, steps=2)
    recorded = {str(address) for address in controller.trace.store.read(0)}
    assert {name.rsplit(".", 2)[0] for name in recorded} == {"down.1", "down.2", "mid.0", "up.1", "up.2"}


def test_an_inversion_without_self_attention_is_smaller_and_says_what_it_cannot_do(model, clip):
    controller = invert(
        Controller(model.unet, Capture(self_attention=False)), model.text_encoder, clip, SOURCE, steps=2
    )
    assert {address.kind for address in controller.trace.store.read(0)} == {"cross"}
    with pytest.raises(SettingsError, match="recorded no self-attention.*self_replace to 0"):
        edit(controller, model.text_encoder, EDIT, named())
    assert edit(controller, model.text_encoder, EDIT, named(self_replace=0.0)).latents.isfinite().all()


def masks_of(controller, model, **blend):
    settings = named(self_replace=0.0, blend=BlendSettings(("jeep",), threshold=0.7, latents=True, **blend))
    return edit(controller, model.text_encoder, EDIT, settings).mask


def test_the_edit_words_join_the_mask_of_latent_blending_and_subtracted_words_leave_it(model, inverted_in_6):
    source = masks_of(inverted_in_6, model)
    joined = masks_of(inverted_in_6, model, edit_words=("car",))
    cut = masks_of(inverted_in_6, model, subtract_words=("road",), subtract_threshold=0.3)
    assert (joined >= source).all() and joined.sum() > source.sum()
    assert (cut <= source).all() and cut.sum() < source.sum()


def test_masks_can_be_read_from_another_resolution(model, inverted_in_6):
    finer, usual = masks_of(inverted_in_6, model, downscale=2), masks_of(inverted_in_6, model)
    assert (finer - usual).abs().mean() > 0.01


@pytest.mark.parametrize(("quirks", "depends"), [("fixed", False), ("original", True)])
def test_only_the_original_mask_of_latent_blending_depends_on_earlier_steps(model, clip, quirks, depends):
    controller = invert(Controller(model.unet), model.text_encoder, clip, SOURCE, steps=8)
    blend = BlendSettings(("jeep",), ("car",), threshold=0.7, latents=True)
    plan = plan_edit(model.unet, controller.trace, model.text_encoder, EDIT, named(blend=blend, quirks=quirks))

    def blended(seed_of_first_steps):
        run = EditRun(model.unet, controller.trace, plan, None)
        pages = SourceReader(model.unet, controller.trace, [run.wanted(step) for step in range(8)])
        for step, seed in enumerate([*[seed_of_first_steps] * 3, 5]):
            generator, maps = torch.Generator().manual_seed(seed), {}
            _attend, heat = run.attention(step, pages.read(step))
            for address in plan.mask_layers:  # few peaks, so that not every cell is within the threshold
                cells = run.sites[address].cells
                maps[address] = torch.rand(3, 2, cells, 77, generator=generator).pow(40)
            x = run.blend_latents(torch.zeros_like(clip), step, maps, heat)
        own = x.eq(0)
        assert own.any() and not own.all()  # cells of both kinds, by masks of seeded numbers
        return x

    assert blended(1).equal(blended(2)) != depends


def test_subtracted_words_leave_what_the_edit_words_joined(model, inverted_in_6):
    joined = {"edit_words": ("car",), "subtract_words": ("road",)}
    assert masks_of(inverted_in_6, model, **joined, subtract_threshold=1.0).any()
    assert not masks_of(inverted_in_6, model, **joined, subtract_threshold=-1.0).any()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-3), (torch.float16, 0.1)])
@pytest.mark.parametrize("place", ["ram", "gpu"])
def test_a_gpu_edits_as_the_cpu_does(model, clip, inverted, monkeypatch, dtype, tolerance, place):
    # Convolutions in float32 proper: torch lets cuDNN round their inputs to 10 bits.
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    settings = named(guidance=3.0, blend=BlendSettings(("jeep",), ("car",), 0.5, latents=True))
    wanted = edit(inverted, model.text_encoder, EDIT, settings).latents
    cuda = load_model(GOLDEN / "model", dtype=dtype, device="cuda")
    controller = invert(
        Controller(cuda.unet, storage=Storage(place=place)), cuda.text_encoder, clip, SOURCE, steps=STEPS
    )
    result = edit(controller, cuda.text_encoder, EDIT, settings, mask=torch.ones(3, 16, 16))
    assert result.latents.device.type == "cpu"
    assert relative(result.latents, wanted) < tolerance
