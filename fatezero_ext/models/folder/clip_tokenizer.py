"""CLIP's tokenizer from an untrusted folder: its vocabulary only, and nothing that makes a library do more."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from ...errors import ModelError
from ...prompts.prompt import PROMPT_TOKENS
from ...untrusted.plain_files import VOCABULARY_BYTES, read_bytes, read_json, shown

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

AddedTokens = dict[str, tuple[int, dict[str, bool]]]
"""Number and marks of each token beside the vocabulary."""
FILES = ("vocab.json", "merges.txt")
"""Either of these sets; without them transformers makes an empty tokenizer and says nothing."""
ROLES = {
    "unk_token": "<|endoftext|>",
    "bos_token": "<|startoftext|>",
    "eos_token": "<|endoftext|>",
    "pad_token": "<|endoftext|>",
}
"""The tokens with a meaning, as CLIP has them."""
WORD = 200  # characters of a token; CLIP's longest has 60
MARKS = ("lstrip", "rstrip", "normalized", "single_word", "special")
TOKENIZING = threading.Lock()
"""Lock around a tokenizer: its settings change with every call, and a second thread would get "Already borrowed"."""


def read_clip_tokenizer(folder: Path, words: int) -> CLIPTokenizer:
    """Read the tokenizer of a folder in Hugging Face layout.

    words: number of tokens that the text encoder knows
    Raises ModelError for files that are missing, damaged, or made for another text encoder.
    """
    vocabulary, merges, added = _vocabulary(folder)
    roles = _roles(folder)
    added |= _added(folder)
    whole = {**vocabulary, **{word: number for word, (number, _) in added.items()}}
    _check_numbers(whole, words, folder)
    for role, word in roles.items():
        if word not in whole:
            raise ModelError(
                f"the tokenizer in {folder} has {shown(word)} for its {role}, which is no word of its vocabulary; one "
                f"of these is needed. Restore its files."
            )
    tokenizer = _built(folder, vocabulary, merges, roles)
    _add(tokenizer, added, folder)
    tokenizer.pad_token = roles["pad_token"]  # set late: one built with it reads every such word as padding
    return tokenizer


def _vocabulary(folder: Path) -> tuple[dict[str, Any], list[Any], AddedTokens]:
    """Read tokens with their numbers, merges in order, and tokens added to these."""
    if all((folder / name).exists() for name in FILES):
        vocabulary = read_json(folder / "vocab.json", VOCABULARY_BYTES)
        try:
            lines = read_bytes(folder / "merges.txt", VOCABULARY_BYTES).decode("utf-8").split("\n")
        except UnicodeDecodeError as error:
            raise _damaged(folder / "merges.txt", "it is no UTF-8") from error
        return vocabulary, [line for line in lines[1:] if line.strip()], {}
    if not (folder / "tokenizer.json").exists():
        raise ModelError(
            f"{folder} has no tokenizer; tokenizer.json, or vocab.json and merges.txt, are needed. Copy them from "
            f"where the model is from."
        )
    path = folder / "tokenizer.json"
    whole = read_json(path, VOCABULARY_BYTES)
    model, more = whole.get("model"), whole.get("added_tokens") or []
    words, pairs = (model.get("vocab"), model.get("merges")) if isinstance(model, dict) else (None, None)
    if not isinstance(words, dict) or not isinstance(pairs, list) or not isinstance(more, list):
        raise _damaged(path, "it has no vocabulary with merges, as CLIP's has")
    merges = [" ".join(pair) if isinstance(pair, list) and _are_words(pair) else pair for pair in pairs]
    numbered = [token for token in more if isinstance(token, dict)]
    return words, merges, _tokens(path, [(token.get("id"), token) for token in numbered])


def _roles(folder: Path) -> dict[str, str]:
    roles = dict(ROLES)
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        settings = read_json(folder / name) if (folder / name).exists() else {}
        for role in roles:
            word = settings.get(role)
            word = word.get("content") if isinstance(word, dict) else word
            if isinstance(word, str):
                roles[role] = word
            elif word is not None:
                raise _damaged(folder / name, f"{role} is {shown(word)}, no word")
    return roles


def _added(folder: Path) -> AddedTokens:
    """Read tokens behind the vocabulary, as textual inversions bring them."""
    found: AddedTokens = {}
    if (path := folder / "added_tokens.json").exists():
        found |= _tokens(path, [(number, {"content": word}) for word, number in read_json(path).items()])
    if (path := folder / "tokenizer_config.json").exists():
        decoder = read_json(path).get("added_tokens_decoder") or {}
        if not isinstance(decoder, dict) or not all(number.isdecimal() and len(number) < 9 for number in decoder):
            raise _damaged(path, "its added_tokens_decoder has no numbers of tokens")
        found |= _tokens(path, [(int(number), token) for number, token in decoder.items()])
    return found


def _tokens(path: Path, numbered: list[tuple[Any, Any]]) -> AddedTokens:
    found: AddedTokens = {}
    for number, token in numbered:
        word = token.get("content") if isinstance(token, dict) else None
        if type(number) is not int or not isinstance(word, str) or not 0 < len(word) <= WORD:
            raise _damaged(path, f"an added token is {shown(token)}, numbered {shown(number)}")
        found[word] = number, {mark: token[mark] for mark in MARKS if type(token.get(mark)) is bool}
    return found


def _check_numbers(numbers: Mapping[str, Any], words: int, folder: Path) -> None:
    odd = [word for word, number in numbers.items() if type(number) is not int or number < 0]
    if odd or not numbers:
        raise _damaged(folder, f"the number of {shown(odd[0])} is {shown(numbers[odd[0]])}" if odd else "it is empty")
    if len(set(numbers.values())) != len(numbers):
        raise _damaged(folder, "several tokens have one number")
    if (highest := max(numbers.values())) >= words:
        raise ModelError(
            f"the tokenizer in {folder} has {highest + 1} tokens, its model {words}; they belong to different models. "
            f"Use the files of one."
        )


def _built(folder: Path, vocabulary: Mapping[str, int], merges: list[str], roles: Mapping[str, str]) -> CLIPTokenizer:
    """Build transformers' tokenizer from files of our own that hold what was checked."""
    from transformers import CLIPTokenizer

    if not _are_words(merges) or not all(len(merge.split()) == 2 for merge in merges):
        raise _damaged(folder, "its merges are no pairs of tokens")
    config = {role: word for role, word in roles.items() if role != "pad_token" and word in vocabulary}
    with TemporaryDirectory(prefix="fatezero-tokenizer-") as made:
        place = Path(made)
        settings = {
            "tokenizer_class": "CLIPTokenizer",
            "model_max_length": PROMPT_TOKENS,
            "do_lower_case": True,
            **config,
        }
        (place / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
        (place / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
        try:
            (place / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
            return CLIPTokenizer.from_pretrained(place, local_files_only=True)
        except (MemoryError, OSError):
            raise
        except Exception as error:  # tokenizers raises bare Exception
            raise _damaged(folder, "its merges make tokens that its vocabulary does not have") from error


def _add(tokenizer: CLIPTokenizer, added: AddedTokens, folder: Path) -> None:
    from transformers import AddedToken

    for word, (number, marks) in sorted(added.items(), key=lambda token: token[1][0]):
        if word in ROLES.values() and tokenizer.convert_tokens_to_ids(word) == number:
            continue
        if not word.isprintable():
            raise _damaged(folder, f"an added token is {shown(word)}")
        tokenizer.add_tokens([AddedToken(word, **marks)])
        if (got := tokenizer.convert_tokens_to_ids(word)) != number:
            raise _damaged(folder, f"the added token {shown(word)} has the number {number} where {got} is next")


def _are_words(things: object) -> bool:
    return isinstance(things, list) and all(isinstance(thing, str) for thing in things)


def _damaged(path: Path, why: str) -> ModelError:
    return ModelError(f"{path} cannot be read as CLIP's tokenizer: {why}; its own files are needed. Restore them.")
