"""Prompts to embeddings, with the same calls as a ComfyUI CLIP object."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from .errors import PromptError
from .prompts import PROMPT_TOKENS
from .residence import Prepare, stay
from .sharing import renew, sharing_copy


class TextEncoder:
    """A CLIP tokenizer and text model.

    Core ComfyUI nodes can use it as a CLIP: `tokenize` and `encode_from_tokens_scheduled` are theirs.
    """

    def __init__(self, tokenizer: CLIPTokenizer, model: CLIPTextModel) -> None:
        self.tokenizer = tokenizer
        self.net = model.requires_grad_(False).eval()
        self.prepare: Prepare = stay

    def __repr__(self) -> str:
        return f"TextEncoder({self.tokenizer.vocab_size} tokens, width {self.net.config.hidden_size})"

    def with_weights(self, changes: Mapping[str, Tensor]) -> TextEncoder:
        """A text encoder with other tensors for some of its parameters, by their names; it shares all others."""
        net = sharing_copy(self.net, self.net)
        renew(net, changes)
        return TextEncoder(self.tokenizer, net)

    def tokenize(self, text: str) -> dict[str, list[list[tuple[int, float]]]]:
        """Returns {"l": [77 pairs of (token id, weight 1.0)]}, padded behind the end token.

        Raises PromptError for a prompt that does not fit 77 tokens.
        """
        ids = self.tokenizer(text, verbose=False)["input_ids"]
        if len(ids) > PROMPT_TOKENS:
            raise PromptError(
                f"the prompt has {len(ids)} tokens with its start and end; {PROMPT_TOKENS} fit. "
                f"Shorten the prompt that begins {text[:40]!r}."
            )
        padded = ids + [self.tokenizer.pad_token_id] * (PROMPT_TOKENS - len(ids))
        return {"l": [[(token, 1.0) for token in padded]]}

    def encode_from_tokens_scheduled(
        self, tokens: dict[str, list[list[tuple[int, float]]]]
    ) -> list[list[Tensor | dict[str, object]]]:
        """Returns ComfyUI CONDITIONING: [[embeddings [1, 77, width], {}]]."""
        self.prepare(0)
        ids = torch.tensor([[token for token, _ in chunk] for chunk in tokens["l"]], device=self.net.device)
        return [[self.net(ids).last_hidden_state, {}]]

    @torch.no_grad()
    def encode(self, text: str) -> Tensor:
        """Embeddings [1, 77, width] of one prompt."""
        return self.encode_from_tokens_scheduled(self.tokenize(text))[0][0]
