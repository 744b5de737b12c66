import numpy as np
import pytest
import torch

from fatezero_ext.toy.training.autoencoder import SCALING, build_autoencoder, fold_normalisation, frames_and_masks
from fatezero_ext.toy.training.averaging import WeightAverage
from fatezero_ext.toy.training.denoiser import build_scheduler, build_unet, denoising_loss, draw_batch
from fatezero_ext.toy.training.diffusion_training import CHECKPOINT, DenoiserTraining, learning_rate, train_denoiser
from fatezero_ext.toy.training.localisation import localisation_loss, record_cross_attention
from fatezero_ext.toy.training.pool import BACKGROUND_ROLE, OBJECT_ROLE, build_pool, load_pool, save_pool
from fatezero_ext.toy.training.tokenizer import build_tokenizer

ALPHAS = build_scheduler().alphas_cumprod


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Tiny models are slower with more, by far on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    folder = tmp_path_factory.mktemp("training")
    torch.manual_seed(0)
    tokenizer = build_tokenizer(folder / "tokenizer")
    save_pool(build_pool(build_autoencoder(), tokenizer, 0, range(24)), folder / "pool.pt")
    return folder


@pytest.fixture(scope="module")
def pool(work):
    return load_pool(work / "pool.pt")


def draw(pool, step, seed=0):
    return draw_batch(pool, ALPHAS, torch.zeros(77).long(), size=8, seed=seed, step=step, styled=0.3)


def run(work, name, *targets):
    folder = work / name
    build_tokenizer(folder / "tokenizer")
    for steps in targets:
        training = DenoiserTraining(4, batch=2, stop_at=steps)
        train_denoiser(folder, [work / "pool.pt"], training, 1, lambda line: None)
    return torch.load(folder / CHECKPOINT, weights_only=True)


@pytest.mark.slow
def test_a_run_that_stopped_and_went_on_equals_one_that_did_not(work):
    whole, resumed = run(work, "whole", 2), run(work, "resumed", 1, 2)
    assert whole["step"] == resumed["step"] == 2
    for kind in ("parameters", "average"):
        assert all(torch.equal(a, b) for a, b in zip(whole[kind], resumed[kind], strict=True))


def test_a_batch_depends_on_its_seed_and_step_alone(pool):
    first, again, other = draw(pool, 3), draw(pool, 3), draw(pool, 4)
    assert torch.equal(first.noisy, again.noisy)
    for another in (other, draw(pool, 3, seed=1)):
        assert (first.noisy - another.noisy).norm() > 0.1 * first.noisy.norm()


def test_every_batch_has_all_noise_levels(pool):
    assert torch.equal((draw(pool, 0).timesteps // 125).sort().values, torch.arange(8))


def test_noisy_latents_are_the_schedule_applied_to_latents_and_noise(pool):
    batch = draw(pool, 1)
    alpha = ALPHAS[batch.timesteps].view(-1, 1, 1, 1)
    clean = (batch.noisy - (1 - alpha).sqrt() * batch.noise) / alpha.sqrt()
    known = pool.latents.float()
    assert all((known - one).abs().flatten(1).amax(1).min() < 2e-2 for one in clean[batch.timesteps < 500])


def test_the_denoising_loss_is_the_weighted_error_written_as_a_loop(pool):
    batch = draw(pool, 2)
    predicted = batch.noise + torch.randn(batch.noise.shape, generator=torch.Generator().manual_seed(0))
    total = 0.0
    for i, t in enumerate(batch.timesteps.tolist()):
        alpha = float(ALPHAS[t])
        weight = min(5 / (alpha / (1 - alpha)), 1) * min(alpha**-0.5, 8)
        cells = 1 + 2.5 * batch.masks[i] * (t < 650)
        error = ((predicted[i] - batch.noise[i]) ** 2).mean(0)
        total += weight * float((cells / cells.mean() * error).mean())
    assert float(denoising_loss(predicted, batch, ALPHAS)) == pytest.approx(total / 8, rel=1e-4)


def test_attention_on_its_place_costs_nothing_and_elsewhere_all():
    mask = torch.zeros(1, 16, 16)
    mask[:, 4:8, 4:8] = 1
    inside, outside = mask.flatten(1), 1 - mask.flatten(1)
    roles = torch.tensor([[0, OBJECT_ROLE, BACKGROUND_ROLE]])
    right = torch.stack((torch.ones(1, 256), inside, outside), dim=-1)
    wrong = torch.stack((torch.ones(1, 256), outside, inside), dim=-1)
    for probs, cost in ((right, 0.0), (wrong, 1.0)):
        assert float(localisation_loss({"layer": probs}, mask, roles, torch.ones(1))) == pytest.approx(cost, abs=1e-6)


def test_recording_does_not_change_what_the_unet_gives():
    torch.manual_seed(1)
    unet, maps = build_unet().eval(), {}
    inputs = torch.randn(2, 4, 16, 16), torch.tensor([7, 900]), torch.randn(2, 77, 64)
    with torch.no_grad():
        plain = unet(*inputs).sample
        record_cross_attention(unet, maps, ("down_blocks.0", "up_blocks.3"))
        torch.testing.assert_close(unet(*inputs).sample, plain, atol=1e-5, rtol=1e-4)
    assert len(maps) == 5
    assert all(torch.allclose(probs.sum(-1), torch.ones(2, 256), atol=1e-4) for probs in maps.values())


def test_the_unet_has_the_32_attentions_of_stable_diffusion():
    names = build_unet().attn_processors
    assert [sum(place in name for name in names) for place in ("down", "mid", "up")] == [12, 2, 18]


def test_folding_the_normalisation_changes_no_reconstruction_and_gives_unit_variance():
    torch.manual_seed(2)
    vae = build_autoencoder().eval()
    frames, _ = frames_and_masks(5, range(16))
    with torch.no_grad():
        before = vae.decode(vae.encode(frames).latent_dist.mean).sample
        fold_normalisation(vae, scenes=24)
        latents = vae.encode(frames).latent_dist.mean
        torch.testing.assert_close(vae.decode(latents).sample, before, atol=1e-3, rtol=1e-3)
    spread = (latents * SCALING).std(dim=(0, 2, 3))
    assert ((0.5 < spread) & (spread < 2)).all()


def test_the_learning_rate_rises_stays_and_falls():
    training = DenoiserTraining(1000, rate=1.0, warmup=100, decay_share=0.3)
    assert learning_rate(49, training) == 0.5
    assert learning_rate(500, training) == 1.0
    assert learning_rate(850, training) == pytest.approx(0.5)
    assert learning_rate(999, training) == 0.01


def test_the_average_follows_constant_weights_to_their_value():
    weight = torch.zeros(3)
    average = WeightAverage([weight], 0.9)
    for step in range(200):
        average.update([weight + 2], step)
    np.testing.assert_allclose(average.values[0], 2.0, atol=1e-4)
