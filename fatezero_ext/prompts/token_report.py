"""A readable list of the tokens that a tokenizer cuts words into."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from .prompt import PROMPT_TOKENS, TextEncoder, read_prompt

WORD_END = "</w>"


def described_words(text_encoder: TextEncoder, text: str) -> str:
    """Describe every word of a prompt: its token positions, and its pieces if it has several.

    Returns for example "a[1] watercolor[2,3]\\n\\n2 of 75 tokens\\n\\n1: a\\n2-3: watercolor = water + color".
    Raises PromptError for prompts that cannot be edited word by word.
    """
    prompt = read_prompt(text_encoder, text)
    if not prompt.words:
        return "The prompt is empty."
    pieces, lines = token_pieces(text_encoder, prompt.ids), []
    for word in prompt.words:
        place = "-".join(str(position) for position in dict.fromkeys(word.tokens[:1] + word.tokens[-1:]))
        cut = f" = {' + '.join(pieces[token] for token in word.tokens)}" if len(word.tokens) > 1 else ""
        lines.append(f"{place or 'no token'}: {word.text}{cut}")
    return "\n".join([prompt.spans(), "", f"{len(prompt.ids) - 2} of {PROMPT_TOKENS - 2} tokens", "", *lines])


def token_pieces(text_encoder: TextEncoder, ids: Sequence[int]) -> list[str]:
    """The text of every token, for this project's text encoders and ComfyUI's CLIP objects.

    The vector of a textual inversion, whose id is below 0, is shown as "vector".
    """
    tokenizer, words = cast(Any, text_encoder).tokenizer, [token for token in ids if token >= 0]
    if hasattr(tokenizer, "untokenize"):
        raw = [piece for _, piece in tokenizer.untokenize([(token, 1.0) for token in words])]
    else:
        raw = tokenizer.convert_ids_to_tokens(words)
    byte_of = _bytes_of_letters()
    spelt = [bytes(byte_of[letter] for letter in piece.removesuffix(WORD_END)) for piece in raw]
    texts = iter([piece.decode("utf-8", "backslashreplace") for piece in spelt])
    return [next(texts) if token >= 0 else "vector" for token in ids]


def _bytes_of_letters() -> dict[str, int]:
    """The byte that each letter of a vocabulary stands for; control characters and spaces have letters from 256 on.

    Source: byte-level BPE of GPT-2, which CLIP's vocabulary follows.
    """
    printable = [byte for byte in range(256) if 0x21 <= byte <= 0x7E or 0xA1 <= byte <= 0xAC or byte >= 0xAE]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + number): byte for number, byte in enumerate(others)}
