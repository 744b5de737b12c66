"""Fresh clips, the edits asked of them, and the table of their figures."""

import json
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from fatezero_ext.errors import ModelError
from fatezero_ext.models.folder.detect import BUILT_IN_FOLDERS, TOY_FOLDER
from fatezero_ext.models.load import load_model
from fatezero_ext.models.unet.inflate import InflationSettings
from fatezero_ext.prompts.prompt import read_prompt
from fatezero_ext.toy import edit_quality
from fatezero_ext.toy.evaluation import evaluate, objects
from fatezero_ext.toy.evaluation.edit_runs import SETTINGS, Outcome, Runs, edit_prompt
from fatezero_ext.toy.evaluation.edits import measure
from fatezero_ext.toy.evaluation.fresh_clips import ALIKE, KINDS, MOTIONS, RADII, fresh_clip, target
from fatezero_ext.toy.evaluation.quality_table import as_json, rows, save_sheets
from fatezero_ext.toy.world.clips import READABLE_BACKGROUNDS, READABLE_COLOURS, READABLE_SHAPES
from fatezero_ext.toy.world.rich import can_be_seen
from fatezero_ext.toy.world.world import BACKGROUNDS, OBJECTS, OWN_COLOUR, SIZE, STYLES

SEED = 90_210
MANY = [fresh_clip(SEED, index) for index in range(96)]
OBJECT_CLIPS = [fresh_clip(SEED, index, world="objects") for index in range(96)]


def readable(clip):
    scene = clip.scenes[0]
    return (
        scene.shape in READABLE_SHAPES and scene.colour in READABLE_COLOURS and scene.background in READABLE_BACKGROUNDS
    )


def test_a_seed_gives_the_same_clips_and_another_seed_others():
    assert fresh_clip(SEED, 3) == MANY[3]
    assert len({clip.scenes for clip in MANY}) == len(MANY)
    assert not {clip.scenes for clip in MANY} & {fresh_clip(SEED + 1, index).scenes for index in range(96)}


def test_five_of_eight_clips_are_readable_and_the_others_come_from_the_whole_world():
    assert all(readable(clip) for index, clip in enumerate(MANY) if index % 8 < 5)
    wide = [clip for index, clip in enumerate(MANY) if index % 8 >= 5]
    assert sum(readable(clip) for clip in wide) < len(wide) / 2


def test_objects_stay_visible_and_inside_the_frame():
    for clip in (*MANY, *OBJECT_CLIPS):
        first = clip.scenes[0]
        assert can_be_seen(first.shape, first.colour, first.background)
        for scene in clip.scenes:
            assert scene.radius < min(scene.x, scene.y, SIZE - scene.x, SIZE - scene.y)
    edges = np.stack([clip.masks for clip in MANY])
    assert not any(edge.any() for edge in (edges[..., 0, :], edges[..., -1, :], edges[..., 0], edges[..., -1]))


def test_all_motions_occur_and_some_objects_grow_and_some_are_fast():
    radii = np.array([[scene.radius for scene in clip.scenes] for clip in MANY])
    places = np.array([[(scene.x, scene.y) for scene in clip.scenes] for clip in MANY])
    growing = np.ptp(radii, axis=1) > 1
    assert 0.1 < growing.mean() < 0.35
    assert RADII[0] <= radii[~growing].min() and radii[~growing].max() <= RADII[1]
    paths = np.linalg.norm(np.diff(places, axis=1), axis=-1)
    assert paths.max() > 8 and (paths.sum(1) > 3).all() and len(MOTIONS) == 5


def test_old_clips_of_shapes_stay_what_they_were():
    """Figures of one seed compare only so."""
    scenes = [MANY[index].scenes[3] for index in range(0, 16, 4)]
    assert [(s.shape, s.colour, s.background, s.texture) for s in scenes] == [
        ("circle", "green", "white", 2142521836),
        ("triangle", "blue", "gray", 1694174723),
        ("triangle", "yellow", "sky", 1449246615),
        ("heart", "purple", "water", 1114131105),
    ]
    places = [(s.x, s.y, s.radius) for s in scenes]
    expected = [(42.533, 41.008, 13.713), (30.047, 33.459, 11.145), (32.308, 29.820, 12.468), (31.385, 38.147, 10.154)]
    assert np.allclose(places, expected, rtol=0, atol=6e-4)


def test_clips_of_objects_show_all_of_them_and_readable_backgrounds_in_five_of_eight():
    assert {clip.scenes[0].shape for clip in OBJECT_CLIPS} == set(OBJECTS)
    grounds = [clip.scenes[0].background for clip in OBJECT_CLIPS]
    assert all(ground in READABLE_BACKGROUNDS for index, ground in enumerate(grounds) if index % 8 < 5)
    assert set(grounds) > set(READABLE_BACKGROUNDS) and set(grounds) <= set(BACKGROUNDS)


def test_an_object_becomes_another_of_its_group():
    for index, clip in enumerate(OBJECT_CLIPS):
        (name,) = target(clip, SEED, index, "object").values()
        assert any({name, clip.scenes[0].shape} <= set(group) for group in ALIKE)
    assert sum(len(group) for group in ALIKE) == len(OBJECTS)


@pytest.mark.parametrize(
    ("clips", "kind"),
    [(clips, kind) for world, clips in (("shapes", MANY), ("objects", OBJECT_CLIPS)) for kind in KINDS[world]],
)
def test_edits_change_every_attribute_they_name_and_leave_the_object_visible(clips, kind):
    for index, clip in enumerate(clips):
        changes = target(clip, SEED, index, kind)
        assert changes == target(clip, SEED, index, kind)
        after = clip.edited(**changes).scenes[0]
        assert all(getattr(after, name) == value != getattr(clip.scenes[0], name) for name, value in changes.items())
    assert set(changes) == {"removal": {"shape"}, "reconstruction": set()}.get(
        kind, set(kind.replace("object", "shape").split("+"))
    )


def test_styles_take_turns_and_each_meets_readable_and_other_clips():
    styles = [target(clip, SEED, index, "style")["style"] for index, clip in enumerate(MANY[:32])]
    assert all(styles.count(style) == 8 for style in STYLES)
    for style in STYLES:
        assert len({index % 8 < 5 for index in range(32) if styles[index] == style}) == 2
    assert target(MANY[0], SEED, 0, "sketch") == {"style": "sketch"}


def test_an_unknown_kind_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match="no kind of edit 'size'; there are colour, shape"):
        target(MANY[0], SEED, 0, "size")
    with pytest.raises(ValueError, match="no kind of edit 'colour'; there are object, background"):
        target(OBJECT_CLIPS[0], SEED, 0, "colour")


@pytest.mark.parametrize("world", ["shapes", "objects"])
def test_each_half_of_the_world_is_measured_on_the_model_that_draws_it(world):
    assert edit_quality._options(["--seed", "1", "--world", world]).model == BUILT_IN_FOLDERS[world]


def test_a_model_that_knows_no_objects_is_refused_before_the_first_edit(capsys):
    assert edit_quality.main(["--seed", "1", "--world", "objects", "--clips", "1", "--model", str(TOY_FOLDER)]) == 1
    assert "does not know all objects" in capsys.readouterr().err


def test_the_command_refuses_kinds_of_the_other_half(capsys):
    with pytest.raises(SystemExit):
        edit_quality.main(["--seed", "1", "--world", "objects", "--kinds", "colour", "style"])
    assert "--kinds colour; clips of objects have object, background" in capsys.readouterr().err


@pytest.fixture(scope="module")
def text_encoder():
    return load_model(TOY_FOLDER, InflationSettings(key_frames=())).text_encoder


@pytest.mark.parametrize("settings", SETTINGS)
def test_every_edit_has_settings_whose_words_stand_in_its_prompts(text_encoder, settings):
    for index, clip in enumerate(MANY[:16]):
        for kind in (*KINDS["shapes"], *STYLES):
            before = clip.scenes[0]
            after = clip.edited(**target(clip, SEED, index, kind)).scenes[0]
            chosen, prompt = SETTINGS[settings](kind, before, after), edit_prompt(before, after)
            assert len(prompt.split()) == len(clip.prompt.split()) or chosen.mode == "refine"
            known = read_prompt(text_encoder, prompt, "edit prompt")
            assert len(known.words) == len(prompt.split())
            if chosen.blend is not None:
                assert all(words in clip.prompt for words in chosen.blend.source_words)
                assert all(words in prompt for words in chosen.blend.edit_words)


def test_an_object_is_taken_away_by_the_background_s_word():
    scene = replace(MANY[0].scenes[0], shape="circle", colour="orange", background="sand")
    assert edit_prompt(scene, replace(scene, shape="none")) == "a sand sand on the sand"
    cat = replace(scene, shape="cat", colour=OWN_COLOUR)
    assert edit_prompt(cat, replace(cat, shape="none")) == "a sand on the sand"


def outcome(index, kind, frames, changes):
    """An edit whose frames are made by hand."""
    clip = fresh_clip(SEED, index, frames=2)
    figures = measure(frames, clip, changes)
    ceiling = measure(clip.edited(**changes).frames, clip, changes)
    pixels = np.round(frames * 255).astype(np.uint8)
    return Outcome(index, kind, clip, changes, "words", pixels, figures, ceiling, 30.0 + index)


@pytest.fixture(scope="module")
def outcomes():
    """Four colour edits, of which the last changed nothing and the second is off by a tenth; two in style."""
    made = []
    for index in range(4):
        clip = fresh_clip(SEED, index, frames=2)
        changes = target(clip, SEED, index, "colour")
        truth = clip.edited(**changes).frames
        frames = {1: truth * 0.95, 3: clip.frames}.get(index, truth)
        made.append(outcome(index, "colour", frames, changes))
    for index in (0, 1):
        clip = fresh_clip(SEED, index, frames=2)
        changes = target(clip, SEED, index, "style")
        made.append(outcome(index, "style", clip.edited(**changes).frames, changes))
    return made


def test_rows_sum_up_the_figures_of_each_kind(outcomes):
    found = rows(outcomes)
    colour, figures = found["colour"], [one.figures for one in outcomes[:4]]
    assert list(found) == ["colour", "style", *(f"style: {one.changes['style']}" for one in outcomes[4:])]
    assert colour["right"] == 0.75 and colour["clips_right"] == 3 and colour["clips"] == 4
    assert colour["stays_psnr"] == pytest.approx(np.mean([one.stays_psnr for one in figures]))
    assert colour["stays_psnr_worst"] == min(one.stays_psnr for one in figures) == figures[1].stays_psnr < 40
    assert colour["stays_psnr_ceiling"] == 99 and colour["left"] is None
    assert colour["against_vae"] == 31.5


def test_the_json_holds_every_edit_and_is_plain(outcomes):
    found = json.loads(json.dumps(as_json(outcomes), allow_nan=False))
    assert [(one["clip"], one["kind"]) for one in found["edits"]] == [(one.index, one.kind) for one in outcomes]
    assert found["edits"][0]["figures"]["right"] == 2 and found["kinds"]["style"]["clips"] == 2


def test_sheets_show_the_worst_and_the_best_quarter(outcomes, tmp_path):
    files = save_sheets(outcomes[:4], tmp_path)
    assert [file.name for file in files] == ["colour_worst.png", "colour_best.png"]
    worst = np.asarray(Image.open(files[0], formats=["PNG"]).convert("RGB"))
    unchanged = (outcomes[3].frames[0, 0, 0], outcomes[3].frames[0, SIZE // 2, SIZE // 2])
    for pixel in unchanged:  # the clip that changed nothing is the worst
        assert (worst == pixel).all(-1).any()


@pytest.fixture
def spoken_for(monkeypatch, outcomes):
    """The command with edits that are made already; `stop` is where Ctrl-C comes, or an error."""

    def prepare(stop=None, error=KeyboardInterrupt):
        def of_clip(_runs, index, kinds):
            if index == stop:
                raise error
            yield from (one for one in outcomes if one.index == index and one.kind in kinds)

        monkeypatch.setattr(Runs, "of_clip", of_clip)
        monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)

    return prepare


def test_the_command_prints_a_table_and_writes_figures_and_pictures(spoken_for, capsys, tmp_path):
    spoken_for()
    given = ["--clips", "4", "--seed", "7", "--kinds", "colour", "--json", str(tmp_path / "f.json")]
    assert edit_quality.main([*given, "--pictures", str(tmp_path / "sheets")]) == 0
    printed = capsys.readouterr().out
    assert "seed 7" in printed and "0.750" in printed and "colour_worst.png" in printed
    assert json.loads((tmp_path / "f.json").read_text())["kinds"]["colour"]["clips"] == 4


def test_an_interrupted_command_reports_what_it_has(spoken_for, capsys, tmp_path):
    spoken_for(stop=2)
    given = ["--clips", "4", "--seed", "7", "--json", str(tmp_path / "f.json")]
    assert edit_quality.main(given) == 130
    assert "2 clips" in capsys.readouterr().out
    assert json.loads((tmp_path / "f.json").read_text())["kinds"]["colour"]["clips"] == 2


@pytest.mark.parametrize(("error", "code"), [(ModelError("not finite"), 1), (RuntimeError("out of memory"), None)])
def test_a_command_that_an_error_ends_reports_what_it_has(spoken_for, capsys, tmp_path, error, code):
    spoken_for(2, error)
    given = ["--clips", "4", "--seed", "7", "--json", str(tmp_path / "f.json")]
    with nullcontext() if code else pytest.raises(RuntimeError, match="out of memory"):
        assert edit_quality.main(given) == code and "not finite" in capsys.readouterr().err
    assert json.loads((tmp_path / "f.json").read_text())["kinds"]["colour"]["clips"] == 2


@pytest.mark.parametrize("command", [evaluate, objects])
def test_measuring_a_model_reports_what_it_has_when_an_error_ends_it(monkeypatch, capsys, tmp_path, command):
    def stops(*given):
        next(each for each in given if isinstance(each, dict)).update(colour=1.0)
        raise ModelError("no VAE there")

    monkeypatch.setattr(command, "evaluate", stops)
    monkeypatch.setattr(command, "load_model", lambda folder: None)
    file = tmp_path / "made" / "figures.json"
    assert command.main([str(TOY_FOLDER), "--json", str(file)]) == 1
    printed = capsys.readouterr()
    assert json.loads(file.read_text()) == {"colour": 1.0}
    assert "colour" in printed.out and printed.err == "no VAE there\n"


@pytest.mark.parametrize(
    ("command", "given", "message"),
    [
        (edit_quality, ["--seed", "1", "--json", "{file}/f.json"], "cannot be made"),
        (edit_quality, ["--seed", "1", "--pictures", "{file}/sheets"], "cannot be made"),
        (evaluate, ["--json", "{file}/f.json"], "cannot be made"),
        (objects, [str(TOY_FOLDER), "--json", "{folder}"], "is a folder; a file is needed"),
        (objects, [str(TOY_FOLDER), "--sheet", "{file}/sheet.png"], "cannot be made"),
        (objects, [str(TOY_FOLDER), "--sheet", "{folder}/sheet.jpg"], "End the name in .png"),
    ],
)
def test_results_that_cannot_be_written_are_refused_before_the_work(tmp_path, capsys, command, given, message):
    (tmp_path / "file").write_text("")
    paths = {"file": tmp_path / "file", "folder": tmp_path}
    with pytest.raises(SystemExit) as stop:
        command.main([text.format(**paths) for text in given])
    assert stop.value.code == 2 and message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--clips", "0", "--seed", "1"], "whole number of at least 1"),
        (["--seed", "-1"], "whole number of at least 0"),
        (["--clips", "2"], "required: --seed"),
        (["--seed", "1", "--kinds", "size"], "--kinds size; clips of shapes have colour"),
    ],
)
def test_the_command_s_mistakes_are_named(capsys, given, message):
    with pytest.raises(SystemExit) as stop:
        edit_quality.main(given)
    assert stop.value.code == 2 and message in capsys.readouterr().err


def test_a_folder_without_a_model_is_an_error_in_words(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)
    assert edit_quality.main(["--clips", "1", "--seed", "1", "--model", str(tmp_path)]) == 1
    printed = capsys.readouterr()
    assert str(tmp_path) in printed.err and printed.out == ""


@pytest.mark.slow
def test_a_clip_is_edited_and_reconstructed_by_the_built_in_model():
    models = {}

    def model(keys):
        return models.setdefault(keys, load_model(TOY_FOLDER, InflationSettings(key_frames=keys)))

    made = list(Runs(model, SEED, frames=1).of_clip(0, ("colour", "background", "reconstruction")))
    assert [one.kind for one in made] == ["colour", "background", "reconstruction"] and set(models) == {(), ("mid", 0)}
    assert made[0].figures.edited == 1 and made[0].figures.stays_psnr > 25
    assert made[2].against_vae > 30 and made[2].changes == {}
