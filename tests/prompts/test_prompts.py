"""Words and mappers where we do better than the authors' program, and what is refused."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fatezero_ext.errors import PromptError
from fatezero_ext.prompts.alignment import refinement_mapper, replacement_mapper
from fatezero_ext.prompts.prompt import PROMPT_TOKENS, read_prompt

WORDS = ("a", "silver", "jeep", "snowmobile", "hovercraft", "road", "car", "lake")  # two tokens: the fourth and fifth


@pytest.fixture(scope="module")
def read(model):
    return lambda text: read_prompt(model.text_encoder, text)


def test_words_get_the_tokens_that_the_whole_prompt_has(read):
    prompt = read("a silver snowmobile, on the autobahn")
    assert [word.text for word in prompt.words] == ["a", "silver", "snowmobile,", "on", "the", "autobahn"]
    assert prompt.words[2].tokens == (3, 4, 5)
    assert prompt.spans() == "a[1] silver[2] snowmobile,[3,4,5] on[6] the[7] autobahn[8,9]"


def test_white_space_of_any_kind_separates_words(read):
    prompt = read(" a  silver\njeep ")
    assert [(word.text, word.tokens) for word in prompt.words] == [("a", (1,)), ("silver", (2,)), ("jeep", (3,))]


def test_a_clip_with_two_text_encoders_is_refused(model):
    class Two:
        def tokenize(self, text):
            return {"l": model.text_encoder.tokenize(text)["l"], "g": model.text_encoder.tokenize(text)["l"]}

    with pytest.raises(PromptError, match=r"2 text encoders \(l, g\).*1.x or 2.x"):
        read_prompt(Two(), "a jeep")


@pytest.mark.parametrize(
    ("phrase", "tokens"),
    [("jeep", (6,)), ("silver jeep", (5, 6)), ("silver", (2, 5)), ("Jeep", (3, 4, 6)), ("jeep,", (3, 4)), ("A", (1,))],
)
def test_words_and_phrases_are_found_exactly_first_and_then_leniently(read, phrase, tokens):
    assert read("a silver jeep, silver jeep").find(phrase) == tokens


@pytest.mark.parametrize("phrase", ["lake", "jeep silver", "", "  "])
def test_phrases_that_do_not_occur_are_refused_with_the_words_there_are(read, phrase):
    with pytest.raises(PromptError, match="is not in the prompt.*a, silver, jeep"):
        read("a silver jeep").find(phrase)


@pytest.mark.parametrize("tokens", [[(0, 1.0), (5, 1.3), (1, 1.0)], [(0, 1.0), (5, 1.0)]])
def test_an_error_names_its_prompt_once(tokens):
    class Encoder:
        def tokenize(self, text):
            whole = [(0, 1.0), (1, 1.0)]
            return {"l": [tokens] if text and tokens[-1][0] == 1 else [whole] * (2 if text else 1)}

    with pytest.raises(PromptError) as caught:
        read_prompt(Encoder(), "a red house", "source prompt")
    assert str(caught.value).count("source prompt") == 1


def test_weight_syntax_is_refused():
    class Weighted:
        def tokenize(self, text):
            return {"l": [[(0, 1.0), *[(5, 1.3)] * len(text.split()), (1, 1.0)]]}

    with pytest.raises(PromptError, match="weight syntax.*equalizer"):
        read_prompt(Weighted(), "(red:1.3)")


@given(st.lists(st.sampled_from(WORDS), min_size=1, max_size=8), st.data())
@settings(max_examples=60, deadline=None)
def test_replacement_keeps_all_of_the_attention(model, words, data):
    others = [data.draw(st.sampled_from([word, *WORDS])) for word in words]
    source, edit = (read_prompt(model.text_encoder, " ".join(side)) for side in (words, others))
    mapper = replacement_mapper(source, edit)
    torch.testing.assert_close(mapper.sum(1), torch.ones(PROMPT_TOKENS))
    for before, after in zip(source.words, edit.words, strict=True):
        if before.text == after.text:
            assert mapper[list(before.tokens), list(after.tokens)].eq(1).all()


@pytest.mark.parametrize(
    ("source", "edit"),
    [("a jeep on the road", "a snowmobile on the road"), ("a snowmobile on the road", "a jeep on the road")],
)
def test_words_behind_a_replaced_one_keep_reading_themselves(read, source, edit):
    """The authors' program reads them one token off once token counts differ."""
    before, after = read(source), read(edit)
    fixed, original = (replacement_mapper(before, after, quirks) for quirks in ("fixed", "original"))
    old, new = before.find("road"), after.find("road")
    assert fixed[old, new].eq(1).all()
    assert original[old, new].eq(0).all()


def test_equal_prompts_map_onto_themselves(read):
    prompt = read("a silver snowmobile on the road")
    identity = torch.eye(PROMPT_TOKENS)
    assert replacement_mapper(prompt, prompt).equal(identity)
    mapper, kept = refinement_mapper(prompt, prompt)
    assert mapper.tolist() == list(range(PROMPT_TOKENS)) and kept.eq(1).all()


def test_padding_of_a_shortened_prompt_reads_the_sources_padding(read):
    source, edit = read("a silver jeep on the road"), read("a jeep")
    fixed, _ = refinement_mapper(source, edit)
    original, _ = refinement_mapper(source, edit, "original")
    assert fixed[len(edit.ids)] == len(source.ids)
    assert original[len(edit.ids)] == len(edit.ids)
