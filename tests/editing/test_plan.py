"""Settings compiled to steps, and what the schedule and the stores promise."""

import pytest
import torch

from fatezero_ext import BlendSettings, LayerAddress
from fatezero_ext.attention.records import FeatureRecord, MapRecord, StoredTensor
from fatezero_ext.diffusion.schedule import STABLE_DIFFUSION_SCHEDULER, Schedule
from fatezero_ext.editing.plan import compile_edit
from fatezero_ext.errors import ModelError, SettingsError, StoreError
from fatezero_ext.prompts.prompt import read_prompt
from fatezero_ext.storage.record_store import MemoryStore

from ..small_runs import named

SOURCE, EDIT = "a silver jeep on the road", "a watercolor of a silver jeep on the road"


def compiled(model, steps=10, edit=EDIT, **settings):
    source, target = (read_prompt(model.text_encoder, text) for text in (SOURCE, edit))
    return compile_edit(named(**settings), source, target, steps)


def edited_by_hand(source, own, mapper, kept, equalizer, taken):
    """The formula as three separate classes would compute it."""
    replaced = source[..., mapper] * kept + own * (1 - kept)
    return taken * equalizer * replaced + (1 - taken) * own


def test_one_linear_formula_is_refine_then_reweight(model, noise):
    from fatezero_ext.prompts.alignment import refinement_mapper

    source, target = (read_prompt(model.text_encoder, text) for text in (SOURCE, EDIT))
    mapper, kept = refinement_mapper(source, target)
    plan = compiled(model, mode="refine", cross_replace=1.0, equalizer={"watercolor": 10.0}).steps[0]
    own, kept_source = noise(2, 5, 77).softmax(-1), noise(2, 5, 77).softmax(-1)
    equalizer = torch.ones(77)
    equalizer[list(target.find("watercolor"))] = 10
    by_hand = edited_by_hand(kept_source, own, mapper, kept, equalizer, 1.0)
    torch.testing.assert_close(kept_source @ plan.mix + own * plan.gain, by_hand)


def test_outside_every_window_attention_is_the_edits_own(model):
    plan = compiled(model, mode="refine", cross_replace=0.5, equalizer={"watercolor": 10.0}).steps[-1]
    assert not plan.replace_cross and not plan.mix.any() and plan.gain.eq(1).all()


def test_self_attention_window_counts_steps_and_cross_window_counts_one_more(model):
    plan = compiled(model, mode="refine", cross_replace=(0.2, 0.5), self_replace=(0.2, 0.5))
    assert [i for i, step in enumerate(plan.steps) if step.fuse_self] == [2, 3, 4]
    assert [i for i, step in enumerate(plan.steps) if step.replace_cross] == [2, 3, 4]
    eleven = compiled(model, steps=11, mode="refine", cross_replace=(0.25, 0.5), self_replace=(0.25, 0.5))
    assert [i for i, step in enumerate(eleven.steps) if step.fuse_self] == [2, 3, 4]
    assert [i for i, step in enumerate(eleven.steps) if step.replace_cross] == [3, 4, 5]


def test_latents_are_blended_strictly_inside_the_middle_of_the_steps(model):
    plan = compiled(model, mode="refine", blend=BlendSettings(("jeep",), latents=True))
    assert [i for i, step in enumerate(plan.steps) if step.blend_latents] == [2, 3, 4, 5, 6]


def test_latents_are_blended_from_the_three_steps_on_that_messages_ask_for(model):
    def blends(steps):
        plan = compiled(model, steps=steps, mode="refine", blend=BlendSettings(("jeep",), latents=True))
        return any(step.blend_latents for step in plan.steps)

    assert [steps for steps in range(1, 101) if not blends(steps)] == [1, 2]


def test_settings_cannot_be_changed_through_the_mapping_they_were_made_from():
    weights = {"jeep": 2.0}
    settings = named(equalizer=weights)
    weights["jeep"] = 5.0
    assert settings.equalizer["jeep"] == 2.0
    with pytest.raises(TypeError):
        settings.equalizer["jeep"] = 3.0


def test_the_equalizer_acts_by_its_share_at_less_than_full_strength(model):
    none, half, whole = (
        compiled(model, mode="refine", equalizer={"jeep": 3.0}, strength=strength).steps[0]
        for strength in (0.0, 0.5, 1.0)
    )
    plain = compiled(model, mode="refine").steps[0]
    assert none.mix.equal(plain.mix) and none.gain.equal(plain.gain)
    torch.testing.assert_close(2 * half.mix, none.mix + whole.mix)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("steps", [1, 7, 50, 999])
def test_a_step_there_and_back_with_one_prediction_changes_nothing(noise, prediction, steps):
    schedule = Schedule.from_config({**STABLE_DIFFUSION_SCHEDULER, "prediction_type": prediction}, steps)
    x, predicted = noise(2, 4, 8, 8).double(), noise(2, 4, 8, 8).double()
    for step in {0, steps // 2, steps - 1}:
        noised = schedule.invert(x, predicted, step)
        if prediction == "epsilon":
            torch.testing.assert_close(schedule.denoise(noised, predicted, step), x)
        exactly = schedule.invert(x, predicted, step, exactly=True)
        torch.testing.assert_close(schedule.denoise(exactly, predicted, step), x)
        assert (noised - x).norm() > 1e-6 * x.norm()  # double precision: a step of no effect is within 1e-15


@pytest.mark.parametrize("steps", [0, -3, 1000, 5000])
def test_step_counts_outside_the_schedule_are_refused(steps):
    with pytest.raises(SettingsError, match=f"steps is {steps}; it must be 1 to 999"):
        Schedule.from_config(None, steps)


def test_velocity_and_noise_predictions_of_the_same_latent_agree(noise):
    clean, eps, step = noise(1, 4, 8, 8).double(), noise(1, 4, 8, 8).double(), 3
    schedules = [
        Schedule.from_config({**STABLE_DIFFUSION_SCHEDULER, "prediction_type": kind}, 10)
        for kind in ("epsilon", "v_prediction")
    ]
    alpha = schedules[0].alphas[schedules[0].timesteps[step]]
    x = alpha**0.5 * clean + (1 - alpha) ** 0.5 * eps
    velocity = alpha**0.5 * eps - (1 - alpha) ** 0.5 * clean
    torch.testing.assert_close(schedules[0].denoise(x, eps, step), schedules[1].denoise(x, velocity, step))


def test_velocity_and_noise_predictions_invert_alike(noise):
    """The inversion's latent is one level cleaner than the timestep that made the prediction."""
    x, velocity, step = noise(1, 4, 8, 8).double(), noise(1, 4, 8, 8).double(), 3
    of_noise, of_velocity = (
        Schedule.from_config({**STABLE_DIFFUSION_SCHEDULER, "prediction_type": kind}, 10)
        for kind in ("epsilon", "v_prediction")
    )
    alpha = of_noise.alphas[of_noise.timesteps[step]]
    eps = (1 - alpha) ** 0.5 * x + alpha**0.5 * velocity
    torch.testing.assert_close(of_velocity.invert(x, velocity, step), of_noise.invert(x, eps, step))


def test_velocity_works_from_pure_noise_and_noise_predictions_are_refused_there(noise):
    zero_terminal = {
        **STABLE_DIFFUSION_SCHEDULER,
        "rescale_betas_zero_snr": True,
        "timestep_spacing": "trailing",
        "steps_offset": 0,
    }
    schedule = Schedule.from_config({**zero_terminal, "prediction_type": "v_prediction"}, 10)
    assert schedule.alphas[schedule.timesteps[0]] == 0
    assert schedule.denoise(noise(1, 4, 8, 8), noise(1, 4, 8, 8), 0).isfinite().all()
    with pytest.raises(ModelError, match="pure noise.*v_prediction"):
        Schedule.from_config({**zero_terminal, "prediction_type": "epsilon"}, 10)


def test_other_predictions_are_refused():
    with pytest.raises(ModelError, match="'sample'.*epsilon or v_prediction"):
        Schedule.from_config({**STABLE_DIFFUSION_SCHEDULER, "prediction_type": "sample"}, 10)


ADDRESS = LayerAddress("up", 1, 0, "self")


def test_a_sealed_store_takes_nothing_and_misses_are_named(noise):
    store = MemoryStore()
    store.write(3, {ADDRESS: MapRecord(StoredTensor(noise(1, 2, 4, 4)))})
    store.seal()
    with pytest.raises(StoreError, match="after the store was sealed"):
        store.write(4, {})
    with pytest.raises(StoreError, match="step 4 is not in the store, which has 1"):
        store.read(4)


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_a_store_keeps_the_precision_asked_for_and_counts_its_bytes(noise, precision):
    store = MemoryStore(precision=precision)
    store.write(0, {ADDRESS: FeatureRecord(StoredTensor(noise(2, 4, 8)))})
    assert all(tensor.dtype == getattr(torch, precision) for tensor in store.read(0)[ADDRESS].kept.tensors())
    assert store.nbytes == 2 * 4 * 8 * 2
