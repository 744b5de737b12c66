"""Films that nodes hand to ComfyUI's page: where somebody looks, and nowhere else."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from fatezero_ext import Storage
from fatezero_ext.cli.node_pack import load_pack
from fatezero_ext.errors import SettingsError
from fatezero_ext.pictures.film_sheet import film_sheet, lit
from fatezero_ext.pictures.labelled_sheet import Tile

from ..small_runs import EDIT as EDIT_PROMPT
from ..small_runs import inverted

COMPARE, EDIT, HEAT = (
    load_pack(f"nodes.{name}") for name in ("clips.compare_clips", "method.edit", "look.word_heat_maps")
)


def clip(value):
    return torch.full((2, 32, 32, 3), value)


@pytest.fixture
def comfy(monkeypatch, tmp_path):
    """ComfyUI's host over a stand-in of the server, whose page listens."""
    server = SimpleNamespace(client_id="page")
    monkeypatch.setitem(sys.modules, "server", SimpleNamespace(PromptServer=SimpleNamespace(instance=server)))
    folder = SimpleNamespace(get_temp_directory=lambda: str(tmp_path / "temp"))
    monkeypatch.setitem(sys.modules, "folder_paths", folder)
    return SimpleNamespace(host=load_pack("nodes.host.comfy").ComfyHost(), server=server, temp=tmp_path / "temp")


def never():
    raise AssertionError("nobody looks")


def test_without_a_page_nothing_is_drawn(comfy, tmp_path):
    comfy.server.client_id = None
    assert comfy.host.film(never) is None
    assert load_pack("nodes.host.python").PythonHost().film(never) is None
    assert not comfy.temp.exists()


def test_a_film_is_a_temporary_picture_with_its_labels(comfy):
    shown = comfy.host.film(lambda: [Tile("source", clip(0.2)), Tile("<b>night</b>", clip(0.8))])
    ((entry,),) = shown.values()
    assert list(shown) == ["fatezero_film"]
    assert entry["type"] == "temp" and entry["frames"] == 2 and entry["labels"] == ["source", "<b>night</b>"]
    with Image.open(comfy.temp / entry["filename"], formats=["JPEG"]) as picture:
        pixels = np.asarray(picture.convert("RGB")) / 255
    half = pixels.shape[1] // 2
    assert abs(pixels[:, :half] - 0.2).max() < 0.02 and abs(pixels[:, half:] - 0.8).max() < 0.02


def test_a_disk_that_cannot_be_written_costs_the_picture_and_not_the_run(comfy, caplog):
    comfy.temp.write_text("a file where the folder should be")
    assert comfy.host.film(lambda: [Tile("source", clip(0.2))]) is None
    assert any("shows no picture of this run" in said for said in caplog.messages)


def test_clips_that_cannot_be_drawn_cost_the_picture_and_not_the_run(comfy, caplog):
    assert comfy.host.film(lambda: [Tile("source", torch.rand(2, 32, 32, 4))]) is None
    assert any("shows no picture of this run" in said and "[frames, height" in said for said in caplog.messages)


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("none left")])
def test_too_little_memory_costs_the_picture_and_not_the_run(comfy, caplog, error):
    def make():
        raise error

    assert comfy.host.film(make) is None
    assert any("shows no picture of this run" in said for said in caplog.messages)


def test_of_hundreds_of_frames_an_edit_draws_those_that_the_film_shows():
    frames, mask = torch.rand(100, 64, 48, 3), (torch.rand(100, 16, 12) > 0.5).float()
    latents = torch.rand(100, 4, 16, 12)
    colours = SimpleNamespace(rough_frames=lambda each: each.movedim(1, -1)[..., :3], scale=2.0)
    controller = SimpleNamespace(
        unet=SimpleNamespace(latent_format=colours), inverted=lambda: SimpleNamespace(latents=[latents])
    )
    result = SimpleNamespace(mask=mask, latents=latents / 4)
    for given in (frames, None):
        found = EDIT._film(controller, result, given)
        source = colours.rough_frames(latents) if given is None else frames
        edited = [] if given is not None else [colours.rough_frames(latents / 2)]
        whole = [Tile("", clip) for clip in (source, lit(source, mask), *edited)]
        assert {len(tile.frames) for tile in found} == {16}
        drawn, wanted = (np.asarray(film_sheet(tiles).picture).astype(int) for tiles in (found, whole))
        assert abs(drawn - wanted).max() <= 1


class Looking:
    """A host whose page looks: it notes the clips that nodes hand to it."""

    def __init__(self):
        self.seen = []

    def __getattr__(self, name):
        return getattr(load_pack("nodes.host.python").PythonHost(), name)

    def film(self, make):
        self.seen.append(make())
        return {"fatezero_film": []}


@pytest.fixture
def looking():
    host = Looking()
    with load_pack("nodes.host").installed(host):
        yield host


def test_compare_clips_shows_its_clips_under_their_labels(looking):
    returned = COMPARE.CompareClips.execute(source=[clip(0.1)], edit_1=[clip(0.2), clip(0.3)], labels=["\nnight"])
    ((first, *edits),) = looking.seen
    assert [tile.label for tile in (first, *edits)] == ["source", "night", "edit 2"]
    assert first.frames.equal(clip(0.1)) and edits[1].frames.equal(clip(0.3))
    assert returned.ui == {"fatezero_film": []}


STORAGE = Storage("features", "ram")
WIDGETS = load_pack("nodes.method.video_edit_graph").widgets_of


def film_of_an_edit(looking, model, images=None, **widgets):
    words = {"edit_prompt": EDIT_PROMPT, "kind": "custom", "guidance": 1.0, **widgets}
    controller = inverted(model, STORAGE)
    given = {"controller": controller, "clip": model.text_encoder, "images": images}
    EDIT.P2PEdit.execute(**given, **WIDGETS(EDIT.P2PEdit, **words))
    return controller.inverted().latents[0], looking.seen.pop()


def test_an_edit_shows_the_source_its_mask_and_the_edit(looking, model):
    latents, (source, mask, edit) = film_of_an_edit(looking, model, blend_words="jeep")
    assert [tile.label for tile in (source, mask, edit)] == ["source, rough colours", "mask", "edit, rough colours"]
    rough = model.unet.latent_format.rough_frames(latents)
    assert source.frames.equal(rough)
    same = (mask.frames == rough).all(dim=-1)
    assert same.any() and not same.all()
    assert (edit.frames - rough).abs().max() > 0.01 and edit.frames.shape == rough.shape


def test_an_edit_without_a_mask_shows_none(looking, model):
    _latents, film = film_of_an_edit(looking, model)
    assert [tile.label for tile in film] == ["source, rough colours", "edit, rough colours"]


def test_an_edit_without_a_mask_is_shown_beside_linked_frames(looking, model):
    frames = torch.rand(3, 64, 64, 3)
    _latents, film = film_of_an_edit(looking, model, frames)
    assert [tile.label for tile in film] == ["source", "edit, rough colours"]
    assert film[0].frames.equal(frames) and film_sheet(film).labels == ("source", "edit, rough colours")


def test_an_edits_mask_is_shown_over_the_clip_where_its_frames_are_linked(looking, model):
    frames = torch.rand(3, 64, 64, 3)
    _latents, (source, mask) = film_of_an_edit(looking, model, frames, blend_words="jeep")
    assert source.frames.equal(frames)
    same = (mask.frames == frames).all(dim=-1)
    assert same.any() and not same.all()
    cells = same.unflatten(1, (16, 4)).unflatten(3, (16, 4))
    assert (cells.all((2, 4)) == cells.any((2, 4))).all()  # a cell is 4 pixels a side here


def test_transparent_frames_are_shown_without_their_transparency(looking, model):
    frames = torch.rand(3, 64, 64, 4)
    _latents, (source, mask) = film_of_an_edit(looking, model, frames, blend_words="jeep")
    assert source.frames.equal(frames[..., :3])
    assert film_sheet([source, mask]).frames == 3


def test_frames_of_another_clip_are_refused_before_the_edit(looking, model):
    with pytest.raises(SettingsError, match="images are 2 frames of 64x64"):
        film_of_an_edit(looking, model, torch.rand(2, 64, 64, 3))
    assert not looking.seen


@pytest.mark.parametrize("channels", [None, 3, 4])
def test_heat_is_shown_over_the_clip_whether_its_frames_are_linked_or_not(looking, model, channels):
    controller = inverted(model, STORAGE)
    frames = torch.rand(3, 16, 16, channels) if channels else None
    widgets = WIDGETS(HEAT.WordHeatMaps, words="silver jeep, road", picture_height=64)
    HEAT.WordHeatMaps.execute(controller=controller, images=frames, **widgets)
    ((source, *heats),) = looking.seen
    assert [tile.label for tile in (source, *heats)] == ["source", "silver jeep", "road"]
    assert {tile.frames.shape for tile in (source, *heats)} == {(3, 64, 64, 3)}
