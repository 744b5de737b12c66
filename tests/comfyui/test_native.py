"""A native MODEL under control gives what the inflated UNet gives, and the MODEL stays as it was."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import fatezero_ext as ext
from fatezero_ext.cli.node_pack import load_pack
from fatezero_ext.models.load import load_toy
from fatezero_ext.storage.disk_cache.cache import InversionCache
from tests.comfyui.small_native import native_model, toy_unet

from ..small_runs import NAMED

FRAMES, STEPS = 4, 6
SOURCE, EDIT = "a red circle on the grass", "a blue circle on the grass"


@pytest.fixture(scope="module")
def toy():
    return load_toy()


@pytest.fixture
def inflated(toy):
    return ext.Pseudo3DUNet(toy_unet(), ext.InflationSettings(norm="frame"), scheduler=toy.unet.scheduler)


@pytest.fixture(scope="module")
def latents():
    return torch.randn(FRAMES, 4, 16, 16, generator=torch.Generator().manual_seed(0))


def under_control(model, *given):
    return load_pack("nodes.native.model").NativeModel(model, *given)


def edited(unet, toy, latents, policy="features", storage=None, passes=0, **settings):
    controller = ext.Controller(unet, storage=storage or ext.Storage(policy))
    inverted = ext.invert(controller, toy.text_encoder, latents, SOURCE, steps=STEPS, inversion_passes=passes)
    return inverted.trace, ext.edit(inverted, toy.text_encoder, EDIT, ext.EditSettings(**{**NAMED, **settings}))


def distance(x, wanted):
    return float((x - wanted).norm() / wanted.norm())


def rounding(native):
    """How far two ways of the same computation may be apart.

    A prediction is (x - clean) / sigma of float32 numbers: their relative error grows by 1 / sigma, most at the lowest
    level; it comes in once a step, and in each of the two.
    """
    schedule = native.schedule(STEPS)
    lowest = float(native.model.get_model_object("model_sampling").sigmas[min(schedule.timesteps)])
    return 2 * STEPS * torch.finfo(torch.float32).eps / lowest


def test_layers_have_the_addresses_and_levels_they_have_in_diffusers(inflated):
    native = under_control(native_model())
    assert [layer.address for layer in native.layers] == [layer.address for layer in inflated.layers]
    assert [layer.level for layer in native.layers] == [layer.level for layer in inflated.layers]
    assert len(native.layers) == 32


@pytest.mark.parametrize("texts", [1, 2])
def test_one_prediction_is_the_inflated_unets(inflated, toy, latents, texts):
    text = torch.cat([toy.text_encoder.encode(prompt) for prompt in ("", SOURCE)[2 - texts :]])
    with torch.no_grad():
        wanted = inflated(latents, 501, text, frames=FRAMES)
        found = under_control(native_model())(latents, 501, text, frames=FRAMES)
    assert distance(found, wanted) < 2e-6


@pytest.mark.parametrize("policy", ["features", "maps", "recompute"])
def test_inversion_and_edit_are_the_inflated_unets(inflated, toy, latents, policy):
    blend = ext.BlendSettings(source_words=("circle",))
    (trace, edit), (wanted_trace, wanted) = (
        edited(unet, toy, latents, policy, blend=blend) for unet in (under_control(native_model()), inflated)
    )
    assert distance(trace.noise, wanted_trace.noise) < 1e-3
    assert distance(edit.latents, wanted.latents) < 1e-3
    assert torch.equal(edit.mask, wanted.mask)


def test_threads_that_share_a_model_get_what_one_gets_alone(toy, latents):
    """ComfyUI samples for one of them at a time; each has clips, texts and controls of its own."""
    native = under_control(native_model())
    clips = [latents[:frames] for frames in (4, 3, 2)]
    wanted = [edited(native, toy, clip)[1].latents for clip in clips]
    with ThreadPoolExecutor(len(clips)) as pool:
        found = list(pool.map(lambda clip: edited(native, toy, clip)[1].latents, clips))
    assert all(one.equal(other) for one, other in zip(found, wanted, strict=True))


def test_a_controller_may_run_another_model_inside(toy, latents):
    outer, inner, text = under_control(native_model()), under_control(native_model()), toy.text_encoder.encode(SOURCE)
    first, seen = outer.layers[0].address, []

    def asks(q, k, v, site):
        if site.address == first:
            seen.append(inner(latents[:2], 301, text, frames=2))
        return outer.kernel(q, k, v, site)

    with torch.no_grad():
        wanted = outer(latents, 501, text, frames=FRAMES), inner(latents[:2], 301, text, frames=2)
        found = outer(latents, 501, text, frames=FRAMES, attend=asks)
    assert found.equal(wanted[0]) and len(seen) == 1 and seen[0].equal(wanted[1])


def test_texts_in_calls_of_their_own_give_the_same(toy, latents, monkeypatch):
    """ComfyUI splits a batch where memory is short, and joins it in an order of its own."""
    import comfy.model_base

    native = under_control(native_model())
    _, together = edited(native, toy, latents)
    monkeypatch.setattr(comfy.model_base.BaseModel, "memory_required", lambda *_given, **_more: 2**60)
    _, apart = edited(native, toy, latents)
    assert distance(apart.latents, together.latents) < rounding(native)


def test_the_edited_text_is_found_wherever_a_batch_has_it(toy, latents, monkeypatch):
    from comfy import samplers

    native, joined = under_control(native_model()), samplers.calc_cond_batch
    text = torch.cat([toy.text_encoder.encode(prompt) for prompt in ("", SOURCE)])
    seen = []

    def watching(q, k, v, site):
        if site.is_cross:
            seen.append(k[-site.frames :].clone())
        return native.kernel(q, k, v, site)

    with torch.no_grad():
        usual = native(latents, 501, text, frames=FRAMES, attend=watching)
        in_order, seen[:] = list(seen), []

        def reversed_batch(model, conditions, x, sigma, options):
            turned = {**options, "model_function_wrapper": turned_round}
            return joined(model, conditions, x, sigma, turned)

        def turned_round(apply, given):
            order = given["c"]["transformer_options"]["cond_or_uncond"]
            assert order == [1, 0]
            options = {**given["c"]["transformer_options"], "cond_or_uncond": order[::-1]}
            c = {**given["c"], "c_crossattn": given["c"]["c_crossattn"].roll(FRAMES, 0), "transformer_options": options}
            return apply(given["input"], given["timestep"], **c).roll(FRAMES, 0)

        monkeypatch.setattr(samplers, "calc_cond_batch", reversed_batch)
        turned = native(latents, 501, text, frames=FRAMES, attend=watching)
    assert distance(turned, usual) < 1e-5
    assert len(seen) == 16
    for found, wanted in zip(seen, in_order, strict=True):
        torch.testing.assert_close(found, wanted)


def test_the_users_model_is_never_changed(toy, latents):
    model = native_model()
    weights = {name: x.clone() for name, x in model.model.state_dict().items()}
    options = repr(model.model_options)
    edited(under_control(model), toy, latents)
    assert repr(model.model_options) == options
    assert all(torch.equal(x, weights[name]) for name, x in model.model.state_dict().items())
    assert model.model.current_patcher is None or "patches_replace" not in repr(model.model_options)


def test_weight_patches_apply_and_other_branches_do_not_see_them(toy, latents):
    model = native_model()
    plain_trace, _ = edited(under_control(model), toy, latents)
    patched, name = model.clone(), "diffusion_model.middle_block.1.proj_out.weight"
    change = 0.05 * torch.randn(model.model.state_dict()[name].shape, generator=torch.Generator().manual_seed(1))
    patched.add_patches({name: ("diff", (change,))}, 0.5)
    changed_trace, _ = edited(under_control(patched), toy, latents)
    again, _ = edited(under_control(model), toy, latents)
    assert distance(changed_trace.noise, plain_trace.noise) > 1e-4
    assert torch.equal(again.noise, plain_trace.noise)


def test_fixed_point_passes_are_those_of_the_inflated_unet(inflated, toy, latents):
    native = under_control(native_model())
    (kept, edit), (again, edit_again), (wanted, _) = (
        edited(unet, toy, latents, policy, passes=1)
        for unet, policy in ((native, "features"), (native, "recompute"), (inflated, "features"))
    )
    assert distance(kept.latents, wanted.latents) < 1e-3 and distance(kept.evaluated, wanted.evaluated) < 1e-3
    assert torch.equal(again.evaluated, kept.evaluated) and distance(edit_again.latents, edit.latents) < 1e-4


def test_an_interrupted_run_leaves_nothing_behind(toy, latents):
    model = native_model()
    native = under_control(model)
    wanted, _ = edited(native, toy, latents)

    def stop(step):
        if step.done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ext.invert(ext.Controller(native), toy.text_encoder, latents, SOURCE, steps=STEPS, on_step=stop)
    again, _ = edited(native, toy, latents)
    assert torch.equal(again.noise, wanted.noise)


def image_prompt(strength):
    """An attn2 replacement in the style of image prompts: plain attention and something added to it."""
    from comfy.ldm.modules.attention import optimized_attention

    def replacement(q, k, v, options):
        return optimized_attention(q, k, v, options["n_heads"]) + strength * q.tanh()

    return replacement


def test_what_another_packs_replacement_adds_stays(toy, latents):
    model = native_model()
    plain_trace, _ = edited(under_control(model), toy, latents)
    silent, loud = model.clone(), model.clone()
    for clone, strength in ((silent, 0.0), (loud, 0.3)):
        clone.set_model_attn2_replace(image_prompt(strength), "middle", 0)
    silent_trace, _ = edited(under_control(silent), toy, latents)
    loud_trace, _ = edited(under_control(loud), toy, latents)
    apart = rounding(under_control(model))
    assert distance(silent_trace.noise, plain_trace.noise) < apart
    assert distance(loud_trace.noise, plain_trace.noise) > 10 * apart


def test_where_another_pack_changes_the_inputs_maps_are_kept(toy, latents):
    model = native_model()
    model.set_model_attn1_patch(lambda n, context, value, _options: (n * 1.1, context, value))
    native = under_control(model)
    trace, features = edited(native, toy, latents, "features")
    _, maps = edited(native, toy, latents, "maps")
    assert {record.form for at, record in trace.store.read(0).items() if at.kind == "self"} == {"map"}
    assert distance(features.latents, maps.latents) < rounding(native)


@pytest.mark.parametrize("prediction", ["EPS", "V_PREDICTION"])
def test_its_schedule_and_prediction_are_those_of_comfyuis_sampling(toy, latents, prediction):
    """Our inversion step on the prediction is an Euler step on ComfyUI's scale."""
    model = native_model(prediction)
    native = under_control(model)
    schedule, text = native.schedule(STEPS), toy.text_encoder.encode(SOURCE)
    assert schedule.prediction_type == ("epsilon" if prediction == "EPS" else "v_prediction")
    sampling = model.get_model_object("model_sampling")
    high, low = (sampling.sigmas[schedule.timesteps[step]] for step in (0, 1))
    x = latents * (1 + high**2).sqrt()
    with torch.no_grad():
        moved = schedule.denoise(latents, native(latents, schedule.timesteps[0], text, frames=FRAMES), 0)

        def denoised(session):
            ours = load_pack("nodes.native.model")
            call = ours._Call(native.kernel, native.kernel, native.sites(FRAMES, 16, 16))
            return session.denoised(x, high.expand(FRAMES), [text], {ours.CALL: call})[0]

        within = load_pack("nodes.native.sampling").within_sampling
        clean = within(native._patched(), {}, tuple(latents.shape), 64, denoised)
    euler = x + (x - clean) / high * (low - high)
    assert distance(moved, euler / (1 + low**2).sqrt()) < 2e-6


def test_an_inversion_on_disk_is_found_again_by_weights_and_patches(toy, latents, tmp_path):
    model, name = native_model(), "diffusion_model.middle_block.1.proj_out.weight"
    change = torch.ones_like(model.model.state_dict()[name])
    patched = model.clone()
    patched.add_patches({name: ("diff", (change,))}, 0.01)
    stronger = model.clone()
    stronger.add_patches({name: ("diff", (change,))}, 0.02)
    cache = InversionCache(tmp_path)
    said = []
    for each in (model, patched, stronger, model.clone(), patched.clone()):
        controller = ext.Controller(under_control(each), storage=ext.Storage("features", "disk", cache=cache))
        ext.invert(controller, toy.text_encoder, latents, SOURCE, steps=2, on_plan=said.append)
    assert ["found on disk" in line for line in said] == [False, False, False, True, True]


def test_disk_is_refused_where_a_patch_has_no_name_that_lasts(toy, latents):
    model = native_model()
    model.set_model_attn2_replace(image_prompt(0.1), "middle", 0)
    controller = ext.Controller(under_control(model), storage=ext.Storage("features", "disk"))
    with pytest.raises(ext.FateZeroError, match="attention patches"):
        ext.invert(controller, toy.text_encoder, latents, SOURCE, steps=2)


def test_other_kinds_are_refused_by_name():
    model = native_model()
    model.model.diffusion_model.in_channels = 9
    with pytest.raises(ext.FateZeroError, match=r"this MODEL \(SD15\) is not supported: it takes 9 channels"):
        under_control(model)


@pytest.mark.parametrize("entry", [{"area": (8, 8, 0, 0)}, {"mask": torch.ones(1, 8, 8)}, {"start_percent": 0.5}])
def test_conditioning_with_more_than_controlnets_is_refused(entry):
    with pytest.raises(ext.FateZeroError, match=next(iter(entry))):
        under_control(native_model(), (-1, "first"), [[torch.zeros(1, 77, 64), entry]])


def hint(strength):
    """A conditioning with a stand-in for a ControlNet, which says what it adds to the middle block."""
    from comfy.controlnet import ControlBase

    class Hint(ControlBase):
        calls = 0

        def get_control(self, x_noisy, t, cond, batched_number, transformer_options):
            self.calls += 1
            cells = (x_noisy.shape[-2] // 8, x_noisy.shape[-1] // 8)
            return {"input": [], "middle": [torch.full((len(x_noisy), 96, *cells), strength)], "output": []}

    control = Hint()
    return control, [[torch.zeros(1, 77, 64), {"control": control, "pooled_output": None}]]


def test_controlnets_of_the_conditioning_take_part_in_every_call(toy, latents):
    model = native_model()
    plain_trace, plain_edit = edited(under_control(model), toy, latents)
    (silent, nothing), (loud, something) = hint(0.0), hint(5.0)
    silent_trace, silent_edit = edited(under_control(model, (-1, "first"), nothing), toy, latents)
    loud_trace, _ = edited(under_control(model, (-1, "first"), something), toy, latents)
    assert (silent.calls, loud.calls) == (2 * STEPS, 2 * STEPS)  # inversion and edit, the edit's two texts in one call
    assert torch.equal(silent_trace.noise, plain_trace.noise)
    assert torch.equal(silent_edit.latents, plain_edit.latents)
    assert distance(loud_trace.noise, plain_trace.noise) > 1e-4  # norms take most of an even shift away


def controlnet(frames_of_hint):
    """A real ControlNet of the small UNet's layout with random weights, and a hint for each frame."""
    import comfy.cldm.cldm
    import comfy.controlnet

    model = native_model()
    config = {
        name: value
        for name, value in model.model.model_config.unet_config.items()
        if name not in ("out_channels", "transformer_depth_output", "legacy", "disable_unet_model_creation")
    }
    import comfy.ops

    operations = comfy.ops.disable_weight_init
    net = comfy.cldm.cldm.ControlNet(
        **config, hint_channels=3, operations=operations, device="cpu", dtype=torch.float32
    )
    generator = torch.Generator().manual_seed(3)
    for parameter in net.parameters():
        parameter.data = 0.05 * torch.randn(parameter.shape, generator=generator)
    control = comfy.controlnet.ControlNet(net, load_device=torch.device("cpu"), compression_ratio=8)
    hint = torch.rand(frames_of_hint, 3, 128, 128, generator=generator)
    return control.copy().set_cond_hint(hint, strength=1.0)


def test_a_real_controlnet_steers_each_frame_by_its_own_hint(toy, latents):
    conditioning = [[torch.zeros(1, 77, 64), {"control": controlnet(FRAMES), "control_apply_to_uncond": True}]]
    steered = under_control(native_model(), (), conditioning)
    text = toy.text_encoder.encode(SOURCE)
    with torch.no_grad():
        free = under_control(native_model(), ())(latents, 501, text, frames=FRAMES)
        found = steered(latents, 501, text, frames=FRAMES)
        same = steered(latents[:1].expand(FRAMES, -1, -1, -1).contiguous(), 501, text, frames=FRAMES)
    assert distance(found, free) > 1e-3
    # Versions of ComfyUI weigh random control nets differently: the hints' effect is 1e-4 to 1e-2, rounding's 1e-6.
    assert all(distance(frame, same[0]) > 3e-5 for frame in same[1:])
    trace, result = edited(under_control(native_model(), (-1, "first"), conditioning), toy, latents)
    assert trace.noise.isfinite().all() and result.latents.isfinite().all()


def test_functions_around_guidance_are_named_as_left_out(caplog):
    model = native_model()
    model.set_model_sampler_cfg_function(lambda args: args["cond"])
    under_control(model)
    assert "sampler_cfg_function" in caplog.text


def doubled(n, context, value, _options):
    return torch.cat([n, n]), torch.cat([context, context]), torch.cat([value, value])


def test_patches_that_change_the_batch_or_the_cells_are_refused_by_name(toy, latents):
    regional = native_model()
    regional.set_model_attn2_patch(doubled)
    regional.set_model_attn2_output_patch(lambda n, _options: n[: len(n) // 2])
    merged = native_model()
    merged.set_model_attn1_patch(lambda n, context, value, _options: (n[:, ::2], context, value))
    for model in (regional, merged):
        with pytest.raises(ext.FateZeroError, match="a patch on the MODEL .* changes them"):
            edited(under_control(model), toy, latents)


def test_samplings_of_other_lengths_are_refused():
    from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete

    (few,) = ModelSamplingDiscrete().patch(native_model(), "lcm", False)
    with pytest.raises(ext.FateZeroError, match="50 steps"):
        under_control(few)
