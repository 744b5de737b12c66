"""A CLIP tokenizer for the toy's captions: byte-pair merges learned from its few dozen words."""

import json
from collections import Counter
from pathlib import Path

from transformers import CLIPTokenizer

from ..world.captions import vocabulary
from ..world.world import OBJECTS

MAX_TOKENS = 77
START, END = "<|startoftext|>", "<|endoftext|>"
WORD_END = "</w>"

_PRINTABLE = (*range(33, 127), *range(161, 173), *range(174, 256))
LETTERS = [chr(byte) for byte in _PRINTABLE] + [chr(256 + number) for number in range(256 - len(_PRINTABLE))]
"""The letters that stand for the 256 bytes in CLIP's vocabulary, as in GPT-2's: printable bytes, then the others."""

SPLIT_WORDS: dict[str, tuple[str, str]] = {
    "watercolor": ("water", "color"),
    "checkerboard": ("checker", "board"),
    "starry": ("star", "ry"),
    "drifts": ("drif", "ts"),
    "mosaic": ("mosa", "ic"),
}
"""Words of two tokens each: real prompts have them, and editing must treat them right."""

Symbols = tuple[str, ...]


def build_tokenizer(folder: Path, *, objects: bool = False) -> CLIPTokenizer:
    """Write vocab.json, merges.txt and the configuration to `folder`, and load them.

    objects: with the words of scenes that have objects
    """
    folder.mkdir(parents=True, exist_ok=True)
    merges = learn_merges(_pieces(vocabulary(OBJECTS if objects else ())))
    entries = [*LETTERS, *(letter + WORD_END for letter in LETTERS), *("".join(pair) for pair in merges), START, END]
    (folder / "vocab.json").write_text(json.dumps({entry: index for index, entry in enumerate(entries)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{left} {right}\n" for left, right in merges))
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": MAX_TOKENS, "do_lower_case": True, **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n")
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=1) + "\n")
    return CLIPTokenizer.from_pretrained(folder, local_files_only=True)


def learn_merges(pieces: list[Symbols]) -> list[tuple[str, str]]:
    """Merge the commonest neighbours, the alphabetically first among equals, until every piece is one symbol."""
    merges: list[tuple[str, str]] = []
    while any(len(piece) > 1 for piece in pieces):
        pairs = Counter(pair for piece in pieces for pair in zip(piece, piece[1:], strict=False))
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        pieces = [_merge(piece, best) for piece in pieces]
    return merges


def token_words(tokenizer: CLIPTokenizer, words: list[str]) -> tuple[list[int], list[int]]:
    """Tokenize word by word.

    Returns the token ids of a whole prompt, padded to MAX_TOKENS, and for each of them the index of its word; -1 for
    start, end and padding.
    """
    ids, owners = [tokenizer.bos_token_id], [-1]
    for index, word in enumerate(words):
        pieces = tokenizer(word, add_special_tokens=False).input_ids
        ids += pieces
        owners += [index] * len(pieces)
    missing = MAX_TOKENS - len(ids)
    return ids + [tokenizer.eos_token_id] * missing, owners + [-1] * missing


def _pieces(words: list[str]) -> list[Symbols]:
    whole = [word for word in words if word not in SPLIT_WORDS]
    whole += [second for _, second in SPLIT_WORDS.values()]
    pieces = [(*word[:-1], word[-1] + WORD_END) for word in sorted(set(whole))]
    return pieces + [tuple(first) for first, _ in SPLIT_WORDS.values()]


def _merge(piece: Symbols, pair: tuple[str, str]) -> Symbols:
    merged: list[str] = []
    for symbol in piece:
        if merged and (merged[-1], symbol) == pair:
            merged[-1] += symbol
        else:
            merged.append(symbol)
    return tuple(merged)
