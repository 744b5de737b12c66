"""Prompts read by their words alone, before any text encoder is loaded."""

from __future__ import annotations

import re
from typing import Any
from zlib import crc32

from ..errors import PromptError
from .prompt import PROMPT_TOKENS, WEIGHTS, Prompt, Tokens, read_prompt

START, END = -1, -2
MOST_WORDS = PROMPT_TOKENS - 2
"""Each word makes at least one token, beside the prompt's start and end."""
WEIGHTED = re.compile(r"(?<!\\)\((?:[^()\\]|\\.)*\)")
WEIGHT_OF_ONE = re.compile(r":\s*\+?0*1(\.0*)?\s*\)$")


class WordTokens:
    """Stands in for a text encoder where only words matter: each word is one token."""

    def tokenize(self, text: str) -> Tokens:
        """Make one token of each word.

        Raises PromptError for weights in brackets and for too many words, which no text encoder takes in an edit.
        """
        weighted = [found[0] for found in WEIGHTED.finditer(text) if not WEIGHT_OF_ONE.search(found[0])]
        if weighted:
            raise PromptError(
                f"{weighted[0]!r} has brackets, which give words a weight; plain words are needed. Remove the "
                f"brackets, or write \\( and \\) if they are meant. {WEIGHTS}"
            )
        words = text.split()
        if len(words) > MOST_WORDS:
            raise PromptError(
                f"the prompt has {len(words)} words, more than {PROMPT_TOKENS} tokens with its start and end; "
                f"{PROMPT_TOKENS} fit. Shorten the prompt that begins {text[:40]!r}."
            )
        return {"l": [[(token, 1.0) for token in (START, *(crc32(word.encode()) for word in words), END)]]}

    def encode_from_tokens_scheduled(self, tokens: Tokens) -> list[Any]:
        """Raise NotImplementedError: words alone have no embeddings."""
        raise NotImplementedError("words alone have no embeddings; a text encoder is needed. Load one.")


def read_words(text: str, name: str) -> Prompt:
    """Read a prompt with one token a word; name: the prompt's name in errors.

    Raises PromptError for a prompt that no text encoder takes in an edit.
    """
    return read_prompt(WordTokens(), text, name)
