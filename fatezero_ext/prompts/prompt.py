"""Prompts: their words, and the tokens of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from numbers import Integral
from typing import TYPE_CHECKING, Any, Literal, Protocol
from zlib import crc32

from ..errors import PromptError, check_text

if TYPE_CHECKING:
    from torch import Tensor

PROMPT_TOKENS = 77
"""Tokens that the text encoders of Stable Diffusion 1.x and 2.x read at once, start and end among them."""
WEIGHTS = "The equalizer of Prompt-to-Prompt Edit weights words."
"""Advice where brackets gave words a weight."""
PUNCTUATION = ".,;:!?\"'()[]{}"
LOOKED_FOR = ("words", "blend_words", "subtract_words", "spare_words")
"""Settings whose words are looked for in the picture, and so may be outside the prompt, see `with_other_words`."""

Quirks = Literal["fixed", "original"]
"""The method as published ("fixed"), or with the oddities of the authors' program ("original")."""
Window = tuple[float, float]
"""Start and end, as fractions of the steps."""
Tokens = Mapping[str, list[Any]]
"""Chunks of (token id or vector, weight) by the name of the text encoder, as ComfyUI's CLIP objects make them."""


class TextEncoder(Protocol):
    """The two methods of a ComfyUI CLIP object that this project calls."""

    def tokenize(self, text: str) -> Tokens:
        """Cut a text into tokens."""
        ...

    def encode_from_tokens_scheduled(self, tokens: Tokens) -> list[Any]:
        """ComfyUI's CONDITIONING: pairs of embeddings [1, tokens, width] and a dict of more."""
        ...


@dataclass(frozen=True)
class Word:
    """A space-separated word of a prompt and the positions of its tokens, the start token being position 0."""

    text: str
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class Prompt:
    """A prompt, its token ids with start and end token but no padding, and its words.

    name: the prompt's name in errors
    """

    text: str
    ids: tuple[int, ...]
    words: tuple[Word, ...]
    name: str = field(default="prompt", compare=False)

    def __repr__(self) -> str:
        return f"Prompt({self.text!r}, {len(self.ids)} tokens)"

    def spans(self) -> str:
        """Every word with its token positions: "a[1] silver[2] jeep[3]"."""
        return " ".join(f"{word.text}[{','.join(map(str, word.tokens))}]" for word in self.words)

    @property
    def argument(self) -> str:
        """Name of the argument or widget that it comes from: "source_prompt"."""
        return self.name.replace(" ", "_")

    @property
    def remedy(self) -> str:
        """Advice for a prompt without words."""
        return f"Describe {'the clip' if self.name == 'source prompt' else 'what is wanted'} in plain words."

    def find(self, phrase: str, asked_by: str = "") -> tuple[int, ...]:
        """Token positions of every occurrence of a word or of several words in a row.

        asked_by: the setting that names the phrase, for the error

        Exact spelling is looked for first; where there is none, case and surrounding punctuation are ignored.
        Raises PromptError where the phrase does not occur.
        """
        return self._found(phrase, asked_by, (str, bare))

    def find_any_case(self, phrase: str, asked_by: str = "") -> tuple[int, ...]:
        """Token positions as of `find`, of every spelling: "Car," is found beside "car"."""
        return self._found(phrase, asked_by, (bare,) if bare(phrase) else (str,))

    def _found(self, phrase: str, asked_by: str, spellings: tuple[Callable[[str], str], ...]) -> tuple[int, ...]:
        wanted = phrase.split()
        for normal in spellings:
            found = tuple(self._occurrences([normal(word) for word in wanted], normal)) if wanted else ()
            if found:
                return found
        asked = f"{asked_by}: " if asked_by else ""
        if not self.words:
            raise PromptError(
                f"{asked}{phrase!r} is looked for, but {self.argument} is empty; words of it are needed. {self.remedy}"
            )
        outside = f", or write +{phrase} to look for what the prompt does not say" if asked_by in LOOKED_FOR else ""
        raise PromptError(
            f"{asked}{phrase!r} is not in the prompt {self.text!r}; "
            f"words of it are needed, alone or in a row: "
            f"{', '.join(dict.fromkeys(word.text for word in self.words if word.text))}. Use these{outside}."
        )

    def _occurrences(self, wanted: list[str], normal: Callable[[str], str]) -> Iterator[int]:
        have = [normal(word.text) for word in self.words]
        for start in range(len(have) - len(wanted) + 1):
            if have[start : start + len(wanted)] == wanted:
                for word in self.words[start : start + len(wanted)]:
                    yield from word.tokens


def read_prompt(text_encoder: TextEncoder, text: str, name: str = "prompt") -> Prompt:
    """Tokenize a prompt and find the tokens of each of its words.

    name: the prompt's name in errors
    Words stand between white space and are tokenized one by one: CLIP's tokenizer never joins across it, so their
    tokens in a row are the prompt's.
    Raises PromptError for what is not one text, for an overlong prompt and for weight syntax, and where there is no
    text encoder.
    """
    check_text(text, name)
    if text_encoder is None:
        raise PromptError(
            f"no text encoder is connected for the {name}; one is needed, and the checkpoint may not contain any. "
            f"Use Load CLIP with the text encoder of the same model, or another checkpoint."
        )
    ids = _token_ids(text_encoder, text, name)
    words, position = [], 1
    for piece in text.split():
        count = len(_token_ids(text_encoder, piece, name)) - 2
        if count < 1:
            raise PromptError(
                f"{piece!r} of the {name} has no tokens, so nothing can attend to it; words are needed. Remove "
                f"it, or put the file of an embedding into models/embeddings."
            )
        words.append(Word(piece, tuple(range(position, position + count))))
        position += count
    if position + 1 != len(ids):
        raise PromptError(
            f"the words of the {name} {text!r} make {position - 1} tokens, the whole makes {len(ids) - 2}; they must "
            f"agree for editing word by word. Write plain words separated by spaces."
        )
    return Prompt(text, ids, tuple(words), name)


def _token_ids(text_encoder: TextEncoder, text: str, name: str) -> tuple[int, ...]:
    """Start token, tokens, end token."""
    try:
        chunks, empty = _only_encoder(text_encoder.tokenize(text)), _only_encoder(text_encoder.tokenize(""))
    except PromptError as error:  # it does not name the prompt
        raise PromptError(f"{name}: {error}") from error
    end = empty[0][1][0]
    if len(chunks) > 1:
        raise PromptError(f"the {name} has more than {PROMPT_TOKENS} tokens; {PROMPT_TOKENS} fit. Shorten {text!r}.")
    weighted = [token for token, weight, *_ in chunks[0] if weight != 1]
    if weighted:
        raise PromptError(
            f"the {name} {text!r} uses weight syntax; plain words are needed. Remove the brackets, or write "
            f"\\( and \\) for plain ones. {WEIGHTS}"
        )
    ids = [_comparable(token) for token, *_ in chunks[0]]
    return tuple(ids[: ids.index(end, 1) + 1])


def _comparable(token: Integral | Tensor) -> int:
    """A token's id, or a negative number made from the vector of a textual inversion, which has no id."""
    if isinstance(token, Integral):
        return int(token)
    return -1 - crc32(token.detach().cpu().float().numpy().tobytes())


def _only_encoder(tokens: Tokens) -> list[Any]:
    """The token chunks of a text encoder that is one CLIP ("l" in Stable Diffusion 1.x, "h" in 2.x)."""
    if len(tokens) != 1:
        raise PromptError(
            f"the CLIP has {len(tokens)} text encoders ({', '.join(tokens)}); editing by words needs one. "
            f"Use the CLIP of a Stable Diffusion 1.x or 2.x model."
        )
    return next(iter(tokens.values()))


def check_word_counts(source: Prompt, edit: Prompt) -> None:
    """Raise PromptError unless words can be replaced one by one."""
    for prompt in (source, edit):
        if not prompt.words:
            raise PromptError(
                f"{prompt.argument} is empty; replace edits swap its words one by one, so words are needed. "
                f"{prompt.remedy}"
            )
    n, m = len(source.words), len(edit.words)
    if n != m:
        raise PromptError(
            f"replace edits need equally many words; source has {n}, edit has {m}. "
            f"Use mode 'refine', or make the prompts match word by word."
        )


def bare(word: str) -> str:
    """Return a word without the punctuation around it, in lower case."""
    return word.strip(PUNCTUATION).casefold()
