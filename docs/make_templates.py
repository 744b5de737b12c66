"""Write the templates for real files, and the blueprint: `python docs/make_templates.py`.

Names of files are their titles in the page. `docs/make_edits.py` draws their cards.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]  # the checkout need not be installed

from template_nodes import defaults, kinds  # noqa: E402
from workflow_sheet import ENTRY, NodeKind, Output, Sheet, subgraph, write  # noqa: E402

TEMPLATES, BLUEPRINTS = "example_workflows", "subgraphs"
"""Folders in which ComfyUI looks for them."""
HUB = "https://huggingface.co/Comfy-Org"
WAN = f"{HUB}/Wan_2.1_ComfyUI_repackaged/resolve/main/split_files"
NO_CLIP = ""
"""File of Load Video until a clip is uploaded: the page then shows neither a wrong clip nor an error."""
SAVED = "video/edit"
GREY = "#888"
"""Colour of groups in which nothing need be set."""
WHOLE = "FateZero_VideoEdit"
EXPANDED = "Every step as a node of its own"
OWN_MASK = "Edit inside your own mask (SAM3)"
REPAINTED = "Find by words, repaint with VACE"
BLUEPRINT = "Edit a video by words"
"""Titles of what is no template of the one node."""
BLUEPRINT_SAYS = (
    "Edits a video by words and keeps its motion: connect a clip, say what is in it and what it should be. A "
    "checkpoint of Stable Diffusion 1.x or 2.x is loaded inside."
)
SEARCHED = ["video edit", "edit video", "vid2vid", "video to video", "prompt to prompt", "FateZero"]
"""Words by which the page's search finds the blueprint."""
MOST_CELLS_OF_16_9 = 32 * 56
"""Cells of the second finest level of a clip of 896x512 pixels; the one node takes the clip's own."""
VACE_FRAMES = 33
STEPS = (
    "**Your clip**: *choose file to upload*, or the folder beside *file*. 8 frames are edited, about a second; "
    "*frames* and *start* of the node choose others.",
    "**What is in it**: one plain sentence.",
    "**What it should be**: the same sentence, with the words changed that are to change.",
    "**Run.** The clip is saved in **output/video**, with its sound.",
)
"""What a user does, in every note."""


def model(url: str, directory: str) -> dict[str, str]:
    """Describe a file as the page wants it, so that it offers the download where the file is missing."""
    return {"name": url.rpartition("/")[2].partition("?")[0], "url": url, "directory": directory}


SD15 = model(
    f"{HUB}/stable-diffusion-v1-5-archive/resolve/main/v1-5-pruned-emaonly-fp16.safetensors?download=true",
    "checkpoints",
)
"""As the page's own default workflow has it."""
SAM3 = model(f"{HUB}/sam3.1/resolve/main/checkpoints/sam3.1_multiplex_fp16.safetensors", "checkpoints")
VACE = model(f"{WAN}/diffusion_models/wan2.1_vace_1.3B_fp16.safetensors", "diffusion_models")
UMT5 = model(f"{WAN}/text_encoders/umt5_xxl_fp8_e4m3fn_scaled.safetensors?download=true", "text_encoders")
WAN_VAE = model(f"{WAN}/vae/wan_2.1_vae.safetensors", "vae")


@dataclass(frozen=True)
class Edit:
    """A template of the one node: its title, which is its file's name, and its example's words."""

    title: str
    kind: str
    source: str
    edit: str
    advice: str


EDITS = (
    Edit(
        "Change an object, keep the motion",
        "object",
        "a silver jeep driving down a curvy road in the countryside",
        "a red sports car driving down a curvy road in the countryside",
        "Swap the words of the object and leave the rest of the sentence: *silver jeep* became *red sports car*. "
        "Outside the object the clip stays as it is.",
    ),
    Edit(
        "Change a colour, keep the rest",
        "colour",
        "a red car driving on a road",
        "a blue car driving on a road",
        "Change the colour or the material alone: *red* became *blue*. Outside the object the clip stays as it is.",
    ),
    Edit(
        "Change the background only",
        "background",
        "a man walking on the grass",
        "a man walking on the sand",
        "Change the words of the background alone: *grass* became *sand*. Who moves in front stays.",
    ),
    Edit(
        "Change the style, keep the motion",
        "style",
        "a black swan swimming in a river",
        "a watercolor painting of a black swan swimming in a river",
        "Put the style in front of the same sentence: *a watercolor painting of*. The whole picture changes.",
    ),
)


def note(title: str, advice: str, files: tuple[Mapping[str, str], ...], steps: tuple[str, ...]) -> str:
    """Return a note: what to do, and which files are needed."""
    listed = [f"- [{file['name']}]({file['url']}) in **models/{file['directory']}**" for file in files]
    numbered = [f"{number}. {step}" for number, step in enumerate(steps, 1)]
    return "\n".join([f"# {title}", "", *numbered, "", advice, "", "Files:", "", *listed])


def clip_and_words(sheet: Sheet, source: str, edit: str) -> tuple[Output, Output, Output]:
    """Add the groups 1, 2 and 3; returns the clip and the two sentences."""
    sheet.group("1 your clip", (20, -40, 380, 540))
    (clip,) = sheet.add("LoadVideo", (40, 40, 340, 440), [NO_CLIP, "image"], title="Upload your clip here")
    sheet.group("2 what is in it", (420, -40, 440, 260))
    (said,) = sheet.add(
        "PrimitiveStringMultiline", (440, 40, 400, 160), [source], title="What is in the clip", colour="words"
    )
    sheet.group("3 what it should be", (420, 240, 440, 260))
    (wanted,) = sheet.add(
        "PrimitiveStringMultiline", (440, 320, 400, 160), [edit], title="What it should be", colour="words"
    )
    return clip, said, wanted


def shown(sheet: Sheet, left: int, comparison: Output, video: Output, fps: Output) -> None:
    """Add group 4: source beside edit, moving, and the clip that is saved."""
    sheet.group("4 result", (left - 20, -40, 840, 1180))
    webp = defaults("SaveAnimatedWEBP", filename_prefix=f"{SAVED}_beside_source", lossless=False, quality=90)
    title = "The source beside the edit"
    sheet.add("SaveAnimatedWEBP", (left, 40, 800, 520), webp, title=title, images=comparison, fps=fps)
    sheet.add("SaveVideo", (left, 640, 360, 460), [SAVED, "auto", "auto"], title="The edit, saved", video=video)


def whole_edit(edit: Edit, known: Mapping[str, NodeKind]) -> Sheet:
    """Return a template of the one node."""
    sheet = Sheet(known)
    clip, said, wanted = clip_and_words(sheet, edit.source, edit.edit)
    sheet.note((40, 560, 800, 440), note(edit.title, edit.advice, (SD15,), STEPS))
    sheet.group("nothing to set here", (880, -40, 440, 1180), GREY)
    unet, text_encoder, vae = sheet.add("CheckpointLoaderSimple", (900, 40, 400, 130), [SD15["name"]], models=[SD15])
    links = {"model": unet, "clip": text_encoder, "vae": vae, "video": clip}
    words = {"source_prompt": said, "edit_prompt": wanted}
    values = defaults(WHOLE, source_prompt=edit.source, edit_prompt=edit.edit, kind=edit.kind)
    video, _, _, comparison = sheet.add(WHOLE, (900, 250, 400, 640), values, **links, **words)
    _, _, fps, *_ = sheet.add("GetVideoComponents", (900, 970, 400, 120), title="The edit's rate", video=video)
    shown(sheet, 1360, comparison, video, fps)
    return sheet


@dataclass(frozen=True)
class Inverted:
    """An inversion on a sheet, and what comes before it."""

    frames: Output
    fps: Output
    audio: Output
    text_encoder: Output
    vae: Output
    controller: Output


def inversion(sheet: Sheet, clip: Output, said: Output, source: str, **framing: object) -> Inverted:
    """Add the nodes from a checkpoint to an inversion; framing: widgets of Prepare Frames."""
    sheet.group("frames, model, inversion", (880, -40, 880, 1180), GREY)
    values = defaults("FateZero_PrepareFrames", multiple_of=64, centre_square=False, **framing)
    frames, fps, audio = sheet.add("FateZero_PrepareFrames", (900, 40, 400, 440), values, video=clip)
    unet, text_encoder, vae = sheet.add("CheckpointLoaderSimple", (900, 560, 400, 130), [SD15["name"]], models=[SD15])
    (latent,) = sheet.add("VAEEncode", (900, 770, 400, 90), pixels=frames, vae=vae)
    control = defaults("FateZero_RegisterAttentionControl", most_cells=MOST_CELLS_OF_16_9)
    (found,) = sheet.add("FateZero_RegisterAttentionControl", (1340, 40, 400, 200), control, unet=unet)
    (stored,) = sheet.add(
        "FateZero_AttentionStoreCache",
        (1340, 320, 400, 200),
        defaults("FateZero_AttentionStoreCache"),
        controller=found,
    )
    links = {"controller": stored, "clip": text_encoder, "latent": latent, "source_prompt": said}
    values = defaults("FateZero_DDIMInvert", source_prompt=source)
    (controller,) = sheet.add("FateZero_DDIMInvert", (1340, 600, 400, 440), values, **links)
    return Inverted(frames, fps, audio, text_encoder, vae, controller)


def edited(sheet: Sheet, found: Inverted, wanted: Output, values: list[Any], mask: Output | None = None) -> None:
    """Add the edit of an inversion and all behind it; mask: one of the user's own."""
    sheet.group("the edit", (1780, -40, 880, 1180), GREY)
    links = {"controller": found.controller, "clip": found.text_encoder, "edit_prompt": wanted}
    given = {} if mask is None else {"mask": mask}
    latent, _, last_mask = sheet.add(
        "FateZero_P2PEdit", (1800, 40, 400, 1060), values, **links, images=found.frames, **given
    )
    (images,) = sheet.add("VAEDecode", (2240, 40, 400, 90), samples=latent, vae=found.vae)
    pasted = {"images": images, "source": found.frames, "mask": last_mask}
    (images,) = sheet.add(
        "FateZero_KeepSourcePixels", (2240, 210, 400, 200), defaults("FateZero_KeepSourcePixels"), **pasted
    )
    (video,) = sheet.add("CreateVideo", (2240, 490, 400, 130), [8.0], images=images, fps=found.fps, audio=found.audio)
    clips = {"source": found.frames, "edit_1": images}
    (compared,) = sheet.add("FateZero_CompareClips", (2240, 700, 400, 340), defaults("FateZero_CompareClips"), **clips)
    shown(sheet, 2700, compared, video, found.fps)


def expanded(known: Mapping[str, NodeKind]) -> Sheet:
    """Return the graph that the one node stands for, as it runs for a wide clip of 24 frames a second."""
    sheet, edit = Sheet(known), EDITS[0]
    clip, said, wanted = clip_and_words(sheet, edit.source, edit.edit)
    advice = (
        "**FateZero Video Edit** puts these nodes in its place when it runs, and sets what is set here: 8 frames, "
        "every third of 24 a second, 512 pixels, 50 steps. Here every widget is yours: windows and thresholds of "
        "**Prompt-to-Prompt Edit** (kind *custom*), a mask of your own, another way to keep attention. `sampling_rate` "
        "is frames per second divided by 8. For a style take *Keep Source Pixels* out: it would put the source back."
    )
    sheet.note((40, 560, 800, 440), note(EXPANDED, advice, (SD15,), STEPS))
    found = inversion(sheet, clip, said, edit.source, count=8, sampling_rate=3)
    edited(sheet, found, wanted, defaults("FateZero_P2PEdit", edit_prompt=edit.edit, kind=edit.kind))
    return sheet


def own_mask(known: Mapping[str, NodeKind]) -> Sheet:
    """Return an edit inside the mask that core's SAM3 nodes track through the clip."""
    sheet, edit = Sheet(known), EDITS[0]
    clip, said, wanted = clip_and_words(sheet, edit.source, edit.edit)
    steps = (*STEPS[:1], *STEPS[1:3], "**What the mask follows**: a word or two, such as *jeep*.", STEPS[3])
    advice = (
        "**SAM3** finds the object in every frame, and the edit stays inside that mask, which alone counts. Any other "
        "node that gives a MASK can take its place.\n\n**The SAM3 nodes are part of newer versions of ComfyUI "
        "(0.33.0 has them, 0.8.0 has not).** Where they are missing, update ComfyUI, or take the template *Change an "
        "object, keep the motion*, which finds the mask itself."
    )
    sheet.note((40, 560, 800, 440), note(OWN_MASK, advice, (SD15, SAM3), steps))
    found = inversion(sheet, clip, said, edit.source, count=8, sampling_rate=3)
    sheet.group("the mask", (880, 1180, 1780, 320))
    sam, text_encoder, _ = sheet.add("CheckpointLoaderSimple", (900, 1260, 400, 130), [SAM3["name"]], models=[SAM3])
    (text,) = sheet.add(
        "CLIPTextEncode", (1340, 1260, 400, 160), ["jeep"], title="What the mask follows", colour="words",
        clip=text_encoder,
    )  # fmt: skip
    links = {"images": found.frames, "model": sam, "conditioning": text}
    (track,) = sheet.add("SAM3_VideoTrack", (1800, 1260, 400, 190), [0.5, 1, 1], **links)
    (mask,) = sheet.add("SAM3_TrackToMask", (2240, 1260, 400, 110), [""], track_data=track)
    values = defaults("FateZero_P2PEdit", edit_prompt=edit.edit, kind=edit.kind)
    edited(sheet, found, wanted, values, mask)
    return sheet


def repainted(known: Mapping[str, NodeKind]) -> Sheet:
    """Return the repainting of what a word means by core's nodes for VACE: Word Heat Maps makes the mask."""
    sheet = Sheet(known)
    source, edit = "a silver jeep driving down a curvy road", "a red sports car driving down a curvy road"
    clip, said, wanted = clip_and_words(sheet, source, edit)
    steps = (*STEPS[:3], "**Whose mask**: a word or phrase of the first sentence.", STEPS[3])
    advice = (
        "**Word Heat Maps** finds the object by its word in the attention of Stable Diffusion; **VACE** then paints "
        "what you describe into the mask. Motion comes from VACE and not from the clip: take it for things that are to "
        "move in another way. All other nodes are ComfyUI's own. `count` and `length` are the same number, 4n + 1."
    )
    sheet.note((40, 560, 800, 440), note(REPAINTED, advice, (SD15, VACE, UMT5, WAN_VAE), steps))
    found = inversion(sheet, clip, said, source, count=VACE_FRAMES, sampling_rate=1, short_side=480)
    sheet.group("the mask, by words", (1780, -40, 440, 1180))
    heats = defaults("FateZero_WordHeatMaps", words="jeep", follow_shapes=True)
    links = {"controller": found.controller, "images": found.frames}
    pictures, mask = sheet.add(
        "FateZero_WordHeatMaps", (1800, 40, 400, 330), heats, title="Whose mask", colour="words", **links
    )
    (hard,) = sheet.add("ThresholdMask", (1800, 450, 400, 90), [0.5], mask=mask)
    (grown,) = sheet.add("GrowMask", (1800, 620, 400, 120), [12, True], mask=hard)
    sheet.add("PreviewImage", (1800, 820, 400, 280), images=pictures)
    sheet.group("VACE", (2240, -40, 880, 1180), GREY)
    (wan,) = sheet.add("UNETLoader", (2260, 40, 400, 110), [VACE["name"], "default"], models=[VACE])
    (wan,) = sheet.add("ModelSamplingSD3", (2260, 230, 400, 90), [5.0], model=wan)
    (text,) = sheet.add("CLIPLoader", (2260, 400, 400, 140), [UMT5["name"], "wan", "default"], models=[UMT5])
    (vae,) = sheet.add("VAELoader", (2260, 620, 400, 90), [WAN_VAE["name"]], models=[WAN_VAE])
    (positive,) = sheet.add("CLIPTextEncode", (2700, 40, 400, 100), [edit], clip=text, text=wanted)
    (negative,) = sheet.add("CLIPTextEncode", (2700, 220, 400, 110), ["blurry, low quality, static"], clip=text)
    links = {"positive": positive, "negative": negative, "vae": vae}
    control = {"control_video": found.frames, "control_masks": grown}
    size = [832, 480, VACE_FRAMES, 1, 1.0]
    positive, negative, latent, trim = sheet.add("WanVaceToVideo", (2700, 410, 400, 290), size, **links, **control)
    links = {"model": wan, "positive": positive, "negative": negative, "latent_image": latent}
    (latent,) = sheet.add(
        "KSampler", (2260, 790, 400, 310), [0, "fixed", 20, 6.0, "uni_pc", "simple", 1.0], **links
    )  # fmt: skip
    (latent,) = sheet.add("TrimVideoLatent", (2700, 780, 400, 90), [0], samples=latent, trim_amount=trim)
    (images,) = sheet.add("VAEDecode", (2700, 950, 400, 90), samples=latent, vae=vae)
    sheet.group("beside each other", (2240, 1160, 880, 460), GREY)
    clips = {"source": found.frames, "edit_1": images}
    (compared,) = sheet.add("FateZero_CompareClips", (2260, 1240, 400, 340), defaults("FateZero_CompareClips"), **clips)
    (video,) = sheet.add("CreateVideo", (2700, 1240, 400, 130), [16.0], images=images, fps=found.fps, audio=found.audio)
    shown(sheet, 3160, compared, video, found.fps)
    return sheet


def blueprint(known: Mapping[str, NodeKind]) -> tuple[Sheet, dict[str, Any]]:
    """Return a box with checkpoint and edit in it, for the page's library of nodes, and its definition."""
    entries = {
        "video": "VIDEO",
        "source_prompt": "STRING",
        "edit_prompt": "STRING",
        "kind": "COMBO",
        "strength": "FLOAT",
        "ckpt_name": "COMBO",
    }
    given = {name: Output(ENTRY, slot, kind) for slot, (name, kind) in enumerate(entries.items())}
    inside, edit = Sheet(known), EDITS[0]
    unet, text_encoder, vae = inside.add(
        "CheckpointLoaderSimple", (0, 40, 400, 130), [SD15["name"]], models=[SD15], ckpt_name=given.pop("ckpt_name")
    )
    values = defaults(WHOLE, source_prompt=edit.source, edit_prompt=edit.edit)
    links = {"model": unet, "clip": text_encoder, "vae": vae}
    results = inside.add(WHOLE, (460, 40, 400, 640), values, **links, **given)
    exits = known[WHOLE].outputs
    for slot, result in enumerate(results):
        inside.leave(result, slot)
    definition = subgraph(inside, BLUEPRINT, entries, exits)
    definition |= {"category": "FateZero", "description": BLUEPRINT_SAYS}
    whole = known[WHOLE]
    widgets = {name: {**whole.widgets, "ckpt_name": "COMBO"}[name] for name in entries if name != "video"}
    outer = Sheet({definition["id"]: NodeKind({"video": "VIDEO"}, widgets, exits)})
    outer.add(definition["id"], (0, 0, 400, 420), title=BLUEPRINT)
    (box,) = outer.nodes
    box["inputs"] += [{"name": name, "type": widgets[name], "widget": {"name": name}, "link": None} for name in widgets]
    box["properties"] = {}  # with proxyWidgets, ComfyUI 0.8.0 draws both text fields over each other
    return outer, definition


def main(root: Path = ROOT) -> None:
    """Write all files into the folders below `root`."""
    known, templates = kinds(), root / TEMPLATES
    for edit in EDITS:
        write(templates / f"{edit.title}.json", whole_edit(edit, known))
    for title, made in {EXPANDED: expanded, OWN_MASK: own_mask, REPAINTED: repainted}.items():
        write(templates / f"{title}.json", made(known))
    box, definition = blueprint(known)
    said = {"BlueprintDescription": BLUEPRINT_SAYS, "BlueprintSearchAliases": SEARCHED}
    write(root / BLUEPRINTS / f"{BLUEPRINT}.json", box, definitions={"subgraphs": [definition]}, extra=said)


if __name__ == "__main__":
    main()
