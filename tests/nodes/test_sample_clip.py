"""The clips that come with the pack, what they are, and where the real one is from."""

import runpy
from fractions import Fraction
from pathlib import Path

import av
import pytest

from fatezero_ext.cli.node_pack import load_pack
from fatezero_ext.media.video import read_video

from ..sounding_clips import heard, write_clip

ROOT = Path(__file__).parents[2]
MOST_BYTES = 300_000


@pytest.fixture(scope="module")
def module():
    return load_pack("nodes.clips.sample_clip")


def test_without_a_choice_it_is_the_red_circle_as_before_there_was_one(module):
    """As in a file of the API's format that names no sample; the page gives the widget its default."""
    (widget,) = module.SampleClip.define_schema().inputs
    assert widget.optional and widget.default == "red circle on grass" == widget.options[0]
    plain, named = (module.SampleClip.execute(**given).args[0] for given in ({}, {"sample": widget.default}))
    assert plain == named and plain.frames.path.name == "red_circle_on_grass.mp4"


def test_the_cat_has_the_circle_s_form_and_its_source_stands_beside_it(module):
    circle, cat = (module.SampleClip.execute(name).args[0].frames for name in (module.RED_CIRCLE, module.CAT))
    assert read_video(cat.path).frames.shape == read_video(circle.path).frames.shape
    assert cat.path.name == "cat_on_grass.mp4"
    said = (module.EXAMPLES / "ATTRIBUTION.md").read_text()
    for words in ("# cat_on_grass.mp4, and the animals on the cards\n", "Fluent Emoji", "MIT License"):
        assert words in said


def test_the_real_clip_is_short_small_plays_everywhere_and_has_sound(module):
    video = module.SampleClip.execute("Big Buck Bunny").args[0]
    path = video.frames.path
    assert path.stat().st_size <= MOST_BYTES and video.frame_rate == 25
    with av.open(str(path)) as container:
        (pictures,), (sound,) = container.streams.video, container.streams.audio
        assert (pictures.codec_context.name, pictures.pix_fmt) == ("h264", "yuv420p")
        assert (pictures.width, pictures.height, pictures.frames) == (896, 512, 60)  # whole cells of every level
        assert sound.codec_context.name == "aac" and sound.codec_context.layout.name == "stereo"


def test_the_real_clip_moves_within_what_an_edit_takes_of_it(module):
    frames = read_video(module.EXAMPLES / module.CLIPS[module.BUNNY], count=8, stride=3).frames
    steps = (frames[1:] - frames[:-1]).abs().mean(dim=(1, 2, 3))
    assert (steps > 1 / 255).all()


def test_its_source_and_licence_stand_beside_it(module):
    said = (module.EXAMPLES / "ATTRIBUTION.md").read_text()
    assert f"# {module.CLIPS[module.BUNNY]}\n" in said and "docs/make_real_clip.py" in said
    for named in ("2008, Blender Foundation", "https://creativecommons.org/licenses/by/3.0/", "www.bigbuckbunny.org"):
        assert named in said


def test_the_script_cuts_scales_and_keeps_the_sound_in_place_and_gives_the_same_bytes_again(tmp_path):
    script = runpy.run_path(str(ROOT / "docs" / "make_real_clip.py"))
    source = write_clip(tmp_path / "film.mkv", "ac3", layout="5.1", seconds=5)  # 24 a second, a beep at 2 s
    for name in ("once", "again"):
        script["make_clip"](source, tmp_path / f"{name}.mp4")
    assert (tmp_path / "once.mp4").read_bytes() == (tmp_path / "again.mp4").read_bytes()
    made = read_video(tmp_path / "once.mp4")
    assert made.frames.shape == (60, 512, 512, 3) and made.fps == 24
    start, seconds = heard(tmp_path / "once.mp4")
    assert start == pytest.approx(2 - 36 / 24, abs=0.03) and seconds == pytest.approx(Fraction(60, 24), abs=0.05)
