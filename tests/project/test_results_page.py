"""The script for a page of real results, with a tiny checkpoint of random weights on two frames of the real clip."""

import re
import runpy
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import save_file

from benchmarks.make_checkpoint import parts, single_file

ROOT = Path(__file__).parents[2]
EDITS = ("a white rabbit on the green grass", "a watercolor painting of a gray rabbit on the green grass")


@pytest.fixture(scope="module")
def script():
    return runpy.run_path(str(ROOT / "docs" / "make_results.py"))


@pytest.fixture(scope="module")
def made(script, tmp_path_factory):
    """The folder of a page with two edits."""
    folder = tmp_path_factory.mktemp("results")
    save_file(single_file(*parts("sd1")), folder / "tiny.safetensors")
    edits = [argument for edit in EDITS for argument in ("--edit", edit)]
    small = ["--frames", "2", "--size", "64", "--steps", "2"]
    script["main"]([str(folder / "tiny.safetensors"), "--out", str(folder / "page"), *edits, *small])
    return folder / "page"


@pytest.mark.slow
def test_the_page_shows_each_edit_beside_the_source_and_what_was_measured(made):
    text = (made / "results.md").read_text("utf-8")
    assert re.findall("^## (.+)$", text, flags=re.M) == list(EDITS)
    for number in (1, 2):
        assert f"](edit_{number}.webp)" in text
        with Image.open(made / f"edit_{number}.webp", formats=["WEBP"]) as picture:
            picture.load()
            assert picture.info["duration"] == 120  # milliseconds: every 3rd of 25 frames a second
            assert picture.n_frames == 2 and picture.width > 2 * 112  # two clips of 112x64, and a gap
    assert "`tiny.safetensors`" in text and "2 of 60 frames: every 3rd, 8.33 fps" in text
    seconds = [float(number) for number in re.findall(r"took (\d+\.\d) s", text)]
    assert len(seconds) == 4  # loading, the inversion, and each edit
    assert text.count("Inversion of 2 frames in 2 steps") == 1
    assert re.search(r"At most \d.* memory were taken", text)
    assert "Blender Foundation" in text


def test_another_clip_needs_its_own_words(script, capsys):
    with pytest.raises(SystemExit):
        script["main"](["model.safetensors", "--clip", "mine.mp4"])
    assert "give --source and --edit" in capsys.readouterr().err


def test_what_cannot_be_written_is_refused_before_the_work(script, capsys, tmp_path):
    (tmp_path / "results").write_text("a file where the folder should be")
    for out in (tmp_path / "results", tmp_path / "results" / "page"):
        with pytest.raises(SystemExit):
            script["main"]([str(tmp_path / "no.safetensors"), "--out", str(out)])
        assert "cannot be made" in capsys.readouterr().err


def test_one_edit_given_twice_is_refused(script, capsys, tmp_path):
    twice = ["--edit", EDITS[0], "--edit", EDITS[1], "--edit", EDITS[0]]
    with pytest.raises(SystemExit):
        script["main"]([str(tmp_path / "no.safetensors"), "--out", str(tmp_path / "page"), *twice])
    assert f"--edit {EDITS[0]!r} is given twice" in capsys.readouterr().err and not (tmp_path / "page").exists()


def test_the_edits_of_the_page_are_one_of_each_kind(script):
    from fatezero_ext import EditSettings, resolved_settings

    kinds = [resolved_settings(EditSettings(), script["SOURCE"], edit).kind for edit in script["EDITS"]]
    assert kinds == ["colour", "object", "background", "style"]
