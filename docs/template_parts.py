"""Parts that the templates share: model files, words, notes, results: for `docs/make_templates.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from template_nodes import defaults
from workflow_sheet import Output, Sheet

HUB = "https://huggingface.co/Comfy-Org"
WAN = f"{HUB}/Wan_2.1_ComfyUI_repackaged/resolve/main/split_files"
SAVED = "video/edit"
GREY = "#888"
"""Colour of groups in which nothing need be set."""
WHOLE = "FateZero_VideoEdit"
RUN = "**Run** (blue, at the top right)"


@dataclass(frozen=True)
class ModelFile:
    """A file that is downloaded once.

    directory: of ComfyUI's models
    size:      bytes
    """

    url: str
    directory: str
    size: int

    @property
    def name(self) -> str:
        """Name of the file."""
        return self.url.rpartition("/")[2].partition("?")[0]

    @property
    def described(self) -> dict[str, str]:
        """Entry of a node's `models`, from which the page offers the download of a missing file."""
        return {"name": self.name, "url": self.url, "directory": self.directory}


SD15 = ModelFile(
    f"{HUB}/stable-diffusion-v1-5-archive/resolve/main/v1-5-pruned-emaonly-fp16.safetensors?download=true",
    "checkpoints",
    2_132_696_762,
)
"""As the page's own default workflow has it."""
SAM3 = ModelFile(
    f"{HUB}/sam3.1/resolve/main/checkpoints/sam3.1_multiplex_fp16.safetensors", "checkpoints", 1_745_546_848
)
VACE = ModelFile(f"{WAN}/diffusion_models/wan2.1_vace_1.3B_fp16.safetensors", "diffusion_models", 4_309_519_800)
UMT5 = ModelFile(
    f"{WAN}/text_encoders/umt5_xxl_fp8_e4m3fn_scaled.safetensors?download=true", "text_encoders", 6_735_906_897
)
WAN_VAE = ModelFile(f"{WAN}/vae/wan_2.1_vae.safetensors", "vae", 253_815_318)
FILES = (SD15, SAM3, VACE, UMT5, WAN_VAE)
"""All files that templates name; sizes as they are published."""


def gigabytes(size: int) -> str:
    """Write bytes as download pages do: 2132696762 as "2.13 GB"."""
    return f"{size / 1e9:.2f} GB"


def download(document: Mapping[str, Any]) -> int:
    """Return how many bytes of model files a workflow names."""
    named = {file["name"] for node in document["nodes"] for file in node["properties"].get("models", ())}
    return sum(file.size for file in FILES if file.name in named)


def note(title: str, steps: Sequence[str], advice: str, files: Sequence[ModelFile] = (), *, large: bool = False) -> str:
    """Return a note: what to do, then advice, then which files are needed; large: whether headings have room."""
    heading = "## " if large else ""
    numbered = [f"{heading}{number}. {step}" for number, step in enumerate(steps, 1)]
    lines = [f"# {title}", "", *numbered, "", advice]
    if files:
        lines += ["", f"Downloaded once, {gigabytes(sum(file.size for file in files))}:", ""]
    lines += [f"- [{file.name}]({file.url}), {gigabytes(file.size)}, in **models/{file.directory}**" for file in files]
    return "\n".join(lines)


def checkpoint(sheet: Sheet, file: ModelFile, left: int, top: int) -> tuple[Output, Output, Output]:
    """Add Load Checkpoint; returns its model, its text encoder and its VAE."""
    kind, box = "CheckpointLoaderSimple", (left, top, 360, 126)
    model, text_encoder, vae = sheet.add(kind, box, [file.name], models=[file.described])
    return model, text_encoder, vae


def sentences(sheet: Sheet, source: str, edit: str) -> tuple[Output, Output]:
    """Add groups 2 and 3 below each other; returns the two sentences."""
    kind = "PrimitiveStringMultiline"
    sheet.group("2 what is in it", (440, -40, 400, 220))
    (said,) = sheet.add(kind, (460, 40, 360, 120), [source], title="What is in the clip", colour="words")
    sheet.group("3 what it should be", (440, 200, 400, 220))
    (wanted,) = sheet.add(kind, (460, 280, 360, 120), [edit], title="What it should be", colour="words")
    return said, wanted


@dataclass(frozen=True)
class Result:
    """What is shown and saved of an edit.

    compared: source beside edit
    """

    compared: Output
    video: Output
    fps: Output


def whole(sheet: Sheet, links: Mapping[str, Output], source: str, edit: str, kind: str) -> tuple[Output, Output]:
    """Add the one node; links: to all of its sockets and to both of its prompts. Returns its video and comparison."""
    sheet.group("the edit: all is chosen for you", (860, -40, 400, 940), GREY)
    values = defaults(WHOLE, source_prompt=source, edit_prompt=edit, kind=kind)
    video, _, _, compared = sheet.add(WHOLE, (880, 40, 360, 760), values, **links)  # grows: nothing below
    return video, compared


def shown(sheet: Sheet, left: int, result: Result) -> None:
    """Add group 4 at the right: source beside edit, moving; below it the clip that is saved."""
    sheet.group("4 result", (left, -40, 820, 480))
    webp = defaults("SaveAnimatedWEBP", filename_prefix=f"{SAVED}_beside_source", lossless=False, quality=90)
    title, links = "The source beside the edit", {"images": result.compared, "fps": result.fps}
    sheet.add("SaveAnimatedWEBP", (left + 20, 40, 780, 380), webp, title=title, **links)
    sheet.group("4 result, saved", (left, 460, 400, 540))
    box, title = (left + 20, 540, 360, 260), "The edit, saved"
    sheet.add("SaveVideo", box, [SAVED, "auto", "auto"], title=title, video=result.video)
