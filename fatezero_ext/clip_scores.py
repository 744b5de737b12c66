"""Pictures and prompts in one space: a CLIP model from a local folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize
from transformers import CLIPModel, CLIPTokenizer
from transformers.utils import logging as transformers_logging

from .errors import ModelError, PromptError
from .model_folders import is_clip_folder, model_type
from .residence import Prepare, stay
from .video import to_bytes

PICTURES_AT_ONCE = 16
"""Bounds the memory beside the weights."""
TOKENIZER_FILES = (("tokenizer.json",), ("vocab.json", "merges.txt"))
"""Either of these sets; without them transformers makes an empty tokenizer and says nothing."""
WANTED = "a folder that CLIPModel.save_pretrained and its processor made is needed"

OnPicture = Callable[[int], None]
"""Told how many pictures are done."""


class Embeddings(NamedTuple):
    """What a CLIP model makes of pictures and prompts, all of length 1.

    pictures: [frames, width], float32, on the CPU
    prompts:  [prompts, width], likewise
    """

    pictures: Tensor
    prompts: Tensor


class ClipScorer:
    """A CLIP model with its tokenizer and the way it prepares pictures."""

    def __init__(self, tokenizer: CLIPTokenizer, processor: object, net: CLIPModel) -> None:
        self.tokenizer, self.processor = tokenizer, processor
        self.net = net.float().requires_grad_(False).eval()
        self.prepare: Prepare = stay

    def __repr__(self) -> str:
        return f"ClipScorer(width {self.net.config.projection_dim})"

    @torch.no_grad()
    def embeddings(self, frames: Tensor, prompts: Sequence[str], on_picture: OnPicture | None = None) -> Embeddings:
        """Embed frames and at least one prompt.

        frames: [frames, height, width, 3], 0..1; rounded to 8 bits, as pictures come from files
        Raises PromptError for a prompt that is too long for the model, VideoError for what is no stack of frames.
        """
        tokens = self._tokens(prompts)
        to_bytes(frames[:1])  # raises where these are no frames, before the long work
        self.prepare(0)
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
        for prompt in prompts:
            length = len(self.tokenizer(prompt, verbose=False)["input_ids"])
            if length > most:
                raise PromptError(
                    f"the prompt has {length} tokens with its start and end; {most} fit this CLIP model. "
                    f"Shorten the prompt that begins {prompt[:40]!r}."
                )
        tokens = self.tokenizer(list(prompts), padding=True, return_tensors="pt", verbose=False)
        return {"input_ids": tokens["input_ids"], "attention_mask": tokens["attention_mask"]}


def load_clip(folder: Path | str, *, device: torch.device | str = "cpu") -> ClipScorer:
    """Load a CLIP model, float32, from a folder in Hugging Face layout; nothing is fetched from the network.

    Raises ModelError where the folder is not one, or not complete.
    """
    folder = Path(folder)
    _check_files(folder)
    # Pickles only where there is nothing better; transformers reads them with weights_only.
    safe = any(folder.glob("*.safetensors")) or not any(folder.glob("*.bin"))
    try:
        with _quiet_transformers():
            net, found = CLIPModel.from_pretrained(
                folder, local_files_only=True, use_safetensors=safe, output_loading_info=True
            )
            tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
            processor = _image_processor().from_pretrained(folder, local_files_only=True)
    except (MemoryError, torch.cuda.OutOfMemoryError):
        raise
    except Exception as error:  # foreign parsers of files that may hold anything; tokenizers raises bare Exception
        raise ModelError(
            f"{folder} cannot be read as a CLIP model: {error}. {_as_sentence(WANTED)} Restore it."
        ) from error
    missing = sorted(found["missing_keys"])
    if missing:
        raise ModelError(
            f"{folder} is no complete CLIP model: {len(missing)} tensors are missing, such as {missing[0]}. They would "
            f"be left random; use a complete folder."
        )
    words = net.config.text_config.vocab_size
    if len(tokenizer) > words:
        raise ModelError(
            f"the tokenizer in {folder} has {len(tokenizer)} tokens, its model {words}; they belong to different "
            f"models. Use the files of one."
        )
    return ClipScorer(tokenizer, processor, net.to(device))


def _check_files(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder} has no config.json; {WANTED}. Choose another folder.")
    if not is_clip_folder(folder):
        raise ModelError(
            f"{folder / 'config.json'} says model_type {model_type(folder)!r}; 'clip', with a text and a picture "
            f"tower, is needed. Choose another folder."
        )
    if not any(all((folder / name).is_file() for name in files) for files in TOKENIZER_FILES):
        raise ModelError(
            f"{folder} has no tokenizer; tokenizer.json, or vocab.json and merges.txt, are needed. Copy them from "
            f"where the model is from."
        )


def _as_sentence(words: str) -> str:
    return f"{words[0].upper()}{words[1:]}."


def _image_processor() -> type:
    """The Pillow one, so that scores do not depend on whether torchvision is installed."""
    try:
        from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
    except ImportError:  # before transformers 5 it was the plain one
        from transformers import CLIPImageProcessor

        return CLIPImageProcessor
    return CLIPImageProcessorPil


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """No bars and no reports of tensors that are not needed; what matters becomes an error here."""
    bars, verbosity = transformers_logging.is_progress_bar_enabled(), transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity(transformers_logging.CRITICAL)
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
