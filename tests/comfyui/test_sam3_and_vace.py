"""The templates with SAM3 and VACE from a clip to the saved one, with small model files of random weights.

Opt-in: `FATEZERO_SMALL_FILES=1`. Real files have more layers and other weights, and the same names and shapes of them.
"""

import json
import os
from pathlib import Path

import av
import numpy as np
import pytest

from fatezero_ext.cli.examples import EXAMPLES
from tests.comfyui.http_server import Server

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not os.environ.get("FATEZERO_SMALL_FILES"), reason="takes minutes: set FATEZERO_SMALL_FILES=1"),
]
OWN_MASK, REPAINTED = "Edit inside your own mask (SAM3)", "Find by words, repaint with VACE"
WIDTH, HEIGHT, FPS, LENGTH = 274, 602, 25, 20
"""Of a portrait clip whose sides are no multiples of 16."""
FEW = {
    "LoadVideo": {"file": "portrait.mp4"},
    "FateZero_PrepareFrames": {"short_side": 64},
    "FateZero_DDIMInvert": {"steps": 2, "inversion_passes": 0},
    "KSampler": {"steps": 1},
    "SaveVideo": {"format": "auto", "format.codec": "auto", "codec": "auto"},
}
"""Widgets of a run that a CPU can do; the last in the forms of newer versions and of older ones."""
FILES = {
    "stable_diffusion": "checkpoints/v1-5-pruned-emaonly-fp16.safetensors",
    "sam31": "checkpoints/sam3.1_multiplex_fp16.safetensors",
    "vace": "diffusion_models/wan2.1_vace_1.3B_fp16.safetensors",
    "umt5_scaled": "text_encoders/umt5_xxl_fp8_e4m3fn_scaled.safetensors",
    "wan_vae": "vae/wan_2.1_vae.safetensors",
}
WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}


@pytest.fixture(scope="module")
def server(comfyui, tmp_path_factory):
    base = tmp_path_factory.mktemp("base")
    (base / "custom_nodes").mkdir()
    (base / "custom_nodes" / "small_sizes.py").symlink_to(Path(__file__).with_name("small_sizes.py"))
    from tests.comfyui import small_files

    for made, name in FILES.items():
        if made != "sam31" or (comfyui / "comfy" / "ldm" / "sam3").is_dir():
            (base / "models" / name).parent.mkdir(parents=True, exist_ok=True)
            getattr(small_files, made)(base / "models" / name)
    (base / "input").mkdir()
    write_portrait(base / "input" / "portrait.mp4")
    with Server(comfyui, base) as started:
        yield started


def write_portrait(path):
    """A disc that moves on a grey ground."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number in range(LENGTH):
            picture = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
            picture[(rows - HEIGHT // 2) ** 2 + (columns - 60 - 8 * number) ** 2 < 50**2] = (220, 40, 30)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture).reformat(format="yuv420p")))
        container.mux(stream.encode(None))


def graph_of(server, title, **further):
    """The template in the API's format, as the page makes it; further: widgets by node type."""
    document = json.loads((EXAMPLES / f"{title}.json").read_text())
    sources = {link[0]: [str(link[1]), link[2]] for link in document["links"]}
    graph = {}
    for node in document["nodes"]:
        kind = node["type"]
        if kind == "MarkdownNote":
            continue
        known = server.get(f"/object_info/{kind}")[kind]["input"]
        values, inputs = iter(node["widgets_values"]), {}
        for name, (typed, *options) in (known.get("required", {}) | known.get("optional", {})).items():
            extra = options[0] if options else {}
            if (isinstance(typed, list) or typed in WIDGETS) and not extra.get("forceInput"):
                inputs[name] = next(values, extra.get("default"))
                if extra.get("control_after_generate"):
                    next(values)
        inputs |= FEW.get(kind, {}) | further.get(kind, {})
        inputs |= {each["name"]: sources[each["link"]] for each in node["inputs"] if each["link"] is not None}
        graph[str(node["id"])] = {"class_type": kind, "inputs": inputs}
    return graph


def saved_clip(server, done, path):
    """(width, height, frames, frames per second) of the clip that a prompt saved."""
    assert done.status == 200, done.answer
    assert done.end[0] == "execution_success", done.end[1]
    with av.open(str(server.clip(done, path))) as container:
        stream = container.streams.video[0]
        size, rate = (stream.width, stream.height), float(stream.average_rate)
        return *size, sum(1 for _ in container.decode(video=0)), rate


@pytest.mark.parametrize("found", [True, False])
def test_sam3_gives_an_edit_its_mask_and_an_empty_one_is_said(server, found, tmp_path):
    if not server.get("/object_info/SAM3_VideoTrack"):
        pytest.skip("this ComfyUI has no SAM3")
    widgets = {"FateZero_PrepareFrames": FEW["FateZero_PrepareFrames"] | {"count": 2}}
    widgets["SAM3_VideoTrack"] = {"detection_threshold": 0.0 if found else 1.0}
    done = server.run(graph_of(server, OWN_MASK, **widgets))
    assert saved_clip(server, done, tmp_path / "saved.mp4") == (64, 128, 2, pytest.approx(FPS / 3, rel=1e-3))
    assert any("frames in 2 steps" in text for text in done.texts)
    if not found:  # else the mask is what random weights make of the clip, and may be black too
        assert any("mask is black everywhere" in text for text in done.texts)


@pytest.mark.parametrize(("count", "painted"), [(5, 5), (7, 5)])
def test_vace_paints_4n_plus_1_frames_of_any_number(server, count, painted, tmp_path):
    widgets = {"FateZero_PrepareFrames": FEW["FateZero_PrepareFrames"] | {"count": count}}
    done = server.run(graph_of(server, REPAINTED, **widgets))
    assert saved_clip(server, done, tmp_path / "saved.mp4") == (64, 128, painted, FPS)
