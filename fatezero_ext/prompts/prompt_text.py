"""Prompts read by their words alone, before any text encoder is loaded."""

from __future__ import annotations

import re
from zlib import crc32

from ..errors import PromptError
from .words import PROMPT_TOKENS, Prompt, read_prompt

START, END = -1, -2
MOST_WORDS = PROMPT_TOKENS - 2
"""Each word makes at least one token, beside the prompt's start and end."""
WEIGHTED = re.compile(r"(?<!\\)\((?:[^()\\]|\\.)*\)")
WEIGHT_OF_ONE = re.compile(r":\s*\+?0*1(\.0*)?\s*\)$")


class WordTokens:
    """Stands for a text encoder where words alone matter: each is one token, and every text encoder takes the rest."""

    def tokenize(self, text: str) -> dict[str, list[list[tuple[int, float]]]]:
        """One token a word.

        Raises PromptError for what no text encoder takes when words are edited: weights in brackets, too many words.
        """
        weighted = [found[0] for found in WEIGHTED.finditer(text) if not WEIGHT_OF_ONE.search(found[0])]
        if weighted:
            raise PromptError(
                f"{weighted[0]!r} has brackets, which give words a weight; plain words are needed. Remove the brackets "
                f"(an edit has the equalizer), or write \\( and \\) if they are meant."
            )
        words = text.split()
        if len(words) > MOST_WORDS:
            raise PromptError(
                f"the prompt has {len(words)} words, more than {PROMPT_TOKENS} tokens with its start and end; "
                f"{PROMPT_TOKENS} fit. Shorten the prompt that begins {text[:40]!r}."
            )
        return {"l": [[(token, 1.0) for token in (START, *(crc32(word.encode()) for word in words), END)]]}

    def encode_from_tokens_scheduled(self, tokens: dict[str, list]) -> list:
        """Nothing is encoded."""
        raise NotImplementedError("words alone have no embeddings; a text encoder is needed. Load one.")


def read_words(text: str, name: str) -> Prompt:
    """A prompt with one token a word; name: what it is called in errors.

    Raises PromptError for a prompt that no text encoder takes when words are edited.
    """
    return read_prompt(WordTokens(), text, name)
