"""What Video Edit chooses by itself, and how it says so."""

from fractions import Fraction
from types import SimpleNamespace

import pytest
import torch

from fatezero_ext.cli.node_pack import load_pack
from fatezero_ext.media.video import write_video

from ..odd_clips import write_long_clip
from ..sounding_clips import write_clip

PROMPTS = ("a red circle on the grass", "a blue circle on the grass")


@pytest.fixture(scope="module")
def choices():
    return load_pack("nodes.method.video_edit_choices")


@pytest.fixture(scope="module")
def clip_of():
    return load_pack("fatezero_ext.media.clip").VideoClip


def unet(name="MODEL (SD15)", *, side=64, cell=8, levels=4, built_in=False, keys=(-1, "first"), frame_bytes=1):
    """What the choices read of a model; frame_bytes: what one call takes for a frame, by its own estimate."""
    layers = [SimpleNamespace(key_frames=frames, query_dim=320) for frames in ((), keys)]
    return SimpleNamespace(
        name=name, trained_side=side, latent_format=SimpleNamespace(pixels_per_cell=cell), built_in=built_in,
        objects=(), needs_whole_clip="", parts=lambda frames, at_once, controlled: (),
        smallest_side=1 << (levels - 1), layers=layers, device=torch.device("cpu"),
        working_memory=lambda chunks, frames, height, width: chunks * frames * frame_bytes,
        run=lambda work, chunks, frames, height, width: work(),
    )  # fmt: skip


TOY = unet("built-in toy model", side=16, cell=4, levels=4, built_in=True, keys=())


def chosen(choices, clip_of, model, clip, prompts=PROMPTS, **asked):
    """clip: frames, height, width, rate"""
    frames, height, width, rate = clip
    # One number in memory stands for all pixels.
    given = clip_of(torch.zeros(1, 1, 1, 3).expand(frames, height, width, 3), Fraction(rate), None)
    wanted = choices.Asked(**asked)
    settings = load_pack("fatezero_ext.editing.automatic").resolved_settings(
        load_pack("fatezero_ext.editing.settings").EditSettings(), *prompts, built_in=model.built_in
    )
    return choices.choose(model, choices.facts_of(given, wanted), wanted, settings, prompts)


@pytest.mark.parametrize(
    "clip, asked, stride, count, line",
    [
        ((240, 24), {}, 3, 8, "8 of 240 frames: every 3rd, 8 fps"),
        ((300, 30), {}, 4, 8, "8 of 300 frames: every 4th, 7.5 fps"),
        ((25, 25), {}, 3, 8, "8 of 25 frames: every 3rd, 8.33 fps"),
        ((720, "30000/1001"), {}, 4, 8, "8 of 720 frames: every 4th, 7.49 fps"),
        ((20, 24), {}, 2, 8, "8 of 20 frames: every 2nd, 12 fps"),  # the rate gives way first
        ((15, 25), {}, 2, 8, "8 of 15 frames: every 2nd, 12.5 fps"),  # to the last frame
        ((14, 25), {}, 1, 8, "8 of 14 frames: each, 25 fps"),
        ((22, 25), {}, 3, 8, "8 of 22 frames: every 3rd, 8.33 fps"),
        ((21, 25), {}, 2, 8, "8 of 21 frames: every 2nd, 12.5 fps"),
        ((9, 25), {"frames": 1}, 3, 1, "1 of 9 frames: every 3rd, 8.33 fps"),
        ((2, 25), {"frames": 1}, 1, 1, "1 of 2 frames: each, 25 fps"),
        ((5, 60), {}, 1, 5, "5 of 5 frames: each, 60 fps"),  # then the number
        ((8, 8), {}, 1, 8, "8 of 8 frames: each, 8 fps"),
        ((240, 24), {"frames": 16, "start": 100}, 3, 16, "16 of 240 frames from frame 100 on: every 3rd, 8 fps"),
        ((240, 24), {"start": 236}, 1, 4, "4 of 240 frames from frame 236 on: each, 24 fps"),
        ((2000, 168), {}, 21, 8, "8 of 2000 frames: every 21st, 8 fps"),
        ((2000, 96), {}, 12, 8, "8 of 2000 frames: every 12th, 8 fps"),
    ],
)
def test_frames_are_the_first_ones_at_about_eight_a_second(choices, clip_of, clip, asked, stride, count, line):
    framing_and_lines = chosen(choices, clip_of, unet(), (clip[0], 512, 512, clip[1]), **asked)
    framing = framing_and_lines.framing
    assert (framing.sampling_rate, framing.count, framing.start) == (stride, count, asked.get("start", 0))
    assert framing_and_lines.lines[0] == line


@pytest.mark.parametrize(
    "model, size, asked, line, most_cells",
    [
        (unet(), (1080, 1920), 0, "896x512 pixels; MODEL (SD15) was trained on 512", 32 * 56),
        (unet(), (1920, 1080), 0, "512x896 pixels; MODEL (SD15) was trained on 512", 32 * 56),
        (unet(), (512, 512), 0, "512x512 pixels; MODEL (SD15) was trained on 512", 1024),
        (unet("MODEL (SD20)", side=96), (720, 1280), 0, "1344x768 pixels; MODEL (SD20) was trained on 768", 48 * 84),
        (TOY, (64, 64), 0, "64x64 pixels; built-in toy model was trained on 64", 1024),
        (TOY, (90, 160), 0, "96x64 pixels; built-in toy model was trained on 64", 1024),
        (unet(), (480, 640), 320, "384x320 pixels; MODEL (SD15) was trained on 512", 1024),
        (unet("a folder", side=None), (512, 512), 0, "512x512 pixels", 1024),
    ],
)
def test_the_size_is_that_of_the_training_in_whole_cells_of_every_level(
    choices, clip_of, model, size, asked, line, most_cells
):
    found = chosen(choices, clip_of, model, (8, *size, 8), size=asked)
    assert found.lines[1] == line and found.most_cells == most_cells
    assert found.feather == model.latent_format.pixels_per_cell


def test_steps_and_guidance_are_the_models(choices, clip_of):
    published, built_in = (chosen(choices, clip_of, model, (8, 512, 512, 8)) for model in (unet(), TOY))
    assert (published.steps, built_in.steps) == (50, 20)
    assert published.lines[2] == "50 steps, key frames -1, first" and "20 steps" in built_in.lines[2]
    assert "guidance 7.5" in published.lines[3] and "guidance 3" in built_in.lines[3]
    assert published.lines[3].endswith(PROMPTS[1]) and "mask from red circle" in published.lines[3]
    assert chosen(choices, clip_of, unet(), (8, 512, 512, 8), steps=7).steps == 7


@pytest.mark.parametrize(
    "model, clip, asked, told",
    [
        (unet(), (1, 512, 512, 24), {}, "one frame"),
        (unet(), (8, 512, 512, 24), {}, "lasts 0.33 seconds"),
        (unet(), (8, 512, 512, 8), {"size": 128}, "was trained on 512: leave size at auto (0)"),
        (unet(), (8, 512, 512, 8), {"size": 256}, "has 256 pixels, MODEL (SD15) was trained on 512"),
        (unet(), (8, 512, 512, 8), {"size": 1024}, "has 1024 pixels, MODEL (SD15) was trained on 512"),
        (unet(), (8, 512, 512, 8), {"size": 384}, None),
        (
            unet(),
            (8, 500, 560, 8),
            {},
            "11% of the picture is cut off at its edges, 573x512 pixels to 512x512",
        ),
        (unet(), (8, 512, 910, 8), {}, None),
        (unet(keys=()), (8, 512, 512, 8), {}, "set key_frames of the model to -1, first"),
        (unet(keys=()), (1, 512, 512, 8), {}, "one frame"),
        (TOY, (8, 64, 64, 8), {}, None),
        (unet(), (8, 512, 512, 8), {}, None),
        (unet(), (8, 512, 512, 8), {"prompts": (PROMPTS[0], "two zebras run in the snow")}, "no word in common"),
        (unet(), (8, 512, 512, 8), {"prompts": (PROMPTS[0], "the circles, red")}, None),
    ],
)
def test_what_makes_poor_results_is_remarked_and_no_error(choices, clip_of, model, clip, asked, told):
    remarks = chosen(choices, clip_of, model, clip, **asked).remarks
    assert [told in remark for remark in remarks] == ([] if told is None else [True])


def test_words_that_the_built_in_model_does_not_know_are_remarked(choices, clip_of):
    prompts = ("a red circle on the grass", "a zebra on the grass")
    assert "does not know 'zebra'" in chosen(choices, clip_of, TOY, (8, 64, 64, 8), prompts).remarks[-1]


def test_a_model_trained_on_objects_knows_those_and_no_others():
    unknown_words = load_pack("nodes.method.remarks").unknown_words
    trained = SimpleNamespace(built_in=True, objects=("cat", "panda"))
    assert unknown_words(trained, "a cat and a red panda on the grass") == ""
    said = unknown_words(trained, "a dog and a pandda on the grass")
    assert "does not know 'dog', 'pandda'" in said and "panda" in said and "penguin" not in said


def test_a_model_of_shapes_names_the_one_that_knows_an_animal():
    unknown_words = load_pack("nodes.method.remarks").unknown_words
    said = unknown_words(SimpleNamespace(built_in=True, objects=()), "a cat and a zebra on the grass")
    assert "The built-in objects model knows 'cat': choose it on" in said
    trained = SimpleNamespace(built_in=True, objects=("cat",))
    assert "objects model knows" not in unknown_words(trained, "a cat and a zebra on the grass")


def test_of_the_words_that_the_built_in_model_knows_the_nearest_come_first_then_all_by_what_they_name():
    captions = load_pack("fatezero_ext.toy.world.captions")
    unknown_words = load_pack("nodes.method.remarks").unknown_words
    for objects in ((), ("cat", "panda")):
        head, *groups = unknown_words(SimpleNamespace(built_in=True, objects=objects), "a rad zebra").split("\n")
        near = captions.nearest_words("rad", objects)
        assert near[0] == "red" and not captions.nearest_words("zebra", objects)
        assert head.endswith(f"'rad', 'zebra', and can neither find nor draw them. Nearest to rad: {', '.join(near)}")
        named = {line.split(" ")[0]: line.partition(": ")[2] for line in groups}
        assert list(named) == ["Colours", "Shapes", *(["Things"] if objects else []), "Grounds", "Styles", "Sizes"]
        listed = {word for line in named.values() for word in line.replace(",", "").split()}
        assert {"red", "circle", "grass", "sketch", *objects} <= listed <= set(captions.vocabulary(objects))


def test_no_more_frames_are_taken_than_memory_holds(choices, clip_of):
    free, least = load_pack("fatezero_ext.memory.free_memory").free_ram(), 0.2
    few = chosen(choices, clip_of, unet(frame_bytes=free / least / 3.5), (240, 512, 512, 24))
    assert few.framing.count == 3 and few.lines[0] == "3 of 240 frames: every 3rd, 8 fps; memory holds no more"
    with pytest.raises(ValueError, match="frames of 64x64 cells need more than .* would be the most"):
        chosen(choices, clip_of, unet(frame_bytes=free / least / 0.5), (1, 512, 512, 24))


def test_frames_that_are_asked_for_are_taken_in_parts_unless_the_clip_must_stay_whole(choices, clip_of):
    free, least = load_pack("fatezero_ext.memory.free_memory").free_ram(), 0.2
    model, clip = unet(frame_bytes=free / least / 3.5), (240, 512, 512, 24)
    assert chosen(choices, clip_of, model, clip, frames=40).framing.count == 40

    def refuse(*_given, **_more):
        raise load_pack("fatezero_ext.errors").SettingsError("a controller takes part")

    model.parts = refuse
    with pytest.raises(ValueError, match="40 frames of 64x64 cells need more than .* would be the most"):
        chosen(choices, clip_of, model, clip, frames=40)


@pytest.mark.parametrize("asked", [{}, {"frames": 48}])
def test_memory_that_a_run_makes_free_is_counted_as_free(choices, clip_of, asked):
    """As ComfyUI does, the model's run sends out what fills the memory: here, a frame takes a millionth of it then."""
    model, free = unet(), load_pack("fatezero_ext.memory.free_memory").free_ram()
    model.working_memory = lambda _chunks, frames, _height, _width: frames * 10 * free

    def run(work, chunks, frames, height, width):
        assert (chunks, frames, height, width) == (1, asked.get("frames", 8), 64, 64)
        model.working_memory = lambda _chunks, frames, _height, _width: frames * free / 1_000_000
        return work()

    model.run = run
    found = chosen(choices, clip_of, model, (240, 512, 512, 24), **asked)
    assert found.framing.count == asked.get("frames", 8) and "memory" not in found.lines[0]


def test_a_start_behind_the_end_is_an_error(choices, clip_of):
    with pytest.raises(ValueError, match="start is 8, and the clip has 8 frames"):
        chosen(choices, clip_of, unet(), (8, 64, 64, 8), start=8)


def test_of_a_file_no_more_is_decoded_than_is_needed(choices, tmp_path):
    """The file says that it has 960 frames; all behind the first tenth of it is damaged."""
    path = tmp_path / "long.mp4"
    write_long_clip(path, seconds=40, fps=24, good=0.1)
    opened = load_pack("fatezero_ext.media.clip").opened_clip(path)
    facts = choices.facts_of(opened, choices.Asked())
    assert (facts.frames, facts.total, facts.height, facts.width, facts.fps) == (960, 960, 32, 32, 24.0)
    assert opened.frames.count(1) == (960, True)
    with pytest.raises(ValueError, match="damaged or cut off after frame"):
        opened.frames.count(960)


def test_a_file_that_does_not_say_its_length_is_counted_as_far_as_needed(choices, tmp_path):
    path = write_clip(tmp_path / "clip.mkv", "aac")  # Matroska has no number of frames
    frames = load_pack("fatezero_ext.media.clip").FileFrames(path)
    assert frames.count(24) == (24, False) and frames.count(500) == (96, True)


def test_sound_that_cannot_be_decoded_is_remarked(choices, tmp_path):
    write_video(tmp_path / "silent.mp4", torch.rand(8, 64, 64, 3), 8)
    remark = load_pack("nodes.clips.clip_remarks").lost_sound
    sound = load_pack("fatezero_ext.media.audio").SoundFile(tmp_path / "silent.mp4")
    assert "sound is left out" in remark(sound, 1.0)
    assert remark(None, 1.0) == "" == remark({"waveform": torch.zeros(1, 1, 9), "sample_rate": 9}, 1.0)
