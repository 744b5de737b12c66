"""Word spans of 50 prompts are those that ComfyUI's tokenizer gives; recorded by tests/comfyui/test_word_spans.py."""

import json
from pathlib import Path

import pytest

from fatezero_ext.models.single_file.checkpoint import _tokenizer
from fatezero_ext.models.text_encoder import ClipTextEncoder
from fatezero_ext.prompts.prompt import read_prompt
from tests.fifty_prompts import PROMPTS

RECORDED = json.loads((Path(__file__).parent / "word_spans.json").read_text())


@pytest.mark.parametrize("family", ["sd1", "sd2"])
@pytest.mark.parametrize("prompt", PROMPTS)
def test_word_spans_are_comfyuis(prompt, family):
    text = object.__new__(ClipTextEncoder)
    text.tokenizer = _tokenizer(family)
    found = read_prompt(text, prompt)
    assert list(found.ids) == RECORDED[prompt]["ids"]
    assert [[word.text, list(word.tokens)] for word in found.words] == RECORDED[prompt]["words"]
