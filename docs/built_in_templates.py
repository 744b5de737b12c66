"""Templates of the built-in model, which need no download: for `docs/make_templates.py`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from template_nodes import defaults
from template_parts import GREY, RUN, Result, note, sentences, shown, whole
from workflow_sheet import NodeKind, Output, Sheet

LOADER = "FateZero_LoadPseudo3DUNet"
SAVED_AS = "The edit is saved in ComfyUI's folder as"
NUMBERS = {
    "FateZero_SampleClip": 1,
    "GetVideoComponents": 2,
    LOADER: 3,
    "VAEEncode": 4,
    "FateZero_RegisterAttentionControl": 5,
    "FateZero_AttentionStoreCache": 6,
    "FateZero_DDIMInvert": 7,
    "FateZero_P2PEdit": 8,
    "VAEDecode": 9,
    "CreateVideo": 10,
    "SaveVideo": 11,
    "MarkdownNote": 14,
    "FateZero_PrepareFrames": 15,
    "FateZero_KeepSourcePixels": 16,
    "FateZero_CompareClips": 17,
    "SaveAnimatedWEBP": 18,
}
"""Ids of the steps' nodes, by which command lines and scripts name them."""


@dataclass(frozen=True)
class Shown:
    """A clip of the pack, and the built-in model that knows it.

    sample: the clip's name in Sample Clip, of which `source` is true
    """

    sample: str
    source: str
    model: str


CIRCLE = Shown("red circle on grass", "a red circle on the grass", "built-in toy model")
CAT = Shown("cat on grass", "a cat on the grass", "built-in objects model")


@dataclass(frozen=True)
class FirstEdit:
    """The template that is tried first; others: edits to try next."""

    title: str
    shown: Shown
    edit: str
    others: tuple[str, ...]


FIRST = FirstEdit(
    "A first edit, nothing to download",
    CAT,
    "a panda on the grass",
    (
        "a frog on the grass",
        "a dog on the grass",
        "a cat on the sand",
        "a watercolor painting of a cat on the grass",
    ),
)
"""All that is to be changed where another clip of the pack or other words suit the built-in models better, but its
card: `docs/make_edits.py` names the edit that is drawn there."""
OTHER_WORDS = (
    "red, orange, yellow, green, blue, purple, white, black; "
    "grass, water, sand, sky, brick, checkerboard, stripes, night; sketch, watercolor, pixel art, black and white. "
    "Other words mean nothing to it."
)
SHAPES = "circle, square, triangle, star, heart, cross"
KNOWN = f"It knows {SHAPES}; {OTHER_WORDS}"
"""Words of the built-in model of shapes."""
ANIMALS = "cat, dog, panda, fox, rabbit, frog, lion, pig, elephant, duck, owl, penguin, fish, turtle, butterfly"
THINGS = "car, bus, taxi, rocket, balloon, ball, apple, pumpkin, mushroom, sunflower, robot, ghost, snowman"
KNOWN_OBJECTS = f"It knows {ANIMALS}; {THINGS}; {SHAPES}; {OTHER_WORDS}"
"""Words of the built-in model of objects."""


def first_edit(known: Mapping[str, NodeKind]) -> Sheet:
    """Return the one node with the pack's own clip and model, in the places of the templates for real files."""
    sheet = Sheet(known)
    sheet.group("1 the clip", (20, -40, 400, 210))
    clip_values = defaults("FateZero_SampleClip", sample=FIRST.shown.sample)
    (clip,) = sheet.add("FateZero_SampleClip", (40, 40, 360, 80), clip_values)
    tried = "; ".join(f"*{other}*" for other in FIRST.others)
    steps = (
        f"{RUN}: clip and model come with the pack.",
        f"**See** the source beside the edit in group 4. {SAVED_AS} **output/video/edit_00001_.mp4**.",
        "**Type** your own words into the green box *What it should be*, and Run again.",
    )
    advice = (
        f"Try: {tried}.\n\nThe built-in model is small (12 MB), for trying things out. {KNOWN_OBJECTS}\n\n**For a clip "
        "of your own** open *Change an object, keep the motion* from the same list of templates. It looks just like "
        "this one."
    )
    sheet.note((20, 220, 400, 600), note(FIRST.title, steps, advice, large=True))
    said, wanted = sentences(sheet, FIRST.shown.source, FIRST.edit)
    sheet.group("the model, built in", (440, 440, 400, 380), GREY)
    loaded = defaults(LOADER, model=FIRST.shown.model)
    model, text_encoder, vae = sheet.add(LOADER, (460, 520, 360, 280), loaded)
    links = {"model": model, "clip": text_encoder, "vae": vae, "video": clip}
    links |= {"source_prompt": said, "edit_prompt": wanted}
    video, compared = whole(sheet, links, FIRST.shown.source, FIRST.edit, "auto")
    sheet.group("the edit's rate", (1700, 460, 400, 360), GREY)
    _, _, fps, *_ = sheet.add("GetVideoComponents", (1720, 540, 360, 114), video=video)
    shown(sheet, 1280, Result(compared, video, fps))
    return sheet


TUNED = "Tune a model on the clip, change the shape"
"""Title of the template of a tuned model."""
TUNED_EDIT = "a red square on the grass"
TUNING = {"name": "tuned on red circle", "steps": 100, "learning_rate": 1e-4, "temporal_rank": 16, "preview_every": 10}
"""Widgets of Tune on Clip that suit the built-in model; its defaults are for Stable Diffusion."""


def tuned_edit(known: Mapping[str, NodeKind]) -> Sheet:
    """Return the one node behind a model that learns the clip first."""
    sheet = Sheet(known)
    sheet.group("1 the clip", (20, -40, 400, 210))
    clip_values = defaults("FateZero_SampleClip", sample=CIRCLE.sample)
    (clip,) = sheet.add("FateZero_SampleClip", (40, 40, 360, 80), clip_values)
    said, wanted = sentences(sheet, CIRCLE.source, TUNED_EDIT)
    sheet.group("the model, and how it learnt", (440, 440, 400, 460), GREY)
    model, text_encoder, vae = sheet.add(LOADER, (460, 520, 360, 280), defaults(LOADER), folded=True)
    tuned, curve = _learnt(sheet, {"video": clip}, {"unet": model, "clip": text_encoder, "prompt": said}, vae)
    sheet.add("PreviewImage", (460, 580, 360, 300), title="Loss of every step", images=curve)
    links = {"model": tuned, "clip": text_encoder, "vae": vae, "video": clip}
    links |= {"source_prompt": said, "edit_prompt": wanted}
    video, compared = whole(sheet, links, CIRCLE.source, TUNED_EDIT, "object")
    sheet.group("the edit's rate", (1700, 460, 400, 80), GREY)
    _, _, fps, *_ = sheet.add("GetVideoComponents", (1720, 520, 360, 114), folded=True, video=video)
    shown(sheet, 1280, Result(compared, video, fps))
    sheet.note((1700, 570, 400, 330), _tuned_note())
    return sheet


def _learnt(
    sheet: Sheet, clip: Mapping[str, Output], links: Mapping[str, Output], vae: Output
) -> tuple[Output, Output]:
    """Add Tune on Clip and the frames that it learns from; returns the tuned UNet and the curve of its losses."""
    sheet.group("the model learns the clip", (20, 190, 400, 710))
    values = defaults("FateZero_PrepareFrames", count=8, short_side=64)
    frames, *_ = sheet.add("FateZero_PrepareFrames", (40, 270, 360, 350), values, folded=True, **clip)
    (latent,) = sheet.add("VAEEncode", (40, 312, 360, 60), folded=True, pixels=frames, vae=vae)
    values = defaults("FateZero_TuneOnClip", prompt=CIRCLE.source, **TUNING)
    box = (40, 364, 360, 520)
    tuned, curve, _, _ = sheet.add("FateZero_TuneOnClip", box, values, latent=latent, **links)
    return tuned, curve


def _tuned_note() -> str:
    steps = (
        f"{RUN}: clip and model come with the pack. The first run trains, later ones only edit.",
        f"**See** the source beside the edit in group 4. {SAVED_AS} **output/video/edit_00001_.mp4**.",
        "**Type** other words into *What it should be*, and Run again.",
    )
    advice = (
        "**Tune on Clip** lets the model learn the shape and motion of the clip, so that the edit may change the shape "
        "and keep that motion. It saves the model as *tuned on red circle* in **models/diffusers**; stopped, it goes "
        f"on where it was. The built-in model is small. {KNOWN}\n\n**For a clip of your own** put *Load Video* in the "
        "place of *Sample Clip*, choose your model, write its prompt and give it another *name*; set *short_side* of "
        "*Prepare Frames* to 512, and *steps*, *learning_rate* and *temporal_rank* to 200, 1e-5 and 160."
    )
    return note(TUNED, steps, advice)


@dataclass(frozen=True)
class Steps:
    """A template with every step as a node of its own: its file, its title, its edit.

    widgets: of Prompt-to-Prompt Edit, as its kind chooses them, for those who turn to the kind custom
    words:   that the built-in model knows for this kind
    masked:  whether the source's pixels are put back outside the edit's mask
    shown:   the clip, and the model that knows it
    """

    file: str
    title: str
    kind: str
    edit: str
    words: str
    method: str
    widgets: Mapping[str, Any]
    key_frames: str = "auto"
    masked: bool = True
    shown: Shown = CIRCLE


PUT_BACK = (
    "\n\n**Keep Source Pixels** puts the source's own pixels back outside the mask; switch off "
    "its **enabled** to see the edit alone. Its *feather* is a latent cell: 4 here, 8 for Stable Diffusion."
)
OWN_KEYS = (
    "\n\n*key_frames* is *auto*: with the built-in model each frame reads its own keys, with Stable Diffusion "
    "*-1, first*, as published."
)
ALL_STEPS = (
    Steps(
        "1_colour_edit_with_mask",
        "Change a colour",
        "colour",
        "a blue circle on the grass",
        "red, orange, yellow, green, blue, purple, white and black",
        "One word is replaced, and the **kind** of this edit is **colour**: it chooses windows, guidance and a mask "
        "from the attention of **red circle**. Outside the mask the source's self-attention is kept and, over the "
        "middle of the steps, its latents. **strength** does less of the edit. With kind **custom** the other widgets "
        f"decide.{PUT_BACK}{OWN_KEYS}",
        {"blend_words": "auto", "blend_latents": True},
    ),
    Steps(
        "2_shape_edit",
        "Change an object",
        "object",
        "a red square on the grass",
        "circle, square, triangle, star, heart and cross",
        "The object's word is replaced, and the **kind** of this edit is **object**: the word's attention makes the "
        "mask inside which the new shape is drawn, from noise of its own, so that no old shape shows through."
        f"{PUT_BACK}{OWN_KEYS}",
        {"blend_words": "auto", "blend_edit_words": "auto", "blend_latents": True}
        | {"guidance": 4.0, "cross_replace_end": 0.7, "self_replace_end": 0.5},
    ),
    Steps(
        "3_background_edit",
        "Change the background",
        "background",
        "a red circle on the sand",
        "grass, water, sand, sky, brick, checkerboard, stripes and night",
        "The **kind** of this edit is **background**: the mask comes from the background's word, and everything but "
        "the object may change.\n\n**Keep Source Pixels** puts the object's own pixels back: "
        "the *last_mask* of this kind leaves out what stands in front of the background. Switch off its **enabled** to "
        "see the edit alone.\n\n*key_frames* is *mid, 0*: every frame reads the middle frame's keys beside its own, so "
        "that a new background holds still more often. The built-in model draws everything else best when each frame "
        "reads its own keys alone (*auto*). For Stable Diffusion the published setting is *-1, first*.",
        {"blend_words": "auto", "blend_threshold": 0.5, "blend_latents": True},
        key_frames="mid, 0",
    ),
    Steps(
        "4_style_edit",
        "Change the style",
        "style",
        "a watercolor painting of a red circle on the grass",
        "sketch, watercolor, pixel art and black and white",
        "Words are added, and the **kind** of this edit is **style**: there is no mask, and words lose the source's "
        "attention after a third of the steps (a sketch's after four fifths), so that the style reaches every part of "
        f"the picture.{OWN_KEYS}",
        {"mode": "refine", "guidance": 2.0, "cross_replace_end": 0.35},
        masked=False,
    ),
    Steps(
        "5_animal_edit",
        "Change an animal",
        "object",
        "a panda on the grass",
        f"{ANIMALS}, {THINGS}",
        "The animal's word is replaced, and the **kind** of this edit is **object**, as for a shape. The **built-in "
        "objects model** knows animals and things beside shapes, and draws them softer than the toy model its shapes."
        f"{PUT_BACK}{OWN_KEYS}",
        {"blend_words": "auto", "blend_edit_words": "auto", "blend_latents": True}
        | {"guidance": 7.0, "cross_replace_end": 0.7, "self_replace_end": 0.5},
        shown=CAT,
    ),
)


def each_step(steps: Steps, known: Mapping[str, NodeKind]) -> Sheet:
    """Return the graph of one kind of edit, in five columns; what need not be looked at is folded to its title."""
    sheet = Sheet(known, numbers=NUMBERS)
    frames, fps, audio = _clip(sheet, steps.shown)
    sheet.note((20, 330, 400, 560), _steps_note(steps))
    sheet.group("the model, what is kept", (440, 420, 400, 480), GREY)
    loaded = defaults(LOADER, model=steps.shown.model, key_frames=steps.key_frames)
    model, text_encoder, vae = sheet.add(LOADER, (460, 624, 360, 274), loaded)
    (latent,) = sheet.add("VAEEncode", (460, 500, 360, 60), folded=True, pixels=frames, vae=vae)
    control, stored = "FateZero_RegisterAttentionControl", "FateZero_AttentionStoreCache"
    (controller,) = sheet.add(control, (460, 542, 360, 134), defaults(control), folded=True, unet=model)
    values = defaults(stored, policy="features", place="ram")
    (controller,) = sheet.add(stored, (460, 584, 360, 138), values, folded=True, controller=controller)
    sheet.group("2 what is in it", (440, -40, 400, 450))
    values = defaults("FateZero_DDIMInvert", source_prompt=steps.shown.source, steps=20)
    inverted = {"controller": controller, "clip": text_encoder, "latent": latent}
    (controller,) = sheet.add("FateZero_DDIMInvert", (460, 40, 360, 330), values, colour="words", **inverted)
    sheet.group("3 what it should be", (860, -40, 400, 940))
    chosen = {"edit_prompt": steps.edit, "guidance": 3.0, "kind": steps.kind, **steps.widgets}
    links = {"controller": controller, "clip": text_encoder, "images": frames}
    values, box = defaults("FateZero_P2PEdit", **chosen), (880, 40, 360, 840)  # grows with words and a film
    latent, _, mask = sheet.add("FateZero_P2PEdit", box, values, colour="words", **links)
    sheet.group("back to frames", (1280, -40, 400, 330), GREY)
    (edited,) = sheet.add("VAEDecode", (1300, 40, 360, 60), folded=True, samples=latent, vae=vae)
    if steps.masked:
        pasted, kept = {"images": edited, "source": frames, "mask": mask}, "FateZero_KeepSourcePixels"
        (edited,) = sheet.add(kept, (1300, 84, 360, 190), defaults(kept, feather=4), **pasted)
    _results(sheet, f"video/{steps.file}", {"source": frames, "edit_1": edited}, {"fps": fps, "audio": audio})
    return sheet


def _clip(sheet: Sheet, shown_clip: Shown) -> tuple[Output, Output, Output]:
    """Add group 1; returns the clip's frames, their rate and its sound."""
    sheet.group("1 the clip", (20, -40, 400, 320))
    values = defaults("FateZero_SampleClip", sample=shown_clip.sample)
    (clip,) = sheet.add("FateZero_SampleClip", (40, 40, 360, 80), values)
    (images, audio, fps, *_) = sheet.add("GetVideoComponents", (40, 190, 360, 114), folded=True, video=clip)
    values, links = defaults("FateZero_PrepareFrames", count=8, short_side=64), {"audio": audio, "fps": fps}
    box = (40, 240, 360, 350)
    frames, fps, audio = sheet.add("FateZero_PrepareFrames", box, values, folded=True, images=images, **links)
    return frames, fps, audio


def _results(sheet: Sheet, prefix: str, clips: Mapping[str, Output], rate_and_sound: Mapping[str, Output]) -> None:
    """Add group 4: both clips compared, the picture that moves, and the edit that is saved; prefix: of files."""
    sheet.group("4 result, compared", (1280, 310, 400, 590))
    compare, box = "FateZero_CompareClips", (1300, 390, 360, 490)  # grows with a film
    (compared,) = sheet.add(compare, box, defaults(compare), **clips)
    sheet.group("4 result", (1700, -40, 400, 480))
    values, fps = (
        defaults("SaveAnimatedWEBP", filename_prefix=f"{prefix}_beside_source", fps=8.0),
        rate_and_sound["fps"],
    )
    box, title = (1720, 40, 360, 380), "The source beside the edit"
    sheet.add("SaveAnimatedWEBP", box, values, title=title, images=compared, fps=fps)
    sheet.group("4 result, saved", (1700, 460, 400, 540))
    made = {"images": clips["edit_1"], **rate_and_sound}
    (video,) = sheet.add("CreateVideo", (1720, 540, 360, 110), [8.0], folded=True, **made)
    box = (1720, 584, 360, 300)  # grows with its preview
    sheet.add("SaveVideo", box, [prefix, "auto", "auto"], title="The edit, saved", video=video)


def _steps_note(steps: Steps) -> str:
    """Return what to do, and only then the method."""
    listed = (
        f"{RUN}: clip and model come with the pack.",
        f"**See** the source beside the edit in group 4. {SAVED_AS} **output/video/{steps.file}_00001_.mp4**.",
        "**Type** your own words into the upper box of *Prompt-to-Prompt Edit*, in group 3, and Run again.",
    )
    method = f"The built-in model knows {steps.words}. The inversion is not repeated.\n\n{steps.method}"
    own = (
        "**A clip of your own**: take a template without a number; or put **Load Video** in place of **Sample Clip**. "
        "**Prepare Frames** (folded; click its dot) takes 8 frames and scales them to 64x64 for the built-in model "
        "(512 for Stable Diffusion)."
    )
    return note(steps.title, listed, f"{method}\n\n{own}", large=True)
