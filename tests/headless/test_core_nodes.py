import os
from pathlib import Path

import pytest
import torch
from PIL import Image

from fatezero_ext.cli.node_pack import load_pack


@pytest.fixture(scope="module")
def images():
    return load_pack("nodes.headless.core_nodes.images")


@pytest.fixture(scope="module")
def core():
    return {node.GET_SCHEMA().node_id: node for node in load_pack("nodes.headless.core_nodes").CORE_NODES}


@pytest.fixture
def folder(headless, tmp_path):
    """The folder that input files are read from and results are saved below."""
    folders = headless.folders.Folders((tmp_path,), tmp_path / "out")
    reporter = headless.report.Reporter(load_pack("nodes.headless.command").Console(stderr=True))
    with headless.host.installed(headless.folders.RunnerHost(folders, reporter)):
        yield tmp_path


SOCKETS = {
    "LoadVideo": (["file"], ["VIDEO"]),
    "GetVideoComponents": (["video"], ["IMAGE", "AUDIO", "FLOAT", "INT"]),
    "CreateVideo": (["images", "fps", "audio", "bit_depth"], ["VIDEO"]),
    "SaveVideo": (
        ["video", "filename_prefix", "format", "format.codec", "format.codec.encoding", "codec"],
        ["VIDEO"],
    ),
    "LoadImage": (["image"], ["IMAGE", "MASK"]),
    "SaveImage": (["images", "filename_prefix"], ["IMAGE"]),
    "PreviewImage": (["images"], ["IMAGE"]),
    "PreviewAny": (["source"], ["STRING"]),
    "VAEEncode": (["pixels", "vae"], ["LATENT"]),
    "VAEDecode": (["samples", "vae"], ["IMAGE"]),
    "CLIPTextEncode": (["text", "clip"], ["CONDITIONING"]),
    "MaskToImage": (["mask"], ["IMAGE"]),
    "ImageScale": (["image", "upscale_method", "width", "height", "crop"], ["IMAGE"]),
    "ImageBatch": (["image1", "image2"], ["IMAGE"]),
    "ImageFromBatch": (["image", "batch_index", "length"], ["IMAGE"]),
    "RepeatImageBatch": (["image", "amount"], ["IMAGE"]),
}


@pytest.mark.parametrize("name", SOCKETS)
def test_sockets_are_those_of_comfyui_core_in_the_same_order(core, name):
    schema = core[name].GET_SCHEMA()
    found = [socket.id for socket in schema.inputs], [socket.io_type for socket in schema.outputs]
    assert found == SOCKETS[name]


def test_saved_picture_loads_as_it_was(core, folder):
    picture = torch.randint(0, 256, (1, 5, 7, 3), generator=torch.Generator().manual_seed(0)) / 255
    (saved,) = core["SaveImage"].execute(picture, "sub/picture").ui["saved"]
    assert saved.endswith("out/sub/picture_00001_.png")
    loaded, mask = core["LoadImage"].execute("out/sub/picture_00001_.png").args
    torch.testing.assert_close(loaded, picture)
    assert mask.shape == (1, 64, 64) and not mask.any()


def test_mask_of_a_loaded_picture_is_its_transparency(core, folder):
    picture = Image.new("RGBA", (4, 3), (255, 0, 0, 255))
    picture.putpixel((1, 2), (255, 0, 0, 0))
    picture.save(folder / "seen.png")
    mask = core["LoadImage"].execute("seen.png").args[1]
    assert mask.shape == (1, 3, 4) and mask[0, 2, 1] == 1 and mask.sum() == 1


def test_file_that_is_no_picture_is_refused_by_the_validation(core, folder):
    (folder / "text.png").write_text("not a picture")
    assert "is not a readable picture" in core["LoadImage"].validate_inputs("text.png")


def test_damaged_video_is_refused_by_the_validation(core, folder):
    (folder / "clip.mp4").write_bytes(b"nothing" * 100)
    assert "is not a readable video" in core["LoadVideo"].validate_inputs("clip.mp4")


def test_a_video_that_is_linked_or_not_chosen_is_no_name_of_a_file(core, folder):
    assert core["LoadVideo"].validate_inputs(None) is True  # known when it runs
    assert core["LoadVideo"].fingerprint_inputs(None) == []
    assert "no clip is chosen. Name one, such as --set LoadVideo.file=" in core["LoadVideo"].validate_inputs(" ")


def test_fingerprint_changes_with_the_file(core, folder):
    (folder / "clip.mp4").write_bytes(b"one")
    before = core["LoadVideo"].fingerprint_inputs("clip.mp4")
    assert core["LoadVideo"].fingerprint_inputs("clip.mp4") == before
    (folder / "clip.mp4").write_bytes(b"other")
    assert core["LoadVideo"].fingerprint_inputs("clip.mp4") != before


@pytest.mark.parametrize("name", ["../secret.png", "/etc/hostname", "sub/../../secret.png", "link.png"])
def test_files_outside_the_input_folder_are_not_read(headless, tmp_path, name):
    inside = tmp_path / "inside"
    inside.mkdir()
    (tmp_path / "secret.png").write_text("secret")
    (inside / "link.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(headless.folders.InputFileError, match="outside the input folder"):
        headless.folders.Folders((inside,), tmp_path).input_file(name)


def test_first_input_folder_wins_and_the_mark_of_comfyui_is_dropped(headless, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
        (folder / "clip.mp4").write_text(folder.name)
    (second / "other.mp4").write_text("other")
    folders = headless.folders.Folders((first, second), tmp_path)
    assert folders.input_file("clip.mp4 [input]") == first / "clip.mp4"
    assert folders.input_file("other.mp4") == second / "other.mp4"


def test_saved_files_are_numbered_after_the_highest_present(headless, tmp_path):
    (tmp_path / "edit_00007_.mp4").touch()
    (tmp_path / "edit_more_00009_.mp4").touch()
    path = headless.naming.next_free(tmp_path, "edit", "mp4", width=64, height=32)
    assert path == tmp_path / "edit_00008_.mp4"


def test_prefix_may_hold_the_size(headless, tmp_path):
    path = headless.naming.next_free(tmp_path, "a/%width%x%height%", "mp4", width=64, height=32)
    assert path == tmp_path / "a" / "64x32_00001_.mp4"


@pytest.mark.parametrize("prefix", ["../edit", "/tmp/edit", "", "a/../../edit", "video/"])
def test_results_are_saved_below_the_output_folder_only(headless, tmp_path, prefix):
    with pytest.raises(ValueError, match="names no file below the output folder"):
        headless.naming.next_free(tmp_path / "out", prefix, "mp4", width=1, height=1)


def test_a_whole_path_inside_a_relative_output_folder_is_a_name(headless, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "out")
    for whole in (tmp_path / "out" / "v", tmp_path / "link" / "v"):
        assert headless.naming.prefix_verdict(Path("out"), str(whole)) is True
    assert "takes names of" in headless.naming.prefix_verdict(Path("out"), str(tmp_path / "link" / ("v" * 300)))


@pytest.mark.parametrize("found", [-1, OSError("not supported"), ValueError("unknown")])
def test_a_file_system_that_does_not_know_its_limits_has_the_usual_ones(headless, tmp_path, monkeypatch, found):
    def pathconf(path, limit):
        if isinstance(found, Exception):
            raise found
        return found

    monkeypatch.setattr(os, "pathconf", pathconf)
    assert headless.naming.prefix_verdict(tmp_path, "v") is True
    assert "takes names of 255" in headless.naming.prefix_verdict(tmp_path, "v" * 300)


def test_batch_scales_the_second_pictures_to_the_first_ones_size(core):
    wide = torch.zeros(1, 8, 8, 3)
    wide[:, :, 2:6] = 1
    joined = core["ImageBatch"].execute(torch.ones(2, 4, 2, 3), wide).args[0]
    assert joined.shape == (3, 4, 2, 3) and joined.min() == 1


@pytest.mark.parametrize("method", ["nearest-exact", "bilinear", "area", "bicubic", "lanczos"])
@pytest.mark.parametrize(
    ("width", "height", "size"), [(4, 6, (6, 4)), (0, 16, (16, 24)), (24, 0, (16, 24)), (0, 0, (8, 12))]
)
def test_scaling_gives_the_size_asked_for_and_keeps_flat_colour(core, method, width, height, size):
    flat = torch.full((1, 8, 12, 3), 0.4)
    out = core["ImageScale"].execute(flat, method, width, height, "disabled").args[0]
    assert out.shape == (1, *size, 3)
    torch.testing.assert_close(out, torch.full_like(out, 0.4), atol=1e-5, rtol=0)


def test_scaling_with_crop_keeps_proportions(core):
    striped = torch.zeros(1, 8, 16, 3)
    striped[:, :, 4:12] = 1
    assert core["ImageScale"].execute(striped, "bilinear", 4, 4, "center").args[0].min() == 1


def test_taking_from_a_batch_stops_at_its_end(core):
    batch = torch.arange(4.0)[:, None, None, None].expand(4, 2, 2, 3)
    assert core["ImageFromBatch"].execute(batch, 2, 9).args[0][:, 0, 0, 0].tolist() == [2, 3]
    assert core["ImageFromBatch"].execute(batch, 9, 1).args[0][:, 0, 0, 0].tolist() == [3]


def test_mask_becomes_grey_pictures(core):
    mask = torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(0))
    image = core["MaskToImage"].execute(mask).args[0]
    assert image.shape == (2, 3, 4, 3) and torch.equal(image[..., 1], mask)
    assert core["MaskToImage"].execute(mask[0]).args[0].shape == (1, 3, 4, 3)


class MeanVae:
    """An object with ComfyUI's VAE methods: a latent is the mean over blocks of 8 pixels."""

    def encode(self, pixels):
        return torch.nn.functional.avg_pool2d(pixels.movedim(-1, 1), 8)

    def decode(self, samples):
        return samples.repeat_interleave(8, -1).repeat_interleave(8, -2).movedim(1, -1)


def test_any_object_with_the_vae_methods_encodes_and_decodes(core):
    picture = torch.full((2, 16, 24, 4), 0.3)
    latent = core["VAEEncode"].execute(picture, MeanVae()).args[0]
    assert latent["samples"].shape == (2, 3, 2, 3)
    torch.testing.assert_close(core["VAEDecode"].execute(latent, MeanVae()).args[0], picture[..., :3])


def test_any_value_is_shown_as_text(core):
    shown = [core["PreviewAny"].execute(value).ui["text"][0] for value in ("a", 1.5, None, [1, "b"], {1, 2})]
    assert shown[:4] == ["a", "1.5", "None", '[\n    1,\n    "b"\n]'] and "1" in shown[4]


def test_silent_video_has_no_sound_to_hand_on(core, folder):
    clip = core["CreateVideo"].execute(torch.zeros(2, 16, 16, 3), 8.0).args[0]
    (saved,) = core["SaveVideo"].execute(clip, "clip", "auto", "auto").ui["saved"]
    loaded = core["LoadVideo"].execute("out/" + saved.rpartition("/")[2]).args[0]
    frames, sound, fps, bits = core["GetVideoComponents"].execute(loaded).args
    assert frames.all().shape == (2, 16, 16, 3) and sound is None and fps == 8.0 and bits == 8


def test_what_shows_or_saves_hands_its_input_on(core, folder):
    """As in newer ComfyUI, where other nodes may follow."""
    pictures, clip = torch.zeros(2, 16, 16, 3), core["CreateVideo"].execute(torch.zeros(2, 16, 16, 3), 8.0).args[0]
    assert core["SaveImage"].execute(pictures, "kept").args == (pictures,)
    assert core["PreviewImage"].execute(pictures).args == (pictures,)
    assert core["SaveVideo"].execute(clip, "kept", "auto").args == (clip,)
    assert core["PreviewAny"].execute(True).args == ("True",)


def saved_video(**widgets):
    """A clip that is made and saved; widgets: of both nodes."""
    depth = {name: widgets.pop(name) for name in ("bit_depth",) if name in widgets}
    return {
        "1": {"class_type": "LoadImage", "inputs": {"image": "grey.png"}},
        "2": {"class_type": "CreateVideo", "inputs": {"images": ["1", 0], "fps": 8, "audio": None, **depth}},
        "3": {"class_type": "SaveVideo", "inputs": {"video": ["2", 0], "filename_prefix": "v", "format": "auto"}},
        "4": {"class_type": "PreviewAny", "inputs": {"source": ["3", 0]}},
    } | {
        "3": {
            "class_type": "SaveVideo",
            "inputs": {"video": ["2", 0], "filename_prefix": "v", "format": "auto", **widgets},
        }
    }


@pytest.mark.parametrize(
    "widgets",
    [
        {},
        {"codec": "h264"},
        {"format.codec": "auto"},
        {"format.codec": "h264", "format.codec.encoding": "auto", "codec": "auto"},
        {"bit_depth": 8},
    ],
)
def test_the_widgets_of_every_comfyui_are_read(headless, types, folder, widgets):
    Image.new("RGB", (16, 16)).save(folder / "grey.png")
    graph = headless.workflow.graph_from(saved_video(**widgets), types)
    assert headless.validate.validated(graph, types).remarks == ()


@pytest.mark.parametrize(
    ("widgets", "words"),
    [
        ({"codec": "av1"}, "input 'codec': 'av1' is not in the list"),
        ({"format.codec": "av1"}, "input 'format.codec': 'av1' is not in the list"),
        ({"format.codec": "h264", "format.codec.encoding": "re-encode"}, "'re-encode' is not in the list"),
        ({"bit_depth": 10}, "input 'bit_depth': bit_depth is 10; the runner writes 8 bits"),
    ],
)
def test_what_would_be_written_otherwise_is_refused(refused, folder, widgets, words):
    Image.new("RGB", (16, 16)).save(folder / "grey.png")
    assert words in refused(saved_video(**widgets))
