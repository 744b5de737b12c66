"""Prompts to embeddings, with the same calls as a ComfyUI CLIP object."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from ..errors import NotOfferedError, PromptError
from ..memory.held_memory import WeightsReport
from ..memory.residency import LoadToDevice, prepared, stay_put
from ..prompts.words import PROMPT_TOKENS
from .folder.clip_tokenizer import TOKENIZING
from .shared_weights import with_weights

Tokens = dict[str, list[list[tuple[int, float]]]]

BRACKET = re.compile(r"(?<!\\)[()]")
EMBEDDING = re.compile(r"embedding:\S*")
OPEN_CLIP_LAYERS = 23
"""Of Stable Diffusion 2.x's text encoder, which is stored without the last of its 24 layers: nothing listens to it."""

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
"""What core nodes ask of a CLIP and this one does not have, with what to do instead."""


class ClipTextEncoder(WeightsReport):
    """A CLIP tokenizer and text model.

    Core ComfyUI nodes can use it as a CLIP, with clip skip. Two of ComfyUI's ways of writing are refused by name:
    weights in brackets, and embeddings. (`\\(` and `\\)` are brackets that are meant.)
    """

    def __init__(self, tokenizer: CLIPTokenizer, model: CLIPTextModel) -> None:
        self.tokenizer = tokenizer
        self.net = model.requires_grad_(False).eval()
        self.load_to_device: LoadToDevice = stay_put
        self.layer: int | None = None

    def __repr__(self) -> str:
        return f"TextEncoder({self.tokenizer.vocab_size} tokens, width {self.net.config.hidden_size})"

    def __getattr__(self, name: str) -> object:
        if name in NOT_OFFERED:
            raise NotOfferedError(
                f"a core node asks the text encoder of Load Pseudo-3D UNet for {name!r}, which only ComfyUI's own CLIP "
                f"has; {NOT_OFFERED[name]}."
            )
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def with_weights(self, changes: Mapping[str, Tensor]) -> ClipTextEncoder:
        """A text encoder with these weights of `net` changed, by name; all others share this one's memory.

        Its weights stay where they are until `load_to_device` is set.
        """
        twin = copy.copy(self)
        twin.net, twin.load_to_device = with_weights(self.net, self.net, changes), stay_put
        return twin

    def clone(self) -> ClipTextEncoder:
        """The same model, whose layer can be chosen on its own."""
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
        """Returns {"l": [77 pairs of (token id, weight 1.0)]}, padded behind the end token.

        return_word_ids: give triples, the last of which is the number of the space-separated word, from 1; 0 for others
        Raises PromptError for a prompt that does not fit 77 tokens, has weights in brackets, or names an embedding.
        """
        if found := BRACKET.search(text):
            raise PromptError(
                f"{text[max(0, found.start() - 10) :][:40]!r} has brackets, which give words a weight; this text "
                f"encoder has no weights. Remove the brackets (an edit has the equalizer), or write \\( and \\) if "
                f"they are meant."
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
        """Embeddings [1, 77, width]; with `return_pooled` also the prompt's [1, width]; or both by ComfyUI's names.

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
        """With start and end. The padding token of Stable Diffusion 2.x is "!", which in a prompt is a plain mark."""
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
    ) -> list[list[Tensor | dict[str, object]]]:
        """Returns ComfyUI CONDITIONING: [[embeddings [1, 77, width], {"pooled_output": [1, width]}]]."""
        found = self.encode_from_tokens(tokens, return_dict=True)
        return [[found.pop("cond"), {**found, **(add_dict or {})}]]

    @torch.no_grad()
    def encode(self, text: str) -> Tensor:
        """Embeddings [1, 77, width] of one prompt."""
        return self.encode_from_tokens(self.tokenize(text))
