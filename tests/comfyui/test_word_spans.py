"""Word spans by ComfyUI's tokenizer and by ours agree, and so does what is recorded for tests without ComfyUI."""

import json
from pathlib import Path

import pytest

from fatezero_ext.models.single_file.checkpoint import _tokenizer
from fatezero_ext.models.text_encoder import ClipTextEncoder
from fatezero_ext.prompts.prompt import read_prompt
from tests.fifty_prompts import PROMPTS

RECORDED = Path(__file__).parents[1] / "prompts" / "word_spans.json"


class Tokenizers:
    """Objects with a CLIP's `tokenize` alone."""

    @staticmethod
    def ours(family):
        text = object.__new__(ClipTextEncoder)
        text.tokenizer = _tokenizer(family)
        return text

    @staticmethod
    def comfyuis(family):
        from comfy.sd1_clip import SD1Tokenizer
        from comfy.text_encoders.sd2_clip import SD2Tokenizer

        class Clip:
            tokenizer = {"sd1": SD1Tokenizer, "sd2": SD2Tokenizer}[family]()

            def tokenize(self, text):
                return self.tokenizer.tokenize_with_weights(text)

        return Clip()


def spans(clip, prompt):
    found = read_prompt(clip, prompt)
    return {"ids": list(found.ids), "words": [[word.text, list(word.tokens)] for word in found.words]}


@pytest.mark.parametrize("family", ["sd1", "sd2"])
def test_word_spans_of_50_prompts_agree(family):
    ours, theirs = Tokenizers.ours(family), Tokenizers.comfyuis(family)
    assert len(set(PROMPTS)) == 50
    differ = [prompt for prompt in PROMPTS if spans(ours, prompt) != spans(theirs, prompt)]
    assert differ == []


def test_the_recorded_spans_are_comfyuis():
    theirs = Tokenizers.comfyuis("sd1")
    assert json.loads(RECORDED.read_text()) == {prompt: spans(theirs, prompt) for prompt in PROMPTS}
