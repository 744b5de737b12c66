"""The templates that need no download: they run as they are, and the built-in model knows their words."""

import json
import re
from functools import cache
from pathlib import Path

import av
import pytest
from PIL import Image

from fatezero_ext.cli.examples import EXAMPLES
from fatezero_ext.cli.main import main
from fatezero_ext.cli.node_pack import load_pack
from fatezero_ext.media.video import read_video
from fatezero_ext.toy.world.world import OBJECTS

from .template_files import ALL, BUILT_IN, BY_NAME, FIRST, TUNED, few, nodes_of

PROMPTED = {"PrimitiveStringMultiline", "FateZero_DDIMInvert", "FateZero_P2PEdit"}
"""Nodes whose first widget is a prompt."""


@pytest.mark.parametrize("path", BUILT_IN, **BY_NAME)
def test_what_needs_no_download_names_no_file_and_is_valid_as_it_is(path, tmp_path, capsys):
    assert not any(node["properties"].get("models") for node in nodes_of(path))
    assert main(["run", str(path), "--check", "--output", str(tmp_path)]) == 0, capsys.readouterr().err


def test_the_first_template_is_listed_first_and_has_the_groups_of_those_for_real_files():
    names = sorted(path.stem for path in (FIRST, *ALL))  # the numbered ones come behind these: web/template_order.js
    assert names[0] == FIRST.stem
    groups = [
        {group["title"][:2]: group["bounding"][:2] for group in json.loads(path.read_text())["groups"]}
        for path in (FIRST, EXAMPLES / "Change an object, keep the motion.json")
    ]
    for number in "1234":
        assert groups[0][f"{number} "] == groups[1][f"{number} "]


@pytest.mark.parametrize("path", BUILT_IN, **BY_NAME)
def test_the_built_in_model_knows_every_word_of_a_templates_prompts_and_of_what_its_note_offers(path, built_in):
    (note,) = [node["widgets_values"][0] for node in nodes_of(path) if node["type"] == "MarkdownNote"]
    (loader,) = [node for node in nodes_of(path) if node["type"] == "FateZero_LoadPseudo3DUNet"]
    said = re.findall(r"(?:model|It) knows (.+?)\.|^Try: (.+)\.$", note, flags=re.M)
    typed = [node["widgets_values"][0] for node in nodes_of(path) if node["type"] in PROMPTED]
    assert said and len(typed) == 2
    for words in (*typed, *(re.sub("[*,;]", " ", "".join(each)) for each in said)):
        assert load_pack("nodes.method.remarks").unknown_words(built_in(loader["widgets_values"][0]), words) == ""


def test_the_first_template_s_note_names_all_animals_and_things_of_its_model():
    (note,) = [node["widgets_values"][0] for node in nodes_of(FIRST) if node["type"] == "MarkdownNote"]
    assert {*OBJECTS} <= {*re.sub("[*,;.]", " ", note).split()}


@pytest.fixture(scope="module")
def built_in():
    """The UNet of a built-in model, by its name."""
    names = load_pack("fatezero_ext.models.folder.detect").BUILT_IN_NAMES
    worlds = {name: world for world, name in names.items()}
    return cache(lambda name: load_pack("fatezero_ext").load_toy(world=worlds[name]).unet)


@pytest.mark.slow
def test_the_first_template_saves_an_edit_of_the_packs_clip_and_its_comparison(tmp_path, capsys):
    assert main(["run", str(FIRST), "--output", str(tmp_path), *few(FIRST)]) == 0, capsys.readouterr().err
    saved = [Path(line) for line in capsys.readouterr().out.splitlines()]
    clip, comparison = (next(each for each in saved if each.suffix == kind) for kind in (".mp4", ".webp"))
    assert clip == tmp_path / "video" / "edit_00001_.mp4"
    with av.open(str(clip)) as container:
        assert len(list(container.decode(video=0))) == 3
    with Image.open(comparison, formats=("WEBP",)) as moving:
        assert moving.n_frames == 3


@pytest.mark.slow
def test_the_template_of_a_tuned_model_trains_once_and_edits_with_what_was_learnt(tmp_path, capsys):
    command = ["run", str(TUNED), "--output", str(tmp_path), *few(TUNED), "--set", "TuneOnClip.learning_rate=0.01"]
    assert main(command) == 0, capsys.readouterr().err
    learnt = tmp_path / "tuned on red circle"
    record = json.loads((learnt / "tuning.json").read_text())
    before = (learnt / "tuning.json").stat().st_mtime_ns
    assert record["steps"] == 3 and record["frames, height, width"] == [3, 8, 8]
    other = [*command, "--set", "What it should be.value=a red star on the grass"]
    assert main(other) == 0, capsys.readouterr().err
    assert (learnt / "tuning.json").stat().st_mtime_ns == before  # the result is taken as it is
    edits = [read_video(tmp_path / "video" / f"edit_0000{number}_.mp4").frames for number in (1, 2)]
    assert len(edits[0]) == 3 and not edits[0].equal(edits[1])
