"""One checkpoint in the real key layout, on every way into the nodes; CLIP and VAE of either side on the other."""

import json

import pytest
import torch
from safetensors.torch import save_file

import fatezero_ext as ext
from benchmarks.make_checkpoint import parts, single_file
from fatezero_ext.cli.node_pack import load_pack
from fatezero_ext.prompts.prompt import read_prompt

from ..small_runs import NAMED

FRAMES, STEPS = 3, 4
SOURCE, EDIT = "a red jeep, driving", "a blue jeep, driving"


@pytest.fixture(scope="module")
def made():
    """In half precision, as files are: ComfyUI keeps text encoders in that."""
    return [part.half() for part in parts("sd1", "comfyui")]


@pytest.fixture(scope="module")
def checkpoint(made, tmp_path_factory):
    """The smallest file that ComfyUI takes for Stable Diffusion 1.x."""
    path = tmp_path_factory.mktemp("checkpoints") / "small.safetensors"
    save_file(single_file(*made, dtype=torch.float16), path)
    return path


@pytest.fixture(scope="module")
def core(checkpoint):
    """(MODEL, CLIP, VAE) of CheckpointLoaderSimple."""
    import comfy.sd

    return comfy.sd.load_checkpoint_guess_config(str(checkpoint), output_vae=True, output_clip=True)[:3]


@pytest.fixture(scope="module")
def of_file(checkpoint):
    """The same by our loader, frames normalised one by one as a MODEL does."""
    return ext.load_model(checkpoint, ext.InflationSettings(norm="frame"))


@pytest.fixture(scope="module")
def of_folder(made, checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("diffusers") / "small"
    for part, name in zip(made, ("unet", "vae", "text_encoder"), strict=True):
        part.save_pretrained(folder / name)
    loaded = ext.load_model(checkpoint)
    loaded.text_encoder.tokenizer.save_pretrained(folder / "tokenizer")
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(dict(loaded.unet.scheduler)))
    (folder / "model_index.json").write_text("{}")
    return folder


@pytest.fixture(scope="module")
def pixels():
    return torch.rand(FRAMES, 70, 64, 3, generator=torch.Generator().manual_seed(0))


def run(unet, clip, latents):
    inverted = ext.invert(ext.Controller(unet), clip, latents, SOURCE, steps=STEPS)
    blend = ext.BlendSettings(source_words=("jeep,",))
    return inverted.trace.noise, ext.edit(inverted, clip, EDIT, ext.EditSettings(**{**NAMED, "blend": blend})).latents


def distance(x, wanted):
    return float(((x - wanted).norm() / wanted.norm()).detach())


def test_vae_encode_and_decode_are_comfyuis(core, of_file, pixels):
    wanted, found = core[2].encode(pixels), of_file.vae.encode(pixels)
    assert distance(found, wanted) < 1e-5
    assert distance(of_file.vae.decode(wanted), core[2].decode(wanted)) < 1e-4


def test_core_vae_encode_into_our_inversion_equals_our_vae(core, of_file, pixels):
    from nodes import VAEEncode

    theirs = VAEEncode().encode(core[2], pixels)[0]["samples"]
    noises = [run(of_file.unet, of_file.text_encoder, latents)[0] for latents in (theirs, of_file.vae.encode(pixels))]
    assert distance(*noises) < 1e-5


def test_embeddings_are_comfyuis(core, of_file):
    theirs = core[1].encode_from_tokens_scheduled(core[1].tokenize(SOURCE))[0]
    ours = of_file.text_encoder.encode_from_tokens_scheduled(of_file.text_encoder.tokenize(SOURCE))[0]
    assert distance(ours[0], theirs[0]) < 1e-5
    assert distance(ours[1]["pooled_output"], theirs[1]["pooled_output"]) < 1e-5


@pytest.mark.parametrize("layer", [-1, -2, -5, -12])
def test_clip_skip_is_comfyuis(core, of_file, layer):
    from nodes import CLIPSetLastLayer, CLIPTextEncode

    found = [
        CLIPTextEncode().encode(CLIPSetLastLayer().set_last_layer(clip, layer)[0], SOURCE)[0][0][0]
        for clip in (of_file.text_encoder, core[1])
    ]
    assert distance(*found) < 1e-5
    assert of_file.text_encoder.layer is None


def test_three_routes_give_the_same_inversion_and_edit(core, of_file, of_folder, pixels):
    latents = of_file.vae.encode(pixels)
    frame = ext.InflationSettings(norm="frame")
    native = load_pack("nodes.native.model").NativeModel(core[0])
    file = run(of_file.unet, of_file.text_encoder, latents)
    folder = ext.load_model(of_folder, frame)
    for found in (run(folder.unet, folder.text_encoder, latents), run(native, core[1], latents)):
        assert distance(found[0], file[0]) < 1e-3
        assert distance(found[1], file[1]) < 1e-3


def test_with_the_clip_wide_norm_file_and_folder_agree(checkpoint, of_folder, pixels):
    models = [ext.load_model(path) for path in (checkpoint, of_folder)]
    latents = models[0].vae.encode(pixels)
    file, folder = (run(model.unet, model.text_encoder, latents) for model in models)
    assert distance(folder[0], file[0]) < 1e-5
    assert distance(folder[1], file[1]) < 1e-5


def test_a_lora_on_a_model_is_the_lora_on_our_unet(core, of_file, checkpoint, tmp_path, pixels):
    from nodes import LoraLoader

    generator, name = torch.Generator().manual_seed(1), "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    key = f"lora_unet_{name}".replace(".", "_")
    text_key = "lora_te_text_model_encoder_layers_3_mlp_fc1"
    factors = {
        f"{key}.lora_down.weight": torch.randn(4, 320, generator=generator),
        f"{key}.lora_up.weight": 0.1 * torch.randn(320, 4, generator=generator),
        f"{key}.alpha": torch.tensor(2.0),
        f"{text_key}.lora_down.weight": torch.randn(4, 768, generator=generator),
        f"{text_key}.lora_up.weight": 0.02 * torch.randn(3072, 4, generator=generator),
    }
    save_file(factors, tmp_path / "style.safetensors")
    import folder_paths

    folder_paths.add_model_folder_path("loras", str(tmp_path))
    model, clip = LoraLoader().load_lora(core[0], core[1], "style.safetensors", 0.8, 0.6)
    unet, text = ext.apply_lora(
        of_file.unet, of_file.text_encoder, tmp_path / "style.safetensors", unet_strength=0.8, text_strength=0.6
    )
    latents = of_file.vae.encode(pixels)
    theirs = run(load_pack("nodes.native.model").NativeModel(model), clip, latents)
    ours = run(unet, text, latents)
    plain = run(of_file.unet, of_file.text_encoder, latents)
    assert distance(theirs[1], ours[1]) < 1e-3
    assert distance(ours[1], plain[1]) > 5 * distance(theirs[1], ours[1])


def test_our_clip_and_vae_work_in_core_nodes(core, of_file, pixels):
    from nodes import (
        CLIPTextEncode,
        ConditioningAverage,
        ConditioningConcat,
        KSampler,
        VAEDecode,
        VAEDecodeTiled,
        VAEEncodeTiled,
    )

    positive, negative = (CLIPTextEncode().encode(of_file.text_encoder, text)[0] for text in (SOURCE, ""))
    assert ConditioningConcat().concat(positive, negative)[0][0][0].shape == (1, 154, 768)
    mixed = ConditioningAverage().addWeighted(positive, negative, 0.5)[0]
    latent = VAEEncodeTiled().encode(of_file.vae, pixels, 64, 32)[0]
    drawn = KSampler().sample(core[0], 0, 2, 2.0, "euler", "normal", mixed, negative, latent)[0]
    assert VAEDecode().decode(of_file.vae, drawn)[0].shape == (FRAMES, 64, 64, 3)
    assert VAEDecodeTiled().decode(of_file.vae, drawn, 64, 32)[0].shape == (FRAMES, 64, 64, 3)


@pytest.mark.parametrize("prompt", ["a (red:1.3) jeep", "a (red) jeep"])
def test_weights_in_comfyuis_clip_are_refused_by_name_in_our_nodes(core, prompt):
    with pytest.raises(ext.FateZeroError, match="weight syntax.*equalizer"):
        read_prompt(core[1], prompt)


def test_a_textual_inversion_in_comfyuis_clip_is_a_word_of_several_tokens(core, tmp_path):
    import folder_paths

    save_file({"emb_params": torch.randn(3, 768)}, tmp_path / "cat.safetensors")
    folder_paths.add_model_folder_path("embeddings", str(tmp_path))
    clip = core[1].clone()
    tokenizer = clip.tokenizer.clip_l
    before, tokenizer.embedding_directory = tokenizer.embedding_directory, [str(tmp_path)]
    try:
        prompt = read_prompt(clip, "a embedding:cat on grass")
    finally:
        tokenizer.embedding_directory = before
    assert [word.tokens for word in prompt.words] == [(1,), (2, 3, 4), (5,), (6,)]
    assert clip.encode_from_tokens_scheduled(clip.tokenize("a jeep"))[0][0].shape == (1, 77, 768)
