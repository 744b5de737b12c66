"""Pictures and prompts in one space: a CLIP model from a local folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import normalize
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTokenizer, CLIPVisionConfig

from ..errors import ModelError, PromptError
from ..media.frame_checks import check_frames
from ..media.video import to_bytes
from ..memory.residency import LoadToDevice, prepared, stay_put
from ..models.folder.clip_tokenizer import TOKENIZING, read_clip_tokenizer
from ..models.folder.configs import CLIP, CLIP_PICTURES, text_config, vision_config
from ..models.folder.empty_modules import check_fit, empty, fill, shapes_of
from ..models.folder.weights import TEXT, folder_weights
from ..untrusted.config_rules import checked
from ..untrusted.plain_files import read_json, shown

PICTURES_AT_ONCE = 16
"""Bounds the memory needed beside the weights."""
WANTED = "a folder that CLIPModel.save_pretrained and its processor made is needed"

OnPicture = Callable[[int], None]
"""Called with the number of pictures that are done."""
PictureProcessor = Callable[..., Mapping[str, Tensor]]
"""Prepares pictures: transformers' image processor."""


class Embeddings(NamedTuple):
    """CLIP embeddings of pictures and prompts, all of length 1.

    pictures: [frames, width], float32, on the CPU
    prompts:  [prompts, width], likewise
    """

    pictures: Tensor
    prompts: Tensor


class ClipScorer:
    """A CLIP model with its tokenizer and its preparation of pictures.

    load_to_device: called before the weights are used. A program that manages memory sets it after construction, once
                    it has seen `net`
    """

    def __init__(self, tokenizer: CLIPTokenizer, processor: PictureProcessor, net: CLIPModel) -> None:
        self.tokenizer, self.processor = tokenizer, processor
        self.net = net.float().requires_grad_(False).eval()
        self.load_to_device: LoadToDevice = stay_put

    def __repr__(self) -> str:
        return f"ClipScorer(width {self.net.config.projection_dim})"

    @torch.no_grad()
    def embeddings(self, frames: Tensor, prompts: Sequence[str], on_picture: OnPicture | None = None) -> Embeddings:
        """Embed frames and at least one prompt.

        frames: [frames, height, width, 3], 0..1; rounded to 8 bits, as pictures come from files
        Raises PromptError for a prompt that is too long for the model, VideoError for what is no stack of frames.
        """
        tokens = self._tokens(prompts)
        check_frames(frames)
        prepared(self.load_to_device, 0)
        device = self.net.device
        tokens = {name: ids.to(device) for name, ids in tokens.items()}
        embedded = []
        for first in range(0, len(frames), PICTURES_AT_ONCE):
            part = [Image.fromarray(picture) for picture in to_bytes(frames[first : first + PICTURES_AT_ONCE])]
            pixels = self.processor(images=part, return_tensors="pt")["pixel_values"].to(device)
            # Both towers at once: their separate calls give other types in other versions of transformers.
            found = self.net(**tokens, pixel_values=pixels)
            embedded.append(normalize(found.image_embeds, dim=-1).cpu())
            if on_picture:
                on_picture(first + len(part))
        return Embeddings(torch.cat(embedded), normalize(found.text_embeds, dim=-1).cpu())

    def _tokens(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        most = self.net.config.text_config.max_position_embeddings
        with TOKENIZING:
            lengths = [len(self.tokenizer(prompt, verbose=False)["input_ids"]) for prompt in prompts]
            tokens = self.tokenizer(list(prompts), padding=True, return_tensors="pt", verbose=False)
        for prompt, length in zip(prompts, lengths, strict=True):
            if length > most:
                raise PromptError(
                    f"the prompt has {length} tokens with its start and end; {most} fit this CLIP model. "
                    f"Shorten the prompt that begins {prompt[:40]!r}."
                )
        return {"input_ids": tokens["input_ids"], "attention_mask": tokens["attention_mask"]}


def load_clip(folder: Path | str, *, device: torch.device | str = "cpu") -> ClipScorer:
    """Load a CLIP model, float32, from a folder in Hugging Face layout; nothing is fetched from the network.

    Raises ModelError where the folder is not one, or not complete.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder} has no config.json; {WANTED}. Choose another folder.")
    kind = read_json(folder / "config.json").get("model_type")
    if kind != "clip":
        raise ModelError(
            f"{folder / 'config.json'} has model_type {shown(kind)}; clip, with a text and a picture tower, is "
            f"needed. Choose another folder."
        )
    net = _net(folder)
    # In a model that is built they are configs; transformers' annotations also allow what they are made from.
    text, vision = cast("CLIPTextConfig", net.config.text_config), cast("CLIPVisionConfig", net.config.vision_config)
    tokenizer = read_clip_tokenizer(folder, text.vocab_size)
    processor = _processor(folder, cast(int, vision.image_size))
    return ClipScorer(tokenizer, processor, nn.Module.to(net, device))


def _net(folder: Path) -> CLIPModel:
    path = folder / "config.json"
    described = read_json(path)
    towers: dict[str, Any] = {
        "text_config": text_config(described, path),
        "vision_config": vision_config(described, path),
    }
    net = empty(lambda: CLIPModel(CLIPConfig(**towers, **checked(described, CLIP, path))), path)
    file, wanted = folder_weights(folder, TEXT), shapes_of(net)
    check_fit(wanted, {key: shape for key, shape in file.shapes.items() if key in wanted}, folder, "CLIP model")
    return fill(net, file.read(wanted, torch.float32), torch.float32, folder)


def _processor(folder: Path, side: int) -> PictureProcessor:
    """Build what prepares pictures; side: that of the model's pictures in pixels."""
    path = folder / "preprocessor_config.json"
    if path.exists():
        described: Any = read_json(path)
    else:
        path = folder / "processor_config.json"  # transformers 5 writes this one
        described = read_json(path).get("image_processor") if path.exists() else None
    if not isinstance(described, dict):
        raise ModelError(
            f"{folder} does not say how its pictures are prepared; preprocessor_config.json is needed. Copy it from "
            f"where the model is from."
        )
    allowed = checked(described, CLIP_PICTURES, path)
    try:
        processor = _image_processor()(**allowed)
        made = _made_side(processor)
    except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        raise ModelError(
            f"{path} has settings that do not fit together; those of a CLIP model's pictures are needed. Restore the "
            f"file."
        ) from error
    if made != (side, side):
        raise ModelError(
            f"{path} prepares pictures of {made[0]} by {made[1]}, the model in {folder} takes {side} by {side}. Use "
            f"the files of one model."
        )
    return processor


def _made_side(processor: PictureProcessor) -> tuple[int, ...]:
    """Return height and width of prepared pictures, found by preparing a small one."""
    return tuple(processor(images=[Image.new("RGB", (40, 30))], return_tensors="pt")["pixel_values"].shape[-2:])


def _image_processor() -> type:
    """Return the one that uses Pillow, so that scores do not depend on whether torchvision is installed."""
    try:
        from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
    except ImportError:  # before transformers 5 it was the plain one
        from transformers import CLIPImageProcessor

        return CLIPImageProcessor
    return CLIPImageProcessorPil
