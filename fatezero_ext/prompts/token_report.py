"""The pieces that a tokenizer cuts words into, for people."""

from __future__ import annotations

from collections.abc import Sequence

from transformers.convert_slow_tokenizer import bytes_to_unicode

from .words import PROMPT_TOKENS, TextEncoder, read_prompt

WORD_END = "</w>"


def described_words(text_encoder: TextEncoder, text: str) -> str:
    """Every word of a prompt with its token positions, and the pieces of those that have several.

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
    """The text of every token, of this project's text encoders and of ComfyUI's CLIP objects.

    A vector of a textual inversion, of an id below 0, is "vector".
    """
    tokenizer, words = text_encoder.tokenizer, [token for token in ids if token >= 0]
    if hasattr(tokenizer, "untokenize"):
        raw = [piece for _, piece in tokenizer.untokenize([(token, 1.0) for token in words])]
    else:
        raw = tokenizer.convert_ids_to_tokens(words)
    byte_of = {letter: byte for byte, letter in bytes_to_unicode().items()}
    spelt = [bytes(byte_of[letter] for letter in piece.removesuffix(WORD_END)) for piece in raw]
    texts = iter([piece.decode("utf-8", "backslashreplace") for piece in spelt])
    return [next(texts) if token >= 0 else "vector" for token in ids]
