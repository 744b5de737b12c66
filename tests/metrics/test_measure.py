"""CLIP models from folders, and the measuring command and node with a tiny one of them."""

import json
import math
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from PIL import Image
from rich.console import Console
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from fatezero_ext.cli.main import main
from fatezero_ext.cli.node_pack import load_pack
from fatezero_ext.errors import ModelError, PromptError
from fatezero_ext.media.video import write_video
from fatezero_ext.metrics.clip_scores import _image_processor, load_clip
from fatezero_ext.metrics.edit_metrics import measure_edit
from fatezero_ext.models.folder.clip_tokenizer import TOKENIZING

from ..conftest import GOLDEN

ROOT = Path(__file__).parents[2]
SOURCE, EDIT = "a silver jeep on the road", "a red car on the road"
SIDE = 32
NO_FLOW = "warp error: not measured, it needs opencv-python-headless"


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    """A CLIP model with random weights and real files."""
    folder = tmp_path_factory.mktemp("models") / "publisher" / "tiny_clip"
    tokenizer = CLIPTokenizer.from_pretrained(GOLDEN / "model" / "tokenizer")
    layers = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    words = {"vocab_size": len(tokenizer), "bos_token_id": tokenizer.bos_token_id}
    words |= {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = CLIPConfig(
        text_config=layers | words, vision_config=layers | {"image_size": SIDE, "patch_size": 16}, projection_dim=8
    )
    torch.manual_seed(0)
    CLIPModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    size = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}
    _image_processor()(**size).save_pretrained(folder)
    return folder


@pytest.fixture
def own_folder(clip_folder, tmp_path):
    """A copy to spoil."""
    return Path(shutil.copytree(clip_folder, tmp_path / "clip"))


@pytest.fixture(scope="module")
def frames():
    return torch.rand(20, 24, 40, 3, generator=torch.Generator().manual_seed(1)).mul(255).round().div(255)


def test_embeddings_equal_transformers_own_scores(clip_folder, frames):
    net = CLIPModel.from_pretrained(clip_folder).eval()
    pictures = [Image.fromarray(picture) for picture in frames.mul(255).round().byte().numpy()]
    pixels = _image_processor().from_pretrained(clip_folder)(images=pictures, return_tensors="pt")["pixel_values"]
    tokens = CLIPTokenizer.from_pretrained(clip_folder)([SOURCE, EDIT], padding=True, return_tensors="pt")
    with torch.no_grad():
        found = net(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"], pixel_values=pixels)
    pictures, prompts = load_clip(clip_folder).embeddings(frames, (SOURCE, EDIT))
    wanted = found.logits_per_image / net.logit_scale.exp()
    torch.testing.assert_close(pictures @ prompts.T, wanted.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(pictures.norm(dim=-1), torch.ones(20))


def test_a_prompt_has_the_same_embedding_beside_any_other(clip_folder, frames):
    clip = load_clip(clip_folder)
    alone = clip.embeddings(frames[:1], (SOURCE,)).prompts[0]
    beside = clip.embeddings(frames[:1], (SOURCE, "a very much longer prompt about cars on a road")).prompts[0]
    torch.testing.assert_close(alone, beside, rtol=1e-4, atol=1e-5)


def test_prompts_become_tokens_for_one_thread_at_a_time(clip_folder, frames):
    """A tokenizer's settings change with every call, here as in a prompt's encoding."""
    clip, locked = load_clip(clip_folder), []
    tokenizer = clip.tokenizer

    def watched(*given, **settings):
        locked.append(TOKENIZING.locked())
        return tokenizer(*given, **settings)

    clip.tokenizer = watched
    clip.embeddings(frames[:1], (SOURCE,))
    assert locked and all(locked) and not TOKENIZING.locked()


def test_progress_counts_pictures(clip_folder, frames):
    told = []
    load_clip(clip_folder).embeddings(frames, (SOURCE,), told.append)
    assert told == [16, 20]


def test_plain_pickles_of_tensors_are_read_too(own_folder, clip_folder, frames):
    net = CLIPModel.from_pretrained(own_folder)
    (own_folder / "model.safetensors").unlink()
    torch.save(net.state_dict(), own_folder / "pytorch_model.bin")
    got = load_clip(own_folder).embeddings(frames[:2], (SOURCE,))
    wanted = load_clip(clip_folder).embeddings(frames[:2], (SOURCE,))
    torch.testing.assert_close(got, wanted, rtol=1e-6, atol=1e-6)


def test_half_precision_weights_compute_in_float32(own_folder, frames):
    CLIPModel.from_pretrained(own_folder).half().save_pretrained(own_folder)
    clip = load_clip(own_folder)
    assert clip.net.dtype == torch.float32
    assert clip.embeddings(frames[:2], (SOURCE,)).pictures.dtype == torch.float32


class Pickled:
    def __reduce__(self):
        return print, ("a pickle ran code",)


def spoil_pickle(folder):
    (folder / "model.safetensors").unlink()
    torch.save({"weights": Pickled()}, folder / "pytorch_model.bin")


def spoil_tensors(folder):
    net = CLIPModel.from_pretrained(folder)
    tensors = {name: tensor for name, tensor in net.state_dict().items() if "visual_projection" not in name}
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin")


def spoil_config(**changes):
    def spoil(folder):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | changes))

    return spoil


def spoil_pictures(**changes):
    def spoil(folder):
        processor = _image_processor().from_pretrained(folder).to_dict()
        (folder / "preprocessor_config.json").write_text(json.dumps(processor | changes))

    return spoil


def spoil_vocabulary(folder):
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["vocab_size"] = 20
    net = CLIPModel(CLIPConfig(**config))
    net.save_pretrained(folder)


def remove(*names):
    def spoil(folder):
        for name in names:
            (folder / name).unlink(missing_ok=True)

    return spoil


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (remove("config.json"), "has no config.json"),
        (spoil_config(model_type="clip_text_model"), "has model_type clip_text_model; clip, with"),
        (lambda folder: (folder / "config.json").write_text("["), "config.json cannot be read .*JSON from line 1"),
        (
            lambda folder: (folder / "config.json").write_text('{"model_type": "clip", "projection_dim": "big"}'),
            "projection_dim is big; a whole number from 1 to 8,192",
        ),
        (spoil_config(projection_dim=10**9), "projection_dim is 1000000000; a whole number from 1 to 8,192"),
        (lambda folder: (folder / "tokenizer.json").write_text('{"version": "1.0"}'), "no vocabulary with merges"),
        (lambda folder: (folder / "tokenizer.json").write_text("[]"), "tokenizer.json holds list; a JSON object"),
        (remove("tokenizer.json", "vocab.json"), "has no tokenizer"),
        (remove("model.safetensors"), "neither model.safetensors nor pytorch_model.bin"),
        (remove("preprocessor_config.json", "processor_config.json"), "preprocessor_config.json is needed"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"x" * 90), "model.safetensors cannot be read"),
        (spoil_config(projection_dim=9), r"visual_projection.weight is \[8, 16\], and \[9, 16\] is needed"),
        (spoil_tensors, r"1 keys \(visual_projection.weight\) missing"),
        (spoil_vocabulary, "its model 20; they belong to different models"),
        (spoil_pickle, "it holds '__builtin__.print', which is no part of tensors; code in it is not run"),
        (spoil_pictures(crop_size={"height": 8, "width": 8}), "pictures of 8 by 8, the model .* takes 32 by 32"),
        (spoil_pictures(crop_size=10**9), "crop_size is 1000000000; a side, .*from 1 to 4,096"),
        (spoil_pictures(size={"height": 8}), "settings that do not fit together"),
    ],
)
def test_folders_that_are_no_whole_clip_model_are_refused(own_folder, capfd, spoil, message):
    spoil(own_folder)
    capfd.readouterr()
    with pytest.raises(ModelError, match=message):
        load_clip(own_folder)
    assert capfd.readouterr() == ("", "")


def test_prompts_too_long_for_the_model_are_refused(clip_folder, frames):
    with pytest.raises(PromptError, match="77 fit this CLIP model"):
        load_clip(clip_folder).embeddings(frames, ("road " * 100,))


@pytest.fixture
def clips(tmp_path, frames):
    """Files of a source, an edit and a mask of its left half."""
    edited = frames[:8].clone()
    edited[:, :, :20] = 1 - edited[:, :, :20]
    mask = torch.zeros(8, 24, 40, 3)
    mask[:, :, :20] = 1
    for name, clip in (("source", frames[:8]), ("edited", edited), ("mask", mask)):
        write_video(tmp_path / f"{name}.mp4", clip, 8, lossless=True)
    Image.fromarray(mask[0].mul(255).byte().numpy()).save(tmp_path / "mask.png")
    (tmp_path / "pictures").mkdir()
    for number, picture in enumerate(edited.mul(255).round().byte().numpy()):
        Image.fromarray(picture).save(tmp_path / "pictures" / f"{number}.png")
    return tmp_path, edited


@pytest.mark.slow
def test_the_command_as_a_program_prints_json_and_nothing_else(clips, clip_folder, frames):
    folder, edited = clips
    command = [sys.executable, "-m", "fatezero_ext", "measure", str(folder / "source.mp4"), str(folder / "pictures")]
    prompts = ["--clip", str(clip_folder), "--source-prompt", SOURCE, "--edit-prompt", EDIT]
    done = subprocess.run([*command, *prompts, "--json"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stderr == ""
    found = json.loads(done.stdout)
    wanted = measure_edit(frames[:8], edited, clip=load_clip(clip_folder), source_prompt=SOURCE, edit_prompt=EDIT)
    assert found["frame_accuracy"] == wanted.frame_accuracy
    assert found["temporal_consistency"] == pytest.approx(wanted.temporal_consistency)
    assert found["psnr"] == pytest.approx(wanted.likeness.psnr) and found["ssim"] == pytest.approx(wanted.likeness.ssim)
    assert found["remarks"] == ([] if find_spec("cv2") else [NO_FLOW]) and not found["identical"]


@pytest.mark.parametrize("mask", ["mask.mp4", "mask.png"])
def test_the_commands_mask_may_be_a_video_or_a_picture(clips, capsys, mask):
    folder, _ = clips
    files = [str(folder / name) for name in ("source.mp4", "edited.mp4")]
    assert main(["measure", *files, "--mask", str(folder / mask), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["identical"] is True and found["psnr"] is None and found["compared_share"] == 0.5


def test_the_commands_table_shows_figures_and_what_is_missing(clips, capsys):
    folder, _ = clips
    assert main(["measure", str(folder / "source.mp4"), str(folder / "edited.mp4")]) == 0
    printed = capsys.readouterr()
    assert "8 frames of 40x24" in printed.out and " dB" in printed.out and "SSIM" in printed.out
    assert "no CLIP model was given" in printed.out and printed.err == ""


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["source.mp4", "absent.mp4"], 1, "cannot read the video"),
        (["source.mp4", "mask.png"], 1, "8 frames of 40x24 and 1 frames of 40x24"),
        (["source.mp4", "edited.mp4", "--clip", "pictures"], 1, "has no config.json"),
        (["source.mp4", "edited.mp4", "--edit-prompt", "a car"], 2, "name its folder with --clip"),
        (["source.mp4"], 2, "required: EDITED"),
    ],
)
def test_the_commands_mistakes_end_it_with_one_message(clips, capsys, monkeypatch, arguments, code, message):
    monkeypatch.chdir(clips[0])
    try:
        ended = main(["measure", *arguments])
    except SystemExit as stop:
        ended = stop.code
    printed = capsys.readouterr()
    assert ended == code and message in printed.err and printed.out == ""


def graph(**inputs):
    load = {"source": "source.mp4", "fps": 8.0, "start": 0, "count": 8, "sampling_rate": 1, "short_side": 0}
    load |= {f"crop_{side}": 0 for side in ("left", "right", "top", "bottom")} | {"centre_square": False}
    words = {"source_prompt": SOURCE, "edit_prompt": EDIT}
    measure = {"source": ["1", 0], "edited": ["2", 0], "clip_model": "publisher/tiny_clip", **words}
    return {
        "1": {"class_type": "FateZero_LoadFrames", "inputs": load},
        "2": {"class_type": "FateZero_LoadFrames", "inputs": load | {"source": "pictures"}},
        "3": {"class_type": "LoadImage", "inputs": {"image": "mask.png"}},
        "4": {"class_type": "FateZero_MeasureEdit", "inputs": measure | inputs},
    }


def run(folder, models, document):
    (folder / "measure.json").write_text(json.dumps(document))
    command = load_pack("nodes.headless.command")
    call = command.Command(folder / "measure.json", output=folder / "output", inputs=folder, models=models)
    return command.collect(call, Console(quiet=True))[0]["FateZero_MeasureEdit"]


def test_the_node_measures_what_the_function_does(clips, clip_folder, frames):
    folder, edited = clips
    report, accuracy, consistency, psnr, ssim, flicker, warp_error, vmaf = run(
        folder, clip_folder.parents[1], graph()
    ).outputs
    wanted = measure_edit(frames[:8], edited, clip=load_clip(clip_folder), source_prompt=SOURCE, edit_prompt=EDIT)
    assert accuracy == wanted.frame_accuracy and consistency == pytest.approx(wanted.temporal_consistency)
    assert psnr == pytest.approx(wanted.likeness.psnr) and ssim == pytest.approx(wanted.likeness.ssim)
    assert flicker == pytest.approx(wanted.flicker) and math.isnan(vmaf)
    assert math.isnan(warp_error) == ("needs opencv-python-headless" in report)
    assert f"frame accuracy: {accuracy:.3f}" in report and f"PSNR: {psnr:.2f} dB" in report


def test_the_node_without_clip_gives_nan_and_the_reason(clips):
    folder, _ = clips
    result = run(folder, None, graph(clip_model="none", mask=["3", 1]))
    report, accuracy, consistency, *_ = result.outputs
    assert math.isnan(accuracy) and math.isnan(consistency) and "no CLIP model was given" in report
    assert result.shown == {"text": (report,)}


def test_the_node_lists_clip_folders_two_levels_down_and_no_others(clips, clip_folder, tmp_path):
    shutil.copytree(clip_folder, tmp_path / "models" / "publisher" / "tiny")
    shutil.copytree(clip_folder, tmp_path / "models" / "deep" / "er" / "tiny")
    (tmp_path / "models" / "text").mkdir()
    (tmp_path / "models" / "text" / "config.json").write_text('{"model_type": "clip_text_model"}')
    (tmp_path / "models" / "broken").mkdir()
    (tmp_path / "models" / "broken" / "config.json").write_bytes(b"\xff")
    with pytest.raises(load_pack("nodes.headless.problems").InvalidWorkflow, match="none, publisher/tiny"):
        run(clips[0], tmp_path / "models", graph(clip_model="deep/er/tiny"))


def test_a_clip_folder_saved_anew_has_another_fingerprint(own_folder, monkeypatch):
    measure = load_pack("nodes.look.measure")
    monkeypatch.setattr(load_pack("nodes.host.python").PythonHost, "clip_folders", lambda _host: (own_folder.parent,))
    first = measure.MeasureEdit.fingerprint_inputs(clip_model="clip", source_prompt="a")
    assert measure.MeasureEdit.fingerprint_inputs(clip_model="clip", source_prompt="b") == first
    (own_folder / "preprocessor_config.json").write_text("{}")
    assert measure.MeasureEdit.fingerprint_inputs(clip_model="clip") != first
    with pytest.raises(ModelError, match=r"'\.\./x' is not there; none, clip are"):
        measure.MeasureEdit.fingerprint_inputs(clip_model="../x")
