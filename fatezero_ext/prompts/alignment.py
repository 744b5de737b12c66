"""Tensors that align the tokens of two prompts, and tensors of the weights and windows of single words."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from .prompt import PROMPT_TOKENS, Prompt, Quirks, Window, check_word_counts


def replacement_mapper(source: Prompt, edit: Prompt, quirks: Quirks = "fixed") -> Tensor:
    """Matrix that moves the source's attention from replaced words to the words that replace them.

    Returns [77 source tokens, 77 edit tokens]; rows sum to 1, so attention keeps its total. Equal words map onto
    themselves, a replaced word's tokens onto its counterpart's: one to one where counts agree, else evenly.
    quirks: "original" leaves everything behind the last replaced word unshifted, as the authors' program does
    Raises PromptError where the prompts do not have equally many words.
    Source: Prompt-to-Prompt (arXiv 2208.01626), word swap.
    """
    check_word_counts(source, edit)
    pairs = list(zip(source.words, edit.words, strict=True))
    changed = [i for i, (a, b) in enumerate(pairs) if a.text != b.text]
    if quirks == "original":
        pairs = pairs[: changed[-1] + 1] if changed else []
    mapper = torch.zeros(PROMPT_TOKENS, PROMPT_TOKENS, dtype=torch.float32)
    mapper[0, 0] = 1
    row = column = 1
    for a, b in pairs:
        if len(a.tokens) == len(b.tokens):
            mapper[list(a.tokens), list(b.tokens)] = 1
        else:
            mapper[row : row + len(a.tokens), column : column + len(b.tokens)] = 1 / len(b.tokens)
        row, column = row + len(a.tokens), column + len(b.tokens)
    rest = PROMPT_TOKENS - max(row, column)
    shift = column if quirks == "original" else row
    mapper[range(shift, shift + rest), range(column, column + rest)] = 1
    if quirks == "fixed":
        mapper[row + rest :, -1] = 1
    return mapper


def refinement_mapper(source: Prompt, edit: Prompt, quirks: Quirks = "fixed") -> tuple[Tensor, Tensor]:
    """Position of each token of the edit prompt in the source prompt.

    Returns (mapper [77] int64: source position, -1 for a new token; kept [77] float: 0 for a new token, else 1)
    quirks: "original" continues behind the edit's end at the edit's own positions, "fixed" at the source's padding
    Source: Prompt-to-Prompt (arXiv 2208.01626), prompt refinement by global alignment.
    """
    aligned = _align(source.ids, edit.ids)
    first = len(edit.ids) if quirks == "original" else len(source.ids)
    padding = torch.arange(PROMPT_TOKENS - len(edit.ids)).add(first).clamp(max=PROMPT_TOKENS - 1)
    mapper = torch.cat([torch.tensor(aligned), padding])
    return mapper, mapper.ne(-1).float()


def _align(source: tuple[int, ...], edit: tuple[int, ...]) -> list[int]:
    """Needleman-Wunsch with gap 0, match 1, mismatch -1; ties prefer a new token, then a dropped one.

    Returns for each edit token its source position, or -1.
    """
    n, m = len(source), len(edit)
    score = [[0] * (m + 1) for _ in range(n + 1)]
    for i in range(1, n + 1):
        for j in range(1, m + 1):
            diagonal = score[i - 1][j - 1] + (1 if source[i - 1] == edit[j - 1] else -1)
            score[i][j] = max(score[i][j - 1], score[i - 1][j], diagonal)
    aligned, i, j = [-1] * m, n, m
    while i > 0 and j > 0:
        if score[i][j] == score[i][j - 1]:
            j -= 1
        elif score[i][j] == score[i - 1][j]:
            i -= 1
        else:
            i, j = i - 1, j - 1
            aligned[j] = i
    return aligned


def window_table(edit: Prompt, default: Window, words: Mapping[str, Window], steps: int) -> Tensor:
    """Table of the steps at which each token of the edit prompt takes the source's attention.

    default: start and end for every token; words: the same for single words, fractions of the steps in 0..1
    Returns [steps + 1, 77] of 0 and 1; rows int(start * (steps + 1)) up to int(end * (steps + 1)) are 1.
    Source: Prompt-to-Prompt, cross_replace_steps (its table has one row more than there are steps).
    """
    table = torch.zeros(steps + 1, PROMPT_TOKENS, dtype=torch.float32)
    rows = [(default, list(range(PROMPT_TOKENS)))]
    rows += [(window, list(edit.find(word, "cross_replace of single words"))) for word, window in words.items()]
    for (start, end), tokens in rows:
        table[:, tokens] = 0
        table[int(start * len(table)) : int(end * len(table)), tokens] = 1
    return table


def token_weights(prompt: Prompt, words: Mapping[str, float], other: float, asked_by: str) -> Tensor:
    """[77] weights: each listed word's value on its tokens, `other` elsewhere. asked_by: the setting, for errors."""
    weights = torch.full((PROMPT_TOKENS,), other, dtype=torch.float32)
    for word, value in words.items():
        weights[list(prompt.find(word, asked_by))] = value
    return weights
