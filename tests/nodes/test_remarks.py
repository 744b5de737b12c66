"""What the nodes of a graph remark before their work; nothing of it is an error."""

from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from fatezero_ext import Controller, Storage
from fatezero_ext.cli.node_pack import load_pack
from fatezero_ext.media.video import write_video
from fatezero_ext.prompts.words_alone import read_words

from ..small_runs import SOURCE, clip, inverted
from ..sounding_clips import write_clip

FRAMING = {
    "start": 0, "count": 8, "sampling_rate": 1, "crop_left": 0, "crop_right": 0, "crop_top": 0, "crop_bottom": 0,
    "short_side": 0, "centre_square": False,
}  # fmt: skip


@pytest.fixture
def said(caplog):
    """Run a node; returns what it said."""

    def run(node, hidden=None, **inputs):
        caplog.clear()
        placed = type(node.__name__, (node,), {"hidden": hidden or load_pack("nodes.api").io.HiddenHolder()})
        with caplog.at_level("INFO"):
            placed.execute(**inputs)
        return caplog.text

    return run


@pytest.mark.parametrize("rate, taken, told", [(25, 8, "lasts 0.32 seconds"), (8, 8, ""), (8, 1, "is one frame")])
def test_clips_that_are_over_at_once_are_remarked_where_frames_are_taken(said, tmp_path, rate, taken, told):
    write_video(tmp_path / "clip.mp4", torch.rand(8, 32, 32, 3), rate)
    video = load_pack("fatezero_ext.media.clip").opened_clip(tmp_path / "clip.mp4")
    prepare, load = load_pack("nodes.clips.prepare_frames"), load_pack("nodes.clips.load_frames")
    text = said(prepare.PrepareFrames, video=video, **{**FRAMING, "count": taken})
    assert told in text and bool(text) == bool(told)
    (tmp_path / "clip").mkdir()
    for number in range(8):
        Image.new("RGB", (32, 32)).save(tmp_path / "clip" / f"{number}.png")
    folders = load_pack("nodes.headless.host").Folders(inputs=(tmp_path,), output=tmp_path)
    lines = []
    reporter = SimpleNamespace(say=lines.append, bar=lambda total: None)
    with load_pack("nodes.host").installed(load_pack("nodes.headless.host").RunnerHost(folders, reporter)):
        said(load.LoadFrames, source="clip", fps=float(rate), **{**FRAMING, "count": taken})
    assert (told in "".join(lines)) and bool(lines) == bool(told)


def graph_with(**inputs):
    return {"5": {"class_type": "FateZero_PrepareFrames", "inputs": {}}, "9": {"class_type": "CreateVideo", **inputs}}


@pytest.mark.parametrize(
    "graph, told",
    [
        (graph_with(inputs={"images": ["5", 0], "fps": ["5", 1]}), True),
        (graph_with(inputs={"images": ["5", 0], "audio": ["5", 2]}), False),
        (graph_with(inputs={"images": ["5", 0], "audio": ["2", 1]}), False),  # past the node
        ({}, False),  # in another node's place, which joins it
    ],
)
def test_sound_that_goes_nowhere_is_remarked(said, tmp_path, graph, told):
    write_clip(tmp_path / "clip.mp4", "aac")
    video = load_pack("fatezero_ext.media.clip").opened_clip(tmp_path / "clip.mp4")
    hidden = load_pack("nodes.api").io.HiddenHolder(unique_id="5", prompt=graph)
    text = said(load_pack("nodes.clips.prepare_frames").PrepareFrames, hidden, video=video, **{**FRAMING, "count": 24})
    assert ("sound, which goes nowhere" in text) == told == bool(text)


def test_sound_that_cannot_be_decoded_is_remarked_and_the_clip_goes_on(said, tmp_path):
    write_video(tmp_path / "silent.mp4", torch.rand(8, 32, 32, 3), 8)
    sound = load_pack("fatezero_ext.media.audio").SoundFile(tmp_path / "silent.mp4")
    frames = torch.rand(8, 32, 32, 3)
    node = load_pack("nodes.clips.prepare_frames").PrepareFrames
    assert "sound is left out" in said(node, images=frames, fps=8.0, audio=sound, **FRAMING)


@pytest.mark.parametrize("key_frames, frames, told", [((), 3, True), ((-1,), 3, False), ((), 1, False)])
def test_frames_that_know_nothing_of_each_other_are_remarked(key_frames, frames, told):
    unet = SimpleNamespace(
        built_in=False, trained_side=16, layers=[SimpleNamespace(key_frames=key_frames)], name="a folder"
    )
    planned = SimpleNamespace(unet=unet, frames=frames, size=(16, 16), prompt=read_words(SOURCE, "source prompt"))
    remarks = load_pack("nodes.method.remarks").inversion_remarks(planned)
    assert any("set key_frames of the model to -1, first" in remark for remark in remarks) == told
    assert any("one frame" in remark for remark in remarks) == (frames == 1)


def test_an_inversion_says_its_remarks_before_its_plan(said, model):
    node = load_pack("nodes.method.invert").DDIMInvert
    latent = {"samples": clip(frames=1)}
    inputs = {"clip": model.text_encoder, "latent": latent, "source_prompt": SOURCE, "steps": 1}
    text = said(node, controller=Controller(model.unet), **inputs)
    assert text.index("The clip is one frame") < text.index("Inversion of 1 frames")


ALONE, UNLIKE = "Both prompts say the same", "no word in common"


@pytest.mark.parametrize(
    "source, edit, told",
    [
        (SOURCE, SOURCE, ALONE),
        (SOURCE, SOURCE.upper(), ALONE),
        (SOURCE, "two cats sleep in the sun", UNLIKE),  # articles and prepositions hold nothing
        (SOURCE, f"a painting of {SOURCE}", ""),
        ("", "two cats", ""),
        ("a dog.", "the Dog, asleep", ""),
    ],
)
def test_prompts_of_which_nothing_changes_or_nothing_stays_are_remarked(source, edit, told):
    remark = load_pack("nodes.method.remarks").unlike_prompts(source, edit)
    assert (told in remark) and bool(remark) == bool(told)


def test_an_edit_with_equal_prompts_runs_and_says_so(said, model):
    node = load_pack("nodes.method.edit").P2PEdit
    widgets = load_pack("nodes.method.video_edit_graph").widgets_of(node, edit_prompt=SOURCE, kind="custom")
    text = said(node, controller=inverted(model, Storage(), steps=2), clip=model.text_encoder, **widgets)
    assert text.index(ALONE) < text.index("Edit of 3 frames in 2 steps, ")


@pytest.mark.parametrize("brightest, told", [(0.0, True), (0.5, True), (1.0, False), (None, False)])
def test_a_mask_that_is_black_everywhere_is_remarked_before_the_edit(said, model, brightest, told):
    node, mask = load_pack("nodes.method.edit").P2PEdit, None
    if brightest is not None:
        mask = torch.zeros(3, 16, 16)
        mask[1, 2, 3] = brightest
    widgets = load_pack("nodes.method.video_edit_graph").widgets_of(node, edit_prompt=SOURCE.replace("jeep", "car"))
    text = said(node, controller=inverted(model, Storage(), steps=2), clip=model.text_encoder, mask=mask, **widgets)
    before = text.partition("Edit of 3 frames in 2 steps, ")[0]
    assert ("The mask is black everywhere" in before) == told == ("mask is black" in text)


def test_an_edit_says_which_of_its_widgets_its_kind_does_not_use(said, model):
    node = load_pack("nodes.method.edit").P2PEdit
    given = {"edit_prompt": SOURCE.replace("jeep", "car"), "blend_words": "silver jeep, +shadow"}
    widgets = load_pack("nodes.method.video_edit_graph").widgets_of(node, **given)
    controller = inverted(model, Storage(), steps=2)
    assert "Not used: blend_words. " in said(node, controller=controller, clip=model.text_encoder, **widgets)
    widgets["blend_words"] = ""
    assert "Not used" not in said(node, controller=controller, clip=model.text_encoder, **widgets)
