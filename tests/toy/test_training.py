import json

import numpy as np
import pytest
import torch
from diffusers.models import AutoencoderKL

from fatezero_ext import load_unet
from fatezero_ext.models.folder.detect import TOY_FOLDER
from fatezero_ext.toy.training.autoencoder import (
    SCALING,
    AutoencoderTraining,
    build_autoencoder,
    fold_normalisation,
    frames_and_masks,
    train_autoencoder,
)
from fatezero_ext.toy.training.averaging import WeightAverage
from fatezero_ext.toy.training.denoiser import (
    build_scheduler,
    build_text_encoder,
    build_unet,
    denoising_loss,
    draw_batch,
)
from fatezero_ext.toy.training.diffusion_training import (
    CHECKPOINT,
    CURVE,
    DenoiserTraining,
    averaged_models,
    learning_rate,
    train_denoiser,
)
from fatezero_ext.toy.training.export import save_model
from fatezero_ext.toy.training.localisation import localisation_loss, record_cross_attention
from fatezero_ext.toy.training.pool import (
    BACKGROUND_ROLE,
    NO_ROLE,
    OBJECT_ROLE,
    SECOND_ROLE,
    build_pool,
    load_pool,
    save_pool,
)
from fatezero_ext.toy.training.sizes import SMALL
from fatezero_ext.toy.training.starting import copy_weights, sizes_of
from fatezero_ext.toy.training.tokenizer import build_tokenizer
from fatezero_ext.toy.training.train import main
from fatezero_ext.toy.training.widening import widen
from fatezero_ext.toy.world.world import OBJECTS

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


def test_words_of_two_things_have_their_own_places_and_the_background_what_is_left():
    one, other = torch.zeros(1, 16, 16), torch.zeros(1, 16, 16)
    one[:, 2:6, 2:6] = other[:, 9:14, 9:14] = 1
    roles = torch.tensor([[0, OBJECT_ROLE, SECOND_ROLE, BACKGROUND_ROLE]])
    first, second, ground = one.flatten(1), other.flatten(1), 1 - (one + other).flatten(1)
    right = torch.stack((torch.ones(1, 256), first, second, ground), dim=-1)
    exchanged = torch.stack((torch.ones(1, 256), second, first, ground), dim=-1)
    for probs, cost in ((right, 0.0), (exchanged, 2 / 3)):
        loss = localisation_loss({"layer": probs}, one + other, roles, torch.ones(1), other)
        assert float(loss) == pytest.approx(cost, abs=1e-6)


def test_a_pool_of_objects_has_the_masks_and_roles_of_both_things(tmp_path):
    torch.manual_seed(0)
    tokenizer = build_tokenizer(tmp_path / "tokenizer", objects=True)
    pool = build_pool(build_autoencoder(), tokenizer, 0, range(24), OBJECTS[:8])
    pairs = pool.second.flatten(1).sum(1) > 0
    assert pairs.any() and not pairs.all()  # scenes of both kinds were drawn
    assert torch.equal(pairs, (pool.roles == SECOND_ROLE).flatten(1).any(1))
    assert (pool.masks >= pool.second).all() and float(pool.masks.max()) <= 1.001
    assert NO_ROLE == 0 and (pool.roles == OBJECT_ROLE).any(2).all()


@pytest.mark.parametrize("decoder_alone", [False, True], ids=["whole", "decoder"])
def test_a_vae_whose_training_stopped_and_went_on_equals_one_whose_did_not(tmp_path, decoder_alone):
    if decoder_alone:
        build_autoencoder().save_pretrained(tmp_path / "start")
    found = []
    for name, targets in (("once", (4,)), ("twice", (2, 4))):
        for stop in targets:
            training = AutoencoderTraining(
                4,
                1e-3,
                batch=2,
                stop_at=stop,
                objects=OBJECTS[:3],
                start=tmp_path / "start" if decoder_alone else None,
                decoder_alone=decoder_alone,
                measured=4,
            )
            train_autoencoder(tmp_path / name, training, 1, lambda line: None)
            assert (tmp_path / name).exists() == (stop == 4)
        found.append(AutoencoderKL.from_pretrained(tmp_path / name).state_dict())
    assert all(torch.equal(found[0][key], found[1][key]) for key in found[0])


@pytest.mark.parametrize("decoder_alone", [False, True], ids=["whole", "decoder"])
def test_a_vae_goes_on_from_a_finished_one(tmp_path, decoder_alone):
    torch.manual_seed(1)
    started = build_autoencoder()
    started.save_pretrained(tmp_path / "start")
    training = AutoencoderTraining(
        1, 1e-9, batch=2, objects=OBJECTS[:3], start=tmp_path / "start", decoder_alone=decoder_alone, measured=4
    )
    train_autoencoder(tmp_path / "end", training, 1, lambda line: None)
    ended = AutoencoderKL.from_pretrained(tmp_path / "end")
    frames, _ = frames_and_masks(7, range(2), OBJECTS[:3])
    with torch.no_grad():
        before, after = (vae.decode(vae.encode(frames).latent_dist.mean).sample for vae in (started, ended))
        latents = ended.encode(frames).latent_dist.mean
        same_latents = torch.allclose(latents, started.encode(frames).latent_dist.mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-4)  # one step of almost no size
    assert same_latents == decoder_alone  # those of a whole VAE are brought to unit variance again


def test_a_wider_vae_has_the_latents_and_pictures_of_the_one_it_was_made_from():
    """Copies of a channel differ in what they give to others, so that each learns something of its own."""
    torch.manual_seed(3)
    narrow, wide = build_autoencoder((8, 16, 16)), build_autoencoder((16, 32, 32))
    with torch.no_grad():
        for weight in narrow.parameters():  # those of norms and biases too, as after a training
            weight += 0.1 * torch.randn(weight.shape)
    widen(narrow, wide)
    frames, _ = frames_and_masks(7, range(2), OBJECTS[:3])
    latents = [vae.encode(frames).latent_dist.mean for vae in (narrow, wide)]
    torch.testing.assert_close(*latents, rtol=1e-3, atol=1e-4)
    pictures = [vae.decode(latents[0]).sample for vae in (narrow, wide)]
    torch.testing.assert_close(*pictures, rtol=1e-3, atol=1e-4)
    pictures[1].square().mean().backward()
    slopes = wide.decoder.conv_in.weight.grad.unflatten(0, (-1, 2))
    assert float((slopes[:, 0] - slopes[:, 1]).norm() / slopes.norm()) > 0.1


def test_a_vae_of_more_channels_goes_on_from_a_finished_one(tmp_path):
    torch.manual_seed(4)
    narrow = build_autoencoder((8, 16, 16))
    narrow.save_pretrained(tmp_path / "narrow")
    training = AutoencoderTraining(
        1, 1e-9, batch=2, channels=(16, 32, 32), start=tmp_path / "narrow", objects=OBJECTS[:3], measured=8
    )
    train_autoencoder(tmp_path / "wide", training, 1, lambda line: None)
    wide = AutoencoderKL.from_pretrained(tmp_path / "wide")
    assert list(wide.config.block_out_channels) == [16, 32, 32]
    frames, _ = frames_and_masks(90_001, range(8), OBJECTS[:3])
    with torch.no_grad():
        latents = wide.encode(frames).latent_dist.mean
        before, after = (vae.decode(vae.encode(frames).latent_dist.mean).sample for vae in (narrow, wide))
    torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-3)  # one step of almost no size
    torch.testing.assert_close(latents.std(dim=(0, 2, 3)) * SCALING, torch.ones(4), rtol=1e-2, atol=1e-2)


def test_a_model_goes_on_from_a_finished_one_that_knows_fewer_words(work, tmp_path):
    torch.manual_seed(2)
    small, rich = build_tokenizer(tmp_path / "small"), build_tokenizer(tmp_path / "rich", objects=True)
    unet, encoder = build_unet(), build_text_encoder(small)
    parts = {"unet": unet, "text_encoder": encoder, "vae": build_autoencoder(), "tokenizer": small}
    save_model(tmp_path / "start", **parts, objects=("cat", "dog"))
    assert sizes_of(tmp_path / "start", 1e-3) == SMALL
    marked = load_unet(tmp_path / "start" / "unet")
    assert marked.built_in and marked.objects == ("cat", "dog")
    started, reader = build_unet(), build_text_encoder(rich)
    copy_weights(tmp_path / "start", started, reader, rich)
    prompt = "a red circle on the grass"
    tokens = [torch.tensor(tokenizer(prompt, padding="max_length").input_ids)[None] for tokenizer in (small, rich)]
    assert not tokens[0].equal(tokens[1])  # the same words have other numbers
    noise, at = torch.randn(1, 4, 16, 16), torch.tensor([500])
    for part in (unet, encoder):
        part.float()  # what was saved, which is half precision
    with torch.no_grad():
        wanted, found = (
            model(noise, at, text(ids).last_hidden_state).sample
            for model, text, ids in ((unet, encoder, tokens[0]), (started, reader, tokens[1]))
        )
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_attention_alone_leaves_every_other_weight_of_the_unet_as_it_was(work):
    folder = work / "attention"
    tokenizer = build_tokenizer(folder / "tokenizer")
    training = DenoiserTraining(2, batch=2, start=TOY_FOLDER, attention_alone=True)
    train_denoiser(folder, [work / "pool.pt"], training, 1, lambda line: None)
    trained, encoder, _ = averaged_models(folder, tokenizer)
    began, reader = build_unet(), build_text_encoder(tokenizer)
    copy_weights(TOY_FOLDER, began, reader, tokenizer)
    same = {name: weight.half().equal(trained.get_parameter(name).half()) for name, weight in began.named_parameters()}
    assert all(equal for name, equal in same.items() if "attentions" not in name)
    assert not any(equal for name, equal in same.items() if "attn2.to_k" in name)
    assert not all(weight.equal(encoder.get_parameter(name)) for name, weight in reader.named_parameters())


def test_a_run_writes_its_learning_curve_and_tests_the_averaged_weights(work):
    folder, ages = work / "curve", []
    build_tokenizer(folder / "tokenizer")

    def probe(unet, text_encoder, steps):
        assert not unet.training and not text_encoder.training
        ages.append(steps)
        return {"object": 0.25}

    training = DenoiserTraining(4, batch=2, probe_every=2)
    train_denoiser(folder, [work / "pool.pt"], training, 1, lambda line: None, probe=probe)
    lines = [json.loads(line) for line in (folder / CURVE).read_text().splitlines()]
    assert ages == [2, 4] and lines == [{"step": 2, "object": 0.25}, {"step": 4, "object": 0.25}]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--objects", "99"], "the world has 28"),
        (["--batch", "25", "--workers", "2"], "2 workers share it evenly"),
        (["--device", "cuda", "--workers", "2"], "GPU"),
        (["--vae-channels", "24", "48", "50"], "Give multiples of 8"),
        (["--attention-alone"], "Give --start too"),
        (["--start", "nowhere"], "no model_index.json. Give the folder of a finished model"),
    ],
)
def test_options_that_cannot_work_are_refused_before_any_work(tmp_path, capsys, options, words):
    with pytest.raises(SystemExit):
        main(["--output", str(tmp_path / "model"), "--work", str(tmp_path / "work"), *options])
    assert words in capsys.readouterr().err and not (tmp_path / "work").exists()


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
