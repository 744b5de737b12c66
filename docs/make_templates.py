"""Write the templates and the blueprint: `python docs/make_templates.py`.

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

from built_in_templates import ALL_STEPS, FIRST, TUNED, each_step, first_edit, tuned_edit  # noqa: E402
from template_nodes import defaults, kinds  # noqa: E402
from template_parts import (  # noqa: E402
    GREY,
    RUN,
    SAM3,
    SD15,
    UMT5,
    VACE,
    WAN_VAE,
    WHOLE,
    Result,
    checkpoint,
    note,
    sentences,
    shown,
    whole,
)
from workflow_sheet import ENTRY, NodeKind, Output, Sheet, subgraph, write  # noqa: E402

TEMPLATES, BLUEPRINTS = "example_workflows", "subgraphs"
"""Folders in which ComfyUI looks for them."""
NO_CLIP = ""
"""File of Load Video until a clip is uploaded: the page then shows neither a wrong clip nor an error."""
EXPANDED = "Every step as a node of its own"
OWN_MASK = "Edit inside your own mask (SAM3)"
REPAINTED = "Find by words, repaint with VACE"
BLUEPRINT = "Edit video by words"
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
GPU = "Stable Diffusion needs a graphics card (GPU) to be of use."


def steps(frames: str, *further: str) -> tuple[str, ...]:
    """Return what a user does, for a note; frames: which are edited, further: what else is to be typed."""
    return (
        f"**Your clip**, at the left: click *choose file to upload*, or the folder beside *file*. {frames}",
        "**What is in it**: type one plain sentence into the upper green box.",
        "**What it should be**: type the same sentence into the green box below, with the words changed that are to "
        "change.",
        *further,
        f"{RUN}. Where a model is missing, the page offers its download: move the file into the folder of ComfyUI "
        "that is named below, press **R**, then Run again.",
        "**The result**: group 4 shows the source beside the edit. The edit is saved in ComfyUI's folder as "
        "**output/video/edit_00001_.mp4**, with its sound.",
    )


ONE_NODE = "8 frames are edited, about a second; *frames* and *start* of *Video Edit* choose others."
EVERY_STEP = "8 frames are edited, about a second; *count* and *start* of *Prepare Frames* choose others."


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


def clip_and_words(sheet: Sheet, source: str, edit: str) -> tuple[Output, Output, Output]:
    """Add group 1, then 2 and 3 below each other; returns the clip and the two sentences."""
    sheet.group("1 your clip", (20, -40, 400, 860))
    box = (40, 40, 360, 280)  # grows with its preview, much for portrait clips: nothing below
    (clip,) = sheet.add("LoadVideo", box, [NO_CLIP, "image"], title="Upload your clip here")
    return clip, *sentences(sheet, source, edit)


def whole_edit(edit: Edit, known: Mapping[str, NodeKind]) -> Sheet:
    """Return a template of the one node."""
    sheet = Sheet(known)
    clip, said, wanted = clip_and_words(sheet, edit.source, edit.edit)
    sheet.group("the model, downloaded once", (440, 440, 400, 380), GREY)
    unet, text_encoder, vae = checkpoint(sheet, SD15, 460, 520)
    links = {"model": unet, "clip": text_encoder, "vae": vae, "video": clip}
    links |= {"source_prompt": said, "edit_prompt": wanted}
    video, compared = whole(sheet, links, edit.source, edit.edit, edit.kind)
    _, _, fps, *_ = sheet.add("GetVideoComponents", (460, 688, 360, 114), title="The edit's rate", video=video)
    shown(sheet, 1280, Result(compared, video, fps))
    sheet.note((1700, 490, 400, 330), note(edit.title, steps(ONE_NODE), f"{edit.advice} {GPU}", (SD15,)))
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
    """Add the nodes from a checkpoint to an inversion, in two columns; framing: widgets of Prepare Frames."""
    sheet.group("frames, model", (860, -40, 400, 1180), GREY)
    values = defaults("FateZero_PrepareFrames", multiple_of=64, centre_square=False, **framing)
    frames, fps, audio = sheet.add("FateZero_PrepareFrames", (880, 40, 360, 400), values, video=clip)  # with a remark
    unet, text_encoder, vae = checkpoint(sheet, SD15, 880, 490)
    (latent,) = sheet.add("VAEEncode", (880, 672, 360, 60), folded=True, pixels=frames, vae=vae)
    control = defaults("FateZero_RegisterAttentionControl", most_cells=MOST_CELLS_OF_16_9)
    (found,) = sheet.add("FateZero_RegisterAttentionControl", (880, 736, 360, 170), control, unet=unet)
    stored, kept = "FateZero_AttentionStoreCache", defaults("FateZero_AttentionStoreCache")
    (controller,) = sheet.add(stored, (880, 956, 360, 160), kept, controller=found)
    sheet.group("inversion", (1280, -40, 400, 480), GREY)
    links = {"controller": controller, "clip": text_encoder, "latent": latent, "source_prompt": said}
    values = defaults("FateZero_DDIMInvert", source_prompt=source)
    (controller,) = sheet.add("FateZero_DDIMInvert", (1300, 40, 360, 300), values, **links)
    return Inverted(frames, fps, audio, text_encoder, vae, controller)


def edited(sheet: Sheet, found: Inverted, wanted: Output, values: list[Any], mask: Output | None = None) -> Result:
    """Add the edit of an inversion and all behind it; mask: one of the user's own."""
    sheet.group("the edit", (1700, -40, 400, 1180), GREY)
    links = {"controller": found.controller, "clip": found.text_encoder, "edit_prompt": wanted}
    given = {} if mask is None else {"mask": mask}
    box = (1720, 40, 360, 1060)  # grows with words and a film: nothing below
    latent, _, last_mask = sheet.add("FateZero_P2PEdit", box, values, **links, images=found.frames, **given)
    sheet.group("its frames", (2120, -40, 400, 1180), GREY)
    (images,) = sheet.add("VAEDecode", (2140, 40, 360, 60), samples=latent, vae=found.vae)
    pasted = {"images": images, "source": found.frames, "mask": last_mask}
    kept = defaults("FateZero_KeepSourcePixels")
    (images,) = sheet.add("FateZero_KeepSourcePixels", (2140, 150, 360, 182), kept, **pasted)
    box = (2140, 382, 360, 130)
    (video,) = sheet.add("CreateVideo", box, [8.0], images=images, fps=found.fps, audio=found.audio)
    return Result(comparison(sheet, (2140, 562, 360, 300), found.frames, images), video, found.fps)


def comparison(sheet: Sheet, box: tuple[int, int, int, int], source: Output, images: Output) -> Output:
    """Add Compare Clips, which grows with a film: nothing may lie below it."""
    clips, kind = {"source": source, "edit_1": images}, "FateZero_CompareClips"
    (compared,) = sheet.add(kind, box, defaults(kind), **clips)
    return compared


def expanded(known: Mapping[str, NodeKind]) -> Sheet:
    """Return the graph that the one node stands for, as it runs for a wide clip of 24 frames a second."""
    sheet, edit = Sheet(known), EDITS[0]
    clip, said, wanted = clip_and_words(sheet, edit.source, edit.edit)
    advice = (
        "**Video Edit** puts these nodes in its place when it runs, and sets what is set here: 8 frames, "
        "every third of 24 a second, 512 pixels, 50 steps. Here every widget is yours: windows and thresholds of "
        "**Prompt-to-Prompt Edit** (kind *custom*), a mask of your own, another way to keep attention. *sampling_rate* "
        "is frames per second divided by 8. For a style take *Keep Source Pixels* out: it would put the source back."
    )
    found = inversion(sheet, clip, said, edit.source, count=8, sampling_rate=3)
    values = defaults("FateZero_P2PEdit", edit_prompt=edit.edit, kind=edit.kind)
    shown(sheet, 2540, edited(sheet, found, wanted, values))
    sheet.note((2960, 490, 400, 640), note(EXPANDED, steps(EVERY_STEP), advice, (SD15,)))
    return sheet


def own_mask(known: Mapping[str, NodeKind]) -> Sheet:
    """Return an edit inside the mask that core's SAM3 nodes track through the clip."""
    sheet, edit = Sheet(known), EDITS[0]
    clip, said, wanted = clip_and_words(sheet, edit.source, edit.edit)
    followed = "**What the mask follows**: type a word or two into the third green box, such as *jeep*."
    advice = (
        "**SAM3** finds the object in every frame, and the edit stays inside that mask, which alone counts. Any other "
        "node that gives a MASK can take its place. Where it finds nothing, a line on the edit says that the mask is "
        "black: type another word, or lower *detection_threshold*.\n\n"
        "**The SAM3 nodes are part of newer versions of ComfyUI (0.33.0 has them, 0.8.0 has not).** Where they "
        "are missing, update ComfyUI, or take the template *Change an object, keep the motion*, which finds the "
        "mask itself."
    )
    found = inversion(sheet, clip, said, edit.source, count=8, sampling_rate=3)
    sheet.group("what the mask follows", (440, 440, 400, 220))
    sheet.group("the mask", (1280, 460, 400, 680), GREY)
    sam, text_encoder, _ = checkpoint(sheet, SAM3, 1300, 540)
    title, box = "What the mask follows", (460, 520, 360, 120)
    (text,) = sheet.add("CLIPTextEncode", box, ["jeep"], title=title, colour="words", clip=text_encoder)
    links = {"images": found.frames, "model": sam, "conditioning": text}
    (track,) = sheet.add("SAM3_VideoTrack", (1300, 720, 360, 178), [0.5, 1, 1], **links)
    (mask,) = sheet.add("SAM3_TrackToMask", (1300, 950, 360, 70), [""], track_data=track)
    values = defaults("FateZero_P2PEdit", edit_prompt=edit.edit, kind=edit.kind)
    result = edited(sheet, found, wanted, values, mask)
    shown(sheet, 2540, result)
    sheet.note((2960, 490, 400, 640), note(OWN_MASK, steps(EVERY_STEP, followed), advice, (SD15, SAM3)))
    return sheet


def repainted(known: Mapping[str, NodeKind]) -> Sheet:
    """Return the repainting of what a word means by core's nodes for VACE: Word Heat Maps makes the mask."""
    sheet = Sheet(known)
    source, edit = "a silver jeep driving down a curvy road", "a red sports car driving down a curvy road"
    clip, said, wanted = clip_and_words(sheet, source, edit)
    frames = f"{VACE_FRAMES} frames are edited; *count* and *start* of *Prepare Frames* choose others."
    masked = "**Whose mask**: type a word or phrase of the first sentence into the green *Whose mask*, under *words*."
    advice = (
        "**Word Heat Maps** finds the object by its word in the attention of Stable Diffusion; **VACE** then paints "
        "what you describe into the mask. Motion comes from VACE and not from the clip: take it for things that are to "
        "move in another way. All other nodes are ComfyUI's own. VACE paints 4n + 1 frames: of a *count* of 20 the "
        "first 17."
    )
    found = inversion(sheet, clip, said, source, count=VACE_FRAMES, sampling_rate=1, short_side=480)
    mask = mask_by_words(sheet, found)
    images, source_frames = with_vace(sheet, found, mask, wanted, edit)
    sheet.group("its frames", (1280, 460, 400, 680), GREY)
    (video,) = sheet.add(
        "CreateVideo", (1300, 540, 360, 130), [16.0], images=images, fps=found.fps, audio=found.audio
    )  # fmt: skip
    result = Result(comparison(sheet, (1300, 720, 360, 300), source_frames, images), video, found.fps)
    shown(sheet, 2960, result)
    files = (SD15, VACE, UMT5, WAN_VAE)
    sheet.note((3380, 490, 400, 640), note(REPAINTED, steps(frames, masked), advice, files))
    return sheet


def mask_by_words(sheet: Sheet, found: Inverted) -> Output:
    """Add Word Heat Maps and core's nodes that make a hard mask of its heat; return the mask."""
    sheet.group("the mask, by words", (1700, -40, 400, 1180))
    heats = defaults("FateZero_WordHeatMaps", words="jeep", follow_shapes=True)
    links, title = {"controller": found.controller, "images": found.frames}, "Whose mask"
    box = (1720, 680, 360, 330)  # grows with a film: nothing below
    pictures, mask = sheet.add("FateZero_WordHeatMaps", box, heats, title=title, colour="words", **links)
    (hard,) = sheet.add("ThresholdMask", (1720, 40, 360, 70), [0.5], mask=mask)
    (grown,) = sheet.add("GrowMask", (1720, 160, 360, 110), [12, True], mask=hard)
    sheet.add("PreviewImage", (1720, 320, 360, 300), images=pictures)
    return grown


def with_vace(sheet: Sheet, found: Inverted, mask: Output, wanted: Output, edit: str) -> tuple[Output, Output]:
    """Add core's nodes that paint an edit into a mask; return its frames, and the same frames of the source."""
    sheet.group("VACE", (2120, -40, 820, 1180), GREY)
    (wan,) = sheet.add("UNETLoader", (2140, 40, 380, 110), [VACE.name, "default"], models=[VACE.described])
    (wan,) = sheet.add("ModelSamplingSD3", (2140, 204, 380, 70), [5.0], model=wan)
    (text,) = sheet.add("CLIPLoader", (2140, 328, 380, 140), [UMT5.name, "wan", "default"], models=[UMT5.described])
    (vae,) = sheet.add("VAELoader", (2140, 522, 380, 90), [WAN_VAE.name], models=[WAN_VAE.described])
    (positive,) = sheet.add("CLIPTextEncode", (2540, 40, 380, 110), [edit], clip=text, text=wanted)
    (negative,) = sheet.add("CLIPTextEncode", (2540, 204, 380, 110), ["blurry, low quality, static"], clip=text)
    links = {"positive": positive, "negative": negative, "vae": vae}
    # Compare Clips takes clips of one size, and Prepare Frames chooses it: portrait clips stay portrait.
    width, height, count = sheet.add("GetImageSize", (2540, 970, 380, 110), folded=True, image=found.frames)
    control = {"control_video": found.frames, "control_masks": mask, "width": width, "height": height, "length": count}
    size = [832, 480, VACE_FRAMES, 1, 1.0]
    positive, negative, latent, trim = sheet.add("WanVaceToVideo", (2540, 368, 380, 310), size, **links, **control)
    links = {"model": wan, "positive": positive, "negative": negative, "latent_image": latent}
    sampling = [0, "fixed", 20, 6.0, "uni_pc", "simple", 1.0]
    (latent,) = sheet.add("KSampler", (2140, 666, 380, 340), sampling, **links)
    (latent,) = sheet.add("TrimVideoLatent", (2540, 732, 380, 70), [0], samples=latent, trim_amount=trim)
    (images,) = sheet.add("VAEDecode", (2540, 856, 380, 60), samples=latent, vae=vae)
    # Of frames that are not 4n + 1 VACE leaves out the last ones, and Compare Clips takes clips of one length.
    _, _, painted = sheet.add("GetImageSize", (2540, 1020, 380, 110), folded=True, image=images)
    first = {"image": found.frames, "length": painted}
    (source_frames,) = sheet.add("ImageFromBatch", (2540, 1070, 380, 110), [0, VACE_FRAMES], folded=True, **first)
    return images, source_frames


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
    kind, chosen = "CheckpointLoaderSimple", {"ckpt_name": given.pop("ckpt_name")}
    unet, text_encoder, vae = inside.add(kind, (0, 40, 400, 130), [SD15.name], models=[SD15.described], **chosen)
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
    further = {EXPANDED: expanded, OWN_MASK: own_mask, REPAINTED: repainted, TUNED: tuned_edit}
    for title, made in further.items():
        write(templates / f"{title}.json", made(known))
    write(templates / f"{FIRST.title}.json", first_edit(known))
    for each in ALL_STEPS:
        write(templates / f"{each.file}.json", each_step(each, known))
    box, definition = blueprint(known)
    said = {"BlueprintDescription": BLUEPRINT_SAYS, "BlueprintSearchAliases": SEARCHED}
    write(root / BLUEPRINTS / f"{BLUEPRINT}.json", box, definitions={"subgraphs": [definition]}, extra=said)


if __name__ == "__main__":
    main()
