"""The text encoder: prompts to embeddings, with the calls of a ComfyUI CLIP object."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from ..errors import PromptError
from ..memory.held_memory import WeightsReport
from ..memory.residency import LoadToDevice, prepared, stay_put
from ..prompts.prompt import PROMPT_TOKENS, WEIGHTS, Tokens
from .folder.clip_tokenizer import TOKENIZING
from .not_offered import RefusesByName
from .shared_weights import with_weights

BRACKET = re.compile(r"(?<!\\)[()]")
EMBEDDING = re.compile(r"embedding:\S*")
OPEN_CLIP_LAYERS = 23
"""Layers of Stable Diffusion 2.x's text encoder, stored without the last of 24, whose output the UNet does not read."""

NOT_OFFERED = {
    "cond_stage_model": "a LoRA goes onto this one another way. Use Load LoRA (FateZero)",
    "add_patches": "a LoRA goes onto this one another way. Use Load LoRA (FateZero)",
    "get_key_patches": "it cannot be merged. Merge CLIPs of Load Checkpoint or Load CLIP",
    "patcher": "it takes no hooks. Use the CLIP of Load Checkpoint or Load CLIP",
    "load_model": "it cannot be saved. Save the CLIP of Load Checkpoint or Load CLIP",
    "get_sd": "it cannot be saved. Save the CLIP of Load Checkpoint or Load CLIP",
    "load_sd": "it is not loaded anew. Use the CLIP of Load Checkpoint or Load CLIP",
    "set_tokenizer_option": "options of T5 do not apply to Stable Diffusion. Take the node out",
}
"""Attributes of a CLIP that core nodes use and this one does not have, with what to do instead."""


class ClipTextEncoder(RefusesByName, WeightsReport):
    """A CLIP tokenizer and text model.

    Core ComfyUI nodes can use it as a CLIP, with clip skip. Two parts of ComfyUI's prompt syntax are refused by name:
    weights in brackets, and embeddings. (`\\(` and `\\)` are literal brackets.)
    load_to_device: called before the weights are used. A program that manages memory sets it after construction, once
                    it has seen `net`
    """

    part, comfy_name, remedies = "text encoder", "CLIP", NOT_OFFERED
    net: CLIPTextModel

    def __init__(self, tokenizer: CLIPTokenizer, model: CLIPTextModel) -> None:
        self.tokenizer = tokenizer
        self.net = model.requires_grad_(False).eval()
        self.load_to_device: LoadToDevice = stay_put
        self.layer: int | None = None

    def __repr__(self) -> str:
        return f"ClipTextEncoder({self.tokenizer.vocab_size} tokens, width {self.net.config.hidden_size})"

    def with_weights(self, changes: Mapping[str, Tensor]) -> ClipTextEncoder:
        """Derive a text encoder with some weights of `net` changed, by name; all others share this one's memory.

        Its weights stay where they are until `load_to_device` is set.
        """
        twin = copy.copy(self)
        twin.net, twin.load_to_device = with_weights(self.net, self.net, changes), stay_put
        return twin

    def clone(self) -> ClipTextEncoder:
        """Copy the encoder, over the same weights, so that its layer can be chosen separately."""
        return copy.copy(self)

    def clip_layer(self, layer: int) -> None:
        """Read the text behind another layer, counted from the last (-1), as ComfyUI counts; clip skip.

        Raises PromptError for a layer that is not there.
        """
        left_out = int(self.net.config.num_hidden_layers == OPEN_CLIP_LAYERS)
        if not left_out < -layer <= self.net.config.num_hidden_layers + left_out:
            raise PromptError(
                f"clip skip is {layer}; this text encoder has the layers {-1 - left_out} to "
                f"{-self.net.config.num_hidden_layers - left_out}. Use one of these."
            )
        self.layer = layer + left_out

    def tokenize(self, text: str, return_word_ids: bool = False, **_options: Any) -> Tokens:  # noqa: ANN401 - ComfyUI's
        """Split a prompt into tokens: {"l": [77 pairs of (token id, weight 1.0)]}, padded behind the end token.

        return_word_ids: return triples that end with the number of the space-separated word, from 1; 0 for other tokens
        Raises PromptError for a prompt that does not fit 77 tokens, has weights in brackets, or names an embedding.
        """
        if found := BRACKET.search(text):
            raise PromptError(
                f"{text[max(0, found.start() - 10) :][:40]!r} has brackets, which give words a weight; this text "
                f"encoder has no weights. Remove the brackets, or write \\( and \\) for literal ones. {WEIGHTS}"
            )
        if found := EMBEDDING.search(text):
            raise PromptError(
                f"{found[0]!r} names a textual inversion, which this text encoder cannot read; ComfyUI's CLIP can. "
                f"Use the CLIP of Load Checkpoint, or plain words."
            )
        text = text.replace("\\(", "(").replace("\\)", ")")
        ids = self._ids(text)
        if len(ids) > PROMPT_TOKENS:
            raise PromptError(
                f"the prompt has {len(ids)} tokens with its start and end; {PROMPT_TOKENS} fit. "
                f"Shorten the prompt that begins {text[:40]!r}."
            )
        padded = ids + [self.tokenizer.pad_token_id] * (PROMPT_TOKENS - len(ids))
        if not return_word_ids:
            return {"l": [[(token, 1.0) for token in padded]]}
        lengths = [len(self._ids(word)) - 2 for word in text.split()]
        words = [0, *(number for number, length in enumerate(lengths, 1) for _ in range(length))]
        words += [0] * (PROMPT_TOKENS - len(words))
        return {"l": [[(token, 1.0, word) for token, word in zip(padded, words, strict=True)]]}

    def encode_from_tokens(self, tokens: Tokens, return_pooled: bool = False, return_dict: bool = False) -> Any:  # noqa: ANN401
        """Return embeddings [1, 77, width]; with `return_pooled` also the prompt's [1, width], or both in a dict.

        They are float32 on the CPU, where ComfyUI keeps conditioning: core nodes join it with that of its own CLIPs.
        """
        prepared(self.load_to_device, 0)
        ids = torch.tensor([[token for token, *_ in chunk] for chunk in tokens["l"]], device=self.net.device)
        out = self.net(ids, output_hidden_states=self.layer is not None)
        cond, pooled = out.last_hidden_state, out.pooler_output
        if self.layer is not None:
            # ComfyUI's rule for Stable Diffusion: earlier layers go through the last one's norm as well.
            cond = self._final_norm(out.hidden_states[self.layer])
        cond, pooled = cond.float().cpu(), pooled.float().cpu()
        if return_dict:
            return {"cond": cond, "pooled_output": pooled}
        return (cond, pooled) if return_pooled else cond

    def _ids(self, text: str) -> list[int]:
        """Tokenize with start and end. Stable Diffusion 2.x pads with "!", which in a prompt is an ordinary token."""
        with TOKENIZING:
            return self.tokenizer(text, verbose=False, split_special_tokens=True)["input_ids"]

    @property
    def _final_norm(self) -> nn.LayerNorm:
        return getattr(self.net, "text_model", self.net).final_layer_norm

    def encode_from_tokens_scheduled(
        self,
        tokens: Tokens,
        unprojected: bool = False,
        add_dict: Mapping[str, Any] | None = None,
        show_pbar: bool = True,
    ) -> list[Any]:
        """Return ComfyUI's CONDITIONING: [[embeddings [1, 77, width], {"pooled_output": [1, width]}]]."""
        found = self.encode_from_tokens(tokens, return_dict=True)
        return [[found.pop("cond"), {**found, **(add_dict or {})}]]

    @torch.no_grad()
    def encode(self, text: str) -> Tensor:
        """Return the embeddings [1, 77, width] of one prompt."""
        return self.encode_from_tokens(self.tokenize(text))
